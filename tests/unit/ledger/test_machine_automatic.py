"""Automatic out: a majority that missed a node long enough, and agrees on one map, and no less."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from hcefs.errors import Conflict, Denied, HcefsError
from hcefs.ledger.cluster_facts import MapCause
from hcefs.ledger.outcome import MapChanged
from hcefs.ledger.transactions import DeactivateAccount, SetClusterMap
from hcefs.placement import changes
from hcefs.placement.automatic import automatic_successor
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.placement.planner import plan
from hcefs.placement.split import split
from hcefs.placement.waves import apply_plan, in_flight, is_planned
from tests.unit.ledger.clusters import MINUTE_MS, OPERATORS, Cluster, node_of

NODES = 7


class Away(Cluster):
    """Seven nodes, and a policy that lets them set out what is away for a minute."""

    def __init__(self) -> None:
        super().__init__(nodes=NODES, registered=NODES + 1)
        self.set_policy(out_after_ms=MINUTE_MS, out_max=2)

    def missed(self, node_ids: Iterable[int], by: Iterable[int], wait_ms: int = MINUTE_MS) -> None:
        """Nodes are missed for a time."""
        ids = sorted(node_ids)
        for number in by:
            self.report(number, ids)
        self.time_ms += wait_ms

    def endorse(self, new: ClusterMap, by: Iterable[int]) -> None:
        for number in by:
            row = self.view.report(number)
            kept = () if row is None else tuple(each.node_id for each in row.unreachable)
            self.report(number, kept, new.digest())

    def refused(self, new: ClusterMap, name: str = "n1") -> HcefsError:
        return self.refusal(self.setting(new), name)


@pytest.fixture
def world() -> Away:
    return Away()


def test_a_majority_sets_a_node_out(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], (1, 2, 3, 4))
    world.endorse(new, (3, 4, 5, 6))
    assert world.set_map(new, "n2").events == (MapChanged(new),)
    assert world.map == new
    gone = world.map.node(7)
    assert gone is not None
    assert gone.state is NodeState.OUT
    change = world.view.map_change(new.epoch)
    assert change is not None
    assert (change.cause, change.signers) == (MapCause.AUTOMATIC, (world.account("n2"),))
    assert world.set_map(new, "n3").events == ()
    for expected in (0, new.epoch, 99):
        again = world.refusal(SetClusterMap(expected, new.encode()), "n3")
        assert again.reason in ("epoch-moved", "not-automatic")
    while is_planned(world.map):
        world.arrive()
    assert not any(7 in row for row in world.map.tables[0].node_rows)


def test_two_nodes_go_out_at_once(world: Away) -> None:
    new = automatic_successor(world.map, [6, 7])
    world.missed([6, 7], (1, 2, 3, 4))
    world.endorse(new, (1, 2, 3))  # of the five that are left, but not of all seven
    refusal = world.refused(new)
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "not-endorsed"
    world.endorse(new, (4,))
    world.set_map(new, "n1")


def test_off_unless_the_policy_says_so() -> None:
    world = Cluster(nodes=NODES, registered=NODES)
    refusal = world.refusal(world.setting(automatic_successor(world.map, [7])), "n1")
    assert isinstance(refusal, Denied)
    assert refusal.reason == "automatic-out-off"


@pytest.mark.parametrize("by", [(1, 2, 3), (1, 2, 3, 7)])
def test_half_is_no_majority_and_the_missed_has_no_vote(world: Away, by: tuple[int, ...]) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], [number for number in by if number != 7])
    if 7 in by:
        world.report(7)
    world.endorse(new, range(1, 7))
    refusal = world.refused(new)
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "not-missed"


@pytest.mark.parametrize("by", [(1, 2, 3), (1, 2, 3, 7)])
def test_half_does_not_endorse(world: Away, by: tuple[int, ...]) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], range(1, 7))
    world.endorse(new, by)
    refusal = world.refused(new)
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "not-endorsed"


def test_a_minute_is_a_minute(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], (1, 2, 3, 4), MINUTE_MS - 1)
    world.endorse(new, (1, 2, 3, 4))
    assert world.refused(new).reason == "not-missed"
    world.time_ms += 1
    world.set_map(new, "n1")


def test_who_answered_meanwhile_is_missed_anew(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], (1, 2, 3, 4))
    world.report(4)
    world.report(4, [7])
    world.endorse(new, (1, 2, 3, 4))
    assert world.refused(new).reason == "not-missed"


def test_an_endorsement_is_of_exactly_one_map(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    other = automatic_successor(world.map, [6])
    world.missed([7], (1, 2, 3, 4))
    world.endorse(other, (1, 2, 3, 4))
    assert world.refused(new).reason == "not-endorsed"
    assert world.refused(other).reason == "not-missed"


def test_an_endorsement_is_of_one_epoch(world: Away) -> None:
    world.missed([7], (1, 2, 3, 4))
    first = world.map
    later = replace(first, epoch=2, previous=first.digest(), nodes=changes.reweight(first, 1, 2))
    new = automatic_successor(later, [7])
    world.endorse(new, (1, 2, 3, 4))
    world.set_map(later)
    assert world.refused(new).reason == "not-endorsed"
    world.endorse(new, (1, 2, 3, 4))
    world.set_map(new, "n1")


def test_where_many_are_away_only_operators_act(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], (1, 2, 3, 4))
    for number in (1, 2, 3, 4):
        world.report(number, [5, 6, 7])  # these two only now
    world.endorse(new, (1, 2, 3, 4))
    refusal = world.refused(new)
    assert isinstance(refusal, Denied)
    assert refusal.reason == "too-many-away"
    world.set_policy(out_max=3)
    world.set_map(new, "n1")


def test_whom_half_misses_is_not_away(world: Away) -> None:
    world.set_policy(out_max=1)
    new = automatic_successor(world.map, [7])
    world.missed([7], range(1, 7))
    for number in (1, 2, 3):
        world.report(number, [4, 7])
    world.endorse(new, range(1, 7))
    world.report(5, [4, 7], new.digest())
    assert world.refused(new).reason == "too-many-away"
    world.report(5, [7], new.digest())
    world.set_map(new, "n1")


def test_what_is_out_and_still_has_seats_is_away(world: Away) -> None:
    world.set_policy(out_max=1)
    world.missed([6, 7], (1, 2, 3, 4))
    for number in (1, 2, 3, 4):
        world.report(number, [7])
    first = automatic_successor(world.map, [7])
    lost = replace(first, tables=world.map.tables)  # out, and no plan yet
    world.set_map(lost)
    world.missed([6], (1, 2, 3, 4))
    new = automatic_successor(world.map, [6])
    world.endorse(new, (1, 2, 3, 4))
    assert world.refused(new).reason == "too-many-away"
    world.set_map(apply_plan(plan(world.map, world.map.nodes, weaker_caps=True), world.map))
    while is_planned(world.map):
        world.arrive()
    new = automatic_successor(world.map, [6])
    world.endorse(new, (1, 2, 3, 4))
    world.set_map(new, "n1")


@pytest.mark.parametrize("name", ["n8", "n7"])
def test_a_node_that_serves_submits_it(world: Away, name: str) -> None:
    first = world.map
    down = replace(first, epoch=2, previous=first.digest(), nodes=changes.mark_down(first, 7))
    world.set_map(down)
    new = automatic_successor(world.map, [6])
    world.missed([6], (1, 2, 3, 4))
    world.endorse(new, (1, 2, 3, 4))
    refusal = world.refused(new, name)
    assert isinstance(refusal, Denied)
    assert refusal.reason == "not-in-map"
    world.set_map(new, "n1")


def test_a_node_that_is_marked_down_goes_out(world: Away) -> None:
    first = world.map
    down = replace(first, epoch=2, previous=first.digest(), nodes=changes.mark_down(first, 7))
    world.set_map(down)
    new = automatic_successor(world.map, [7])
    world.missed([7], (1, 2, 3, 4))
    world.endorse(new, (1, 2, 3, 4))
    world.set_map(new, "n1")


def test_two_nodes_together_are_no_operators(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], range(1, 7))
    world.endorse(new, range(1, 7))
    assert world.refusal(world.setting(new), "n1", "n2").reason == "unexpected-signer"
    assert world.refusal(world.setting(new), "n1", "o1").reason == "unexpected-signer"


def test_the_reports_of_ended_accounts_do_not_count(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], (1, 2, 3, 4))
    world.endorse(new, (1, 2, 3, 4))
    world.submit(DeactivateAccount(world.account("n4")), *OPERATORS)
    assert world.refused(new).reason == "not-missed"


def other_changes(current: ClusterMap) -> dict[str, ClusterMap]:
    """Maps that a majority might agree on, and that are for operators all the same."""
    new = automatic_successor(current, [7])
    first, *others = new.nodes
    plain = replace(new, tables=current.tables, nodes=current.nodes)
    return {
        "nobody out": plain,
        "a weight": replace(new, nodes=(replace(first, weight=9), *others)),
        "an address": replace(new, nodes=(replace(first, address="evil:1"), *others)),
        "another state": replace(new, nodes=(replace(first, state=NodeState.DOWN), *others)),
        "a removal": replace(
            plain, nodes=(*current.nodes[:6], replace(current.nodes[6], state=NodeState.REMOVED))
        ),
        "the seed": replace(new, seed=b"another"),
        "a table more": replace(
            new, tables=(*new.tables, replace(current.tables[0], profile="more"))
        ),
        "partitions": replace(split(current, "copy-3"), nodes=changes.mark_out(current, [7])),
        "a node more": replace(new, nodes=(*new.nodes, replace(first, node_id=99))),
        "a node less": replace(new, nodes=new.nodes[1:]),
    }


@pytest.mark.parametrize("what", list(other_changes(Away().map)))
def test_nodes_change_nothing_else(world: Away, what: str) -> None:
    new = other_changes(world.map)[what]
    world.missed([7], range(1, 7))
    world.endorse(new, range(1, 7))
    refusal = world.refused(new)
    assert isinstance(refusal, Denied)
    assert refusal.reason == "not-automatic"


def test_rows_move_in_waves_whatever_the_nodes_agree_on(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    table = new.tables[0]
    rows = bytearray(table.rows)
    rows[0:2], rows[2:4] = rows[2:4], rows[0:2]
    forged = replace(new, tables=(replace(table, rows=bytes(rows)),))
    world.missed([7], range(1, 7))
    world.endorse(forged, range(1, 7))
    assert world.refused(forged).reason in ("unplanned-move", "bad-plan")


def test_compare_and_swap_holds_for_nodes_too(world: Away) -> None:
    new = automatic_successor(world.map, [7])
    world.missed([7], range(1, 7))
    world.endorse(new, range(1, 7))
    refusal = world.refusal(SetClusterMap(5, new.encode()), "n1")
    assert refusal.reason == "epoch-moved"


def test_seats_in_flight_go_on_when_a_node_goes_out(world: Away) -> None:
    world.grow(8)
    seats = world.flying()["n8"]
    world.submit(world.arrival(seats[:9]), "n8")
    new = automatic_successor(world.map, [7])
    world.missed([7], range(1, 7))
    world.endorse(new, range(1, 7))
    world.set_map(new, "n1")
    assert set(seats) <= set(in_flight(world.map))
    assert world.view.arrivals().arrived == 0
    joining = world.map.node(8)
    assert joining is not None
    assert joining.state is NodeState.JOINING
    while is_planned(world.map):
        world.arrive()
    assert world.map.node(8) == node_of(world, 8)
