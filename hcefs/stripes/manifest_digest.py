"""Digests by which holders compare what they keep of one base.

Covered is what must be the same at all holders: profile, version and shard digests of the
layout (two movers may have signed it), and the core of a blob.  What a pack has of each
record is bound to the ledger by its openings; keys may be deleted here and there at
different times.  So neither is compared.
"""

from __future__ import annotations

from hcefs.errors import HcefsError
from hcefs.formats.manifest import Layout
from hcefs.formats.pack import PackLayout
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest
from hcefs.store.interface import RowStore, Table
from hcefs.stripes.placed import decoded_layout, layout_under

_TAG = b"hcefs/v1/manifest"


def layout_digest(layout: Layout | PackLayout) -> bytes:
    """What a layout says of the shards, whoever signed it."""
    words = f"{layout.profile}/{layout.version}/".encode()
    return blake3_digest(words + b"".join(layout.shard_digests))


def manifest_digest(rows: RowStore, base: BlobBase, profile: str) -> bytes:
    """The digest of what is here of a base, as it lies under a profile; empty for nothing.

    Rows that are damaged are nothing here: the scrub of this node comes upon them.
    """
    try:
        data = layout_under(rows, base, profile)
        if data is None:
            return b""
        layout = decoded_layout(data)
        core = rows.get(Table.CORES, bytes(base)) if isinstance(layout, Layout) else None
    except HcefsError as error:
        if error.retryable:
            raise
        return b""
    return blake3_digest(_TAG + layout_digest(layout) + blake3_digest(core or b""))
