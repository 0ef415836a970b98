"""After everything is healed, repair brings every blob back to all n shards within a bound."""

from __future__ import annotations

from hcefs.errors import HcefsError
from hcefs.formats.shard import (
    decode_file,
    piece_in,
)
from hcefs.integrity import blake3_digest
from hcefs.placement.ring import seats
from hcefs.testing.simulator.files import index_of_name
from hcefs.testing.simulator.history import History
from hcefs.testing.simulator.world import World

NAME = "whole"
PROFILES = {6: "ec-4-2", 3: "copy-3"}


def lacks(world: World, history: History) -> list[str]:
    """What a seat of the map should hold intact and does not."""
    current = world.map()
    held: dict[tuple[str, bytes, int], str] = {}
    for node in world.nodes:
        for _, name, file in node.storage.platter.shards():
            parsed = index_of_name(name)
            if parsed is not None:
                problem = ""
                if file.is_flipped:
                    data, known = bytes(file.data), history.shards.get(parsed)
                    problem = damage(data)
                    if not problem and known not in (None, blake3_digest(data)):
                        problem = "is another"
                held[node.name, parsed[0], parsed[1]] = problem
    found = []
    done: set[bytes] = set()
    for made in history.puts.values():
        base = bytes(made.blob.base)
        if base in done:
            continue
        done.add(base)
        for seat in seats(current, PROFILES[made.total], base):
            node = world.node_of(seat.node.account)
            problem = held.get((node.name, base, seat.index), "is not there")
            if problem:
                found.append(f"{made.blob.base} index {seat.index} on {node.name} {problem}")
    return found


def damage(data: bytes) -> str:
    """What is wrong with a shard's bytes; empty when they are as written."""
    try:
        _, footer, geometry = decode_file(data)
    except HcefsError as error:
        return error.reason
    for segment in range(geometry.segments):
        if blake3_digest(piece_in(data, geometry, segment)) != footer.digest_of(segment):
            return f"piece {segment} is damaged"
    return ""
