"""Running nodes give up one that stays away, by themselves, and leave two to a person."""

from __future__ import annotations

import pytest

from hcefs.ledger.cluster_facts import OUT_AFTER_MS_MIN, MapCause
from hcefs.placement import changes
from hcefs.placement.cluster_map import NodeState
from hcefs.transport.versions import versions_in, versions_message
from hcefs.upkeep import watch
from hcefs.versions import OWN
from hcefs.wire.v1 import upkeep_pb2
from tests.moves.moving import MovingRig
from tests.services.rig import Running

pytestmark = [pytest.mark.asyncio, pytest.mark.xdist_group("moves")]

ROUND_SECONDS = 0.5


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes look around and speak four times as often as in production."""
    monkeypatch.setattr(watch, "ROUND_SECONDS", ROUND_SECONDS)
    monkeypatch.setattr(watch, "REPORT_GAP_SECONDS", 2 * ROUND_SECONDS)
    monkeypatch.setattr(watch, "TURN_SECONDS", 2 * ROUND_SECONDS)


def all_miss(rig: MovingRig, *lost: int) -> bool:
    """Whether the ledger has it from every node that runs that these are away."""
    view = rig.view()
    rows = [view.report(node.number) for node in rig.all]
    return all(row is not None and all(row.misses(each) for each in lost) for row in rows)


async def lose(rig: MovingRig, *nodes: Running) -> None:
    for node in nodes:
        await rig.lose(node)
    numbers = [node.number for node in nodes]
    await rig.happens(lambda: all_miss(rig, *numbers))


async def test_a_node_that_stays_away_is_given_up_and_rebuilt(rig: MovingRig) -> None:
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    await rig.allow_out(1)
    await rig.fill(4, 300_000)
    await rig.fill(8, 2_000)
    before = rig.current().epoch
    await lose(rig, rig.nodes[3])
    assert rig.current().epoch == before
    rig.pass_time(OUT_AFTER_MS_MIN)
    await rig.happens(lambda: rig.current().epoch > before)
    change = rig.view().map_change(before + 1)
    assert change is not None
    assert change.cause is MapCause.AUTOMATIC
    await rig.carried_out()
    node = rig.current().node(4)
    assert node is not None
    assert node.state is NodeState.OUT
    assert rig.missing() == []
    await rig.read_all()
    assert [node.process.watcher.warnings() for node in rig.all] == [[]] * 6


async def test_two_that_stay_away_are_left_to_a_person(rig: MovingRig) -> None:
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    await rig.allow_out(1)
    await rig.fill(2, 300_000)
    before = rig.current().epoch
    await lose(rig, rig.nodes[2], rig.nodes[3])
    rig.pass_time(2 * OUT_AFTER_MS_MIN)
    await rig.happens(
        lambda: all(n.process.metrics.value("automatic_out_blocked") == 1 for n in rig.all)
    )
    await rig.runtime.sleep(4 * ROUND_SECONDS)
    assert rig.current().epoch == before
    for node in rig.all:
        status = await node.process.node.report()
        assert any("2 nodes are away at once" in text for text in status.warnings)
        assert node.process.metrics.value("unreachable_nodes") == 2
    await rig.read_all()


async def test_any_active_node_of_the_map_may_ping(rig: MovingRig) -> None:
    first, second = rig.nodes[:2]
    request = upkeep_pb2.PingRequest(epoch=1, height=1, versions=versions_message())
    data = await rig.unary(
        first.config.peer_address, "/hcefs.v1.Upkeep/Ping", request, second.identity
    )
    answer = upkeep_pb2.PingResponse.FromString(data)
    view = first.process.follower.view
    assert (answer.epoch, answer.height) == (rig.current().epoch, view.height)
    assert versions_in(answer) == OWN
    call = rig.unary(
        first.config.peer_address, "/hcefs.v1.Upkeep/Ping", request, rig.stranger.identity
    )
    await rig.refused(call, "unauthenticated", "unknown-node")
    # The release before does not know the protocol in force, and says nothing of itself.
    old = upkeep_pb2.PingRequest(epoch=1, height=1)
    call = rig.unary(first.config.peer_address, "/hcefs.v1.Upkeep/Ping", old, second.identity)
    await rig.refused(call, "conflict", "version-refused")
    assert first.process.metrics.value("version_refused_total", what="peer") == 1
    await rig.happens(lambda: first.process.node.versions.warnings() == [])
    first.runtime.offset_ms = 10 * rig.lease_ms
    call = rig.unary(first.config.peer_address, "/hcefs.v1.Upkeep/Ping", request, second.identity)
    await rig.refused(call, "unavailable", "stale-lease")
