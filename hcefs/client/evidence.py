"""Evidence bundles: a record with all that proves it, for a reader who trusts nobody here.

Owns the bytes of a bundle and how one is gathered.  A bundle shows the genesis, the
transactions that opened the record, gave and ended rights and appended entries, each with
its path to a signed block; all leaves; what nodes state about the record; for the owner, who
touched it, by receipts that are anchored on the ledger; and of each
entry the opening and the core, with the writer's signature over the content.  With
payloads it shows their data keys as well, so that a reader can seal them again and compare.

Invariants: nothing is in a bundle that its maker could not read anyway; transactions that
concern other records are not.  :mod:`hcefs.client.verify_evidence` checks a bundle without
this package, and :func:`EvidenceClient.evidence` is no judge of it.

Not guaranteed: that nothing was appended after the block that the nodes state.
Source: docs/decisions/0037-evidence.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hcefs.client.audit import AuditClient
from hcefs.client.authorize import Right, Scope
from hcefs.client.ledger import CALL_SECONDS
from hcefs.client.listing import Entry, ListClient, Listing
from hcefs.client.proofs import ProofClient
from hcefs.client.stat import metadata_of
from hcefs.encoding import Encoded
from hcefs.errors import Conflict, HcefsError, NotFound, Unavailable
from hcefs.formats.pack import PackOpening
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.ledger.audit_file import NodeAudit
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.record_statement import RecordStatement
from hcefs.ledger.transactions import SignedTransaction
from hcefs.placement.cluster_map import Node
from hcefs.wire.v1 import blob_pb2, ledger_pb2

STATEMENTS_MIN = 3
"""Nodes that must state the same of a record: as many as a verifier asks for."""

AT_ONCE = 8
ATTEMPTS_TO_AGREE = 5


@dataclass(frozen=True)
class EvidenceEntry(Encoded):
    """One blob of the record: where its leaf is, what opens it, and its core.

    ``opening`` is the canonical bytes of the Opening, of a packed blob those of its
    PackProof.  ``metadata`` is opened, or empty where the writer did not sign it; ``dek`` is
    empty unless the payload is in the bundle.
    """

    KIND = "evidence-entry"
    MAX_BYTES = 1 << 20

    leaf_index: int
    opening: bytes
    core: bytes
    metadata: bytes
    dek: bytes


@dataclass(frozen=True)
class EvidenceBundle(Encoded):
    """What ``evidence.cbor`` in a bundle holds; parts are the canonical bytes of their types.

    ``transactions`` are TransactionProofs, ``leaves`` the record's leaves in order,
    ``statements`` RecordStatements of different nodes, ``receipts`` ReceiptProofs of those
    that are anchored by one of the transactions.
    """

    KIND = "evidence-bundle"
    MAX_BYTES = 1 << 30

    record: RecordId
    genesis: bytes
    terms: tuple[bytes, ...]
    transactions: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    entries: tuple[EvidenceEntry, ...]
    statements: tuple[bytes, ...]
    receipts: tuple[bytes, ...]


class EvidenceClient(ListClient, AuditClient, ProofClient):
    """The part of a client that gathers evidence."""

    async def evidence(
        self,
        record: RecordId,
        *,
        grant: GrantId | None = None,
        purpose: str = "PATRQT",
        payloads: bool = False,
    ) -> tuple[EvidenceBundle, Listing]:
        """All that proves a record, and its listing; ``payloads`` adds the data keys.

        Rights that others have on the record are shown to its owner only.

        Raises:
            Denied: not permitted.
            NotFound: ``before-snapshot``: the ledger that was asked has not all blocks.
            Unavailable: fewer than ``STATEMENTS_MIN`` nodes state the same.
            Corrupt: a node or the ledger lied.
        """
        genesis = await self._founding()
        await self.genesis()  # which is checked against the connection
        right = self._right(grant, None, purpose)
        for _ in range(ATTEMPTS_TO_AGREE):
            listing = await self.list(record, grant=grant, purpose=purpose)
            statements = await self._statements(record, right, listing)
            if len(statements) >= STATEMENTS_MIN:
                break
        else:
            raise Unavailable(
                f"{len(statements)} nodes state what the record holds, and {STATEMENTS_MIN} must: "
                "start more nodes, or retry when nobody appends",
                reason="too-few-statements",
            )
        leaves = await self.leaves(record, 0, listing.record.leaf_count)
        room = asyncio.Semaphore(AT_ONCE)
        entries = await asyncio.gather(
            *(self._evidence_entry(entry, right, payloads, room) for entry in listing)
        )
        nodes = await self._receipts(listing)
        anchors = [anchor for node in nodes for anchor in node.anchors]
        transactions = await self._transactions(listing, statements, anchors)
        bundle = EvidenceBundle(
            record,
            genesis.genesis,
            tuple(genesis.terms),
            tuple(proof.encode() for proof in transactions),
            tuple(leaf.encode() for leaf in leaves),
            tuple(entries),
            tuple(statement.encode() for statement in statements),
            tuple(proof.encode() for node in nodes for proof in node.proofs),
        )
        return bundle, listing

    # -- parts

    async def _evidence_entry(
        self, entry: Entry, right: Right, payloads: bool, room: asyncio.Semaphore
    ) -> EvidenceEntry:
        async with room:
            return await self._entry_of(entry, right, payloads)

    async def _entry_of(self, entry: Entry, right: Right, payloads: bool) -> EvidenceEntry:
        scope = await self._scope(entry.opening.record, entry.blob, right)
        manifest, _ = await self._manifest(scope, right, None)
        metadata, dek = b"", b""
        try:
            key = await self._blob_key(manifest, right)
        except NotFound as error:
            if error.reason not in ("no-key-box", "no-key-link", "shredded"):
                raise
        else:
            found = metadata_of(manifest.core, key)
            # Without the writer's signature nothing would bind it for who has no key.
            if found is not None and found.content_signature:
                metadata = found.encode()
            dek = key.dek if payloads else b""
        opening = entry.opening
        if isinstance(opening, PackOpening):
            opened = opening.proof(entry.slot).encode()
        else:
            opened = opening.encode()
        return EvidenceEntry(entry.leaf_index, opened, manifest.core.encode(), metadata, dek)

    async def _statements(
        self, record: RecordId, right: Right, listing: Listing
    ) -> list[RecordStatement]:
        """What nodes state, of those that agree with the listing."""
        current = await self.cluster_map()
        answers = await asyncio.gather(
            *(self._statement(record, right, node) for node in current.nodes),
            return_exceptions=True,
        )
        agreed = []
        for answer in answers:
            if isinstance(answer, RecordStatement):
                if (answer.leaf_count, answer.peaks) == (
                    listing.record.leaf_count,
                    listing.record.peaks,
                ):
                    agreed.append(answer)
            elif not isinstance(answer, HcefsError):
                raise answer
        return agreed

    async def _statement(self, record: RecordId, right: Right, node: Node) -> RecordStatement:
        scope = Scope(record)
        answer = await self._channels.unary(
            node.address,
            "/hcefs.v1.Blobs/StateRecord",
            blob_pb2.StateRecordRequest(
                authorization=self._authorizer.authorize("list", scope, right, node.account),
                record_id=bytes(record),
                min_height=self.height,
                request_id=self._request_id(),
            ),
            blob_pb2.StateRecordResponse,
            CALL_SECONDS,
        )
        statement = RecordStatement.decode(answer.statement)
        account = await self.fetch_account(node.account)
        if account.key_version != statement.key_version:
            account = await self.fresh_account(node.account)
        statement.check(account.signing_key)
        if (statement.node, statement.record) != (node.account, record):
            raise Conflict("a node stated something else than was asked", reason="wrong-statement")
        return statement

    async def _receipts(self, listing: Listing) -> Sequence[NodeAudit]:
        """What nodes say about accesses, which they tell the owner alone."""
        if listing.record.owner != self.account:
            return ()
        file, _ = await self.audit(listing.record.record)
        return file.nodes

    async def _transactions(
        self,
        listing: Listing,
        statements: Iterable[RecordStatement],
        anchors: Sequence[TransactionProof],
    ) -> list[TransactionProof]:
        """The transactions behind a record, and those that registered whoever signed them."""
        record = listing.record
        found = await self._proofs_of(record=bytes(record.record))
        grants = await self.grants(record.record) if record.owner == self.account else []
        questions = [self._proofs_of(grant=bytes(grant.grant)) for grant in grants]
        for index in range(record.leaf_count):
            leaf = ledger_pb2.LeavesQuestion(record_id=bytes(record.record), first=index, count=1)
            questions.append(self._proofs_of(leaf=leaf))
        for proofs in await asyncio.gather(*questions):
            found += proofs
        found += anchors
        wanted = {record.owner, *(statement.node for statement in statements)}
        wanted |= {entry.signer for entry in listing}
        wanted |= _signers(found)
        return _distinct(found + await self._histories(wanted))

    async def _histories(self, wanted: set[AccountId]) -> list[TransactionProof]:
        """How accounts came to the ledger, with their keys, and those who admitted them."""
        known: set[AccountId] = set()
        found: list[TransactionProof] = []
        while wanted := wanted - known:
            known |= wanted
            answers = await asyncio.gather(
                *(self._proofs_of(account=bytes(account)) for account in wanted)
            )
            proofs = [proof for answer in answers for proof in answer]
            found += proofs
            wanted = _signers(proofs)
        return found


def _signers(proofs: Iterable[TransactionProof]) -> set[AccountId]:
    return {
        signature.signer
        for proof in proofs
        for signature in SignedTransaction.decode(proof.transaction).signatures
    }


def _distinct(proofs: Iterable[TransactionProof]) -> list[TransactionProof]:
    """Each once, in the order of the ledger."""
    by_place = {(proof.header.height, proof.index): proof for proof in proofs}
    return [by_place[place] for place in sorted(by_place)]
