"""Check an erasure certificate offline: with the file, and the cluster's id to compare.

Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hcefs.errors import Corrupt, HcefsError
from hcefs.evidence.erasure import (
    STATEMENTS_MAX,
    ErasureCertificate,
    Exposure,
    KeyNames,
    exposure_of,
)
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.terms import Terms, founders_terms
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.transactions_erasure import EraseRecord
from hcefs.ledger.transactions_keys import RotateKeys


@dataclass(frozen=True)
class CheckedErasure:
    """What a certificate proves.

    ``by_order`` is the digest of the order by which operators erased; empty: the owner did.
    """

    certificate: ErasureCertificate
    height: int
    time_ms: int
    transaction: bytes
    by_order: bytes
    exposure: Exposure


def check_certificate(
    certificate: ErasureCertificate, cluster: ClusterId | None = None
) -> CheckedErasure:
    """Check everything in a certificate; incomplete ones pass, and say so.

    ``cluster`` is the one that the reader expects; without it, the reader compares the id.
    Not checked: that the cluster map is the one that was in force.

    Raises:
        Corrupt: ``bad-certificate`` or ``bad-transaction-proof``.
    """
    try:
        genesis = Genesis.decode(certificate.genesis)
        genesis.check()
        terms = founders_terms(genesis, certificate.terms)
        proof = TransactionProof.decode(certificate.proof)
    except HcefsError as error:
        raise _bad(error.message) from error
    if genesis.cluster != certificate.cluster or cluster not in (None, genesis.cluster):
        raise _bad(f"it is of {genesis.cluster}")
    transaction = proof.check(terms)
    if not isinstance(transaction, EraseRecord) or transaction.record != certificate.record:
        raise _bad("its transaction does not erase that record")
    changed = shown_keys(certificate.key_changes, terms)
    needed = {(each.node, each.key_version) for each in certificate.statements}
    if not changed.keys() <= needed or len(changed) != len(certificate.key_changes):
        raise _bad("it shows a change of keys with which nothing in it is signed")
    return CheckedErasure(
        certificate,
        proof.header.height,
        proof.header.time_ms,
        SignedTransaction.decode(proof.transaction).hash(),
        transaction.order_digest,
        exposure_of(certificate, proof.header.height, changed),
    )


def shown_keys(changes: Iterable[bytes], terms: Terms) -> KeyNames:
    """The signing keys that proofs of changes of keys show.

    One proof is enough for a key: the ledger took the change on the word of the key before.

    Raises:
        Corrupt: ``bad-certificate`` or ``bad-transaction-proof``.
    """
    keys: dict[tuple[AccountId, int], bytes] = {}
    for data in changes:
        if len(keys) >= STATEMENTS_MAX:
            raise _bad("it shows more changes of keys than a cluster has nodes")
        try:
            proof = TransactionProof.decode(data)
        except HcefsError as error:
            raise _bad(error.message) from error
        change = proof.check(terms)
        if not isinstance(change, RotateKeys):
            raise _bad("it shows as a change of keys what is none")
        keys[change.account, change.key_version] = change.signing_key
    return keys


def _bad(what: str) -> Corrupt:
    return Corrupt(f"this certificate proves no erasure: {what}", reason="bad-certificate")
