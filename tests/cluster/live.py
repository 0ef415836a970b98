"""A real cluster for tests: processes on loopback, the people of a small hospital, their rights.

Processes are started, killed and recognised by :mod:`hcefs.cli.processes`, so that
a test can only end its own.  Clients belong to the event loop of the test that
made them; everything else here may be shared by tests.
"""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from hcefs.access.facts import AccountKind, Action
from hcefs.cli.bringup import LEASE_MS, OPERATORS, bring_up, wait_serving
from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.new_node import generate_keys
from hcefs.cli.processes import Processes
from hcefs.client.authorize import Right, Scope
from hcefs.client.client import Client
from hcefs.client.connection import Connection
from hcefs.client.ledger import Submitted
from hcefs.client.put import PutOrder, Stored
from hcefs.client.receipts import PutReceipt
from hcefs.config import load_ledger_config, load_node_config
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobBase, BlobId, GrantId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import Transaction, sign_transaction
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.runtime import SystemRuntime
from tests.cluster.plain import Caller

NODES = 6
HOUR_MS = 3_600_000
POLL_SECONDS = 0.05
WAIT_SECONDS = 120.0
CALL_SECONDS = 60.0

T = TypeVar("T")


async def until(
    condition: Callable[[], Awaitable[T]], what: str, seconds: float = WAIT_SECONDS
) -> T:
    """Ask until the answer is true, and return it; fail when that takes too long.

    ``Unavailable`` means not yet: nodes find each other again some time after a start.
    """
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if answer := await condition():
                        return answer
                    last = answer
                except Unavailable as error:
                    last = error
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        pytest.fail(f"{what}: not within {seconds:.0f} s; at last {last!r}")


@contextmanager
def refused(kind: type[HcefsError], *reasons: str) -> Iterator[None]:
    """The block must be refused with exactly this kind of error for one of these reasons."""
    with pytest.raises(HcefsError) as caught:
        yield
    assert type(caught.value) is kind, f"{caught.value.kind}: {caught.value}"
    assert caught.value.reason in reasons, f"{caught.value.reason}: {caught.value}"


def some_bytes(size: int, seed: int) -> bytes:
    """Reproducible bytes that no compression shortens."""
    blocks = range(-(-size // 32))
    return b"".join(blake3_digest(b"%d:%d" % (seed, block)) for block in blocks)[:size]


@dataclass
class LiveCluster:
    """The ledger and the nodes of one folder, and the accounts that tests act as.

    ``accounts`` and ``grants`` are by name; ``record`` is the patient's, open, with
    a grant to append for the hospital and one to read and share for the doctor.
    """

    folder: ClusterFolder
    runtime: SystemRuntime
    accounts: dict[str, AccountKeys] = field(default_factory=dict)
    grants: dict[str, GrantId] = field(default_factory=dict)
    record: RecordId = field(default_factory=RecordId.zero)
    _disturbed: bool = False

    @classmethod
    async def create(cls, root: Path, *, lease_ms: int = LEASE_MS) -> LiveCluster:
        """Bring a cluster up in an empty folder and let its people in."""
        cluster = cls(ClusterFolder(root), SystemRuntime())
        try:
            async with asyncio.timeout(60):
                await bring_up(
                    cluster.folder, NODES, cluster.runtime, report=_silent, lease_ms=lease_ms
                )
                await cluster._admit_people()
                await cluster._give_rights()
        except BaseException:
            cluster.close()
            raise
        return cluster

    def close(self) -> None:
        """End its processes, whatever state they are in.  Idempotent."""
        self.kill(*self.alive())
        self.runtime.close()

    # -- people

    async def _admit_people(self) -> None:
        for name in OPERATORS:
            self.accounts[name] = self.folder.load_keys(name)
        kinds = {
            "doctor": AccountKind.PRACTITIONER,
            "assistant": AccountKind.PRACTITIONER,
            "stranger": AccountKind.PRACTITIONER,
            "patient": AccountKind.PATIENT,
        }
        cluster = self.connection.cluster
        for name in ("hospital", *kinds):
            self.accounts[name] = generate_keys(cluster, self.runtime)
        async with (
            self.client("operator-1") as operator,
            self.client("operator-2") as other,
            self.client("hospital") as hospital,
        ):
            keys = self.accounts["hospital"]
            signed = await hospital.register(keys, AccountKind.INSTITUTION)
            await operator.admit(other.cosign(signed))
            await asyncio.gather(
                *(self._admit(hospital, name, kind) for name, kind in kinds.items())
            )

    async def _admit(self, hospital: Client, name: str, kind: AccountKind) -> None:
        await hospital.admit(await hospital.register(self.accounts[name], kind))

    async def _give_rights(self) -> None:
        async with self.client("patient") as patient:
            self.record, self.grants = await self.open_record(patient)

    async def open_record(self, patient: Client) -> tuple[RecordId, dict[str, GrantId]]:
        """Another record, with the same rights for hospital and doctor."""
        record = (await patient.open_record()).record
        end = self.runtime.now_ms() + HOUR_MS
        rights = {"hospital": Action.APPEND, "doctor": Action.READ | Action.SHARE}
        grants = {}
        for name, actions in rights.items():
            grant = await patient.give(
                record, self.accounts[name].account, actions, ("TREAT",), not_after_ms=end
            )
            grants[name] = grant.grant
        return record, grants

    @property
    def connection(self) -> Connection:
        return self.folder.load_connection()

    def client(self, name: str) -> StepClient:
        """A client of its own for one of the accounts; close it in the same test."""
        return StepClient(self.connection, self.accounts[name], self.runtime)

    # -- processes

    @property
    def processes(self) -> Processes:
        return Processes(self.folder)

    def alive(self) -> list[str]:
        """The names of the processes that run."""
        processes = self.processes
        return [name for name in self.folder.process_names() if processes.alive(name)]

    def kill(self, *names: str) -> None:
        """kill -9, all at once: nobody acts after the first of them was stopped."""
        self._disturbed = True
        for name in names:
            self.processes.kill(name, signal.SIGSTOP)
        for name in names:
            self.processes.kill(name)

    def pause(self, name: str) -> None:
        """Stop a process as a hung machine would: its connections stay."""
        self._disturbed = True
        self.processes.kill(name, signal.SIGSTOP)

    async def start(self, *names: str) -> None:
        """Start processes that do not run, wake those that are paused; wait until they serve."""
        for name in names:
            self.processes.start(name)
            self.processes.kill(name, signal.SIGCONT)
        await asyncio.gather(
            *(wait_serving(self.folder, name, self.runtime, WAIT_SECONDS) for name in names)
        )

    async def level(self) -> int:
        """Wait until every node has applied what the ledger has now; its height.

        The nodes go on: they may submit something of their own a moment later.
        """
        async with self.client("operator-1") as operator:
            height = (await operator.status(self.connection.ledger)).height

            async def applied() -> bool:
                heights = [(await operator.status(each)).height for each in self.connection.nodes]
                return min(heights) >= height

            await until(applied, "every node is level with the ledger")
            return height

    async def make_whole(self) -> None:
        """Start what does not run, and wait until every node reaches every other."""
        names = self.folder.process_names()
        if self.alive() == names and not self._disturbed:
            return
        await self.start(*names)
        async with self.client("hospital") as hospital:

            async def reached(address: str) -> bool:
                grant = self.grants["hospital"]
                return not (
                    await hospital.put(self.record, b"", grant=grant, node=address)
                ).degraded

            for address in self.connection.nodes:
                await until(partial(reached, address), f"{address} reaches every node")
        self._disturbed = False

    # -- what nodes hold

    def node(self, cluster_map: ClusterMap, number: int) -> Node:
        """A node of the cluster map."""
        found = cluster_map.node(number)
        assert found is not None
        return found

    def data(self, number: int) -> Path:
        """The data folder of a node."""
        return load_node_config(self.folder.config_of(node_name(number))).data

    def shards(self, base: BlobBase) -> dict[int, Path]:
        """The files of a blob's shards on all disks, by index."""
        found = {}
        for number in range(1, NODES + 1):
            for path in self.data(number).glob(f"shards/??/{base.hex()}.*"):
                found[int(path.suffix[1:])] = path
        return found

    def metric(self, process: str, name: str) -> float:
        """A number from a process's metrics page."""
        path = self.folder.config_of(process)
        config = load_ledger_config(path) if process == LEDGER else load_node_config(path)
        url = f"http://{config.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=CALL_SECONDS) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise KeyError(name)

    # -- without the SDK

    def caller(self, name: str) -> Caller:
        """Tokens and proofs of one of the accounts."""
        return Caller(self.accounts[name], self.runtime)


class Held(Exception):
    """A put of a :class:`StepClient` that stopped before its append."""

    def __init__(self, order: PutOrder, stored: Stored) -> None:
        super().__init__("held before the append")
        self.order = order
        self.stored = stored

    @property
    def blob(self) -> BlobId:
        return self.stored.core.blob


class StepClient(Client):
    """A client whose put can be taken apart, and that signs whatever a test wants signed."""

    def __init__(self, connection: Connection, keys: AccountKeys, runtime: SystemRuntime) -> None:
        super().__init__(connection, keys, runtime)
        self._holding = False

    async def store(self, record: RecordId, data: bytes, grant: GrantId) -> Held:
        """Make a blob durable and stop before the append."""
        self._holding = True
        try:
            await self.put(record, data, grant=grant, seal="node")
        except Held as held:
            return held
        finally:
            self._holding = False
        pytest.fail("the put was not held")

    async def commit(self, held: Held) -> PutReceipt:
        """Append the entry of what was stored."""
        return await self._commit(held.order, held.stored)

    async def _commit(self, order: PutOrder, stored: Stored) -> PutReceipt:
        if self._holding:
            raise Held(order, stored)
        return await super()._commit(order, stored)

    async def dek(self, record: RecordId, blob: BlobId) -> bytes:
        """The data key of a blob in a record that this account owns."""
        right = Right(GrantId.zero(), "TREAT")
        manifest, _ = await self._manifest(Scope(record, blob), right, None)
        return (await self._blob_key(manifest, right)).dek

    async def transact(self, transaction: Transaction) -> Submitted:
        """Sign and submit a transaction of any kind, sensible or not."""
        keys = self._keys
        signer = (keys.account, keys.key_version, keys.signing_key)
        signed = sign_transaction(transaction, self.connection.cluster, [signer])
        return await self.submit(signed)


def folder_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Every file below some folders."""
    for folder in folders:
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _silent(_: str) -> None:
    """Nobody reads what bring-up reports."""
