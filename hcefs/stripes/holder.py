"""One node's own shards and rows: the local implementation of ``Peer``.

Owns what is visible and when.  Invariants:

* A shard is stored only when its length, its digests, its layout's signature
  and its core agree.  The order is: the pending row (so that the collector finds
  whatever comes of it), the file, the key row, the manifest rows in one write.
* A blob is *pending* until a block of the ledger holds its commitment: whether
  it is committed is asked of the node's own replica, not of a mark that could
  be lost.  Pending blobs are not loaded, listed or named.
* Nothing is overwritten: other bytes under a known name are ``Conflict``.

Authorization happens before a call arrives here (:mod:`hcefs.services`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from hcefs.access.emergency import box_name
from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import Geometry, profile_named, resolve_range
from hcefs.errors import Conflict, Corrupt, Denied, Invalid, NotFound
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, Layout, Opening
from hcefs.formats.pack import decode_opening
from hcefs.formats.shard import HEADER_SIZE, ShardHeader, file_length, footer_length
from hcefs.ids import BlobBase, BlobId, RecordId
from hcefs.integrity import DIGEST_SIZE, leaf_hash, range_proof, split_digests
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, ShardReader, Stores, Table
from hcefs.stripes.checks import (
    Replica,
    check_box,
    check_commit_by,
    check_link,
    check_rows,
)
from hcefs.stripes.pending import PENDING_BLOB, PENDING_OPENING, PendingNames
from hcefs.stripes.placed import form_here, form_of, record_row, shard_row
from hcefs.stripes.shard_index import ShardIndex
from hcefs.stripes.standing_in import record_mark, shard_mark
from hcefs.stripes.transfers import (
    BegunShard,
    LocalDownload,
    LocalUpload,
    begin_shard,
    opened,
    whole,
)
from hcefs.stripes.uploads import Uploads
from hcefs.transport.peers import (
    LOAD_MESSAGE_BYTES,
    Call,
    Entry,
    LoadHeader,
    ManifestRows,
    Piece,
    ShardDownload,
    ShardRows,
    ShardStart,
    ShardUpload,
)

LISTING_PAGE = 1000
PREALLOCATED_BYTES_MAX = 256 << 20
KEY_ROWS_MAX = 1200
"""Of 1.3 KB at most each: together they stay below the message limit."""


def box_key(box: KeyBox) -> bytes:
    """(record, grant, generation, grantee key version, granter, blob).

    Boxes of a grant are adjacent; the granter keeps one from taking another's place.
    """
    return (
        bytes(box.record)
        + bytes(box.grant)
        + box.generation.to_bytes(4, "big")
        + box.grantee_key_version.to_bytes(4, "big")
        + bytes(box.granter)
        + (bytes(box.blob) if box.blob is not None else b"")
    )


def link_key(record: RecordId, generation: int) -> bytes:
    """(record, generation)."""
    return bytes(record) + generation.to_bytes(4, "big")


def expected_size(start: ShardStart) -> int | None:
    """Size of the shard's file if the gateway's word on the length is true; bounded.

    Allocating in one piece saves most of the CPU of writing.  It is only a hint, so
    it may not reserve more than it could be worth.
    """
    if not start.expected_length:
        return None
    profile = profile_named(start.profile)
    length = min(start.expected_length, PREALLOCATED_BYTES_MAX * profile.k)
    return file_length(Geometry(length, profile, start.segment_size))


def _header_of(start: ShardStart) -> ShardHeader:
    """The header of a shard's file.

    Raises:
        Invalid: no blob id, a packed one, or an index that the profile does not have.
    """
    blob = start.call.blob
    if blob is None or blob.slot != 0:
        raise Invalid("a shard needs a blob id with slot 0", reason="bad-id")
    profile = profile_named(start.profile)
    if not 0 <= start.index < profile.n:
        raise Invalid(f"index {start.index} is not in {profile.name}", reason="bad-index")
    return ShardHeader(
        blob.base, start.index, profile.name, profile.k, profile.m, start.segment_size
    )


class Holder:
    """The local holder."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        metrics: Metrics,
        lists: Callable[[RecordId], bool],
        uploads: Uploads,
    ) -> None:
        """``lists`` says whether this node is a seat of a record's partition now."""
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._metrics = metrics
        self._lists = lists
        self._uploads = uploads
        self._index = ShardIndex(stores.shards)
        self.pending = PendingNames(stores.rows)

    async def store(self, start: ShardStart) -> ShardUpload:
        header = _header_of(start)
        upload = self._uploads.begin(start.call.epoch, (header.base, start.call.record))
        try:
            writer = await opened(
                self._runtime,
                partial(begin_shard, self._stores.shards, header, expected_size(start)),
                lambda begun: begun.abort(),
            )
        except BaseException:
            upload.end()
            raise
        return LocalUpload(self._runtime, start, writer, self._finish, self._metrics, upload)

    async def store_whole(
        self, start: ShardStart, pieces: Sequence[Piece], rows: ShardRows
    ) -> bool:
        header = _header_of(start)
        received = sum(map(len, pieces))
        size = HEADER_SIZE + received + footer_length(len(rows.piece_digests) // DIGEST_SIZE)

        def job() -> bool:
            writer = begin_shard(self._stores.shards, header, size)
            try:
                for piece in pieces:
                    writer.write(piece)
                return self._finish(start, writer, received, rows)
            finally:
                writer.abort()  # does nothing after a finish

        started = self._runtime.monotonic()
        with self._uploads.begin(start.call.epoch, (header.base, start.call.record)):
            # To its end, so that a barrier does not miss what goes on in the thread.
            listed = await whole(self._runtime, job)
        self._metrics.count("store_seconds_total", self._runtime.monotonic() - started)
        return listed

    def _finish(
        self, start: ShardStart, writer: BegunShard, received: int, rows: ShardRows
    ) -> bool:
        """Check everything that can be checked without a key, then make it durable.

        True: this node lists the record, and keeps the opening for that as well.
        """
        checked = check_rows(self._replica, start, received, rows)
        blob, record = checked.core.blob, checked.core.record
        base, listing = bytes(blob.base), bytes(record) + bytes(blob)
        lists = self._lists(record)
        waiting = [(PENDING_BLOB, base, bytes(blob) + bytes([start.index]))]
        kept = [
            *self._marks(start.call, blob.base, start.index),
            (Table.CORES, base, rows.core),
            (Table.LAYOUTS, base, rows.layout),
            (Table.OPENINGS, base, rows.opening),
            shard_row(blob.base, start.index, start.profile),
        ]
        if lists:
            waiting.append((PENDING_OPENING, listing, listing))
            kept += [(Table.INDEX, listing, rows.opening), record_row(record)]
        storing = self.pending.storing.of(self._replica, [record])
        with storing, self.pending.locked([base, listing]):
            self._require_new(blob, rows)
            if lists:
                self._require_listing(listing, rows.opening)
            # First what leads the collector here: whatever fails later is found again.
            self.pending.add(waiting, checked.core.commit_by_ms)
            crash_point(CrashPoint.BLOB_PENDING)
            writer.finish(checked.footer)
            crash_point(CrashPoint.BLOB_SHARD)
            self._stores.keys.put_new(KeyTable.KEY_ROWS, bytes(blob), rows.key_row)
            crash_point(CrashPoint.BLOB_KEY_ROW)
            self._stores.rows.put(kept)
            crash_point(CrashPoint.BLOB_ROWS)
        return lists

    def _marks(self, call: Call, base: BlobBase, index: int) -> list[tuple[Table, bytes, bytes]]:
        """What marks a shard that is stored here in the place of a seat that is away."""
        if not call.stand_in:
            return []
        self._metrics.count("stand_in_shards_total")
        return [shard_mark(base, index, call.epoch, self._runtime.now_ms())]

    def _record_marks(self, call: Call) -> list[tuple[Table, bytes, bytes]]:
        """The same of rows of the call's record."""
        if not call.stand_in:
            return []
        return [record_mark(call.record, call.epoch, self._runtime.now_ms())]

    def _require_listing(self, name: bytes, opening: bytes) -> bool:
        """Whether this opening is in the record's listing already; no other one may be.

        Raises:
            Conflict: another one is.
        """
        known = self._stores.rows.get(Table.INDEX, name)
        if known is not None and known != opening:
            raise Conflict(
                "another opening is stored under this blob id: draw a new one for each put",
                reason="row-exists",
            )
        return known is not None

    def _require_new(self, blob: BlobId, rows: ShardRows) -> None:
        """Check that no other rows are known under this blob id.

        Raises:
            Conflict: they are.
        """
        for known, mine in (
            (self._stores.rows.get(Table.CORES, bytes(blob.base)), rows.core),
            (self._stores.rows.get(Table.LAYOUTS, bytes(blob.base)), rows.layout),
            (self._stores.rows.get(Table.OPENINGS, bytes(blob.base)), rows.opening),
            (self._stores.keys.get(KeyTable.KEY_ROWS, bytes(blob)), rows.key_row),
        ):
            if known is not None and known != mine:
                raise Conflict(
                    "other rows are stored under this blob id: draw a new one for each put",
                    reason="row-exists",
                )

    def _manifest(self, blob: BlobId, record: RecordId) -> ManifestRows:
        """The rows of a committed blob.

        Raises:
            NotFound: unknown here, of another record, or not committed yet.
        """
        core, opening_bytes = self._committed(blob, record)
        layout = self._stores.rows.get(Table.LAYOUTS, bytes(blob.base))
        if layout is None:
            raise NotFound("this blob is unknown here", reason="unknown-blob")
        key_row = self._stores.keys.get(KeyTable.KEY_ROWS, bytes(blob)) or b""
        return ManifestRows(core, layout, key_row, opening_bytes)

    def _committed(self, blob: BlobId, record: RecordId) -> tuple[bytes, bytes]:
        """Core and opening of a committed blob.

        Raises:
            NotFound: unknown here, of another record, or not committed yet.
        """
        base = bytes(blob.base)
        opening_bytes = self._stores.rows.get(Table.OPENINGS, base)
        core = self._stores.rows.get(Table.CORES, base)
        if opening_bytes is None or core is None:
            raise NotFound("this blob is unknown here", reason="unknown-blob")
        opening = Opening.decode(opening_bytes)
        if opening.blob != blob or opening.record != record:
            raise NotFound("this blob is unknown here", reason="unknown-blob")
        if self._replica.leaf_index(record, opening.commitment()) is None:
            raise NotFound("this blob is not committed on the ledger", reason="not-committed")
        return core, opening_bytes

    async def load(self, call: Call, index: int, first: int, count: int) -> ShardDownload:
        if call.blob is None:
            raise Invalid("a load needs a blob id", reason="bad-id")
        header, geometry, reader = await opened(
            self._runtime,
            partial(self._open, call, call.blob, index, first, count),
            lambda found: found[2].close(),
        )
        return LocalDownload(self._runtime, reader, header, geometry, first, count, self._metrics)

    def _open(
        self, call: Call, blob: BlobId, index: int, first: int, count: int
    ) -> tuple[LoadHeader, Geometry, ShardReader]:
        core_bytes, _ = self._committed(blob, call.record)
        core = Core.decode(core_bytes)
        profile, form = self._form(blob.base, index, call.profile)
        footer = self._index.footer(blob.base, index, form)
        if footer.plaintext_length != core.plaintext_length:
            raise Corrupt("a shard's length differs from its core", reason="bad-footer")
        geometry = Geometry(core.plaintext_length, profile_named(profile), core.segment_size)
        covering = geometry.covering(
            *resolve_range(core.plaintext_length, call.range_start, call.range_length)
        )
        if not (count >= 1 and covering.start <= first and first + count <= covering.stop):
            raise Denied("these pieces are outside the proven range", reason="wrong-range")
        digests = footer.piece_digests
        leaves = [leaf_hash(digest) for digest in split_digests(digests)]
        header = LoadHeader(
            geometry.segments,
            digests[first * DIGEST_SIZE : (first + count) * DIGEST_SIZE],
            tuple(range_proof(leaves, first, count)),
        )
        return header, geometry, self._stores.shards.open(blob.base, index, form)

    def _form(self, base: BlobBase, index: int, profile: str) -> tuple[str, str]:
        """Under which profile and in which form a shard is read here.

        Without a profile it is that of the layout in force.  With one it may be another: a
        reader may have begun under the layout before, or under the next one.

        Raises:
            NotFound: it is not here under that profile.
        """
        data = self._stores.rows.get(Table.LAYOUTS, bytes(base))
        layout = Layout.decode(data) if data is not None else None
        if layout is not None and profile in ("", layout.profile):
            form = form_of(layout)
            if self._stores.shards.has(base, index, form):
                return layout.profile, form
            profile = layout.profile
        found = form_here(self._stores.rows, base, index, profile) if profile else None
        if found is None:
            raise NotFound("this shard is not here", reason="no-such-shard")
        return profile, found

    async def load_pieces(
        self, call: Call, index: int, first: int, count: int
    ) -> tuple[LoadHeader, Piece]:
        if call.blob is None:
            raise Invalid("a load needs a blob id", reason="bad-id")
        blob = call.blob

        def job() -> tuple[LoadHeader, Piece]:
            header, geometry, reader = self._open(call, blob, index, first, count)
            try:
                length = sum(geometry.piece_of(first + number) for number in range(count))
                if length > LOAD_MESSAGE_BYTES:
                    raise Invalid(
                        f"these pieces have more than {LOAD_MESSAGE_BYTES} bytes: load them as a "
                        "stream",
                        reason="too-large",
                    )
                return header, reader.read_at(HEADER_SIZE + geometry.offset_of(first), length)
            finally:
                reader.close()

        started = self._runtime.monotonic()
        found = await self._runtime.disk(job)
        self._metrics.count("load_seconds_total", self._runtime.monotonic() - started)
        return found

    async def store_opening(self, call: Call, opening: bytes, commit_by_ms: int) -> None:
        value = Opening.decode(opening)
        value.check()
        if value.record != call.record or value.blob != call.blob:
            raise Invalid("the opening is of another blob", reason="bad-opening")
        check_commit_by(self._replica, commit_by_ms)
        name = bytes(value.record) + bytes(value.blob)

        def keep() -> None:
            storing = self.pending.storing.of(self._replica, [value.record])
            with storing, self.pending.locked([name]):
                known = self._require_listing(name, opening)
                self.pending.add([(PENDING_OPENING, name, name)], commit_by_ms)
                crash_point(CrashPoint.OPENING_PENDING)
                kept = self._record_marks(call)
                if not known:
                    kept += [(Table.INDEX, name, opening), record_row(value.record)]
                if kept:
                    self._stores.rows.put(kept)
                crash_point(CrashPoint.OPENING_ROWS)

        with self._uploads.begin(call.epoch, (value.record,)):
            await whole(self._runtime, keep)

    async def store_box(self, call: Call, box: bytes, link: bytes) -> None:
        if box:
            value = KeyBox.decode(box)
            check_box(self._replica, call, value)
            keep = partial(self._keep_key, call, KeyTable.BOXES, box_key(value), box)
        else:
            bridge = KeyLink.decode(link)
            check_link(self._replica, call, bridge)
            key = link_key(bridge.record, bridge.generation)
            keep = partial(self._keep_key, call, KeyTable.LINKS, key, link)
        with self._uploads.begin(call.epoch, (call.record,)):
            await whole(self._runtime, keep)

    def _keep_key(self, call: Call, table: KeyTable, key: bytes, value: bytes) -> None:
        """Keep a box or a link, which is a row of the call's record."""
        with self.pending.storing.of(self._replica, [call.record]):
            self._keep_key_row(call, table, key, value)

    def _keep_key_row(self, call: Call, table: KeyTable, key: bytes, value: bytes) -> None:
        named = record_row(call.record)
        marks = self._record_marks(call)
        if marks or self._stores.rows.get(named[0], named[1]) is None:
            self._stores.rows.put([*marks, named])
        crash_point(CrashPoint.BOX_RECORD)
        self._stores.keys.put_new(table, key, value)
        crash_point(CrashPoint.BOX_KEPT)
        if marks:
            # It may have been removed meanwhile, because there was no such row yet.
            self._stores.rows.put(marks)

    async def load_manifest(self, call: Call) -> ManifestRows:
        if call.blob is None:
            raise Invalid("a manifest needs a blob id", reason="bad-id")
        return await self._runtime.disk(self._manifest, call.blob, call.record)

    async def load_listing(self, call: Call) -> list[Entry]:
        return await self._runtime.disk(self._listing, call.record)

    def _listing(self, record: RecordId) -> list[Entry]:
        entries: list[Entry] = []
        after: bytes | None = None
        while page := self._stores.rows.scan(
            Table.INDEX, prefix=bytes(record), after=after, limit=LISTING_PAGE
        ):
            for _, value in page:
                index = self._replica.leaf_index(record, decode_opening(value).commitment())
                if index is not None:
                    entries.append(Entry(value, index))
            after = page[-1][0]
        return entries

    async def load_boxes(self, call: Call) -> tuple[list[bytes], list[bytes]]:
        # Boxes for an emergency lie under the naming, and only an opening leads to them.
        grant, record = box_name(self._replica, call.grant), call.record

        def scan() -> tuple[list[bytes], list[bytes]]:
            return (
                self._key_rows(KeyTable.BOXES, bytes(record) + bytes(grant)),
                self._key_rows(KeyTable.LINKS, bytes(record)),
            )

        return await self._runtime.disk(scan)

    def _key_rows(self, table: KeyTable, prefix: bytes) -> list[bytes]:
        """The newest rows of a prefix that fit one answer."""
        found: list[bytes] = []
        after: bytes | None = None
        while page := self._stores.keys.scan(table, prefix=prefix, after=after, limit=LISTING_PAGE):
            found += [value for _, value in page]
            after = page[-1][0]
        return found[-KEY_ROWS_MAX:]

    async def quarantine(self, base: BlobBase, index: int) -> None:
        """Move a damaged shard aside, so that repair can bring a good one."""
        await self._runtime.disk(self._stores.shards.quarantine, base, index)
        self._index.forget(base, index)
