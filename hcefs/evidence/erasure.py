"""That nothing of a record is left: what nodes sign, and the certificate that collects it.

Owns the bytes of both and what follows from them; it needs no ledger and no network.  That
the record was erased, and at which height, is proved by a transaction in a signed block
(:mod:`hcefs.ledger.inclusion`), which the certificate carries and its reader checks
(:mod:`hcefs.client.erasure_check`).

Invariants: a statement counts only if the account's own key signed it, for this record and
this height, and it says that nothing was found; the id of an account follows from its first
signing key, so that no other document is needed for that one, and a later one is proved by
the transaction that brought it.  A certificate is complete only when every node that its
cluster map names has signed, whatever the node's state: a node that was removed may still
have a disk.

Not guaranteed: that a node told the truth, and what backups or snapshots of its disk keep;
that a key which signed was not replaced since, or stolen before it was.
Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from hcefs.crypto.signing import PUBLIC_KEY_SIZE, SigningKey, account_id, verify
from hcefs.encoding import Encoded, decode_quickly
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.ids import AccountId, ClusterId, RecordId
from hcefs.placement.cluster_map import ClusterMap, NodeState

STATEMENT_TAG = b"erasure-statement"
STATEMENTS_MAX = 65_536
FIRST_KEYS = 1
CERTIFICATE_BYTES_MAX = 32 << 20

KeyNames = Mapping[tuple[AccountId, int], bytes]
"""Signing keys that proofs show, by account and key version."""

NO_CHANGES: Final[KeyNames] = MappingProxyType({})


@dataclass(frozen=True)
class ErasureStatement(Encoded):
    """A node's word that it holds nothing of an erased record any more.

    ``erased_height`` is that of the block that erased it, ``applied_height`` the last one
    that the node had applied when it signed.  The counts are of what it deleted; ``left`` is
    what it found when it looked once more at ``done_ms``, its own time: always 0.
    """

    KIND = "erasure-statement"
    MAX_BYTES = 4096

    cluster: ClusterId
    record: RecordId
    node: AccountId
    key_version: int
    signing_key: bytes
    erased_height: int
    applied_height: int
    boxes: int
    links: int
    key_rows: int
    openings: int
    shards: int
    left: int
    done_ms: int
    signature: bytes

    def message(self) -> bytes:
        """What the node signs: this with an empty signature."""
        return replace(self, signature=b"").encode()

    def signed(self, key: SigningKey) -> ErasureStatement:
        """This with the node's signature."""
        return replace(self, signature=key.sign(STATEMENT_TAG, self.message()))

    def check(self, changed: KeyNames = NO_CHANGES) -> None:
        """Check ranges, that the key is the account's, and the signature.

        Raises:
            Invalid: ``bad-statement``.
            Corrupt: ``wrong-key``: the key neither leads to the account, nor is it shown
                by ``changed`` to have become the account's.
            Unauthenticated: the signature is not that key's.
        """
        counts = (self.boxes, self.links, self.key_rows, self.openings, self.shards, self.left)
        if (
            min(counts) < 0
            or not 1 <= self.erased_height <= self.applied_height
            or self.key_version < 1
            or self.done_ms < 1
            or len(self.signing_key) != PUBLIC_KEY_SIZE
        ):
            raise Invalid(
                "a number in a statement about an erasure is out of range", reason="bad-statement"
            )
        if changed.get((self.node, self.key_version)) != self.signing_key and (
            self.key_version != FIRST_KEYS
            or account_id(self.cluster, self.signing_key) != self.node
        ):
            raise Corrupt(
                "a statement is signed by another key than the account's, or nothing shows how "
                "the account came to it",
                reason="wrong-key",
            )
        verify(self.signing_key, STATEMENT_TAG, self.message(), self.signature)


@dataclass(frozen=True)
class ErasureCertificateV1(Encoded):
    """The first form of a certificate, of nodes that never changed their keys; read only."""

    KIND = "erasure-certificate"
    MAX_BYTES = CERTIFICATE_BYTES_MAX

    cluster: ClusterId
    record: RecordId
    genesis: bytes
    terms: tuple[bytes, ...]
    proof: bytes
    cluster_map: ClusterMap
    statements: tuple[ErasureStatement, ...]
    openers: tuple[AccountId, ...]
    made_ms: int


@dataclass(frozen=True)
class ErasureCertificate(Encoded):
    """Everything that shows offline that a record was erased, and by whom nothing is left.

    ``genesis`` and ``terms`` are canonical bytes and say who wrote the ledger; ``proof`` is
    the ``transaction-proof`` of the erasing transaction.  ``openers`` are the accounts that
    could ever open something of the record: its owner, and whoever had a grant to read.
    ``key_changes`` are the ``transaction-proof``s of the changes that brought the keys of
    those statements that were not signed with an account's first ones.
    """

    KIND = "erasure-certificate"
    VERSION = 2
    MAX_BYTES = CERTIFICATE_BYTES_MAX

    cluster: ClusterId
    record: RecordId
    genesis: bytes
    terms: tuple[bytes, ...]
    proof: bytes
    cluster_map: ClusterMap
    statements: tuple[ErasureStatement, ...]
    openers: tuple[AccountId, ...]
    made_ms: int
    key_changes: tuple[bytes, ...] = ()


def read_certificate(data: bytes) -> ErasureCertificate:
    """A certificate of any version.

    Raises:
        Invalid: it is none.
    """
    first = decode_quickly(
        {(ErasureCertificateV1.KIND, ErasureCertificateV1.VERSION): ErasureCertificateV1},
        data,
        max_bytes=CERTIFICATE_BYTES_MAX,
    )
    if first is None:
        return ErasureCertificate.decode(data)
    return ErasureCertificate(
        first.cluster,
        first.record,
        first.genesis,
        first.terms,
        first.proof,
        first.cluster_map,
        first.statements,
        first.openers,
        first.made_ms,
    )


@dataclass(frozen=True)
class MissingNode:
    """A node that has not signed, by its place in the map."""

    node_id: int
    account: AccountId
    state: NodeState


@dataclass(frozen=True)
class Exposure:
    """What the nodes that have not signed could still hold together.

    ``shards`` is whether their number may hold k shards of a blob under some profile, so that
    ciphertext could be put together from their disks alone.  Sealed data keys and key boxes
    may be on any of them: those are opened by the private keys of ``openers``, and by nobody
    else, the nodes and their operators included.
    """

    missing: tuple[MissingNode, ...]
    shards: bool
    openers: tuple[AccountId, ...]

    @property
    def complete(self) -> bool:
        """Whether no node is missing."""
        return not self.missing


def exposure_of(
    certificate: ErasureCertificate, erased_height: int, changed: KeyNames = NO_CHANGES
) -> Exposure:
    """Check all statements against each other and the map; what is missing.

    ``erased_height`` is that of the proved transaction; ``changed`` are the keys that the
    proofs of ``key_changes`` show.

    Raises:
        Corrupt: ``bad-certificate``: a statement is not what it is taken for; the message
            says which, and why.
    """
    current = certificate.cluster_map
    accounts = {node.account: node for node in current.nodes}
    signed: set[AccountId] = set()
    if len(certificate.statements) > STATEMENTS_MAX:
        raise _bad("it has more statements than a cluster has nodes")
    for statement in certificate.statements:
        try:
            statement.check(changed)
        except HcefsError as error:
            raise _bad(f"the statement of {statement.node}: {error.message}") from error
        if (statement.cluster, statement.record) != (certificate.cluster, certificate.record):
            raise _bad(f"the statement of {statement.node} is about another record")
        if statement.erased_height != erased_height:
            raise _bad(f"the statement of {statement.node} is about another height")
        if statement.left:
            raise _bad(f"{statement.node} says that something is left")
        if statement.node not in accounts:
            raise _bad(f"{statement.node} is no node of the map")
        if statement.node in signed:
            raise _bad(f"{statement.node} has signed twice")
        signed.add(statement.node)
    missing = tuple(
        MissingNode(node.node_id, node.account, node.state)
        for node in current.nodes
        if node.account not in signed
    )
    fewest = min((table.k for table in current.tables), default=1)
    return Exposure(missing, len(missing) >= fewest, certificate.openers)


def _bad(what: str) -> Corrupt:
    return Corrupt(f"this certificate proves no erasure: {what}", reason="bad-certificate")
