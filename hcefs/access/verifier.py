"""Who asks, and by what right: the one path that a server takes for each request.

A request carries a proof (the presenter's signature over exactly this request)
and, for blobs, a token (whose right is used, and how it is narrowed).
:meth:`Verifier.present` establishes both without deciding anything;
:meth:`Verifier.authorize` decides, and may be called again while a stream runs.

Invariants:

* The order is: decode within a bound, compare with the request, look up keys,
  check signatures, then remember the nonce.  So only a registered account can
  fill the nonce memory, and what is cheap to refuse is refused first.
* A proof counts for one method, record, blob, range, purpose, token, gateway
  and moment; a gateway or a thief who saw it has nothing else to present.
* Permission needs both the ledger (:mod:`hcefs.access.rights`) and the token.

Not guaranteed: freshness of the view (the follower's lease is checked before);
that a nonce is remembered across a restart: a proof seen before it can be
replayed to the entry node until its window ends, through the same gateway only.

Source: docs/ARCHITECTURE.md, "Rights"; docs/decisions/0003-tokens-only-narrow.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hcefs.access import rights
from hcefs.access.facts import Account, Action, LedgerView
from hcefs.access.rights import ACTION_NAMES, AccessRequest, Decision
from hcefs.access.token import (
    TOKEN_BYTES_MAX,
    TokenCache,
    TokenFacts,
    Use,
    VerifiedToken,
    read_use,
)
from hcefs.crypto.signing import PROOF_WINDOW_MS, RequestProof, SignedProof
from hcefs.errors import Denied, Exhausted, Invalid, Unauthenticated
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId
from hcefs.integrity import blake3_digest

NO_TOKEN: Final = bytes(32)
"""The token hash in a proof that comes without a token."""

NONCES_MAX: Final = 1 << 17
"""Live nonces: about 2,000 requests a second at a window of a minute, 24 MB."""

_BUCKET_MS: Final = 1_000

Proven = Callable[[AccountId], None]
"""Told of an account that has proved to be the presenter of a request; raises to refuse it."""


def nobody(presenter: AccountId) -> None:
    """Who asks is of no concern."""


@dataclass(frozen=True)
class Presented:
    """A request whose presenter and token are known to be genuine; not yet permitted."""

    proof: RequestProof
    token: VerifiedToken

    @property
    def use(self) -> Use:
        """Whose right the token uses."""
        return self.token.use


class NonceMemory:
    """The nonces of proofs that could still be replayed; bounded.

    ``share`` bounds one presenter, so that no account can fill the memory alone.
    A nonce is forgotten once its proof is too old to be accepted.  For one thread.
    """

    def __init__(self, capacity: int = NONCES_MAX, share: int | None = None) -> None:
        if capacity < 1:
            raise Invalid("the nonce memory needs room for one nonce", reason="bad-config")
        self._capacity = capacity
        self._share = share if share is not None else max(1, capacity // 4)
        self._live: set[bytes] = set()
        self._buckets: dict[int, list[bytes]] = {}
        self._counts: Counter[bytes] = Counter()
        self._forgotten = 0  # all buckets below this one are gone

    def __len__(self) -> int:
        return len(self._live)

    def remember(self, presenter: AccountId, nonce: bytes, time_ms: int, now_ms: int) -> None:
        """Take note of a proof signed at ``time_ms``; a second time is a replay.

        Raises:
            Denied: ``replayed-proof``, or ``proof-expired`` when this node's clock
                was set back and the memory of that moment is already gone.
            Exhausted: full of live nonces.
        """
        self._forget(now_ms)
        bucket = (time_ms + PROOF_WINDOW_MS) // _BUCKET_MS
        if bucket < self._forgotten:
            raise _expired()
        key = bytes(presenter) + nonce
        if key in self._live:
            raise Denied(
                "this proof was presented before: sign each request anew, with a fresh nonce",
                reason="replayed-proof",
            )
        if len(self._live) >= self._capacity or self._counts[key[:16]] >= self._share:
            raise Exhausted(
                "too many requests within the proof window: slow down and retry",
                reason="too-many-proofs",
            )
        self._live.add(key)
        self._buckets.setdefault(bucket, []).append(key)
        self._counts[key[:16]] += 1

    def _forget(self, now_ms: int) -> None:
        current = now_ms // _BUCKET_MS
        if current <= self._forgotten:
            return
        # At most two windows' worth of buckets exist, so the scan is short.
        for bucket in [number for number in self._buckets if number < current]:
            for key in self._buckets.pop(bucket):
                self._live.discard(key)
                self._counts[key[:16]] -= 1
                if not self._counts[key[:16]]:
                    del self._counts[key[:16]]
        self._forgotten = current


class Verifier:
    """Checks proofs and tokens of one cluster against one view of the ledger.

    ``me`` is this server's own account: a proof without a token that names a
    gateway must name it.
    """

    def __init__(
        self,
        cluster: ClusterId,
        view: LedgerView,
        me: AccountId,
        cache: TokenCache,
        nonces: NonceMemory,
    ) -> None:
        self._cluster = cluster
        self._view = view
        self._me = me
        self._cache = cache
        self._nonces = nonces

    def present(
        self,
        token: bytes,
        proof: bytes,
        *,
        method: str,
        record: RecordId,
        blob: BlobId | None,
        range_start: int,
        range_length: int,
        gateway: AccountId,
        now_ms: int,
        remember_nonce: bool,
        proven: Proven = nobody,
    ) -> Presented:
        """Establish who presents ``token`` for exactly this request.

        ``gateway`` is the account that the request came through: this server's
        own at the entry node, the TLS peer's at a shard holder, zero when the
        client came directly.  ``blob`` None means the record as a whole.  Only
        the entry node remembers nonces: holders see one proof many times.
        ``proven`` is told who asks before any token is looked at, which is dearer than
        the proof, and may refuse it.

        Raises:
            Invalid: malformed proof or token.
            Denied: ``wrong-cluster``, ``proof-mismatch``, ``proof-expired``,
                ``wrong-gateway``, ``replayed-proof``.
            Unauthenticated: ``unknown-account``, ``old-key``, ``bad-proof``,
                ``token-signature``.
            Exhausted: too many live nonces.
        """
        signed = self._decode(proof, method, now_ms)
        body = signed.proof
        named = (body.record, body.blob, body.range_start, body.range_length)
        if named != (record, blob or BlobId.zero(), range_start, range_length):
            raise _mismatch("another record, blob or range")
        if body.gateway != gateway:
            raise _wrong_gateway()
        if len(token) > TOKEN_BYTES_MAX:
            raise Invalid(
                f"the token has more than {TOKEN_BYTES_MAX} bytes: narrow an earlier version of it",
                reason="token-malformed",
            )
        if blake3_digest(token) != body.token_hash:
            raise _mismatch("another token")
        self._check_signature(signed)
        if remember_nonce:
            self._nonces.remember(body.presenter, body.nonce, body.time_ms, now_ms)
        proven(body.presenter)
        return Presented(body, self.verify_token(token))

    def present_scope(
        self,
        proof: bytes,
        scope: bytes,
        *,
        method: str,
        gateway: AccountId,
        now_ms: int,
        remember_nonce: bool,
    ) -> RequestProof:
        """Establish who presents a batch; ``scope`` is the digest that its proof signs.

        Raises:
            Invalid, Denied, Unauthenticated, Exhausted: as :meth:`present`.
        """
        signed = self._decode(proof, method, now_ms)
        body = signed.proof
        if body.record or body.blob or body.range_start or body.range_length:
            raise _mismatch("another record, blob or range")
        if body.gateway != gateway:
            raise _wrong_gateway()
        if body.token_hash != scope:
            raise _mismatch("other tokens or blobs")
        self._check_signature(signed)
        if remember_nonce:
            self._nonces.remember(body.presenter, body.nonce, body.time_ms, now_ms)
        return body

    def present_plain(self, proof: bytes, *, method: str, now_ms: int) -> RequestProof:
        """Establish who asks, for methods that take no token (ledger, status).

        The caller compares the record or blob of the proof itself where the
        method has one.

        Raises:
            Invalid, Denied, Unauthenticated, Exhausted: as :meth:`present`.
        """
        signed = self._decode(proof, method, now_ms)
        body = signed.proof
        if body.gateway and body.gateway != self._me:
            raise _wrong_gateway()
        if body.token_hash != NO_TOKEN:
            raise _mismatch("a token, and this method takes none")
        self._check_signature(signed)
        self._nonces.remember(body.presenter, body.nonce, body.time_ms, now_ms)
        return body

    def authorize(self, presented: Presented, action: Action, now_ms: int) -> Decision:
        """Decide by the ledger and by the token's checks; both must permit.

        Raises:
            Denied: with the reason.
            Unavailable: the token's checks did not finish within their limits.
        """
        request = _request(presented, action)
        self._still_keyed(presented)
        decision = rights.decide(self._view, request, now_ms)
        return _both(decision, presented.token, request, now_ms)

    def authorize_by_ledger(self, presented: Presented, action: Action, now_ms: int) -> Decision:
        """The half of :meth:`authorize` that the ledger decides, for a batch.

        Raises:
            Denied: with the reason.
        """
        self._still_keyed(presented)
        decision = rights.decide(self._view, _request(presented, action), now_ms)
        decision.require()
        return decision

    def authorize_by_token(self, presented: Presented, action: Action, now_ms: int) -> None:
        """The other half: a batch asks each token once for what it cannot tell apart.

        Raises:
            Denied: ``token-check``.
            Unavailable: the token's checks did not finish within their limits.
        """
        _check_token(presented.token, _request(presented, action), now_ms)

    def authorize_owner(self, presented: Presented, action: Action, now_ms: int) -> Decision:
        """As :meth:`authorize`, for what only the record's owner may do."""
        request = _request(presented, action)
        self._still_keyed(presented)
        decision = rights.decide_owner(self._view, request, now_ms)
        return _both(decision, presented.token, request, now_ms)

    def _decode(self, proof: bytes, method: str, now_ms: int) -> SignedProof:
        """What can be checked without a key."""
        signed = SignedProof.decode(proof)
        body = signed.proof
        if body.cluster != self._cluster:
            raise _wrong_cluster("the proof")
        if body.method != method:
            raise _mismatch("another method")
        if abs(now_ms - body.time_ms) > PROOF_WINDOW_MS:
            raise _expired()
        return signed

    def _check_signature(self, signed: SignedProof) -> None:
        account = self._active(signed.proof.presenter)
        if signed.proof.key_version != account.key_version:
            raise Unauthenticated(
                f"the proof is signed with version {signed.proof.key_version} of the account's "
                f"keys, the ledger has version {account.key_version}: sign with the current one",
                reason="old-key",
            )
        signed.check(account.token_key)

    def _still_keyed(self, presented: Presented) -> None:
        """Check that the keys behind a request are still the current ones.

        A stream that began before keys were changed ends with them: who changes the keys
        of a lost device does so to end what runs there, too.

        Raises:
            Unauthenticated: ``old-key``.
        """
        proof = presented.proof
        presenter = self._view.account(proof.presenter)
        holder = self._view.account(presented.use.account)
        if (presenter is not None and presenter.key_version != proof.key_version) or (
            holder is not None and holder.token_key != presented.token.root_key
        ):
            raise Unauthenticated(
                "the keys behind this request were changed while it ran: begin it anew with the "
                "account's current keys",
                reason="old-key",
            )

    def verify_token(self, token: bytes) -> VerifiedToken:
        """A token's shape, cluster and signatures.

        Raises:
            Invalid: malformed.
            Denied: ``wrong-cluster``.
            Unauthenticated: ``unknown-account``, ``token-signature``.
        """
        use = read_use(token)
        if use.cluster != self._cluster:
            raise _wrong_cluster("the token")
        return self._cache.verify(token, self._active(use.account).token_key)

    def _active(self, account: AccountId) -> Account:
        known = self._view.account(account)
        if known is None or not known.active:
            raise Unauthenticated(
                f"{account.text} is not an active account on the ledger: it was ended, or it is so "
                "new that this node is to be asked for at least the height that registered it",
                reason="unknown-account",
            )
        return known


def _request(presented: Presented, action: Action) -> AccessRequest:
    proof, use = presented.proof, presented.use
    return AccessRequest(
        action=action,
        record=proof.record,
        blob=proof.blob or None,
        range_start=proof.range_start,
        range_length=proof.range_length,
        purpose=proof.purpose,
        presenter=proof.presenter,
        holder=use.account,
        grant=use.grant,
    )


def _both(
    decision: Decision, token: VerifiedToken, request: AccessRequest, now_ms: int
) -> Decision:
    decision.require()
    _check_token(token, request, now_ms)
    return decision


def _check_token(token: VerifiedToken, request: AccessRequest, now_ms: int) -> None:
    token.authorize(
        TokenFacts(
            now_ms=now_ms,
            action=ACTION_NAMES[request.action],
            record=request.record,
            blob=request.blob,
            range_start=request.range_start,
            range_length=request.range_length,
            purpose=request.purpose,
            presenter=request.presenter,
        )
    )


def _mismatch(what: str) -> Denied:
    return Denied(
        f"the proof was signed for {what}: sign a proof of exactly this request",
        reason="proof-mismatch",
    )


def _wrong_cluster(what: str) -> Denied:
    return Denied(
        f"{what} is for another cluster: make one for this cluster", reason="wrong-cluster"
    )


def _wrong_gateway() -> Denied:
    return Denied(
        "the proof names another gateway than the one this request came through: sign a proof "
        "that names the node you send to",
        reason="wrong-gateway",
    )


def _expired() -> Denied:
    return Denied(
        f"the proof's time is more than {PROOF_WINDOW_MS // 1000} s from this node's: set the "
        "clock, and sign each request when you send it",
        reason="proof-expired",
    )
