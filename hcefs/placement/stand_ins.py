"""Who keeps a shard, or a record's rows, while the node that is to have it is away.

A pure function of (map, profile, base), like the seats: a writer that cannot reach a seat
and the node that it turns to come to the same list, so that a node need not believe
anybody who says that it is a stand-in.

The order is a rendezvous hash of (seed, profile, partition, node): it differs from row to
row, so that what one dead node is to have spreads over all others, and a change of the map
moves few.  In front are nodes by which no zone, rack or host would have more of the row
than its cap allows, whoever of the row they stand in for.

Invariants: nobody who has, had or is to have a seat of the row stands in for it, so a blob's
shards are on distinct nodes; at most m + ``SPARE`` nodes stand in for a row, which bounds
where anybody has to look; of a record's rows at most k, so that of the k + 1 copies that an
acknowledgement takes one is at a seat.

Not guaranteed: that there are any.  A map with no more nodes than seats has none.

Source: docs/decisions/0021-stand-ins.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b

from hcefs.ids import AccountId
from hcefs.placement.cluster_map import LEVELS, ClusterMap, Node, NodeState, Table
from hcefs.placement.ring import partition_of

SPARE = 2
"""So many more stand-ins than a row can lose shards: some of them may be away as well."""

ACTIVE = frozenset({NodeState.JOINING, NodeState.UP})
ROWS_CACHED_MAX = 1 << 14


def stand_ins(cluster_map: ClusterMap, profile: str, base: bytes) -> tuple[Node, ...]:
    """The nodes that stand in for seats of a blob's base, the first choice first.

    Raises:
        NotFound: the map has no table for the profile.
        Invalid: ``base`` has not 16 bytes.
    """
    return stand_ins_of(cluster_map, profile, partition_of(base, cluster_map.table(profile).bits))


def stand_ins_of(cluster_map: ClusterMap, profile: str, partition: int) -> tuple[Node, ...]:
    """The same for the seats of a partition.

    Raises:
        NotFound: the map has no table for the profile.
    """
    known: dict[int, tuple[Node, ...]] = cluster_map.derived.setdefault(("stand-ins", profile), {})
    found = known.get(partition)
    if found is None:
        if len(known) >= ROWS_CACHED_MAX:
            known.clear()
        found = known[partition] = _ordered(cluster_map, cluster_map.table(profile), partition)
    return found


def record_stand_ins(cluster_map: ClusterMap, record: bytes) -> tuple[Node, ...]:
    """The same for the seats that keep a record's rows."""
    table = cluster_map.table(cluster_map.default_profile)
    return stand_ins(cluster_map, table.profile, record)[: table.k]


def choice(nodes: Sequence[Node], missing: Node, taken: Collection[AccountId]) -> Node | None:
    """Of a row's stand-ins, who takes the place of ``missing``; None when all are taken.

    One of the same zone if there is one: then the row is spread as it was.
    """
    free = [node for node in nodes if node.account not in taken]
    for node in free:
        if node.zone == missing.zone:
            return node
    return free[0] if free else None


def _ordered(cluster_map: ClusterMap, table: Table, partition: int) -> tuple[Node, ...]:
    named = set(table.node_rows[partition]) | set(table.target_rows[partition])
    named |= {move.source for move in table.moving if move.partition == partition}
    row = [node for node in cluster_map.nodes if node.node_id in table.node_rows[partition]]
    key = cluster_map.seed + table.profile.encode() + partition.to_bytes(4, "big")

    def rank(node: Node) -> tuple[bool, bytes]:
        crowded = any(
            sum(each.domain(level) == node.domain(level) for each in row) >= table.caps.of(level)
            for level in LEVELS
            if level != "rack" or node.rack
        )
        digest = blake2b(key + node.node_id.to_bytes(2, "big"), digest_size=16).digest()
        return crowded, digest

    others = [n for n in cluster_map.nodes if n.state in ACTIVE and n.node_id not in named]
    return tuple(sorted(others, key=rank)[: table.m + SPARE])
