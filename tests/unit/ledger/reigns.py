"""A scenario whose operators begin terms: the keys of its writers and their statements."""

from __future__ import annotations

from hcefs.access.facts import AccountKind
from hcefs.crypto.signing import SigningKey
from hcefs.ledger.block import (
    Block,
    BlockHeader,
    SignedHead,
    previous_hash,
    sign_block,
    sign_head,
    transaction_root,
)
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.machine import execute, next_app_hash, protocol_at
from hcefs.ledger.rows import AppliedBlock
from hcefs.ledger.state import Overlay
from hcefs.ledger.terms import SignedTermChange, TermChange, Terms
from tests.unit.ledger.scenario import Scenario, signing_key


def writer_name(term: int) -> str:
    return "writer" if term == 1 else f"writer {term}"


class Reigns:
    """The writers of one scenario, term after term."""

    def __init__(self, world: Scenario) -> None:
        self.world = world
        self.terms = Terms(world.genesis)
        self._made = 0

    def key_of(self, term: int) -> SigningKey:
        return signing_key(writer_name(term))

    def block(self) -> Block:
        """The next block, by the writer of the term in force, applied to the scenario."""
        return self.applied().block

    def applied(self) -> AppliedBlock:
        world = self.world
        self._made += 1
        world.time_ms += 10
        name = f"institution {self._made}"
        registration = world.registration(name, AccountKind.INSTITUTION)
        transactions = [world.sign(registration, name, "o1", "o2").encode()]
        overlay = Overlay(world.state)
        outcomes = execute(overlay, transactions, world.context)
        header = BlockHeader(
            cluster=world.genesis.cluster,
            term=self.terms.term,
            height=world.height + 1,
            time_ms=world.time_ms,
            previous=previous_hash(world.genesis, world.header),
            transaction_root=transaction_root(transactions),
            protocol_version=protocol_at(world.state, world.height + 1),
            app_hash=next_app_hash(world.app_hash, overlay),
            snapshot_root=b"",
        )
        block = sign_block(header, transactions, self.key_of(self.terms.term))
        world.state.write(overlay.writes)
        world.header, world.app_hash = header, header.app_hash
        return AppliedBlock(block, overlay.writes, tuple(outcomes))

    def head(self, term: int | None = None, time_ms: int | None = None) -> SignedHead:
        """Of the scenario's last block, by the writer of a term."""
        reign = self.terms.term if term is None else term
        world = self.world
        return sign_head(
            world.genesis,
            world.header,
            world.app_hash,
            world.time_ms if time_ms is None else time_ms,
            self.key_of(reign),
            term=reign,
        )

    def statement(self, *operators: str, writer: str = "", height: int = -1) -> SignedTermChange:
        """The next statement, at the scenario's last block unless a height is given."""
        world = self.world
        term = self.terms.term + 1
        here = previous_hash(world.genesis, world.header)
        change = TermChange(
            cluster=world.genesis.cluster,
            term=term,
            previous=self.terms.digest,
            height=world.height if height < 0 else height,
            block_hash=here,
            writer_key=signing_key(writer or writer_name(term)).public_key,
            time_ms=world.time_ms,
            reached=3,
            nodes=4,
        )
        signed = SignedTermChange(change, ())
        for name in operators:
            signed = signed.signed(world.account(name), 1, world.party(name).signing)
        return signed

    def begin(self, *operators: str) -> SignedTermChange:
        """Begin the next term at the scenario's last block."""
        signed = self.statement(*(operators or ("o1", "o2")))
        self.terms = self.terms.followed_by(signed)
        return signed


def fill(log: LedgerLog, reigns: Reigns, count: int) -> None:
    """Append the next blocks of the scenario to a log."""
    for _ in range(count):
        log.append([reigns.applied()])
