"""Waves through the ledger: any order of arrivals gives the epochs that the plan has.

The operators plan, the destinations report in batches as they please, and repeat
themselves; followers replay each block.  What the ledger then has is compared with
``hcefs.placement.waves`` alone.
"""

from __future__ import annotations

from random import Random

import pytest

from hcefs.errors import HcefsError, Invalid
from hcefs.ledger.cluster_facts import MapCause
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import plan
from hcefs.placement.successor import check_planned
from hcefs.placement.waves import SeatName, advance, apply_plan, epochs, in_flight, is_planned
from tests.unit.ledger.clusters import PROFILES, Cluster, node_of

REGISTERED = 12


def some_change(draw: Random, world: Cluster) -> tuple[Node, ...]:
    current = world.map
    live = [node for node in current.nodes if node.state in (NodeState.UP, NodeState.JOINING)]
    one = draw.choice(live).node_id
    number = changes.next_node_id(current)
    kind = draw.randrange(4)
    if kind == 0 and number <= REGISTERED:
        return changes.add(current, [node_of(world, number)])
    if kind == 1:
        return changes.drain(current, one, give_up_zone=True)
    if kind == 2:
        return changes.mark_out(current, [one])
    return changes.reweight(current, one, draw.randint(1, 5))


def batches(draw: Random, names: list[SeatName]) -> list[list[SeatName]]:
    """The seats in some order and in some batches, a few of them twice."""
    shuffled = draw.sample(names, len(names))
    found = []
    while shuffled:
        size = draw.randint(1, max(1, len(shuffled)))
        batch, shuffled = shuffled[:size], shuffled[size:]
        found.append(batch)
        if draw.random() < 0.3:
            found.append(batch[: draw.randint(1, len(batch))])
    return found


def arrive_somehow(draw: Random, world: Cluster) -> None:
    """The wave in force arrives, in the batches of all destinations mixed."""
    epoch = world.map.epoch
    made = [
        (name, batch) for name, names in world.flying().items() for batch in batches(draw, names)
    ]
    draw.shuffle(made)
    for name, batch in made:
        world.time_ms += draw.randint(0, 10)
        if world.map.epoch > epoch:
            assert world.refusal(world.arrival(batch, epoch), name).reason == "epoch-moved"
        else:
            world.submit(world.arrival(batch), name)
    assert world.map.epoch == epoch + 1


@pytest.mark.parametrize("seed", range(12))
def test_arrivals_lead_through_the_epochs_of_the_plan(seed: int) -> None:
    draw = Random(f"waves {seed}")  # noqa: S311 - not for secrets, and replayable
    world = Cluster(draw.randint(4, 7), REGISTERED, PROFILES)
    for _ in range(3):
        try:
            found = plan(world.map, some_change(draw, world), weaker_caps=True)
        except HcefsError:
            continue
        expected = list(epochs(found, world.map))
        world.set_map(expected[0])
        for following in expected[1:]:
            check_planned(world.map)
            arrive_somehow(draw, world)
            assert world.map == following
    assert world.view.arrived() == frozenset()
    history = list(world.view.map_changes(1, 999))
    assert [each.epoch for each in history] == list(range(1, world.map.epoch + 1))
    assert history[-1].digest == world.map.digest()


@pytest.mark.parametrize("seed", range(12))
def test_plans_may_be_replaced_at_any_point(seed: int) -> None:
    draw = Random(f"replaced {seed}")  # noqa: S311 - not for secrets, and replayable
    world = Cluster(draw.randint(4, 6), REGISTERED, PROFILES)
    expected = world.map
    for _ in range(6):
        done = world.view.arrived()
        try:
            found = plan(expected, some_change(draw, world), weaker_caps=True)
        except Invalid:
            continue
        expected = apply_plan(found, expected, done)
        world.set_map(expected)
        for _ in range(draw.randint(0, 2)):
            if is_planned(expected):
                expected = advance(expected, in_flight(expected))
                arrive_somehow(draw, world)
                assert world.map == expected
        some = [(name, names) for name, names in world.flying().items() if len(names) > 1]
        if some:
            name, names = draw.choice(some)
            world.submit(world.arrival(names[: draw.randint(1, len(names) - 1)]), name)
    causes = {change.cause for change in world.view.map_changes(1, 999)}
    assert MapCause.OPERATORS in causes
    assert isinstance(world.map, ClusterMap)
