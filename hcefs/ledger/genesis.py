"""The genesis: what every party of a cluster agrees on before the first block.

Owns the genesis document, the identity of the cluster that follows from it and
the accounts of its operators.  Invariants: the cluster id is the first 16 bytes
of the BLAKE3 of the canonical bytes, so that two different documents are never
one cluster; the document never changes.  Not guaranteed: that the operators hold
the private halves of their keys; they agree on the document outside the system.
Source: docs/ARCHITECTURE.md, "Identity and genesis".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hcefs.access.facts import Account, AccountKind
from hcefs.crypto.signing import PUBLIC_KEY_SIZE, account_id
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import AccountId, ClusterId
from hcefs.integrity import blake3_digest

RECEIVING_KEY_SIZE = 1216
"""X-Wing: the ML-KEM-768 encapsulation key (1184) and the X25519 key (32)."""

OPERATORS_MAX = 64
NAME_MAX = 128
TIME_MS_MAX = 253_402_300_800_000
"""The year 10000 in milliseconds since the Unix epoch: no time may be later."""

LEASE_MS_MAX = 24 * 3_600_000
SKEW_MS_MAX = 3_600_000
NONCE_SIZES = range(16, 65)
FIRST_TERM = 1


@dataclass(frozen=True)
class OperatorKey(Encoded):
    """The public keys of one operator: signing, tokens and proofs, receiving secrets."""

    KIND = "operator-key"

    signing_key: bytes
    token_key: bytes
    receiving_key: bytes


@dataclass(frozen=True)
class Genesis(Encoded):
    """The founding document.

    ``threshold`` distinct operators must sign what changes the cluster.
    ``writer_key`` is the Ed25519 key that signs blocks and heads in term 1.  A
    head is a lease for ``lease_ms``; clocks may differ from it by ``skew_ms``.
    ``nonce`` is random, so that equal set-ups are different clusters.
    """

    KIND = "genesis"

    name: str
    time_ms: int
    operators: tuple[OperatorKey, ...]
    threshold: int
    writer_key: bytes
    lease_ms: int
    skew_ms: int
    nonce: bytes

    @cached_property
    def digest(self) -> bytes:
        """BLAKE3 of the canonical bytes: what the first block names as its predecessor."""
        return blake3_digest(self.encode())

    @cached_property
    def cluster(self) -> ClusterId:
        """The id of the cluster."""
        return ClusterId(self.digest[: ClusterId.SIZE])

    def operator_accounts(self) -> tuple[Account, ...]:
        """The operators' accounts as they stand before the first block."""
        return tuple(
            Account(
                account=account_id(self.cluster, key.signing_key),
                kind=AccountKind.OPERATOR,
                key_version=1,
                signing_key=key.signing_key,
                token_key=key.token_key,
                receiving_key=key.receiving_key,
                spki=b"",
                admitted_by=AccountId.zero(),
                active=True,
                height=0,
            )
            for key in self.operators
        )

    def check(self) -> None:
        """Check sizes, ranges and that the operators are distinct.

        Raises:
            Invalid: ``bad-genesis``; the message names the field.
        """
        # Not str.isprintable: every party must reach one verdict under any Unicode tables.
        _require(
            1 <= len(self.name) <= NAME_MAX and all(" " <= char <= "~" for char in self.name),
            "name must be 1 to 128 printable ASCII characters",
        )
        _require(0 < self.time_ms <= TIME_MS_MAX, "time_ms is not a time since 1970")
        _require(1 <= len(self.operators) <= OPERATORS_MAX, "needs 1 to 64 operators")
        _require(
            1 <= self.threshold <= len(self.operators),
            "threshold must be between 1 and the number of operators",
        )
        for key in self.operators:
            _require(
                len(key.signing_key) == PUBLIC_KEY_SIZE
                and len(key.token_key) == PUBLIC_KEY_SIZE
                and len(key.receiving_key) == RECEIVING_KEY_SIZE,
                "an operator's keys must have 32, 32 and 1216 bytes",
            )
            _require(key.signing_key != key.token_key, "signing and token keys must differ")
        _require(
            len({key.signing_key for key in self.operators}) == len(self.operators),
            "one signing key stands for two operators",
        )
        _require(len(self.writer_key) == PUBLIC_KEY_SIZE, "writer_key must have 32 bytes")
        _require(1 <= self.lease_ms <= LEASE_MS_MAX, "lease_ms must be 1 ms to 1 day")
        _require(0 <= self.skew_ms <= SKEW_MS_MAX, "skew_ms must be 0 to 1 hour")
        _require(len(self.nonce) in NONCE_SIZES, "nonce must have 16 to 64 random bytes")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Invalid(f"genesis: {what}; correct the document", reason="bad-genesis")
