"""What rows and maps are measured by, independently of the planner that made them.

All figures are exact or drawn from a fixed seed; times are CPU seconds.
"""

from __future__ import annotations

import lzma
import random
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb, lcm
from typing import Any, Final

from hcefs.placement.chains import is_cheapest
from hcefs.placement.cluster_map import ClusterMap, Node, Table
from hcefs.placement.figures import fair_shares
from hcefs.placement.moves import Order, reseat
from hcefs.placement.planner import TablePlan
from hcefs.placement.quotas import domains_of, members
from hcefs.placement.ring import seats
from hcefs.placement.rows import HOLE, Rows

_LOSS_DRAWS: Final = 20_000
_LOOK_UPS: Final = 2_000
_ROWS_MAX: Final = 1 << 15
_SUBSETS_MAX: Final = 2_000_000


def rows_of(encoded: bytes, n: int) -> list[tuple[int, ...]]:
    """Encoded rows as node ids."""
    return list(struct.iter_unpack(f">{n}H", encoded))


def fair_of(nodes: Sequence[Node], planned: TablePlan, table: Table) -> dict[int, float]:
    """The fair load of each member."""
    fair = fair_shares(nodes, planned.caps, table.partitions, table.n)
    return {node_id: float(share) for node_id, share in fair.items() if share}


def compressed(cluster_map: ClusterMap) -> int:
    """Bytes of a map as deflate makes them."""
    return len(zlib.compress(cluster_map.encode(), 9))


def compressed_moving(cluster_map: ClusterMap) -> int:
    """Bytes of a map in mid-plan as xz makes them.

    Its target repeats its rows, at a distance beyond the 32 KiB that deflate sees.
    """
    return len(lzma.compress(cluster_map.encode(), preset=1))


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def real_optimum(table: Table, nodes: Sequence[Node], planned: TablePlan) -> float:
    """The fewest moves to real-valued fair loads, caps included.

    Where no cap costs a move, that is what must change hands between the fair
    shares.  Else every row is planned as often as the shares have a denominator,
    which is the linear program in integers; too large ones count without caps,
    which is less.
    """
    ideal = float(planned.report.ideal)
    seated = members(nodes)
    fair = fair_shares(nodes, planned.caps, table.partitions, table.n)
    times = lcm(*(share.denominator for share in fair.values()))
    if not planned.report.gap or times * table.partitions > _ROWS_MAX:
        return ideal
    position = {node.node_id: number for number, node in enumerate(seated)}
    partitions = times * table.partitions
    rows = Rows(len(seated), domains_of(seated, planned.caps), partitions, table.n)
    rows.seat_all(
        [position.get(one, HOLE) for one in row] for row in table.node_rows for _ in range(times)
    )
    old = list(rows.masks)
    order = Order(range(len(seated)), range(partitions))
    reseat(rows, [int(fair[node.node_id] * times) for node in seated], order)
    gained = sum((now & ~was).bit_count() for now, was in zip(rows.masks, old, strict=True))
    return gained / times


def is_minimal(table: Table, nodes: Sequence[Node], planned: TablePlan) -> bool:
    """Whether no rows with the same loads and caps have fewer newcomers."""
    seated = members(nodes)
    position = {node.node_id: number for number, node in enumerate(seated)}
    rows = Rows(len(seated), domains_of(seated, planned.caps), table.partitions, table.n)
    rows.seat_all([[position[one] for one in row] for row in rows_of(planned.target, table.n)])
    old = [sum(1 << position[one] for one in row if one in position) for row in table.node_rows]
    return is_cheapest(rows, old)


def violations(rows: Sequence[tuple[int, ...]], nodes: Sequence[Node], planned: TablePlan) -> int:
    """Rows that break a cap or seat a node twice, counted independently of the planner."""
    broken = 0
    caps = planned.caps
    labels = [
        ({node.node_id: node.domain(level) for node in nodes}, caps.of(level))
        for level in ("zone", "rack", "host")
    ]
    for row in rows:
        bad = len(set(row)) != len(row)
        for label, cap in labels:
            counts: dict[tuple[str, ...], int] = {}
            for node_id in row:
                counts[label[node_id]] = counts.get(label[node_id], 0) + 1
            bad = bad or max(counts.values()) > cap
        broken += bad
    return broken


def data_imbalance(
    rows: Sequence[tuple[int, ...]], table: Table, fair: Mapping[int, float], rotated: bool
) -> float:
    """The largest expected share of data shards over the fair one.

    The rotation is u32 mod n: its residues differ by one part in 2^32 / n.
    """
    n, k = table.n, table.k
    part, more = divmod(1 << 32, n)
    chance = [
        sum(part + (turn < more) for turn in range(n) if (seat + turn) % n < k) / (1 << 32)
        if rotated
        else float(seat < k)
        for seat in range(n)
    ]
    data: dict[int, float] = dict.fromkeys(fair, 0.0)
    for row in rows:
        for seat, node_id in enumerate(row):
            data[node_id] += chance[seat]
    return max(data[node_id] / (share * k / n) for node_id, share in fair.items())


def spread(rows: Sequence[tuple[int, ...]], m: int, count: int) -> dict[str, Any]:
    """Different rows, mean nodes that share rows with one, and P(loss | m + 1 failures)."""
    groups = {tuple(sorted(row)) for row in rows}
    sits: dict[int, int] = {}
    peers: dict[int, set[int]] = {}
    for number, group in enumerate(groups):
        for node_id in group:
            sits[node_id] = sits.get(node_id, 0) | 1 << number
            peers.setdefault(node_id, set()).update(group)
    failing = m + 1
    if len(groups) * comb(len(rows[0]), failing) <= _SUBSETS_MAX and comb(count, failing) < 10**7:
        lost = {subset for group in groups for subset in combinations(group, failing)}
        chance = len(lost) / comb(count, failing)
    else:
        draw = random.Random(1)
        nodes = sorted(sits)
        hits = 0
        for _ in range(_LOSS_DRAWS):
            together = -1
            for node_id in draw.sample(nodes, failing):
                together &= sits[node_id]
            hits += together != 0
        chance = hits / _LOSS_DRAWS
    width = sum(len(found) - 1 for found in peers.values()) / len(peers)
    return {"groups": len(groups), "scatter_width": width, "loss": chance}


def look_up_seconds(cluster_map: ClusterMap, rounds: int = 20) -> float:
    """One look-up, the mean of many keys, in the best of the rounds."""
    draw = random.Random(2)
    profile = cluster_map.default_profile
    bases = [draw.randbytes(16) for _ in range(_LOOK_UPS)]

    def work() -> None:
        for base in bases:
            seats(cluster_map, profile, base)

    return min(cpu_seconds(work) for _ in range(rounds)) / _LOOK_UPS
