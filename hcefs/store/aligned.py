"""Aligned working memory for reads and writes that bypass the page cache.

Such calls want memory, offsets and lengths in whole disk blocks.  The buffers are
kept and used again: memory that a process touches for the first time is the
expensive kind, most of all in a virtual machine.

Invariant: a buffer is in the hands of one caller at a time.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ALIGNMENT = 4096
"""A multiple of what every disk and file system in use asks for."""

BUFFER_BYTES = (1 << 20) + (64 << 10)
"""A message of pieces and what alignment adds at both ends, in one call."""

IDLE_MAX = 16


def aligned_down(number: int) -> int:
    """The largest multiple of ``ALIGNMENT`` that is not above ``number``."""
    return number & -ALIGNMENT


def aligned_up(number: int) -> int:
    """The smallest multiple of ``ALIGNMENT`` that is not below ``number``."""
    return -(-number // ALIGNMENT) * ALIGNMENT


class AlignedBuffers:
    """Buffers of ``BUFFER_BYTES``; at most ``IDLE_MAX`` unused ones are kept.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer; what is in it is left over from earlier use."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return memoryview(mmap.mmap(-1, BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append(buffer)

    @contextmanager
    def lend(self) -> Iterator[memoryview]:
        """A buffer for the block."""
        buffer = self.take()
        try:
            yield buffer
        finally:
            self.give(buffer)
