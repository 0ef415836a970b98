"""Golden vectors of erasure and legal hold: transactions, facts, a chain, and a certificate.

The chain enters protocol version 4, keeps and holds a record, and erases it; its state
freezes the rules.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hcefs.access.facts import AccountKind
from hcefs.encoding import Encoded
from hcefs.evidence.erasure import ErasureCertificate, ErasureCertificateV1, ErasureStatement
from hcefs.formats.erasure import ErasureProgress, ErasureStage
from hcefs.ids import GrantId, HoldId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block
from hcefs.ledger.inclusion import prove_transaction
from hcefs.ledger.machine import Outcome
from hcefs.ledger.transactions import Transaction, Upgrade
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention
from hcefs.ledger.transactions_keys import rotate_keys
from tests.unit.ledger.clusters import OPERATORS, Cluster
from tests.unit.ledger.scenario import (
    DAY_MS,
    START_MS,
    grant_id,
    public_key,
    record_id,
    seed,
    signing_key,
    token_key,
)

RECORD = record_id("r")
HOLD = HoldId(seed("hold")[:16])
KEPT = (b"retention/", b"hold/", b"erased/", b"erased-at/")


class Chain(Cluster):
    """A cluster of four nodes that keeps its blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        super().__init__(4, 5)

    def commit(self, transactions: Sequence[bytes]) -> list[Outcome]:
        self.blocks.append(self.next_block(transactions)[0])
        return super().commit(transactions)


@functools.cache
def world() -> Chain:
    """A record that was kept, held, and erased by the last block."""
    made = Chain()
    for version in (3, 4):
        made.submit(Upgrade(version, made.height + 2), *OPERATORS)
        made.register(f"spacer-{version}", AccountKind.INSTITUTION, *OPERATORS)
    made.populate()
    made.submit(made.append("p", made.entry("c")), "pat")
    made.submit(SetRetention(RECORD, START_MS + DAY_MS, "DE-BY", GrantId.zero()), "clinic")
    made.submit(PlaceHold(RECORD, HOLD, seed("case"), GrantId.zero()), *OPERATORS)
    made.time_ms += DAY_MS
    made.submit(LiftHold(RECORD, HOLD), *OPERATORS)
    made.submit(EraseRecord(RECORD, b""), "pat")
    return made


def statement_of(made: Chain, name: str, height: int) -> ErasureStatement:
    """The statement of a node."""
    party = made.party(name, AccountKind.NODE)
    return ErasureStatement(
        cluster=made.genesis.cluster,
        record=RECORD,
        node=party.account,
        key_version=1,
        signing_key=party.signing.public_key,
        erased_height=height,
        applied_height=height + 5,
        boxes=2,
        links=1,
        key_rows=3,
        openings=6,
        shards=3,
        left=0,
        done_ms=START_MS + DAY_MS,
        signature=b"",
    ).signed(party.signing)


@functools.cache
def certificate() -> ErasureCertificate:
    """A complete one."""
    made = world()
    block = made.blocks[-1]
    names = ("n1", "n2", "n3", "n4")
    return ErasureCertificate(
        cluster=made.genesis.cluster,
        record=RECORD,
        genesis=made.genesis.encode(),
        terms=(),
        proof=prove_transaction(block, 0).encode(),
        cluster_map=made.map,
        statements=tuple(statement_of(made, name, block.header.height) for name in names),
        openers=(made.account("pat"), made.account("doc")),
        made_ms=START_MS + DAY_MS,
    )


def first_form() -> ErasureCertificateV1:
    """The same, as it was written before nodes could change their keys."""
    made = certificate()
    return ErasureCertificateV1(
        made.cluster,
        made.record,
        made.genesis,
        made.terms,
        made.proof,
        made.cluster_map,
        made.statements,
        made.openers,
        made.made_ms,
    )


@functools.cache
def changed_certificate() -> ErasureCertificate:
    """Of a world of its own, where one node changed its keys before it signed."""
    made = Chain()
    for version in (3, 4):
        made.submit(Upgrade(version, made.height + 2), *OPERATORS)
        made.register(f"spacer-{version}", AccountKind.INSTITUTION, *OPERATORS)
    made.populate()
    made.submit(EraseRecord(RECORD, b""), "pat")
    erased = made.blocks[-1]
    signing = signing_key("n1-again")
    made.submit(
        rotate_keys(
            made.genesis.cluster,
            made.account("n1"),
            2,
            signing,
            token_key("n1-again"),
            public_key("n1-again"),
            seed("spki-again"),
        ),
        "n1",
    )
    change = prove_transaction(made.blocks[-1], 0).encode()
    height = erased.header.height
    first, *others = (statement_of(made, name, height) for name in ("n1", "n2", "n3", "n4"))
    first = replace(first, key_version=2, signing_key=signing.public_key, signature=b"").signed(
        signing
    )
    return ErasureCertificate(
        cluster=made.genesis.cluster,
        record=RECORD,
        genesis=made.genesis.encode(),
        terms=(),
        proof=prove_transaction(erased, 0).encode(),
        cluster_map=made.map,
        statements=(first, *others),
        openers=(made.account("pat"),),
        made_ms=START_MS + DAY_MS,
        key_changes=(change,),
    )


def transactions() -> dict[str, Transaction]:
    """One of each kind."""
    return {
        "set-retention": SetRetention(RECORD, START_MS + DAY_MS, "EU", grant_id("g")),
        "place-hold": PlaceHold(RECORD, HOLD, seed("case"), grant_id("g")),
        "lift-hold": LiftHold(RECORD, HOLD),
        "erase-record": EraseRecord(RECORD, seed("order")),
    }


def formats() -> dict[str, Encoded]:
    """Facts, rows and evidence."""
    view = world().view
    found: dict[str, Encoded | None] = {
        "retention": view.retention(RECORD),
        "hold": view.hold(RECORD, HOLD),
        "erasure": view.erasure(RECORD),
        "erasure-progress": ErasureProgress(RECORD, 7, ErasureStage.ROWS, 1, 2, 3, 4, 5, 0),
        "erasure-statement": certificate().statements[0],
        "erasure-certificate": first_form(),
        "erasure-certificate-2": changed_certificate(),
    }
    return {name: each for name, each in found.items() if each is not None}


def vectors() -> dict[str, Any]:
    """The golden vectors, ready for JSON."""
    made = world()
    rows = [(key, value) for key, value in made.state.scan(b"")]
    return {
        "genesis": made.genesis.encode().hex(),
        "transactions": {name: each.encode().hex() for name, each in transactions().items()},
        "formats": {name: each.encode().hex() for name, each in formats().items()},
        "chain": [block.encode().hex() for block in made.blocks],
        "rows": {key.hex(): value.hex() for key, value in rows if key.startswith(KEPT)},
        "state": blake3_digest(b"".join(blake3_digest(key + value) for key, value in rows)).hex(),
    }
