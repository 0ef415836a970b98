"""One node's own packs: the local implementation of ``PackPeer``.

Owns what of a pack is visible and when.  Invariants:

* A shard is stored only when layout, rows and piece agree (:mod:`.pack_checks`).  The
  order is: the pending row (so that the collector finds whatever comes of it), the
  file, the key rows in one write, the other rows in one write.
* A payload is *pending* until a block of the ledger holds the commitment of its
  record's opening; pending payloads are not loaded, listed or named.
* Nothing is overwritten: other bytes under a known base are ``Conflict``.
* What is loaded is what the call names and its right reaches, payload by payload.

Authorization happens before a call arrives here (:mod:`hcefs.services`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Conflict, Corrupt, Exhausted, HcefsError, Invalid, NotFound
from hcefs.formats.pack import PACK_SEGMENT_SIZE, PackOpening, split_slots
from hcefs.formats.shard import HEADER_SIZE, ShardHeader, file_length
from hcefs.ids import BlobBase, RecordId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, ShardReader, Stores, Table
from hcefs.stripes.checks import Replica
from hcefs.stripes.pack_checks import (
    CheckedPack,
    Scope,
    check_openings,
    check_pack,
    pack_length,
)
from hcefs.stripes.pack_known import KnownGroup, KnownGroups, Name
from hcefs.stripes.pack_shape import PackShape
from hcefs.stripes.pending import PENDING_OPENING, PENDING_PACK, PendingNames, index_name
from hcefs.stripes.placed import form_here, form_of_version, record_row, shard_row
from hcefs.stripes.shard_index import ShardIndex
from hcefs.stripes.standing_in import record_mark, shard_mark
from hcefs.stripes.transfers import BegunShard, begin_shard, whole
from hcefs.stripes.uploads import Uploads
from hcefs.transport.packs import (
    BatchCall,
    ColumnsWanted,
    PackedRows,
    PackPart,
    PackShard,
    PackWanted,
)
from hcefs.transport.peers import Call, Piece

ANSWER_BYTES_MAX = 3 << 20
"""Of one answer, below the limit of messages between nodes; the rest is asked for again."""

OPENING_SHARE = 8
"""The opening is given where at least one payload in so many of it is asked for."""

ANSWER_FULL = "answer-full"


class PackHolder:
    """The local holder of packs.

    ``seated`` says whether this node is a seat of a record's partition.
    """

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        metrics: Metrics,
        pending: PendingNames,
        seated: Callable[[RecordId], bool],
        uploads: Uploads,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._metrics = metrics
        self._pending = pending
        self._seated = seated
        self._uploads = uploads
        self._index = ShardIndex(stores.shards)
        self._known = KnownGroups()

    # -- store

    async def store_pack(self, call: BatchCall, shard: PackShard) -> None:
        started = self._runtime.monotonic()
        names = [shard.base, *(group.record for group in shard.groups)]
        with self._uploads.begin(call.epoch, names):
            listed = [
                (index_name(group.record, shard.base), group.opening)
                for group in shard.groups
                if self._seated(group.record)
            ]
            # To its end, so that a barrier does not miss what goes on in the thread.
            await whole(self._runtime, partial(self._store, call, shard, listed))
        self._metrics.count("store_seconds_total", self._runtime.monotonic() - started)
        self._metrics.count("packs_stored_total")
        self._metrics.count("packed_payloads_stored_total", sum(len(g.cores) for g in shard.groups))

    def _store(
        self, call: BatchCall, shard: PackShard, listed: Sequence[tuple[bytes, bytes]]
    ) -> None:
        checked = check_pack(self._replica, call, shard)
        writer = self._begin(shard, checked)
        try:
            writer.write(shard.piece)
            storing = self._pending.storing.of(self._replica, [g.record for g in shard.groups])
            subjects = [bytes(shard.base), *(name for name, _ in listed)]
            with storing, self._pending.locked(subjects):
                self._require_new(shard, listed)
                # First what leads the collector here: whatever fails later is found again,
                # the openings in listings, too.
                base = bytes(shard.base)
                name = base + bytes([shard.index])
                self._pending.add([(PENDING_PACK, base, name)], shard.commit_by_ms)
                crash_point(CrashPoint.PACK_PENDING)
                writer.finish(checked.footer)
                crash_point(CrashPoint.PACK_SHARD)
                self._stores.keys.put_all_new(_key_rows(shard))
                crash_point(CrashPoint.PACK_KEYS)
                named = shard_row(shard.base, shard.index, checked.shape.profile.name)
                marks = self._marks(call, shard)
                self._stores.rows.put([*marks, *_rows(shard), named, *_index_rows(listed)])
                crash_point(CrashPoint.PACK_ROWS)
        finally:
            writer.abort()

    def _marks(self, call: BatchCall, shard: PackShard) -> list[tuple[Table, bytes, bytes]]:
        """What marks a shard that is stored here in the place of a seat that is away."""
        if not call.stand_in:
            return []
        self._metrics.count("stand_in_shards_total")
        return [shard_mark(shard.base, shard.index, call.epoch, self._runtime.now_ms())]

    def _begin(self, shard: PackShard, checked: CheckedPack) -> BegunShard:
        shape = checked.shape
        profile = shape.profile
        header = ShardHeader(
            shard.base, shard.index, profile.name, profile.k, profile.m, PACK_SEGMENT_SIZE
        )
        size = file_length(header.geometry(pack_length(shape)))
        return begin_shard(self._stores.shards, header, size)

    def _require_new(self, shard: PackShard, listed: Sequence[tuple[bytes, bytes]]) -> None:
        """Check that nothing else is known under this base.

        Raises:
            Conflict: it is.
        """
        layout = self._stores.rows.get(Table.LAYOUTS, bytes(shard.base))
        if layout is not None and layout != shard.layout:
            raise _row_exists()
        self._require_listing(listed)

    def _require_listing(self, listed: Sequence[tuple[bytes, bytes]]) -> None:
        known = self._stores.rows.get_many(Table.INDEX, [name for name, _ in listed])
        for found, (_, opening) in zip(known, listed, strict=True):
            if found is not None and found != opening:
                raise _row_exists()

    async def store_openings(
        self, call: BatchCall, openings: Sequence[bytes], commit_by_ms: int
    ) -> None:
        def keep() -> None:
            checked = check_openings(self._replica, call, openings, commit_by_ms)
            listed = [
                (index_name(opening.record, opening.base), data)
                for opening, data in zip(checked, openings, strict=True)
            ]
            storing = self._pending.storing.of(self._replica, [each.record for each in checked])
            with storing, self._pending.locked(name for name, _ in listed):
                self._require_listing(listed)
                self._pending.add(
                    [(PENDING_OPENING, name, name) for name, _ in listed], commit_by_ms
                )
                crash_point(CrashPoint.OPENING_PENDING)
                self._stores.rows.put([*marks, *_index_rows(listed)])
                crash_point(CrashPoint.OPENING_ROWS)

        records = {PackOpening.decode(opening).record for opening in openings}
        now = self._runtime.now_ms()
        marks = [record_mark(each, call.epoch, now) for each in records if call.stand_in]
        with self._uploads.begin(call.epoch, records):
            await whole(self._runtime, keep)

    # -- load

    async def load_packed(
        self, call: Call | BatchCall, wanted: Sequence[PackWanted]
    ) -> list[PackPart | HcefsError]:
        return await self._runtime.disk(self._load_packed, call, wanted)

    def _load_packed(
        self, call: Call | BatchCall, wanted: Sequence[PackWanted]
    ) -> list[PackPart | HcefsError]:
        scope = Scope(call)
        groups = self._groups([(each.base, each.record) for each in wanted])
        chosen: list[tuple[list[int], list[tuple[int, HcefsError]]]] = []
        names: list[bytes] = []
        for each, group in zip(wanted, groups, strict=True):
            slots, failures = _choose(each, group, scope)
            chosen.append((slots, failures))
            names += [each.base + slot.to_bytes(2, "big") for slot in slots]
        cores = iter(self._stores.rows.get_many(Table.CORES, names))
        wrapped = iter(self._stores.keys.get_many(KeyTable.KEY_ROWS, names))
        envelopes = self._stores.keys.get_many(
            KeyTable.PACK_ENVELOPES, [each.base + each.record for each in wanted]
        )
        answer: list[PackPart | HcefsError] = []
        room = ANSWER_BYTES_MAX
        for each, group, (slots, failures), envelope in zip(
            wanted, groups, chosen, envelopes, strict=True
        ):
            rows = [(slot, next(cores), next(wrapped)) for slot in slots]
            if isinstance(group, HcefsError):
                answer.append(group)
                continue
            part = _part(each, group, rows, failures, envelope or b"", _whole(call, each, group))
            room -= _size(part)
            # At least one part goes, so that asking again makes progress.
            answer.append(part if room >= 0 or not answer else _answer_full())
        return answer

    def _groups(self, names: Sequence[Name]) -> list[KnownGroup | HcefsError]:
        """What is known of each name, from the disk where it was not asked for lately."""
        found: dict[Name, KnownGroup | HcefsError] = {}
        missing: list[Name] = []
        for name in names:
            known = self._known.get(name)
            if known is not None:
                found[name] = known
            elif name not in found:
                missing.append(name)
                found[name] = NotFound("this blob is unknown here", reason="unknown-blob")
        rows, changes = self._stores.rows, self._known.changes
        openings = rows.get_many(Table.OPENINGS, [base + record for base, record in missing])
        bases = list({base for base, _ in missing})
        layouts = dict(zip(bases, rows.get_many(Table.LAYOUTS, bases), strict=True))
        for name, opening in zip(missing, openings, strict=True):
            layout = layouts[name[0]] or self._coming(name[0])
            if opening is None or layout is None:
                continue
            try:
                found[name] = self._group(name, opening, layout, changes)
            except HcefsError as error:
                found[name] = error
        return [found[name] for name in names]

    def _group(self, name: Name, encoded: bytes, layout: bytes, changes: int) -> KnownGroup:
        opening = PackOpening.decode(encoded)
        tree = opening.tree()
        if self._replica.leaf_index(opening.record, opening.commitment(tree)) is None:
            raise NotFound("this blob is not committed on the ledger", reason="not-committed")
        slots = frozenset(split_slots(opening.slots))
        shape = self._known.shape(layout)
        group = KnownGroup(opening, encoded, tree, slots, layout, shape, shape.version)
        self._known.put(name, group, changes)
        return group

    def forget(self, *bases: BlobBase) -> None:
        """Note that the layouts of packs were replaced, or that nothing of them is left."""
        self._known.forget(bases)

    async def load_columns(
        self, call: Call | BatchCall, wanted: Sequence[ColumnsWanted]
    ) -> list[Piece | HcefsError]:
        started = self._runtime.monotonic()
        found = await self._runtime.disk(self._load_columns, call, wanted)
        self._metrics.count("load_seconds_total", self._runtime.monotonic() - started)
        return found

    def _load_columns(
        self, call: Call | BatchCall, wanted: Sequence[ColumnsWanted]
    ) -> list[Piece | HcefsError]:
        scope = Scope(call)
        groups = self._groups([(each.payloads.base, each.payloads.record) for each in wanted])
        readers: dict[tuple[BlobBase, int, str], ShardReader] = {}
        answer: list[Piece | HcefsError] = []
        room = ANSWER_BYTES_MAX
        try:
            for each, group in zip(wanted, groups, strict=True):
                try:
                    shape = _shape(each, group)
                    runs = _runs(each, group, shape, scope)
                    form = self._form(each, group, shape.profile.name)
                    room -= sum(length for _, length in runs)
                    if room < 0 and answer:
                        raise _answer_full()
                    answer.append(self._columns(each, form, runs, readers))
                except HcefsError as error:
                    answer.append(error)
        finally:
            for reader in readers.values():
                reader.close()
        return answer

    def _coming(self, base: BlobBase) -> bytes | None:
        """The layout of a pack of which only the next layout has a shard here."""
        page = self._stores.rows.scan(Table.STAGED, bytes(base), limit=1)
        return page[0][1] if page and page[0][1] else None

    def _form(self, wanted: ColumnsWanted, group: KnownGroup | HcefsError, profile: str) -> str:
        """The form in which the shard that is asked for is here.

        Raises:
            NotFound: it is not, under that profile.
        """
        base, index = wanted.payloads.base, wanted.index
        if not isinstance(group, HcefsError) and group.shape.profile.name == profile:
            form = form_of_version(group.version, profile)
            if self._stores.shards.has(base, index, form):
                return form
        found = form_here(self._stores.rows, base, index, profile)
        if found is None:
            raise NotFound("this shard is not here", reason="no-such-shard")
        return found

    def _columns(
        self,
        wanted: ColumnsWanted,
        form: str,
        runs: Sequence[tuple[int, int]],
        readers: dict[tuple[BlobBase, int, str], ShardReader],
    ) -> bytes:
        name = (wanted.payloads.base, wanted.index, form)
        reader = readers.get(name)
        if reader is None:
            self._index.footer(*name)  # checks the file
            reader = readers[name] = self._stores.shards.open(*name)
        return b"".join(reader.read_at(HEADER_SIZE + offset, length) for offset, length in runs)


def _row_exists() -> Conflict:
    return Conflict(
        "other rows are stored under the base of this pack: draw a new one for each put",
        reason="row-exists",
    )


def _answer_full() -> Exhausted:
    return Exhausted("the answer is full: ask for the rest again", reason=ANSWER_FULL)


def _key_rows(shard: PackShard) -> list[tuple[KeyTable, bytes, bytes]]:
    base = bytes(shard.base)
    rows: list[tuple[KeyTable, bytes, bytes]] = []
    for group in shard.groups:
        slots, wrapped = group.slots, group.wrapped_keys
        rows += [
            (KeyTable.KEY_ROWS, base + slots[2 * i : 2 * i + 2], wrapped[40 * i : 40 * i + 40])
            for i in range(len(group.cores))
        ]
        rows.append((KeyTable.PACK_ENVELOPES, base + group.record, group.envelope))
    return rows


def _rows(shard: PackShard) -> list[tuple[Table, bytes, bytes]]:
    base = bytes(shard.base)
    rows: list[tuple[Table, bytes, bytes]] = [(Table.LAYOUTS, base, shard.layout)]
    for group in shard.groups:
        slots = group.slots
        rows += [
            (Table.CORES, base + slots[2 * i : 2 * i + 2], core)
            for i, core in enumerate(group.cores)
        ]
        rows.append((Table.OPENINGS, base + group.record, group.opening))
    return rows


def _index_rows(listed: Sequence[tuple[bytes, bytes]]) -> list[tuple[Table, bytes, bytes]]:
    return [
        row
        for name, opening in listed
        for row in ((Table.INDEX, name, opening), record_row(RecordId(name[: RecordId.SIZE])))
    ]


def _choose(
    wanted: PackWanted, group: KnownGroup | HcefsError, scope: Scope
) -> tuple[list[int], list[tuple[int, HcefsError]]]:
    """The slots that are served, and why others are not."""
    slots: list[int] = []
    failures: list[tuple[int, HcefsError]] = []
    if isinstance(group, HcefsError):
        return slots, failures
    for slot in wanted.slots:
        error = scope.refusal(wanted.record, wanted.base + slot.to_bytes(2, "big"))
        if error is None and slot not in group.slots:
            error = NotFound("this blob is unknown here", reason="unknown-blob")
        if error is None:
            slots.append(slot)
        else:
            failures.append((slot, error))
    return slots, failures


def _whole(call: Call | BatchCall, wanted: PackWanted, group: KnownGroup) -> bool:
    """Whether the whole opening may be shown, and is worth it."""
    return (
        isinstance(call, BatchCall)
        and wanted.record in call.whole
        and len(wanted.slots) * OPENING_SHARE >= len(group.slots)
    )


def _part(
    wanted: PackWanted,
    group: KnownGroup,
    rows: Sequence[tuple[int, bytes | None, bytes | None]],
    failures: Sequence[tuple[int, HcefsError]],
    envelope: bytes,
    whole: bool,
) -> PackPart:
    served: list[PackedRows] = []
    missing: list[tuple[int, HcefsError]] = list(failures)
    for slot, core, wrapped in rows:
        if core is None:
            missing.append((slot, Corrupt("the core of a payload is gone", reason="missing-row")))
            continue
        proof = b"" if whole else group.opening.proof(slot, group.tree).encode()
        served.append(PackedRows(slot, core, wrapped or b"", proof))
    opening = group.encoded if whole else b""
    return PackPart(
        wanted.record, wanted.base, group.layout, envelope, opening, tuple(served), tuple(missing)
    )


def _size(part: PackPart) -> int:
    """Bytes of a part in an answer, about."""
    return (
        len(part.layout)
        + len(part.envelope)
        + len(part.opening)
        + 128
        + sum(len(rows.core) + len(rows.wrapped) + len(rows.proof) + 32 for rows in part.payloads)
        + 256 * len(part.failures)
    )


def _shape(wanted: ColumnsWanted, group: KnownGroup | HcefsError) -> PackShape:
    """The shape of the pack under the profile by which it is asked for.

    Raises:
        HcefsError: the payloads are not here, or there is no such profile.
    """
    if isinstance(group, HcefsError):
        raise group
    if wanted.profile in ("", group.shape.profile.name):
        return group.shape
    return group.shape.under(profile_named(wanted.profile))


def _runs(
    wanted: ColumnsWanted, group: KnownGroup | HcefsError, shape: PackShape, scope: Scope
) -> list[tuple[int, int]]:
    """What of the shard's piece is read.

    Raises:
        HcefsError: the payloads are not here, or the call does not reach all of them.
    """
    if isinstance(group, HcefsError):
        raise group
    if not 0 <= wanted.column_of < shape.profile.k:
        raise Invalid("a column is one of a data piece", reason="bad-index")
    if not 0 <= wanted.index < shape.profile.n:
        raise Invalid(f"index {wanted.index} is not in the profile", reason="bad-index")
    own = wanted.payloads
    for slot in own.slots:
        error = scope.refusal(own.record, own.base + slot.to_bytes(2, "big"))
        if error is None and slot not in group.slots:
            error = NotFound("this blob is unknown here", reason="unknown-blob")
        if error is not None:
            raise error
    return shape.runs_in(own.slots, wanted.column_of)
