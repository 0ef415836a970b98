"""One shard file read through and compared with itself: every byte of it is under a check.

Owns the order of the checks: length, header, trailer, footer, then every piece with its
digest, padding included.  What the shard *should* be (the digest in a layout) is compared
by whoever has the layout.

Invariants: memory is what one step reads, whatever the shard's size; the reading can stop after
any step and begin again at any piece.  It needs no key and runs on disk threads.
"""

from __future__ import annotations

from collections.abc import Iterator

from hcefs.errors import Corrupt
from hcefs.formats.shard import HEADER_SIZE, ShardFooter, ShardHeader, footer_length
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest
from hcefs.store.interface import FORM_FIRST, ShardStore
from hcefs.stripes.shard_index import read_footer


class ShardCheck:
    """Reads one shard from a piece on; :meth:`close` it.

    Raises (constructor):
        NotFound: no such shard here.
        Corrupt: length, header or footer are damaged.
        Unavailable: the disk failed.
    """

    def __init__(
        self, shards: ShardStore, base: BlobBase, index: int, form: str = FORM_FIRST, first: int = 0
    ) -> None:
        self.footer: ShardFooter = read_footer(shards, base, index, form)
        self._reader = shards.open(base, index, form)
        try:
            self.header = ShardHeader.decode(self._reader.read_at(0, HEADER_SIZE))
            self._geometry = self.header.geometry(self.footer.plaintext_length)
        except BaseException:
            self._reader.close()
            raise
        self.piece = min(first, self.footer.pieces)
        """The next piece; as many as there are when all are checked."""

    @property
    def overhead(self) -> int:
        """Bytes that were read to begin: header and footer."""
        return HEADER_SIZE + footer_length(self.footer.pieces)

    @property
    def done(self) -> bool:
        """Whether every piece was compared."""
        return self.piece >= self.footer.pieces

    def ahead(self, bytes_max: int) -> int:
        """How many bytes :meth:`step` will read with the same bound."""
        return sum(self._run(bytes_max))

    def _run(self, bytes_max: int) -> list[int]:
        """The lengths of the next pieces: as many as the bound allows, at least one."""
        sizes: list[int] = []
        total = 0
        for piece in range(self.piece, self.footer.pieces):
            size = self._geometry.piece_of(piece)
            if sizes and total + size > bytes_max:
                break
            sizes.append(size)
            total += size
        return sizes

    def step(self, bytes_max: int) -> int:
        """Check pieces of so many bytes at most, yet at least one; the bytes that were read.

        One call to the disk.  After a failure the next piece is the one that failed.

        Raises:
            Corrupt: ``damaged-piece``: a piece is not what was written; ``truncated``.
            Unavailable: the disk failed.
        """
        sizes = self._run(bytes_max)
        if not sizes:
            return 0
        offset = HEADER_SIZE + self._geometry.offset_of(self.piece)
        data = memoryview(self._reader.read_at(offset, sum(sizes)))
        at = 0
        for size in sizes:
            if blake3_digest(data[at : at + size]) != self.footer.digest_of(self.piece):
                raise Corrupt(
                    f"piece {self.piece} of a shard here is damaged: set it aside and repair",
                    reason="damaged-piece",
                )
            at += size
            self.piece += 1
        return at

    def steps(self, bytes_max: int) -> Iterator[int]:
        """All steps to the end."""
        while not self.done:
            yield self.step(bytes_max)

    def close(self) -> None:
        """Release the file."""
        self._reader.close()


def check_whole(
    shards: ShardStore, base: BlobBase, index: int, form: str = FORM_FIRST
) -> ShardFooter:
    """Read a whole shard and check it; its footer.

    Raises:
        NotFound, Corrupt, Unavailable: as :class:`ShardCheck`.
    """
    check = ShardCheck(shards, base, index, form)
    try:
        for _ in check.steps(1 << 22):
            pass
        return check.footer
    finally:
        check.close()
