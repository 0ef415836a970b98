"""Authorizations: the token and the proof that each request carries.

Owns the caller's tokens (minted here, kept a while) and the proofs (one for each
request, never used twice).  A token that is minted here names the caller as its
only presenter, so that it is of no use to whoever sees it.

Invariants: every proof has a nonce of its own and names the node that the request
is sent to; a cached token is replaced well before its end.
Source: docs/ARCHITECTURE.md, "Rights".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hcefs.access.batch import BatchGroup, batch_digest
from hcefs.access.token import Narrowing, mint
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.signing import RequestProof
from hcefs.errors import Invalid
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.runtime import Runtime
from hcefs.wire.v1 import blob_pb2, pack_pb2

TOKEN_MS = 10 * 60_000
"""Life of a token for single calls."""

STREAM_TOKEN_MS = 24 * 3_600_000
"""Life of a token for a put or a get, whose checks run until the stream ends."""

TOKENS_MAX = 1024
NONCE_SIZE = 16
_NO_TOKEN = bytes(32)


@dataclass(frozen=True)
class Scope:
    """What a request is about: the record, or a blob of it, or a range of that."""

    record: RecordId
    blob: BlobId | None = None
    range_start: int = 0
    range_length: int = 0

    @property
    def packed(self) -> bool:
        """Whether it is about a packed blob."""
        return self.blob is not None and self.blob.slot != 0


@dataclass(frozen=True)
class Right:
    """By what right a request is made; a zero ``grant`` is the owner's own.

    ``token`` is one that was handed over; empty, one is minted for ``grant``.
    """

    grant: GrantId
    purpose: str
    token: bytes = field(default=b"", repr=False)

    @property
    def owner(self) -> bool:
        """Whether this is the owner's own right, without a grant."""
        return not self.grant


class Authorizer:
    """Signs for one account of one cluster."""

    def __init__(self, cluster: ClusterId, keys: AccountKeys, runtime: Runtime) -> None:
        self.account = keys.account
        self._cluster = cluster
        self._key_version = keys.key_version
        self._key = keys.token_key
        self._runtime = runtime
        self._tokens: dict[tuple[GrantId, bool], tuple[int, bytes]] = {}

    def mint(self, grant: GrantId, narrowing: Narrowing) -> bytes:
        """A new token for a right of this account.

        Raises:
            Invalid: the narrowing is malformed.
        """
        return mint(self._key, self._cluster, self.account, grant, narrowing)

    def token(self, grant: GrantId, *, stream: bool = False) -> bytes:
        """A token for one of this account's rights, for this account alone."""
        now = self._runtime.now_ms()
        life = STREAM_TOKEN_MS if stream else TOKEN_MS
        renew_at, known = self._tokens.get((grant, stream), (0, b""))
        if known and renew_at - life <= now < renew_at:
            return known
        made = self.mint(grant, Narrowing(not_after_ms=now + life, presenter=self.account))
        if len(self._tokens) >= TOKENS_MAX:
            self._tokens.clear()
        self._tokens[(grant, stream)] = (now + life // 2, made)
        return made

    def authorize(
        self, method: str, scope: Scope, right: Right, gateway: AccountId, *, stream: bool = False
    ) -> blob_pb2.Authorization:
        """Token and fresh proof for one request to the node ``gateway``.

        Raises:
            Invalid: ``bad-range``: a negative range.
        """
        if scope.range_start < 0 or scope.range_length < 0:
            raise Invalid("a range cannot be negative", reason="bad-range")
        token = right.token or self.token(right.grant, stream=stream)
        proof = replace(
            self._proof(method, scope.record),
            token_hash=blake3_digest(token),
            blob=scope.blob or BlobId.zero(),
            range_start=scope.range_start,
            range_length=scope.range_length,
            purpose=right.purpose,
            gateway=gateway,
        )
        return blob_pb2.Authorization(token=token, proof=proof.signed(self._key).encode())

    def token_of(self, right: Right) -> bytes:
        """The token that a single call presents for a right."""
        return right.token or self.token(right.grant)

    def authorize_batch(
        self,
        method: str,
        tokens: Sequence[bytes],
        groups: Sequence[BatchGroup],
        purpose: str,
        gateway: AccountId,
    ) -> pack_pb2.BatchAuthorization:
        """Tokens and a fresh proof of exactly these groups, for the node ``gateway``."""
        proof = replace(
            self._proof(method, RecordId.zero()),
            token_hash=batch_digest(tokens, groups),
            purpose=purpose,
            gateway=gateway,
        )
        return pack_pb2.BatchAuthorization(tokens=tokens, proof=proof.signed(self._key).encode())

    def plain(self, method: str, record: RecordId | None = None) -> bytes:
        """A fresh proof for a method without a token (the ledger's, and status)."""
        return self._proof(method, record or RecordId.zero()).signed(self._key).encode()

    def _proof(self, method: str, record: RecordId) -> RequestProof:
        return RequestProof(
            cluster=self._cluster,
            token_hash=_NO_TOKEN,
            method=method,
            record=record,
            blob=BlobId.zero(),
            range_start=0,
            range_length=0,
            purpose="",
            gateway=AccountId.zero(),
            nonce=self._runtime.random(NONCE_SIZE),
            time_ms=self._runtime.now_ms(),
            presenter=self.account,
            key_version=self._key_version,
        )
