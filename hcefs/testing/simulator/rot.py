"""An aimed fault: data shards of one node rot, and clients read exactly those blobs.

A scrub finds rot within its cycle, and a hint of the first reader sooner, so a reader that
compares nothing is seldom met by bits that flip at random moments.  Here nothing comes
between: the bits flip in what is read next, opened by a node, sealed, directly, and packed.

Invariants: shards of one node alone are destroyed, one of each base and only where its
phase has destroyed nothing, so every acknowledged blob keeps k good ones and must read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hcefs.erasure.scheme import profile_named
from hcefs.errors import HcefsError
from hcefs.formats.shard import HEADER_SIZE, decode_file
from hcefs.ids import BlobBase
from hcefs.placement.cluster_map import NodeState
from hcefs.testing.simulator.files import PlatterFile, index_of_name
from hcefs.testing.simulator.history import Acknowledged, History, Violation
from hcefs.testing.simulator.workload import MODES, Workload
from hcefs.testing.simulator.world import SimNode, World

NAME = "readable"
BLOBS = 2 * len(MODES)
"""Blobs that have shards of their own; each way to read comes upon some of them."""

PACKS = 3

LINE = 64
"""One bit of so many bytes flips: a piece is padded, and no payload is shorter when sealed."""

SERVING = frozenset((NodeState.JOINING, NodeState.UP))
Rotten = tuple[BlobBase, int, PlatterFile]


async def check(world: World, history: History, workload: Workload, name: str) -> None:
    """Let data shards rot and read what they are of, if this phase has destroyed nothing.

    Raises:
        Violation: something does not read back, although one shard at most is bad.
    """
    if history.destroyed:
        return
    chance = random.Random(f"{world.seed}/rot/{name}")
    known: dict[bytes, list[Acknowledged]] = {}
    for made in history.puts.values():
        known.setdefault(bytes(made.blob.base), []).append(made)
    members = {node.account for node in world.map().nodes if node.state in SERVING}
    node = chance.choice([node for node in world.nodes if node.account in members])
    rotten = _chosen(chance, node, known)
    world.trace.note(f"{len(rotten)} data shards of {node.name} rot, and are read")
    for base, index, file in rotten:
        history.destroy(base, index)
        node.storage.platter.forge(file, rotted(bytes(file.data)))
    for number, (base, _, _) in enumerate(rotten):
        seal, mode = MODES[number % len(MODES)]
        # Of a pack all: which of them lie in the column that rots is not known here.
        for made in known[base]:
            await _reads_back(world, workload, made, node, seal, mode)


def _chosen(
    chance: random.Random, node: SimNode, known: dict[bytes, list[Acknowledged]]
) -> list[Rotten]:
    """Data shards of acknowledged blobs on a node: some of plain blobs, some of packs."""
    found: dict[bytes, Rotten] = {}
    for _, name, file in node.storage.platter.shards():
        parsed = index_of_name(name)
        if parsed is not None and parsed[0] in known and _has_content(file, parsed[1]):
            found.setdefault(parsed[0], (BlobBase(parsed[0]), parsed[1], file))
    blobs = [shard for base, shard in found.items() if not known[base][0].is_packed]
    packs = [shard for base, shard in found.items() if known[base][0].is_packed]
    return [*_some(chance, blobs, BLOBS), *_some(chance, packs, PACKS)]


def _some(chance: random.Random, shards: Sequence[Rotten], count: int) -> list[Rotten]:
    return chance.sample(shards, min(len(shards), count))


def _has_content(file: PlatterFile, index: int) -> bool:
    """Whether a shard's first piece has a part of the sealed segment, and not padding alone."""
    try:
        header, _, geometry = decode_file(bytes(file.data))
    except HcefsError:
        return False  # damaged already
    code = profile_named(header.profile)
    if code.k == 1:
        return True  # a copy is data, whatever its index
    return index < code.k and index * geometry.piece_of(0) < geometry.sealed_of(0)


def rotted(data: bytes) -> bytes:
    """A shard file with a bit changed in every line of its first piece, and nowhere else."""
    _, _, geometry = decode_file(data)
    changed = bytearray(data)
    for place in range(HEADER_SIZE, HEADER_SIZE + geometry.piece_of(0), LINE):
        changed[place] ^= 1
    return bytes(changed)


async def _reads_back(
    world: World, workload: Workload, made: Acknowledged, node: SimNode, seal: str, mode: str
) -> None:
    owner = world.people["patient"]
    how = {"seal": seal, "mode": mode}
    if made.is_packed:
        # Any copy of a small pack will do, and a gateway takes its own.
        how["node"] = node.client_address
    try:
        found = await workload.read_back(owner, made, None, "PATRQT", **how)
    except HcefsError as error:
        raise Violation(
            NAME, f"{made.blob} with a rotten shard does not read: {error.kind} {error.reason}"
        ) from None
    if found != made.data:
        raise Violation(NAME, f"{made.blob} with a rotten shard reads back as something else")
