"""That a transaction is in a block which the ledger's writer signed: checkable by anyone.

Owns the proof and what it must hold.  It shows one transaction and the header of its
block, and so nothing of the others in it.  Needs the genesis and the statements of the
terms, and no ledger.

Invariants: the header is of the cluster, of the term that reigned at its height, and
signed by that term's writer; the transaction is where the path says.

Not guaranteed: that the state machine's answer is what a reader takes it for (a block
holds only transactions that apply, which every replica has checked), and that the writer
did not sign a second history: nodes find that, by heads and blocks (docs/SECURITY.md).
Source: RFC 6962, section 2.1; docs/decisions/0037-evidence.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hcefs.access.emergency import grant_of
from hcefs.crypto.signing import verify
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, HcefsError
from hcefs.ids import AccountId, ClusterId, GrantId, RecordId
from hcefs.integrity import inclusion_proof, leaf_hash, root_from_inclusion
from hcefs.ledger.block import BLOCK_TAG, BLOCK_TRANSACTIONS_MAX, Block, BlockHeader
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions import (
    Append,
    DeactivateAccount,
    GiveGrant,
    OpenRecord,
    RegisterAccount,
    RevokeGrant,
    SignedTransaction,
    Transaction,
    decode_transaction,
)
from hcefs.ledger.transactions_emergency import CloseEmergency, OpenEmergency
from hcefs.ledger.transactions_erasure import EraseRecord
from hcefs.ledger.transactions_keys import RotateKeys


@dataclass(frozen=True)
class TransactionProof(Encoded):
    """A transaction (its canonical bytes) with its path to a signed header.

    ``signature`` is the writer's over the header; the transaction is number ``index`` of
    ``count`` in its block.
    """

    KIND = "transaction-proof"
    MAX_BYTES = 2 << 20

    header: BlockHeader
    signature: bytes
    transaction: bytes
    index: int
    count: int
    path: tuple[bytes, ...]

    def unchecked(self) -> Transaction:
        """The transaction that it is about, whether or not it is in that block.

        Raises:
            Invalid: malformed.
        """
        return decode_transaction(SignedTransaction.decode(self.transaction).body)

    def check(self, terms: Terms) -> Transaction:
        """The transaction, if it is in a block that the ledger's writer signed.

        Raises:
            Corrupt: ``bad-transaction-proof``.
        """
        header = self.header
        try:
            header.check()
            if header.cluster != terms.genesis.cluster:
                raise _proves_nothing("its block is of another cluster")
            if header.term != terms.term_at(header.height):
                raise _proves_nothing("its block is of a term that did not reign then")
            verify(terms.key_at(header.height), BLOCK_TAG, header.encode(), self.signature)
            if not 0 <= self.index < self.count <= BLOCK_TRANSACTIONS_MAX:
                raise _proves_nothing("its block has no such transaction")
            leaf = leaf_hash(self.transaction)
            if root_from_inclusion(self.count, self.index, leaf, self.path) != (
                header.transaction_root
            ):
                raise _proves_nothing("its transaction is not in that block")
            return self.unchecked()
        except HcefsError as error:
            if isinstance(error, Corrupt) and error.reason == "bad-transaction-proof":
                raise
            raise _proves_nothing(error.message) from error


def prove_transaction(block: Block, index: int) -> TransactionProof:
    """The proof of one transaction of a block."""
    leaves = [leaf_hash(each) for each in block.transactions]
    path = tuple(inclusion_proof(leaves, index))
    data = block.transactions[index]
    return TransactionProof(block.header, block.signature, data, index, len(leaves), path)


def transactions_of(block: Block, *holding: bytes) -> Iterator[tuple[int, Transaction]]:
    """The transactions of a block with their places.

    With ``holding`` only those are read in whose bytes one of these stands, an id or a part
    of a kind, which canonical encodings hold as they are: reading all of a full block takes
    25 ms, and whoever may ask for a proof may ask again and again.
    """
    for index, data in enumerate(block.transactions):
        if not holding or any(part in data for part in holding):
            yield index, decode_transaction(SignedTransaction.decode(data).body)


def is_about_account(transaction: Transaction, cluster: ClusterId, account: AccountId) -> bool:
    """Whether it registers or ends an account, or changes its keys."""
    if isinstance(transaction, RegisterAccount):
        return transaction.account(cluster) == account
    return (
        isinstance(transaction, DeactivateAccount | RotateKeys) and transaction.account == account
    )


def is_about_grant(transaction: Transaction, grant: GrantId, record: RecordId) -> bool:
    """Whether it gives or revokes a grant on a record, also by an emergency."""
    if isinstance(transaction, OpenEmergency | CloseEmergency):
        return grant_of(transaction.opening, record) == grant
    return isinstance(transaction, GiveGrant | RevokeGrant) and transaction.grant == grant


def opens_record(transaction: Transaction, record: RecordId) -> bool:
    """Whether it opens a record."""
    return isinstance(transaction, OpenRecord) and transaction.record == record


def erases(transaction: Transaction, record: RecordId) -> bool:
    """Whether it erases a record."""
    return isinstance(transaction, EraseRecord) and transaction.record == record


def appends(transaction: Transaction, record: RecordId, commitment: bytes) -> bool:
    """Whether it appends a commitment to a record, and to no other record than that one."""
    return (
        isinstance(transaction, Append)
        and all(entry.record == record for entry in transaction.entries)
        and any(entry.commitment == commitment for entry in transaction.entries)
    )


REGISTERS = RegisterAccount.KIND.encode()
EMERGENCIES = b"-emergency"
"""Parts of the kinds of transactions that do not name what they are about: ids follow from them."""


def _proves_nothing(what: str) -> Corrupt:
    return Corrupt(f"this proves no transaction: {what}", reason="bad-transaction-proof")
