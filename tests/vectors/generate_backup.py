"""Golden vectors of backups: the header, the entries, and a file under a fixed key.

The envelope in it is none: HPKE draws randomness, and envelopes have vectors of their own.
"""

from __future__ import annotations

import io
from typing import Any

from hcefs.client.backup_file import BackupWriter
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.stream import SEGMENT_SIZE
from hcefs.formats.backup import (
    BackupBlock,
    BackupContents,
    BackupEnd,
    BackupFile,
    BackupHeader,
    BackupNode,
    BackupNodeEnd,
    BackupPart,
    BackupRecipient,
    BackupRow,
    BackupRows,
    BackupSnapshot,
    BackupTerm,
    Entry,
    RowSource,
    fingerprint,
)
from hcefs.ids import AccountId, BlobBase, ClusterId
from hcefs.integrity import blake3_digest

CLUSTER = ClusterId(bytes(range(16)))
BACKUP = BlobBase(bytes(range(16, 32)))
NODE = AccountId(bytes(range(32, 48)))
DEK = bytes(range(64, 96))
KEYS = AccountKeys.generate(CLUSTER, bytes(range(128)))


def header() -> BackupHeader:
    """A header whose envelope is not one: its bytes are what is frozen."""
    recipient = BackupRecipient(fingerprint(KEYS.receiving_key.public_key), 1, b"sealed")
    return BackupHeader(CLUSTER, BACKUP, 1_700_000_000_000, SEGMENT_SIZE, (recipient,))


def entries() -> list[Entry]:
    """One of each kind, in an order that a backup may not have."""
    page = BackupRows(RowSource.KEYS, 2, (BackupRow(b"key", b"value"), BackupRow(b"key2", b"")))
    return [
        BackupContents(b"genesis", 7, (NODE,), (), (BackupFile("cluster.toml", b"x = 1\n"),)),
        BackupNode(NODE, 12),
        page,
        BackupNodeEnd(NODE, 2, 1, blake3_digest(page.encode())),
        BackupSnapshot(b"manifest", b"base", b"carrier", (b"term",), 1),
        BackupPart(b"part"),
        BackupBlock(b"block"),
        BackupTerm(b"term"),
        BackupEnd(1, 2, 13, bytes(32), 8),
    ]


def sealed() -> bytes:
    """A file of those entries, and of one page more that reaches into a second segment."""
    file = io.BytesIO()
    writer = BackupWriter(file, header(), DEK)
    for entry in entries():
        writer.add(entry)
    writer.add(BackupPart(bytes(SEGMENT_SIZE)))
    writer.finish()
    return file.getvalue()


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    file = sealed()
    return {
        "header": header().encode().hex(),
        "entries": {entry.KIND: entry.encode().hex() for entry in entries()},
        "file": {
            "start": file[:512].hex(),
            "length": len(file),
            "blake3": blake3_digest(file).hex(),
        },
    }
