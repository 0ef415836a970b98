"""The revocation certificate: which nodes let a grant go, and when that is enough.

Owns the statement that a node signs once a revocation is in force on it, the certificate
that gathers them, and the pure question whether those who have not spoken could still
serve anything.  Invariants:

* A statement is signed with the signing key of the node's account, over every field; it
  names the map by which its node counts, so a certificate cannot show another one.
* Silence is counted against the claim: a node that has not confirmed may hold whatever
  the map lets it hold (seat, source or destination of a move, stand-in), and under a map
  that had a predecessor also copies in their grace period, of which the map does not
  tell: then it may hold any index.
* A certificate holds no byte that is not bound: by a signature, by a digest that is
  signed, or by a proof that leads to one.

Not guaranteed: anything about what was fetched before; that a node which signs tells the
truth.  Who the nodes are, and that the ledger holds the revocation, is checked by
:mod:`hcefs.ledger.revocation_proof`, which knows blocks.

Source: docs/decisions/0033-revocation-certificates.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from hcefs.crypto.signing import SigningKey, verify
from hcefs.encoding import Encoded
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import AccountId, ClusterId, GrantId
from hcefs.integrity import blake3_digest
from hcefs.placement.cluster_map import DIGEST_SIZE, ClusterMap, NodeState, Table
from hcefs.placement.stand_ins import stand_ins_of

STATEMENT_TAG = b"revocation-statement"
TIME_MS_END = 1 << 48
HEIGHT_END = 1 << 63
COUNT_END = 1 << 32


@dataclass(frozen=True)
class RevocationStatement(Encoded):
    """A node's word that a revocation is in force on it.

    ``revoked_height`` is the height of the block that revoked the grant,
    ``applied_height`` and ``applied_hash`` name the last block that the node had applied,
    ``epoch`` and ``map_digest`` its cluster map.  ``streams_cut`` and ``tokens_dropped``
    are what this process ended and forgot because of it: it serves nothing under the
    grant, or under any given below it, and holds no verified token that uses one.
    ``time_ms`` is the node's clock.
    """

    KIND = "revocation-statement"
    MAX_BYTES = 1024

    cluster: ClusterId
    node: AccountId
    key_version: int
    grant: GrantId
    revoked_height: int
    applied_height: int
    applied_hash: bytes
    epoch: int
    map_digest: bytes
    streams_cut: int
    tokens_dropped: int
    time_ms: int

    def check(self) -> None:
        """Check ranges and sizes.

        Raises:
            Invalid: ``bad-statement``.
        """
        if (
            not 1 <= self.revoked_height <= self.applied_height < HEIGHT_END
            or not 1 <= self.key_version < COUNT_END
            or not 1 <= self.epoch < HEIGHT_END
            or not 0 <= self.streams_cut < COUNT_END
            or not 0 <= self.tokens_dropped < COUNT_END
            or not 0 < self.time_ms < TIME_MS_END
            or len(self.applied_hash) != DIGEST_SIZE
            or len(self.map_digest) != DIGEST_SIZE
        ):
            raise Invalid(
                "revocation statement: a number or hash is out of range: ask the node again",
                reason="bad-statement",
            )

    def signed(self, key: SigningKey) -> SignedStatement:
        """This statement with the signature of the node's account."""
        return SignedStatement(self, key.sign(STATEMENT_TAG, self.encode()))


@dataclass(frozen=True)
class SignedStatement(Encoded):
    """A statement and the signature of the node that makes it."""

    KIND = "signed-revocation-statement"
    MAX_BYTES = 2048

    statement: RevocationStatement
    signature: bytes

    def check(self, signing_key: bytes) -> None:
        """Check shape and signature.

        Raises:
            Invalid: ``bad-statement``.
            Unauthenticated: ``bad-signature``.
        """
        self.statement.check()
        verify(signing_key, STATEMENT_TAG, self.statement.encode(), self.signature)


@dataclass(frozen=True)
class RevocationCertificate(Encoded):
    """What shows offline that a revocation is in force.

    Canonical bytes of: the genesis; the statements of later terms; proofs of the
    transactions that gave and revoked the grant, and of those that registered the nodes
    which confirm, or changed their keys; the cluster map; a head that was signed when the
    revocation was in the ledger, and the newest one when the certificate was made; a signed
    statement of each node that confirms.  ``digest`` is over all of it: it finds the change
    of a byte that nothing else depends on, such as one in the shape of a Merkle path.
    """

    KIND = "revocation-certificate"
    MAX_BYTES = 64 << 20

    genesis: bytes
    terms: tuple[bytes, ...]
    given: bytes
    revoked: bytes
    registrations: tuple[bytes, ...]
    cluster_map: bytes
    first_head: bytes
    last_head: bytes
    statements: tuple[bytes, ...]
    digest: bytes = b""

    def sealed(self) -> RevocationCertificate:
        """This certificate with its digest."""
        return replace(self, digest=self._digest())

    def check(self) -> None:
        """Compare the digest.

        Raises:
            Corrupt: ``bad-certificate``.
        """
        if self.digest != self._digest():
            raise Corrupt(
                "this certificate was changed, or damaged on its way: have another one made",
                reason="bad-certificate",
            )

    def _digest(self) -> bytes:
        return blake3_digest(replace(self, digest=b"").encode())


@dataclass(frozen=True)
class Gap:
    """A row in which nodes that have not confirmed may still hold k distinct indexes."""

    profile: str
    partition: int
    indexes: int
    k: int
    nodes: tuple[int, ...]


def must_confirm(cluster_map: ClusterMap) -> frozenset[int]:
    """The nodes that may serve by a map: all but those that were removed from it."""
    return frozenset(
        node.node_id for node in cluster_map.nodes if node.state is not NodeState.REMOVED
    )


def worst_gap(cluster_map: ClusterMap, silent: Collection[int]) -> Gap | None:
    """The row in which ``silent`` nodes come closest to serving a blob; None: nowhere.

    Rows of all tables are looked at, those of profiles that nothing lies under included.
    """
    waiting = frozenset(silent)
    if not waiting:
        return None
    worst: Gap | None = None
    for table in cluster_map.tables:
        for partition in range(table.partitions):
            held = _indexes(cluster_map, table, partition, waiting)
            if held >= table.k and (worst is None or held - table.k > worst.indexes - worst.k):
                worst = Gap(table.profile, partition, held, table.k, tuple(sorted(waiting)))
    return worst


def _indexes(cluster_map: ClusterMap, table: Table, partition: int, waiting: frozenset[int]) -> int:
    """How many distinct indexes of a row the waiting nodes may hold together.

    Of one blob each seat has one index, and a stand-in keeps the shard of one seat.
    """
    if cluster_map.epoch > 1:
        # They may keep copies in grace of seats that they had by an earlier map.
        return table.n
    row, target = table.node_rows[partition], table.target_rows[partition]
    sources = {move.seat: move.source for move in table.moving if move.partition == partition}
    seats = sum(
        not waiting.isdisjoint((row[seat], target[seat], sources.get(seat, 0)))
        for seat in range(table.n)
    )
    if seats + len(waiting) < table.k:
        return seats  # even if every one of them stood in
    standing = stand_ins_of(cluster_map, table.profile, partition)
    return min(table.n, seats + sum(node.node_id in waiting for node in standing))
