"""Small files that are there whole or not at all, and are durable on return.

For configurations, keys and certificates.  What a node stores goes through
:mod:`hcefs.store.disk`, which a simulated disk can take the place of.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hcefs.errors import Conflict


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file with mode 0600, whole or not at all, and durable on return.

    Raises:
        Conflict: the file exists and ``replace`` is false.
        OSError: the file cannot be written.
    """
    # mkstemp creates with mode 0600 whatever the umask says.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        _fill(handle, data)
        if replace:
            os.replace(temporary, path)
        else:
            # A link, unlike a rename, refuses an existing name: a key is never lost by a repeat.
            os.link(temporary, path)
    except FileExistsError:
        raise Conflict(
            f"{path} exists already: move it away if it is not needed, or choose another name",
            reason="file-exists",
        ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file under a temporary name and rename it: no one sees half of it; durable."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        _fill(handle, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def _fill(handle: int, data: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
