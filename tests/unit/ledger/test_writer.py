"""The writer: group commit, repeats, replication, heads, feeds, failure and kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from hcefs.access.facts import AccountKind
from hcefs.errors import (
    Conflict,
    Denied,
    Exhausted,
    HcefsError,
    Internal,
    Invalid,
    Unauthenticated,
    Unavailable,
)
from hcefs.ledger import writer as writer_module
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.log import ForkProof, LedgerLog
from hcefs.ledger.terms import SignedTermChange
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.writer import LedgerWriter, SubmitResult
from tests.unit.ledger.replicas import (
    WAIT_S,
    ManualRuntime,
    an_append,
    nodes_and_map,
    open_log,
    population,
    until,
)
from tests.unit.ledger.scenario import Scenario, record_id, seed, signing_key
from tests.unit.ledger.test_log import break_disk

LEASE_S = 30
RECORD = record_id("r")


class Bench:
    """A writer with its clock, its log and the transactions of a small cluster."""

    def __init__(self, folder: Path) -> None:
        self.world = Scenario()
        self.runtime = ManualRuntime()
        self.folder = folder
        self.log = open_log(folder, self.world)
        self.writer = self.new_writer()

    def new_writer(self, **options: Any) -> LedgerWriter:
        return LedgerWriter(
            self.log, signing_key("writer"), self.runtime, self.world.genesis, **options
        )

    async def start(self) -> Bench:
        await self.writer.start()
        return self

    async def restart(self) -> None:
        await self.writer.stop()
        self.log.close()
        self.log = open_log(self.folder, self.world)
        self.writer = self.new_writer()
        await self.writer.start()

    async def populate(self) -> Bench:
        for transaction in population(self.world):
            await self.writer.submit(transaction)
        return self

    async def give_map(self) -> None:
        """Four nodes; the submission itself waits for them, so two say what they have."""
        nodes, change = nodes_and_map(self.world)
        for transaction in nodes:
            await self.writer.submit(transaction)
        task = asyncio.ensure_future(self.writer.submit(change))
        await until(lambda: self.log.cluster_map() is not None and self.runtime.waiting > 1)
        self.acknowledge("n1", "n2")
        await task

    def acknowledge(self, *names: str, height: int | None = None) -> None:
        for name in names:
            self.writer.acknowledge(self.world.account(name), height or self.log.height)

    async def close(self) -> None:
        self.runtime.gate.set()
        await self.writer.stop()
        self.log.close()
        self.runtime.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "log")
    await made.start()
    yield made
    await made.close()


async def hold(bench: Bench, name: str = "first") -> asyncio.Task[Any]:
    """Submit one append and hold its commit at the gate."""
    bench.runtime.gate.clear()
    bench.runtime.held.clear()
    task = asyncio.ensure_future(bench.writer.submit(an_append(bench.world, name)))
    async with asyncio.timeout(WAIT_S):
        await bench.runtime.held.wait()
    return task


async def test_a_transaction_is_committed_in_a_signed_block(bench: Bench) -> None:
    await bench.populate()
    result = await bench.writer.submit(an_append(bench.world, "a", "x", "y"))
    assert result.height == bench.log.height == 5
    assert result.time_ms == bench.log.time_ms == bench.runtime.now_ms()
    assert [(leaf.record, leaf.index) for leaf in result.leaves] == [(RECORD, 0), (RECORD, 1)]
    bench.log.block(5).check_signature(bench.world.genesis.writer_key)
    assert bench.log.verify_chain() == 5


async def test_a_repeat_returns_the_first_result(bench: Bench) -> None:
    await bench.populate()
    append = an_append(bench.world, "a")
    first = await bench.writer.submit(append)
    bench.runtime.advance(60)
    assert await bench.writer.submit(append) == first
    # The body names a transaction, whoever signed it.
    unsigned = SignedTransaction(SignedTransaction.decode(append).body, ())
    assert await bench.writer.submit(unsigned.encode()) == first
    await bench.restart()
    assert await bench.writer.submit(append) == first
    assert bench.log.height == first.height


async def test_concurrent_repeats_share_one_commit(bench: Bench) -> None:
    await bench.populate()
    append = an_append(bench.world, "a")
    other = SignedTransaction(SignedTransaction.decode(append).body, ()).encode()
    held = await hold(bench)
    tasks = [asyncio.ensure_future(bench.writer.submit(append)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks.append(asyncio.ensure_future(bench.writer.submit(other)))
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    results = await asyncio.gather(held, *tasks)
    assert len(set(results[1:])) == 1
    assert bench.log.height == 6
    assert len(bench.log.block(6).transactions) == 1


async def test_a_bad_copy_does_not_spoil_the_good_one(bench: Bench) -> None:
    """Somebody who saw a transaction cannot have it refused by sending it unsigned first."""
    await bench.populate()
    append = an_append(bench.world, "a")
    unsigned = SignedTransaction(SignedTransaction.decode(append).body, ()).encode()
    held = await hold(bench)
    bad = asyncio.ensure_future(bench.writer.submit(unsigned))
    await asyncio.sleep(0)
    good = asyncio.ensure_future(bench.writer.submit(append))
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    await held
    assert (await good).height == 6
    with pytest.raises(Unauthenticated):
        await bad


async def test_what_does_not_apply_leaves_no_block(bench: Bench) -> None:
    await bench.populate()
    world = bench.world
    wrong_record = world.append("p", world.entry("c", record="unknown"))
    refused: list[tuple[bytes, type[HcefsError]]] = [
        (b"", Invalid),
        (b"\x00" * 40, Invalid),
        (b"x" * (2 << 20), Invalid),
        (world.sign(wrong_record, "pat").encode(), Denied),
        (world.sign(world.append("p", world.entry("c")), "doc").encode(), Denied),
        (world.sign(world.registration("new", AccountKind.PATIENT), "new").encode(), Denied),
    ]
    for transaction, error in refused:
        with pytest.raises(error):
            await bench.writer.submit(transaction)
    assert bench.log.height == 4
    assert (await bench.writer.submit(an_append(world, "p"))).height == 5


async def test_submissions_gather_while_a_block_is_written(bench: Bench) -> None:
    await bench.populate()
    held = await hold(bench)
    tasks = [
        asyncio.ensure_future(bench.writer.submit(an_append(bench.world, f"a{number}")))
        for number in range(200)
    ]
    bad = bench.world.append("bad", bench.world.entry("bad", record="unknown"))
    failing = asyncio.ensure_future(bench.writer.submit(bench.world.sign(bad, "pat").encode()))
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    await held
    results = await asyncio.gather(*tasks)
    with pytest.raises(Denied):
        await failing
    assert {result.height for result in results} == {6}
    assert sorted(result.leaves[0].index for result in results) == list(range(1, 201))
    assert len(bench.log.block(6).transactions) == 200
    assert bench.log.verify_chain() == 6


async def test_a_block_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.populate()
    appends = [an_append(bench.world, f"a{number}") for number in range(10)]
    monkeypatch.setattr(writer_module, "BLOCK_TRANSACTIONS", 4)
    held = await hold(bench)
    tasks = [asyncio.ensure_future(bench.writer.submit(append)) for append in appends]
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    await asyncio.gather(held, *tasks)
    sizes = [len(bench.log.block(height).transactions) for height in range(6, 9)]
    assert sizes == [4, 4, 2]
    monkeypatch.setattr(writer_module, "BLOCK_TRANSACTION_BYTES_MAX", 3 * len(appends[0]))
    held = await hold(bench, "second")
    more = [an_append(bench.world, f"b{number}") for number in range(4)]
    tasks = [asyncio.ensure_future(bench.writer.submit(append)) for append in more]
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    await asyncio.gather(held, *tasks)
    assert [len(bench.log.block(height).transactions) for height in (10, 11)] == [3, 1]


@pytest.mark.parametrize("bound", ["PENDING_MAX", "PENDING_BYTES_MAX"])
async def test_a_full_queue_says_when_to_come_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    await bench.populate()
    appends = [an_append(bench.world, f"a{number}") for number in range(4)]
    size = 4 if bound == "PENDING_MAX" else 4 * len(appends[0]) + 10
    monkeypatch.setattr(writer_module, bound, size)
    held = await hold(bench)
    tasks = [asyncio.ensure_future(bench.writer.submit(append)) for append in appends[:3]]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as caught:
        await bench.writer.submit(appends[3])
    assert caught.value.reason == "ledger-busy"
    assert caught.value.retry_after_ms > 0
    again = asyncio.ensure_future(bench.writer.submit(appends[0]))
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    await asyncio.gather(held, *tasks, again)
    assert (await bench.writer.submit(appends[3])).height == 7


async def test_a_cancelled_submission_may_be_repeated(bench: Bench) -> None:
    await bench.populate()
    task = await hold(bench)
    task.cancel()
    bench.runtime.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = await bench.writer.submit(an_append(bench.world, "first"))
    assert result.height == 5


async def test_block_time_never_goes_back(bench: Bench) -> None:
    await bench.populate()
    before = bench.log.time_ms
    head = bench.writer.head
    assert head is not None
    bench.runtime.wall_ms -= 3_600_000
    result = await bench.writer.submit(an_append(bench.world, "a"))
    assert result.time_ms == before
    after = bench.writer.head
    assert after is not None
    assert after.time_ms >= head.time_ms
    assert bench.log.verify_chain() == 5


# Replication.


async def test_a_result_waits_for_two_followers(bench: Bench) -> None:
    await bench.populate()
    await bench.give_map()
    task = asyncio.ensure_future(bench.writer.submit(an_append(bench.world, "a")))
    await until(lambda: bench.log.height == 10 and bench.runtime.waiting > 1)
    bench.acknowledge("n3")
    bench.acknowledge("n3")
    bench.acknowledge("pat", "o1")  # no nodes of the map
    bench.acknowledge("n1", height=9)
    bench.acknowledge("n1", height=11)  # beyond the log
    await asyncio.sleep(0)
    assert not task.done()
    assert bench.writer.replicated_height == 9
    bench.acknowledge("n4")
    assert (await task).height == 10
    assert bench.writer.replicated_height == 10


async def test_without_followers_it_is_committed_but_not_acknowledged(bench: Bench) -> None:
    await bench.populate()
    await bench.give_map()
    append = an_append(bench.world, "a")
    for _ in range(2):
        task = asyncio.ensure_future(bench.writer.submit(append))
        await until(lambda: bench.log.height == 10 and bench.runtime.waiting > 1)
        bench.acknowledge("n1")
        bench.runtime.advance(5)
        with pytest.raises(Unavailable) as caught:
            await task
        assert caught.value.reason == "not-replicated"
    bench.acknowledge("n2")
    result = await bench.writer.submit(append)
    assert (result.height, bench.log.height) == (10, 10)


async def waiting_for_followers(bench: Bench) -> list[asyncio.Task[SubmitResult]]:
    """A block that followers have yet to write, and two submissions that gather behind it."""
    await bench.populate()
    await bench.give_map()
    submit = bench.writer.submit
    tasks = [asyncio.ensure_future(submit(an_append(bench.world, "a")))]
    await until(lambda: bench.log.height == 10 and bench.runtime.waiting > 1)
    waiting = bench.runtime.waiting
    tasks += [asyncio.ensure_future(submit(an_append(bench.world, name))) for name in "bc"]
    await until(lambda: bench.runtime.waiting > waiting)
    assert bench.log.height == 10
    return tasks


async def test_submissions_gather_while_followers_write(bench: Bench) -> None:
    tasks = await waiting_for_followers(bench)
    bench.acknowledge("n1", "n2")
    await until(lambda: bench.log.height == 11 and tasks[0].done())
    bench.acknowledge("n1", "n2")
    assert [(await task).height for task in tasks] == [10, 11, 11]


async def test_followers_that_do_not_write_hold_nothing_up_for_long(bench: Bench) -> None:
    tasks = await waiting_for_followers(bench)
    bench.runtime.advance(writer_module.GATHER_S)
    await until(lambda: bench.log.height == 11)
    bench.acknowledge("n3", "n4")
    assert [(await task).height for task in tasks] == [10, 11, 11]


async def test_a_full_block_does_not_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BLOCK_TRANSACTIONS", 1)
    await bench.populate()
    await bench.give_map()
    submit = bench.writer.submit
    tasks = [asyncio.ensure_future(submit(an_append(bench.world, name))) for name in "abc"]
    await until(lambda: bench.log.height == 12)
    bench.acknowledge("n1", "n2")
    assert [(await task).height for task in tasks] == [10, 11, 12]


async def test_what_gathers_is_refused_when_the_writer_stops(bench: Bench) -> None:
    tasks = await waiting_for_followers(bench)
    await bench.writer.stop()
    for task in tasks[1:]:
        with pytest.raises(Unavailable) as caught:
            await task
        assert caught.value.reason == "ledger-stopped"
    with pytest.raises(Unavailable):
        await tasks[0]
    assert bench.log.height == 10


async def test_the_disk_of_the_writer_itself_is_no_follower(bench: Bench) -> None:
    await bench.populate()
    await bench.give_map()
    await bench.writer.stop()
    bench.writer = bench.new_writer(own_account=bench.world.account("n1"))
    await bench.writer.start()
    assert bench.writer.replicated_height == 0
    bench.acknowledge("n1", "n2")
    assert bench.writer.replicated_height == 0
    bench.acknowledge("n3")
    assert bench.writer.replicated_height == 9


# Heads.


async def next_item(
    feed: AsyncIterator[Block | SignedHead | SignedTermChange],
) -> Block | SignedHead:
    item: Block | SignedHead | SignedTermChange
    async with asyncio.timeout(WAIT_S):
        item = await feed.__anext__()
    assert not isinstance(item, SignedTermChange)
    return item


async def test_heads_are_signed_when_nothing_happens(bench: Bench) -> None:
    async with aclosing(bench.writer.subscribe(1)) as feed:
        first = await next_item(feed)
        assert isinstance(first, SignedHead)
        assert (first.height, first.block_hash) == (0, bench.world.genesis.digest)
        for _ in range(4):
            await until(lambda: bench.runtime.waiting == 1)
            bench.runtime.advance(LEASE_S / 3)
            head = await next_item(feed)
            assert isinstance(head, SignedHead)
            head.check(bench.world.genesis.writer_key)
            assert head.time_ms == bench.runtime.now_ms()
            assert bench.log.head == head


async def test_every_block_has_a_head(bench: Bench) -> None:
    async with aclosing(bench.writer.subscribe(1)) as feed:
        await next_item(feed)
        await bench.populate()
        seen = [await next_item(feed) for _ in range(5)]
        blocks = [item for item in seen if isinstance(item, Block)]
        assert [block.header.height for block in blocks] == list(range(1, len(blocks) + 1))
        head = bench.writer.head
        assert head is not None
        assert (head.height, head.block_hash) == (4, bench.log.tip_hash)
        assert head.app_hash == bench.log.app_hash


# Feeds.


async def test_a_late_reader_is_fed_from_the_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_FEED_BLOCKS", 3)
    await bench.populate()
    for number in range(6):
        await bench.writer.submit(an_append(bench.world, f"a{number}"))
    for start in (1, 4, 10, 11):
        async with aclosing(bench.writer.subscribe(start)) as feed:
            for height in range(start, 11):
                item = await next_item(feed)
                assert isinstance(item, Block)
                assert item == bench.log.block(height)
            assert await next_item(feed) == bench.writer.head


async def test_a_slow_reader_gets_every_block_and_the_newest_head(bench: Bench) -> None:
    async with aclosing(bench.writer.subscribe(1)) as feed:
        await next_item(feed)
        await bench.populate()
        for _ in range(3):
            await until(lambda: bench.runtime.waiting >= 1)
            bench.runtime.advance(LEASE_S / 3)
            await until(
                lambda: (
                    bench.writer.head is not None
                    and bench.writer.head.time_ms == bench.runtime.now_ms()
                )
            )
        items = [await next_item(feed) for _ in range(5)]
        assert [type(item) for item in items] == [Block] * 4 + [SignedHead]
        assert items[-1] == bench.writer.head


async def test_a_reader_ahead_of_the_ledger_is_told(bench: Bench) -> None:
    with pytest.raises(Conflict) as caught:
        await next_item(bench.writer.subscribe(2))
    assert caught.value.reason == "follower-ahead"
    with pytest.raises(Invalid):
        await next_item(bench.writer.subscribe(0))


async def test_stopping_ends_feeds_and_refuses_what_waits(bench: Bench) -> None:
    await bench.populate()
    feed = bench.writer.subscribe(5)
    await next_item(feed)
    waiting = asyncio.ensure_future(anext(feed, None))
    held = await hold(bench)
    late = asyncio.ensure_future(bench.writer.submit(an_append(bench.world, "late")))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(bench.writer.stop())
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    await stopping
    assert (await held).height == 5
    with pytest.raises(Unavailable) as caught:
        await late
    assert caught.value.reason == "ledger-stopped"
    while await waiting is not None:
        waiting = asyncio.ensure_future(anext(feed, None))
    with pytest.raises(Unavailable):
        await bench.writer.submit(an_append(bench.world, "later"))
    with pytest.raises(Unavailable):
        await next_item(bench.writer.subscribe(1))
    await bench.restart()
    assert (await bench.writer.submit(an_append(bench.world, "late"))).height == 6


# Refusals and failures.


async def test_only_the_genesis_key_writes(bench: Bench) -> None:
    with pytest.raises(Invalid) as caught:
        LedgerWriter(bench.log, signing_key("thief"), bench.runtime, bench.world.genesis)
    assert caught.value.reason == "wrong-writer-key"


async def test_a_forked_ledger_is_not_written(bench: Bench) -> None:
    await bench.writer.start()
    await bench.writer.stop()
    bench.log.keep_fork(ForkProof(1, b"a", b"b"))
    with pytest.raises(Conflict) as caught:
        await bench.writer.start()
    assert caught.value.reason == "forked"
    assert not bench.writer.running


@pytest.mark.parametrize("lands", [False, True])
async def test_the_writer_waits_for_a_failed_disk(bench: Bench, lands: bool) -> None:
    """What failed may be committed: a repeat tells, and commits it at most once."""
    await bench.populate()
    append = an_append(bench.world, "held")
    break_disk(bench.log, lands=lands)
    await until(lambda: bench.runtime.waiting == 1)
    failed = asyncio.ensure_future(bench.writer.submit(append))
    with pytest.raises(Exhausted) as caught:
        await failed
    assert caught.value.reason == "disk-full"
    assert not bench.writer.running
    await until(lambda: bench.runtime.waiting == 1)
    bench.runtime.advance(1)
    await until(lambda: bench.writer.running)
    assert (await bench.writer.submit(append)).height == 5
    assert (await bench.writer.submit(append)).height == 5
    assert bench.log.height == 5


async def test_a_failed_disk_refuses_what_waits(bench: Bench) -> None:
    await bench.populate()
    break_disk(bench.log)
    held = await hold(bench)
    late = asyncio.ensure_future(bench.writer.submit(an_append(bench.world, "late")))
    await asyncio.sleep(0)
    bench.runtime.gate.set()
    for task in (held, late):
        with pytest.raises(Exhausted) as caught:
            await task
        assert caught.value.reason == "disk-full"
    assert not bench.writer.running
    assert bench.log.height == 4


async def test_a_failed_disk_ends_the_lease(bench: Bench) -> None:
    head = bench.writer.head
    break_disk(bench.log)
    await until(lambda: bench.runtime.waiting == 1)
    bench.runtime.advance(LEASE_S)
    await until(lambda: not bench.writer.running)
    assert bench.writer.head == head


@pytest.mark.parametrize("fault", ["apply", "next_app_hash"])
async def test_a_fault_of_the_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """One transaction that provokes a bug is refused alone; a block that does stops all."""
    await bench.populate()

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(f"hcefs.ledger.machine.{fault}", fail)
        with pytest.raises(Internal) as caught:
            await bench.writer.submit(an_append(bench.world, "a"))
        assert caught.value.reason == "machine-fault"
    assert bench.writer.running == (fault == "apply")
    assert bench.log.height == 4


# kill -9.

_CHILD = """
import asyncio, sys
from pathlib import Path
from hcefs.ledger.writer import LedgerWriter, SubmitResult
from hcefs.runtime import SystemRuntime
from tests.unit.ledger.replicas import an_append, open_log, population
from tests.unit.ledger.scenario import DAY_MS, Scenario, signing_key

async def main():
    world, runtime = Scenario(), SystemRuntime()
    world.time_ms = runtime.now_ms()
    log = open_log(Path(sys.argv[1]), world)
    writer = LedgerWriter(log, signing_key("writer"), runtime, world.genesis)
    await writer.start()
    for transaction in population(world):
        await writer.submit(transaction)

    async def client(name):
        for number in range(100_000):
            put = f"{name}-{number}"
            append = an_append(world, put)
            result = await writer.submit(append)
            sys.stdout.buffer.write(f"{put} {append.hex()} {result.encode().hex()}\\n".encode())
            sys.stdout.buffer.flush()

    await asyncio.gather(*(client(f"c{number}") for number in range(8)))

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: list[tuple[str, str, str]] = []
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert child.stdout is not None
    try:
        while len(acknowledged) < 60:
            put, append, result = child.stdout.readline().decode().split()
            acknowledged.append((put, append, result))
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().decode()
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
    # Whole lines that were in the pipe were acknowledged too.
    for line in rest.splitlines(keepends=True):
        if line.endswith("\n"):
            put, append, result = line.split()
            acknowledged.append((put, append, result))
    log = LedgerLog.open(tmp_path / "log", Scenario().genesis)
    try:
        for put, append, encoded in acknowledged:
            found = log.result_of(SignedTransaction.decode(bytes.fromhex(append)).hash())
            assert found is not None, put
            assert found.encode().hex() == encoded
            assert log.leaf_index(RECORD, seed("commitment " + put)) == found.leaves[0].index
        assert log.verify_chain() == log.height >= 4
    finally:
        log.close()
