"""What must be set before gRPC is imported in a process of ours.

* No TLS 1.2: gRPC for Python cannot set a minimum version, but without a usable
  TLS 1.2 cipher suite only 1.3 is negotiated (:data:`TLS13_ENVIRONMENT`).
* Silence of gRPC's core below errors: it writes text of its own between the lines of the
  log, one for each stranger who fails a handshake (:data:`QUIET_ENVIRONMENT`).
* The allocator: large buffers come and go with every segment; glibc's defaults
  give each one back to the kernel and fetch zeroed pages again.  Measured, this
  halves the CPU of sealing and of a TLS hop (docs/decisions/0008).

Only for processes that HCE-FS owns: the SDK changes nothing in its host.
"""

from __future__ import annotations

import ctypes
import os
import sys

TLS13_ENVIRONMENT = ("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES128-CBC-SHA")
"""Leaves gRPC no TLS 1.2 cipher suite that a handshake could use (there are no
pre-shared keys); the suites of TLS 1.3 are not affected."""

QUIET_ENVIRONMENT = ("GRPC_VERBOSITY", "ERROR")
"""Handshakes that failed are seen by who tried them."""

LARGE_PAGES_ENVIRONMENT = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
"""Asks for transparent huge pages behind the heap (glibc 2.35, where the kernel lets
programs ask): some 10 % less CPU for streams, most of it at a process's first ones.
It counts only when it is set before a process starts."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
ALLOCATOR = (
    (M_ARENA_MAX, 1),
    (M_MMAP_THRESHOLD, 256 << 20),
    (M_TRIM_THRESHOLD, 256 << 20),
    (M_TOP_PAD, 64 << 20),
)


def environment() -> dict[str, str]:
    """The environment for a process of ours that is about to be started."""
    return dict([TLS13_ENVIRONMENT, LARGE_PAGES_ENVIRONMENT]) | dict(os.environ)


def prepare() -> None:
    """Set all three; harmless where the C library has no ``mallopt``."""
    os.environ.setdefault(*TLS13_ENVIRONMENT)
    os.environ.setdefault(*QUIET_ENVIRONMENT)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ALLOCATOR:
        mallopt(parameter, value)
