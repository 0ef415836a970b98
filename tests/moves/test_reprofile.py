"""Running nodes re-profile blobs and packs, and nobody who reads them notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hcefs.ids import BlobBase
from hcefs.ledger.cluster_facts import Reprofile, UpkeepPolicy
from hcefs.ledger.transactions import sign_transaction
from hcefs.ledger.transactions_map import SetUpkeepPolicy
from hcefs.placement import changes
from hcefs.placement.ring import seats
from hcefs.store.interface import Table
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import decoded_layout
from tests.moves.moving import DONE_SECONDS, MovingRig
from tests.unit.upkeep.reprofiling import faults_of

pytestmark = [pytest.mark.asyncio, pytest.mark.xdist_group("moves")]


class ReprofilingRig(MovingRig):
    """A moving rig whose operators set the policy, and an inventory by layouts in force."""

    async def leave(self, start: str, end: str) -> None:
        """Have the operators decide that a profile is left for another."""
        known = self.all[0].process.follower.view.policy()
        policy = UpkeepPolicy(known.number + 1, reprofile=(Reprofile(start, end),))
        signers = [(keys.account, 1, keys.signing_key) for keys in self.operator_keys]
        change = SetUpkeepPolicy(known.number, policy)
        await self.operators[0].submit(sign_transaction(change, self.cluster, signers))

    async def put_under(self, profile: str, data: bytes) -> None:
        """A blob of its own, not in a pack, under a profile."""
        receipt = await self.hospital.put(
            self.record, data, grant=self.append_grant.grant, profile=profile, seal="node"
        )
        self.blobs.append((receipt.ref.blob, data))

    def profile_of(self, base: BlobBase) -> str:
        """The profile of the latest layout that anybody has in force."""
        found = []
        for running in self.all:
            data = running.process.stores.rows.get(Table.LAYOUTS, bytes(base))
            if data is not None:
                found.append(decoded_layout(data))
        return max(found, key=lambda layout: layout.version).profile

    def entered(self, base: BlobBase, profile: str) -> bool:
        """Whether a profile's layout is in force at all holders of that profile."""
        for seat in seats(self.current(), profile, bytes(base)):
            data = self.stores_of(seat.node).rows.get(Table.LAYOUTS, bytes(base))
            if data is None or decoded_layout(data).profile != profile:
                return False
        return True

    def left(self, base: BlobBase, profile: str) -> bool:
        """Whether no holder of a profile has its shard of it any more."""
        held = seats(self.current(), profile, bytes(base))
        return not any(
            has_shard(self.stores_of(seat.node), base, seat.index, profile) for seat in held
        )

    def faults(self, start: str, end: str) -> list[str]:
        """What is not as it is to be when everything has been moved and deleted."""
        current, lacks = self.current(), []
        for base in sorted(self.bases()):
            profile = self.profile_of(base)
            if profile == start:
                lacks.append(f"{base} lies under {start}")
            held = {seat.node.account: seat.index for seat in seats(current, profile, bytes(base))}
            for running in self.all:
                lacks += faults_of(running.process.stores, base, profile, held.get(running.account))
        return lacks

    async def moved(self, start: str, end: str) -> None:
        """Wait until everything is moved and the old shards are gone; read all the while."""
        try:
            async with asyncio.timeout(DONE_SECONDS):
                while self.faults(start, end):
                    await self.read_all()
        except TimeoutError:
            pytest.fail("\n".join(self.faults(start, end)[:20]))


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ReprofilingRig]:
    made = ReprofilingRig(tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_from_copies_to_pieces_and_back(rig: ReprofilingRig) -> None:
    """Blobs and packs of either profile, with readers all the while."""
    datas = [rig.runtime.random(size) for size in (0, 1, 1 << 20, 2_500_000)]
    for data in datas:
        await rig.put_under("copy-3", data)
    await rig.fill(2, 300_000)
    await rig.fill(10, 2_000)
    await rig.leave("copy-3", "ec-4-2")
    await rig.moved("copy-3", "ec-4-2")
    await read_in_all_ways(rig)
    await rig.fill(24, 6_000)
    await rig.leave("ec-4-2", "copy-3")
    await rig.moved("ec-4-2", "copy-3")
    await read_in_all_ways(rig)


async def read_in_all_ways(rig: ReprofilingRig) -> None:
    """Whole and in part, sealed, straight from the holders; and through each node."""
    await rig.read_all()
    for blob, data in rig.blobs:
        info = await rig.doctor.stat(rig.record, blob, grant=rig.read_grant.grant)
        assert info.core.plaintext_length == len(data)
        for seal, mode in (("node", "gateway"), ("client", "gateway"), ("node", "direct")):
            stream = await rig.doctor.get(
                rig.record,
                blob,
                grant=rig.read_grant.grant,
                start=len(data) // 3,
                seal=seal,
                mode=mode,
            )
            assert await stream.read() == data[len(data) // 3 :]
    for node in rig.nodes:
        for blob, data in rig.blobs[:5]:
            stream = await rig.doctor.get(
                rig.record, blob, grant=rig.read_grant.grant, node=node.config.client_address
            )
            assert await stream.read() == data


async def test_while_seats_move(rig: ReprofilingRig) -> None:
    """A node is added in the middle of it, and another one drained afterwards."""
    await rig.fill(1, 3_000_000)
    await rig.fill(6, 40_000)
    await rig.fill(4, 2_000)
    await rig.leave("ec-4-2", "copy-3")
    await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
    await rig.carried_out()
    await rig.moved("ec-4-2", "copy-3")
    # What was re-profiled moves like anything else.
    await rig.apply(lambda m: changes.drain(m, 1))
    await rig.carried_out()
    await rig.moved("ec-4-2", "copy-3")
    stores = rig.nodes[0].process.stores
    assert not [*stores.shards.inventory(), *stores.shards.reformed()]


async def test_a_former_holder_keeps_nothing_of_the_old_layout(rig: ReprofilingRig) -> None:
    """What moved away before it was re-profiled, and is still there, goes all the same."""
    for _ in range(20):
        await rig.put_under("ec-4-2", rig.runtime.random(3_000))
    with rig.resting("retire"):
        await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
        await rig.carried_out()
        assert rig.superfluous()
        await rig.leave("ec-4-2", "copy-3")
        await rig.happens(lambda: all(rig.left(base, "ec-4-2") for base in rig.bases()))
    await rig.moved("ec-4-2", "copy-3")


async def test_who_loses_its_seat_keeps_nothing_of_the_old_layout(rig: ReprofilingRig) -> None:
    """What was re-profiled before its seat moved away goes all the same."""
    for _ in range(20):
        await rig.put_under("ec-4-2", rig.runtime.random(3_000))
    with rig.resting("replaced"):
        await rig.leave("ec-4-2", "copy-3")
        await rig.happens(lambda: all(rig.entered(base, "copy-3") for base in rig.bases()))
        await rig.apply(lambda m: changes.add(m, [rig.node_of(rig.stranger)]))
        await rig.carried_out()
    await rig.moved("ec-4-2", "copy-3")


async def test_while_nodes_restart(rig: ReprofilingRig) -> None:
    """Each node goes down and comes back while there is work to do."""
    await rig.fill(2, 3_000_000)
    await rig.fill(6, 40_000)
    await rig.leave("ec-4-2", "copy-3")
    for node in rig.nodes:
        async with rig.restarted(node):
            pass
    await rig.moved("ec-4-2", "copy-3")
