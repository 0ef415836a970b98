"""The first table of a profile and the first map of a cluster.

All (partition, node) pairs are ranked by weighted rendezvous score and accepted
while row, quota and caps allow; ``hcefs.placement.chains`` fills the holes that
are left.  So each row is pseudo-random, each node has exactly its quota, and no
cap is broken.

Invariants: a pure function of its arguments; integers only (``math.log`` and
hash seeds differ between platforms), so every node that recomputes a table gets
the same bytes.  The order in which nodes are given does not matter.

Not guaranteed: few moves against another first table.  That is for plans, which
start from the rows in force.

Source: weighted rendezvous hashing (Schindelhauer and Schomaker, SPAA 2005):
the node with the least -log(u) / weight comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from struct import unpack

from hcefs.errors import Invalid
from hcefs.placement.chains import HOLE, Rows, fill_hole
from hcefs.placement.cluster_map import (
    SEATS_MAX,
    Caps,
    ClusterMap,
    Node,
    Table,
    encode_rows,
)
from hcefs.placement.quotas import (
    default_caps,
    domains_of,
    members,
    partition_bits,
    quotas,
)

PAIRS_MAX = 1 << 23
"""Most (partition, node) pairs that a first table ranks: memory and seconds."""

_LOG_STEPS = 10
_LOG_FRACTION = 40
_LOG_PRECISION = 96
_COST_SHIFT = 24
_HASHES_PER_DIGEST = 8


def first_map(
    nodes: Sequence[Node],
    profiles: Sequence[tuple[str, int, int]],
    seed: bytes,
    default_profile: str,
    nodes_expected: int = 0,
) -> ClusterMap:
    """The map of epoch 1 with a table for each (name, k, m).

    ``nodes_expected`` is the size to provide partitions for, at least the nodes
    given.

    Raises:
        Invalid: too few or too many nodes, or what ``ClusterMap.check`` refuses.
    """
    expected = max(nodes_expected, len(members(nodes)))
    for node in nodes:
        node.check()
    first = ClusterMap(
        epoch=1,
        previous=b"",
        seed=seed,
        default_profile=default_profile,
        nodes=tuple(sorted(nodes, key=lambda node: node.node_id)),
        tables=tuple(
            first_table(nodes, name, k, m, seed, nodes_expected=expected) for name, k, m in profiles
        ),
    )
    first.check()
    return first


def first_table(
    nodes: Sequence[Node],
    profile: str,
    k: int,
    m: int,
    seed: bytes,
    *,
    caps: Caps | None = None,
    nodes_expected: int = 0,
) -> Table:
    """The first table of a profile on the nodes that take seats.

    Without ``caps`` they are 1 a host and m a rack and a zone, or the least more
    that can hold (``default_caps``).

    Raises:
        Invalid: fewer than k + m nodes, caps that cannot hold, or more nodes
            than a first table ranks.
    """
    n = k + m
    if k < 1 or m < 1 or n > SEATS_MAX:
        raise Invalid(
            f"profile {profile}: k = {k}, m = {m}; both must be at least 1 "
            f"and their sum at most {SEATS_MAX}",
            reason="bad-profile",
        )
    least = default_caps(nodes, k, m)
    caps = caps if caps is not None else least
    caps.check(n)
    seated = members(nodes)
    bits = partition_bits(max(nodes_expected, len(seated)), n)
    if len(seated) << bits > PAIRS_MAX:
        raise Invalid(
            f"{len(seated)} nodes over {1 << bits} partitions are too many for a first table; "
            "begin with fewer nodes and add the others by plans",
            reason="too-many-nodes",
        )
    domains = domains_of(seated, caps)
    quota = quotas(
        [node.weight for node in seated],
        domains,
        1 << bits,
        n,
        [_tie(seed, profile, node) for node in seated],
    )
    rows = Rows(len(seated), domains, 1 << bits, n)
    _accept_by_score(rows, quota, _ranked_pairs(seated, bits, _key(seed, profile)))
    for partition, row in enumerate(rows.rows):
        for seat in range(n):
            if row[seat] == HOLE:
                fill_hole(rows, partition, seat, quota)
    rows.check(quota)
    return Table(
        profile=profile,
        k=k,
        m=m,
        bits=bits,
        caps=caps,
        rows=encode_rows([[seated[position].node_id for position in row] for row in rows.rows]),
        target=b"",
        moving=(),
        wave=0,
        waves=0,
    )


def _accept_by_score(rows: Rows, quota: Sequence[int], ranked: Iterable[tuple[int, int]]) -> None:
    taken = [0] * len(rows.rows)
    left = rows.n * len(rows.rows)
    for partition, position in ranked:
        if (
            taken[partition] < rows.n
            and rows.loads[position] < quota[position]
            and rows.may_join(partition, position)
        ):
            rows.place(partition, taken[partition], position)
            taken[partition] += 1
            left -= 1
            if not left:
                return


def _ranked_pairs(seated: Sequence[Node], bits: int, key: bytes) -> Iterator[tuple[int, int]]:
    """All (partition, position), best rendezvous score first."""
    logs = _log_table()
    # One integer a pair, cost | partition | position: a fifth of the memory of tuples.
    packed: list[int] = []
    for position, node in enumerate(seated):
        weight = node.weight
        packed += [
            (_minus_log2(draw, logs) << _COST_SHIFT) // weight << 48 | partition << 16 | position
            for partition, draw in enumerate(_draws(key, node, 1 << bits))
        ]
    packed.sort()
    for pair in packed:
        yield pair >> 16 & 0xFFFFFFFF, pair & 0xFFFF


def _key(seed: bytes, profile: str) -> bytes:
    """What makes the draws of a profile its own; 32 bytes."""
    name = profile.encode()
    return blake2b(
        len(name).to_bytes(2, "big") + name + seed, digest_size=32, person=b"hcefs/v1/rows"
    ).digest()


def _tie(seed: bytes, profile: str, node: Node) -> int:
    """H(id): the order of nodes that are otherwise equal."""
    digest = blake2b(
        node.node_id.to_bytes(2, "big"),
        key=_key(seed, profile),
        digest_size=8,
        person=b"hcefs/v1/tie",
    ).digest()
    return int.from_bytes(digest, "big")


def _draws(key: bytes, node: Node, count: int) -> list[int]:
    """A 64-bit hash of (key, node, partition) for each partition, eight to a digest."""
    draws: list[int] = []
    for number in range(-(-count // _HASHES_PER_DIGEST)):
        message = node.node_id.to_bytes(2, "big") + number.to_bytes(4, "big")
        digest = blake2b(message, key=key, digest_size=64, person=b"hcefs/v1/draw").digest()
        draws += unpack(">8Q", digest)
    return draws[:count]


@lru_cache(maxsize=1)
def _log_table() -> tuple[tuple[int, int], ...]:
    """(log2(1 + i/2^STEPS), rise to the next), in units of 2^-FRACTION, by repeated squaring."""
    values = []
    for step in range(1 << _LOG_STEPS):
        square = ((1 << _LOG_STEPS) + step) << (_LOG_PRECISION - _LOG_STEPS)
        value = 0
        for _ in range(_LOG_FRACTION):
            square = square * square >> _LOG_PRECISION
            bit = square >> (_LOG_PRECISION + 1)
            square >>= bit
            value = value << 1 | bit
        values.append(value)
    values.append(1 << _LOG_FRACTION)
    return tuple((low, high - low) for low, high in pairwise(values))


def _minus_log2(draw: int, logs: Sequence[tuple[int, int]]) -> int:
    """-log2(draw / 2^64) in units of 2^-FRACTION, interpolated; draw 0 counts as 1."""
    draw = draw or 1
    exponent = draw.bit_length() - 1
    rest = (draw << (63 - exponent)) & ((1 << 63) - 1)
    low, rise = logs[rest >> (63 - _LOG_STEPS)]
    within = rest & ((1 << (63 - _LOG_STEPS)) - 1)
    return ((64 - exponent) << _LOG_FRACTION) - low - (rise * within >> (63 - _LOG_STEPS))
