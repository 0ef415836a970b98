"""What a node has of the partitions that it seats, in a form that nodes can compare.

Of each partition a number and a digest over the bases: equal at all n seats when each
has its shard of every committed blob.  It says nothing of the bytes (a scrub does), and
tells nobody an id.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from hcefs.errors import HcefsError
from hcefs.formats.pack import PackOpening, decode_opening
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import positions_of, seats
from hcefs.store.interface import Stores, Table
from hcefs.stripes.checks import Replica
from hcefs.stripes.exports import has_shard
from hcefs.stripes.placed import RING, PlacedShard, decoded_layout, shards_in

PACK_ROWS_MAX = 2000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartitionInventory:
    """The committed blobs and packs of a partition of which this node has its shard."""

    partition: int
    shards: int
    digest: bytes


def partition_inventory(
    stores: Stores, replica: Replica, current: ClusterMap, profile: str, partition: int, seat: int
) -> PartitionInventory:
    """What this node, at a seat of a partition, has of it."""
    table = current.table(profile)
    positions = positions_of(partition, table.bits)
    bases = []
    after: bytes | None = None
    while page := shards_in(stores.rows, positions, after):
        after = page[-1][0]
        for _, shard in page:
            mine = shard.profile == profile and _is_at(current, shard, seat)
            if (
                mine
                and stores.shards.has(shard.base, shard.index, shard.form)
                and _committed(stores, replica, shard.base)
            ):
                bases.append(bytes(shard.base))
    bases.sort()
    return PartitionInventory(partition, len(bases), blake3_digest(b"".join(bases)))


def elsewhere(stores: Stores, current: ClusterMap, node_id: int) -> int:
    """How many shards on this node are not of a seat of its own."""
    found = 0
    after: bytes | None = None
    profiles = {table.profile for table in current.tables}
    while page := shards_in(stores.rows, RING, after):
        after = page[-1][0]
        for _, shard in page:
            if shard.profile in profiles:
                row = seats(current, shard.profile, shard.base)
                if any(s.index == shard.index and s.node.node_id == node_id for s in row):
                    continue
            found += 1
    return found


def shards_here(stores: Stores, positions: range, profile: str) -> dict[BlobBase, set[int]]:
    """The shards of a profile in a range of positions that are here, file and rows."""
    found: dict[BlobBase, set[int]] = {}
    after: bytes | None = None
    while page := shards_in(stores.rows, positions, after):
        after = page[-1][0]
        for _, shard in page:
            if shard.profile == profile and has_shard(stores, shard.base, shard.index, profile):
                found.setdefault(shard.base, set()).add(shard.index)
    return found


def committed_under(
    stores: Stores, replica: Replica, bases: Sequence[BlobBase], profile: str
) -> set[BlobBase]:
    """Those of some bases that the ledger holds and whose layout in force is of a profile.

    Of which a row is damaged is among them: it is not for its blob to vanish from a count.
    """
    found = set()
    for base in bases:
        try:
            layout = stores.rows.get(Table.LAYOUTS, bytes(base))
            elsewhere = layout is not None and decoded_layout(layout).profile != profile
            if not elsewhere and _committed(stores, replica, base):
                found.add(base)
        except HcefsError as error:
            log.error("the rows of %s cannot be read: %s", base, error.reason)
            found.add(base)
    return found


def _is_at(current: ClusterMap, shard: PlacedShard, seat: int) -> bool:
    row = seats(current, shard.profile, shard.base)
    return row[seat].index == shard.index


def _committed(stores: Stores, replica: Replica, base: BlobBase) -> bool:
    """Whether the ledger holds the blob, or any record's part of the pack."""
    rows = stores.rows.scan(Table.OPENINGS, bytes(base), limit=PACK_ROWS_MAX)
    for _, data in rows:
        try:
            opening = decode_opening(data)
        except HcefsError:
            continue
        commitment = opening.commitment()
        if replica.leaf_index(opening.record, commitment) is not None:
            return True
        if not isinstance(opening, PackOpening):
            return False
    return False
