"""The parts of a backup: what its file begins with, and the entries that are sealed in it.

Owns bytes only; who seals, opens and restores is above (:mod:`hcefs.client.backup_file`).

Invariants: a backup's entries come in one order (contents; for each node a start, pages and
an end; then the ledger; last the end), and each end counts what came before it, so that a
writer that stopped early cannot be taken for one that was done.  Rows are copied as they lie
on a node: nothing here opens a key.

Not guaranteed: that the rows of one node are of one moment.  What was written while they
were copied may be there in part; a node that begins with them checks them as it checks any.
Source: docs/decisions/0042-backups.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hcefs.encoding import Encoded, decode_quickly
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import AccountId, BlobBase, ClusterId
from hcefs.integrity import blake3_digest

MAGIC = b"hcefsbak"
FORMAT_VERSION = 1
HEADER_BYTES_MAX = 256 << 10
DIGEST_SIZE = 32
RECIPIENTS_MAX = 64
ENTRY_BYTES_MAX = 10 << 20
"""A row has 4 MiB at most, a block of the ledger 8."""

_FINGERPRINT_TAG = b"hcefs/v1/backup-recipient"


class RowSource(enum.IntEnum):
    """Which of a node's two databases a page is of."""

    ROWS = 1
    KEYS = 2


@dataclass(frozen=True)
class BackupRecipient(Encoded):
    """The key of the backup, sealed to one receiving key; who that is, only its owner knows."""

    KIND = "backup-recipient"

    fingerprint: bytes
    suite: int
    ciphertext: bytes


@dataclass(frozen=True)
class BackupHeader(Encoded):
    """What everybody may read of a backup.

    ``backup`` is random, and with the header's digest it is bound to every segment.
    """

    KIND = "backup-header"
    MAX_BYTES = HEADER_BYTES_MAX

    cluster: ClusterId
    backup: BlobBase
    time_ms: int
    segment_size: int
    recipients: tuple[BackupRecipient, ...]


@dataclass(frozen=True)
class BackupFile(Encoded):
    """A small file of the cluster's folder that holds no secret; its name is relative to it."""

    KIND = "backup-file"

    name: str
    data: bytes


@dataclass(frozen=True)
class BackupContents(Encoded):
    """The first entry.  ``missing`` are nodes of the map that did not answer."""

    KIND = "backup-contents"
    MAX_BYTES = ENTRY_BYTES_MAX

    genesis: bytes
    epoch: int
    nodes: tuple[AccountId, ...]
    missing: tuple[AccountId, ...]
    files: tuple[BackupFile, ...]


@dataclass(frozen=True)
class BackupNode(Encoded):
    """The rows of this node follow; ``height`` is that of its replica when they were begun."""

    KIND = "backup-node"

    account: AccountId
    height: int


@dataclass(frozen=True)
class BackupRow(Encoded):
    """One row as it lies on a node."""

    KIND = "backup-row"

    key: bytes
    value: bytes


@dataclass(frozen=True)
class BackupRows(Encoded):
    """A page of rows of one table, by ascending key."""

    KIND = "backup-rows"
    MAX_BYTES = ENTRY_BYTES_MAX

    source: RowSource
    table: int
    rows: tuple[BackupRow, ...]


@dataclass(frozen=True)
class BackupNodeEnd(Encoded):
    """All rows of a node have come: so many, in pages of this digest."""

    KIND = "backup-node-end"

    account: AccountId
    rows: int
    pages: int
    digest: bytes


@dataclass(frozen=True)
class BackupSnapshot(Encoded):
    """The ledger begins with a snapshot; so many parts follow.  Where nobody has older blocks."""

    KIND = "backup-snapshot"
    MAX_BYTES = ENTRY_BYTES_MAX

    manifest: bytes
    base: bytes
    carrier: bytes
    terms: tuple[bytes, ...]
    parts: int


@dataclass(frozen=True)
class BackupPart(Encoded):
    """One part of that snapshot."""

    KIND = "backup-part"
    MAX_BYTES = ENTRY_BYTES_MAX

    data: bytes


@dataclass(frozen=True)
class BackupBlock(Encoded):
    """One block of the ledger."""

    KIND = "backup-block"
    MAX_BYTES = ENTRY_BYTES_MAX

    data: bytes


@dataclass(frozen=True)
class BackupTerm(Encoded):
    """The statement that begins a term of the ledger, before its first block."""

    KIND = "backup-term"
    MAX_BYTES = ENTRY_BYTES_MAX

    data: bytes


@dataclass(frozen=True)
class BackupEnd(Encoded):
    """The last entry: what the backup has, and the ledger's last block in it."""

    KIND = "backup-end"

    nodes: int
    rows: int
    height: int
    block_hash: bytes
    entries: int


Entry = (
    BackupContents
    | BackupNode
    | BackupRows
    | BackupNodeEnd
    | BackupSnapshot
    | BackupPart
    | BackupBlock
    | BackupTerm
    | BackupEnd
)

_ENTRIES: tuple[type[Entry], ...] = (
    BackupContents,
    BackupNode,
    BackupRows,
    BackupNodeEnd,
    BackupSnapshot,
    BackupPart,
    BackupBlock,
    BackupTerm,
    BackupEnd,
)
_BY_KIND: dict[tuple[str, int], type[Encoded]] = {
    (each.KIND, each.VERSION): each for each in _ENTRIES
}


def decode_entry(data: bytes) -> Entry:
    """What the canonical bytes of one entry mean.

    Raises:
        Corrupt: ``bad-backup``: they are none that this software knows.
    """
    found = decode_quickly(_BY_KIND, data, max_bytes=ENTRY_BYTES_MAX)
    if not isinstance(found, _ENTRIES):
        raise Corrupt(
            "an entry of this backup is none that this software reads: use the version that "
            "wrote it",
            reason="bad-backup",
        )
    return found


def fingerprint(receiving_key: bytes) -> bytes:
    """What names a recipient in a header: 32 bytes of its public receiving key."""
    return blake3_digest(_FINGERPRINT_TAG + receiving_key)


def check_header(header: BackupHeader, segment_size: int) -> None:
    """Check what a header says of itself.

    Raises:
        Invalid: ``bad-backup``.
    """
    prints = {each.fingerprint for each in header.recipients}
    if (
        header.segment_size != segment_size
        or not 1 <= len(header.recipients) <= RECIPIENTS_MAX
        or len(prints) != len(header.recipients)
        or any(len(each) != DIGEST_SIZE for each in prints)
    ):
        raise Invalid("the header of this backup cannot be: use another copy", reason="bad-backup")
