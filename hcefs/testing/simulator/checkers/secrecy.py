"""No plaintext and no secret key is on any disk, in files, rows, or what was deleted."""

from __future__ import annotations

from hcefs.formats.manifest import Core
from hcefs.store.interface import Table
from hcefs.testing.simulator.history import Violation
from hcefs.testing.simulator.world import World, marker

NAME = "secrecy"
WINDOW = 16


def check(world: World, secrets: list[bytes]) -> None:
    """Raises Violation: something of a payload or of a key is on a disk."""
    mark = marker()
    seeds = [secret[:WINDOW] for secret in secrets]
    for node in world.nodes:
        for data in node.storage.platter.contents():
            if mark in data:
                raise Violation(NAME, f"plaintext lies in a file of {node.name}")
        for table in node.storage.tables:
            rows = b"\0".join(table.contents())
            if mark in rows:
                raise Violation(NAME, f"plaintext lies in a row of {node.name}")
            for seed in seeds:
                if seed in rows:
                    raise Violation(NAME, f"a secret key lies in a row of {node.name}")
    rows = b"\0".join(world.ledger.table.contents())
    if mark in rows or any(seed in rows for seed in seeds):
        raise Violation(NAME, "plaintext or a secret key lies on the ledger")


def no_key_twice(world: World) -> None:
    """Raises Violation: two blobs were sealed with one data key."""
    known: dict[bytes, bytes] = {}
    for node in world.nodes:
        for key, row in node.storage.rows.rows.items():
            if key[0] != Table.CORES:
                continue
            core = Core.decode(row[4:])
            first = known.setdefault(core.dek_commitment, bytes(core.blob))
            if first != bytes(core.blob):
                raise Violation(NAME, f"{core.blob} has the data key of another blob")


def secrets_of(world: World) -> list[bytes]:
    """The seeds of every account."""
    found: list[bytes] = []
    for keys in (*world.operator_keys, *(p.keys for p in world.people.values())):
        found += [keys.signing_seed, keys.token_seed, keys.receiving_seed, keys.record_master]
    return found
