"""Checks a revocation certificate, by nothing but its bytes.

Owns what a certificate proves: that the ledger's writer put the revocation into a block;
that accounts which the ledger registered as nodes have signed that it is in force on
them; and that the other nodes of the map which these name could serve nothing, or may
not any more, because their leases have run out since.

Invariants: pure; everything in the file is checked, and what is superfluous is refused,
so that no byte of it can be changed.  ``complete`` false is an honest certificate that
does not prove enough yet; a false one is an error.

A node that had not applied the block of the revocation held no head younger than the
first head that names this block or a later one, because heads of one writer never go
back.  So it refuses from that head's time plus the lease on, by a clock that it has held
within the permitted skew of the ledger's; what it was serving is cut at most
``CUT_MS`` later.  A head of that time in the certificate shows that the time has come.

Not guaranteed: that the map is the one in force on the ledger; that is the word of the
nodes that sign, which all name its digest.  Source:
docs/decisions/0033-revocation-certificates.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hcefs.access.facts import AccountKind
from hcefs.crypto.signing import account_id
from hcefs.errors import Corrupt, HcefsError
from hcefs.evidence.revocation import (
    Gap,
    RevocationCertificate,
    RevocationStatement,
    SignedStatement,
    must_confirm,
    worst_gap,
)
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger.block import BlockHeader, SignedHead
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.terms import Terms, founders_terms
from hcefs.ledger.transactions import GiveGrant, RegisterAccount, RevokeGrant
from hcefs.ledger.transactions_keys import RotateKeys
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.successor import check_planned

CUT_MS = 1_000
"""How long after the end of its lease a node may still serve what it was serving."""


@dataclass(frozen=True)
class Confirmation:
    """A node that said that the revocation is in force on it."""

    node_id: int
    statement: RevocationStatement


@dataclass(frozen=True)
class Verdict:
    """What a certificate proves.

    ``lapsed`` are nodes that were not heard and whose leases had run out at
    ``lapsed_ms`` by the ledger's clock; ``silent`` those of which nothing is known.
    ``gap`` is the row in which the silent ones may still hold enough to serve a blob.
    """

    cluster: ClusterId
    given: GiveGrant
    block: BlockHeader
    epoch: int
    confirmed: tuple[Confirmation, ...]
    lapsed: tuple[int, ...]
    lapsed_ms: int
    silent: tuple[int, ...]
    gap: Gap | None
    made_ms: int

    @property
    def complete(self) -> bool:
        """Whether nobody is left who could serve a blob under the grant."""
        return self.gap is None


def lapse_ms(first: SignedHead, genesis: Genesis) -> int:
    """When the leases of nodes that have not applied the revocation are over, and cut."""
    return first.time_ms + genesis.lease_ms + genesis.skew_ms + CUT_MS


def verify_certificate(certificate: RevocationCertificate) -> Verdict:
    """Check everything that a certificate holds.

    Raises:
        Corrupt: ``bad-certificate``: something in it is not what it is said to be.
    """
    try:
        return _verify(certificate)
    except HcefsError as error:
        if error.reason == "bad-certificate":
            raise
        raise _bad(error.message) from error


def _verify(certificate: RevocationCertificate) -> Verdict:
    certificate.check()
    genesis = Genesis.decode(certificate.genesis)
    genesis.check()
    terms = founders_terms(genesis, certificate.terms)
    if len(terms.changes) != len(certificate.terms):
        raise _bad("a term was not begun by the founding operators")
    given, block = _revocation(certificate, terms)
    first, last = _heads(certificate, terms, block)
    current = ClusterMap.decode(certificate.cluster_map)
    check_planned(current)
    keys = _registered(certificate.registrations, terms)
    confirmed = _confirmed(certificate, current, keys, given, block)
    if set(keys) != {each.statement.node for each in confirmed}:
        raise _bad("it holds the registration of a node that confirms nothing")
    said = {each.node_id for each in confirmed}
    missing = sorted(must_confirm(current) - said)
    until = lapse_ms(first, genesis)
    over = last.time_ms >= until
    silent = () if over else tuple(missing)
    return Verdict(
        genesis.cluster,
        given,
        block,
        current.epoch,
        confirmed,
        tuple(missing) if over else (),
        until,
        silent,
        worst_gap(current, silent),
        last.time_ms,
    )


def _revocation(certificate: RevocationCertificate, terms: Terms) -> tuple[GiveGrant, BlockHeader]:
    gave = TransactionProof.decode(certificate.given)
    revoked = TransactionProof.decode(certificate.revoked)
    given, ended = gave.check(terms), revoked.check(terms)
    if not isinstance(given, GiveGrant) or not isinstance(ended, RevokeGrant):
        raise _bad("it shows no grant and its revocation")
    if given.grant != ended.grant or gave.header.height > revoked.header.height:
        raise _bad("the revocation is of another grant")
    return given, revoked.header


def _heads(
    certificate: RevocationCertificate, terms: Terms, block: BlockHeader
) -> tuple[SignedHead, SignedHead]:
    heads = SignedHead.decode(certificate.first_head), SignedHead.decode(certificate.last_head)
    for head in heads:
        key = terms.key_of(head.term)
        if key is None or head.cluster != terms.genesis.cluster:
            raise _bad("a head is of another cluster, or of an unknown term")
        head.check(key)
        if head.height < block.height:
            raise _bad("a head is older than the revocation")
    first, last = heads
    if (last.height, last.time_ms) < (first.height, first.time_ms) or last.term < first.term:
        raise _bad("its heads are in the wrong order")
    return first, last


def _registered(registrations: Sequence[bytes], terms: Terms) -> dict[AccountId, tuple[int, bytes]]:
    """The newest keys of node accounts that the ledger shows: version and signing key.

    After a node's registration come the changes of its keys, in order.
    """
    keys: dict[AccountId, tuple[int, bytes]] = {}
    for data in registrations:
        transaction = TransactionProof.decode(data).check(terms)
        if isinstance(transaction, RotateKeys):
            version, _ = keys.get(transaction.account, (0, b""))
            if not version or transaction.key_version != version + 1:
                raise _bad("a change of a node's keys does not follow what is shown of it")
            keys[transaction.account] = transaction.key_version, transaction.signing_key
            continue
        if (
            not isinstance(transaction, RegisterAccount)
            or transaction.account_kind is not AccountKind.NODE
        ):
            raise _bad("it holds a registration of something that is no node")
        account = account_id(terms.genesis.cluster, transaction.signing_key)
        if account in keys:
            raise _bad("a node's registration is in it twice")
        keys[account] = 1, transaction.signing_key
    return keys


def _confirmed(
    certificate: RevocationCertificate,
    current: ClusterMap,
    keys: dict[AccountId, tuple[int, bytes]],
    given: GiveGrant,
    block: BlockHeader,
) -> tuple[Confirmation, ...]:
    found: list[Confirmation] = []
    for data in certificate.statements:
        signed = SignedStatement.decode(data)
        said = signed.statement
        node = current.node_of_account(said.node)
        version, key = keys.get(said.node, (0, b""))
        if node is None or not version:
            raise _bad("a statement is of no node of the map that the ledger registered")
        if said.key_version != version:
            raise _bad("a statement is signed with another key than the newest one shown")
        signed.check(key)
        if (said.cluster, said.grant, said.revoked_height) != (
            block.cluster,
            given.grant,
            block.height,
        ):
            raise _bad("a statement is about another revocation")
        if (said.epoch, said.map_digest) != (current.epoch, current.digest()):
            raise _bad("a statement names another cluster map")
        if said.applied_height == block.height and said.applied_hash != block.hash():
            raise _bad("a statement is about another history of the ledger")
        found.append(Confirmation(node.node_id, said))
    if sorted({each.node_id for each in found}) != [each.node_id for each in found]:
        raise _bad("its statements are not one of each node, in order")
    if not found:
        raise _bad("no node has confirmed, so nobody says which nodes there are")
    return tuple(found)


def _bad(what: str) -> Corrupt:
    return Corrupt(
        f"this certificate is not to be believed: {what}; have another one made",
        reason="bad-certificate",
    )
