"""What ``hcefs doctor`` looks at once a machine: clock, kernel, libraries, processor, limits.

Reads only; Linux's ``/proc`` and ``adjtimex``.  Where another system has neither, the
check says that it could not look.  Source: adjtimex(2), getrlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import resource
import sys
from importlib import metadata
from pathlib import Path

from hcefs.cli.doctor_findings import Finding, ok, problem, warning
from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import DEFAULT_PROFILE, profile_named

WHERE = "this machine"
KERNEL_LEAST = (5, 4)
"""The oldest kernel with long-term support that has pidfds (5.3), which stopping relies on."""

GLIBC_HUGE_PAGES = (2, 35)
FILES_LEAST = 4096
CLOCK_ERROR_MS_MAX = 1_000
"""Far below any permitted skew: leases and proofs are judged by this clock."""

_TIME_ERROR = 5
_LIBRARIES = ("grpcio", "cryptography", "rocksdict", "zfec", "pyeclib", "blake3", "google-crc32c")
_VERSION = re.compile(r"(\d+)\.(\d+)")


class _Timex(ctypes.Structure):
    """``struct timex`` as far as it is read; the rest is room for what the kernel writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("error_max_us", ctypes.c_long),
        ("error_estimate_us", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def machine_findings() -> list[Finding]:
    """Everything about the machine itself."""
    return [clock(), kernel(), *libraries(), erasure(), processor(), open_files()]


def clock() -> Finding:
    """Whether the kernel says that its clock is kept by NTP or PTP, and how well."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:
        return _unknown_clock("this system does not tell")
    answer = _Timex()  # modes 0: only read
    state = adjtimex(ctypes.byref(answer))
    if state < 0:
        return _unknown_clock(errno.errorcode.get(ctypes.get_errno(), "the kernel does not tell"))
    return judge_clock(synchronized=state != _TIME_ERROR, error_us=answer.error_max_us)


def judge_clock(*, synchronized: bool, error_us: int) -> Finding:
    """The finding about a clock whose state is known."""
    remedy = "run chrony or systemd-timesyncd, in a container on its host; see `chronyc tracking`"
    if not synchronized:
        return warning("clock", WHERE, "nothing keeps the clock right", remedy)
    if error_us > CLOCK_ERROR_MS_MAX * 1000:
        return warning("clock", WHERE, f"the clock may be wrong by {error_us // 1000} ms", remedy)
    return ok("clock", WHERE, f"synchronized, wrong by at most {error_us / 1000:.0f} ms")


def _unknown_clock(why: str) -> Finding:
    return warning(
        "clock",
        WHERE,
        f"whether the clock is kept right is not known: {why}",
        "compare it with `date -u` on another machine; make sure that chrony or the like runs",
    )


def kernel() -> Finding:
    """Whether the kernel is new enough."""
    release = platform.release()
    found = _version(release)
    if sys.platform != "linux" or found is None or found < KERNEL_LEAST:
        needed = ".".join(map(str, KERNEL_LEAST))
        return problem(
            "kernel", WHERE, f"{platform.system()} {release}", f"use Linux {needed} or later"
        )
    return ok("kernel", WHERE, f"Linux {release}")


def libraries() -> list[Finding]:
    """Python, the C library, and the packages that do the work."""
    found = []
    glibc, version = platform.libc_ver()
    number = _version(version)
    if glibc == "glibc" and number is not None and number < GLIBC_HUGE_PAGES:
        found.append(
            warning(
                "libraries",
                WHERE,
                f"glibc {version}: no large pages behind the heap",
                "use glibc 2.35 or later for some 10 % less CPU",
            )
        )
    versions, missing = [f"Python {platform.python_version()}"], []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        remedy = "install what requirements.lock names"
        found.append(problem("libraries", WHERE, f"missing: {', '.join(missing)}", remedy))
    return [*found, ok("libraries", WHERE, ", ".join(versions))]


def erasure() -> Finding:
    """Whether ISA-L does the erasure code, compared with zfec."""
    used = codec_for(profile_named(DEFAULT_PROFILE)).kernel
    if used == "zfec":
        return warning(
            "isa-l",
            WHERE,
            "erasure coding runs on zfec, 20 to 60 times slower",
            "install the pyeclib wheel or the package libisal2",
        )
    return ok("isa-l", WHERE, f"erasure coding runs on {used}, which agrees with zfec")


def processor(information: Path = Path("/proc/cpuinfo")) -> Finding:
    """Whether the processor has instructions for AES."""
    try:
        text = information.read_text(errors="replace")
    except OSError:
        text = ""
    flags = {word for line in text.splitlines() if _is_flags(line) for word in line.split()}
    cores = os.cpu_count() or 1
    if flags and "aes" not in flags:
        return warning(
            "processor",
            WHERE,
            "no instructions for AES: sealing and TLS are many times slower",
            "use a processor with AES, or have the hypervisor show it to the guest",
        )
    return ok("processor", WHERE, f"{cores} cores{', AES' if 'aes' in flags else ''}")


def _is_flags(line: str) -> bool:
    return line.lower().startswith(("flags", "features"))


def open_files() -> Finding:
    """Whether a process may open as many files as a busy node does."""
    return judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def judge_files(limit: int) -> Finding:
    """The finding about a hard limit of open files."""
    if limit != resource.RLIM_INFINITY and limit < FILES_LEAST:
        return warning(
            "limits",
            WHERE,
            f"a process may open {limit} files",
            f"raise it to {FILES_LEAST} or more: LimitNOFILE= in the unit, or `ulimit -n`",
        )
    shown = "any number of" if limit == resource.RLIM_INFINITY else limit
    return ok("limits", WHERE, f"a process may open {shown} files")


def _version(text: str) -> tuple[int, int] | None:
    match = _VERSION.match(text)
    return (int(match[1]), int(match[2])) if match is not None else None
