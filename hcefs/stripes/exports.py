"""What a node gives to others that take over seats: lists, rows and shards, as they lie here.

Nothing is decided here: who may ask is :mod:`hcefs.services.upkeep_service`'s, what is
believed is up to whoever takes it (:mod:`hcefs.stripes.adopt`).  Unlike what readers
get, it includes what is still pending: its append may come when the seat has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from hcefs.errors import Corrupt, Invalid, NotFound, Unavailable
from hcefs.formats.manifest import Opening
from hcefs.formats.pack import (
    WRAPPED_SIZE,
    PackLayout,
    PackOpening,
    split_slots,
)
from hcefs.formats.shard import HEADER_SIZE, ShardHeader
from hcefs.ids import BlobBase, RecordId
from hcefs.integrity import (
    DIGEST_SIZE,
    blake3_digest,
    leaf_hash,
    range_proof,
    split_digests,
)
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, ShardReader, Stores, Table
from hcefs.stripes.checks import Replica
from hcefs.stripes.manifest_digest import manifest_digest
from hcefs.stripes.pending import PENDING_OPENING, PENDING_PACK, PendingNames
from hcefs.stripes.placed import PAGE_ROWS as SCANNED_ROWS
from hcefs.stripes.placed import (
    POSITION_SIZE,
    form_here,
    layout_under,
    records_in,
    shards_in,
    staged_key,
)
from hcefs.stripes.shard_index import read_footer
from hcefs.stripes.storing import require_living
from hcefs.stripes.transfers import LocalDownload, opened
from hcefs.stripes.uploads import Uploads
from hcefs.transport.packs import PackGroupRows
from hcefs.transport.peers import LoadHeader, ShardDownload
from hcefs.transport.upkeep import (
    BlobRows,
    PackRows,
    RecordDigest,
    RecordRows,
    ShardName,
)

SETTLE_SECONDS = 5.0
"""How long a listing waits for puts of an older epoch before the caller is sent away."""

PACK_ROWS_MAX = 2000
PAGE_ROWS = 500
PAGE_BYTES = 2 << 20
ROW_DIGEST_SIZE = 16
RECORDS_PAGE = 100
"""Each costs a look at all its rows."""

T = TypeVar("T")
_STAGES = (b"i", b"b", b"l")
"""Kinds of rows of a record, in the order of the pages."""


class Exporter:
    """One node's shards and rows, for other nodes."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        metrics: Metrics,
        pending: PendingNames,
        uploads: Uploads,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._metrics = metrics
        self._pending = pending
        self._uploads = uploads

    async def _settled(self, epoch: int, partitions: Sequence[range]) -> None:
        try:
            async with self._runtime.timeout(SETTLE_SECONDS):
                # Once an older put has ended in one of them, no other begins there.
                for positions in partitions:
                    await self._uploads.settled(epoch, positions)
        except TimeoutError:
            raise Unavailable(
                "a put of an older epoch is still under way in this partition: ask again",
                reason="unsettled",
            ) from None

    async def list_shards(
        self, epoch: int, partitions: Sequence[range], profile: str, after: bytes
    ) -> tuple[list[ShardName], bytes]:
        """A page of the shards of a profile in ascending ranges of positions, with their files.

        Raises:
            Unavailable: ``unsettled``, ``other-epoch``.
        """
        await self._settled(epoch, partitions)

        def job() -> tuple[list[ShardName], bytes]:
            page, following = _paged(
                partial(shards_in, self._stores.rows), partitions, after, PAGE_ROWS
            )
            # A name outlives a file that was set aside; who counts live shards must not see it.
            shards = [
                ShardName(shard.base, shard.index)
                for _, shard in page
                if shard.profile == profile
                and self._stores.shards.has(shard.base, shard.index, shard.form)
            ]
            return shards, following

        return await self._runtime.disk(job)

    async def list_records(
        self, epoch: int, partitions: Sequence[range], after: bytes
    ) -> tuple[list[RecordDigest], bytes]:
        """A page of the records in ascending ranges of positions, each with a digest over its rows.

        Raises:
            Unavailable: ``unsettled``, ``other-epoch``.
        """
        await self._settled(epoch, partitions)

        def job() -> tuple[list[RecordDigest], bytes]:
            page, following = _paged(
                partial(records_in, self._stores.rows), partitions, after, RECORDS_PAGE
            )
            digests = [
                RecordDigest(record, record_digest(self._stores, record)) for _, record in page
            ]
            return digests, following

        return await self._runtime.disk(job)

    async def load_rows(self, base: BlobBase, profile: str) -> BlobRows | PackRows:
        """The rows of a blob or a pack as it lies under a profile.

        The layout is the one in force, or the one of that profile that is about to be: of
        which a shard is placed here, but which is not in force yet.

        Raises:
            NotFound: they are not here.
        """
        return await self._runtime.disk(self._rows, base, profile)

    def _rows(self, base: BlobBase, profile: str) -> BlobRows | PackRows:
        rows = self._stores.rows
        layout = layout_under(rows, base, profile)
        if layout is None:
            raise _unknown()
        core = rows.get(Table.CORES, bytes(base))
        if core is None:
            return self._pack_rows(base, layout)
        data = rows.get(Table.OPENINGS, bytes(base))
        if data is None:
            raise Corrupt("the opening of a blob is gone", reason="missing-row")
        opening = Opening.decode(data)
        require_living(self._replica, opening.record)
        key_row = self._stores.keys.get(KeyTable.KEY_ROWS, bytes(opening.blob))
        return BlobRows(layout, core, key_row or b"", data)

    def _pack_rows(self, base: BlobBase, layout: bytes) -> PackRows:
        PackLayout.decode(layout)
        stores = self._stores
        cores = dict(stores.rows.scan(Table.CORES, bytes(base), limit=PACK_ROWS_MAX))
        wrapped = dict(stores.keys.scan(KeyTable.KEY_ROWS, bytes(base), limit=PACK_ROWS_MAX))
        envelopes = dict(
            stores.keys.scan(KeyTable.PACK_ENVELOPES, bytes(base), limit=PACK_ROWS_MAX)
        )
        groups = []
        for key, opening in stores.rows.scan(Table.OPENINGS, bytes(base), limit=PACK_ROWS_MAX):
            record = RecordId(key[BlobBase.SIZE :])
            if self._replica.erasure(record) is not None:
                continue  # its rows are on their way out, and nobody is to have them
            slots = PackOpening.decode(opening).slots
            names = [bytes(base) + slot.to_bytes(2, "big") for slot in split_slots(slots)]
            if not all(name in cores for name in names):
                raise Corrupt("the core of a payload is gone", reason="missing-row")
            groups.append(
                PackGroupRows(
                    0,
                    record,
                    slots,
                    tuple(cores[name] for name in names),
                    b"".join(wrapped.get(name, bytes(WRAPPED_SIZE)) for name in names),
                    envelopes.get(key, b""),
                    opening,
                )
            )
        if not groups:
            raise _unknown()
        with self._pending.locked([bytes(base)]):
            until = self._pending.latest(PENDING_PACK, bytes(base))
        return PackRows(layout, tuple(groups), until)

    async def load_shard(
        self, base: BlobBase, index: int, first: int, profile: str
    ) -> ShardDownload:
        """The pieces of a shard of a profile from ``first`` on.

        Staged ones too: whoever loads them compares them with the layout's digests.

        Raises:
            NotFound: it is not here.
            Invalid: it has no such piece.
            Corrupt: its file is damaged.
        """

        def begin() -> tuple[LocalDownload, ShardReader]:
            form = form_here(self._stores.rows, base, index, profile)
            if form is None:
                if self._stores.rows.get(Table.STAGED, staged_key(base, profile)) is None:
                    raise NotFound("this shard is not here", reason="no-such-shard")
                form = profile
            footer = read_footer(self._stores.shards, base, index, form)
            reader = self._stores.shards.open(base, index, form)
            try:
                header = ShardHeader.decode(reader.read_at(0, HEADER_SIZE))
                geometry = header.geometry(footer.plaintext_length)
                count = geometry.segments - first
                if count < 1 or first < 0:
                    raise Invalid("the shard has no such piece", reason="bad-range")
                leaves = [leaf_hash(digest) for digest in split_digests(footer.piece_digests)]
                loaded = LoadHeader(
                    geometry.segments,
                    footer.piece_digests[first * DIGEST_SIZE :],
                    tuple(range_proof(leaves, first, count)),
                )
            except BaseException:
                reader.close()
                raise
            download = LocalDownload(
                self._runtime, reader, loaded, geometry, first, count, self._metrics
            )
            return download, reader

        download, _ = await opened(self._runtime, begin, lambda found: found[1].close())
        return download

    async def load_record(self, record: RecordId, after: bytes) -> tuple[RecordRows, bytes]:
        """A page of a record's rows, and where the next one begins.

        Raises:
            Invalid: ``after`` is not where a page begins.
        """
        return await self._runtime.disk(self._record, record, after)

    def _record(self, record: RecordId, after: bytes) -> tuple[RecordRows, bytes]:
        if self._replica.erasure(record) is not None:
            return RecordRows((), (), ()), b""
        stage, last = after[:1] or _STAGES[0], after[1:] or None
        if stage not in _STAGES:
            raise Invalid("no page of a record's rows begins there", reason="bad-page")
        found: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in _record_page(self._stores, record, stage, last):
            if found and size + len(value) > PAGE_BYTES:
                break
            found.append((key, value))
            size += len(value) + 32
        if found:
            following = stage + found[-1][0]
        else:
            at = _STAGES.index(stage) + 1
            following = _STAGES[at] if at < len(_STAGES) else b""
        values = tuple(value for _, value in found)
        if stage == b"b":
            return RecordRows((), values, ()), following
        if stage == b"l":
            return RecordRows((), (), values), following
        openings = []
        for key, value in found:
            with self._pending.locked([key]):
                openings.append((value, self._pending.latest(PENDING_OPENING, key)))
        return RecordRows(tuple(openings), (), ()), following

    async def has_shards(self, shards: Sequence[ShardName], profile: str) -> list[bool]:
        """Which of some shards of a profile are here, file and rows."""
        return await self._runtime.disk(
            lambda: [has_shard(self._stores, each.base, each.index, profile) for each in shards]
        )

    async def manifest_digests(self, bases: Sequence[BlobBase], profile: str) -> list[bytes]:
        """What holders compare of some bases (:mod:`.manifest_digest`); empty for nothing."""
        return await self._runtime.disk(
            lambda: [manifest_digest(self._stores.rows, base, profile) for base in bases]
        )

    async def has_rows(self, record: RecordId, digests: Sequence[bytes]) -> list[bool]:
        """Which rows of a record are here, by :func:`row_digest`."""

        def job() -> list[bool]:
            here = {row_digest(*row) for row in record_rows(self._stores, record)}
            return [digest in here for digest in digests]

        return await self._runtime.disk(job)


def _paged(
    scan: Callable[[range, bytes | None], list[tuple[bytes, T]]],
    partitions: Sequence[range],
    after: bytes,
    limit: int,
) -> tuple[list[tuple[bytes, T]], bytes]:
    """Up to ``limit`` rows of several ranges, and the key after which the next page begins.

    The key is empty when nothing is left; ``scan`` gives pages that end when they are empty.
    """
    found: list[tuple[bytes, T]] = []
    start = int.from_bytes(after[:POSITION_SIZE], "big") if after else 0
    for positions in partitions:
        if positions.stop <= start:
            continue
        last = after if after and positions.start <= start else None
        while page := scan(positions, last):
            room = limit - len(found)
            found += page[:room]
            if len(page) >= room:
                return found, found[-1][0]
            last = page[-1][0]
            if len(page) < SCANNED_ROWS:
                break
    return found, b""


def has_shard(stores: Stores, base: BlobBase, index: int, profile: str = "") -> bool:
    """Whether a shard of a profile (of any, when empty) is here, file and rows.

    Its name alone says nothing: it is the last of what is deleted.
    """
    form = form_here(stores.rows, base, index, profile)
    return (
        form is not None
        and stores.rows.get(Table.LAYOUTS, bytes(base)) is not None
        and stores.shards.has(base, index, form)
    )


def record_rows(stores: Stores, record: RecordId) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Every row of a record here: its kind (i, b, l), key and value."""
    for stage in _STAGES:
        after: bytes | None = None
        while page := _record_page(stores, record, stage, after):
            yield from ((stage, key, value) for key, value in page)
            after = page[-1][0]


def row_digest(kind: bytes, key: bytes, value: bytes) -> bytes:
    """What names one row of a record to another node."""
    return blake3_digest(kind + key + value)[:ROW_DIGEST_SIZE]


def record_digest(stores: Stores, record: RecordId) -> bytes:
    """A digest over all rows of a record here."""
    return blake3_digest(b"".join(row_digest(*row) for row in record_rows(stores, record)))


def _record_page(
    stores: Stores, record: RecordId, stage: bytes, after: bytes | None
) -> list[tuple[bytes, bytes]]:
    if stage == b"i":
        return stores.rows.scan(Table.INDEX, bytes(record), after, PAGE_ROWS)
    table = KeyTable.BOXES if stage == b"b" else KeyTable.LINKS
    return stores.keys.scan(table, bytes(record), after, PAGE_ROWS)


def _unknown() -> NotFound:
    return NotFound("this base is unknown here", reason="unknown-blob")
