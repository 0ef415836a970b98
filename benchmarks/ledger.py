"""``hcefs bench ledger``: what committing, following and deciding cost.

Everything runs in this process, on logs in the work folder: the writer with its
group commit and fsync, and replicas that replay its blocks and persist them as a
node's follower does.  Not measured: gRPC, and the wait for followers.

CPU time is that of this process, RocksDB's own threads included; ``best`` is the
least of the repeats, because noise only adds.  Rates are of the wall clock, except
those "of two cores", which are what the CPU time allows: a writer and six followers
share them, and each of them applies every block.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.goals import Goal
from benchmarks.machine import disk_use, environment
from hcefs.access.facts import AccountKind, Action
from hcefs.access.rights import AccessRequest, decide
from hcefs.crypto.signing import SigningKey, account_id
from hcefs.errors import Corrupt
from hcefs.ids import AccountId, GrantId, PutKey, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger import machine
from hcefs.ledger.block import Block
from hcefs.ledger.genesis import Genesis, OperatorKey
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.rows import AppliedBlock
from hcefs.ledger.transactions import (
    Append,
    AppendEntry,
    GiveGrant,
    OpenRecord,
    Transaction,
    register_account,
    sign_transaction,
)
from hcefs.ledger.writer import LedgerWriter
from hcefs.runtime import SystemRuntime

REPLICAS: Final = 7
"""A writer and six followers."""

CORES: Final = 2
HOUR_MS: Final = 3_600_000
MICRO: Final = 1e6
PUBLIC_KEY: Final = bytes(1216)
"""Of the size of an X-Wing key; the ledger never uses one."""

SIGNED: Final = 2_000
DECISION_US: Final = 50
ENTRIES: Final = 3_000
ENTRY_US: Final = {"one record": 15, "different records": 25}
REPLAYED: Final = 2_000
STATE_BYTES: Final = 500


@dataclass(frozen=True)
class Effort:
    """How much is measured: transactions, entries of an append, grants, and repeats of each."""

    transactions: int
    entries: int
    grants: int
    repeats: int


FULL: Final = Effort(8_192, 1_024, 10_000, 12)
QUICK: Final = Effort(2_048, 1_024, 2_000, 6)

Cost = dict[str, float]
Report = Callable[[str], None]


class Party:
    """An account and its keys, made from a name."""

    def __init__(self, genesis: Genesis | None, name: str) -> None:
        self.signing = signing_key(name)
        self.token = signing_key(f"token of {name}")
        self.account = AccountId.zero()
        if genesis is not None:
            self.account = account_id(genesis.cluster, self.signing.public_key)


def signing_key(name: str) -> SigningKey:
    """A key that everybody can make: for measurements only."""
    return SigningKey.from_seed(blake3_digest(b"benchmark " + name.encode()))


class World:
    """A writer, its log, and the parties of a small ledger."""

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        self.folder = folder
        self.runtime = runtime
        operator = Party(None, "operator")
        writer = signing_key("writer")
        self.genesis = Genesis(
            name="benchmark",
            time_ms=runtime.now_ms() - HOUR_MS,
            operators=(
                OperatorKey(operator.signing.public_key, operator.token.public_key, PUBLIC_KEY),
            ),
            threshold=1,
            writer_key=writer.public_key,
            lease_ms=30_000,
            skew_ms=5_000,
            nonce=blake3_digest(b"benchmark"),
        )
        self.operator = Party(self.genesis, "operator")
        self.clinic = Party(self.genesis, "clinic")
        self.patient = Party(self.genesis, "patient")
        self.doctor = Party(self.genesis, "doctor")
        self.log = LedgerLog.open(folder / "writer", self.genesis)
        self.writer = LedgerWriter(self.log, writer, runtime, self.genesis)
        self._numbers = itertools.count(1)

    def name(self) -> bytes:
        """Sixteen bytes that were not used before."""
        return blake3_digest(next(self._numbers).to_bytes(8, "big"))[:16]

    def sign(self, transaction: Transaction, *parties: Party) -> bytes:
        """The canonical bytes of a signed transaction."""
        signers = [(party.account, 1, party.signing) for party in parties]
        return sign_transaction(transaction, self.genesis.cluster, signers).encode()

    async def submit(self, transactions: Sequence[bytes]) -> None:
        """Commit transactions that wait for each other no more than the writer makes them."""
        await asyncio.gather(*(self.writer.submit(each) for each in transactions))

    async def populate(self) -> RecordId:
        """Admit the parties and open a record."""
        parties = (
            (AccountKind.INSTITUTION, self.clinic, self.operator),
            (AccountKind.PATIENT, self.patient, self.clinic),
            (AccountKind.PRACTITIONER, self.doctor, self.clinic),
        )
        for kind, party, admitter in parties:
            registration = register_account(
                self.genesis.cluster, kind, party.signing, party.token, PUBLIC_KEY
            )
            await self.submit([self.sign(registration, party, admitter)])
        return (await self.open_records(1))[0]

    async def open_records(self, count: int) -> list[RecordId]:
        """New records of the patient."""
        records = [RecordId(self.name()) for _ in range(count)]
        opened = (OpenRecord(record, self.patient.account, PUBLIC_KEY) for record in records)
        await self.submit([self.sign(each, self.patient) for each in opened])
        return records

    def append(self, records: Sequence[RecordId]) -> bytes:
        """A signed append of one entry to each of the records."""
        commit_by_ms = self.runtime.now_ms() + HOUR_MS
        entries = tuple(AppendEntry(record, 0, self.name() * 2, commit_by_ms) for record in records)
        return self.sign(Append(entries, PutKey(self.name())), self.patient)

    def grant(self, record: RecordId) -> tuple[GrantId, bytes]:
        """A grant to the doctor, and its signed transaction."""
        grant = GrantId(self.name())
        given = GiveGrant(
            grant=grant,
            record=record,
            blob=None,
            range_start=0,
            range_length=0,
            grantee=self.doctor.account,
            actions=Action.READ,
            purposes=("TREAT", "ETREAT"),
            not_before_ms=0,
            not_after_ms=self.runtime.now_ms() + 1000 * HOUR_MS,
            parent=None,
        )
        return grant, self.sign(given, self.patient)

    def blocks(self, first: int) -> Iterator[bytes]:
        """The encoded blocks from a height on, as a follower gets them."""
        for height in range(first, self.log.height + 1):
            yield self.log.block(height).encode()


class Replica:
    """A log that replays blocks and persists each of them, as a follower that keeps up."""

    def __init__(self, world: World, name: str) -> None:
        self.path = world.folder / name
        self.genesis = world.genesis
        self.log = LedgerLog.open(self.path, world.genesis)

    def take(self, data: bytes) -> None:
        """Verify one encoded block and persist it."""
        log, block = self.log, Block.decode(data)
        overlay, outcomes = machine.replay(log, block, self.genesis, log.tip)
        facts = overlay.written_facts
        log.append([AppliedBlock(block, overlay.writes, tuple(outcomes), facts)])

    def catch_up(self, world: World) -> list[float]:
        """Take all blocks that are missing; the CPU seconds that each took."""
        costs = []
        for data in world.blocks(self.log.height + 1):
            started = time.process_time()
            self.take(data)
            costs.append(time.process_time() - started)
        return costs

    def reopen(self) -> None:
        """Close the log and open it again: then nothing is remembered."""
        self.log.close()
        self.log = LedgerLog.open(self.path, self.genesis)


def summary(values: Sequence[float], *, most: bool = False) -> Cost:
    """Best and median."""
    return {"best": max(values) if most else min(values), "median": median(values)}


class Run:
    """One run."""

    def __init__(self, world: World, effort: Effort, report: Report) -> None:
        self.world = world
        self.effort = effort
        self.report = report
        self.replica = Replica(world, "replica")
        self.found: dict[str, Cost] = {}

    async def measure(self) -> dict[str, Cost]:
        """Everything, by the name of what was measured."""
        world, effort = self.world, self.effort
        await world.writer.start()
        try:
            record = await world.populate()
            self.report(f"{effort.transactions} signed transactions")
            await self._transactions(record)
            self.report(f"appends of {effort.entries} entries")
            await self._appends("one record", [record] * effort.entries)
            records = await world.open_records(effort.entries)
            await self._appends("different records", records)
            self.report(f"{effort.grants} grants")
            grants = await self._grants(records)
            self.report("decisions from the replica")
            self._decisions(grants)
            self.report("a new replica replays everything")
            self._replay()
        finally:
            await world.writer.stop()
            world.log.close()
            self.replica.log.close()
        return self.found

    async def _transactions(self, record: RecordId) -> None:
        """Transactions with one entry each; as many wait as the writer takes into a block."""
        count = self.effort.transactions // self.effort.repeats
        rates, costs = [], []
        for _ in range(self.effort.repeats):
            signed = [self.world.append([record]) for _ in range(count)]
            started, cpu = time.perf_counter(), time.process_time()
            await self.world.submit(signed)
            costs.append((time.process_time() - cpu) / count * MICRO)
            rates.append(count / (time.perf_counter() - started))
        self.found["signed transactions committed / s"] = summary(rates, most=True)
        self.found["signed transaction, writer: CPU us"] = summary(costs)
        singles = []
        self.replica.catch_up(self.world)
        for _ in range(self.effort.repeats):
            await self.world.submit([self.world.append([record])])
            singles += self.replica.catch_up(self.world)
        self.found["block with one entry, follower: CPU us"] = summary(
            [cost * MICRO for cost in singles]
        )

    async def _appends(self, name: str, records: Sequence[RecordId]) -> None:
        """Appends of many entries, one after the other."""
        self.replica.catch_up(self.world)
        rates, writer, follower = [], [], []
        for _ in range(self.effort.repeats):
            signed = self.world.append(records)
            started, cpu = time.perf_counter(), time.process_time()
            await self.world.submit([signed])
            writer.append((time.process_time() - cpu) / len(records) * MICRO)
            rates.append(len(records) / (time.perf_counter() - started))
            follower += [cost / len(records) * MICRO for cost in self.replica.catch_up(self.world)]
        self.found[f"entries of one append, {name}: committed / s"] = summary(rates, most=True)
        self.found[f"entry, {name}, writer: CPU us"] = summary(writer)
        self.found[f"entry, {name}, follower: CPU us"] = summary(follower)
        shared = [
            CORES * MICRO / (one + (REPLICAS - 1) * each)
            for one, each in zip(writer, follower, strict=True)
        ]
        self.found[f"entries, {name}: / s of two cores"] = summary(shared, most=True)

    async def _grants(self, records: Sequence[RecordId]) -> list[tuple[RecordId, GrantId]]:
        """Grants on the records in turn, and what they take on disk."""
        self.replica.catch_up(self.world)
        before = self._stored()
        named, signed = [], []
        for record in itertools.islice(itertools.cycle(records), self.effort.grants):
            grant, transaction = self.world.grant(record)
            named.append((record, grant))
            signed.append(transaction)
        await self.world.submit(signed)
        self.replica.catch_up(self.world)
        after = self._stored()
        for name in before:
            each = (after[name] - before[name]) / self.effort.grants
            self.found[f"grant, {name}: bytes"] = summary([each])
        self.found["a million grants, state: MiB"] = summary(
            [self.found["grant, state: bytes"]["best"] * 1e6 / (1 << 20)]
        )
        return named

    def _stored(self) -> dict[str, int]:
        """Bytes of the state and of the blocks, and those of the replica's files."""
        log = self.replica.log
        state = sum(len(key) + len(value) for key, value in log.scan(b""))
        blocks = sum(len(log.block(height).encode()) for height in range(1, log.height + 1))
        # Opening writes what is only in RocksDB's own log into tables.
        self.replica.reopen()
        files = disk_use(self.replica.path)
        return {"state": state, "blocks": blocks, "files": files.length}

    def _decisions(self, grants: Sequence[tuple[RecordId, GrantId]]) -> None:
        """Decisions about reading under each grant: when its facts are on disk, and after."""
        cold: list[float] = []
        warm: list[float] = []
        doctor, now_ms = self.world.doctor.account, self.world.runtime.now_ms()
        requests = [
            AccessRequest(Action.READ, record, None, 0, 0, "TREAT", doctor, doctor, grant)
            for record, grant in grants
        ]
        for _ in range(self.effort.repeats):
            self.replica.reopen()
            for costs in (cold, warm):
                costs.append(decision_us(self.replica.log, requests[:MEASURED], now_ms))
        self.found["decision, facts on disk: CPU us"] = summary(cold)
        self.found["decision, facts remembered: CPU us"] = summary(warm)

    def _replay(self) -> None:
        """A fresh replica takes all blocks; the CPU of the whole."""
        replica = Replica(self.world, "fresh")
        count = sum(len(Block.decode(data).transactions) for data in self.world.blocks(1))
        try:
            seconds = sum(replica.catch_up(self.world))
            if replica.log.app_hash != self.world.log.app_hash:
                raise Corrupt("the replica has another state", reason="diverged")
        finally:
            replica.log.close()
        self.found["transactions replayed / CPU s"] = summary([count / seconds], most=True)


MEASURED: Final = 2_000
"""Decisions in one repeat; their facts fit into what a log remembers."""


def decision_us(log: LedgerLog, requests: Sequence[AccessRequest], now_ms: int) -> float:
    """CPU of one decision, look-ups included.

    Raises:
        Corrupt: one is not permitted.
    """
    started = time.process_time()
    permitted = sum(decide(log, request, now_ms).permitted for request in requests)
    spent = time.process_time() - started
    if permitted != len(requests):
        raise Corrupt("a grant does not permit what it grants", reason="diverged")
    return spent / len(requests) * MICRO


def goals(found: dict[str, Cost]) -> list[Goal]:
    """The figures to reach."""

    def best(name: str) -> float | None:
        return found[name]["best"] if name in found else None

    at_least = [("signed transactions committed / s", SIGNED)]
    at_most: list[tuple[str, float]] = []
    for name, entry_us in ENTRY_US.items():
        at_least.append((f"entries of one append, {name}: committed / s", ENTRIES))
        at_least.append((f"entries, {name}: / s of two cores", ENTRIES))
        at_most.append((f"entry, {name}, follower: CPU us", entry_us))
    at_least.append(("transactions replayed / CPU s", REPLAYED))
    at_most.append(("decision, facts remembered: CPU us", DECISION_US))
    at_most.append(("decision, facts on disk: CPU us", DECISION_US))
    at_most.append(("grant, state: bytes", STATE_BYTES))
    return [
        *(Goal(name, bound, True, best(name)) for name, bound in at_least),
        *(Goal(name, bound, False, best(name)) for name, bound in at_most),
    ]


async def run(
    folder: Path, effort: Effort, runtime: SystemRuntime, report: Report, *, quick: bool
) -> dict[str, Any]:
    """Measure everything and compare it with the goals."""
    started = runtime.monotonic()
    found = await Run(World(folder, runtime), effort, report).measure()
    return {
        "benchmark": "ledger",
        "quick": quick,
        "seconds": runtime.monotonic() - started,
        "environment": environment(folder),
        "settings": {
            "transactions": effort.transactions,
            "entries": effort.entries,
            "grants": effort.grants,
            "repeats": effort.repeats,
        },
        "ledger": found,
        "goals": [goal.as_data() for goal in goals(found)],
    }
