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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.durable_files import sync_folder
from hcefs.errors import Corrupt, HcefsError, Invalid, Unavailable
from hcefs.ledger.database import open_database, raw_batch, state_of, translated
from hcefs.ledger.genesis import Genesis
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
from hcefs.ledger.state import StateView
from hcefs.runtime import Runtime

WITNESSES_MAX = 9
"""Most nodes that are asked which root they made."""
JOINING = ".joining"
"""What the folder is called until it is whole."""


class SnapshotSource(Protocol):
    """Whoever serves a snapshot; all it says is a claim."""

    async def offer(self) -> SnapshotOffer | None:
        """The newest snapshot, or None."""

    def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        """The parts of the snapshot of a height, in order."""


@dataclass(frozen=True)
class Witness:
    """A node that the snapshot names: where it is, and the TLS key that it registered."""

    address: str
    spki: bytes


class Witnesses(Protocol):
    """The way to the nodes that are asked for the roots which they made."""

    async def roots(self, height: int, witnesses: list[Witness]) -> list[bytes]:
        """What those that answer, and keep a snapshot of that height, say its root is."""


def judge(root: bytes, asked: int, answers: list[bytes]) -> None:
    """Believe a root that most of the answers name, and at least one where any was asked.

    Raises:
        Unavailable: ``snapshot-unconfirmed``: nobody can be compared with.
        Corrupt: ``snapshot-disputed``: as many or more made another one.
    """
    if not asked:
        return
    if not answers:
        raise Unavailable(
            f"none of {asked} nodes answers with a snapshot of that block to compare with: begin "
            "again when they do",
            reason="snapshot-unconfirmed",
        )
    agreeing = sum(1 for answer in answers if answer == root)
    if 2 * agreeing <= len(answers):
        raise Corrupt(
            f"{len(answers) - agreeing} of {len(answers)} nodes made another snapshot than the "
            "ledger names: keep the logs of both, and look at the ledger before a node is added",
            reason="snapshot-disputed",
        )


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

    def check(self) -> None:
        """Check that all parts have come, and that they are of the block of the header.

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

    def finish(self) -> None:
        """Make the log durable, and move it to its place.

        Raises:
            Invalid: ``bad-snapshot``: parts are missing, or it is of another block.
        """
        self.check()
        offer = self._offer
        header = offer.base.header
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

    def witnesses(self, own_spki: bytes) -> list[Witness]:
        """Other nodes of the map in the snapshot, at most ``WITNESSES_MAX``, by number."""
        header = self._offer.base.header
        view = StateView(state_of(self._database), header.height, header.time_ms)
        current = view.cluster_map()
        found = []
        for node in sorted(current.nodes, key=lambda each: each.node_id) if current else ():
            account = view.account(node.account)
            if account is None or not account.active or account.spki in (b"", own_spki):
                continue
            found.append(Witness(node.peer_address, account.spki))
        return found[:WITNESSES_MAX]

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        # The binding raises plain Exception when it is closed already.
        with contextlib.suppress(Exception):
            self._database.close()


async def join(
    path: Path,
    genesis: Genesis,
    source: SnapshotSource,
    runtime: Runtime,
    witnesses: Witnesses | None = None,
    own_spki: bytes = b"",
) -> int:
    """Begin a log at ``path`` with a snapshot; its height, or 0 if there is none or a log.

    ``witnesses`` are asked before the log is put in place; without them nobody is.

    Raises:
        HcefsError: it could not be fetched, or does not verify; nothing is at ``path``.
    """
    if await runtime.disk(path.exists):
        return 0
    offer = await source.offer()
    if offer is None:
        return 0
    try:
        installer = await runtime.disk(Installer, path, genesis, offer)
        try:
            async with contextlib.aclosing(source.parts(offer.manifest.height)) as parts:
                async for part in parts:
                    await runtime.disk(installer.add, part)
            await runtime.disk(installer.check)
            if witnesses is not None:
                asked = await runtime.disk(installer.witnesses, own_spki)
                answers = await witnesses.roots(offer.manifest.height, asked)
                judge(offer.manifest.root(), len(asked), answers)
            await runtime.disk(installer.finish)
        finally:
            await runtime.disk(installer.close)
        return offer.manifest.height
    except HcefsError:
        # The disk may be full: it is needed for the replay that follows.
        await runtime.disk(_discard, path)
        raise


def _discard(path: Path) -> None:
    shutil.rmtree(path.with_name(path.name + JOINING), ignore_errors=True)
