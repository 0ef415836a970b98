"""Whether there is still a shard of what the records name.

Lists of shards show what is there.  A blob of which the last shard is gone is in none of
them, but the rows of its record name it still, and those lie at the seats of the record.
So what they name, and the ledger holds, is looked for: here first, then at one seat of
its row, and only what that one has not is asked of everybody who may have it.

Invariants: what is said to be lost was denied by everybody who may have it; when one of
them was not heard, it is unheard, not lost.  What is in memory is bounded: whoever takes
names asks about them before there are more than ``NAMES_MAX``.

Not guaranteed: that a blob is found lost whose record's rows are gone as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hcefs.errors import HcefsError, NotFound
from hcefs.formats.pack import decode_opening
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.placement.cluster_map import ClusterMap, Table
from hcefs.placement.ring import partition_of, positions_of
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.store.interface import Table as Rows
from hcefs.stripes.checks import Replica
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import records_in, shards_of
from hcefs.transport.upkeep import Place
from hcefs.upkeep.survey import Surveyor

NAMES_MAX = 100_000
PAGE_ROWS = 500


@dataclass(frozen=True)
class Unfound:
    """A blob or pack of which nobody who was heard has a shard."""

    base: BlobBase
    lost: bool
    """Whether everybody was heard."""

    unsure: bool = False
    """Whether somebody who may have some is there and did not say."""


class NamedBlobs:
    """Looks for what the records of one node name."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        surveyor: Surveyor,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._surveyor = surveyor
        self._names: set[BlobBase] = set()

    async def take(self, current: ClusterMap, partitions: Iterable[int]) -> list[Unfound]:
        """Note what the records in some partitions name; what came of it when it was too much.

        Raises:
            HcefsError: the disk of this node failed.
        """
        bits = current.table(current.default_profile).bits
        found: list[Unfound] = []
        for partition in partitions:
            named = await self._runtime.disk(self._named, positions_of(partition, bits))
            self._names |= named
            if len(self._names) > NAMES_MAX:
                found += await self.look(current)
        return found

    def _named(self, positions: range) -> set[BlobBase]:
        """What is on the ledger of the records in a range of positions, and has no shard here."""
        found: set[BlobBase] = set()
        after: bytes | None = None
        while page := records_in(self._stores.rows, positions, after):
            after = page[-1][0]
            for _, record in page:
                found.update(self._of_record(record))
        return found

    def _of_record(self, record: RecordId) -> Iterable[BlobBase]:
        after: bytes | None = None
        while page := self._stores.rows.scan(Rows.INDEX, bytes(record), after, PAGE_ROWS):
            after = page[-1][0]
            for key, data in page:
                base = BlobBase(key[RecordId.SIZE : RecordId.SIZE + BlobBase.SIZE])
                try:
                    opening = decode_opening(data)
                except HcefsError:
                    continue  # the scrub's
                if self._replica.leaf_index(record, opening.commitment()) is None:
                    continue
                if not any(
                    has_shard(self._stores, base, shard.index, shard.profile)
                    for shard in shards_of(self._stores.rows, base)
                ):
                    yield base

    async def look(self, current: ClusterMap) -> list[Unfound]:
        """Look for what was noted, and forget it.

        Raises:
            Unavailable: the map has changed: later.
        """
        names, self._names = self._names, set()
        unheard: set[BlobBase] = set()
        unsure: set[BlobBase] = set()
        left = names
        for table in current.tables:
            left, silent, refused = await self._under(current, table, left)
            unheard |= silent
            unsure |= refused
        return [Unfound(base, base not in unheard, base in unsure) for base in sorted(left)]

    async def _under(
        self, current: ClusterMap, table: Table, names: set[BlobBase]
    ) -> tuple[set[BlobBase], set[BlobBase], set[BlobBase]]:
        """What nobody has under a profile; of what of that somebody was not heard; or refused."""
        rows: dict[int, list[BlobBase]] = {}
        for base in sorted(names):
            rows.setdefault(partition_of(bytes(base), table.bits), []).append(base)
        left: set[BlobBase] = set()
        silent: set[BlobBase] = set()
        refused: set[BlobBase] = set()
        for partition, bases in rows.items():
            place = Place(current.epoch, table.profile, partition)
            missing: Sequence[BlobBase] = await self._surveyor.missed(current, place, bases)
            if not missing:
                continue
            lists = await self._surveyor.asked(current, place, table.n, missing)
            gone = [base for base in missing if not lists.live(base)]
            left.update(gone)
            if not lists.complete:
                silent.update(gone)
            if lists.unsure:
                refused.update(gone)
        return left, silent, refused


def is_first(current: ClusterMap, me: AccountId, partition: int, heard: Iterable[int]) -> bool:
    """Whether a node is the first of a row's seats that answer: then it looks for all of them.

    Raises:
        NotFound: the map does not name it.
    """
    node = current.node_of_account(me)
    if node is None:
        raise NotFound("the map does not name this node", reason="unknown-node")
    there = {*heard, node.node_id}
    row = current.table(current.default_profile).node_rows[partition]
    return next((each for each in row if each in there), None) == node.node_id
