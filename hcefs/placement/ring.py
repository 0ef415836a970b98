"""Key -> partition -> seats: the look-up that every put and get makes.

::

    D         = BLAKE2b-128(16-byte base of the blob id)
    partition = top b bits of D[0:8]
    index of the shard at seat s = (s + u32(D[8:12])) mod n

The rotation spreads data and parity over a row's nodes without a stored word:
with index = seat, the share of data seats a node holds drifts apart over the
years as seats move.  Headers, layouts and interfaces name the index; only this
package knows seats.

Invariants: a pure function of (map, profile, base).  Decoded rows and the seats
of rows that were asked for are kept with the map object, at most
``ROWS_CACHED_MAX`` a table; races between threads only repeat work.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from hcefs.errors import Invalid
from hcefs.placement.cluster_map import BITS_MAX, SEATS_MAX, ClusterMap, Node, Table

BASE_SIZE = 16
ROWS_CACHED_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Seat:
    """Seat ``seat`` of a row, held by ``node``, which stores the shard ``index``.

    ``source`` is who held the seat before, while its shards are being copied: what
    ``node`` does not have yet is there.  ``absent`` is who is to have the seat, while
    ``node`` stands in for it: no map says so, a writer does (:mod:`.stand_ins`).
    """

    seat: int
    index: int
    node: Node
    source: Node | None = None
    absent: Node | None = None


def _digest(base: bytes) -> bytes:
    if len(base) != BASE_SIZE:
        raise Invalid(
            f"placement is by {BASE_SIZE} bytes (a blob's base or a record id), got {len(base)}",
            reason="bad-id",
        )
    return blake2b(base, digest_size=16).digest()


def position_of(base: bytes) -> int:
    """Where a blob's base or a record id lies on the ring: D[0:8], a number below 2^64.

    Partitions are ranges of it (:func:`positions_of`), whatever their number.

    Raises:
        Invalid: ``base`` has not 16 bytes.
    """
    return int.from_bytes(_digest(base)[:8], "big")


def positions_of(partition: int, bits: int) -> range:
    """The positions of the ring that make up one partition among ``2**bits``.

    Raises:
        Invalid: there is no such partition.
    """
    if not 0 <= bits <= BITS_MAX or not 0 <= partition < 1 << bits:
        raise Invalid(f"there is no partition {partition} of 2^{bits}", reason="bad-partition")
    shift = 64 - bits
    return range(partition << shift, (partition + 1) << shift)


def partition_of(base: bytes, bits: int) -> int:
    """The partition of a blob's base or a record id among ``2**bits``.

    Raises:
        Invalid: ``base`` has not 16 bytes, or ``bits`` is out of bounds.
    """
    if not 0 <= bits <= BITS_MAX:
        raise Invalid(f"{bits} partition bits are outside 0..{BITS_MAX}", reason="bad-table-size")
    return position_of(base) >> (64 - bits)


def rotation_of(base: bytes, n: int) -> int:
    """By how much the indexes of a blob are turned against the seats of its row.

    Raises:
        Invalid: ``base`` has not 16 bytes, or ``n`` is out of bounds.
    """
    if not 1 <= n <= SEATS_MAX:
        raise Invalid(f"{n} seats are outside 1..{SEATS_MAX}", reason="bad-profile")
    return int.from_bytes(_digest(base)[8:12], "big") % n


class _LookUp:
    """The seats of one table, made when first asked for."""

    __slots__ = ("_made", "_n", "_nodes", "_rows", "_seats", "_shift", "_sources")

    def __init__(self, cluster_map: ClusterMap, table: Table) -> None:
        self._rows = table.node_rows
        self._n = table.n
        self._shift = 64 - table.bits
        self._nodes = {node.node_id: node for node in cluster_map.nodes}
        # A source of 0 means that the seat is rebuilt: nobody has its shards.
        self._sources = {(move.partition, move.seat): move.source for move in table.moving}
        self._seats: dict[tuple[int, int, int, int], Seat] = {}
        self._made: dict[int, tuple[Seat, ...]] = {}

    def seats(self, base: bytes) -> tuple[Seat, ...]:
        digest = _digest(base)
        partition = int.from_bytes(digest[:8], "big") >> self._shift
        rotation = int.from_bytes(digest[8:12], "big") % self._n
        made = self._made.get(partition * self._n + rotation)
        return made if made is not None else self._make(partition, rotation)

    def _make(self, partition: int, rotation: int) -> tuple[Seat, ...]:
        if len(self._made) >= ROWS_CACHED_MAX:
            self._made.clear()
            self._seats.clear()
        row = tuple(
            self._seat(
                seat,
                (seat + rotation) % self._n,
                node_id,
                self._sources.get((partition, seat), 0),
            )
            for seat, node_id in enumerate(self._rows[partition])
        )
        self._made[partition * self._n + rotation] = row
        return row

    def _seat(self, seat: int, index: int, node_id: int, source: int) -> Seat:
        # Rows share their Seat objects: there are only n * n * nodes different ones,
        # and those in flight.
        key = (seat, index, node_id, source)
        found = self._seats.get(key)
        if found is None:
            node = self._nodes.get(node_id)
            if node is None:
                raise Invalid(
                    f"a row names node {node_id}, which the map does not have: check the map "
                    "before using it",
                    reason="unknown-node",
                )
            found = self._seats[key] = Seat(seat, index, node, self._nodes.get(source))
        return found


def seats(cluster_map: ClusterMap, profile: str, base: bytes) -> tuple[Seat, ...]:
    """The n seats of a blob's base (or of a record id), in seat order.

    Raises:
        NotFound: the map has no table for the profile.
        Invalid: ``base`` has not 16 bytes, or the map was not checked.
    """
    look_up = cluster_map.derived.get(("ring", profile))
    if look_up is None:
        look_up = _LookUp(cluster_map, cluster_map.table(profile))
        cluster_map.derived[("ring", profile)] = look_up
    found: tuple[Seat, ...] = look_up.seats(base)
    return found
