"""What is put: reproducible random bytes, or real medical data repeated to the size.

Random bytes are BLAKE3's output stream keyed by the seed, so that a run can be
repeated bit by bit.  Medical data comes from the packages that the extra
``demo`` installs; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blake3 import blake3

from hcefs.cli.demo_data import SOURCES, find_exhibits
from hcefs.errors import Invalid
from hcefs.integrity import blake3_hasher

RANDOM: Final = "random"
KINDS: Final = (RANDOM, *(source.key for source in SOURCES))
PART_BYTES: Final = 8 << 20
MEMORY_BYTES_MAX: Final = 64 << 20
"""Longer payloads are read from a file, so that the client's memory stays small."""


class Payloads:
    """The bytes of one kind; equal sizes give equal bytes.

    Raises:
        Invalid: unknown kind.
        NotFound: the packages with the medical data are not installed.
    """

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        if kind not in KINDS:
            raise Invalid(f"data {kind[:40]!r}: use {', '.join(KINDS)}", reason="unknown-data")
        self.kind = kind
        self._folder = folder
        self._stream = blake3(b"hcefs benchmark %d" % seed)
        self._real = b""
        if kind != RANDOM:
            folder.mkdir(parents=True, exist_ok=True)
            exhibits = {exhibit.key: exhibit for exhibit in find_exhibits(folder)}
            self._real = exhibits[kind].path.read_bytes()
        self._known: tuple[int, bytes] = (-1, b"")

    def part(self, offset: int, length: int) -> bytes:
        """Some of the endless payload."""
        if not self._real:
            return self._stream.digest(length=length, seek=offset)
        offset %= len(self._real)
        repeated = self._real * (1 + (offset + length) // len(self._real))
        return repeated[offset : offset + length]

    def source(self, size: int) -> bytes | Path:
        """A payload of that size: bytes, or a file if it is long."""
        if size > MEMORY_BYTES_MAX:
            return self._file(size)
        if self._known[0] != size:
            self._known = (size, self.part(0, size))
        return self._known[1]

    def digest(self, size: int) -> bytes:
        """BLAKE3 of the payload of that size."""
        hasher = blake3_hasher()
        for offset in range(0, size, PART_BYTES):
            hasher.update(self.part(offset, min(PART_BYTES, size - offset)))
        return hasher.digest()

    def _file(self, size: int) -> Path:
        path = self._folder / f"payload-{size}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for offset in range(0, size, PART_BYTES):
                    file.write(self.part(offset, min(PART_BYTES, size - offset)))
        return path


def from_file(size: int) -> bool:
    """Whether a payload of that size is read from a file."""
    return size > MEMORY_BYTES_MAX
