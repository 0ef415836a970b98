"""A local cluster of seven holders whose map moves a seat: each row of six has one to spare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hcefs.errors import Unavailable
from hcefs.placement.cluster_map import ClusterMap, Move, Node, encode_rows
from hcefs.placement.ring import Seat, partition_of, seats
from hcefs.placement.waves import SeatName
from hcefs.stripes.fanout import Fanout
from hcefs.stripes.reseat import Reseat
from hcefs.testing.local_cluster import LocalCluster


def spare_node(old: ClusterMap, base: bytes, profile: str = "ec-4-2") -> Node:
    """A node that the row of a base does not have."""
    row = {seat.node.node_id for seat in seats(old, profile, base)}
    return next(node for node in old.nodes if node.node_id not in row)


def moved(
    old: ClusterMap, base: bytes, index: int, profile: str = "ec-4-2", source: int | None = None
) -> ClusterMap:
    """The next epoch's map, in which the seat of one index moves to the row's spare node."""
    table = old.table(profile)
    seat = next(seat for seat in seats(old, profile, base) if seat.index == index)
    partition = partition_of(base, table.bits)
    rows = list(table.node_rows)
    row = list(rows[partition])
    row[seat.seat] = spare_node(old, base, profile).node_id
    rows[partition] = tuple(row)
    encoded = encode_rows(rows)
    move = Move(partition, seat.seat, seat.node.node_id if source is None else source)
    changed = replace(table, rows=encoded, target=encoded, moving=(move,), wave=1, waves=1)
    tables = tuple(changed if each is table else each for each in old.tables)
    return replace(old, epoch=old.epoch + 1, previous=old.digest(), tables=tables)


def settled(old: ClusterMap) -> ClusterMap:
    """The next epoch's map, in which no seat is in flight."""
    tables = tuple(replace(t, target=b"", moving=(), wave=0, waves=0) for t in old.tables)
    return replace(old, epoch=old.epoch + 1, previous=old.digest(), tables=tables)


def name_of(current: ClusterMap, profile: str = "ec-4-2") -> tuple[SeatName, int]:
    """The seat in flight and its source."""
    (move,) = current.table(profile).moving
    return SeatName(profile, move.partition, move.seat), move.source


def seat_of(current: ClusterMap, base: bytes, index: int, profile: str = "ec-4-2") -> Seat:
    return next(seat for seat in seats(current, profile, base) if seat.index == index)


def reseats(maps: Sequence[ClusterMap]) -> Reseat:
    """Looks seats up in the first of some maps that is newer; there is none later."""

    async def reseat(profile: str, name: bytes, epoch: int) -> tuple[int, tuple[Seat, ...]]:
        for each in maps:
            if each.epoch > epoch:
                return each.epoch, seats(each, profile or each.default_profile, name)
        raise Unavailable("there is no newer map", reason="other-epoch")

    return reseat


def with_reseat(cluster: LocalCluster, maps: Sequence[ClusterMap]) -> None:
    """Let puts through node 1 find these maps."""
    cluster.fanout = Fanout(cluster.runtime, cluster, cluster.ledger, reseats(maps))
