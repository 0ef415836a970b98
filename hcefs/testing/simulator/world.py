"""The simulated cluster: one ledger and its nodes, each on a machine of its own, and accounts.

Owns what starts, kills and restarts them, and the way of every client.  Nodes 1 to
:data:`MEMBERS` are in the first map; the others are registered and run, as spares.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hcefs.access.facts import AccountKind
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.config import LimitsConfig, UpkeepConfig
from hcefs.crypto import signing
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger.block import PROTOCOL_FIRST, PROTOCOL_NEWEST
from hcefs.ledger.genesis import Genesis, OperatorKey
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.snapshot import SnapshotRule
from hcefs.ledger.transactions import (
    SetClusterMap,
    SignedTransaction,
    Transaction,
    Upgrade,
    sign_transaction,
)
from hcefs.node.ledger_link import GrpcLedgerLink
from hcefs.node.ledger_node import LedgerNode
from hcefs.node.ledger_submit import LedgerSubmitter
from hcefs.node.storage_node import NodeParts, StorageNode
from hcefs.placement import cluster_map, planner
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import first_map
from hcefs.store.files import Drive, open_stores
from hcefs.testing.simulator.certificates import AUTHORITY, CERTIFICATES
from hcefs.testing.simulator.clock import VirtualLoop
from hcefs.testing.simulator.database import Batch, SimDatabase, Table
from hcefs.testing.simulator.files import Platter, SimDisk
from hcefs.testing.simulator.machine import START_MS, Life, Machine, install
from hcefs.testing.simulator.network import Network, Port, SimDialer, spki_of
from hcefs.testing.simulator.trace import Trace
from hcefs.upkeep import watch

T = TypeVar("T")

PARTITION_BITS = 3
"""Eight partitions a profile in the place of 256: upkeep goes over all of them all the time."""

PING_SECONDS = 6.0
"""Between two rounds of pings: they are most of what an idle cluster does."""

CLOSING_ROUNDS = 4

MEMBERS = 6
SPARES = 1
LEASE_MS = 10_000
SKEW_MS = 5_000
SNAPSHOTS = SnapshotRule(every=64, delay=16)
"""So often that a run has some, which all replicas compare."""

DISK_BYTES = 256 << 20
PROFILES = [("ec-4-2", 4, 2), ("copy-3", 1, 2)]
DATA = Path("/data")

LIMITS = LimitsConfig(streams=64, put_deadline_s=5.0, reserve_mib=40)
UPKEEP = UpkeepConfig(
    rate_min_mib=16.0,
    rate_max_mib=512.0,
    grace_s=60.0,
    round_s=150.0,
    scrub_cycle_s=150.0,
    quarantine_s=3600.0,
)
"""Rounds and grace are shorter than in production: a simulation has minutes, not days."""


@dataclass
class Storage:
    """What is on one machine's disk."""

    platter: Platter
    rows: Table
    keys: Table
    ledger: Table

    @classmethod
    def empty(cls, seed: str) -> Storage:
        """A new disk."""
        return cls(
            Platter(seed + "/files", DISK_BYTES),
            Table(seed + "/rows"),
            Table(seed + "/keys"),
            Table(seed + "/ledger"),
        )

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        """Its databases."""
        return self.rows, self.keys, self.ledger

    def cut_power(self) -> None:
        """What is left after it."""
        self.platter.cut_power()
        for table in self.tables:
            table.cut_power()

    def heal(self) -> None:
        """The disk works and has room."""
        self.platter.fails = 0.0
        self.platter.crash_after = -1
        self.platter.capacity_bytes = self.platter.total_bytes
        for table in self.tables:
            table.fails = 0.0
            table.is_full = False
            table.crash_after = -1


@dataclass
class SimNode:
    """One storage node: its machine, its disk and, while it runs, its process."""

    number: int
    machine: Machine
    keys: AccountKeys
    certificate: bytes
    storage: Storage
    life: Life | None = None
    node: StorageNode | None = None
    disks: int = 1

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.machine.name

    @property
    def account(self) -> AccountId:
        """The node's account."""
        return self.keys.account

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.life is not None and self.life.alive

    @property
    def client_address(self) -> str:
        """Where clients call."""
        return f"10.0.0.{self.number}:7000"

    @property
    def peer_address(self) -> str:
        """Where nodes call."""
        return f"10.0.0.{self.number}:7001"

    def map_node(self, state: NodeState) -> Node:
        """The node as a map names it."""
        return Node(
            self.number,
            self.account,
            self.client_address,
            self.peer_address,
            f"zone-{self.number % 3}",
            "",
            f"host-{self.number}",
            100,
            state,
        )


@dataclass
class SimLedger:
    """The ledger's machine and, while it runs, its process."""

    machine: Machine
    keys: AccountKeys
    table: Table
    life: Life | None = None
    node: LedgerNode | None = None
    client_address: str = "10.0.1.1:7100"
    peer_address: str = "10.0.1.1:7101"
    started: float = 0.0
    disks: int = 1
    is_lost: bool = False
    """Whether its disk is gone, and no new term has begun."""

    recovery: asyncio.Task[None] | None = None
    """What operators do about it."""

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.life is not None and self.life.alive


@dataclass
class Person:
    """An account that calls, on a machine of its own."""

    name: str
    keys: AccountKeys
    machine: Machine
    life: Life
    client: Client


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        install(self.loop)
        self.trace = Trace(self.loop)
        self.random = random.Random(f"{seed}/world")
        self.network = Network(self.loop, f"{seed}/network", self.trace.call)
        self.nodes: list[SimNode] = []
        self.people: dict[str, Person] = {}
        self.genesis_keys = [self._keys(ClusterId.zero()) for _ in range(2)]
        writer = self._keys(ClusterId.zero())
        self.genesis = Genesis(
            "simulation",
            START_MS,
            tuple(
                OperatorKey(
                    keys.signing_key.public_key,
                    keys.token_key.public_key,
                    keys.receiving_key.public_key,
                )
                for keys in self.genesis_keys
            ),
            2,
            writer.signing_key.public_key,
            LEASE_MS,
            SKEW_MS,
            self.random.randbytes(16),
        )
        self.cluster = self.genesis.cluster
        self.operator_keys = [
            dataclasses.replace(keys, cluster=self.cluster) for keys in self.genesis_keys
        ]
        machine = Machine(self.loop, str(seed), "ledger")
        self.ledger = SimLedger(machine, writer, Table(f"{seed}/ledger/log"))
        self.connection = Connection(self.cluster, AUTHORITY, self.ledger.client_address)

    def _keys(self, cluster: ClusterId) -> AccountKeys:
        return AccountKeys.generate(cluster, self.random.randbytes(128))

    # -- processes

    def start_ledger(self) -> None:
        """Start the ledger's process."""
        ledger = self.ledger
        life = ledger.life = Life(ledger.machine)
        ledger.started = self.loop.time()
        life.on_end.append(lambda: self._died(life))
        log = self.open_ledger_log(ledger.table, life)
        certificate = CERTIFICATES[0]
        dialer = SimDialer(self.network, life, certificate)
        key = ledger.keys.signing_key
        node = ledger.node = LedgerNode(life.runtime, self.genesis, key, log, dialer)
        spki = spki_of(certificate)
        for address, handlers, is_mutual in (
            (ledger.client_address, node.client_handlers, False),
            (ledger.peer_address, node.peer_handlers, True),
        ):
            self.network.listen(address, Port(life, handlers, spki, is_mutual))
        life.start(node.start(), "start")
        self.trace.note("ledger starts")

    def open_ledger_log(self, table: Table, life: Life) -> LedgerLog:
        """The log of the ledger itself, on its machine."""
        return self._open_log(DATA, table, life)

    def new_writer_keys(self) -> AccountKeys:
        """Keys of a writer of another term."""
        return self._keys(self.cluster)

    def lose_ledger_disk(self) -> None:
        """The ledger's machine has an empty disk, and does not start by itself."""
        self.kill_ledger()
        self.ledger.table = Table(f"{self.seed}/ledger/lost")
        self.ledger.is_lost = True
        self.trace.note("the ledger has lost its disk")

    def _open_log(self, path: Path, table: Table, life: Life) -> LedgerLog:
        def opener(path: Path) -> Any:
            return SimDatabase(table, life)

        def batch() -> Any:
            return Batch()

        def free(path: Path) -> int:
            return 0 if table.is_full else 1 << 40

        return LedgerLog.open(
            path, self.genesis, opener=opener, batch=batch, free=free, snapshots=SNAPSHOTS
        )

    def kill_ledger(self, *, power: bool = False) -> None:
        """End the ledger's process at once."""
        if self.ledger.life is not None:
            self.ledger.life.end()
        if power:
            self.ledger.table.cut_power()
        self.trace.note("ledger is killed")

    def start_node(self, node: SimNode) -> None:
        """Start a node's process on what its disk holds."""
        life = Life(node.machine)
        life.on_end.append(lambda: self._died(life))
        node.life = life
        storage = node.storage
        drive = Drive(
            SimDisk(storage.platter, life),
            lambda _: SimDatabase(storage.rows, life),
            lambda _: SimDatabase(storage.keys, life),
            Batch,
        )
        dialer = SimDialer(self.network, life, node.certificate)
        log = self._open_log(DATA / "ledger", storage.ledger, life)
        made = StorageNode(
            NodeParts(
                life.runtime,
                self.genesis,
                node.keys,
                open_stores(DATA, reserve_bytes=LIMITS.reserve_mib << 20, drive=drive),
                log,
                GrpcLedgerLink(life.runtime, self.ledger.peer_address, dialer),
                LedgerSubmitter(life.runtime, self.ledger.peer_address, dialer),
                dialer,
                LIMITS,
                UPKEEP,
            )
        )
        node.node = made
        spki = spki_of(node.certificate)
        self.network.listen(node.client_address, Port(life, made.client_handlers, spki, False))
        self.network.listen(node.peer_address, Port(life, made.peer_handlers, spki, True))
        life.start(made.start(), "start")
        self.trace.note(f"{node.name} starts")

    def kill_node(self, node: SimNode, *, power: bool = False) -> None:
        """End a node's process at once; with ``power``, un-synchronised writes may go too."""
        if node.life is not None:
            node.life.end()
        if power:
            node.storage.cut_power()
        self.trace.note(f"{node.name} {'loses power' if power else 'is killed'}")

    def replace_disk(self, node: SimNode) -> None:
        """The node comes back with an empty disk."""
        node.disks += 1
        node.storage = Storage.empty(f"{self.seed}/{node.name}/disk{node.disks}")
        self.trace.note(f"{node.name} has lost its disk")

    def _died(self, life: Life) -> None:
        self.network.ended(life)

    # -- accounts

    def person(self, name: str, keys: AccountKeys) -> Person:
        """An account with a client, on a machine of its own."""
        machine = Machine(self.loop, str(self.seed), name)
        life = Life(machine)
        dialer = SimDialer(self.network, life, None)
        client = Client(self.connection, keys, life.runtime, dialer)
        made = self.people[name] = Person(name, keys, machine, life, client)
        return made

    async def on(self, person: Person, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run what a person does as a task of their machine."""
        return await person.life.start(coroutine, person.name)

    async def decree(self, transaction: Transaction) -> None:
        """Submit what only the operators together may."""
        operator = self.people["operator-1"]
        signers = [(keys.account, 1, keys.signing_key) for keys in self.operator_keys]
        signed = sign_transaction(transaction, self.cluster, signers)
        await self.on(operator, _submit(operator.client, signed))

    # -- bring-up

    async def build(self) -> None:
        """Everything up to a cluster that serves and people with accounts."""
        for number, keys in enumerate(self.operator_keys, 1):
            self.person(f"operator-{number}", keys)
        self.start_ledger()
        await asyncio.sleep(0.1)
        for version in range(PROTOCOL_FIRST + 1, PROTOCOL_NEWEST + 1):
            await self.decree(Upgrade(version, self.log.height + 2))
        for number in range(1, MEMBERS + SPARES + 1):
            await self.add_node(number)
        members = [node.map_node(NodeState.UP) for node in self.nodes[:MEMBERS]]
        first = first_map(members, PROFILES, self.random.randbytes(32), "ec-4-2")
        await self.decree(SetClusterMap(0, first.encode()))
        await self._admit()
        await self.until(
            lambda: all(node.node.able() for node in self.nodes[:MEMBERS] if node.node), 60
        )

    async def add_node(self, number: int) -> SimNode:
        """Register a node and start it."""
        machine = Machine(self.loop, str(self.seed), f"node-{number}")
        storage = Storage.empty(f"{self.seed}/node-{number}/disk1")
        node = SimNode(number, machine, self._keys(self.cluster), CERTIFICATES[number], storage)
        self.nodes.append(node)
        await self._register(node.keys, AccountKind.NODE, spki_of(node.certificate))
        self.start_node(node)
        return node

    async def _register(self, keys: AccountKeys, kind: AccountKind, spki: bytes = b"") -> None:
        one, other = self.people["operator-1"], self.people["operator-2"]

        async def register() -> None:
            signed = await one.client.register(keys, kind, spki=spki)
            await _submit(one.client, one.client.cosign(other.client.cosign(signed)))

        await self.on(one, register())

    async def _admit(self) -> None:
        hospital = self.person("hospital", self._keys(self.cluster))
        await self._register(hospital.keys, AccountKind.INSTITUTION)
        for name, kind in (
            ("doctor", AccountKind.PRACTITIONER),
            ("nurse", AccountKind.PRACTITIONER),
            ("patient", AccountKind.PATIENT),
            ("device", AccountKind.DEVICE),
        ):
            person = self.person(name, self._keys(self.cluster))
            signed = await hospital.client.register(person.keys, kind)
            await self.on(hospital, _submit(hospital.client, hospital.client.cosign(signed)))

    # -- what is seen from outside

    @property
    def log(self) -> LedgerLog:
        """The writer's log, whoever is dead."""
        if self.ledger.node is None:
            raise Unavailable("the ledger never started", reason="not-started")
        return self.ledger.node.log

    def map(self) -> ClusterMap:
        """The map in force."""
        found = self.log.cluster_map()
        if found is None:
            raise Unavailable("there is no map", reason="no-map")
        return found

    def node_of(self, account: AccountId) -> SimNode:
        """The node of an account."""
        return next(node for node in self.nodes if node.account == account)

    def applied_height(self, account: AccountId) -> int:
        """How much of the ledger a node has applied; 0 while it does not run."""
        node = self.node_of(account)
        return node.node.follower.view.height if node.is_up and node.node is not None else 0

    async def until(self, holds: Callable[[], bool], seconds: float, every: float = 0.25) -> bool:
        """Wait until something is so; whether it came so."""
        end = self.loop.time() + seconds
        while not holds():
            if self.loop.time() >= end:
                return False
            await asyncio.sleep(every)
        return True

    def machines(self) -> list[Machine]:
        """Everybody's."""
        return [
            self.ledger.machine,
            *(node.machine for node in self.nodes),
            *(person.machine for person in self.people.values()),
        ]

    def close(self) -> None:
        """End all lives and the loop."""
        lives = [self.ledger.life, *(node.life for node in self.nodes)]
        for life in [*lives, *(person.life for person in self.people.values())]:
            if life is not None:
                life.end()
        # What was cancelled runs on to its end; some wait for others, or ask to wait again.
        for _ in range(CLOSING_ROUNDS):
            left = asyncio.all_tasks(self.loop)
            if not left:
                break
            for task in sorted(left, key=hash):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self.loop.run_until_complete(asyncio.sleep(0.001))
        for left_over in asyncio.all_tasks(self.loop):
            left_over._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop.close()

    def heal(self) -> None:
        """End every fault, and start what does not run."""
        self.network.heal()
        for machine in (self.ledger.machine, *(node.machine for node in self.nodes)):
            machine.offset_ms = 0
            machine.disk_seconds = (0.0, 0.002)
        self.ledger.table.fails = 0.0
        self.ledger.table.is_full = False
        for node in self.nodes:
            node.storage.heal()
        if not self.ledger.is_up and not self.ledger.is_lost:
            self.start_ledger()


class CheckedOnce:
    """A verifying key that remembers what it has found good: seven nodes ask the same."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self._good: set[tuple[bytes, bytes]] = set()

    def verify(self, signature: bytes, signed: bytes) -> None:
        """As the library's: raises for what is not good."""
        if (signature, signed) not in self._good:
            self._key.verify(signature, signed)
            self._good.add((signature, signed))


@contextlib.contextmanager
def scaled() -> Iterator[None]:
    """Let maps be small and nodes ping each other less often, for as long as one is simulated.

    And a signature that one node found good is not computed again for the others.
    """
    maps: Any = cluster_map
    plans: Any = planner
    watching: Any = watch
    signs: Any = signing
    before = maps.BITS_MIN, plans.partition_bits, watching.ROUND_SECONDS
    known = signs._verifying_key
    signs._verifying_key = functools.lru_cache(None)(lambda key: CheckedOnce(known(key)))
    maps.BITS_MIN, plans.partition_bits = PARTITION_BITS, lambda nodes, n: PARTITION_BITS
    watching.ROUND_SECONDS = PING_SECONDS
    try:
        yield
    finally:
        maps.BITS_MIN, plans.partition_bits, watching.ROUND_SECONDS = before
        signs._verifying_key = known


async def _submit(client: Client, signed: SignedTransaction) -> None:
    """Submit; while few followers run, a committed transaction may be called unreplicated."""
    for _ in range(5):
        try:
            await client.submit(signed)
        except HcefsError as error:
            if error.reason != "not-replicated":
                raise
        else:
            return


def marker() -> bytes:
    """What every plaintext is full of, so that a leak of any part of one is seen."""
    return b"PATIENT-PLAINTEXT"
