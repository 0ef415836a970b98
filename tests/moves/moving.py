"""A running cluster whose map changes: plans applied by its operators, and what is where.

Everything is production code in one process; only time is short: leases of seconds, and
shards are deleted a moment after their seat has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hcefs.config import UpkeepConfig
from hcefs.errors import HcefsError, Unavailable
from hcefs.formats.shard import HEADER_SIZE, ShardHeader
from hcefs.ids import BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.cluster_facts import OUT_AFTER_MS_MIN, UpkeepPolicy
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.transactions import SetClusterMap, Transaction, sign_transaction
from hcefs.ledger.transactions_map import SetUpkeepPolicy
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import Plan, plan
from hcefs.placement.ring import seats
from hcefs.placement.waves import SeatName, apply_plan, is_planned
from hcefs.store.interface import Stores, Table
from hcefs.stripes.exports import has_shard, record_digest
from hcefs.stripes.shard_index import read_footer
from hcefs.upkeep.fill import Filled
from hcefs.upkeep.survey import Survey
from hcefs.upkeep.worker import Progress
from tests.services.rig import Rig, Running

DONE_SECONDS = 120.0


class MovingRig(Rig):
    """Six nodes of the map and one more, with a ledger of protocol version 2."""

    lease_ms = 10_000
    upkeep = UpkeepConfig(rate_min_mib=256.0, rate_max_mib=1024.0, grace_s=0.5)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.blobs: list[tuple[BlobId, bytes]] = []
        self.gone: list[Running] = []

    @property
    def all(self) -> list[Running]:
        """Every node that runs."""
        return [node for node in (*self.nodes, self.stranger) if node not in self.gone]

    async def lose(self, node: Running) -> None:
        """A node ends, and does not come back."""
        self.gone.append(node)
        await node.process.stop()

    # -- data

    async def fill(self, number: int, size: int) -> None:
        """Blobs of one size, each with known bytes; small ones come as packs."""
        datas = [self.runtime.random(size) for _ in range(number)]
        grant = self.append_grant.grant
        receipts = await asyncio.gather(
            *(self.hospital.put(self.record, data, grant=grant) for data in datas)
        )
        self.blobs += [(r.ref.blob, data) for r, data in zip(receipts, datas, strict=True)]

    async def read_all(self) -> None:
        """Every blob reads back, byte for byte."""
        for blob, data in self.blobs:
            stream = await self.doctor.get(self.record, blob, grant=self.read_grant.grant)
            found = await stream.read()
            assert found == data, f"{blob} reads back as something else"

    # -- the map

    def view(self) -> LedgerLog:
        """The ledger as one of the nodes has it."""
        return self.all[0].process.follower.view

    def current(self) -> ClusterMap:
        found = self.view().cluster_map()
        assert found is not None
        return found

    def current_arrivals(self) -> frozenset[SeatName]:
        """The seats of the wave in force that have arrived."""
        return self.all[0].process.follower.view.arrived()

    def node_of(self, running: Running) -> Node:
        """A node as the map names it, or would."""
        return Node(
            running.number,
            running.account,
            running.config.client_address,
            running.config.peer_address,
            f"zone-{running.number % 3}",
            "",
            f"host-{running.number}",
            100,
            NodeState.JOINING,
        )

    async def apply(self, change: Callable[[ClusterMap], Sequence[Node]]) -> Plan:
        """Plan a change of the nodes from the map in force, and apply it."""
        current = self.current()
        made = plan(current, change(current))
        done = self.all[0].process.follower.view.arrived()
        await self.set_map(apply_plan(made, current, done))
        return made

    async def set_map(self, successor: ClusterMap) -> None:
        """Enter a map, and wait until the view that the next one is planned on has it.

        Who submits is answered when two followers have the block: it need not be this one.
        """
        await self.decree(SetClusterMap(successor.epoch - 1, successor.encode()))
        await self.happens(lambda: self.current().epoch >= successor.epoch)

    @contextmanager
    def some_wait(self) -> Iterator[None]:
        """The node that is added brings no seat of an odd partition, until this ends.

        However fast the machine is, a plan is then under way when something is restarted.
        """
        filler = self.stranger.process.node.seat_care.filler
        fill = filler.fill

        async def held(
            current: ClusterMap,
            name: SeatName,
            source: int,
            fenced: Callable[[Node], bool],
            survey: Survey | None = None,
        ) -> Filled:
            if name.partition % 2:
                raise Unavailable("the test holds this seat", reason="held-by-test")
            return await fill(current, name, source, fenced, survey)

        filler.fill = held  # type: ignore[method-assign]
        try:
            yield
        finally:
            filler.fill = fill  # type: ignore[method-assign]

    @contextmanager
    def resting(self, name: str) -> Iterator[None]:
        """One kind of worker does nothing on any of the nodes, until this ends."""

        async def rest() -> Progress:
            return Progress.IDLE

        workers = [
            worker
            for node in self.all
            for worker in node.process.node._upkeep._workers
            if worker.name == name
        ]
        assert workers, f"no node has a worker {name}"
        works = [worker.work for worker in workers]
        for worker in workers:
            worker.work = rest  # type: ignore[method-assign]
        try:
            yield
        finally:
            for worker, work in zip(workers, works, strict=True):
                worker.work = work  # type: ignore[method-assign]

    async def decree(self, transaction: Transaction) -> None:
        """Submit what only the operators together may."""
        signers = [(keys.account, 1, keys.signing_key) for keys in self.operator_keys]
        await self.operators[0].submit(sign_transaction(transaction, self.cluster, signers))

    # -- time

    async def allow_out(self, out_max: int) -> None:
        """Let the nodes give up who is away for a minute."""
        policy = UpkeepPolicy(1, OUT_AFTER_MS_MIN, out_max)
        await self.decree(SetUpkeepPolicy(0, policy))

    def pass_time(self, milliseconds: int) -> None:
        """Set every clock of the cluster on: the ledger's, the nodes' and the clients'.

        Leases run out with it, until the ledger signs its next head.
        """
        self.runtime.offset_ms += milliseconds

    async def happens(self, holds: Callable[[], bool]) -> None:
        """Wait until something is so that takes the nodes some rounds."""
        async with asyncio.timeout(DONE_SECONDS):
            while not holds():
                await self.runtime.sleep(0.05)

    async def carried_out(self) -> None:
        """Wait until no plan is in progress on any of the nodes."""
        async with asyncio.timeout(DONE_SECONDS):
            while True:
                maps = [node.process.follower.view.cluster_map() for node in self.all]
                if len({m.epoch for m in maps if m}) == 1 and not any(map(is_planned, maps)):  # type: ignore[arg-type]
                    return
                await self.runtime.sleep(0.05)

    # -- inventory

    def stores_of(self, node: Node) -> Stores:
        for running in self.all:
            if running.account == node.account:
                return running.process.stores
        raise LookupError(node.node_id)

    def bases(self) -> set[BlobBase]:
        return {blob.base for blob, _ in self.blobs} | {self.receipt.ref.blob.base}

    def missing(self) -> list[str]:
        """What a seat of the map should hold and does not, intact."""
        current, lacks = self.current(), []
        for base in sorted(self.bases()):
            profile = self.profile_of(base)
            for seat in seats(current, profile, bytes(base)):
                name = f"{base} index {seat.index} on node {seat.node.node_id}"
                stores = self.stores_of(seat.node)
                if not has_shard(stores, base, seat.index):
                    lacks.append(f"{name} is not there")
                elif problem := damage(stores, base, seat.index):
                    lacks.append(f"{name}: {problem}")
        for seat in seats(current, current.default_profile, bytes(self.record)):
            stores = self.stores_of(seat.node)
            listed = {key[16:32] for key, _ in stores.rows.scan(Table.INDEX, bytes(self.record))}
            lacks += [
                f"node {seat.node.node_id} does not list {base}"
                for base in self.bases()
                if bytes(base) not in listed
            ]
        return lacks

    def profile_of(self, base: BlobBase) -> str:
        for running in self.all:
            found = running.process.stores.rows.scan(Table.PLACED)
            for key, value in found:
                if key[8:24] == bytes(base):
                    return value.decode()
        raise LookupError(f"nobody has {base}")

    def superfluous(self) -> list[str]:
        """Shards on nodes that have no seat for them."""
        current, found = self.current(), []
        for running in self.all:
            for base, index in running.process.stores.shards.inventory():
                held = seats(current, self.profile_of(base), bytes(base))
                if not any(s.index == index and s.node.account == running.account for s in held):
                    found.append(f"{base} index {index} on node {running.number}")
        return found

    async def tidied(self) -> None:
        """Wait until everything that has moved is deleted where it was."""
        async with asyncio.timeout(DONE_SECONDS):
            while self.superfluous():
                await self.runtime.sleep(0.1)

    def record_rows(self, record: RecordId) -> set[bytes]:
        """The digests over a record's rows on its seats; one, when all have the same."""
        current = self.current()
        held = seats(current, current.default_profile, bytes(record))
        return {record_digest(self.stores_of(seat.node), record) for seat in held}


def damage(stores: Stores, base: BlobBase, index: int) -> str:
    """What is wrong with a shard's bytes; empty when they are as written."""
    try:
        footer = read_footer(stores.shards, base, index)
    except HcefsError as error:
        return error.reason
    reader = stores.shards.open(base, index)
    try:
        geometry = ShardHeader.decode(reader.read_at(0, HEADER_SIZE)).geometry(
            footer.plaintext_length
        )
        for segment in range(geometry.segments):
            offset = HEADER_SIZE + geometry.offset_of(segment)
            piece = reader.read_at(offset, geometry.piece_of(segment))
            if blake3_digest(piece) != footer.digest_of(segment):
                return f"piece {segment} is damaged"
    finally:
        reader.close()
    return ""
