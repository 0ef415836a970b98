"""A small ledger with six nodes and a revoked grant, and certificates of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hcefs.access.facts import AccountKind
from hcefs.evidence.revocation import RevocationCertificate, RevocationStatement, SignedStatement
from hcefs.ledger.block import PROTOCOL_RIGHTS, Block, SignedHead, sign_head
from hcefs.ledger.inclusion import TransactionProof, prove_transaction, transactions_of
from hcefs.ledger.revocation_proof import CUT_MS
from hcefs.ledger.transactions import (
    GiveGrant,
    RegisterAccount,
    RevokeGrant,
    SetClusterMap,
    Upgrade,
)
from hcefs.ledger.transactions_keys import RotateKeys, rotate_keys
from hcefs.placement.planner import first_map
from tests.unit.ledger.scenario import (
    Scenario,
    grant_id,
    public_key,
    seed,
    signing_key,
    token_key,
)
from tests.unit.placement.maps import node

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")


class CertificateWorld:
    """``reader`` is given the grant ``g`` on a record, and loses it again."""

    def __init__(self, profiles: Sequence[tuple[str, int, int]] = (("ec-4-2", 4, 2),)) -> None:
        self.world = world = Scenario()
        self.blocks: list[Block] = []
        for name in NODES:
            self._commit(world.registration(name, AccountKind.NODE), name, "o1", "o2")
        self._commit(world.registration("clinic", AccountKind.INSTITUTION), "clinic", "o1", "o2")
        self._commit(world.registration("pat", AccountKind.PATIENT), "pat", "clinic")
        self._commit(world.registration("doc", AccountKind.PRACTITIONER), "doc", "clinic")
        nodes = [
            node(number, f"z{number % 3}", account=world.account(name))
            for number, name in enumerate(NODES, 1)
        ]
        self.map = first_map(nodes, list(profiles), seed("map"), profiles[0][0])
        self._commit(SetClusterMap(0, self.map.encode()), "o1", "o2")
        self._commit(world.opening("r", "pat"), "pat")
        self._commit(world.grant("g", "doc"), "pat")
        world.time_ms += 1_000
        self._commit(world.revocation("g", next_key="r1"), "pat")
        self.height = world.height
        world.time_ms += 200
        self.first = self.head(world.time_ms)

    @property
    def over_ms(self) -> int:
        """When leases that did not hear of it are over."""
        genesis = self.world.genesis
        return self.first.time_ms + genesis.lease_ms + genesis.skew_ms + CUT_MS

    def _commit(self, transaction: Any, *names: str) -> None:
        data = self.world.sign(transaction, *names).encode()
        block, _, _ = self.world.next_block([data])
        self.world.commit([data])
        self.blocks.append(block)

    def change_keys(self, name: str) -> bytes:
        """Give a node its next keys; returns the proof of that."""
        for version in range(2, PROTOCOL_RIGHTS + 1):
            self._commit(Upgrade(version, self.world.height + 2), "o1", "o2")
            self.world.commit([])
        party = self.world.party(name)
        new = signing_key(f"{name} 2")
        change = rotate_keys(
            self.world.genesis.cluster,
            party.account,
            2,
            new,
            token_key(f"{name} 2"),
            public_key(f"{name} 2"),
            party.spki,
        )
        self._commit(change, name)
        self.world.parties[name] = replace(party, signing=new, key_version=2)
        return self.proof(RotateKeys).encode()

    def head(self, time_ms: int) -> SignedHead:
        world = self.world
        return sign_head(world.genesis, world.header, world.app_hash, time_ms, world.writer, term=1)

    def proof(self, kind: type[Any], name: str = "") -> TransactionProof:
        """The newest transaction of a kind; of a registration, the named account's."""
        cluster = self.world.genesis.cluster

        def wanted(found: Any) -> bool:
            if not isinstance(found, kind):
                return False
            return not name or found.account(cluster) == self.world.account(name)

        for block in reversed(self.blocks):
            for index, transaction in transactions_of(block):
                if wanted(transaction):
                    return prove_transaction(block, index)
        raise AssertionError("no such transaction")

    def statement(self, name: str, **changes: Any) -> RevocationStatement:
        world = self.world
        assert world.header is not None
        honest = RevocationStatement(
            cluster=world.genesis.cluster,
            node=world.account(name),
            key_version=1,
            grant=grant_id("g"),
            revoked_height=self.height,
            applied_height=self.height,
            applied_hash=world.header.hash(),
            epoch=self.map.epoch,
            map_digest=self.map.digest(),
            streams_cut=1,
            tokens_dropped=2,
            time_ms=world.time_ms,
        )
        return replace(honest, **changes)

    def signed(self, name: str, **changes: Any) -> SignedStatement:
        return self.statement(name, **changes).signed(self.world.party(name).signing)

    def certificate(self, names: Sequence[str] = NODES, **changes: Any) -> RevocationCertificate:
        """Of what these nodes say; ``changes`` replace fields before it is sealed."""
        made = RevocationCertificate(
            genesis=self.world.genesis.encode(),
            terms=(),
            given=self.proof(GiveGrant).encode(),
            revoked=self.proof(RevokeGrant).encode(),
            registrations=tuple(self.proof(RegisterAccount, name).encode() for name in names),
            cluster_map=self.map.encode(),
            first_head=self.first.encode(),
            last_head=self.first.encode(),
            statements=tuple(self.signed(name).encode() for name in names),
        )
        return replace(made, **changes).sealed()
