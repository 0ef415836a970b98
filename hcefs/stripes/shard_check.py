"""One shard file read through and compared with itself: every byte of it is under a check.

Owns the order of the checks: length, header, trailer, footer, then every piece with its
digest, padding included.  What the shard *should* be (the digest in a layout) is compared
by whoever has the layout.

Invariants: memory is one piece, whatever the shard's size; the reading can stop after
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

    def step(self, bytes_max: int) -> int:
        """Check pieces of about so many bytes, at least one; the bytes that were read.

        Raises:
            Corrupt: ``bad-piece``: a piece is not what was written; ``truncated``.
            Unavailable: the disk failed.
        """
        read = 0
        while not self.done and (not read or read < bytes_max):
            offset = HEADER_SIZE + self._geometry.offset_of(self.piece)
            data = self._reader.read_at(offset, self._geometry.piece_of(self.piece))
            if blake3_digest(data) != self.footer.digest_of(self.piece):
                raise Corrupt(
                    f"piece {self.piece} of a shard here is damaged: set it aside and repair",
                    reason="bad-piece",
                )
            read += len(data)
            self.piece += 1
        return read

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
