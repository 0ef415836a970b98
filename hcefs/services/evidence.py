"""Evidence first: a request's receipt is on the disk before the request goes on.

Owns which receipts a decision leaves.  The desks (:mod:`hcefs.services.desk`,
:mod:`hcefs.services.batch_desk`) call it with every decision, and hand out a call only after
it returned; so no servicer can forget it.

Invariants:

* A permit is receipted at the node that the client called (*access*) and at each holder that
  was asked for it (*release*), with the same request id, durably before anything is served.
* The calls of one signed request through one node are one release: its proof names method,
  record, blob, range and gateway, and ends after a minute.
* Denials of who proved itself are receipted too.  So that nobody fills the disk, the entry
  node bounds them by the account's rate (:mod:`hcefs.services.rates`), before it decides; a
  holder, which a gateway may ask as often as it likes, takes ``DENIALS_A_SECOND``.
* Who did not prove itself is counted, and leaves no receipt.

Not guaranteed: *closing* receipts, which are written when a stream has ended.
Source: docs/decisions/0030-receipts.md.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from hcefs.access.facts import PURPOSES, Action
from hcefs.access.rights import ACTION_NAMES
from hcefs.access.verifier import Presented
from hcefs.crypto.signing import PROOF_WINDOW_MS, RequestProof
from hcefs.errors import Exhausted, HcefsError
from hcefs.evidence.receipt import NUMBER_END, PERMITTED, ReceiptDraft, ReceiptKind
from hcefs.ids import AccountId, BlobId, GrantId, RecordId, RequestId
from hcefs.integrity import blake3_digest
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.receipt_log import ReceiptLog

DENIALS_A_SECOND = 20
"""Receipted denials of one account at a holder; more are refused unseen."""

DENIED_ACCOUNTS_MAX = 4096
RELEASES_MAX = 1 << 16
"""Signed requests remembered as released; one that was forgotten is receipted again."""


class DenialLimit:
    """How many denials of one account are receipted within a second; bounded."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._counts: OrderedDict[AccountId, tuple[int, int]] = OrderedDict()

    def take(self, account: AccountId, denials: int = 1) -> bool:
        """Whether more denials of this account may be receipted now."""
        second = int(self._runtime.monotonic())
        begun, count = self._counts.pop(account, (second, 0))
        if begun != second:
            begun, count = second, 0
        self._counts[account] = (begun, count + denials)
        if len(self._counts) > DENIED_ACCOUNTS_MAX:
            self._counts.popitem(last=False)
        return count < DENIALS_A_SECOND


class Releases:
    """The signed requests whose release is receipted, or about to be."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: OrderedDict[bytes, tuple[int, asyncio.Future[bool]]] = OrderedDict()

    def find(self, key: bytes) -> asyncio.Future[bool] | None:
        """Whether that receipt is written, once it is known; None: nobody began to."""
        known = self._known.get(key)
        if known is None or self._runtime.now_ms() - known[0] > 2 * PROOF_WINDOW_MS:
            return None
        return known[1]

    def begin(self, key: bytes) -> asyncio.Future[bool]:
        """Note that a receipt is being written."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # Whoever waits learns of a failure; when nobody does, it is no fault.
        done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self._known.pop(key, None)
        self._known[key] = (self._runtime.now_ms(), done)
        if len(self._known) > RELEASES_MAX:
            self._known.popitem(last=False)
        return done

    def forget(self, key: bytes) -> None:
        """It could not be written: the next call tries again."""
        self._known.pop(key, None)


class Closing:
    """What is written when the stream of an access has ended."""

    def __init__(self, log: ReceiptLog, draft: ReceiptDraft) -> None:
        self._log = log
        self._draft = draft

    def close(self, outcome: str, served: int) -> None:
        """Say how it ended, and how many bytes left; as well as possible, and unawaited."""
        draft = replace(
            self._draft, kind=ReceiptKind.CLOSING, reason=outcome, size=min(served, NUMBER_END - 1)
        )
        self._log.note([draft])


class Evidence:
    """The receipts of one node's decisions."""

    def __init__(self, runtime: Runtime, log: ReceiptLog, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._denials = DenialLimit(runtime)
        self._releases = Releases(runtime)

    async def record(self, proof: bytes, drafts: Sequence[ReceiptDraft]) -> None:
        """Return when the receipts of one signed request are durable.

        Raises:
            Exhausted: ``too-many-denials``, or the disk is full; nothing may be served.
            Unavailable: they could not be written; nothing may be served.
        """
        release = drafts[0].kind is ReceiptKind.RELEASE
        if release and any(draft.permitted for draft in drafts):
            await self._release(proof, drafts)
            return
        if release:
            self._limit(drafts[0].presenter, len(drafts))
        await self._log.write(drafts)

    def _limit(self, presenter: AccountId, denials: int) -> None:
        if not self._denials.take(presenter, denials):
            self._metrics.count("denials_limited_total")
            raise Exhausted(
                f"more than {DENIALS_A_SECOND} requests of this account were denied at this holder "
                "within a second: ask only for what is permitted, and later",
                reason="too-many-denials",
            )

    async def _release(self, proof: bytes, drafts: Sequence[ReceiptDraft]) -> None:
        key = blake3_digest(drafts[0].peer + drafts[0].request + proof)
        while (known := self._releases.find(key)) is not None:
            if await asyncio.shield(known):
                return
        done = self._releases.begin(key)
        try:
            await self._log.write(drafts)
        except BaseException as error:
            self._releases.forget(key)
            if isinstance(error, HcefsError):
                done.set_exception(error)
            else:
                # Its caller went away, which says nothing of the disk: another one tries.
                done.set_result(False)
            raise
        done.set_result(True)

    def closing(self, draft: ReceiptDraft) -> Closing:
        """What to close when the stream of this access ends."""
        return Closing(self._log, draft)


def decision_draft(
    proof: RequestProof,
    holder: AccountId,
    grant: GrantId,
    token_hash: bytes,
    record: RecordId,
    blobs: tuple[BlobId, ...],
    *,
    action: Action,
    request: RequestId,
    peer: AccountId | None,
    height: int,
    denial: HcefsError | None = None,
) -> ReceiptDraft:
    """The receipt of one decision; ``peer`` is the gateway at a holder, None at the entry."""
    length = min(proof.range_length, NUMBER_END - 1)
    return ReceiptDraft(
        kind=ReceiptKind.ACCESS if peer is None else ReceiptKind.RELEASE,
        height=height,
        request=request,
        peer=peer if peer is not None else AccountId.zero(),
        presenter=proof.presenter,
        holder=holder,
        grant=grant,
        token_hash=token_hash,
        record=record,
        blobs=blobs,
        range_start=min(proof.range_start, NUMBER_END - 1),
        range_length=length,
        # What the ledger does not know as a purpose is the reason of the denial.
        purpose=proof.purpose if proof.purpose in PURPOSES else "",
        action=ACTION_NAMES[action],
        method=proof.method,
        permitted=denial is None,
        reason=PERMITTED if denial is None else denial.reason,
        size=length,
    )


def draft_of(
    presented: Presented,
    *,
    action: Action,
    request: RequestId,
    peer: AccountId | None,
    height: int,
    denial: HcefsError | None = None,
) -> ReceiptDraft:
    """The receipt of a decision about a single request."""
    proof, use = presented.proof, presented.use
    return decision_draft(
        proof,
        use.account,
        use.grant,
        proof.token_hash,
        proof.record,
        (proof.blob,) if proof.blob else (),
        action=action,
        request=request,
        peer=peer,
        height=height,
        denial=denial,
    )
