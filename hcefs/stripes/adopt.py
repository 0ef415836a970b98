"""Take over shards and rows from other nodes, when all of it proves itself.

The twin of :mod:`.holder` for what no client brings: the giver is another node, which is
not trusted, and its word is compared with the ledger at this node's own height.  **The
ledger is the tombstone**: what it does not know, and what no append can bring any more,
is not taken; so nothing that was deleted comes back with a node that kept it.

Invariants: the order on the disk is the holder's, so that a stop in between leaves
nothing visible by half and a repeat finishes it; nothing is overwritten; every piece is
compared with its digest before the file has its name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from hcefs.access.emergency import boxed_grant
from hcefs.access.facts import Action, signing_key_of
from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, NotFound
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.formats.pack import (
    PACK_SEGMENT_SIZE,
    WRAPPED_SIZE,
    PackLayout,
    PackOpening,
    decode_opening,
)
from hcefs.formats.shard import ShardFooter, ShardHeader, file_length
from hcefs.ids import BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.runtime import Runtime
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.checks import Replica, check_commit_by, check_layout
from hcefs.stripes.exports import has_shard
from hcefs.stripes.fanout import layout_fits
from hcefs.stripes.holder import box_key, link_key
from hcefs.stripes.pack_checks import check_core, check_groups, pack_length
from hcefs.stripes.pack_shape import PackShape
from hcefs.stripes.pending import (
    PENDING_BLOB,
    PENDING_OPENING,
    PENDING_PACK,
    PendingNames,
    index_name,
)
from hcefs.stripes.placed import form_of, record_row, replaced_rows, shard_key, shard_row
from hcefs.stripes.shard_check import check_whole
from hcefs.stripes.storing import ERASED, Tombs, require_living
from hcefs.stripes.transfers import BegunShard, begin_shard, whole
from hcefs.transport.peers import Piece
from hcefs.transport.upkeep import BlobRows, PackRows, RecordRows, ShardName

OTHER_LAYOUT = "other-layout"
log = logging.getLogger(__name__)

Leaf = tuple[RecordId, bytes]
"""A record, and the commitment of an entry in it."""


@dataclass(frozen=True)
class Adoptable:
    """Rows that proved themselves: what a shard of this base must be.

    ``committed``: a block of the ledger holds it, of a pack at least one record's part.
    ``commit_by_ms`` is until when it waits for an append; 0 when it waits for none.
    """

    base: BlobBase
    profile: str
    segment_size: int
    plaintext_length: int
    shard_digests: tuple[bytes, ...]
    committed: bool
    commit_by_ms: int
    rows: tuple[tuple[Table, bytes, bytes], ...]
    keys: tuple[tuple[KeyTable, bytes, bytes], ...]
    packed: bool
    layout: Layout | PackLayout
    cores: tuple[Core, ...]
    records: tuple[RecordId, ...]
    """Of which rows are in it."""

    uncovered: int = 0
    """Payloads of a pack of which the giver has no rows: of records that were erased."""

    @property
    def form(self) -> str:
        """The form of its shards on this node."""
        return form_of(self.layout)

    def leaves(self) -> tuple[Leaf, ...]:
        """Of each opening, the record and the commitment that an append brings."""
        openings = [decode_opening(row) for table, _, row in self.rows if table is Table.OPENINGS]
        return tuple((opening.record, opening.commitment()) for opening in openings)

    @property
    def geometry(self) -> Geometry:
        """Where the pieces of each shard lie."""
        return Geometry(self.plaintext_length, profile_named(self.profile), self.segment_size)


@dataclass
class _Fitting:
    """Rows that are to be written, and whether one of them replaces an older layout."""

    rows: list[tuple[Table, bytes, bytes]] = field(default_factory=list)
    replaces: bool = False


class Adopter:
    """Keeps copies on this node."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        pending: PendingNames,
        changed: Callable[[BlobBase], None] = lambda _: None,
    ) -> None:
        """``changed`` is told of a base whose layout was replaced."""
        self._changed = changed
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._pending = pending

    @property
    def tombs(self) -> Tombs:
        """What says which records were erased."""
        return self._replica

    # -- shards

    async def has(self, base: BlobBase, index: int, profile: str) -> bool:
        """Whether the shard of a profile is here with its rows."""
        return await self._runtime.disk(has_shard, self._stores, base, index, profile)

    async def has_all(self, shards: Sequence[ShardName], profile: str) -> list[bool]:
        """As :meth:`has`, of many shards in one call of the disk."""
        return await self._runtime.disk(
            lambda: [has_shard(self._stores, each.base, each.index, profile) for each in shards]
        )

    def check(self, base: BlobBase, rows: BlobRows | PackRows) -> Adoptable:
        """Rows of another node, compared with each other and with the ledger.

        Raises:
            NotFound: the ledger does not know it, and never will.
            Corrupt, Invalid, Denied, Unauthenticated: they do not prove themselves.
        """
        if isinstance(rows, PackRows):
            return self._check_pack(base, rows)
        return self._check_blob(base, rows)

    def _check_blob(self, base: BlobBase, rows: BlobRows) -> Adoptable:
        core, layout = Core.decode(rows.core), Layout.decode(rows.layout)
        opening = Opening.decode(rows.opening)
        core.check()
        opening.check()
        require_living(self._replica, core.record)
        check_layout(self._replica, layout, core.writer)
        if (
            core.blob.base != base
            or (opening.blob, opening.record) != (core.blob, core.record)
            or opening.core_digest != core.digest()
            or (layout.base, layout.record) != (base, core.record)
            or not layout_fits(core, layout)
        ):
            raise Corrupt("the rows of a blob do not fit together", reason="rows-disagree")
        keys = []
        if rows.key_row:
            key_row = KeyRow.decode(rows.key_row)
            if (key_row.blob, key_row.record) != (core.blob, core.record):
                raise Corrupt("a key row is of another blob", reason="rows-disagree")
            keys.append((KeyTable.KEY_ROWS, bytes(core.blob), rows.key_row))
        committed = self._is_committed(opening.record, opening.commitment())
        commit_by_ms = 0 if committed else self._still_pending(core.commit_by_ms)
        return Adoptable(
            base,
            layout.profile,
            core.segment_size,
            core.plaintext_length,
            layout.shard_digests,
            committed,
            commit_by_ms,
            (
                (Table.CORES, bytes(base), rows.core),
                (Table.LAYOUTS, bytes(base), rows.layout),
                (Table.OPENINGS, bytes(base), rows.opening),
            ),
            tuple(keys),
            packed=False,
            layout=layout,
            cores=(core,),
            records=(core.record,),
        )

    def _check_pack(self, base: BlobBase, rows: PackRows) -> Adoptable:
        layout = PackLayout.decode(rows.layout)
        shape = PackShape.of(layout)
        if layout.base != base:
            raise Corrupt("the layout is of another pack", reason="rows-disagree")
        # Whose records were erased there, or here, is not among its groups any more.
        some_erased = bool(self._replica.erased_after(0, RecordId.zero(), 1))
        check_groups(base, rows.groups, shape.payloads, shredded=True, partial=some_erased)
        groups = [each for each in rows.groups if self._replica.erasure(each.record) is None]
        if not groups:
            raise NotFound("all records of this pack were erased", reason=ERASED)
        kept: list[tuple[Table, bytes, bytes]] = [(Table.LAYOUTS, bytes(base), rows.layout)]
        keys: list[tuple[KeyTable, bytes, bytes]] = []
        cores: list[Core] = []
        waiting = 0
        for group in groups:
            opening = PackOpening.decode(group.opening)
            waiting += not self._is_committed(group.record, opening.commitment())
            slots = opening.slots
            for at, data in enumerate(group.cores):
                slot = slots[2 * at : 2 * at + 2]
                number = int.from_bytes(slot, "big")
                blob = BlobId.of(base, number)
                core = check_core(data, group.record, blob, shape.length_of(number))
                if not at:
                    check_layout(self._replica, layout, core.writer)
                cores.append(core)
                kept.append((Table.CORES, bytes(base) + slot, data))
                wrapped = group.wrapped_keys[WRAPPED_SIZE * at : WRAPPED_SIZE * (at + 1)]
                if any(wrapped):
                    keys.append((KeyTable.KEY_ROWS, bytes(base) + slot, wrapped))
            kept.append((Table.OPENINGS, bytes(base) + bytes(group.record), group.opening))
            if group.envelope:
                name = bytes(base) + bytes(group.record)
                keys.append((KeyTable.PACK_ENVELOPES, name, group.envelope))
        committed = waiting < len(groups)
        if not committed:
            self._still_pending(rows.commit_by_ms)
        return Adoptable(
            base,
            layout.profile,
            PACK_SEGMENT_SIZE,
            pack_length(shape),
            layout.shard_digests,
            committed,
            rows.commit_by_ms if waiting else 0,
            tuple(kept),
            tuple(keys),
            packed=True,
            layout=layout,
            cores=tuple(cores),
            records=tuple(group.record for group in groups),
            uncovered=shape.payloads - len(cores),
        )

    def _is_committed(self, record: RecordId, commitment: bytes) -> bool:
        return self._replica.leaf_index(record, commitment) is not None

    def _still_pending(self, commit_by_ms: int) -> int:
        """When an append is too late.

        Raises:
            NotFound: now.
            Invalid: later than any put may wait: it would never be collected.
        """
        if commit_by_ms <= self._replica.time_ms:
            raise NotFound(
                "the ledger does not know this blob, and no append can bring it any more",
                reason="not-committed",
            )
        check_commit_by(self._replica, commit_by_ms)
        return commit_by_ms

    async def begin(self, wanted: Adoptable, index: int) -> Copy:
        """Start to take over one shard.

        Raises:
            Conflict: ``shard-exists``: the file is there, perhaps without its rows.
            Exhausted: the disk is full.
        """
        profile = profile_named(wanted.profile)
        header = ShardHeader(
            wanted.base, index, profile.name, profile.k, profile.m, wanted.segment_size
        )
        size = file_length(wanted.geometry)
        job = partial(begin_shard, self._stores.shards, header, size, wanted.form)
        return Copy(self._runtime, self, wanted, index, await whole(self._runtime, job))

    def publish(
        self, wanted: Adoptable, index: int, writer: BegunShard, footer: ShardFooter
    ) -> None:
        """Make a shard and its rows durable, in the holder's order.

        Raises:
            Conflict: another copy was first, or other rows are here.
        """
        with self._storing(wanted), self._pending.locked([bytes(wanted.base)]):
            fitting = self._fitting(wanted)
            self._lead_here(wanted, index)
            crash_point(CrashPoint.ADOPT_PENDING)
            writer.finish(footer)
            crash_point(CrashPoint.ADOPT_SHARD)
            self._keep(wanted, index, fitting)

    async def publish_again(self, wanted: Adoptable, index: int) -> bool:
        """Write the rows of a shard whose file is here: what a stop, or lost rows, left undone.

        The file is read through first; False when it is damaged or another shard: then it was
        set aside, and its place is free.
        """

        def job() -> bool:
            shards, name = self._stores.shards, (wanted.base, index, wanted.form)
            try:
                footer = check_whole(shards, *name)
                intact = footer.shard_digest == wanted.shard_digests[index]
                problem = OTHER_LAYOUT
            except (Corrupt, NotFound) as error:
                intact, problem = False, error.reason
            with self._storing(wanted), self._pending.locked([bytes(wanted.base)]):
                if not intact:
                    self._require_unnamed(wanted, index, problem)
                    log.error("a file of %s index %d is set aside: %s", wanted.base, index, problem)
                    with contextlib.suppress(NotFound):
                        shards.quarantine(*name)
                    return False
                fitting = self._fitting(wanted)
                self._lead_here(wanted, index)
                self._keep(wanted, index, fitting)
            return True

        return await whole(self._runtime, job)

    def _storing(self, wanted: Adoptable) -> AbstractContextManager[None]:
        return self._pending.storing.of(self._replica, wanted.records)

    def _require_unnamed(self, wanted: Adoptable, index: int, problem: str) -> None:
        """Check that no rows here vouch for a whole file that is not the wanted one.

        Raises:
            Corrupt: ``wrong-digest``.
        """
        placed = shard_key(wanted.base, index, wanted.form)
        if problem == OTHER_LAYOUT and self._stores.rows.get(Table.PLACED, placed) is not None:
            raise Corrupt("a shard file here is of another layout", reason="wrong-digest")

    def _fitting(self, wanted: Adoptable) -> _Fitting:
        """The rows to write beside those that are here: before the file has its name, because
        without its rows nothing leads to it.

        Raises:
            Conflict: other rows are here; ``superseded``: a later layout is in force.
        """
        fitting = _Fitting()
        for table, key, value in wanted.rows:
            known = self._stores.rows.get(table, key)
            if known is None or known == value:
                fitting.rows.append((table, key, value))
            elif table is Table.LAYOUTS:
                rows = replaced_rows(wanted.base, known, wanted.layout)
                fitting.rows += rows
                fitting.replaces = bool(rows)
            else:
                raise Conflict("other rows are here under this base", reason="row-exists")
        for place, name, value in wanted.keys:
            known = self._stores.keys.get(place, name)
            if known is not None and known != value:
                raise Conflict("another key is here under this base", reason="row-exists")
        return fitting

    def _lead_here(self, wanted: Adoptable, index: int) -> None:
        """First what leads the collector here.  Under the base's lock."""
        if not wanted.commit_by_ms:
            return
        kind = PENDING_PACK if wanted.packed else PENDING_BLOB
        base = bytes(wanted.base)
        # A single blob's name has its slot, which is 0.
        name = base + (b"" if wanted.packed else bytes(2)) + bytes([index])
        self._pending.add([(kind, base, name)], wanted.commit_by_ms)

    def _keep(self, wanted: Adoptable, index: int, fitting: _Fitting) -> None:
        """Write the rows.  Under the base's lock."""
        if wanted.keys:
            self._stores.keys.put_all_new(wanted.keys)
        crash_point(CrashPoint.ADOPT_KEYS)
        named = shard_row(wanted.base, index, wanted.profile, wanted.form)
        self._stores.rows.put([*fitting.rows, named])
        crash_point(CrashPoint.ADOPT_ROWS)
        if fitting.replaces:
            self._changed(wanted.base)

    # -- records

    async def keep_record(self, record: RecordId, rows: RecordRows) -> int:
        """Keep those rows of a record that prove themselves; how many did not.

        Raises:
            HcefsError: the disk failed.
        """
        return await whole(self._runtime, lambda: self._keep_record(record, rows))

    def _keep_record(self, record: RecordId, rows: RecordRows) -> int:
        try:
            with self._pending.storing.of(self._replica, [record]):
                return self._keep_rows(record, rows)
        except NotFound as error:
            if error.reason != ERASED:
                raise
            # Whoever gave them is behind, or was away: there is nothing to have.
            return 0

    def _keep_rows(self, record: RecordId, rows: RecordRows) -> int:
        refused = 0
        for data, until in rows.openings:
            try:
                self._keep_opening(record, data, until)
            except HcefsError as error:
                refused += _refused(record, error)
        named = record_row(record)
        keys = [(self._box, box) for box in rows.boxes] + [(self._link, x) for x in rows.links]
        for place, value in keys:
            try:
                table, key = place(record, value)
                self._stores.rows.put([named])
                self._stores.keys.put_new(table, key, value)
            except HcefsError as error:
                refused += _refused(record, error)
        return refused

    def _keep_opening(self, record: RecordId, data: bytes, until: int) -> None:
        opening = decode_opening(data)
        opening.check()
        if opening.record != record:
            raise Corrupt("an opening is of another record", reason="bad-opening")
        if isinstance(opening, PackOpening):
            name = index_name(record, opening.base)
        else:
            name = bytes(record) + bytes(opening.blob)
        committed = self._is_committed(record, opening.commitment())
        if not committed:
            self._still_pending(until)
        with self._pending.locked([name]):
            known = self._stores.rows.get(Table.INDEX, name)
            if known is not None:
                if known != data:
                    raise Conflict("another opening is here", reason="row-exists")
                return
            if not committed:
                self._pending.add([(PENDING_OPENING, name, name)], until)
            self._stores.rows.put([(Table.INDEX, name, data), record_row(record)])

    def _box(self, record: RecordId, data: bytes) -> tuple[KeyTable, bytes]:
        """Where a box belongs whose grant is live here."""
        box = KeyBox.decode(data)
        grant, owner = boxed_grant(self._replica, box.grant), self._replica.record(record)
        granter = self._replica.account(box.granter)
        if (
            grant is None
            or owner is None
            or granter is None
            or grant.revoked_height
            or grant.not_after_ms <= self._replica.time_ms
        ):
            raise Denied("the grant of a box is not live", reason="grant-not-live")
        if (
            box.record != record
            or grant.record != record
            or grant.grantee != box.grantee
            or grant.blob != box.blob
            or box.granter not in (grant.granter, owner.owner)
            or not grant.actions & Action.READ
        ):
            raise Denied("a box does not fit its grant", reason="box-disagrees")
        key = signing_key_of(self._replica, granter, box.granter_key_version)
        if key is None:
            raise Denied("its granter never had the key of a box", reason="box-disagrees")
        box.check(key)
        return KeyTable.BOXES, box_key(box)

    def _link(self, record: RecordId, data: bytes) -> tuple[KeyTable, bytes]:
        """Where a link belongs that the record's owner signed."""
        link = KeyLink.decode(data)
        known, owner = self._replica.record(record), self._replica.account(link.owner)
        key = None
        if owner is not None:
            key = signing_key_of(self._replica, owner, link.owner_key_version)
        if (
            known is None
            or owner is None
            or link.record != record
            or link.owner != known.owner
            or link.generation > known.generation
            or key is None
        ):
            raise Denied("a link is not of the record's owner", reason="not-the-owner")
        link.check(key)
        return KeyTable.LINKS, link_key(record, link.generation)


class Copy:
    """One shard on its way in.  ``write``..., then ``finish`` or ``abort``."""

    def __init__(
        self,
        runtime: Runtime,
        adopter: Adopter,
        wanted: Adoptable,
        index: int,
        writer: BegunShard,
    ) -> None:
        self._runtime = runtime
        self._adopter = adopter
        self._wanted = wanted
        self._index = index
        self._writer = writer
        self._digests: list[bytes] = []

    @property
    def pieces(self) -> int:
        """How many pieces have been written."""
        return len(self._digests)

    async def write(self, pieces: Sequence[Piece]) -> None:
        """Write the next pieces; their digests are computed on the way.

        Raises:
            Exhausted, Unavailable: the disk is full, or failed.
        """

        def job() -> list[bytes]:
            digests = [blake3_digest(piece) for piece in pieces]
            for piece in pieces:
                self._writer.write(piece)
            return digests

        self._digests += await whole(self._runtime, job)

    async def finish(self) -> None:
        """Make shard and rows durable.

        Raises:
            Corrupt: ``wrong-digest``: the pieces are not those of the layout.
            Conflict: another copy was first, or other rows are here.
        """

        def job() -> None:
            self._adopter.publish(self._wanted, self._index, self._writer, self._footer())

        await whole(self._runtime, job)

    async def stage(self) -> None:
        """Make the shard's file durable, and nothing else.

        Raises:
            Corrupt: ``wrong-digest``: the pieces are not those of the layout.
            Conflict: another copy was first.
        """
        await whole(self._runtime, lambda: self._writer.finish(self._footer()))

    def _footer(self) -> ShardFooter:
        wanted = self._wanted
        footer = ShardFooter.of(wanted.plaintext_length, b"".join(self._digests))
        if footer.shard_digest != wanted.shard_digests[self._index]:
            raise Corrupt("these pieces are not those of the layout", reason="wrong-digest")
        return footer

    async def abort(self) -> None:
        """Forget what was written.  Does nothing after a ``finish``."""
        await whole(self._runtime, self._writer.abort)


def _refused(record: RecordId, error: HcefsError) -> int:
    """Note a row that proved nothing; a dead one is no fault."""
    if error.kind in ("unavailable", "exhausted"):
        raise error
    if error.reason in ("not-committed", "grant-not-live"):
        return 0
    log.warning("a row of record %s proves nothing: %s (%s)", record, error.kind, error.reason)
    return 1
