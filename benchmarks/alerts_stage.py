"""The cluster on which alerts are proven: six nodes in a hurry, light load, and what hurts them.

The nodes are ordinary ones; only what they do once an hour or a day they do every few seconds,
as the rules look back over seconds.  A process is hurt from outside (a signal, its files, its
configuration) or started by :mod:`benchmarks.hurt`.

Invariant: :meth:`AlertsStage.start_node` without arguments gives back the node as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import random
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks.alerts_prometheus import Prometheus
from benchmarks.harness import BenchCluster
from hcefs.access.facts import AccountKind
from hcefs.cli.bringup import OPERATORS, THRESHOLD, wait_serving
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.new_node import PORTS_PER_PROCESS, Ports, make_node, map_node, register_node
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.cli.processes import PROGRAM
from hcefs.client.client import Client
from hcefs.client.layout import LayoutClient
from hcefs.config import (
    LimitsConfig,
    NodeConfig,
    UpkeepConfig,
    load_ledger_config,
    load_node_config,
    render_node_config,
)
from hcefs.crypto.accounts import AccountKeys
from hcefs.durable_files import replace_file
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobBase, BlobId
from hcefs.placement import changes
from hcefs.placement.cluster_map import NodeState
from hcefs.placement.planner import plan
from hcefs.placement.waves import apply_plan
from hcefs.runtime import end_tasks

UPKEEP: Final = UpkeepConfig(
    rate_min_mib=32.0,
    rate_max_mib=512.0,
    grace_s=2.0,
    round_s=4.0,
    # What a fault needs it asks for; nodes that share two cores cannot read all the time.
    scrub_cycle_s=300.0,
    scrub_rate_mib=256.0,
    quarantine_s=120.0,
    anchor_s=3.0,
)
LIMITS: Final = LimitsConfig(put_deadline_s=3.0)
SERVING_SECONDS: Final = 60.0
PUT_SIZE: Final = 200_000
BLOBS: Final = 24
"""Beside those of the load: each node has a shard of each."""

LOAD_PAUSE_SECONDS: Final = 0.4
PUT_EVERY: Final = 2
PUT_EVERY_QUIET: Final = 8
"""Turns of the light load in which it puts, too.  What is put stays, and nodes whose rounds last
seconds look at all of it again and again: six of them soon fill two cores."""

REQUEST_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.5
PIECE_OFFSET: Final = 200
"""Behind the header of a shard's file."""


@dataclass
class Load:
    """What light load did."""

    put_every: int = PUT_EVERY
    served: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)


class AlertsStage:
    """A running cluster and what a fault may do to it."""

    def __init__(self, cluster: BenchCluster, seed: int) -> None:
        self.cluster = cluster
        self.runtime = cluster.runtime
        self.folder = cluster.folder
        self.random = random.Random(seed)
        self.load = Load()
        self.blobs: list[BlobId] = []
        self._plain: dict[int, NodeConfig] = {}
        self.prometheus: Prometheus

    async def prepare(self) -> None:
        """Let its nodes hurry, and give them something to keep.

        Raises:
            HcefsError: they do not come up again.
        """
        numbers = self.folder.node_numbers()
        await self.stop(*map(node_name, numbers))
        for number in numbers:
            path = self.folder.config_of(node_name(number))
            self._plain[number] = replace(load_node_config(path), upkeep=UPKEEP, limits=LIMITS)
        for number in numbers:
            await self.start_node(number, wait=False)
        await asyncio.gather(*(self.serving(node_name(number)) for number in numbers))
        for _ in range(BLOBS):
            receipt = await self.retried_put()
            self.blobs.append(receipt)

    async def retried_put(self) -> BlobId:
        """A blob that is whole."""
        end = self.runtime.monotonic() + SERVING_SECONDS
        while True:
            with contextlib.suppress(Unavailable):
                data = self.random.randbytes(PUT_SIZE)
                receipt = await self.cluster.patient.put(self.cluster.record, data)
                if not receipt.degraded:
                    return receipt.ref.blob
            if self.runtime.monotonic() > end:
                raise Unavailable("the cluster takes no whole blob", reason="degraded")
            await self.runtime.sleep(POLL_SECONDS)

    def jobs(self) -> dict[str, list[str]]:
        """What Prometheus is to scrape."""
        ledger = load_ledger_config(self.folder.config_of(LEDGER)).metrics_address
        nodes = [self.config(number).metrics_address for number in self.folder.node_numbers()]
        return {"hcefs-ledger": [ledger], "hcefs-node": nodes}

    # -- processes

    def config(self, number: int) -> NodeConfig:
        """The configuration of a node that is not hurt."""
        return self._plain[number]

    async def start_node(
        self,
        number: int,
        *,
        hurt: str = "",
        limits: LimitsConfig | None = None,
        wait: bool = True,
    ) -> None:
        """Start a node that does not run; ``hurt`` is what :mod:`benchmarks.hurt` understands."""
        path = self.folder.config_of(node_name(number))
        config = replace(self.config(number), limits=limits or LIMITS)
        replace_file(path, render_node_config(config, relative_to=path.parent).encode())
        program = ("-m", "benchmarks.hurt", hurt) if hurt else PROGRAM
        await self.runtime.disk(self.cluster.processes.start, node_name(number), program)
        if wait:
            await self.serving(node_name(number))

    async def start_ledger(self) -> None:
        """Start the ledger if it does not run, and wait until everybody serves."""
        await self.runtime.disk(self.cluster.processes.start, LEDGER)
        names = [LEDGER, *map(node_name, self.folder.node_numbers())]
        await asyncio.gather(*map(self.serving, names))

    async def serving(self, name: str) -> None:
        """Wait until a process serves."""
        await wait_serving(self.folder, name, self.runtime, SERVING_SECONDS)

    async def stop(self, *names: str) -> None:
        """End processes in good order."""
        await self.runtime.disk(self.cluster.processes.stop, names)

    async def signal(self, number: int, *names: str) -> None:
        """Send a signal to processes."""
        for name in names:
            await self.runtime.disk(self.cluster.processes.kill, name, number)

    @asynccontextmanager
    async def killed(self, *numbers: int) -> AsyncIterator[None]:
        """Some nodes are dead meanwhile."""
        await self.signal(signal.SIGKILL, *map(node_name, numbers))
        try:
            yield
        finally:
            await asyncio.gather(*(self.start_node(number) for number in numbers))

    @asynccontextmanager
    async def paused(self, name: str) -> AsyncIterator[None]:
        """A process hangs meanwhile."""
        await self.signal(signal.SIGSTOP, name)
        try:
            yield
        finally:
            await self.signal(signal.SIGCONT, name)
            await self.serving(name)

    @asynccontextmanager
    async def restarted(
        self, number: int, *, hurt: str = "", limits: LimitsConfig | None = None, wait: bool = True
    ) -> AsyncIterator[None]:
        """A node runs otherwise meanwhile."""
        await self.stop(node_name(number))
        try:
            await self.start_node(number, hurt=hurt, limits=limits, wait=wait)
            yield
        finally:
            await self.stop(node_name(number))
            await self.start_node(number)

    async def join(self, *, hurt: str) -> int:
        """One node more in the map, which Prometheus scrapes too; its number."""
        operators = self.operators()
        layout = LayoutClient(self.cluster.operator, operators)
        current = await layout.current()
        number = max(node.node_id for node in current.nodes) + 1
        ledger = load_ledger_config(self.folder.config_of(LEDGER)).peer_address
        with reserved_ports(PORTS_PER_PROCESS, self.runtime.random) as ports:
            addresses = Ports(*(f"{HOST}:{port}" for port in ports))
            cluster = self.cluster.connection.cluster
            make_node(self.folder, number, addresses, cluster, ledger, self.runtime)
            path = self.folder.config_of(node_name(number))
            self._plain[number] = replace(load_node_config(path), upkeep=UPKEEP, limits=LIMITS)
            await register_node(self.folder, number, self.cluster.operator, operators[1:])
        await self.start_node(number, hurt=hurt, wait=False)
        new = replace(map_node(self.folder, number), state=NodeState.JOINING)
        made = await self.runtime.compute(plan, current, tuple(changes.add(current, [new])))
        await layout.apply(current, apply_plan(made, current, frozenset()))
        await self.serving(node_name(number))
        self.prometheus.also("hcefs-node", self.config(number).metrics_address)
        return number

    # -- files

    def data(self, number: int) -> Path:
        """A node's data folder."""
        return self.config(number).data

    def shard_files(self, base: BlobBase) -> dict[int, Path]:
        """The files of a blob, by node."""
        found = {}
        for number in self.folder.node_numbers():
            for path in self.data(number).glob(f"shards/??/{bytes(base).hex()}.*"):
                found[number] = path
        return found

    def flip(self, number: int, bases: Sequence[BlobBase]) -> int:
        """Flip a bit in a node's shards of some blobs; how many."""
        flipped = 0
        for base in bases:
            path = self.shard_files(base).get(number)
            if path is None:
                continue
            with path.open("r+b") as file:
                file.seek(PIECE_OFFSET)
                found = file.read(1)
                file.seek(PIECE_OFFSET)
                file.write(bytes([found[0] ^ 0x40]))
            flipped += 1
        return flipped

    @asynccontextmanager
    async def taken_away(self, base: BlobBase, count: int) -> AsyncIterator[None]:
        """So many shard files of a blob are gone meanwhile."""
        chosen = list(self.shard_files(base).items())[:count]
        aside = self.folder.root / "aside"
        aside.mkdir(mode=0o700, exist_ok=True)
        for number, path in chosen:
            path.rename(aside / f"{number}-{path.name}")
        try:
            yield
        finally:
            for number, path in chosen:
                (aside / f"{number}-{path.name}").rename(path)
            await self.hurry()

    @asynccontextmanager
    async def certificate(self, number: int, days: float) -> AsyncIterator[None]:
        """A node's certificate, of the same key, has only so many days left."""
        paths = self.config(number).tls
        before = paths.certificate.read_bytes()
        authority_key = load_pem_private_key(self.folder.authority_key.read_bytes(), None)
        old = x509.load_pem_x509_certificate(before)
        end = datetime.datetime.fromtimestamp(
            self.runtime.now_ms() / 1000, datetime.UTC
        ) + datetime.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(old.issuer)
            .public_key(old.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(old.not_valid_before_utc)
            .not_valid_after(end)
        )
        for each in old.extensions:
            builder = builder.add_extension(each.value, each.critical)
        made = builder.sign(authority_key, hashes.SHA256())  # type: ignore[arg-type]
        replace_file(paths.certificate, _pem(made))
        try:
            async with self.restarted(number):
                yield
                replace_file(paths.certificate, before)
        finally:
            replace_file(paths.certificate, before)

    async def hurry(self) -> None:
        """Let every node look for what it lacks at once."""
        for number in self.folder.node_numbers():
            with contextlib.suppress(HcefsError):
                await self.cluster.operator.repair_now(self.address(number))

    def address(self, number: int) -> str:
        """Where clients reach a node."""
        return self.config(number).client_address

    # -- clients

    async def admitted(self, kind: AccountKind = AccountKind.PATIENT) -> Client:
        """A client of one more account, which has a right to nothing."""
        keys, hospital = self.cluster.new_keys(), self.cluster.new_keys()
        operator = self.cluster.operator
        async with (
            Client(self.cluster.connection, self.operators()[1], self.runtime) as second,
            Client(self.cluster.connection, hospital, self.runtime) as institution,
        ):
            signed = await operator.register(hospital, AccountKind.INSTITUTION)
            await second.admit(operator.cosign(signed))
            await institution.admit(await institution.register(keys, kind))
        return self.cluster.client(keys)

    def operators(self) -> list[AccountKeys]:
        """As many operators as must agree."""
        return [self.folder.load_keys(name) for name in OPERATORS[:THRESHOLD]]

    @asynccontextmanager
    async def asking(self, client: Client, number: int, a_second: float) -> AsyncIterator[None]:
        """A client asks a node for a blob so often meanwhile, whatever the answer."""

        async def ask() -> None:
            while True:
                with contextlib.suppress(HcefsError, TimeoutError):
                    async with self.runtime.timeout(REQUEST_SECONDS):
                        stream = await client.get(
                            self.cluster.record, self.blobs[0], node=self.address(number)
                        )
                        await stream.read()
                await self.runtime.sleep(4 / a_second)

        async with self.meanwhile([ask() for _ in range(4)]):
            yield

    @asynccontextmanager
    async def crowd(self, number: int, clients: int) -> AsyncIterator[None]:
        """Many read from one node at once, and come again at once."""

        async def read() -> None:
            client = self.cluster.fresh_patient()
            while True:
                with contextlib.suppress(HcefsError, TimeoutError):
                    async with self.runtime.timeout(REQUEST_SECONDS):
                        stream = await client.get(
                            self.cluster.record,
                            self.random.choice(self.blobs),
                            node=self.address(number),
                        )
                        await stream.read()
                await self.runtime.sleep(0.02)

        async with self.meanwhile([read() for _ in range(clients)]):
            yield

    @asynccontextmanager
    async def light_load(self) -> AsyncIterator[Load]:
        """Somebody puts and gets a little, all the time."""

        async def one() -> None:
            client, blobs = self.cluster.patient, list(self.blobs[-4:])
            for turn in itertools.count():
                try:
                    async with self.runtime.timeout(REQUEST_SECONDS):
                        if turn % self.load.put_every == 0:
                            data = self.random.randbytes(PUT_SIZE)
                            receipt = await client.put(self.cluster.record, data)
                            blobs = [*blobs[-3:], receipt.ref.blob]
                            self.load.served += 1
                        stream = await client.get(self.cluster.record, self.random.choice(blobs))
                        await stream.read()
                    self.load.served += 1
                except (HcefsError, TimeoutError) as error:
                    self.load.failed += 1
                    self.load.failures = [*self.load.failures[-9:], _short(error)]
                await self.runtime.sleep(LOAD_PAUSE_SECONDS)

        async with self.meanwhile([one()]):
            yield self.load

    @asynccontextmanager
    async def meanwhile(self, jobs: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Some jobs that do not end run until the block does."""
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            yield
        finally:
            await end_tasks(*tasks)


def _short(error: BaseException) -> str:
    if isinstance(error, HcefsError):
        return f"{error.kind}, {error.reason}"
    return type(error).__name__


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)
