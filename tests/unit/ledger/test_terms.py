"""Terms: who must sign, what a log and a follower make of them, what an old writer can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, Unavailable
from hcefs.ledger.block import SignedHead, sign_block
from hcefs.ledger.follower import Follower, FollowerStatus
from hcefs.ledger.link import TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.proofs import ForkEvidence, check_proof
from hcefs.ledger.rows import ForkProof
from hcefs.ledger.terms import SignedTermChange, founders_terms
from hcefs.ledger.writer import LedgerWriter
from tests.unit.ledger.reigns import Reigns, fill
from tests.unit.ledger.replicas import WAIT_S, ManualRuntime, open_log, until
from tests.unit.ledger.scenario import Scenario, seed
from tests.unit.ledger.test_follower import ScriptedLink


class Replica:
    """A follower over a scripted link, and the writers of its ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = Scenario()
        self.reigns = Reigns(self.world)
        self.runtime = ManualRuntime()
        self.runtime.wall_ms = self.world.time_ms + 1_000
        self.link = ScriptedLink(self.runtime)
        self.log = open_log(folder, self.world)
        self.follower = self._follower()

    def _follower(self) -> Follower:
        return Follower(self.log, self.world.genesis, self.runtime, self.link)

    async def reopen(self) -> None:
        await self.follower.stop()
        self.log.close()
        self.log = open_log(self.folder, self.world)
        self.follower = self._follower()
        await self.follower.start()

    def term(self, signed: SignedTermChange) -> None:
        self.link.raw(TermBytes(signed.encode()))  # type: ignore[arg-type]

    async def reach(self, height: int) -> None:
        await until(lambda: self.log.height == height)

    async def status(self, status: FollowerStatus) -> None:
        await until(lambda: self.follower.status is status)

    async def close(self) -> None:
        await self.follower.stop()
        self.log.close()
        self.runtime.close()


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    made = Replica(tmp_path / "replica")
    await made.follower.start()
    yield made
    await made.close()


@pytest.fixture
def log(tmp_path: Path) -> LedgerLog:
    return open_log(tmp_path / "log", Scenario())


# Statements.


@pytest.mark.parametrize(
    ("operators", "reason"),
    [
        ((), "below-threshold"),
        (("o1",), "below-threshold"),
        (("o1", "clinic"), "unexpected-signer"),
        (("o1", "stranger"), "unknown-signer"),
    ],
)
def test_a_term_needs_the_operator_threshold(operators: tuple[str, ...], reason: str) -> None:
    world = Scenario().populate()
    signed = Reigns(world).statement(*operators)
    with pytest.raises(HcefsError) as caught:
        signed.check(world.view, world.genesis)
    assert caught.value.reason == reason


def test_signatures_cover_the_whole_statement() -> None:
    world = Scenario().populate()
    signed = Reigns(world).statement("o1", "o2")
    signed.check(world.view, world.genesis)
    for changed in (
        replace(signed.change, height=signed.change.height + 1),
        replace(signed.change, writer_key=seed("other")),
        replace(signed.change, reached=4),
        replace(signed.change, term=9),
    ):
        with pytest.raises(HcefsError, match="sign"):
            replace(signed, change=changed).check(world.view, world.genesis)
    twice = replace(signed, signatures=signed.signatures[:1] * 2)
    with pytest.raises(Invalid, match="twice"):
        twice.check(world.view, world.genesis)


def test_signatures_made_apart_are_combined() -> None:
    world = Scenario()
    reigns = Reigns(world)
    one, two = reigns.statement("o1"), reigns.statement("o3")
    both = one.combined(two)
    both.check(world.view, world.genesis)
    assert both == two.combined(one) == reigns.statement("o3", "o1")
    with pytest.raises(Conflict) as caught:
        one.combined(reigns.statement("o3", writer="another"))
    assert caught.value.reason == "other-statement"


def test_founders_alone_are_known_without_a_ledger() -> None:
    world = Scenario()
    reigns = Reigns(world)
    first = reigns.begin("o1", "o2")
    second = reigns.begin("o2", "o3")
    both = [first.encode(), second.encode()]
    assert founders_terms(world.genesis, both).term == 3
    assert founders_terms(world.genesis, [first.encode(), b"junk"]).term == 2
    weak = replace(second, signatures=second.signatures[:1])
    assert founders_terms(world.genesis, [first.encode(), weak.encode()]).term == 2
    assert founders_terms(world.genesis, both[1:]).term == 1


# The log.


def test_a_term_begins_where_the_log_stands_and_stays(tmp_path: Path) -> None:
    world = Scenario()
    reigns = Reigns(world)
    log = open_log(tmp_path / "log", world)
    fill(log, reigns, 2)
    elsewhere = reigns.statement("o1", "o2", height=1)
    with pytest.raises(Conflict) as caught:
        log.begin_term(elsewhere)
    assert caught.value.reason == "not-there"
    log.begin_term(reigns.begin())
    fill(log, reigns, 2)
    log.begin_term(reigns.begin("o2", "o3"))
    log.begin_term(reigns.begin("o1", "o3"))  # recovered twice at one block
    fill(log, reigns, 1)
    with pytest.raises(Conflict) as caught:
        log.begin_term(elsewhere)
    assert caught.value.reason == "wrong-term"
    assert log.verify_chain() == 5
    log.close()
    again = open_log(tmp_path / "log", world)
    assert again.terms == reigns.terms
    assert [again.block(height).header.term for height in range(1, 6)] == [1, 1, 2, 2, 4]
    again.close()


def test_a_whole_log_says_who_signed_its_terms(tmp_path: Path) -> None:
    world = Scenario()
    reigns = Reigns(world)
    log = open_log(tmp_path / "log", world)
    fill(log, reigns, 1)
    # The log itself leaves the signatures to its caller; verification does not.
    log.begin_term(reigns.begin("o1"))
    with pytest.raises(Corrupt, match="operators did not sign term 2"):
        log.verify_chain()
    log.close()


def test_a_head_beyond_the_end_of_its_term_is_forgotten(tmp_path: Path) -> None:
    world = Scenario()
    reigns = Reigns(world)
    log = open_log(tmp_path / "log", world)
    fill(log, reigns, 1)
    log.keep_head(replace(reigns.head(), height=7))
    log.begin_term(reigns.begin())
    assert log.head is None
    # Lower, and by a clock that is behind: newer all the same.
    fresh = reigns.head(time_ms=world.time_ms - 5)
    log.keep_head(fresh)
    log.close()
    again = open_log(tmp_path / "log", world)
    assert again.head == fresh
    again.close()


# Followers.


async def test_a_follower_follows_the_new_writer_and_no_old_one(replica: Replica) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block(), reigns.block())
    await replica.reach(2)
    old_head = reigns.head(term=1)
    replica.term(reigns.begin())
    replica.link.block(reigns.block())
    await replica.reach(3)
    assert replica.follower.view.terms.term == 2
    # The old writer lives on: it renews no lease, and its next block is refused.
    with pytest.raises(Invalid) as caught:
        replica.follower.observe_head(
            replace(old_head, time_ms=old_head.time_ms + 9).signed(reigns.key_of(1)).encode()
        )
    assert caught.value.reason == "ended-term"
    header = replace(
        replica.log.block(3).header, term=1, height=4, previous=replica.log.block(3).hash()
    )
    block = replica.log.block(3)
    replica.link.block(sign_block(header, block.transactions, reigns.key_of(1)))
    await until(lambda: replica.follower.last_error is not None)
    assert replica.follower.last_error is not None
    assert replica.follower.last_error.reason == "wrong-term"
    assert replica.log.fork() is None
    await replica.reopen()
    assert replica.log.terms == reigns.terms
    assert replica.log.verify_chain() == 3


async def test_a_head_of_the_new_writer_is_the_lease(replica: Replica) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block())
    await replica.reach(1)
    now_ms = replica.runtime.now_ms()
    replica.link.head(reigns.head(time_ms=now_ms + 4_000))
    await until(lambda: replica.log.head is not None)
    replica.term(reigns.begin())
    # The clock of the new machine is behind that of the old one.
    replica.link.head(reigns.head(time_ms=now_ms))
    await until(lambda: replica.log.head is not None and replica.log.head.term == 2)
    replica.runtime.advance(1)
    assert replica.follower.lease_age_ms() == 1_000


async def test_a_term_that_is_not_the_operators_is_refused(replica: Replica) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block())
    await replica.reach(1)
    with pytest.raises(Denied) as caught:
        await replica.follower.begin_term(reigns.statement("o1").encode())
    assert caught.value.reason == "below-threshold"
    ahead = reigns.statement("o1", "o2", height=9)
    with pytest.raises(Unavailable) as behind:
        await replica.follower.begin_term(ahead.encode())
    assert behind.value.reason == "behind"
    skipping = Reigns(replica.world)
    skipping.begin()
    with pytest.raises(Conflict) as skipped:
        await replica.follower.begin_term(skipping.statement("o1", "o2").encode())
    assert skipped.value.reason == "wrong-term"
    assert replica.log.terms.term == 1


async def test_voided_blocks_end_service_with_the_proof(replica: Replica) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block())
    await replica.reach(1)
    statement = reigns.statement("o1", "o2")
    replica.link.block(reigns.block())  # of the old writer; operators did not reach this replica
    await replica.reach(2)
    replica.term(statement)
    await replica.status(FollowerStatus.SUPERSEDED)
    with pytest.raises(Unavailable, match=r"operators recovered the ledger at block 1.*'ledger'"):
        replica.follower.require_fresh()
    await until(lambda: replica.log.superseded() is not None)
    await replica.reopen()
    assert replica.follower.status is FollowerStatus.SUPERSEDED
    assert replica.log.superseded() == statement
    with pytest.raises(Conflict, match="never write again"):
        await LedgerWriter(
            replica.log, reigns.key_of(1), replica.runtime, replica.world.genesis
        ).start()


async def test_a_fork_is_settled_by_the_next_term(replica: Replica) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block())
    await replica.reach(1)
    lie = replace(reigns.head(), block_hash=seed("another block")).signed(reigns.key_of(1))
    replica.follower.observe_head(lie.encode())
    assert replica.follower.status is FollowerStatus.FORKED
    await until(lambda: replica.log.fork() is not None)
    await replica.reopen()
    assert replica.follower.status is FollowerStatus.FORKED
    await replica.follower.begin_term(reigns.begin().encode())
    replica.link.block(reigns.block())
    await replica.reach(2)
    assert replica.log.fork() is None
    (proof,) = replica.log.fork_proofs()
    evidence = ForkEvidence(replica.world.genesis, reigns.terms.changes, proof)
    assert ForkEvidence.decode(evidence.encode()).check().term == 1
    # The old writer contradicts itself again: that is kept or known, and stops nobody.
    other = replace(lie, block_hash=seed("a third block")).signed(reigns.key_of(1))
    replica.follower.observe_head(other.encode())
    await replica.reopen()
    assert replica.follower.status is not FollowerStatus.FORKED
    assert replica.log.fork_proofs() == [proof]


async def test_a_contradiction_of_an_ended_term_is_kept_and_stops_nobody(
    replica: Replica,
) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block())
    await replica.reach(1)
    lie = replace(reigns.head(), block_hash=seed("another block")).signed(reigns.key_of(1))
    replica.term(reigns.begin())
    replica.link.block(reigns.block())
    await replica.reach(2)
    replica.follower.observe_head(lie.encode())
    await until(lambda: bool(replica.log.fork_proofs()))
    assert replica.follower.status is FollowerStatus.FOLLOWING
    assert replica.log.fork() is None
    assert check_proof(replica.log.fork_proofs()[0], replica.log.terms).height == 1


async def test_two_heads_of_one_term_stop_service_after_a_recovery_too(replica: Replica) -> None:
    reigns = replica.reigns
    replica.link.block(reigns.block())
    replica.term(reigns.begin())
    replica.link.block(reigns.block())
    await replica.reach(2)
    lie = replace(reigns.head(), block_hash=seed("another block")).signed(reigns.key_of(2))
    replica.link.head(lie)
    await replica.status(FollowerStatus.FORKED)
    await until(lambda: replica.log.fork() is not None)
    fork = replica.log.fork()
    assert fork is not None
    assert check_proof(fork, replica.log.terms).term == 2


async def test_operators_who_sign_two_statements_of_a_term_stop_service(
    replica: Replica,
) -> None:
    reigns = replica.reigns
    other = reigns.statement("o2", "o3", writer="another")
    await replica.follower.begin_term(reigns.begin("o1", "o2").encode())
    same = reigns.terms.changes[0].signed(
        replica.world.account("o3"), 1, replica.world.party("o3").signing
    )
    await replica.follower.begin_term(same.encode())
    assert replica.follower.last_error is None
    await replica.follower.begin_term(other.encode())
    await replica.status(FollowerStatus.FORKED)
    fork = replica.log.fork()
    assert fork is not None
    assert check_proof(fork, replica.log.terms).term == 2


# Proofs.


def test_what_can_both_be_true_proves_nothing() -> None:
    world = Scenario()
    reigns = Reigns(world)
    block = replace(reigns.block(), transactions=()).encode()
    head: SignedHead = reigns.head()
    lie = replace(head, block_hash=seed("another block")).signed(reigns.key_of(1))
    unsigned = replace(lie, signature=bytes(64))
    assert check_proof(ForkProof(1, block, lie.encode()), reigns.terms).height == 1
    for theirs in (head.encode(), unsigned.encode(), replace(lie, term=2).encode(), b"junk"):
        with pytest.raises(Corrupt) as caught:
            check_proof(ForkProof(1, block, theirs), reigns.terms)
        assert caught.value.reason == "no-fork"
    with pytest.raises(Corrupt):
        check_proof(ForkProof(2, block, lie.encode()), reigns.terms)


# The writer.


async def test_a_writer_sends_terms_where_they_begin(tmp_path: Path) -> None:
    world = Scenario()
    reigns = Reigns(world)
    runtime = ManualRuntime()
    log = open_log(tmp_path / "log", world)
    fill(log, reigns, 2)
    log.begin_term(reigns.begin())
    fill(log, reigns, 2)
    with pytest.raises(Invalid) as caught:
        LedgerWriter(log, reigns.key_of(1), runtime, world.genesis)
    assert caught.value.reason == "wrong-writer-key"
    writer = LedgerWriter(log, reigns.key_of(2), runtime, world.genesis)
    await writer.start()
    try:
        for first, order in ((1, [1, 2, "term", 3, 4]), (3, ["term", 3, 4]), (5, ["term"])):
            feed = writer.subscribe(first)
            seen: list[int | str] = []
            async with asyncio.timeout(WAIT_S):
                async for item in feed:
                    if isinstance(item, SignedHead):
                        assert (item.term, item.height) == (2, 4)
                        break
                    seen.append(
                        "term" if isinstance(item, SignedTermChange) else item.header.height
                    )
            await feed.aclose()
            assert seen == order
        beyond = writer.subscribe(9)
        assert isinstance(await anext(beyond), SignedTermChange)
        with pytest.raises(Conflict, match="ends at 4"):
            await anext(beyond)
    finally:
        await writer.stop()
        log.close()
        runtime.close()
