"""Logs, a clock that is moved by hand, and the transactions of a small cluster."""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from hcefs.access.facts import AccountKind
from hcefs.ledger.log import AppliedBlock, LedgerLog
from hcefs.ledger.transactions import SetClusterMap
from hcefs.runtime import SystemRuntime
from tests.unit.ledger.scenario import START_MS, Scenario
from tests.unit.ledger.test_machine_map import NAMES, first_map

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WAIT_S = 20.0
"""A test fails after this long; none is ever meant to wait for it."""


class ManualRuntime(SystemRuntime):
    """Real threads, but time stands still until ``advance``; disk calls can be held."""

    def __init__(self) -> None:
        super().__init__(compute_threads=1)
        self.wall_ms = START_MS + 1_000
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._timeouts: list[tuple[float, asyncio.Timeout]] = []
        self._count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.held = asyncio.Event()

    def now_ms(self) -> int:
        return self.wall_ms + round(self._elapsed * 1000)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._count, future))
        await future

    @asynccontextmanager
    async def _timeout(self, seconds: float | None) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as made:
            entry = (self._elapsed + (math.inf if seconds is None else seconds), made)
            self._timeouts.append(entry)
            try:
                yield
            finally:
                self._timeouts.remove(entry)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return self._timeout(seconds)

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if not self.gate.is_set():
            self.held.set()
        return await super().disk(self._behind_gate, function, args)

    def _behind_gate(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        if not self.gate.wait(WAIT_S):
            raise AssertionError("the gate was never opened")
        return function(*args)

    @property
    def waiting(self) -> int:
        """How many timeouts and sleeps are pending."""
        sleepers = [entry for entry in self._sleepers if not entry[2].done()]
        return len(self._timeouts) + len(sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass: whoever slept or waited that long goes on."""
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
        now = asyncio.get_running_loop().time()
        for deadline, made in self._timeouts:
            if deadline <= self._elapsed:
                made.reschedule(now)


async def until(condition: Callable[[], bool]) -> None:
    """Let tasks and threads run until something holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.to_thread(threading.Event().wait, 0.002)


def open_log(folder: Path, world: Scenario) -> LedgerLog:
    return LedgerLog.open(folder, world.genesis)


def make_block(world: Scenario, transactions: Sequence[bytes]) -> AppliedBlock:
    """The next block of the scenario, which then counts as applied there."""
    block, overlay, outcomes = world.next_block(transactions)
    world.state.write(overlay.writes)
    world.header = block.header
    world.app_hash = block.header.app_hash
    return AppliedBlock(block, overlay.writes, tuple(outcomes))


def population(world: Scenario) -> list[bytes]:
    """Transactions that make an institution, a patient with the record ``r`` and a doctor."""
    parties = (
        ("clinic", AccountKind.INSTITUTION, ("o1", "o2")),
        ("pat", AccountKind.PATIENT, ("clinic",)),
        ("doc", AccountKind.PRACTITIONER, ("clinic",)),
    )
    made = [
        world.sign(world.registration(name, kind), name, *admitters).encode()
        for name, kind, admitters in parties
    ]
    return [*made, world.sign(world.opening("r", "pat"), "pat").encode()]


def an_append(world: Scenario, name: str, *commitments: str) -> bytes:
    """The patient appends to the record ``r``."""
    entries = [world.entry(commitment) for commitment in commitments or (name,)]
    return world.sign(world.append(name, *entries), "pat").encode()


def nodes_and_map(world: Scenario) -> tuple[list[bytes], bytes]:
    """Registrations of four nodes, and the transaction of the first map with them."""
    nodes = [
        world.sign(world.registration(name, AccountKind.NODE), name, "o1", "o2").encode()
        for name in NAMES
    ]
    change = SetClusterMap(0, first_map(world).encode())
    return nodes, world.sign(change, "o1", "o2").encode()
