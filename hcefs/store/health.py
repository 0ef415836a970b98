"""Whether a node's disk takes shards, by what its calls have said so far.

Two things make a node read-only: no room, and writes that fail again and again.  Reading,
deleting and following the ledger go on in both.

Invariants: what is full stays refused until ``MARGIN_BYTES`` more than the reserve are
free, so that a node at the brink does not change its mind with each shard; a disk whose
writes failed ``FAILURES_MAX`` times within ``WINDOW_SECONDS`` is written to no more until
somebody has looked at it and starts the node again: that a write succeeds once more says
nothing of such a disk.  Failed reads are counted and never make a node read-only: others
have what they could not give.

Not guaranteed: that a disk is good.  Thread-safe.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hcefs.errors import Exhausted, HcefsError, Unavailable

FAILURES_MAX = 3
WINDOW_SECONDS = 3600.0
MARGIN_BYTES = 64 << 20

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_HARMLESS = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.EMFILE, errno.ENFILE, errno.EINVAL, errno.EOPNOTSUPP,
     errno.ENOSYS, errno.EINTR, errno.EAGAIN}
)  # fmt: skip
"""They say nothing of the disk."""

Observe = Callable[[str, float], None]
"""Takes what a call did (``write``, ``sync``, ``read``) and how many seconds it took."""

Count = Callable[[str], None]
"""Takes what a failed call did: ``read`` or ``write``."""


def _nobody(*_: object) -> None:
    return


class DiskHealth:
    """What one node's disk is fit for."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        observe: Observe = _nobody,
        count: Count = _nobody,
    ) -> None:
        self.monotonic = monotonic
        self.observe = observe
        self._count = count
        self._lock = threading.Lock()
        self._failures: deque[float] = deque(maxlen=FAILURES_MAX)
        self._full = False
        self._failing = False

    @contextmanager
    def watched(self, what: str, *, writes: bool) -> Iterator[None]:
        """Time a call of the disk, and learn from how it fails."""
        began = self.monotonic()
        try:
            yield
        except OSError as error:
            self.failed(error, writes=writes)
            raise
        self.observe(what, self.monotonic() - began)

    def failed(self, error: OSError, *, writes: bool) -> None:
        """Learn of a failed call."""
        if error.errno in _HARMLESS:
            return
        with self._lock:
            if error.errno in _FULL:
                self._full = True
                return
            if writes:
                now = self.monotonic()
                self._failures.append(now)
                if (
                    len(self._failures) == FAILURES_MAX
                    and now - self._failures[0] <= WINDOW_SECONDS
                ):
                    self._failing = True
        self._count("write" if writes else "read")

    def admit(self, free: int, size: int, reserve: int) -> None:
        """Refuse ``size`` bytes that a disk with ``free`` bytes is not to take.

        Raises:
            Exhausted: ``disk-full``: they would eat into the reserve.
            Unavailable: ``disk-read-only``: writes fail.
        """
        with self._lock:
            if self._failing:
                raise Unavailable(
                    "this node's disk fails writes, so it is read-only: put shards elsewhere, and "
                    "look at the kernel's log",
                    reason="disk-read-only",
                )
            # Without a reserve the whole disk is meant to be used.  One shard that is too
            # large for what is left makes a disk full only when that is little.
            low = free < reserve + min(MARGIN_BYTES, reserve)
            refused = free - size < reserve or (self._full and low)
            self._full = low and (refused or self._full)
            if refused:
                raise disk_full("this node's disk is full up to its reserve")

    def look(self, free: int, reserve: int) -> str:
        """The state in one word, now that so much is free: ``ok``, ``full`` or ``failing``."""
        try:
            self.admit(free, 0, reserve)
        except HcefsError as error:
            return "full" if error.reason == "disk-full" else "failing"
        return "ok"


def disk_full(detail: str) -> Exhausted:
    """The error of a disk that has no room, which says what to do."""
    return Exhausted(
        f"{detail}: add a node or free space on this one, then repeat",
        reason="disk-full",
        retry_after_ms=60_000,
    )


STATES = {
    "ok": "",
    "full": "the disk is full up to its reserve: this node takes no shards until space is free",
    "failing": "the disk fails writes: this node is read-only until it is started again; look at "
    "the kernel's log, and drain the node if the disk is bad",
}
"""What each state means, for people; nothing where all is well."""
