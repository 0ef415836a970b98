"""Golden vectors of evidence bundles: proofs of transactions, statements, and a whole bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hcefs.access.facts import AccountKind
from hcefs.client.evidence import EvidenceBundle, EvidenceEntry
from hcefs.crypto.keys import dek_commitment
from hcefs.crypto.signing import SigningKey
from hcefs.evidence.proof import BatchProver, ReceiptBatch, make_batch
from hcefs.evidence.receipt import ChainHead, Receipt
from hcefs.formats.manifest import CONTENT_TAG, Core, Metadata, Opening
from hcefs.ids import RecordId
from hcefs.integrity import append_peak, blake3_digest
from hcefs.ledger.block import PROTOCOL_RIGHTS
from hcefs.ledger.inclusion import TransactionProof, prove_transaction
from hcefs.ledger.outcome import Leaf
from hcefs.ledger.record_statement import RecordStatement
from hcefs.ledger.transactions import Append, AppendEntry, OpenRecord, Upgrade
from hcefs.ledger.transactions_keys import RotateKeys, rotate_keys
from hcefs.ledger.transactions_receipts import AnchorReceipts
from tests.unit.ledger.scenario import (
    DAY_MS,
    START_MS,
    Scenario,
    blob_id,
    public_key,
    put_key,
    record_id,
    seed,
    signing_key,
    token_key,
)
from tests.vectors.generate_receipts import draft

RECORD = record_id("evidence")
NODES = ("n1", "n2", "n3")


def _core(world: Scenario, name: str) -> tuple[Core, Metadata]:
    writer = world.party("pat")
    blob, content = blob_id(name), blake3_digest(name.encode())
    unsigned = Metadata("text/plain", name, (), content, b"")
    signature = writer.signing.sign(CONTENT_TAG, unsigned.message(blob, RECORD))
    metadata = Metadata("text/plain", name, (), content, signature)
    core = Core(
        blob, RECORD, 0, len(name), 1 << 20, dek_commitment(seed("dek " + name)), writer.account,
        START_MS + DAY_MS, 4, tuple(seed(f"{name} {index}") for index in range(4)), b"sealed",
    )  # fmt: skip
    return core, metadata


def _registrations(world: Scenario) -> list[bytes]:
    kinds = {"clinic": AccountKind.INSTITUTION, **dict.fromkeys(NODES, AccountKind.NODE)}
    found = [
        world.sign(world.registration(name, kind), name, "o1", "o2") for name, kind in kinds.items()
    ]
    for name, kind in (("pat", AccountKind.PATIENT), ("doc", AccountKind.PRACTITIONER)):
        found.append(world.sign(world.registration(name, kind), name, "clinic"))
    return [each.encode() for each in found]


def change_keys(world: Scenario, name: str) -> RotateKeys:
    """An account's next keys; from the block that holds it on, the world signs with them."""
    party = world.party(name)
    version, new = party.key_version + 1, f"{name} {party.key_version + 1}"
    return rotate_keys(
        world.genesis.cluster,
        party.account,
        version,
        signing_key(new),
        token_key(new),
        public_key(new),
        party.spki,
    )


def use_next_keys(world: Scenario, name: str) -> None:
    """Sign with the keys of :func:`change_keys` from here on."""
    party = world.party(name)
    new = signing_key(f"{name} {party.key_version + 1}")
    world.parties[name] = replace(party, signing=new, key_version=party.key_version + 1)


def bundle(
    *, changed: bool = False, thief: Callable[[Scenario], SigningKey] | None = None
) -> tuple[str, EvidenceBundle]:
    """The id of a cluster, and the evidence of a record with two entries and an ended right.

    ``changed``: the owner and a node change their keys between the entries; ``thief``
    gives the key that the second entry's content is then signed with.
    """
    world = Scenario()
    proofs: list[TransactionProof] = []

    def block(transactions: list[bytes]) -> None:
        made, overlay, _ = world.next_block(transactions)
        world.commit(transactions)
        assert overlay.writes
        proofs.extend(prove_transaction(made, at) for at in range(len(transactions)))

    for version in range(2, PROTOCOL_RIGHTS + 1):
        world.submit(Upgrade(version, world.height + 2), "o1", "o2")
        world.commit([])
    block(_registrations(world))
    pat = world.party("pat").account
    block([world.sign(OpenRecord(RECORD, pat, public_key("record")), "pat").encode()])
    entries: list[EvidenceEntry] = []
    leaves: list[Leaf] = []
    peaks: tuple[bytes, ...] = ()
    for name in ("first", "second"):
        if name == "second" and changed:
            for each in ("pat", NODES[0]):
                block([world.sign(change_keys(world, each), each).encode()])
                use_next_keys(world, each)
            world.time_ms += 1_000
        core, metadata = _core(world, name)
        if name == "second" and thief is not None:
            metadata = replace(metadata, content_signature=b"")
            signature = thief(world).sign(CONTENT_TAG, metadata.message(core.blob, RECORD))
            metadata = replace(metadata, content_signature=signature)
        opening = Opening(seed("salt " + name), RECORD, core.blob, core.digest(), b"")
        entry = AppendEntry(RECORD, 0, opening.commitment(), START_MS + DAY_MS)
        block([world.sign(Append((entry,), put_key(name)), "pat").encode()])
        leaf = Leaf(opening.commitment(), pat, 0, world.time_ms)
        peaks = append_peak(len(leaves), peaks, leaf.hash())
        leaves.append(leaf)
        at = len(leaves) - 1
        entries.append(EvidenceEntry(at, opening.encode(), core.encode(), metadata.encode(), b""))
    block([world.sign(world.grant("given", "doc", record="evidence"), "pat").encode()])
    block([world.sign(world.revocation("given", "renewed"), "pat").encode()])
    batch, receipts = _batch(world)
    block([world.sign(AnchorReceipts(batch), NODES[1]).encode()])
    prover = BatchProver(batch, receipts)
    return world.genesis.cluster.text, EvidenceBundle(
        RECORD,
        world.genesis.encode(),
        (),
        tuple(proof.encode() for proof in proofs),
        tuple(leaf.encode() for leaf in leaves),
        tuple(entries),
        tuple(statement(world, name, RECORD, peaks).encode() for name in NODES),
        tuple(prover.prove(sequence).encode() for sequence in (1, 2)),
    )


def _batch(world: Scenario) -> tuple[ReceiptBatch, list[bytes]]:
    """Receipts of a node: the doctor read, was denied, and touched another record."""
    node = world.account(NODES[1])
    receipts: list[bytes] = []
    variants: tuple[dict[str, Any], ...] = (
        {},
        {"permitted": False, "reason": "revoked"},
        {"record": record_id("another")},
    )
    head = start = ChainHead.start(world.genesis.cluster, node)
    for changes in variants:
        made = draft(**({"record": RECORD, "presenter": world.account("doc")} | changes))
        made_at = Receipt.of(made, node, head.sequence + 1, head.hash, world.time_ms)
        receipts.append(made_at.encode())
        head = head.followed_by(receipts[-1])
    return make_batch(receipts, start, node, 0, world.time_ms), receipts


def statement(
    world: Scenario, node: str, record: RecordId, peaks: tuple[bytes, ...]
) -> RecordStatement:
    """What a node states of the record with two leaves."""
    party, header, owner = world.party(node), world.header, world.account("pat")
    assert header is not None
    return RecordStatement(
        world.genesis.cluster, party.account, party.key_version, record, owner, 1, 2, peaks,
        header.height, header.hash(), world.time_ms, b"",
    ).signed(party.signing)  # fmt: skip


def vectors() -> dict[str, Any]:
    """The bundle, and one part of each kind that no other vectors freeze."""
    cluster, made = bundle()
    return {
        "cluster": cluster,
        "transaction_proof": made.transactions[0].hex(),
        "record_statement": made.statements[0].hex(),
        "entry": made.entries[0].encode().hex(),
        "bundle": made.encode().hex(),
    }
