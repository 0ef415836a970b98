"""Blocks and signed heads: the bytes that replicate the ledger.

Owns the encodings of header, block and head, their hashes and signatures.
Invariants: a block's hash is that of its header, and the header binds the
transactions by their root and the state by the app hash; the writer signs the
header.  A head is the nodes' lease: it says which block was the last at a time.
Not guaranteed: that a block is valid; :func:`hcefs.ledger.machine.replay` checks
that.  Source: docs/ARCHITECTURE.md, "Ledger".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hcefs.crypto.signing import SigningKey, verify
from hcefs.encoding import Encoded
from hcefs.errors import Invalid
from hcefs.ids import ClusterId
from hcefs.integrity import blake3_digest, leaf_hash, merkle_root
from hcefs.ledger.genesis import TIME_MS_MAX, Genesis
from hcefs.versions import PROTOCOL_OF_SHARD_FORMAT_2, PROTOCOLS

PROTOCOL_FIRST = PROTOCOLS.oldest
"""The version of the state machine's rules that every chain begins with."""
PROTOCOL_SNAPSHOTS = 3
"""From this version on headers may name snapshots."""
PROTOCOL_RIGHTS = 4
"""From this version on the ledger knows what completes rights and evidence."""
PROTOCOL_BARRIER = PROTOCOL_OF_SHARD_FORMAT_2
"""From this version on nodes write version 2 of the shard file."""
PROTOCOL_NEWEST = PROTOCOLS.newest
"""The newest version that this software knows; it knows all before it."""

BLOCK_TAG = b"block"
HEAD_TAG = b"head"
HASH_SIZE = 32

BLOCK_TRANSACTIONS_MAX = 4096
BLOCK_TRANSACTION_BYTES_MAX = 3 << 20
"""Sum of the encoded transactions of one block: a block fits one network message."""


@dataclass(frozen=True)
class BlockHeader(Encoded):
    """What the writer signs.

    ``previous`` is the hash of the block before; for height 1 the digest of the
    genesis.  ``app_hash`` is that after this block.  ``snapshot_root`` is empty
    in protocol versions 1 and 2.
    """

    KIND = "block-header"

    cluster: ClusterId
    term: int
    height: int
    time_ms: int
    previous: bytes
    transaction_root: bytes
    protocol_version: int
    app_hash: bytes
    snapshot_root: bytes

    def hash(self) -> bytes:
        """BLAKE3 of the canonical bytes: the name of the block."""
        return blake3_digest(self.encode())

    def check(self) -> None:
        """Check ranges and sizes.

        Raises:
            Invalid: ``bad-header``.
        """
        hashes = (self.previous, self.transaction_root, self.app_hash)
        if (
            self.term < 1
            or self.height < 1
            or not 0 < self.time_ms <= TIME_MS_MAX
            or any(len(value) != HASH_SIZE for value in hashes)
            or len(self.snapshot_root) not in (0, HASH_SIZE)
        ):
            raise Invalid("block header: a number or hash is out of range", reason="bad-header")


@dataclass(frozen=True)
class Block(Encoded):
    """A header, the encoded ``SignedTransaction``s in order, the writer's signature."""

    KIND = "block"
    MAX_BYTES = 4 << 20

    header: BlockHeader
    transactions: tuple[bytes, ...]
    signature: bytes

    def hash(self) -> bytes:
        """The hash of the header."""
        return self.header.hash()

    def check_signature(self, writer_key: bytes) -> None:
        """Check the writer's signature over the header.

        Raises:
            Unauthenticated: it is not that key's.
        """
        verify(writer_key, BLOCK_TAG, self.header.encode(), self.signature)


@dataclass(frozen=True)
class SignedHead(Encoded):
    """The writer's word that ``block_hash`` was the last block at ``time_ms``.

    Height 0 stands for the genesis: ``block_hash`` is then its digest.
    """

    KIND = "signed-head"
    MAX_BYTES = 1024

    cluster: ClusterId
    term: int
    height: int
    block_hash: bytes
    app_hash: bytes
    time_ms: int
    signature: bytes

    def message(self) -> bytes:
        """The bytes that the writer signs: this head with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: SigningKey) -> SignedHead:
        """This head with the writer's signature."""
        return replace(self, signature=key.sign(HEAD_TAG, self.message()))

    def check(self, writer_key: bytes) -> None:
        """Check shape and signature.

        Raises:
            Invalid: ``bad-head``: a number or hash is out of range.
            Unauthenticated: the signature is not that key's.
        """
        if (
            self.term < 1
            or self.height < 0
            or not 0 < self.time_ms <= TIME_MS_MAX
            or len(self.block_hash) != HASH_SIZE
            or len(self.app_hash) != HASH_SIZE
        ):
            raise Invalid("signed head: a number or hash is out of range", reason="bad-head")
        verify(writer_key, HEAD_TAG, self.message(), self.signature)


def transaction_root(transactions: Sequence[bytes]) -> bytes:
    """The Merkle root over the encoded transactions of a block."""
    return merkle_root([leaf_hash(transaction) for transaction in transactions])


def check_limits(transactions: Sequence[bytes]) -> None:
    """Check that the transactions fit one block.

    Raises:
        Invalid: ``block-too-large``.
    """
    if (
        len(transactions) > BLOCK_TRANSACTIONS_MAX
        or sum(len(transaction) for transaction in transactions) > BLOCK_TRANSACTION_BYTES_MAX
    ):
        raise Invalid(
            f"a block holds at most {BLOCK_TRANSACTIONS_MAX} transactions of together "
            f"{BLOCK_TRANSACTION_BYTES_MAX} bytes: put the rest into the next",
            reason="block-too-large",
        )


def previous_hash(genesis: Genesis, previous: BlockHeader | None) -> bytes:
    """What the block after ``previous`` (None: the first block) names as its predecessor."""
    return genesis.digest if previous is None else previous.hash()


def sign_block(header: BlockHeader, transactions: Sequence[bytes], key: SigningKey) -> Block:
    """The block of ``header``, whose transaction root must already be that of the transactions.

    Raises:
        Invalid: the header or the transactions are beyond their limits.
    """
    header.check()
    check_limits(transactions)
    return Block(header, tuple(transactions), key.sign(BLOCK_TAG, header.encode()))


def sign_head(
    genesis: Genesis,
    header: BlockHeader | None,
    app_hash: bytes,
    time_ms: int,
    key: SigningKey,
    *,
    term: int,
) -> SignedHead:
    """The head of ``header`` (None: no block yet) as the writer signs it at ``time_ms``."""
    return SignedHead(
        cluster=genesis.cluster,
        term=term,
        height=0 if header is None else header.height,
        block_hash=previous_hash(genesis, header),
        app_hash=app_hash,
        time_ms=time_ms,
        signature=b"",
    ).signed(key)
