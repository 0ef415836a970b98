"""What a disk holds against the rows of a backup: what is newer, and what is gone since.

A shard's file names its base and its index; core, opening and key are rows.  So a file that
no row names was put after the backup: its ciphertext is here, and without the sealed key it
stays what it is, unless another node kept the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.ids import BlobBase
from hcefs.store.interface import FORM_FIRST, RowStore, ShardStore, Table
from hcefs.stripes.placed import placed_shard, shard_key

PAGE = 1000


@dataclass(frozen=True)
class Compared:
    """Shards here; those that no row names, some of their bases; named ones that are not here."""

    shards: int
    unnamed: int
    missing: int
    bases: tuple[BlobBase, ...]


def compare(shards: ShardStore, rows: RowStore, listed_max: int) -> Compared:
    """Compare every file with the names, and every name with the files; for disk threads.

    Raises:
        Unavailable: the disk failed.
    """
    count = unnamed = 0
    newer: dict[BlobBase, None] = {}

    def judge(base: BlobBase, index: int, form: str) -> None:
        nonlocal count, unnamed
        count += 1
        if rows.get(Table.PLACED, shard_key(base, index, form)) is None:
            unnamed += 1
            if len(newer) < listed_max:
                newer[base] = None

    for base, index in shards.inventory():
        judge(base, index, FORM_FIRST)
    for base, index, form in shards.reformed():
        judge(base, index, form)
    missing = 0
    after: bytes | None = None
    while page := rows.scan(Table.PLACED, b"", after, PAGE):
        after = page[-1][0]
        for key, value in page:
            placed = placed_shard(key, value)
            missing += not shards.has(placed.base, placed.index, placed.form)
        if len(page) < PAGE:
            break
    return Compared(count, unnamed, missing, tuple(newer))
