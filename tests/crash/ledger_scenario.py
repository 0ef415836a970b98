"""A writer and two followers, each with its log, that die together in the middle of a block."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

from hcefs.crashpoints import CrashPoint
from hcefs.ledger.follower import Follower
from hcefs.ledger.link import LocalLink
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.transactions import SignedTransaction
from hcefs.ledger.writer import LedgerWriter
from hcefs.runtime import SystemRuntime
from tests.crash.scenarios import Scenario
from tests.crash.world import Journal
from tests.unit.ledger.replicas import an_append, nodes_and_map, open_log, population, until
from tests.unit.ledger.scenario import Scenario as Facts
from tests.unit.ledger.scenario import signing_key

FOLLOWERS = ("n1", "n2")
P = CrashPoint


class Ledger(Scenario):
    """Two transactions are committed, with a head between them."""

    name = "ledger"
    points: ClassVar[Mapping[CrashPoint, tuple[int, ...]]] = {
        P.BLOCK_SIGNED: (1, 2),
        P.BLOCK_WRITTEN: (1, 2),
        P.HEAD_SIGNED: (1, 2),
        P.HEAD_WRITTEN: (1, 2),
        P.FOLLOWED_VERIFIED: (1, 2, 3),
        P.FOLLOWED_WRITTEN: (1, 2, 4),
        P.FOLLOWED_TOLD: (1, 3, 4),
    }

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        super().__init__(folder, runtime)
        self.facts = Facts()
        self.facts.time_ms = runtime.now_ms()
        # Parties are what they are first named as.
        self.people = (*population(self.facts), *(made := nodes_and_map(self.facts))[0], made[1])
        self.journal = Journal(folder / "journal")
        self.logs = {name: open_log(folder / name, self.facts) for name in ("writer", *FOLLOWERS)}

    def close(self) -> None:
        for log in self.logs.values():
            log.close()

    @property
    def log(self) -> LedgerLog:
        return self.logs["writer"]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LedgerWriter]:
        """A writer with its followers."""
        genesis = self.facts.genesis
        writer = LedgerWriter(self.log, signing_key("writer"), self.runtime, genesis)
        await writer.start()
        followers = [
            Follower(
                self.logs[name], genesis, self.runtime,
                LocalLink(writer, self.facts.account(name), self.runtime),
            )
            for name in FOLLOWERS
        ]  # fmt: skip
        for follower in followers:
            await follower.start()
        try:
            yield writer
        finally:
            for follower in followers:
                await follower.stop()
            await writer.stop()

    async def submit(self, writer: LedgerWriter, transaction: bytes) -> None:
        """It is noted with its result once that was given."""
        self.journal.note(("begun", transaction))
        result = await writer.submit(transaction)
        self.journal.note(("done", transaction, result.encode()))

    async def prepare(self) -> None:
        async with self.running() as writer:
            for transaction in self.people:
                await self.submit(writer, transaction)
            await self.submit(writer, an_append(self.facts, "before"))
            await until(lambda: len({log.height for log in self.logs.values()}) == 1)

    async def act(self) -> None:
        async with self.running() as writer:
            await self.submit(writer, an_append(self.facts, "first"))
            await writer._renew_head()
            await self.submit(writer, an_append(self.facts, "second"))
            await until(lambda: len({log.height for log in self.logs.values()}) == 1)

    async def check(self) -> list[str]:
        found = self._faults()
        async with self.running() as writer:
            for note in self.journal.notes():
                result = await writer.submit(note[1])
                if note[0] == "done" and result.encode() != note[2]:
                    found.append("a repeat has another result than the one that was given")
            await self.submit(writer, an_append(self.facts, "after"))
            await until(lambda: len({log.height for log in self.logs.values()}) == 1)
        if len({log.tip_hash for log in self.logs.values()}) != 1:
            found.append("the logs end in different blocks")
        return found + self._faults()

    def _faults(self) -> list[str]:
        """What is wrong with the logs as they lie there."""
        found = []
        for name, log in self.logs.items():
            if log.verify_chain() != log.height:
                found.append(f"{name}'s chain does not verify to its height")
            if log.height > self.log.height:
                found.append(f"{name} is ahead of the writer: a block was lost")
            if log.height and log.block_hash(log.height) != self.log.block_hash(log.height):
                found.append(f"{name} has another block {log.height} than the writer")
            head = log.head
            if head is not None and head.height > self.log.height:
                found.append(f"{name} knows a head of a block that the writer has not")
            if log.fork() is not None:
                found.append(f"{name} holds the proof of a fork")
        for note in self.journal.notes():
            if note[0] != "done":
                continue
            hashed = SignedTransaction.decode(note[1]).hash()
            have = [name for name, log in self.logs.items() if log.result_of(hashed) is not None]
            if self.log.cluster_map() is not None and len(have) < 3:
                found.append(f"what was acknowledged is only at {have}")
        return found
