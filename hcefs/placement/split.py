"""Twice the partitions for a cluster that outgrows them; nothing moves.

The partition of a blob is the top bits of its digest, so with one bit more
partition p becomes 2p and 2p + 1, and both inherit its row.  Every blob stays on
its holders at its seats; only a later plan spreads the two halves apart.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.errors import Conflict, Invalid
from hcefs.placement.cluster_map import BITS_MAX, ClusterMap, Table, encode_rows
from hcefs.placement.quotas import members, partition_bits


def split_table(table: Table) -> Table:
    """The table with twice the partitions.

    Raises:
        Conflict: a plan is in progress.
        Invalid: the table has the most partitions that one may have.
    """
    if table.target:
        raise Conflict(
            f"the seats of {table.profile} are moving: split its partitions after the plan",
            reason="plan-in-progress",
        )
    if table.bits >= BITS_MAX:
        raise Invalid(
            f"{table.profile} has 2^{BITS_MAX} partitions, the most that a table may have",
            reason="bad-table-size",
        )
    rows = [row for row in table.node_rows for _ in range(2)]
    return replace(table, bits=table.bits + 1, rows=encode_rows(rows))


def split(old: ClusterMap, profile: str) -> ClusterMap:
    """The next epoch's map, with twice the partitions for one profile.

    Raises:
        NotFound: the map has no such table.
        Conflict: a plan is in progress.
        Invalid: the table has the most partitions that one may have.
    """
    wanted = old.table(profile)
    tables = tuple(split_table(table) if table is wanted else table for table in old.tables)
    return replace(old, epoch=old.epoch + 1, previous=old.digest(), tables=tables)


def is_split_of(new: Table, old: Table) -> bool:
    """Whether ``new`` is ``old`` with its partitions split in two, and nothing else."""
    return not old.target and old.bits < BITS_MAX and split_table(old) == new


def wanted_bits(cluster_map: ClusterMap, profile: str) -> int:
    """log2 of the partitions that the table should have for the members there are.

    Raises:
        NotFound: the map has no such table.
        Invalid: the cluster is larger than a table can be.
    """
    table = cluster_map.table(profile)
    return max(table.bits, partition_bits(max(1, len(members(cluster_map.nodes))), table.n))
