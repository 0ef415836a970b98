"""Rendezvous scores: hashes of (key, node, partition), weighted, in integers.

Invariants: a pure function of seed, profile, node id and weight; no float and no
``math.log``, whose last bit differs between platforms.

Source: weighted rendezvous hashing (Schindelhauer and Schomaker, SPAA 2005):
the node with the least -log(u) / weight comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from struct import unpack

from hcefs.placement.cluster_map import Node

LOG_FRACTION = 40
"""Bits behind the point of a logarithm."""

_LOG_STEPS = 10
_LOG_PRECISION = 96
_COST_SHIFT = 24
_HASHES_PER_DIGEST = 8


def ranked_pairs(seated: Sequence[Node], bits: int, key: bytes) -> Iterator[tuple[int, int]]:
    """All (partition, position), best rendezvous score first."""
    logs = log_table()
    # One integer a pair, cost | partition | position: a fifth of the memory of tuples.
    packed: list[int] = []
    for position, node in enumerate(seated):
        weight = node.weight
        packed += [
            (minus_log2(draw, logs) << _COST_SHIFT) // weight << 48 | partition << 16 | position
            for partition, draw in enumerate(draws(key, node, 1 << bits))
        ]
    packed.sort()
    for pair in packed:
        yield pair >> 16 & 0xFFFFFFFF, pair & 0xFFFF


def key_of(seed: bytes, profile: str) -> bytes:
    """What makes the draws of a profile its own; 32 bytes."""
    name = profile.encode()
    return blake2b(
        len(name).to_bytes(2, "big") + name + seed, digest_size=32, person=b"hcefs/v1/rows"
    ).digest()


def tie_of(seed: bytes, profile: str, node: Node) -> int:
    """H(id): the order of nodes that are otherwise equal."""
    digest = blake2b(
        node.node_id.to_bytes(2, "big"),
        key=key_of(seed, profile),
        digest_size=8,
        person=b"hcefs/v1/tie",
    ).digest()
    return int.from_bytes(digest, "big")


def draws(key: bytes, node: Node, count: int) -> list[int]:
    """A 64-bit hash of (key, node, partition) for each partition, eight to a digest."""
    found: list[int] = []
    for number in range(-(-count // _HASHES_PER_DIGEST)):
        message = node.node_id.to_bytes(2, "big") + number.to_bytes(4, "big")
        digest = blake2b(message, key=key, digest_size=64, person=b"hcefs/v1/draw").digest()
        found += unpack(">8Q", digest)
    return found[:count]


@lru_cache(maxsize=1)
def log_table() -> tuple[tuple[int, int], ...]:
    """(log2(1 + i/2^STEPS), rise to the next), in units of 2^-FRACTION, by repeated squaring."""
    values = []
    for step in range(1 << _LOG_STEPS):
        square = ((1 << _LOG_STEPS) + step) << (_LOG_PRECISION - _LOG_STEPS)
        value = 0
        for _ in range(LOG_FRACTION):
            square = square * square >> _LOG_PRECISION
            bit = square >> (_LOG_PRECISION + 1)
            square >>= bit
            value = value << 1 | bit
        values.append(value)
    values.append(1 << LOG_FRACTION)
    return tuple((low, high - low) for low, high in pairwise(values))


def minus_log2(draw: int, logs: Sequence[tuple[int, int]]) -> int:
    """-log2(draw / 2^64) in units of 2^-FRACTION, interpolated; draw 0 counts as 1."""
    draw = draw or 1
    exponent = draw.bit_length() - 1
    rest = (draw << (63 - exponent)) & ((1 << 63) - 1)
    low, rise = logs[rest >> (63 - _LOG_STEPS)]
    within = rest & ((1 << (63 - _LOG_STEPS)) - 1)
    return ((64 - exponent) << LOG_FRACTION) - low - (rise * within >> (63 - _LOG_STEPS))


def salts(key: bytes, count: int) -> list[int]:
    """A 64-bit hash of (key, partition) for each partition, eight to a digest."""
    found: list[int] = []
    for number in range(-(-count // _HASHES_PER_DIGEST)):
        digest = blake2b(
            number.to_bytes(4, "big"), key=key, digest_size=64, person=b"hcefs/v1/salt"
        ).digest()
        found += unpack(">8Q", digest)
    return found[:count]
