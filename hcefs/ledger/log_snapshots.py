"""The part of a ledger's log that is about snapshots: made, named, kept in parts, offered.

Invariants: one snapshot is kept at a time, and it counts once its manifest is on disk;
parts of all others are removed.  A snapshot is offered once a signed header names its
root.  A state of which one is due stays readable, frozen, until it is taken.
Source: docs/decisions/0028-ledger-snapshots.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import NotFound
from hcefs.ledger.block import Block, BlockHeader
from hcefs.ledger.database import FrozenRows, LogDatabase, Rows, translated
from hcefs.ledger.rows import CARRIER_ROW, PART_ROWS, SNAPSHOT_ROW, part_row, seal, u64
from hcefs.ledger.snapshot import (
    FAMILIES,
    SnapshotManifest,
    SnapshotRule,
    check_named_root,
)

_SWEEP_ROWS = 1000


class LogSnapshots:
    """The snapshots of one log.  Failures are those of :class:`LogDatabase`."""

    def __init__(self, database: LogDatabase, rule: SnapshotRule, tip: BlockHeader | None) -> None:
        """``tip`` is the header of the last block on disk."""
        self.rule = rule
        self.roots_unchecked = 0
        """Roots that headers named while no snapshot was here to compare them with."""
        self._database = database
        self._frozen: tuple[BlockHeader, FrozenRows] | None = None
        self._made, self._carrier = stored_snapshot(database.rows)
        # Stopped before it was made, and no block came since: the state is still that.
        if tip is not None and rule.is_due(tip) and self.height != tip.height:
            self._frozen = tip, database.frozen()

    @property
    def height(self) -> int:
        """The block after which the newest snapshot here was taken; 0: there is none."""
        return 0 if self._made is None else self._made.height

    def root_to_name(self, height: int) -> bytes:
        """The snapshot root for the header of the next block: empty, if none is to be named.

        Before protocol version 3 none is: then no snapshot is made.
        """
        made, carrier = self._made, self._carrier
        due = self.rule.named_by(height)
        if not due or made is None or made.height != due:
            return b""
        named = 0 if carrier is None else self.rule.named_by(carrier.header.height)
        return b"" if named == due else made.root()

    @property
    def made(self) -> SnapshotManifest | None:
        """The snapshot that is kept here, whether a header has named it or not."""
        return self._made

    def due(self, tip: BlockHeader, ahead: int) -> None:
        """Keep the state after ``tip`` readable if a snapshot of it is due.

        ``ahead`` is the height of the newest head seen.  Nothing is kept of the past: a
        replica that catches up would make one after the other.
        """
        if self.rule.is_due(tip) and ahead < tip.height + self.rule.every:
            self._frozen = tip, self._database.frozen()

    @property
    def carrier(self) -> Block | None:
        """The newest block, without its transactions, whose header names a snapshot."""
        return self._carrier

    def note_carrier(self, carrier: Block | None) -> None:
        """Take the newest carrier, which is on disk."""
        if carrier is None or carrier is self._carrier:
            return
        self._carrier = carrier
        due, made = self.rule.named_by(carrier.header.height), self._made
        if made is None or made.height != due:
            self.roots_unchecked += 1

    def forget_frozen(self) -> None:
        """Let go of the state that was kept readable."""
        self._frozen = None

    def reopened(self, stored: tuple[SnapshotManifest | None, Block | None]) -> None:
        """Take what :func:`stored_snapshot` found when the folder was opened again."""
        self._frozen = None
        self._made, self._carrier = stored

    def check_named_root(self, header: BlockHeader) -> None:
        """Check what a header says of a snapshot.

        Raises:
            Corrupt: ``bad-snapshot-root``.
        """
        check_named_root(self.rule, header, self._made)

    def check_made(self) -> None:
        """Check the snapshot that was made here against the one that was named before.

        Raises:
            Corrupt: ``bad-snapshot-root``.
        """
        if self._carrier is not None:
            check_named_root(self.rule, self._carrier.header, self._made)

    def take_frozen(self) -> tuple[int, Iterator[tuple[bytes, bytes]]] | None:
        """The newest state of which a snapshot is due, once: its height and rows."""
        frozen, self._frozen = self._frozen, None
        if frozen is None:
            return None
        header, rows = frozen
        return header.height, (
            (family + key, value) for family in FAMILIES for key, value in rows.rows(family)
        )

    def keep_part(self, height: int, index: int, part: bytes) -> None:
        """Write a part of a snapshot; it counts once :meth:`keep` was called."""
        with self._database.writing:
            self._database.require_writable()
            batch = self._database.new_batch()
            key = part_row(height, index)
            batch.put(key, seal(key, part))
            self._database.write(batch, sync=False)
        crash_point(CrashPoint.SNAPSHOT_PART_KEPT)

    def keep(self, manifest: SnapshotManifest) -> None:
        """Put a snapshot whose parts are written in the place of the one before; fsynced."""
        with self._database.writing:
            self._database.require_writable()
            batch = self._database.new_batch()
            batch.put(SNAPSHOT_ROW, seal(SNAPSHOT_ROW, manifest.encode()))
            self._database.write(batch)
            self._made = manifest
        crash_point(CrashPoint.SNAPSHOT_MADE)
        self.sweep_parts()

    def sweep_parts(self) -> None:
        """Remove parts of every snapshot but the one kept; call it while none is being made."""
        translated(self._sweep, u64(0 if self._made is None else self._made.height))

    def _sweep(self, kept: bytes) -> None:
        cursor = self._database.cursor()
        cursor.seek(PART_ROWS)
        while cursor.valid() and cursor.key().startswith(PART_ROWS):
            batch = self._database.new_batch()
            while len(batch) < _SWEEP_ROWS and cursor.valid():
                key = cursor.key()
                if not key.startswith(PART_ROWS):
                    break
                if key[1:9] == kept:
                    # Past all parts of the one that is kept.
                    cursor.seek(PART_ROWS + kept + b"\xff" * 5)
                    continue
                batch.delete(key)
                cursor.next()
            if len(batch):
                with self._database.writing:
                    self._database.require_writable()
                    self._database.write(batch, sync=False)

    def offered(self) -> tuple[SnapshotManifest, Block] | None:
        """The snapshot here and the block that names it, if a signed header has named it."""
        made, carrier = self._made, self._carrier
        if (
            made is None
            or carrier is None
            or self.rule.named_by(carrier.header.height) != made.height
            or carrier.header.snapshot_root != made.root()
        ):
            return None
        return made, carrier

    def part(self, height: int, index: int) -> bytes:
        """A part of the snapshot here.

        Raises:
            NotFound: ``no-such-snapshot``: it is of another height, or has no such part.
        """
        made = self._made
        row = None
        if made is not None and made.height == height and 0 <= index < len(made.parts):
            row = self._database.rows.row(part_row(height, index))
        if row is None:
            raise NotFound(
                f"there is no such part of a snapshot of block {height} here: ask for the newest",
                reason="no-such-snapshot",
            )
        return row


def stored_snapshot(rows: Rows) -> tuple[SnapshotManifest | None, Block | None]:
    """The manifest of the snapshot on disk, and the newest block that names one."""
    return rows.decoded(SnapshotManifest, SNAPSHOT_ROW), rows.decoded(Block, CARRIER_ROW)
