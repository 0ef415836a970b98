"""How a new replica begins with a snapshot instead of the first block.

Invariants: the log appears at its place whole or not at all, by a rename of a folder that
is durable; nothing is written before the signed headers were checked, and no part before
its digest.  A log that is there is never touched.
Source: docs/decisions/0028-ledger-snapshots.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.durable_files import sync_folder
from hcefs.errors import HcefsError, Invalid
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import open_database, raw_batch, translated
from hcefs.ledger.rows import (
    BASE_ROW,
    CARRIER_ROW,
    GENESIS_ROW,
    SNAPSHOT_ROW,
    TIP_ROW,
    block_hash_row,
    part_row,
    seal,
    term_row,
    unseal,
)
from hcefs.ledger.snapshot import Joiner, SnapshotOffer
from hcefs.runtime import Runtime

JOINING = ".joining"
"""What the folder is called until it is whole."""


class SnapshotSource(Protocol):
    """Whoever serves a snapshot; all it says is a claim."""

    async def offer(self) -> SnapshotOffer | None:
        """The newest snapshot, or None."""

    def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        """The parts of the snapshot of a height, in order."""


class Installer:
    """Builds the log of a checked offer beside its place, and moves it there.

    Close it whatever happens; what was not finished is removed by the next one.
    """

    def __init__(self, path: Path, genesis: Genesis, offer: SnapshotOffer) -> None:
        """
        Raises:
            Invalid: ``bad-snapshot``: the offer does not verify.
            Unavailable, Exhausted: the disk failed; so do the methods.
        """
        self._terms = offer.check(genesis)
        self._genesis = genesis
        self._offer = offer
        self._path = path
        self._folder = path.with_name(path.name + JOINING)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._database = translated(open_database, self._folder)
        self._joiner = Joiner()
        self._count = 0

    def add(self, part: bytes) -> None:
        """Check and write the next part.

        Raises:
            Invalid: ``bad-snapshot``.
        """
        manifest, index = self._offer.manifest, self._count
        manifest.check_part(index, part)
        batch = raw_batch()
        for key, value in self._joiner.add(part):
            batch.put(key, seal(key, value))
        # Kept, so that this replica has the snapshot too.
        key = part_row(manifest.height, index)
        batch.put(key, seal(key, part))
        translated(self._database.write, batch)
        self._count += 1
        crash_point(CrashPoint.SNAPSHOT_PART_WRITTEN)

    def finish(self) -> None:
        """Make the log durable, and move it to its place.

        Raises:
            Invalid: ``bad-snapshot``: parts are missing, or it is of another block.
        """
        offer = self._offer
        self._joiner.finish()
        header = offer.base.header
        key = block_hash_row(header.height)
        found = translated(self._database.get, key)
        whole = self._count == len(offer.manifest.parts)
        if not whole or found is None or unseal(key, found) != header.hash():
            raise Invalid(
                "this snapshot of the ledger is cut short, or of another block than its header: "
                "fetch it again, or start this replica from the first block",
                reason="bad-snapshot",
            )
        batch = raw_batch()
        rows = {
            GENESIS_ROW: self._genesis.encode(),
            BASE_ROW: offer.base.encode(),
            TIP_ROW: header.encode(),
            SNAPSHOT_ROW: offer.manifest.encode(),
            CARRIER_ROW: offer.carrier.encode(),
        }
        rows.update({term_row(each.change.term): each.encode() for each in self._terms})
        for key, value in rows.items():
            batch.put(key, seal(key, value))
        translated(self._database.write, batch)
        # Everything into tables, which RocksDB fsyncs: the log of writes is not needed.
        translated(self._database.flush)
        self.close()
        translated(sync_folder, self._folder)
        crash_point(CrashPoint.SNAPSHOT_BUILT)
        # Fails on a folder that is not empty: a log that is there stays.
        translated(os.rename, self._folder, self._path)
        crash_point(CrashPoint.SNAPSHOT_RENAMED)
        translated(sync_folder, self._path.parent)

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        # The binding raises plain Exception when it is closed already.
        with contextlib.suppress(Exception):
            self._database.close()


async def join(path: Path, genesis: Genesis, source: SnapshotSource, runtime: Runtime) -> int:
    """Begin a log at ``path`` with a snapshot; its height, or 0 if there is none or a log.

    Raises:
        HcefsError: it could not be fetched, or does not verify; nothing is at ``path``.
    """
    if await runtime.disk(path.exists):
        return 0
    offer = await source.offer()
    if offer is None:
        return 0
    try:
        return await _install(path, genesis, source, offer, runtime)
    except HcefsError:
        # The disk may be full: it is needed for the replay that follows.
        await runtime.disk(_discard, path)
        raise


def _discard(path: Path) -> None:
    shutil.rmtree(path.with_name(path.name + JOINING), ignore_errors=True)


async def _install(
    path: Path, genesis: Genesis, source: SnapshotSource, offer: SnapshotOffer, runtime: Runtime
) -> int:
    installer = await runtime.disk(Installer, path, genesis, offer)
    try:
        async with contextlib.aclosing(source.parts(offer.manifest.height)) as parts:
            async for part in parts:
                await runtime.disk(installer.add, part)
        await runtime.disk(installer.finish)
    finally:
        await runtime.disk(installer.close)
    return offer.manifest.height
