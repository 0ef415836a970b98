"""Batches: one proof for many payloads, each still under a right of its own.

A batch names *groups*: some blobs of one record, by one of the request's tokens.
Its proof is a :class:`~hcefs.crypto.signing.RequestProof` whose ``token_hash`` is
the digest of all tokens and groups (:func:`batch_digest`) and which names no
record, so that a node or a thief who saw it can ask for nothing else with it.

Invariants: every group is decided by :mod:`hcefs.access.rights` and by the checks
of its own token, as a single request would be.  The whole record is asked for
first: what permits that permits each of its blobs, because a grant's limits and a
token's checks only narrow.  Where it is denied, each blob is decided alone.

Not guaranteed: that a blob is of the record that its group names.  Whoever serves
a batch compares the record with that of the blob's core, before anything leaves.

Source: docs/decisions/0014-packs.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hcefs.access.facts import Action
from hcefs.access.token import TOKEN_BYTES_MAX, VerifiedToken
from hcefs.access.verifier import Presented, Proven, Verifier, nobody
from hcefs.crypto.signing import RequestProof
from hcefs.errors import Denied, HcefsError, Invalid
from hcefs.ids import AccountId, BlobId, RecordId
from hcefs.integrity import blake3_digest

BATCH_TAG = b"hcefs/v1/batch\x00"
TOKENS_MAX = 64
BLOBS_MAX = 4096
"""Most blobs of one batch, over all its groups."""

Refused = dict[tuple[RecordId, BlobId], HcefsError]
"""Why a blob of a batch may not be served."""


@dataclass(frozen=True)
class BatchGroup:
    """Blobs of one record (ids of 18 bytes, joined), by the token of that number."""

    token: int
    record: RecordId
    blobs: bytes

    def ids(self) -> Iterator[BlobId]:
        """The blobs, in the order given."""
        for start in range(0, len(self.blobs), BlobId.SIZE):
            yield BlobId(self.blobs[start : start + BlobId.SIZE])

    @property
    def count(self) -> int:
        """Number of blobs."""
        return len(self.blobs) // BlobId.SIZE


def check_batch(tokens: Sequence[bytes], groups: Sequence[BatchGroup]) -> None:
    """Check shapes and bounds.

    Raises:
        Invalid: ``bad-batch``.
    """
    if (
        not 1 <= len(tokens) <= TOKENS_MAX
        or any(len(token) > TOKEN_BYTES_MAX for token in tokens)
        or not groups
        or any(not 0 <= group.token < len(tokens) for group in groups)
        or any(not group.blobs or len(group.blobs) % BlobId.SIZE for group in groups)
        or sum(group.count for group in groups) > BLOBS_MAX
    ):
        raise Invalid(
            f"a batch has 1 to {TOKENS_MAX} tokens and 1 to {BLOBS_MAX} blobs, in groups that "
            "name a record and one of the tokens",
            reason="bad-batch",
        )


def batch_digest(tokens: Sequence[bytes], groups: Sequence[BatchGroup]) -> bytes:
    """BLAKE3(tag || u16(tokens) || BLAKE3(token)... || groups), what a batch's proof signs.

    Each group is u16(token) || record || u32(blobs) || blob ids: every part has a
    fixed length or is counted, so the input is unambiguous.
    """
    parts = [BATCH_TAG, len(tokens).to_bytes(2, "big")]
    parts += [blake3_digest(token) for token in tokens]
    for group in groups:
        parts += (
            group.token.to_bytes(2, "big"),
            group.record,
            group.count.to_bytes(4, "big"),
            group.blobs,
        )
    return blake3_digest(b"".join(parts))


@dataclass(frozen=True)
class PresentedBatch:
    """A batch whose presenter and tokens are known to be genuine; not yet permitted."""

    proof: RequestProof
    tokens: tuple[VerifiedToken, ...]
    groups: tuple[BatchGroup, ...]


def present_batch(
    verifier: Verifier,
    tokens: Sequence[bytes],
    proof: bytes,
    groups: Sequence[BatchGroup],
    *,
    method: str,
    gateway: AccountId,
    now_ms: int,
    remember_nonce: bool,
    proven: Proven = nobody,
) -> PresentedBatch:
    """Establish who presents a batch; the twin of :meth:`Verifier.present`.

    Raises:
        Invalid: ``bad-batch``, or a malformed proof or token.
        Denied, Unauthenticated, Exhausted: as :meth:`Verifier.present`.
    """
    check_batch(tokens, groups)
    body = verifier.present_scope(
        proof,
        batch_digest(tokens, groups),
        method=method,
        gateway=gateway,
        now_ms=now_ms,
        remember_nonce=remember_nonce,
    )
    proven(body.presenter)
    verified = tuple(verifier.verify_token(token) for token in tokens)
    return PresentedBatch(body, verified, tuple(groups))


def authorize_batch(
    verifier: Verifier, batch: PresentedBatch, action: Action, now_ms: int
) -> Refused:
    """Decide every group; the blobs that may not be served, with the reason.

    A blob that several groups name is refused when any of them may not have it.

    Raises:
        Denied: nothing of the batch may be served.
        Unavailable: a token's checks did not finish within their limits.
    """
    decisions = _Decisions(verifier, batch, action, now_ms)
    refused: Refused = {}
    served = 0
    for group in batch.groups:
        if decisions.denial(group, None) is None:
            served += group.count
            continue
        for blob in group.ids():
            denial = decisions.denial(group, blob)
            if denial is None:
                served += 1
            else:
                refused[group.record, blob] = denial
    if refused and not served:
        raise next(iter(refused.values()))
    return refused


def whole_records(
    verifier: Verifier, batch: PresentedBatch, action: Action, now_ms: int
) -> frozenset[RecordId]:
    """The records of the batch on which its rights are not limited to single blobs.

    Only of these may anything be shown that tells of blobs which were not asked for,
    such as the opening of a pack: blobs that are all permitted are no such right.

    Raises:
        Unavailable: a token's checks did not finish within their limits.
    """
    decisions = _Decisions(verifier, batch, action, now_ms)
    return frozenset(
        group.record for group in batch.groups if decisions.denial(group, None) is None
    )


def served_part(batch: PresentedBatch, refused: Refused) -> PresentedBatch:
    """What of a batch is served, one group for each token and record.

    To be decided again, and again, while it is served.
    """
    parts: dict[tuple[int, RecordId], list[BlobId]] = {}
    for group in batch.groups:
        blobs = [blob for blob in group.ids() if (group.record, blob) not in refused]
        if blobs:
            parts.setdefault((group.token, group.record), []).extend(blobs)
    groups = tuple(
        BatchGroup(token, record, b"".join(blobs)) for (token, record), blobs in parts.items()
    )
    return PresentedBatch(batch.proof, batch.tokens, groups)


class _Decisions:
    """The decisions of one batch at one moment.

    Running a token's checks takes about 0.1 ms, so for thousands of blobs it would
    hold up every other request.  A token is therefore asked once for all requests
    that its checks cannot tell apart: they share everything else, the batch's proof.
    """

    def __init__(
        self, verifier: Verifier, batch: PresentedBatch, action: Action, now_ms: int
    ) -> None:
        self._verifier = verifier
        self._batch = batch
        self._action = action
        self._now_ms = now_ms
        self._answers: dict[tuple[int, bytes, bytes, bool], Denied | None] = {}
        self._records: dict[tuple[int, RecordId], Denied | None] = {}

    def denial(self, group: BatchGroup, blob: BlobId | None) -> Denied | None:
        """Why a blob of the group, or its record as a whole, may not be served."""
        if blob is not None:
            return self._decide(group, blob)
        # Many groups may name one record by one token.
        right = (group.token, group.record)
        if right not in self._records:
            self._records[right] = self._decide(group, None)
        return self._records[right]

    def _decide(self, group: BatchGroup, blob: BlobId | None) -> Denied | None:
        token = self._batch.tokens[group.token]
        presented = _presented(self._batch.proof, token, group.record, blob)
        try:
            self._verifier.authorize_by_ledger(presented, self._action, self._now_ms)
        except Denied as error:
            return error
        # As the request names it: a zero blob id stands for the record as a whole.
        key = (group.token, *token.apart(group.record, blob or None))
        if key not in self._answers:
            self._answers[key] = self._ask(presented)
        return self._answers[key]

    def _ask(self, presented: Presented) -> Denied | None:
        try:
            self._verifier.authorize_by_token(presented, self._action, self._now_ms)
        except Denied as error:
            return error
        return None


def _presented(
    proof: RequestProof, token: VerifiedToken, record: RecordId, blob: BlobId | None
) -> Presented:
    """One group's request as if it had come alone; its proof was checked as the batch's."""
    named = RequestProof(
        proof.cluster,
        proof.token_hash,
        proof.method,
        record,
        blob or BlobId.zero(),
        0,
        0,
        proof.purpose,
        proof.gateway,
        proof.nonce,
        proof.time_ms,
        proof.presenter,
        proof.key_version,
    )
    return Presented(named, token)
