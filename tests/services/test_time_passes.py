"""What comes to pass with time: on a cluster of its own, whose clocks are set on and stay so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from hcefs.access.facts import Action, Grant
from hcefs.client.certify import Certified
from tests.services.requests import put, put_messages
from tests.services.rig import HOUR_MS, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Not the cluster of the other tests, who would be late."""
    made = Rig(tmp_path_factory.mktemp("time"))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def _given(rig: Rig) -> Grant:
    """A grant to the doctor on a record of its own."""
    record = (await rig.patient.open_record()).record
    end = rig.runtime.now_ms() + HOUR_MS
    return await rig.patient.give(
        record, rig.doctor.account, Action.READ | Action.SHARE, ("TREAT",), not_after_ms=end
    )


async def test_a_node_that_is_away_counts_when_its_lease_is_over(rig: Rig) -> None:
    """The clocks of the ledger and of the client go on while the node is away."""
    away = rig.nodes[5]
    await away.process.stop()
    try:
        grant = await _given(rig)
        await rig.patient.revoke(grant.grant)
        early = await rig.patient.certify(grant.grant, within_s=0.5)
        assert not early.verdict.complete
        assert early.verdict.silent == (6,)
        assert early.verdict.gap is not None
        assert early.verdict.gap.k == 1
        certified = await _after_the_leases(rig, grant)
        assert certified.verdict.complete
        assert certified.verdict.lapsed == (6,)
        assert certified.verdict.made_ms >= certified.verdict.lapsed_ms
    finally:
        away.process = type(away.process)(away.config, away.runtime, rig.snapshots)
        await away.process.start()
        await rig.until(away.process.able)
        others = [other.process for other in rig.nodes if other is not away]
        await asyncio.gather(*(rig.connected(other, away) for other in others))


async def _after_the_leases(rig: Rig, grant: Grant) -> Certified:
    """Certify while everybody's clock is set on."""
    genesis = rig.genesis
    task = asyncio.ensure_future(rig.patient.certify(grant.grant))
    await _pass(rig, genesis.lease_ms + genesis.skew_ms + 2_000, rig.nodes[:5])
    return await asyncio.wait_for(task, 60)


async def _pass(rig: Rig, milliseconds: int, nodes: Sequence[Running]) -> None:
    """Set everybody's clock on, in steps that no lease feels."""
    while milliseconds > 0:
        step = min(milliseconds, rig.genesis.lease_ms // 2)
        rig.runtime.offset_ms += step
        milliseconds -= step
        # The ledger renews by real time: a commit gives everybody a head of the new time.
        await rig.patient.open_record()
        newest = rig.patient.height
        await rig.until(
            lambda: all(node.process.follower.view.height >= newest for node in nodes)  # noqa: B023
        )


async def test_an_old_generation_is_refused_after_its_minute(rig: Rig) -> None:
    grant = await _given(rig)
    named = {"record": grant.record}
    await rig.patient.revoke(grant.grant)
    node = rig.nodes[0]

    async def put_old() -> list[bytes]:
        blob = rig.new_blob()
        right = rig.authorization(rig.patient, "put", node, None, blob=blob, says=named)
        messages = put_messages(
            rig, node, blob,
            header={
                "authorization": right,
                "record_id": bytes(grant.record),
                "writer": bytes(rig.patient.account),
                "min_height": rig.patient.height,
            },
            trailer={
                "authorization": rig.authorization(
                    rig.patient, "put", node, None, blob=blob, says=named
                )
            },
        )  # fmt: skip
        return [(await put(rig, node, messages)).core]

    assert await put_old()
    await _pass(rig, 61_000, rig.nodes)
    await rig.refused(put_old(), "conflict", "old-generation")
