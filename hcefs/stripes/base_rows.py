"""Every row that lies under one base, of a blob or of a pack: what goes with its last shard."""

from __future__ import annotations

from hcefs.ids import BlobBase
from hcefs.store.interface import KeyTable, Stores, Table

ROWS_MAX = 2000
"""More than a pack has in any table."""


def rows_of_base(stores: Stores, base: BlobBase) -> list[tuple[Table, bytes]]:
    """Cores, layout and openings, by table and key."""
    return [
        (table, key)
        for table in (Table.CORES, Table.LAYOUTS, Table.OPENINGS)
        for key, _ in stores.rows.scan(table, bytes(base), limit=ROWS_MAX)
    ]


def keys_of_base(stores: Stores, base: BlobBase) -> list[tuple[KeyTable, bytes]]:
    """Key rows and envelopes."""
    return [
        (table, key)
        for table in (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES)
        for key, _ in stores.keys.scan(table, bytes(base), limit=ROWS_MAX)
    ]
