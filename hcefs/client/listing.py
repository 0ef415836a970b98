"""Listing: a record's entries, proved complete against the ledger.

The ledger keeps leaves and no blob ids; nodes keep the openings.  Invariants of a
listing that leaves here: the leaves are all of the record's and lead to its peaks;
every opening gives the commitment of the leaf it stands at; no blob occurs twice.
A leaf without an opening is counted as missing: then the listing is not complete,
and says so, because a node that withholds an entry must not pass unnoticed.

Not guaranteed: that a leaf's signer is its blob's writer; the core says that, and
stat and get check it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from hcefs.access.facts import Record
from hcefs.client.authorize import Right, Scope
from hcefs.client.erasure import ErasureClient, erased
from hcefs.client.stat import StatClient
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.formats.manifest import Opening
from hcefs.formats.pack import AnyOpening, PackOpening, decode_opening, packed_leaf, split_slots
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.integrity import append_peak
from hcefs.ledger.outcome import Leaf
from hcefs.placement.cluster_map import Node
from hcefs.wire.v1 import blob_pb2

ERASED = "erased"
NODES_ASKED = 3
"""Nodes whose openings are put together before a listing is called incomplete."""


@dataclass(frozen=True)
class Entry:
    """One entry: its opening, where its leaf is, the leaf's hash, who signed it and when.

    Entries of one pack share a leaf, and its opening; ``slot`` tells them apart, and
    ``leaf`` is then :func:`~hcefs.formats.pack.packed_leaf`.
    """

    opening: Opening | PackOpening
    leaf_index: int
    leaf: bytes
    signer: AccountId
    time_ms: int
    slot: int = 0

    @property
    def blob(self) -> BlobId:
        """The blob that this entry binds."""
        if isinstance(self.opening, PackOpening):
            return BlobId.of(self.opening.base, self.slot)
        return self.opening.blob

    @property
    def previous_leaf(self) -> bytes:
        """The leaf of the entry that this one corrects, or nothing."""
        return self.opening.previous_leaf if isinstance(self.opening, Opening) else b""


@dataclass(frozen=True)
class Listing(Sequence[Entry]):
    """A record's entries in the order of its leaves, as of ``record``.

    ``missing`` leaves have no opening.  ``rejected`` are the indexes of leaves that
    repeat a blob which an earlier entry binds: a writer has copied an entry.
    """

    record: Record
    entries: tuple[Entry, ...]
    missing: int
    rejected: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every leaf of the record has its entry here."""
        return self.missing == 0

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Entry:  # type: ignore[override]
        return self.entries[index]


def check_leaves(record: Record, leaves: Sequence[Leaf]) -> list[bytes]:
    """The hashes of a record's leaves, which must lead to its peaks.

    Raises:
        Corrupt: ``wrong-leaves``.
    """
    hashes = [leaf.hash() for leaf in leaves]
    peaks: tuple[bytes, ...] = ()
    for count, digest in enumerate(hashes):
        peaks = append_peak(count, peaks, digest)
    if len(leaves) != record.leaf_count or peaks != record.peaks:
        raise Corrupt(
            "the ledger's leaves are not those of the record: check its log",
            reason="wrong-leaves",
        )
    return hashes


def check_listing(record: Record, leaves: Sequence[Leaf], found: Sequence[AnyOpening]) -> Listing:
    """The listing that openings give.

    An opening that opens no leaf is left out, whoever gave it: it proves nothing.  Of
    several leaves that bind one blob the first counts, so that nobody who may append
    can spoil a record for others; the later ones are reported.

    Raises:
        Corrupt: ``wrong-leaves``.
    """
    hashes = check_leaves(record, leaves)
    first: dict[bytes, int] = {}
    rejected = [i for i, leaf in enumerate(leaves) if first.setdefault(leaf.commitment, i) != i]
    at = {
        first[commitment]: opening
        for opening in found
        if opening.record == record.record and (commitment := opening.commitment()) in first
    }
    bound: dict[BlobId, int] = {}
    entries: list[Entry] = []
    listed = 0
    for index in sorted(at):
        opening, leaf = at[index], leaves[index]
        slots = split_slots(opening.slots) if isinstance(opening, PackOpening) else [0]
        own = [
            Entry(
                opening,
                index,
                packed_leaf(hashes[index], slot) if slot else hashes[index],
                leaf.signer,
                leaf.time_ms,
                slot,
            )
            for slot in slots
        ]
        # A leaf counts as a whole: one that repeats any blob repeats an entry.
        if any(entry.blob in bound for entry in own):
            rejected.append(index)
            continue
        bound.update((entry.blob, index) for entry in own)
        entries += own
        listed += 1
    missing = record.leaf_count - listed - len(rejected)
    return Listing(record, tuple(entries), missing, tuple(sorted(rejected)))


class ListClient(StatClient, ErasureClient):
    """The part of a client that lists records."""

    async def list(
        self,
        record: RecordId,
        *,
        grant: GrantId | None = None,
        token: bytes | None = None,
        purpose: str = "TREAT",
    ) -> Listing:
        """The entries of a record, proved against the ledger; see :class:`Listing`.

        Raises:
            Denied: not permitted.
            NotFound: ``erased``, and at which height.
            Corrupt: a node or the ledger lied.
        """
        right = self._right(grant, token, purpose)
        fact = await self.record(record)
        leaves = await self.leaves(record, 0, fact.leaf_count)
        check_leaves(fact, leaves)
        scope = Scope(record)
        asked: set[AccountId] = set()
        union: dict[AnyOpening, None] = {}
        failure: HcefsError | None = None
        for _ in range(NODES_ASKED):
            try:
                found = await self._on_nodes(
                    scope, None, lambda node: self._openings(scope, right, node), asked
                )
            except HcefsError as error:
                failure = error
                break
            union.update(dict.fromkeys(found))
            if check_listing(fact, leaves, [*union]).complete:
                break
        if failure is not None and not union:
            if failure.reason == ERASED:
                erasure = await self.erasure(record)
                raise failure if erasure is None else erased(erasure)
            raise failure
        return check_listing(fact, leaves, [*union])

    async def _openings(self, scope: Scope, right: Right, node: Node) -> Sequence[AnyOpening]:
        """What one node lists: the union of what the record's holders have."""
        request = blob_pb2.ListRequest(
            authorization=self._authorizer.authorize("list", scope, right, node.account),
            record_id=bytes(scope.record),
            min_height=self.height,
            request_id=self._request_id(),
        )
        found: list[AnyOpening] = []
        answers = self._channels.answers(
            node.address, "/hcefs.v1.Blobs/List", request.SerializeToString()
        )
        async with aclosing(answers):
            async for data in answers:
                for entry in _page(data).entries:
                    with contextlib.suppress(Invalid):
                        found.append(decode_opening(entry.opening))
        return found


def _page(data: bytes) -> blob_pb2.ListResponse:
    try:
        return blob_pb2.ListResponse.FromString(data)
    except DecodeError:
        raise Corrupt("the node's list is malformed", reason="bad-message") from None
