"""Footers of the shards on this node, read once and checked, a bounded number kept."""

from __future__ import annotations

import threading
from collections import OrderedDict

from hcefs.errors import Corrupt
from hcefs.formats.shard import (
    HEADER_SIZE,
    TRAILER_SIZE,
    ShardFooter,
    ShardHeader,
    check_lengths,
    decode_footer,
    decode_trailer,
    footer_length,
)
from hcefs.ids import BlobBase
from hcefs.store.interface import FORM_FIRST, ShardStore

FOOTERS_MAX = 512


class ShardIndex:
    """A cache of checked footers.  Thread-safe."""

    def __init__(self, shards: ShardStore) -> None:
        self._shards = shards
        self._footers: OrderedDict[tuple[bytes, int, str], ShardFooter] = OrderedDict()
        self._lock = threading.Lock()

    def footer(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> ShardFooter:
        """The footer of a shard, its header checked too.

        Raises:
            NotFound: no such shard here.
            Corrupt: header, footer or length are damaged.
        """
        key = (bytes(base), index, form)
        with self._lock:
            known = self._footers.get(key)
            if known is not None:
                self._footers.move_to_end(key)
                return known
        footer = read_footer(self._shards, base, index, form)
        with self._lock:
            self._footers[key] = footer
            while len(self._footers) > FOOTERS_MAX:
                self._footers.popitem(last=False)
        return footer

    def forget(self, base: BlobBase, index: int, form: str = FORM_FIRST) -> None:
        """Drop a footer whose shard moved or is suspect."""
        with self._lock:
            self._footers.pop((bytes(base), index, form), None)


def read_footer(
    shards: ShardStore, base: BlobBase, index: int, form: str = FORM_FIRST
) -> ShardFooter:
    """Read and check header and footer of a shard: length, checksums, names, digests.

    Raises:
        NotFound: no such shard here.
        Corrupt: header, footer or length are damaged.
    """
    reader = shards.open(base, index, form)
    try:
        if reader.size < HEADER_SIZE + TRAILER_SIZE:
            raise Corrupt("a shard file is too short", reason="truncated")
        header = ShardHeader.decode(reader.read_at(0, HEADER_SIZE))
        if header.base != base or header.index != index or form not in (FORM_FIRST, header.profile):
            raise Corrupt("a shard file holds another shard", reason="wrong-shard")
        trailer = decode_trailer(
            reader.read_at(reader.size - TRAILER_SIZE, TRAILER_SIZE), header.version
        )
        check_lengths(header, trailer, reader.size)
        length = footer_length(trailer.pieces)
        return decode_footer(reader.read_at(reader.size - length, length), header)
    finally:
        reader.close()
