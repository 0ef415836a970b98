"""Transactions of protocol version 4 about keys: of accounts and of records.

Invariants and signing are those of :mod:`hcefs.ledger.transactions`.  The transaction
itself is signed with the account's current key; the proofs in it show that the new
keys are held as well, each under a tag of its own, over everything that changes.  A
receiving key signs nothing: a wrong one locks out nobody but its owner.
Source: docs/decisions/0035-keys-change.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.crypto.signing import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, SigningKey
from hcefs.encoding import Encoded, dumps
from hcefs.errors import Invalid
from hcefs.ids import AccountId, ClusterId, RecordId
from hcefs.ledger.genesis import RECEIVING_KEY_SIZE

ROTATE_SIGNING_TAG = b"rotate-signing-key"
ROTATE_TOKEN_TAG = b"rotate-token-key"

KEY_VERSION_MAX = (1 << 32) - 1
SPKI_SIZE = 32


@dataclass(frozen=True)
class RotateKeys(Encoded):
    """New keys for an account, which keeps its id; signed with its current signing key.

    ``key_version`` is the new one: the current one and 1.  The proofs are made with the
    new signing and the new token key over :meth:`message`.  ``spki`` is, for nodes, the
    SHA-256 of the SubjectPublicKeyInfo of the TLS key from now on, else empty.
    """

    KIND = "rotate-keys"

    account: AccountId
    key_version: int
    signing_key: bytes
    token_key: bytes
    receiving_key: bytes
    spki: bytes
    signing_key_proof: bytes
    token_key_proof: bytes

    def message(self, cluster: ClusterId) -> bytes:
        """What both new keys sign: the cluster and all that this changes."""
        return bytes(cluster) + dumps(
            [
                bytes(self.account),
                self.key_version,
                self.signing_key,
                self.token_key,
                self.receiving_key,
                self.spki,
            ]
        )

    def check(self) -> None:
        """Check the keys, their sizes and the version.

        Raises:
            Invalid: ``bad-id``, ``bad-key-version``, ``bad-key``, ``bad-spki`` or
                ``bad-proof``.
        """
        if not self.account:
            raise Invalid("rotate-keys: the account may not be all zeros", reason="bad-id")
        if not 2 <= self.key_version <= KEY_VERSION_MAX:
            raise Invalid(
                "rotate-keys: the first new version of an account's keys is 2",
                reason="bad-key-version",
            )
        sizes = (len(self.signing_key), len(self.token_key), len(self.receiving_key))
        if sizes != (PUBLIC_KEY_SIZE, PUBLIC_KEY_SIZE, RECEIVING_KEY_SIZE):
            raise Invalid(
                "rotate-keys: the signing, token and receiving keys must have 32, 32 and 1216 "
                "bytes",
                reason="bad-key",
            )
        if self.signing_key == self.token_key:
            raise Invalid(
                "rotate-keys: use one key for transactions and another for tokens",
                reason="bad-key",
            )
        if len(self.spki) not in (0, SPKI_SIZE):
            raise Invalid("rotate-keys: the SHA-256 of a TLS key has 32 bytes", reason="bad-spki")
        if {len(self.signing_key_proof), len(self.token_key_proof)} != {SIGNATURE_SIZE}:
            raise Invalid("rotate-keys: a proof has 64 bytes", reason="bad-proof")


@dataclass(frozen=True)
class RotateGeneration(Encoded):
    """A record's next generation without a revocation; signed by the record's owner."""

    KIND = "rotate-generation"

    record: RecordId
    next_generation: int
    next_public_key: bytes

    def check(self) -> None:
        """Check id, number and key size.

        Raises:
            Invalid: ``bad-id``, ``unknown-generation`` or ``bad-key``.
        """
        if not self.record:
            raise Invalid("rotate-generation: the record may not be all zeros", reason="bad-id")
        if not 1 <= self.next_generation <= KEY_VERSION_MAX:
            raise Invalid("rotate-generation: no such generation", reason="unknown-generation")
        if len(self.next_public_key) != RECEIVING_KEY_SIZE:
            raise Invalid(
                "rotate-generation: a record's public key has 1216 bytes", reason="bad-key"
            )


def rotate_keys(
    cluster: ClusterId,
    account: AccountId,
    key_version: int,
    signing_key: SigningKey,
    token_key: SigningKey,
    receiving_key: bytes,
    spki: bytes = b"",
) -> RotateKeys:
    """The change of an account's keys to these, with the proofs that they are held.

    ``key_version`` is that of the new keys.  The caller signs the transaction with the
    account's current signing key.
    """
    bare = RotateKeys(
        account=account,
        key_version=key_version,
        signing_key=signing_key.public_key,
        token_key=token_key.public_key,
        receiving_key=receiving_key,
        spki=spki,
        signing_key_proof=b"",
        token_key_proof=b"",
    )
    message = bare.message(cluster)
    return RotateKeys(
        account=account,
        key_version=key_version,
        signing_key=bare.signing_key,
        token_key=bare.token_key,
        receiving_key=receiving_key,
        spki=spki,
        signing_key_proof=signing_key.sign(ROTATE_SIGNING_TAG, message),
        token_key_proof=token_key.sign(ROTATE_TOKEN_TAG, message),
    )
