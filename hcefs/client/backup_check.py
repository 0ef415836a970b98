"""Reading a backup: its entries in the one order that counts, and the ledger replayed.

Invariants: nothing counts before the end came and all counts and digests agree; so whoever
restores puts what it made in place after :func:`checked` has run to its end.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hcefs.client.backup_file import BackupReader
from hcefs.errors import Corrupt
from hcefs.formats.backup import (
    BackupBlock,
    BackupContents,
    BackupEnd,
    BackupNode,
    BackupNodeEnd,
    BackupPart,
    BackupRows,
    BackupSnapshot,
    BackupTerm,
    Entry,
    RowSource,
)
from hcefs.ids import AccountId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.link import BlockBytes, TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import copy_blocks
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotManifest, SnapshotOffer
from hcefs.ledger.snapshot_join import join
from hcefs.runtime import Runtime
from hcefs.store.dump import table_of
from hcefs.store.interface import KeyTable, Table


@dataclass
class Found:
    """What has been read of a backup; complete when ``end`` is there."""

    contents: BackupContents | None = None
    genesis: Genesis | None = None
    rows: dict[AccountId, int] = field(default_factory=dict)
    end: BackupEnd | None = None


def checked(reader: BackupReader, found: Found) -> Iterator[Entry]:
    """The entries of a backup, each checked for its place; ``found`` learns what they are.

    Raises:
        Corrupt: ``bad-backup``, or a segment's reason.
        Invalid: ``bad-backup``: rows that this software does not know.
    """
    entries = reader.entries()
    contents = next(entries, None)
    if not isinstance(contents, BackupContents):
        raise _bad("it does not say what it has")
    genesis = Genesis.decode(contents.genesis)
    genesis.check()
    if genesis.cluster != reader.header.cluster:
        raise _bad("its genesis is of another cluster than its header")
    found.contents, found.genesis = contents, genesis
    yield contents
    count = 1
    for account in contents.nodes:
        for entry in _node(entries, account, found):
            count += 1
            yield entry
    for entry in entries:
        if isinstance(entry, BackupEnd):
            total = sum(found.rows.values())
            if (entry.nodes, entry.rows, entry.entries) != (len(contents.nodes), total, count):
                raise _bad("it has less or more than its end says")
            found.end = entry
            yield entry
            break
        if not isinstance(entry, BackupSnapshot | BackupPart | BackupBlock | BackupTerm):
            raise _bad("an entry is out of its place")
        count += 1
        yield entry
    if found.end is None:
        raise _bad("its end is missing")
    if next(entries, None) is not None:
        raise _bad("something follows its end")


def _node(entries: Iterator[Entry], account: AccountId, found: Found) -> Iterator[Entry]:
    start = next(entries, None)
    if not isinstance(start, BackupNode) or start.account != account:
        raise _bad("a node's rows are missing")
    yield start
    rows = pages = 0
    digest = b""
    for entry in entries:
        if isinstance(entry, BackupRows):
            table_of(KeyTable if entry.source is RowSource.KEYS else Table, entry.table)
            digest = blake3_digest(digest + entry.encode())
            rows += len(entry.rows)
            pages += 1
            yield entry
        elif isinstance(entry, BackupNodeEnd):
            if (entry.account, entry.rows, entry.pages, entry.digest) != (
                account,
                rows,
                pages,
                digest,
            ):
                raise _bad("a node's rows are not those that were copied")
            found.rows[account] = rows
            yield entry
            return
        else:
            break
    raise _bad("a node's rows do not end")


def _bad(what: str) -> Corrupt:
    return Corrupt(f"this is no whole backup: {what}; use another copy", reason="bad-backup")


# --- the ledger -----------------------------------------------------------------


async def replayed(
    path: Path, entries: Iterator[Entry], found: Found, runtime: Runtime
) -> LedgerLog:
    """A ledger's log at ``path`` from the entries of a backup, each block verified; reads to
    the end.  The caller closes it.

    Raises:
        Corrupt: a block or a statement does not verify, or the backup is not whole.
        HcefsError: the disk, or something is at ``path``.
    """
    before = (BackupContents, BackupNode, BackupRows, BackupNodeEnd)
    rest = itertools.dropwhile(lambda entry: isinstance(entry, before), entries)
    first = await runtime.disk(next, rest, None)
    genesis = found.genesis
    if first is None or genesis is None:
        raise _bad("it has no ledger")
    following: Iterator[Entry] = itertools.chain([first], rest)
    if isinstance(first, BackupSnapshot):
        following = rest
        await join(path, genesis, _Snapshot(first, rest), runtime)
    log = await runtime.disk(LedgerLog.open, path, genesis)
    try:
        await copy_blocks(log, _feed(following), runtime)
        end = found.end
        if end is None or (log.height, log.tip_hash) != (end.height, end.block_hash):
            raise _bad("its ledger ends elsewhere than it says")
    except BaseException:
        await runtime.disk(log.close)
        raise
    return log


async def _feed(entries: Iterator[Entry]) -> AsyncGenerator[BlockBytes | TermBytes, None]:
    for entry in entries:
        if isinstance(entry, BackupBlock):
            yield BlockBytes(entry.data)
        elif isinstance(entry, BackupTerm):
            yield TermBytes(entry.data)
        elif not isinstance(entry, BackupEnd):
            raise _bad("an entry is out of its place")


class _Snapshot:
    """A snapshot in a backup; implements :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""

    def __init__(self, entry: BackupSnapshot, entries: Iterator[Entry]) -> None:
        self._entry = entry
        self._entries = entries

    async def offer(self) -> SnapshotOffer:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""
        entry = self._entry
        return SnapshotOffer(
            SnapshotManifest.decode(entry.manifest),
            Block.decode(entry.base),
            Block.decode(entry.carrier),
            entry.terms,
            SNAPSHOT_RULE,
        )

    async def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        """See :class:`hcefs.ledger.snapshot_join.SnapshotSource`."""
        for part in itertools.islice(self._entries, self._entry.parts):
            if not isinstance(part, BackupPart):
                raise _bad("its snapshot of the ledger is cut short")
            yield part.data
