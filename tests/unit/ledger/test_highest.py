"""The highest replica is copied from whoever has its blocks; others give what it lacks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from hcefs.errors import NotFound, Unavailable
from hcefs.ids import AccountId
from hcefs.ledger.highest import Copied, ask_all, copy_highest
from hcefs.ledger.link import BlockBytes, TermBytes
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.recovery import ReplicaAnswer
from tests.unit.ledger.scenario import Scenario
from tests.unit.ledger.test_snapshot import NoWaiting, served

HEIGHT = 10


@dataclass
class Replica:
    """What one claims and has."""

    height: int
    first: int = 1
    superseded: bytes = b""
    away: bool = False

    @property
    def account(self) -> AccountId:
        return AccountId(bytes([self.height, self.first]) * 8)


@dataclass
class Nodes:
    """Replicas with blocks of one log."""

    log: LedgerLog
    nodes: dict[str, Replica]
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def describe(self, account: AccountId | None, address: str) -> ReplicaAnswer:
        node = self.nodes[address]
        if node.away:
            raise Unavailable("away", reason="unreachable")
        return ReplicaAnswer(
            node.account, node.height, b"", b"", (), "following", "", superseded=node.superseded
        )

    async def blocks(
        self, account: AccountId | None, address: str, from_height: int, last_height: int
    ) -> AsyncGenerator[BlockBytes | TermBytes, None]:
        self.asked.append((address, from_height))
        node = self.nodes[address]
        if from_height < node.first:
            raise NotFound("began with a snapshot", reason="before-snapshot")
        for height in range(from_height, last_height + 1):
            yield BlockBytes(self.log.block(height).encode())


@dataclass
class Bench:
    log: LedgerLog
    empty: LedgerLog
    runtime: NoWaiting

    async def copy(self, **nodes: Replica) -> tuple[Copied, Nodes]:
        replicas = Nodes(self.log, nodes)
        answers = await ask_all(replicas, nodes, self.runtime)
        return await copy_highest(self.empty, replicas, answers, self.runtime), replicas


@pytest.fixture
def runtime() -> Iterator[NoWaiting]:
    made = NoWaiting()
    yield made
    made.close()


@pytest_asyncio.fixture
async def bench(tmp_path: Path, runtime: NoWaiting) -> Bench:
    world = Scenario()
    log, _ = await served(tmp_path, world, runtime)
    assert (log.base_height, log.height) == (0, HEIGHT)
    return Bench(log, LedgerLog.open(tmp_path / "empty", world.genesis), runtime)


@pytest.fixture(autouse=True)
def closed(bench: Bench) -> Iterator[None]:
    yield
    bench.log.close()
    bench.empty.close()


async def test_the_highest_is_copied_and_the_others_are_not_asked(bench: Bench) -> None:
    copied, nodes = await bench.copy(a=Replica(9), b=Replica(HEIGHT), c=Replica(HEIGHT))
    assert copied == Copied(Replica(HEIGHT).account)
    assert bench.empty.height == HEIGHT
    assert bench.empty.tip_hash == bench.log.tip_hash
    assert nodes.asked == [("b", 1)]


async def test_old_blocks_come_from_another_and_the_rest_from_the_highest(bench: Bench) -> None:
    copied, nodes = await bench.copy(a=Replica(HEIGHT, first=9), b=Replica(8), c=Replica(7))
    assert copied == Copied(Replica(HEIGHT, first=9).account)
    assert bench.empty.height == HEIGHT
    assert nodes.asked == [("a", 1), ("b", 1), ("a", 9)]


async def test_a_snapshot_that_nobody_reaches_is_named(bench: Bench) -> None:
    copied, _ = await bench.copy(a=Replica(9, first=8), b=Replica(HEIGHT, first=9), c=Replica(3))
    assert copied == Copied(Replica(3).account, "b")
    assert bench.empty.height == 3


async def test_replicas_that_do_not_count_or_do_not_answer_are_left_out(bench: Bench) -> None:
    copied, nodes = await bench.copy(
        a=Replica(HEIGHT, superseded=b"term"), b=Replica(9, away=True), c=Replica(4)
    )
    assert copied == Copied(Replica(4).account)
    assert nodes.asked == [("c", 1)]
    again, _ = await bench.copy(c=Replica(4))
    assert again == Copied(None)
