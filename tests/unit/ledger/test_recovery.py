"""Before a ledger writes: what it asks its followers, what it fetches, when it refuses."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.errors import Conflict, Corrupt, Unavailable
from hcefs.ids import AccountId
from hcefs.ledger.block import sign_block
from hcefs.ledger.link import BlockBytes, TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import (
    ReplicaAnswer,
    Survey,
    copy_blocks,
    make_statement,
    plan_recovery,
    settle,
    survey,
)
from hcefs.ledger.terms import SignedTermChange
from hcefs.ledger.writer import LedgerWriter, answers_needed
from tests.unit.ledger.reigns import Reigns, fill
from tests.unit.ledger.replicas import (
    ManualRuntime,
    make_block,
    nodes_and_map,
    open_log,
    until,
)
from tests.unit.ledger.scenario import Scenario, seed
from tests.unit.ledger.test_machine_map import NAMES


class Followers:
    """Replicas on disk, by node; those that are down answer nothing.  ``Replicas`` of tests."""

    def __init__(self, world: Scenario) -> None:
        self.world = world
        self.logs: dict[AccountId, LedgerLog] = {}
        self.down: set[str] = set()
        self.change: Callable[[ReplicaAnswer], ReplicaAnswer] = lambda answer: answer
        self.asked = 0

    def _log(self, account: AccountId | None) -> LedgerLog:
        for name in NAMES:
            if self.world.account(name) == account and name not in self.down:
                return self.logs[account]
        raise Unavailable("it is down", reason="down")

    async def describe(self, account: AccountId | None, address: str) -> ReplicaAnswer:
        self.asked += 1
        log = self._log(account)
        assert account is not None
        voided = log.superseded()
        return self.change(
            ReplicaAnswer(
                account=account,
                height=log.height,
                block_hash=log.tip_hash,
                head=log.head.encode() if log.head is not None else b"",
                terms=tuple(each.encode() for each in log.terms.changes),
                status="following",
                problem="",
                superseded=voided.encode() if voided is not None else b"",
            )
        )

    async def blocks(
        self, account: AccountId | None, address: str, from_height: int, last_height: int
    ) -> AsyncGenerator[BlockBytes | TermBytes, None]:
        log = self._log(account)
        for height in range(from_height, last_height + 1):
            for change in log.terms.changes:
                if change.change.height == height - 1:
                    yield TermBytes(change.encode())
            yield BlockBytes(log.block(height).encode())
        for change in log.terms.changes:
            if change.change.height == last_height:
                yield TermBytes(change.encode())


class Bench:
    """A writer's log with a map of four nodes, and their replicas, all of one height."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = Scenario()
        self.reigns = Reigns(self.world)
        self.runtime = ManualRuntime()
        self.log = open_log(root / "ledger", self.world)
        nodes, change = nodes_and_map(self.world)
        for transactions in (nodes, [change]):
            self.log.append([make_block(self.world, transactions)])
        fill(self.log, self.reigns, 2)
        self.log.close()
        self.followers = Followers(self.world)
        for name in NAMES:
            shutil.copytree(root / "ledger", root / name)
            log = open_log(root / name, self.world)
            self.followers.logs[self.world.account(name)] = log
        self.log = open_log(root / "ledger", self.world)
        self.waiting: list[str] = []

    def follower(self, name: str) -> LedgerLog:
        return self.followers.logs[self.world.account(name)]

    def grow(self, *names: str) -> None:
        """One block more, which the writer's log lacks: it was restored from a backup."""
        applied = self.reigns.applied()
        for name in names:
            self.follower(name).append([applied])

    async def settle(self) -> None:
        task = asyncio.ensure_future(
            settle(self.log, self.followers, self.runtime, waiting=self.waiting.append)
        )
        while not task.done():
            await until(lambda: task.done() or bool(self.runtime.waiting))
            self.runtime.advance(5)
        await task

    async def settle_waits(self, words: str) -> None:
        """It must not come to an end, and say why."""
        task = asyncio.ensure_future(
            settle(self.log, self.followers, self.runtime, waiting=self.waiting.append)
        )

        def told() -> bool:
            self.runtime.advance(1)
            return any(words in each for each in self.waiting)

        await until(told)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def close(self) -> None:
        for log in (self.log, *self.followers.logs.values()):
            log.close()
        self.runtime.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(("nodes", "needed"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (6, 5)])
def test_enough_answers_hold_whatever_was_acknowledged(nodes: int, needed: int) -> None:
    assert answers_needed(nodes) == needed
    # Whatever min(2, nodes) followers acknowledged: one of them is among any that answer.
    assert nodes - needed < max(1, min(2, nodes))


# A writer that starts.


async def test_a_log_that_is_level_may_be_written(bench: Bench) -> None:
    await bench.settle()
    assert bench.log.height == 4
    assert bench.waiting == [""]


async def test_a_restored_backup_fetches_what_it_lacks(bench: Bench) -> None:
    for _ in range(4):
        bench.grow("n2")
    await bench.settle()
    assert bench.log.height == 8
    assert bench.log.tip_hash == bench.follower("n2").tip_hash
    assert bench.log.verify_chain() == 8
    writer = LedgerWriter(bench.log, bench.reigns.key_of(1), bench.runtime, bench.world.genesis)
    await writer.start()
    assert writer.head is not None
    assert writer.head.height == 8
    await writer.stop()


async def test_one_follower_may_be_down_and_two_may_not(bench: Bench) -> None:
    bench.followers.down = {"n1"}
    await bench.settle()
    bench.followers.down = {"n1", "n2"}
    await bench.settle_waits("2 of 4 followers")
    bench.followers.down = {"n2"}
    await bench.settle()


async def test_a_height_that_only_a_head_shows_is_waited_for(bench: Bench) -> None:
    bench.grow("n1")
    bench.follower("n2").keep_head(bench.reigns.head())
    bench.followers.down = {"n1"}
    await bench.settle_waits("ledger-behind")
    assert bench.log.height == 4
    bench.followers.down = set()
    await bench.settle()
    assert bench.log.height == 5


async def test_a_claim_that_nothing_signed_supports_stops_nothing(bench: Bench) -> None:
    forged = replace(bench.reigns.head(), height=99).encode()
    bench.followers.change = lambda answer: replace(answer, head=forged)
    await bench.settle()
    assert bench.log.height == 4


async def test_blocks_that_do_not_verify_are_not_taken(bench: Bench) -> None:
    height = bench.log.height

    async def liar(
        account: AccountId | None, address: str, from_height: int, last_height: int
    ) -> AsyncGenerator[BlockBytes | TermBytes, None]:
        block = bench.log.block(height)
        header = replace(block.header, height=height + 1, previous=block.hash())
        stranger = bench.world.party("o1").signing
        yield BlockBytes(sign_block(header, block.transactions, stranger).encode())

    with pytest.raises(Corrupt, match="its writer did not sign it"):
        await copy_blocks(bench.log, liar(None, "", 1, 1), bench.runtime)
    assert bench.log.height == height


async def test_another_signed_block_is_a_fork_and_is_kept(bench: Bench) -> None:
    log = bench.follower("n3")
    bench.grow("n1", "n2", "n4")
    # The same height again, as a backup that wrote without asking would have signed it.
    block = bench.follower("n1").block(5)
    header = replace(block.header, time_ms=block.header.time_ms + 1)
    other = sign_block(header, block.transactions, bench.reigns.key_of(1))
    before = log.block(4)
    assert other.header.previous == before.hash()
    await bench.settle()
    assert bench.log.height == 5
    fork_head = replace(bench.reigns.head(), block_hash=other.hash())
    log.keep_head(fork_head.signed(bench.reigns.key_of(1)))
    with pytest.raises(Conflict) as caught:
        await bench.settle()
    assert caught.value.reason == "forked"
    assert bench.log.fork() is not None
    with pytest.raises(Conflict) as refused:
        await LedgerWriter(
            bench.log, bench.reigns.key_of(1), bench.runtime, bench.world.genesis
        ).start()
    assert refused.value.reason == "forked"


async def test_an_old_writer_learns_that_its_term_has_ended(bench: Bench) -> None:
    statement = bench.reigns.statement("o1", "o2")
    weak = bench.reigns.statement("o1")
    bench.followers.change = lambda answer: replace(answer, terms=(weak.encode(),))
    await bench.settle()  # one operator's word ends no term
    bench.followers.change = lambda answer: answer
    bench.follower("n4").begin_term(statement)
    with pytest.raises(Conflict) as caught:
        await bench.settle()
    assert caught.value.reason == "superseded"
    assert bench.log.superseded() == statement


# A new term.


async def found(bench: Bench) -> Survey:
    return await survey(bench.log, bench.followers, bench.runtime)


async def test_a_term_begins_at_the_highest_replica(bench: Bench, tmp_path: Path) -> None:
    bench.grow("n2")
    copy = open_log(tmp_path / "copy", bench.world)
    feed = bench.followers.blocks(bench.world.account("n2"), "", 1, 5)
    heights: list[int] = []
    assert await copy_blocks(copy, feed, bench.runtime, heights.append) == 5
    assert heights == [5]
    plan = plan_recovery(copy, await survey(copy, bench.followers, bench.runtime))
    assert (plan.height, plan.block_hash) == (5, copy.tip_hash)
    assert (plan.reached, plan.nodes, plan.warnings) == (4, 4, ())
    signed = make_statement(copy, plan, bench.reigns.key_of(2).public_key, 1)
    assert (signed.change.term, signed.change.previous) == (2, bench.world.genesis.digest)
    assert signed.change.time_ms == copy.time_ms
    copy.close()


async def test_a_copy_takes_the_terms_with_the_blocks(bench: Bench, tmp_path: Path) -> None:
    source = bench.follower("n1")
    source.begin_term(bench.reigns.begin())
    fill(source, bench.reigns, 2)
    source.begin_term(bench.reigns.begin("o2", "o3"))
    copy = open_log(tmp_path / "copy", bench.world)
    feed = bench.followers.blocks(bench.world.account("n1"), "", 1, source.height)
    await copy_blocks(copy, feed, bench.runtime)
    assert copy.terms == source.terms
    assert copy.verify_chain() == source.height == 6
    copy.close()


async def test_a_recovery_needs_enough_followers_or_words(bench: Bench) -> None:
    bench.followers.down = {"n1", "n2"}
    answers = await found(bench)
    with pytest.raises(Conflict) as caught:
        plan_recovery(bench.log, answers)
    assert caught.value.reason == "too-few-followers"
    assert bench.world.account("n1").text in caught.value.message
    plan = plan_recovery(bench.log, answers, forced=True)
    assert (plan.reached, plan.nodes) == (2, 4)
    assert "may be on those that did not" in plan.warnings[0]
    bench.followers.down = {"n1"}
    assert plan_recovery(bench.log, await found(bench)).warnings == ()


async def test_replicas_that_disagree_are_for_operators_to_judge(bench: Bench) -> None:
    bench.followers.change = lambda answer: (
        replace(answer, block_hash=seed("another"))
        if answer.account == bench.world.account("n3")
        else answer
    )
    answers = await found(bench)
    with pytest.raises(Conflict) as caught:
        plan_recovery(bench.log, answers)
    assert caught.value.reason == "replicas-disagree"
    assert "another history" in plan_recovery(bench.log, answers, forced=True).warnings[0]


async def test_a_signed_block_that_nobody_has_is_told(bench: Bench) -> None:
    bench.follower("n1").keep_head(
        replace(bench.reigns.head(), height=6, block_hash=seed("lost")).signed(
            bench.reigns.key_of(1)
        )
    )
    plan = plan_recovery(bench.log, await found(bench))
    assert plan.height == 4
    assert "signed block 6" in plan.warnings[0]


# What acknowledges.


def writer_of(bench: Bench) -> LedgerWriter:
    return LedgerWriter(bench.log, bench.reigns.key_of(1), bench.runtime, bench.world.genesis)


async def test_a_follower_that_lost_blocks_no_longer_counts_for_them(bench: Bench) -> None:
    writer = writer_of(bench)
    await writer.start()
    for name in ("n1", "n2"):
        writer.acknowledge(bench.world.account(name), 4)
    assert writer.replicated_height == 4
    feed = writer.subscribe(1, bench.world.account("n2"))  # its disk was replaced
    assert not isinstance(await anext(feed), SignedTermChange)
    writer.acknowledge(bench.world.account("n3"), 3)
    assert writer.replicated_height == 3
    await feed.aclose()
    await writer.stop()


async def test_a_follower_that_claims_more_than_there_is_is_ignored(bench: Bench) -> None:
    writer = writer_of(bench)
    await writer.start()
    for name in ("n1", "n2"):
        writer.acknowledge(bench.world.account(name), 5)
    writer.acknowledge(bench.world.account("clinic"), 4)
    writer.acknowledge(AccountId.zero(), 4)
    assert writer.replicated_height == 0
    await writer.stop()


async def test_after_a_restart_nobody_has_acknowledged_anything(bench: Bench) -> None:
    writer = writer_of(bench)
    await writer.start()
    for name in ("n1", "n2"):
        writer.acknowledge(bench.world.account(name), 4)
    await writer.stop()
    again = writer_of(bench)
    await again.start()
    assert again.replicated_height == 0
    again.acknowledge(bench.world.account("n1"), 4)
    assert again.replicated_height == 0
    again.acknowledge(bench.world.account("n4"), 4)
    assert again.replicated_height == 4
    await again.stop()


async def test_nobody_reads_or_submits_before_the_followers_were_asked(bench: Bench) -> None:
    writer = writer_of(bench)
    reading = asyncio.ensure_future(anext(writer.subscribe(1)))
    submitting = asyncio.ensure_future(writer.submit(b"not even a transaction"))
    await until(lambda: bool(bench.runtime.waiting))
    bench.runtime.advance(6)
    with pytest.raises(Unavailable) as caught:
        await submitting
    assert caught.value.reason == "ledger-waiting"
    assert not reading.done()
    writer.refuse(Conflict("it forked", reason="forked"))
    with pytest.raises(Unavailable) as refused:
        await reading
    assert refused.value.reason == "forked"
