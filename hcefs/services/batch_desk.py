"""The front desk for batches: one proof for many payloads, each under a right of its own.

The twin of :meth:`hcefs.services.desk.Desk.admit`, on the same path: can the node
answer, who asks, may they, and the receipt of it: one for each right that it uses and for each
reason that some of them are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.access.batch import (
    BatchGroup,
    PresentedBatch,
    Refused,
    authorize_batch,
    present_batch,
    served_part,
    whole_records,
)
from hcefs.access.facts import Action
from hcefs.access.verifier import nobody
from hcefs.crypto.signing import SignedProof
from hcefs.errors import Denied, HcefsError, Invalid
from hcefs.evidence.receipt import ReceiptDraft
from hcefs.ids import AccountId, BlobId, RecordId, RequestId
from hcefs.integrity import blake3_digest
from hcefs.services.desk import Desk
from hcefs.services.evidence import decision_draft
from hcefs.services.serving import CLOSING
from hcefs.services.standing import PERMIT_MS
from hcefs.services.strangers import Undisclosed, at_its_time, has_part
from hcefs.transport.packs import BatchCall

ACTIONS = {"put-many": Action.APPEND, "get-many": Action.READ}
"""The right that each method needs, on every record of the batch."""


@dataclass(frozen=True)
class AskedBatch:
    """What a request about a batch says about itself, before anything is checked."""

    tokens: tuple[bytes, ...]
    proof: bytes
    method: str
    groups: tuple[BatchGroup, ...]
    min_height: int
    epoch: int
    request: RequestId


class BatchPermit:
    """The standing permission of one batch: decides again while a stream runs."""

    def __init__(
        self, desk: Desk, presented: PresentedBatch, action: Action, refused: Refused
    ) -> None:
        self._desk = desk
        # What is not served needs no decision: this one is made twice a second.
        self._served = served_part(presented, refused)
        self._action = action
        # A token of which nothing is served rests on nothing, and nothing waits for its end.
        self.grants = frozenset(
            presented.tokens[group.token].use.grant for group in self._served.groups
        )
        """See :class:`hcefs.services.standing.Permission`."""

        self._height = desk.view.height
        self._decided_ms = desk.runtime.now_ms()

    def __call__(self) -> None:
        """Raise when a right that is served has ended or the lease has run out.

        Raises:
            Denied, Unavailable: why the stream must end.
        """
        now = self._desk.runtime.now_ms()
        height = self._desk.view.height
        if height == self._height and now - self._decided_ms < PERMIT_MS:
            return
        self.again()

    def again(self) -> None:
        """Decide now.

        Raises:
            Denied, Unavailable: why the stream must end.
        """
        now = self._desk.runtime.now_ms()
        height = self._desk.view.height
        self._desk.follower.require_fresh()
        for error in authorize_batch(self._desk.verifier, self._served, self._action, now).values():
            raise error
        self._height, self._decided_ms = height, now


class BatchDesk:
    """Admits batches at one node."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def greet(self, asked: AskedBatch, *, gateway: AccountId) -> AccountId:
        """Find out who presents a batch whose groups are still to come.

        A node takes megabytes only from an active account that has signed for this
        very method, gateway and moment.  What it signed for is compared by
        :meth:`admit`, when the groups are there.

        Raises:
            Unavailable, Exhausted: the node cannot answer now.
            Denied, Unauthenticated, Invalid: who asks is not known.
        """
        await self._desk.ready(asked)
        _action(asked.method)
        scope = SignedProof.decode(asked.proof).proof.token_hash
        body = self._desk.verifier.present_scope(
            asked.proof,
            scope,
            method=asked.method,
            gateway=gateway,
            now_ms=self._desk.runtime.now_ms(),
            remember_nonce=False,
        )
        self._desk.rates.ask(body.presenter)
        return body.presenter

    async def admit(
        self, asked: AskedBatch, *, gateway: AccountId, entry: bool
    ) -> tuple[BatchCall, BatchPermit]:
        """Take a batch through the whole path; returns once its receipts are durable.

        ``entry`` is true at the node that the client called: it remembers nonces.

        Raises:
            Unavailable: stale lease, behind, not in the map, or no receipt can be written.
            Exhausted: the receipts do not fit on the disk, or too many denials.
            Denied, Unauthenticated, Invalid: why the request is refused; a batch that
                puts is refused for any of its blobs, one that gets only for all.
        """
        current = await self._desk.ready(asked)
        action = _action(asked.method)
        verifier = self._desk.verifier
        now, began = self._desk.runtime.now_ms(), self._desk.runtime.monotonic()
        # One that puts was counted when it was greeted.
        counted = entry and action is Action.READ
        presented = present_batch(
            verifier,
            asked.tokens,
            asked.proof,
            asked.groups,
            method=asked.method,
            gateway=gateway,
            now_ms=now,
            remember_nonce=entry,
            proven=self._desk.rates.ask if counted else nobody,
        )
        denial: HcefsError | None = None
        try:
            refused = authorize_batch(verifier, presented, action, now)
        except Denied as error:
            refused, denial = {}, error
        if refused and action is Action.APPEND:
            denial = next(iter(refused.values()))
        permit = BatchPermit(self._desk, presented, action, refused)
        # Before anything is waited for: a block may come, or more of the same account.
        if denial is None:
            self._desk.standing.enter(permit)
        drafts = _drafts(
            asked, presented, action, self._desk.view.height, refused, denial,
            peer=None if entry else gateway,
        )  # fmt: skip
        denied = sum(not draft.permitted for draft in drafts)
        if entry and denied:
            self._desk.rates.denied(presented.proof.presenter, denied)
        await self._desk.evidence.record(asked.proof, drafts)
        if denial is not None:
            raise await self._told(presented, denial, began) if entry else denial
        if entry and len(drafts) == 1:
            CLOSING.set(self._desk.evidence.closing(drafts[0]))
        reads = action is Action.READ
        whole = whole_records(verifier, presented, action, now) if reads else frozenset()
        shown = await self._shown(presented, refused, began) if refused and entry else refused
        call = BatchCall(
            asked.tokens,
            asked.proof,
            asked.method,
            asked.groups,
            asked.min_height,
            current.epoch,
            asked.request,
            presented.proof.presenter,
            shown,
            whole,
        )
        return call, permit

    async def _told(self, presented: PresentedBatch, error: HcefsError, began: float) -> HcefsError:
        """As for one request: true reasons only for who has a part in every group."""
        if not isinstance(error, Denied):
            return error
        if all(self._has_part(presented, group) for group in presented.groups):
            return error
        await at_its_time(self._desk.runtime, began)
        return Undisclosed(error)

    async def _shown(self, presented: PresentedBatch, refused: Refused, began: float) -> Refused:
        """What is said of the refused blobs of a batch of which others are served."""
        parts: dict[RecordId, bool] = {}
        for group in presented.groups:
            part = self._has_part(presented, group)
            parts[group.record] = part and parts.get(group.record, True)
        if all(parts.values()):
            return refused
        await at_its_time(self._desk.runtime, began)
        return {
            (record, blob): error
            if parts[record] or not isinstance(error, Denied)
            else Undisclosed(error)
            for (record, blob), error in refused.items()
        }

    def _has_part(self, presented: PresentedBatch, group: BatchGroup) -> bool:
        use = presented.tokens[group.token].use
        presenter = presented.proof.presenter
        return has_part(self._desk.view, presenter, use.account, use.grant, group.record)


def _drafts(
    asked: AskedBatch,
    presented: PresentedBatch,
    action: Action,
    height: int,
    refused: Refused,
    denial: HcefsError | None,
    *,
    peer: AccountId | None,
) -> list[ReceiptDraft]:
    """The receipts of a batch: for each right what is permitted, and what is not by reason.

    A right is a token on a record, however many groups name it: who asks chooses the
    groups, and is not to choose how much is written.  ``denial`` is why nothing of it is
    permitted.  A receipt never names no blob: that would be the record as a whole.
    """
    hashes = [blake3_digest(token) for token in asked.tokens]
    parts: dict[tuple[int, RecordId, str], tuple[HcefsError | None, list[BlobId]]] = {}
    for group in presented.groups:
        for blob in group.ids():
            error = denial or refused.get((group.record, blob))
            key = (group.token, group.record, error.reason if error is not None else "")
            parts.setdefault(key, (error, []))[1].append(blob)
    drafts = []
    for (token, record, _), (error, blobs) in parts.items():
        use = presented.tokens[token].use
        drafts.append(
            decision_draft(
                presented.proof,
                use.account,
                use.grant,
                hashes[token],
                record,
                tuple(blobs),
                action=action,
                request=asked.request,
                peer=peer,
                height=height,
                denial=error,
            )
        )
    return drafts


def _action(method: str) -> Action:
    action = ACTIONS.get(method)
    if action is None:
        raise Invalid("this method is unknown", reason="unknown-method")
    return action


def require_writer(writer: AccountId, presenter: AccountId) -> None:
    """Check that who puts a pack is who signs its append.

    Raises:
        Denied: ``wrong-writer``.
    """
    if writer != presenter:
        raise Denied("the writer must be the presenter of the proof", reason="wrong-writer")
