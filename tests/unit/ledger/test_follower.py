"""The follower: catching up, the lease, forks, damage on the way, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.errors import Corrupt, HcefsError, Invalid, Unauthenticated, Unavailable
from hcefs.ledger import follower as follower_module
from hcefs.ledger import heads
from hcefs.ledger.block import PROTOCOL_NEWEST, Block, SignedHead, sign_block, sign_head
from hcefs.ledger.cluster_facts import ProtocolSchedule, ProtocolStep
from hcefs.ledger.follower import Follower, FollowerStatus
from hcefs.ledger.link import BlockBytes, HeadBytes, LedgerLink, LocalLink
from hcefs.ledger.log import AppliedBlock, LedgerLog
from hcefs.ledger.outcome import Event, LeafAppended, MapChanged
from hcefs.ledger.rows import STATE_ROWS, seal
from hcefs.ledger.state import PROTOCOL_KEY
from hcefs.ledger.writer import LedgerWriter
from tests.unit.ledger.replicas import (
    WAIT_S,
    ManualRuntime,
    an_append,
    make_block,
    nodes_and_map,
    open_log,
    population,
    until,
)
from tests.unit.ledger.scenario import START_MS, Scenario, record_id, seed, signing_key
from tests.unit.ledger.test_log import break_disk, edit

LEASE_S = 30
SKEW_S = 5
RECORD = record_id("r")
SCHEDULE_ROW = STATE_ROWS + PROTOCOL_KEY


class ScriptedLink:
    """Feeds what a test puts into it; notes what was asked and acknowledged."""

    def __init__(self, runtime: ManualRuntime) -> None:
        self._runtime = runtime
        self._items: asyncio.Queue[BlockBytes | HeadBytes | Exception | None] = asyncio.Queue()
        self.asked: list[int] = []
        self.acknowledged: list[int] = []

    def block(self, *blocks: Block) -> None:
        for block in blocks:
            self._items.put_nowait(BlockBytes(block.encode()))

    def head(self, head: SignedHead) -> None:
        self._items.put_nowait(HeadBytes(head.encode()))

    def raw(self, item: BlockBytes | HeadBytes) -> None:
        self._items.put_nowait(item)

    def end(self, error: Exception | None = None) -> None:
        self._items.put_nowait(error)

    async def follow(
        self, from_height: int, acknowledgements: AsyncIterator[int]
    ) -> AsyncGenerator[BlockBytes | HeadBytes, None]:
        self.asked.append(from_height)

        async def note() -> None:
            async for height in acknowledgements:
                self.acknowledged.append(height)

        task = self._runtime.spawn(note(), name="note")
        try:
            while True:
                item = await self._items.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Node:
    """One replica with its follower, over a scripted link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = Scenario()
        self.runtime = ManualRuntime()
        self.link = ScriptedLink(self.runtime)
        self.events: list[tuple[int, tuple[Event, ...]]] = []
        self.log: LedgerLog
        self.follower: Follower
        self.open()

    def open(self) -> None:
        self.log = open_log(self.folder, self.world)
        self.follower = Follower(self.log, self.world.genesis, self.runtime, self.link)
        self.follower.subscribe(
            lambda block, events: self.events.append((block.header.height, events))
        )

    async def reopen(self) -> None:
        await self.follower.stop()
        self.log.close()
        self.open()
        await self.follower.start()

    def blocks(self, count: int) -> list[Block]:
        """The first blocks of the ledger: a population and one append each."""
        self.world.time_ms = self.runtime.now_ms()
        made = [make_block(self.world, population(self.world)).block]
        made += [self.next(f"a{number}") for number in range(count - 1)]
        return made

    def next(self, name: str) -> Block:
        return make_block(self.world, [an_append(self.world, name)]).block

    def head(self, time_ms: int | None = None) -> SignedHead:
        """Of the scenario's last block."""
        world = self.world
        now_ms = self.runtime.now_ms() if time_ms is None else time_ms
        return sign_head(world.genesis, world.header, world.app_hash, now_ms, world.writer, term=1)

    async def reach(self, height: int) -> None:
        await until(lambda: self.log.height == height and height in {h for h, _ in self.events})

    async def status(self, status: FollowerStatus) -> None:
        await until(lambda: self.follower.status is status)

    def refusal(self) -> str:
        try:
            self.follower.require_fresh()
        except Unavailable as error:
            return error.reason
        return ""

    async def close(self) -> None:
        await self.follower.stop()
        self.log.close()
        self.runtime.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "replica")
    await made.follower.start()
    yield made
    await made.close()


# Following.


async def test_blocks_are_verified_persisted_told_and_acknowledged(node: Node) -> None:
    blocks = node.blocks(3)
    node.link.block(*blocks)
    await node.reach(3)
    assert node.follower.status is FollowerStatus.FOLLOWING
    assert node.log.app_hash == node.world.app_hash
    assert [height for height, _ in node.events] == [1, 2, 3]
    assert isinstance(node.events[1][1][0], LeafAppended)
    await until(lambda: node.link.acknowledged[-1:] == [3])
    assert node.link.asked == [1]
    assert node.log.verify_chain() == 3
    assert node.follower.view is node.log


async def test_nothing_is_acknowledged_before_it_is_on_disk(node: Node) -> None:
    blocks = node.blocks(2)
    node.runtime.held.clear()
    node.runtime.gate.clear()
    node.link.block(*blocks)
    async with asyncio.timeout(WAIT_S):
        await node.runtime.held.wait()
    assert node.link.acknowledged == [0]
    assert node.events == []
    node.runtime.gate.set()
    await node.reach(2)
    await until(lambda: node.link.acknowledged[-1:] == [2])


async def test_subscribers_are_told_before_anyone_who_waits(node: Node) -> None:
    """Or a request could be served with what a subscriber has yet to drop."""
    node.runtime.gate.clear()
    waiting = asyncio.ensure_future(node.follower.require(2))
    told: list[bool] = []
    node.follower.subscribe(
        lambda *_: told.append(waiting.done() or max(node.link.acknowledged) > len(told))
    )
    node.link.block(*node.blocks(2))
    node.runtime.gate.set()
    async with asyncio.timeout(WAIT_S):
        await waiting
    assert told == [False, False]


async def test_a_restart_goes_on_from_the_disk(node: Node) -> None:
    blocks = node.blocks(4)
    node.link.block(*blocks[:2])
    node.link.head(node.head(node.runtime.now_ms() - 1))
    await node.reach(2)
    await node.reopen()
    node.link.block(*blocks[2:])
    await node.reach(4)
    assert node.link.asked[-1] == 3
    assert node.log.verify_chain() == 4


async def test_what_is_here_already_is_skipped(node: Node) -> None:
    blocks = node.blocks(4)
    node.link.block(blocks[0], blocks[0], blocks[1], blocks[0], blocks[1], blocks[2])
    await node.reach(3)
    node.link.block(*blocks)
    await node.reach(4)
    assert [height for height, _ in node.events] == [1, 2, 3, 4]
    assert node.follower.status is FollowerStatus.FOLLOWING


async def test_a_feed_that_breaks_is_asked_again_after_growing_pauses(node: Node) -> None:
    blocks = node.blocks(2)
    errors: list[Exception | None] = [
        ConnectionResetError("gone"),
        Unavailable("restarting", reason="ledger-stopped"),
        None,
    ]
    pauses: list[float] = []
    for error in errors:
        node.link.end(error)
        await until(lambda: node.runtime.waiting == 1)
        assert node.follower.status is FollowerStatus.DISCONNECTED
        # Rounded: the least jitter is exactly a half, and the clock has a fraction's error.
        pauses.append(round(node.runtime._sleepers[0][0] - node.runtime.monotonic(), 9))
        node.runtime.advance(10)
    node.link.block(*blocks)
    await node.reach(2)
    assert node.link.asked == [1, 1, 1, 1]
    assert all(
        first * 2**number / 2 <= pause <= first * 2**number
        for first in [follower_module.BACKOFF_FIRST_S]
        for number, pause in enumerate(pauses)
    )


async def test_catching_up_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "QUEUED_MESSAGES_MAX", 3)
    monkeypatch.setattr(follower_module, "BATCH_BYTES", 2_000)
    await node.reopen()
    sizes: list[int] = []
    append = node.log.append

    def counting(applied: Sequence[AppliedBlock]) -> None:
        sizes.append(len(applied))
        append(applied)

    monkeypatch.setattr(node.log, "append", counting)
    node.link.block(*node.blocks(30))
    await node.reach(30)
    assert sum(sizes) == 30
    assert max(sizes) <= 4


# The lease.


async def test_the_lease_runs_out(node: Node) -> None:
    assert node.refusal() == "stale-lease"
    assert node.follower.lease_age_ms() is None
    node.link.block(*node.blocks(1))
    node.link.head(node.head())
    await until(lambda: node.refusal() == "")
    node.runtime.advance(LEASE_S)
    assert node.refusal() == ""
    assert node.follower.lease_age_ms() == LEASE_S * 1000
    node.runtime.advance(0.001)
    assert node.refusal() == "stale-lease"
    node.link.head(node.head())
    await until(lambda: node.refusal() == "")
    await until(lambda: node.log.head == node.head())


async def test_the_lease_outlives_a_restart(node: Node) -> None:
    node.link.block(*node.blocks(1))
    head = node.head()
    node.link.head(head)
    await until(lambda: node.log.head == head)
    await node.reopen()
    assert node.refusal() == ""
    node.runtime.advance(LEASE_S + 1)
    assert node.refusal() == "stale-lease"


async def test_a_head_ahead_of_the_blocks_is_no_lease(node: Node) -> None:
    """Otherwise a node that is kept from the blocks would not see a revocation."""
    blocks = node.blocks(3)
    node.follower.observe_head(node.head().encode())
    assert node.refusal() == "stale-lease"
    node.link.block(*blocks[:2])
    await node.reach(2)
    assert node.refusal() == "stale-lease"
    node.link.block(blocks[2])
    await node.reach(3)
    assert node.refusal() == ""


async def test_heads_of_peers_renew_the_lease(node: Node) -> None:
    node.link.block(*node.blocks(2))
    await node.reach(2)
    node.follower.observe_head(node.head().encode())
    assert node.refusal() == ""
    node.runtime.advance(LEASE_S + 1)
    assert node.refusal() == "stale-lease"
    node.follower.observe_head(node.head().encode())
    node.follower.observe_head(node.head().encode())
    assert node.refusal() == ""


async def test_a_head_is_verified_once_whoever_brings_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[int] = []
    check = SignedHead.check

    def noted(head: SignedHead, writer_key: bytes) -> None:
        verified.append(head.time_ms)
        check(head, writer_key)

    monkeypatch.setattr(SignedHead, "check", noted)
    blocks = node.blocks(3)
    heads = []
    for _ in range(3):
        node.runtime.advance(1)
        heads.append(node.head())
    for _ in range(2):
        for head in heads:  # of a block that is not here yet
            node.follower.observe_head(head.encode())
    node.link.block(*blocks)
    node.link.head(heads[-1])
    await node.reach(3)
    await until(lambda: node.refusal() == "" and node.log.head == heads[-1])
    for head in heads:
        node.follower.observe_head(head.encode())
    assert verified == [head.time_ms for head in heads]


async def test_a_changed_copy_of_a_known_head_is_verified(node: Node) -> None:
    node.link.block(*node.blocks(1))
    await node.reach(1)
    head = node.head()
    node.follower.observe_head(head.encode())
    node.runtime.advance(1)
    later = replace(head, time_ms=head.time_ms + 1)
    with pytest.raises(Unauthenticated):
        node.follower.observe_head(later.encode())


async def test_only_some_heads_are_remembered(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEADS_REMEMBERED", 2)
    node.link.block(*node.blocks(1))
    await node.reach(1)
    for _ in range(5):
        node.runtime.advance(1)
        node.follower.observe_head(node.head().encode())
    assert len(node.follower._heads.seen) == 2


async def test_a_clock_behind_the_ledger_is_refused(node: Node) -> None:
    node.link.block(*node.blocks(1))
    await node.reach(1)
    now_ms = node.runtime.now_ms()
    node.follower.observe_head(node.head(now_ms + SKEW_S * 1000).encode())
    assert node.refusal() == ""
    node.follower.observe_head(node.head(now_ms + SKEW_S * 1000 + 10).encode())
    assert node.refusal() == "clock-skew"
    node.runtime.advance(1)
    assert node.refusal() == "clock-skew"  # the ledger's clock went on, too
    node.runtime.wall_ms += 10
    assert node.refusal() == ""


async def test_a_clock_that_is_set_back_while_the_ledger_is_silent_renews_no_lease(
    node: Node,
) -> None:
    node.link.block(*node.blocks(1))
    await node.reach(1)
    node.follower.observe_head(node.head(node.runtime.now_ms()).encode())
    lease_s = node.world.genesis.lease_ms // 1000
    for _ in range(3):
        node.runtime.advance(lease_s - 1)
        node.runtime.wall_ms -= (lease_s - 1) * 1000
    assert node.refusal() == "clock-skew"


async def test_a_head_that_comes_late_does_not_make_a_clock_right(node: Node) -> None:
    """The network held a head back while the clock was set back: it is as old as it is."""
    node.link.block(*node.blocks(1))
    await node.reach(1)
    began_ms = node.runtime.now_ms()
    node.follower.observe_head(node.head(began_ms).encode())
    passed_s = 3 * node.world.genesis.lease_ms // 1000
    node.runtime.advance(passed_s)
    node.runtime.wall_ms -= passed_s * 1000
    assert node.refusal() == "clock-skew"
    node.follower.observe_head(node.head(began_ms + 2_000).encode())
    assert node.refusal() == "clock-skew"
    node.follower.observe_head(node.head(began_ms + passed_s * 1000).encode())
    node.runtime.wall_ms += passed_s * 1000
    assert node.refusal() == ""


async def test_a_forged_head_is_refused(node: Node) -> None:
    node.link.block(*node.blocks(1))
    await node.reach(1)
    good = node.head()
    forged = [
        (replace(good, time_ms=good.time_ms + 1), Unauthenticated),
        (replace(good, height=7), Unauthenticated),
        (replace(good, block_hash=b""), Invalid),
        (replace(good, term=2, signature=b"").signed(node.world.writer), Invalid),
        (good.signed(signing_key("thief")), Unauthenticated),
    ]
    for head, error in forged:
        with pytest.raises(error):
            node.follower.observe_head(head.encode())
    with pytest.raises(Invalid):
        node.follower.observe_head(b"\x00")
    assert node.refusal() == "stale-lease"
    node.link.head(forged[0][0])
    await node.status(FollowerStatus.DISCONNECTED)
    assert node.refusal() == "stale-lease"


# Waiting for a height.


async def test_require_waits_for_the_block(node: Node) -> None:
    await node.follower.require(0)
    blocks = node.blocks(2)
    waiting = asyncio.ensure_future(node.follower.require(2))
    node.link.block(blocks[0])
    await node.reach(1)
    assert not waiting.done()
    node.link.block(blocks[1])
    async with asyncio.timeout(WAIT_S):
        await waiting


async def test_require_gives_up(node: Node) -> None:
    waiting = asyncio.ensure_future(node.follower.require(1))
    await until(lambda: node.runtime.waiting == 1)
    node.runtime.advance(4.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    node.runtime.advance(0.1)
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "behind"


# Forks.


def other_history(node: Node, blocks: int) -> Scenario:
    """Blocks that the same writer signed instead: the same population, then others."""
    other = Scenario()
    other.time_ms = START_MS + 2_000
    make_block(other, population(other))
    for number in range(blocks - 1):
        make_block(other, [an_append(other, f"other{number}")])
    return other


def head_of(world: Scenario, time_ms: int) -> SignedHead:
    return sign_head(world.genesis, world.header, world.app_hash, time_ms, world.writer, term=1)


async def expect_fork(node: Node, height: int) -> None:
    await node.status(FollowerStatus.FORKED)
    assert node.refusal() == "forked"
    with pytest.raises(Unavailable) as caught:
        await node.follower.require(0)
    assert caught.value.reason == "forked"
    await until(lambda: node.log.fork() is not None)
    proof = node.log.fork()
    assert proof is not None
    assert proof.height == height
    writer_key = node.world.genesis.writer_key
    statements = set()
    for data in (proof.ours, proof.theirs):
        try:
            head = SignedHead.decode(data)
        except Invalid:
            block = Block.decode(data)
            block.check_signature(writer_key)
            statements.add((block.header.height, block.hash()))
        else:
            head.check(writer_key)
            statements.add((head.height, head.block_hash))
    assert len(statements) == 2
    before = node.log.height
    await node.reopen()
    assert node.follower.status is FollowerStatus.FORKED
    assert node.refusal() == "forked"
    assert node.log.height == before
    assert node.log.verify_chain() == before


async def test_another_block_at_a_persisted_height_is_a_fork(node: Node) -> None:
    node.link.block(*node.blocks(3))
    await node.reach(3)
    other = Scenario()
    other.time_ms = START_MS + 2_000
    node.link.block(make_block(other, population(other)).block)
    await expect_fork(node, 1)
    assert node.log.height == 3


async def test_a_successor_of_another_block_is_a_fork(node: Node) -> None:
    node.link.block(*node.blocks(2))
    await node.reach(2)
    other = other_history(node, 2)
    node.link.block(make_block(other, [an_append(other, "next")]).block)
    await expect_fork(node, 2)


async def test_a_fork_inside_one_batch_keeps_the_first_history(node: Node) -> None:
    blocks = node.blocks(3)
    other = other_history(node, 2)
    node.runtime.gate.clear()
    node.link.block(blocks[0])
    node.link.block(*blocks[1:], make_block(other, [an_append(other, "x")]).block)
    await asyncio.sleep(0)
    node.runtime.gate.set()
    await expect_fork(node, 3)
    assert node.log.height == 3


@pytest.mark.parametrize("way", ["feed", "peer"])
@pytest.mark.parametrize("height", [1, 2])
async def test_another_head_at_a_persisted_height_is_a_fork(
    node: Node, height: int, way: str
) -> None:
    node.link.block(*node.blocks(2))
    await node.reach(2)
    head = head_of(other_history(node, height), node.runtime.now_ms())
    if way == "feed":
        node.link.head(head)
    else:
        node.follower.observe_head(head.encode())
        assert node.refusal() == "forked"
    await expect_fork(node, height)


async def test_a_head_with_another_app_hash_is_a_fork(node: Node) -> None:
    node.link.block(*node.blocks(2))
    await node.reach(2)
    lying = replace(node.head(), app_hash=seed("other"), signature=b"").signed(node.world.writer)
    node.follower.observe_head(lying.encode())
    assert node.refusal() == "forked"
    await until(lambda: node.log.fork() is not None)


async def test_two_heads_ahead_are_a_fork(node: Node) -> None:
    node.blocks(2)
    node.follower.observe_head(node.head().encode())
    node.follower.observe_head(head_of(other_history(node, 2), START_MS + 3_000).encode())
    await expect_fork(node, 2)


async def test_a_block_against_a_head_seen_before_is_a_fork(node: Node) -> None:
    blocks = node.blocks(3)
    node.follower.observe_head(head_of(other_history(node, 3), START_MS + 3_000).encode())
    node.link.block(*blocks)
    await expect_fork(node, 3)
    assert node.log.height == 2


async def test_a_head_seen_before_a_restart_is_remembered(node: Node) -> None:
    blocks = node.blocks(2)
    head = head_of(other_history(node, 2), START_MS + 3_000)
    node.follower.observe_head(head.encode())
    await until(lambda: node.log.head == head)
    await node.reopen()
    node.link.block(*blocks)
    await expect_fork(node, 2)
    assert node.log.height == 1


async def test_a_head_is_compared_after_a_crash_before_its_block_was(node: Node) -> None:
    blocks = node.blocks(2)
    node.link.block(*blocks)
    await node.reach(2)
    await node.follower.stop()
    node.log.keep_head(head_of(other_history(node, 2), START_MS + 30_000))
    await node.reopen()
    await expect_fork(node, 2)


async def test_a_fork_wakes_who_waits(node: Node) -> None:
    node.link.block(*node.blocks(1))
    await node.reach(1)
    waiting = asyncio.ensure_future(node.follower.require(9))
    await until(lambda: node.runtime.waiting == 1)
    node.follower.observe_head(head_of(other_history_at_one(), START_MS + 3_000).encode())
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "forked"


def other_history_at_one() -> Scenario:
    other = Scenario()
    other.time_ms = START_MS + 2_000
    make_block(other, population(other))
    return other


# Damage on the way, and a writer that breaks the rules.


def resign(node: Node, block: Block, **changes: object) -> Block:
    header = replace(block.header, **changes)  # type: ignore[arg-type]
    return sign_block(header, block.transactions, node.world.writer)


DAMAGES: dict[str, Callable[[Node, Block], BlockBytes]] = {
    "signature": lambda _, block: BlockBytes(replace(block, signature=bytes(64)).encode()),
    "header": lambda _, block: BlockBytes(
        replace(block, header=replace(block.header, time_ms=block.header.time_ms + 1)).encode()
    ),
    "transactions": lambda _, block: BlockBytes(replace(block, transactions=()).encode()),
    "bytes": lambda _, block: BlockBytes(block.encode()[:-1]),
    "gap": lambda node, _: BlockBytes(node.next("beyond").encode()),
    "cluster": lambda node, block: BlockBytes(
        resign(node, block, cluster=type(block.header.cluster)(bytes(16))).encode()
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_what_the_way_damages_is_asked_again(node: Node, name: str) -> None:
    """A relay can delay a follower, but neither deceive nor stop it."""
    blocks = node.blocks(3)
    node.link.block(*blocks[:2])
    node.link.raw(DAMAGES[name](node, blocks[2]))
    await until(lambda: node.runtime.waiting == 1)
    assert node.follower.status is FollowerStatus.DISCONNECTED
    assert isinstance(node.follower.last_error, HcefsError)
    assert node.log.height == 2
    assert node.log.fork() is None
    node.runtime.advance(10)
    node.link.block(blocks[2])
    await node.reach(3)
    assert node.link.asked == [1, 3]


async def test_a_signed_block_that_does_not_replay_ends_service(node: Node) -> None:
    blocks = node.blocks(2)
    node.link.block(blocks[0])
    node.link.head(node.head(node.runtime.now_ms()))
    node.link.block(resign(node, blocks[1], app_hash=seed("wrong")))
    await node.status(FollowerStatus.DIVERGED)
    assert node.refusal() == "diverged"
    assert isinstance(node.follower.last_error, Corrupt)
    assert (node.log.height, node.log.fork()) == (1, None)
    await node.reopen()
    node.link.block(blocks[1])
    await node.reach(2)
    assert node.log.verify_chain() == 2


async def test_a_block_of_newer_rules_asks_for_an_upgrade(node: Node) -> None:
    blocks = node.blocks(2)
    node.link.block(blocks[0], resign(node, blocks[1], protocol_version=PROTOCOL_NEWEST + 1))
    await node.status(FollowerStatus.OUTDATED)
    assert node.refusal() == "unknown-protocol"
    error = node.follower.last_error
    assert error is not None
    assert "install a newer release" in error.message


async def test_a_replica_that_newer_software_has_written_is_not_followed_on(node: Node) -> None:
    node.link.block(*node.blocks(2))
    await node.reach(2)
    await node.follower.stop()
    node.log.close()
    steps = tuple(ProtocolStep(version, 2) for version in range(2, PROTOCOL_NEWEST + 2))
    row = seal(SCHEDULE_ROW, ProtocolSchedule(steps).encode())
    edit(node.folder, SCHEDULE_ROW, lambda _: row)
    node.open()
    await node.follower.start()
    assert node.follower.status is FollowerStatus.OUTDATED
    assert node.refusal() == "unknown-protocol"
    assert node.link.asked == [1]


@pytest.mark.parametrize("lands", [False, True])
async def test_a_full_disk_is_waited_for(node: Node, lands: bool) -> None:
    told: list[int] = []
    node.follower.subscribe(lambda block, _: told.append(block.header.height))
    blocks = node.blocks(2)
    node.link.block(blocks[0])
    await node.reach(1)
    room = node.log._database.free
    node.log._database.free = lambda _: 0
    break_disk(node.log, lands=lands)
    node.link.block(blocks[1])
    await node.status(FollowerStatus.DISCONNECTED)
    assert node.link.acknowledged[-1] == 1
    node.runtime.advance(60)
    assert node.refusal() == "disk-full"
    node.log._database.free = room
    node.link.block(blocks[1])
    node.runtime.advance(60)
    await node.reach(2)
    assert told == [1, 2]
    assert node.log.failure is None


async def test_a_fault_of_a_subscriber_ends_service(node: Node) -> None:
    def fail(block: Block, events: tuple[Event, ...]) -> None:
        raise RuntimeError("a bug")

    node.follower.subscribe(fail)
    node.link.block(*node.blocks(1))
    await node.status(FollowerStatus.FAILED)
    assert node.refusal() == "follower-failed"


# With the real writer.


async def test_two_followers_replicate_the_writer(tmp_path: Path) -> None:
    world, runtime = Scenario(), ManualRuntime()
    log = open_log(tmp_path / "writer", world)
    writer = LedgerWriter(log, signing_key("writer"), runtime, world.genesis)
    await writer.start()
    for transaction in population(world):
        await writer.submit(transaction)
    nodes, change = nodes_and_map(world)
    for transaction in nodes:
        await writer.submit(transaction)
    logs = {name: open_log(tmp_path / name, world) for name in ("n1", "n2")}
    seen: list[Event] = []

    def follow(name: str) -> Follower:
        link: LedgerLink = LocalLink(writer, world.account(name), runtime)
        made = Follower(logs[name], world.genesis, runtime, link)
        made.subscribe(lambda block, events: seen.extend(events))
        return made

    followers = [follow(name) for name in logs]
    for follower in followers:
        await follower.start()
    async with asyncio.timeout(WAIT_S):
        await writer.submit(change)
        assert sum(isinstance(event, MapChanged) for event in seen) == 2
        results = await asyncio.gather(
            *(writer.submit(an_append(world, f"a{number}")) for number in range(100))
        )
    assert writer.replicated_height == log.height == max(result.height for result in results)
    assert log.height < 9 + 50
    for follower in followers:
        await follower.require(log.height)
        assert follower.view.app_hash == log.app_hash
        assert list(follower.view.scan(b"")) == list(log.scan(b""))
        await until(lambda follower=follower: follower.lease_age_ms() == 0)  # type: ignore[misc]
        follower.require_fresh()
    # One follower is away: what is submitted meanwhile is not acknowledged.
    await followers[1].stop()
    task = asyncio.ensure_future(writer.submit(an_append(world, "late")))
    await until(lambda: logs["n1"].height == log.height > logs["n2"].height)
    runtime.advance(5)
    with pytest.raises(Unavailable) as caught:
        await task
    assert caught.value.reason == "not-replicated"
    # It comes back, catches up from the writer's log, and then it is.
    logs["n2"].close()
    logs["n2"] = open_log(tmp_path / "n2", world)
    followers[1] = follow("n2")
    await followers[1].start()
    async with asyncio.timeout(WAIT_S):
        await followers[1].require(log.height)
        await writer.submit(an_append(world, "late"))
    for follower in followers:
        await follower.stop()
    await writer.stop()
    for each in (log, *logs.values()):
        assert each.verify_chain() == log.height
    for each in (log, *logs.values()):
        each.close()
    runtime.close()


async def test_a_writer_that_lost_blocks_is_not_followed(tmp_path: Path) -> None:
    world, runtime = Scenario(), ManualRuntime()
    replica = open_log(tmp_path / "replica", world)
    replica.append([make_block(world, population(world))])
    log = open_log(tmp_path / "writer", world)
    writer = LedgerWriter(log, signing_key("writer"), runtime, world.genesis)
    await writer.start()
    link = LocalLink(writer, world.account("n1"), runtime)
    follower = Follower(replica, world.genesis, runtime, link)
    await follower.start()
    await until(lambda: follower.last_error is not None)
    assert follower.last_error is not None
    assert follower.last_error.reason == "follower-ahead"
    assert replica.height == 1
    with pytest.raises(Unavailable):
        follower.require_fresh()
    await follower.stop()
    await writer.stop()
    replica.close()
    log.close()
    runtime.close()
