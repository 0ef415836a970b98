"""The usual ways to place, for comparison: a ring of virtual nodes, weighted rendezvous.

Both respect the same caps as the planner, by passing over nodes whose domain is
full in the row, and both are hashed with the same function.  They have no quotas,
and the seat of a node is its rank, so that one newcomer shifts those behind it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Final

from hcefs.placement.cluster_map import LEVELS, Caps, Node
from hcefs.placement.scores import draws, key_of

VIRTUAL_NODES: Final = 160
"""Points of a node of weight 100 on the ring."""

_SPACE: Final = 1 << 64
Row = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """Rows and the part of all keys that each stands for."""

    rows: list[Row]
    shares: list[float]

    def loads(self) -> dict[int, float]:
        """Each node's part of all seats, in rows."""
        found: dict[int, float] = {}
        for row, share in zip(self.rows, self.shares, strict=True):
            for node_id in row:
                found[node_id] = found.get(node_id, 0.0) + share
        return found


def _pick(
    ranked: Iterable[int], n: int, domains: dict[int, tuple[object, ...]], caps: Sequence[int]
) -> Row:
    """The first n different nodes that the caps allow; without caps if they do not suffice."""
    row: list[int] = []
    passed: list[int] = []
    counts: dict[object, int] = {}
    for node_id in ranked:
        if node_id in row or node_id in passed:
            continue
        inside = domains[node_id]
        if any(counts.get(d, 0) >= cap for d, cap in zip(inside, caps, strict=True)):
            passed.append(node_id)
            continue
        row.append(node_id)
        for domain in inside:
            counts[domain] = counts.get(domain, 0) + 1
        if len(row) == n:
            break
    return tuple(row + passed[: n - len(row)])


def _domains(nodes: Sequence[Node]) -> dict[int, tuple[object, ...]]:
    return {node.node_id: tuple((level, node.domain(level)) for level in LEVELS) for node in nodes}


def _cap_values(caps: Caps) -> list[int]:
    return [caps.of(level) for level in LEVELS]


class Ring:
    """Virtual nodes on a circle; a key belongs to the next n different nodes."""

    def __init__(self, nodes: Sequence[Node], caps: Caps, n: int) -> None:
        points = []
        for node in nodes:
            for number in range(max(1, VIRTUAL_NODES * node.weight // 100)):
                name = node.node_id.to_bytes(2, "big") + number.to_bytes(4, "big")
                digest = blake2b(name, digest_size=8).digest()
                points.append((int.from_bytes(digest, "big"), node.node_id))
        points.sort()
        self.points = [point for point, _ in points]
        self._owners = [owner for _, owner in points]
        self._domains, self._caps, self._n = _domains(nodes), _cap_values(caps), n
        self._rows: dict[int, Row] = {}

    def row(self, key: int) -> Row:
        """The nodes of a key, nearest first."""
        start = bisect_left(self.points, key) % len(self.points)
        found = self._rows.get(start)
        if found is None:
            turn = map(
                self._owners.__getitem__, chain(range(start, len(self._owners)), range(start))
            )
            found = self._rows[start] = _pick(turn, self._n, self._domains, self._caps)
        return found


def on_ring(
    before: Sequence[Node], after: Sequence[Node], caps: Caps, n: int
) -> tuple[Placed, Placed]:
    """Rows before and after on every arc that either ring has."""
    rings = Ring(before, caps, n), Ring(after, caps, n)
    points = sorted({*rings[0].points, *rings[1].points})
    widths = [
        (b - a) % _SPACE / _SPACE for a, b in zip([points[-1], *points], points, strict=False)
    ]
    first, second = (Placed([ring.row(point) for point in points], widths) for ring in rings)
    return first, second


def by_rendezvous(
    before: Sequence[Node], after: Sequence[Node], caps: Caps, n: int, bits: int, seed: bytes
) -> tuple[Placed, Placed]:
    """For each partition, the n nodes of least -log(u) / weight."""
    key = key_of(seed, "rendezvous")
    partitions = 1 << bits
    hashes = {node.node_id: draws(key, node, partitions) for node in {*before, *after}}

    def place(nodes: Sequence[Node]) -> Placed:
        domains, values = _domains(nodes), _cap_values(caps)
        columns = [
            [-math.log((draw or 1) / _SPACE) / node.weight for draw in hashes[node.node_id]]
            for node in nodes
        ]
        ids = [node.node_id for node in nodes]
        rows = []
        for scores in zip(*columns, strict=True):
            rank: Callable[[int], float] = scores.__getitem__
            best = sorted(range(len(ids)), key=rank)
            rows.append(_pick((ids[p] for p in best), n, domains, values))
        return Placed(rows, [1 / partitions] * partitions)

    return place(before), place(after)


def compare(
    before: Placed, after: Placed, fair: dict[int, float], ideal: float
) -> dict[str, float | None]:
    """Imbalance, moves against the ideal and seat moves against set moves.

    ``fair`` and ``ideal`` are in rows: shares of all partitions that make up 1.
    """
    sets = seats = 0.0
    for old, new, share in zip(before.rows, after.rows, after.shares, strict=True):
        if old != new:
            sets += share * len(set(new).difference(old))
            seats += share * sum(a != b for a, b in zip(old, new, strict=True))
    loads = after.loads()
    return {
        "imbalance": max(loads.get(node_id, 0.0) / share for node_id, share in fair.items()),
        "moves_to_ideal": sets / ideal if ideal else None,
        "seats_to_sets": seats / sets if sets else None,
    }
