"""Golden vectors of protocol version 3: a chain whose headers name a snapshot, and its bytes.

The chain goes through versions 1 and 2.  The rule is a small one, so that the snapshot is
of block 8 and block 10 names it; the numbers in force are frozen beside it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block, sign_block
from hcefs.ledger.log import AppliedBlock, LedgerLog
from hcefs.ledger.snapshot import (
    FAMILIES,
    PART_BYTES,
    SNAPSHOT_RULE,
    SnapshotManifest,
    SnapshotRule,
    cut,
)
from hcefs.ledger.transactions import Upgrade
from tests.unit.ledger.replicas import make_block, population
from tests.unit.ledger.scenario import Scenario

RULE = SnapshotRule(every=8, delay=2)


def _blocks(world: Scenario) -> list[AppliedBlock]:
    made = [
        make_block(world, [world.sign(Upgrade(2, 2), "o1", "o2").encode()]),
        make_block(world, [world.sign(Upgrade(3, 4), "o1", "o2").encode()]),
        make_block(world, population(world)),
    ]
    while len(made) < 9:
        name = f"e{len(made)}"
        append = world.sign(world.append(name, world.entry(name)), "pat").encode()
        made.append(make_block(world, [append]))
    return made


def _named(world: Scenario, applied: AppliedBlock, root: bytes) -> AppliedBlock:
    header = replace(applied.block.header, snapshot_root=root)
    world.header = header
    return replace(applied, block=sign_block(header, applied.block.transactions, world.writer))


def snapshot_of(log: LedgerLog) -> tuple[SnapshotManifest, list[bytes]]:
    """The snapshot that is due on a log, without its maker."""
    found = log.snapshots.take_frozen()
    assert found is not None
    height, rows = found
    parts = list(cut(rows))
    digests = tuple(blake3_digest(part) for part in parts)
    return SnapshotManifest(height, sum(map(len, parts)), digests), parts


def _chain(world: Scenario) -> tuple[list[Block], SnapshotManifest, list[bytes]]:
    blocks = _blocks(world)
    with tempfile.TemporaryDirectory() as folder:
        log = LedgerLog.open(Path(folder) / "log", world.genesis, snapshots=RULE)
        try:
            log.append(blocks)
            manifest, parts = snapshot_of(log)
        finally:
            log.close()
    blocks.append(_named(world, make_block(world, []), manifest.root()))
    return [applied.block for applied in blocks], manifest, parts


def chain_blocks(world: Scenario) -> list[Block]:
    """Ten blocks, of which the tenth names the snapshot of the eighth."""
    return _chain(world)[0]


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    world = Scenario()
    signed, manifest, parts = _chain(world)
    return {
        "rule": [SNAPSHOT_RULE.every, SNAPSHOT_RULE.delay, PART_BYTES],
        "families": b"".join(FAMILIES).hex(),
        "genesis": world.genesis.encode().hex(),
        "chain": [{"block": block.encode().hex(), "hash": block.hash().hex()} for block in signed],
        "manifest": manifest.encode().hex(),
        "root": manifest.root().hex(),
        "parts": [part.hex() for part in parts],
    }
