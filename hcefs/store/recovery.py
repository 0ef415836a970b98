"""Databases that will not open: set aside, never deleted, and an empty one in their place.

A node whose database is damaged must come up again without anybody's help: what it held is
with the others, and its shard files are intact.  So the folder gets another name, an empty
database takes its place, and a mark on the disk says that this node is *restoring* until
what it lacks was brought back (:mod:`hcefs.upkeep.restore`).

Invariants: the mark is durable before the folder gets its new name, so no start ever takes
an empty database for a whole one; what was set aside stays until an operator removes it; a
disk that fails to read (EIO), a database of another version and one that is open elsewhere
are no damage: nothing is set aside for them.

While the mark stands, the absence of a row here means nothing: :attr:`Restoring.active` is
asked by everybody who would conclude something from it.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.store.disk import Disk, disk_errors
from hcefs.store.interface import Stores, Table

ROWS, KEYS, LEDGER = "rows", "keys", "ledger"
UNNAMED = "unnamed"
"""Instead of a database: shards are to be adopted anew, because keys are missing."""

BACKUP = "backup"
"""Instead of a database: rows came from a backup, and may lack what was put after it."""

_MARK = "RESTORING"
_HEAD = "hcefs-restoring 1"
_MARK_BYTES = 4096
_ASIDE = re.compile(r"(rows|keys)\.damaged-[0-9]+")
_NAMES = frozenset({ROWS, KEYS, LEDGER, UNNAMED, BACKUP})
_DAMAGE = re.compile(r"corruption|no such file|invalid argument|not found", re.IGNORECASE)
_PAGE_ROWS = 1000

T = TypeVar("T")
log = logging.getLogger(__name__)


class Restoring:
    """The mark of one node: which databases were lost and are not whole again.

    Raises (constructor):
        Unavailable: the disk failed.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder = folder
        self._path = folder / _MARK
        self.disk = disk if disk is not None else Disk()
        self.names = self._read()

    def _read(self) -> frozenset[str]:
        with disk_errors("reading the mark of a node that restores"):
            if not self.disk.exists(self._path):
                return frozenset()
            fd = self.disk.open(self._path)
            try:
                lines = self.disk.read(fd, _MARK_BYTES, 0).decode("ascii", "replace").splitlines()
            finally:
                self.disk.close(fd)
        names = frozenset(lines[1:])
        if lines[:1] != [_HEAD] or not names <= _NAMES:
            # Somebody wrote it, so something was lost: what it was, is not known.
            log.error("the mark of a node that restores is damaged: everything is restored")
            return frozenset({ROWS, KEYS, UNNAMED})
        return names

    @property
    def active(self) -> bool:
        """Whether rows or keys may be missing here that others have."""
        return bool(self.names & {ROWS, KEYS, UNNAMED, BACKUP})

    @property
    def is_mute(self) -> bool:
        """Whether this node cannot say what it has.

        One whose rows came from a backup can: where all nodes lost theirs, nobody else could.
        """
        return bool(self.names & {ROWS, KEYS, UNNAMED})

    def set_aside(self) -> list[str]:
        """Databases of rows or keys that were set aside and that nobody has removed yet.

        Raises:
            Unavailable: the disk failed.
        """
        with disk_errors("looking for databases that were set aside"):
            if not self.disk.is_folder(self._folder):
                return []
            return sorted(filter(_ASIDE.fullmatch, self.disk.names(self._folder)))

    def add(self, *names: str) -> None:
        """Note what was lost, durably."""
        self._write(self.names | set(names))

    def remove(self, *names: str) -> None:
        """Note that it is whole again, durably."""
        self._write(self.names - set(names))

    def _write(self, names: frozenset[str]) -> None:
        with disk_errors("writing the mark of a node that restores"):
            temporary = self._path.with_suffix(".new")
            if self.disk.exists(temporary):
                self.disk.unlink(temporary)
            fd = self.disk.create(temporary)
            try:
                text = "\n".join([_HEAD, *sorted(names), ""]).encode("ascii")
                self.disk.write(fd, [memoryview(text)])
                self.disk.sync(fd)
            finally:
                self.disk.close(fd)
            crash_point(CrashPoint.RESTORING_DRAFT)
            if names:
                self.disk.rename(temporary, self._path)
            else:
                self.disk.unlink(temporary)
                if self.disk.exists(self._path):
                    self.disk.unlink(self._path)
            self.disk.sync_folder(self._folder)
        self.names = names


def opened_or_set_aside(folder: Path, restoring: Restoring, open_: Callable[[Path], T]) -> T:
    """Open a database; when it is damaged, set it aside and open an empty one.

    Raises:
        HcefsError: it cannot be opened for another reason.
    """
    name = folder.name
    if _lacks_current(folder, restoring.disk):
        # RocksDB would begin anew in the same folder, and delete what lies there.
        _set_aside(folder, restoring, "its file CURRENT is gone")
    try:
        return open_(folder)
    except HcefsError as error:
        if not is_damage(error):
            raise
        _set_aside(folder, restoring, f"{error.kind}: {error.reason}")
    log.error("the database %s begins empty: it is restored from the other nodes", name)
    made = open_(folder)
    crash_point(CrashPoint.RESTORING_EMPTY)
    return made


def is_damage(error: HcefsError) -> bool:
    """Whether a database cannot be opened because of what is on the disk.

    Not so: the disk failed, is full, or holds what a newer version wrote.
    """
    if isinstance(error, Invalid):
        return False
    if isinstance(error, Corrupt):
        return True
    cause = str(error.__cause__ or "")
    return "lock" not in cause.lower() and _DAMAGE.search(cause) is not None


def _lacks_current(folder: Path, disk: Disk) -> bool:
    with disk_errors("looking at a database"):
        if not disk.is_folder(folder) or disk.exists(folder / "CURRENT"):
            return False
        return any(name.endswith((".sst", ".log")) for name in disk.names(folder))


def _set_aside(folder: Path, restoring: Restoring, why: str) -> None:
    restoring.add(folder.name)
    crash_point(CrashPoint.RESTORING_MARKED)
    with disk_errors("setting a database aside"):
        for serial in itertools.count():
            target = folder.with_name(f"{folder.name}.damaged-{serial}")
            if not restoring.disk.exists(target):
                break
        restoring.disk.rename(folder, target)
        restoring.disk.sync_folder(folder.parent)
    crash_point(CrashPoint.RESTORING_SET_ASIDE)
    log.error(
        "the database %s cannot be opened (%s): it is kept as %s", folder.name, why, target.name
    )


def note_lost(folder: Path, restoring: Restoring) -> None:
    """Note databases that somebody took away while the node was stopped.

    Before they are opened: a folder without shards is a new node's.
    """
    with disk_errors("looking at the stores"):
        shards, disk = folder / "shards", restoring.disk
        if not disk.is_folder(shards) or not any(
            len(name) == 2 and disk.names(shards / name) for name in disk.names(shards)
        ):
            return
        lost = [name for name in (ROWS, KEYS) if not disk.exists(folder / name / "CURRENT")]
    if lost:
        restoring.add(*lost)


def unname_shards(stores: Stores, restoring: Restoring) -> None:
    """Let all shards be adopted anew when the keys are lost: their rows come with keys.

    A shard that rows lead to counts as whole, so nothing would bring its keys back.
    """
    if KEYS in restoring.names and UNNAMED not in restoring.names:
        while True:
            page = stores.rows.inspect(Table.PLACED, None, _PAGE_ROWS)
            keys = [key for key, _ in (*page.rows, *page.damaged)]
            if not keys:
                break
            stores.rows.delete([(Table.PLACED, key) for key in keys])
        crash_point(CrashPoint.RESTORING_UNNAMED)
        restoring.add(UNNAMED)
