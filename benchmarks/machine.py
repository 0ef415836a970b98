"""The machine and its processes: versions, CPU time, peak memory, bytes on disk.

Owns everything that is read from the kernel.  CPU time of another process comes
from its process CPU clock (nanoseconds), or from ``utime + stime`` of
``/proc/<pid>/stat`` (hundredths of a second) where that clock cannot be read;
both count the kernel's work for the process, neither counts kernel threads that
write dirty pages back.

Source: clock_getcpuclockid(3), proc(5) (``clear_refs``, ``status``, ``stat``).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import DEFAULT_PROFILE, profile_named

PACKAGES: Final = (
    "hcefs",
    "grpcio",
    "protobuf",
    "cryptography",
    "blake3",
    "zfec",
    "pyeclib",
    "google-crc32c",
    "cbor2",
    "biscuit-python",
    "rocksdict",
)
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PEAK_RESET: Final = "5"
_CLOCK_OF_PROCESS: Final = 2
"""``CPUCLOCK_SCHED`` of a whole process, as clock_getcpuclockid(3) builds it."""


# --- CPU time ---------------------------------------------------------------------


def cpu_seconds(pid: int) -> float | None:
    """User and system time that a process has used so far; None if there is none."""
    try:
        return time.clock_gettime((~pid << 3) | _CLOCK_OF_PROCESS)
    except OSError:
        return cpu_seconds_of_stat(pid)


def cpu_seconds_of_stat(pid: int) -> float | None:
    """The same from ``/proc/<pid>/stat``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold anything, brackets too.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything, steal included."""
    with Path("/proc/stat").open() as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / _TICKS


# --- memory -----------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in bytes: now, and at most since the last reset."""

    now: int
    peak: int


def memory(pid: int) -> Memory | None:
    """Resident memory of a process; None if there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    values = {name: text for name, _, text in (line.partition(":") for line in lines)}
    if "VmRSS" not in values or "VmHWM" not in values:
        return None  # a process that has ended and was not waited for
    return Memory(_kibibytes(values["VmRSS"]), _kibibytes(values["VmHWM"]))


def _kibibytes(text: str) -> int:
    return int(text.split()[0]) << 10


def reset_peak(pid: int) -> bool:
    """Let the peak of a process count from now on; False where the kernel does not allow it."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text(_PEAK_RESET)
    except OSError:
        return False
    return True


# --- processes over a stretch of time ------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """What processes used between two moments, by their name.

    ``growth`` is the peak above the resident memory at the start, ``peak`` the
    peak itself, both in bytes.  ``others`` is CPU time that the machine spent on
    anything else within these ``seconds``: the noise.
    """

    cpu: Mapping[str, float]
    growth: Mapping[str, int]
    peak: Mapping[str, int]
    others: float
    seconds: float

    @property
    def cpu_total(self) -> float:
        """CPU seconds of all processes together."""
        return sum(self.cpu.values())


class Meter:
    """Watches processes, by name and pid, from its making to :meth:`read`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._peaks_count = {name: reset_peak(pid) for name, pid in self._pids.items()}
        self._memory = {name: memory(pid) for name, pid in self._pids.items()}
        self._busy, self._started = busy_seconds(), time.monotonic()
        self._cpu = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def read(self) -> Spent:
        """What was used since the start; a process that has ended is left out."""
        cpu: dict[str, float] = {}
        growth: dict[str, int] = {}
        peak: dict[str, int] = {}
        for name, pid in self._pids.items():
            before, after = self._cpu[name], cpu_seconds(pid)
            if before is not None and after is not None:
                cpu[name] = after - before
        busy, seconds = busy_seconds() - self._busy, time.monotonic() - self._started
        for name, pid in self._pids.items():
            start, end = self._memory[name], memory(pid)
            if start is not None and end is not None:
                peak[name] = end.peak
                if self._peaks_count[name]:
                    growth[name] = max(0, end.peak - start.now)
        return Spent(cpu, growth, peak, max(0.0, busy - sum(cpu.values())), seconds)


# --- disk -------------------------------------------------------------------------


@dataclass(frozen=True)
class DiskUse:
    """Bytes in files: their lengths, and what the file system has allocated for them."""

    length: int = 0
    allocated: int = 0

    def __sub__(self, other: DiskUse) -> DiskUse:
        return DiskUse(self.length - other.length, self.allocated - other.allocated)

    def __add__(self, other: DiskUse) -> DiskUse:
        return DiskUse(self.length + other.length, self.allocated + other.allocated)


def disk_use(folder: Path) -> DiskUse:
    """All files below a folder; files that vanish meanwhile do not count."""
    length = allocated = 0
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except OSError:
            continue
        if path.is_file():
            length += stat.st_size
            allocated += stat.st_blocks * 512
    return DiskUse(length, allocated)


# --- what the results must name -----------------------------------------------------


def environment(folder: Path) -> dict[str, Any]:
    """Versions, kernel, CPU, cores and settings; ``folder`` is where the data goes."""
    profile = profile_named(DEFAULT_PROFILE)
    kernel = codec_for(profile).kernel  # loads libisal
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "libisal": _libisal(),
        "erasure_kernel": kernel,
        "libc": " ".join(platform.libc_ver()),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": file_system(folder),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "profile": profile.name,
        "fsync": "on: file and folder, on every holder, before a put is acknowledged",
        "tls": "1.3; mutual between nodes, clients verify the server and sign each request",
        "network": "loopback",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _libisal() -> str:
    """The file of the loaded libisal: it has no function that tells its version."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return "unknown"
    names = {Path(line.split()[-1]).name for line in lines if "libisal" in line}
    return ", ".join(sorted(names)) or "not loaded"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    target = str(folder.resolve())
    for line in mounts:
        fields = line.split()
        point = fields[1].rstrip("/")
        if len(point) >= len(best) and (target == point or target.startswith(point + "/")):
            best, kind = point, fields[2]
    return kind
