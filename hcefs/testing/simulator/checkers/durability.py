"""What was acknowledged is on as many disks as the receipt said, and would survive a power cut.

Looks at the disks themselves, at every moment of a run: of each acknowledged blob there are
at least as many distinct intact shards as were acknowledged, less those that a fault
destroyed.  So a put that is acknowledged before it is synchronised, a planned change that
deletes before the new holder has its copy, and a collector that takes what is committed
are all seen when they happen, whether or not a power cut comes.
"""

from __future__ import annotations

from hcefs.integrity import blake3_digest
from hcefs.ledger.rows import TIP_ROW
from hcefs.testing.simulator.files import index_of_name
from hcefs.testing.simulator.history import History, Violation
from hcefs.testing.simulator.world import World

NAME = "durability"


def unchanged(world: World, history: History) -> None:
    """Raises Violation: a copy of a shard differs from the shard, and no fault changed it."""
    for node in world.nodes:
        for name, file in node.storage.platter.durable_shards():
            parsed = index_of_name(name)
            if parsed is None or name.count(".") != 1 or file.is_known:
                continue
            file.is_known = True
            digest = blake3_digest(file.data)
            if history.shards.setdefault(parsed, digest) != digest:
                raise Violation(NAME, f"{name} on {node.name} is not the shard of that name")


def durable_indexes(world: World) -> dict[bytes, set[int]]:
    """By blob base, the indexes of the shards that are safe on some disk."""
    found: dict[bytes, set[int]] = {}
    for node in world.nodes:
        for name, _ in node.storage.platter.durable_shards():
            parsed = index_of_name(name)
            if parsed is not None:
                found.setdefault(parsed[0], set()).add(parsed[1])
    return found


def synchronised(world: World) -> None:
    """Raises Violation: a store or a log has returned from a write that a power cut may undo.

    A mere renewal of the lease is the one write that need not survive.
    """
    for node in world.nodes:
        for table in (node.storage.rows, node.storage.keys):
            if table.undo and node.is_up:
                raise Violation(NAME, f"rows of {node.name} are readable and not synchronised")
    logs = [(node.name, node.storage.ledger) for node in world.nodes if node.is_up]
    for name, table in (*logs, ("ledger", world.ledger.table)):
        if any(key == TIP_ROW for batch in table.undo for key, _ in batch):
            raise Violation(NAME, f"a block on {name} is readable and not synchronised")


def check(world: World, history: History) -> None:
    """Raises Violation: an acknowledged shard is missing that no fault took."""
    found = durable_indexes(world)
    for made in history.puts.values():
        base = bytes(made.blob.base)
        here = found.get(base, set())
        lost = history.destroyed.get(base, set()) - here
        if len(here) < made.durable - len(lost):
            raise Violation(
                NAME,
                f"{made.blob} was acknowledged with {made.durable} shards, {sorted(here)} are "
                f"safe now, faults took {sorted(lost)}",
            )
