"""The file system calls of a shard store, and what their failures mean."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hcefs.errors import Exhausted, HcefsError, Unavailable
from hcefs.store.health import disk_full

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class Disk:
    """The file system calls of a node's stores.

    Tests derive from it to record and to fail; the simulator has a disk of its own.
    """

    def make_folder(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, FOLDER_MODE)

    def make_private_folder(self, path: Path, *, parents: bool) -> None:
        """Make a folder that is there already private, too."""
        path.mkdir(mode=FOLDER_MODE, parents=parents, exist_ok=True)
        path.chmod(FOLDER_MODE)

    def is_folder(self, path: Path) -> bool:
        return path.is_dir()

    def names(self, path: Path) -> list[str]:
        """What a folder holds, in no order."""
        return os.listdir(path)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def length(self, path: Path) -> int:
        """Bytes of a file that is not open."""
        return os.lstat(path).st_size

    def lock(self, path: Path) -> int:
        """Hold a file against other processes, for as long as the descriptor is open.

        Raises:
            BlockingIOError: another process holds it.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def close(self, fd: int) -> None:
        os.close(fd)

    def bypass_cache(self, fd: int, *, on: bool = True) -> bool:
        """Let reads and writes of this file bypass the page cache; False where that cannot be."""
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | (os.O_DIRECT if on else 0))
        except (OSError, AttributeError):  # the file system, or the whole system, cannot
            return False
        return True

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def write(self, fd: int, buffers: Sequence[memoryview]) -> int:
        return os.writev(fd, buffers)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def read_into(self, fd: int, out: memoryview, offset: int) -> int:
        return os.preadv(fd, [out], offset)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def same(self, one: int, other: int) -> bool:
        """Whether two descriptors are of one file."""
        return os.path.samestat(os.fstat(one), os.fstat(other))

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or a folder another name; a file there is replaced."""
        os.rename(source, target)

    def space(self, path: Path) -> tuple[int, int]:
        """Free bytes (for unprivileged users) and all bytes of the file system."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


def disk_error(error: OSError, doing: str) -> HcefsError:
    """The typed error for what the system reported while doing something."""
    if error.errno in _FULL:
        return disk_full(f"the disk is full while {doing}")
    if error.errno in _TOO_MANY_FILES:
        return Exhausted(
            f"too many open files while {doing}: raise the limit of the process (ulimit -n)",
            reason="open-files",
        )
    name = errno.errorcode.get(error.errno or 0, "an unknown error")
    return Unavailable(
        f"the disk reported {name} while {doing}: look at the kernel's log and the disk's health",
        reason="disk-error",
    )


@contextlib.contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn what the system reports meanwhile into a typed error.

    Raises:
        Exhausted: the disk is full, or too many files are open.
        Unavailable: any other failure of the disk.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing) from error
