"""How fast a data folder's disk is, whether it has room, and whether it is one at all.

The measurement writes at most ``BYTES`` and ``SYNCS`` small files, for at most
``SECONDS`` each, into a folder of its own, which it removes.

Not guaranteed: that what was measured in a second is what the disk does for hours; a
drive's cache may lie about fsync, and nothing here can see that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hcefs.cli.doctor_findings import Finding, ok, problem, warning
from hcefs.cli.output import size_text
from hcefs.runtime import Runtime

BYTES = 32 << 20
STEP = 1 << 20
SYNCS = 16
SECONDS = 1.0
WRITE_LEAST = 50 << 20
"""Bytes a second: a node that takes less holds back every put it has a shard of."""

SYNC_MS_MAX = 20.0
"""Two fsyncs are in each acknowledgement."""

FREE_LEAST = 0.10
VOLATILE = frozenset({"tmpfs", "ramfs", "overlay"})
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})


def disk_findings(
    data: Path, where: str, runtime: Runtime, *, reserve_bytes: int
) -> Iterator[Finding]:
    """Kind, room and speed of the disk of a data folder, or of where it will be made."""
    folder = data
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    yield judge_kind(filesystem_of(folder), where)
    usage = shutil.disk_usage(folder)
    yield judge_room(usage.free, usage.total, reserve_bytes, where)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
            rate = _write_rate(Path(place), runtime)
            sync_ms = _sync_ms(Path(place), runtime)
    except OSError as error:
        yield problem(
            "disk",
            where,
            f"{folder} cannot be written: {error.strerror}",
            "run the doctor as the user of the process; look at the kernel's log",
        )
        return
    yield judge_speed(rate, sync_ms, where)


def judge_kind(kind: str, where: str) -> Finding:
    """The finding about a kind of file system."""
    if kind in VOLATILE:
        return warning(
            "disk",
            where,
            f"the data is on {kind}, which does not outlive the machine or the container",
            "put `data` on a disk of its own, with ext4 or XFS",
        )
    if kind in REMOTE:
        return warning(
            "disk",
            where,
            f"the data is on {kind}: its fsync and its failures are somebody else's",
            "put `data` on a local disk of its own: the cluster replicates by itself",
        )
    return ok("disk", where, f"file system {kind or 'unknown'}")


def judge_room(free: int, total: int, reserve: int, where: str) -> Finding:
    """The finding about free space."""
    text = f"{size_text(free)} of {size_text(total)} free, {size_text(reserve)} kept in reserve"
    if free <= reserve:
        remedy = "add a node, or free space: this one takes no shards"
        return problem("disk", where, text, remedy)
    if free < total * FREE_LEAST:
        return warning("disk", where, text, "add a node soon, or lower this one's weight")
    return ok("disk", where, text)


def judge_speed(rate: float, sync_ms: float, where: str) -> Finding:
    """The finding about a disk's speed."""
    text = f"writes {rate / (1 << 20):.0f} MiB/s, fsync takes {sync_ms:.1f} ms (median, now)"
    if rate < WRITE_LEAST or sync_ms > SYNC_MS_MAX:
        return warning(
            "disk",
            where,
            text,
            "repeat it when nothing else writes; if it stays so, use an SSD with power-loss "
            "protection, or a lower weight",
        )
    return ok("disk", where, text)


def filesystem_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of the file system that a path is on; empty where that is not told."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), -1, ""
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or "-" not in fields:
            continue
        # Spaces in a mount point are written as \040.
        point = Path(fields[4].replace("\\040", " "))
        if (resolved == point or point in resolved.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[fields.index("-") + 1]
    return kind


def _write_rate(folder: Path, runtime: Runtime) -> float:
    """Bytes a second of one stream with its fsync."""
    data = runtime.random(STEP)
    began, written = runtime.monotonic(), 0
    with (folder / "stream").open("wb", buffering=0) as file:
        while written < BYTES and (not written or runtime.monotonic() - began < SECONDS):
            written += file.write(data)
        os.fsync(file.fileno())
    return written / max(1e-6, runtime.monotonic() - began)


def _sync_ms(folder: Path, runtime: Runtime) -> float:
    """The median of small writes with an fsync each."""
    took: list[float] = []
    began = runtime.monotonic()
    with (folder / "small").open("wb", buffering=0) as file:
        while len(took) < SYNCS and (not took or runtime.monotonic() - began < SECONDS):
            start = runtime.monotonic()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            took.append((runtime.monotonic() - start) * 1000)
    return sorted(took)[len(took) // 2]
