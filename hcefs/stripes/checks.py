"""What a holder checks before it keeps anything: shapes, signatures, consistency.

None of it needs a key.  Input comes from other nodes and is never trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hcefs.access.emergency import boxed_grant
from hcefs.access.erasure_facts import Erasure
from hcefs.access.facts import AccountKind, Action, LedgerView, signing_key_of
from hcefs.erasure.scheme import SEGMENT_SIZE, Geometry, profile_named
from hcefs.errors import Conflict, Corrupt, Denied, Invalid
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.formats.pack import PackLayout
from hcefs.formats.shard import ShardFooter
from hcefs.ids import AccountId, RecordId
from hcefs.integrity import DIGEST_SIZE, shard_digest, split_digests
from hcefs.ledger.rules_records import COMMIT_BY_AHEAD_MS
from hcefs.transport.peers import Call, ShardRows, ShardStart

BEHIND_MS = 60_000
"""How far this node's block time may lag behind the one a client took its time from."""


class Replica(LedgerView, Protocol):
    """The ledger facts a holder needs: a view that also knows leaves."""

    def leaf_index(self, record: RecordId, commitment: bytes) -> int | None:
        """Position of a commitment in its record, or None while it is not committed."""

    def erased_after(self, height: int, record: RecordId, limit: int) -> list[Erasure]:
        """Erasures in order of height and record, behind this one; at most ``limit``."""


@dataclass(frozen=True)
class CheckedShard:
    """The result of :func:`check_rows`."""

    core: Core
    footer: ShardFooter


def check_rows(view: LedgerView, start: ShardStart, received: int, rows: ShardRows) -> CheckedShard:
    """Check that a shard's rows agree with each other and with what was received.

    Raises:
        Invalid, Corrupt, Denied: which row does not fit, and why.
    """
    call = start.call
    core, opening = Core.decode(rows.core), Opening.decode(rows.opening)
    layout, key_row = Layout.decode(rows.layout), KeyRow.decode(rows.key_row)
    core.check()
    opening.check()
    check_layout(view, layout, core.writer)
    profile = profile_named(start.profile)
    if core.writer != call.presenter:
        raise Denied("the core's writer is not the presenter", reason="wrong-writer")
    check_commit_by(view, core.commit_by_ms)
    if start.segment_size != SEGMENT_SIZE or core.segment_size != start.segment_size:
        raise Invalid("this segment size is not supported", reason="unsupported")
    same_blob = core.blob == call.blob == opening.blob == key_row.blob
    same_record = core.record == call.record == opening.record == key_row.record == layout.record
    if not (same_blob and same_record and layout.base == core.blob.base):
        raise Invalid("the rows of a shard name different blobs", reason="rows-disagree")
    if (
        opening.core_digest != core.digest()
        or key_row.generation != core.generation
        or layout.profile != profile.name
        or len(layout.shard_digests) != profile.n
        or layout.version != 1
        or core.k != profile.k
        or core.data_digests != layout.shard_digests[: profile.k]
    ):
        raise Invalid("core, layout and key row do not fit together", reason="rows-disagree")
    geometry = Geometry(core.plaintext_length, profile, core.segment_size)
    if received != geometry.pieces_length or len(rows.piece_digests) != (
        geometry.segments * DIGEST_SIZE
    ):
        raise Corrupt(
            f"the shard has {received} bytes, its core asks for {geometry.pieces_length}",
            reason="wrong-length",
        )
    digest = shard_digest(split_digests(rows.piece_digests))
    if digest != layout.shard_digests[start.index]:
        raise Corrupt("the piece digests do not lead to the layout's digest", reason="wrong-digest")
    return CheckedShard(core, ShardFooter(core.plaintext_length, rows.piece_digests, digest))


def check_layout(view: LedgerView, layout: Layout | PackLayout, writer: AccountId) -> None:
    """Check shape and signer of a layout: a node, or the writer (of a blob in direct mode).

    A layout that replaces the first one is a node's.  It is kept for as long as its blob,
    so the key is the one that it names, which may have been changed since.

    Raises:
        Denied: someone else, or an account that is unknown or never had that key.
        Invalid: a wrong shape.
        Unauthenticated: a wrong signature.
    """
    signer = view.account(layout.node)
    key = signing_key_of(view, signer, layout.key_version) if signer is not None else None
    if (
        signer is None
        or key is None
        or (
            signer.kind is not AccountKind.NODE and (signer.account != writer or layout.version > 1)
        )
    ):
        raise Denied("the layout is not signed by a node or by the writer", reason="unknown-node")
    layout.check(key)


def check_commit_by(view: LedgerView, commit_by_ms: int) -> None:
    """Check that ``commit_by`` is ahead of the ledger, but not too far.

    Raises:
        Invalid: it is not.
    """
    if not view.time_ms < commit_by_ms <= view.time_ms + COMMIT_BY_AHEAD_MS + BEHIND_MS:
        raise Invalid(
            "commit_by must be later than the ledger's time, by at most 7 days",
            reason="bad-commit-by",
        )


def check_box(view: LedgerView, call: Call, box: KeyBox) -> None:
    """Check that a box belongs to a live grant or naming and that its granter signed it.

    Raises:
        Denied: the grant is not live, or the box is for or by another account.
        Conflict: its generation is not the current or the next one.
        Unauthenticated: a wrong signature.
    """
    grant, record = boxed_grant(view, box.grant), view.record(box.record)
    granter = view.account(box.granter)
    if (
        grant is None
        or record is None
        or granter is None
        or grant.revoked_height
        or grant.not_after_ms <= view.time_ms
    ):
        raise Denied("no live grant for this box; give the grant first", reason="grant-not-live")
    if (
        box.record != call.record
        or grant.record != box.record
        or grant.grantee != box.grantee
        or grant.blob != box.blob
        or box.granter != call.presenter
        or box.granter not in (grant.granter, record.owner)
        or not grant.actions & Action.READ
    ):
        raise Denied("the box does not fit its grant", reason="box-disagrees")
    if box.generation not in (record.generation, record.generation + 1):
        raise Conflict(
            f"the record is at generation {record.generation}: boxes are of that one or the next",
            reason="unknown-generation",
        )
    grantee = view.account(box.grantee)
    if grantee is None or grantee.key_version != box.grantee_key_version:
        raise Conflict("the box is sealed to another key of the grantee", reason="old-key")
    if granter.key_version != box.granter_key_version:
        raise Denied("the box is signed with an old key; sign it again", reason="old-key")
    box.check(granter.signing_key)


def check_link(view: LedgerView, call: Call, link: KeyLink) -> None:
    """Check that the record's owner signed a link for a generation the ledger knows.

    Raises:
        Denied: not by the owner.
        Conflict: the generation is newer than the current one.
        Unauthenticated: a wrong signature.
    """
    record = view.record(link.record)
    owner = view.account(link.owner)
    if (
        record is None
        or owner is None
        or link.record != call.record
        or link.owner != record.owner
        or call.presenter != record.owner
    ):
        raise Denied("only the record's owner keeps key links", reason="not-the-owner")
    if link.generation > record.generation:
        raise Conflict(
            "the link names a generation that is not on the ledger", reason="unknown-generation"
        )
    if owner.key_version != link.owner_key_version:
        raise Denied("the link is signed with an old key; sign it again", reason="old-key")
    link.check(owner.signing_key)
