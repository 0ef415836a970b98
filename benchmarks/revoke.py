"""``hcefs bench revoke``: from a revocation's commit until all nodes deny, and until it is proved.

A reader asks every node without a pause, under a grant that is then revoked.  The clock
starts when the ledger answers that the revocation is committed; for each node the time
of the first denial counts, which includes one request.  At the same time the granter
asks for the certificate.

Three cases: all nodes healthy; one stopped (SIGSTOP); one cut off from the ledger.  Of a
node that is cut off or stopped nobody can hear, so its certificate waits for the end of
its lease by design: what is measured there is that it comes when it may, and that the
others deny as fast as ever.

Not measured: the renewal of keys before an owner's revocation; here somebody revokes who
was granted ``share``, which is the revocation alone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import cases
from benchmarks.goals import revoke_goals
from benchmarks.harness import NODES, BenchCluster, Report, open_cluster
from benchmarks.machine import environment
from benchmarks.payloads import RANDOM
from hcefs.access.facts import AccountKind, Action
from hcefs.cli.bringup import OPERATORS, wait_serving
from hcefs.cli.chaos_proxy import Passing, Relay
from hcefs.cli.cluster_files import node_name
from hcefs.client.authorize import Authorizer, Right, Scope
from hcefs.client.channels import Channels
from hcefs.client.client import Client
from hcefs.config import load_node_config, render_node_config
from hcefs.errors import Denied, HcefsError, Unavailable
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.ledger.revocation_proof import CUT_MS
from hcefs.placement.cluster_map import Node
from hcefs.runtime import SystemRuntime, end_tasks
from hcefs.transport.dial import AuthorityDialer
from hcefs.wire.v1 import blob_pb2

HEALTHY: Final = "healthy"
STOPPED: Final = "one node stopped"
PARTITIONED: Final = "one node cut off"
CASES: Final = (HEALTHY, STOPPED, PARTITIONED)
HURT: Final = NODES
"""The number of the node that is stopped or cut off."""

CALL_SECONDS: Final = 5.0
DENIED_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 0.1
PAUSE_SECONDS: Final = 0.005
HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Effort:
    """Revocations with all nodes healthy, and in each other case."""

    healthy: int
    hurt: int


FULL: Final = Effort(200, 60)
QUICK: Final = Effort(30, 10)


@dataclass(frozen=True)
class Options:
    """What to measure; ``work`` is a folder for the cluster."""

    work: Path
    effort: Effort = FULL
    data: str = RANDOM
    seed: int = 1
    quick: bool = False


@dataclass
class Found:
    """Seconds since the commit was answered."""

    last_denials: list[float] = field(default_factory=list)
    """Of each revocation: until the last of the nodes that run denied."""

    certificates: list[float] = field(default_factory=list)
    hurt_refused: float | None = None
    """Until the node that is cut off refused, for whatever reason."""

    reason: str = ""


class Run:
    """One run on one cluster."""

    def __init__(self, cluster: BenchCluster, report: Report) -> None:
        self.cluster = cluster
        self.runtime = cluster.runtime
        self.report = report
        self.doctor: Client
        self.reader: AccountId
        self.record: RecordId
        self.blob: BlobId
        self.share: GrantId
        self.kept: GrantId
        self.nodes: Sequence[Node] = ()
        self.height = 0
        self._authorizer: Authorizer
        self._channels = Channels(self.runtime, AuthorityDialer(cluster.connection.authority))

    async def prepare(self) -> None:
        """A doctor with a grant to share, a reader, and a small blob."""
        cluster = self.cluster
        keys = [cluster.new_keys() for _ in range(3)]
        hospital, self.doctor, reader = (cluster.client(each) for each in keys)
        async with cluster.client(cluster.folder.load_keys(OPERATORS[1])) as second:
            signed = await hospital.register(keys[0], AccountKind.INSTITUTION)
            await second.admit(cluster.operator.cosign(signed))
        for client, own in ((self.doctor, keys[1]), (reader, keys[2])):
            await hospital.admit(await client.register(own, AccountKind.PRACTITIONER))
        self.record = (await cluster.patient.open_record()).record
        self.blob = (await cluster.patient.put(self.record, bytes(1000), seal="node")).ref.blob
        given = await cluster.patient.give(
            self.record, self.doctor.account, Action.READ | Action.SHARE, ("TREAT",),
            not_after_ms=self.runtime.now_ms() + 86_400_000,
        )  # fmt: skip
        self.share = given.grant
        self.reader = reader.account
        self._authorizer = Authorizer(cluster.connection.cluster, keys[2], self.runtime)
        current = await cluster.patient.cluster_map()
        self.nodes = sorted(current.nodes, key=lambda node: node.node_id)
        self.kept = await self.give()
        self.height = self.doctor.height

    async def close(self) -> None:
        """End the reader's connections."""
        await self._channels.close()

    async def give(self) -> GrantId:
        """A grant to the reader, under the doctor's."""
        given = await self.doctor.give(
            self.record, self.reader, Action.READ, ("TREAT",),
            not_after_ms=self.runtime.now_ms() + 3_600_000, parent=self.share,
        )  # fmt: skip
        return given.grant

    async def revocation(
        self, grant: GrantId, asked: Sequence[Node], found: Found, *, certify: bool
    ) -> None:
        """Read at every node, revoke, and see when all deny."""
        for node in asked:
            await self._read(grant, node)
        readers = [asyncio.ensure_future(self._until_denied(grant, node)) for node in asked]
        try:
            await self.runtime.sleep(SETTLE_SECONDS)
            await self.doctor.revoke(grant)
            committed = self.runtime.monotonic()
            proving = None
            if certify:
                proving = asyncio.ensure_future(self._certificate(grant, committed))
            async with self.runtime.timeout(DENIED_SECONDS):
                denied = await asyncio.gather(*readers)
            found.last_denials.append(max(0.0, max(denied) - committed))
            if proving is not None:
                found.certificates.append(await proving)
        finally:
            await end_tasks(*readers)

    async def _certificate(self, grant: GrantId, committed: float) -> float:
        certified = await self.doctor.certify(grant)
        if not certified.verdict.complete:
            raise Unavailable("a certificate does not become complete", reason="incomplete")
        return self.runtime.monotonic() - committed

    async def _read(self, grant: GrantId, node: Node) -> None:
        """One request for the blob's manifest, which each node answers from its own disk."""
        right = Right(grant, "TREAT")
        await self._channels.unary(
            node.address,
            "/hcefs.v1.Blobs/Stat",
            blob_pb2.StatRequest(
                authorization=self._authorizer.authorize(
                    "stat", Scope(self.record, self.blob), right, node.account
                ),
                record_id=bytes(self.record),
                blob_id=bytes(self.blob),
                min_height=self.height,
                request_id=self.runtime.random(16),
            ),
            blob_pb2.StatResponse,
            CALL_SECONDS,
        )

    async def _until_denied(self, grant: GrantId, node: Node) -> float:
        while True:
            try:
                await self._read(grant, node)
            except Denied:
                return self.runtime.monotonic()
            await self.runtime.sleep(PAUSE_SECONDS)

    async def healthy(self, times: int) -> Found:
        """All nodes run."""
        found = Found()
        for number in range(times + 1):
            grant = await self.give()
            self.height = self.doctor.height
            # The first one is for connections and caches.
            await self.revocation(grant, self.nodes, found if number else Found(), certify=True)
        return found

    async def _grants(self, times: int) -> list[GrantId]:
        """Given while all nodes run: boxes are stored on all of them."""
        grants = [await self.give() for _ in range(times)]
        self.height = self.doctor.height
        for node in self.nodes:
            await self._read(grants[0], node)
        return grants

    async def stopped(self, times: int) -> Found:
        """One node is stopped meanwhile."""
        name, grants = node_name(HURT), await self._grants(times)
        processes = self.cluster.processes
        await self.runtime.disk(processes.kill, name, signal.SIGSTOP)
        try:
            return await self._without(grants)
        finally:
            await self.runtime.disk(processes.kill, name, signal.SIGCONT)

    async def partitioned(self, times: int) -> Found:
        """One node cannot reach the ledger; the last revocation is the one that it misses."""
        async with self._relayed() as relay:
            await self.until_able()
            grants = await self._grants(times)
            relay.set(Passing.REFUSE)
            try:
                refusing = asyncio.ensure_future(self._hurt_refuses())
                try:
                    found = await self._without(grants)
                    found.hurt_refused = await refusing
                    return found
                finally:
                    await end_tasks(refusing)
            finally:
                relay.set(Passing.PASS)

    async def _hurt_refuses(self) -> float:
        """Until the node that is cut off serves nobody any more."""
        began = self.runtime.monotonic()
        while True:
            try:
                # A right that does not end, so only the lease can.
                await self._read(self.kept, self.nodes[HURT - 1])
            except HcefsError as error:
                if error.reason == "stale-lease":
                    return self.runtime.monotonic() - began
            await self.runtime.sleep(SETTLE_SECONDS)

    async def _without(self, grants: Sequence[GrantId]) -> Found:
        """Denials of the others; one certificate, which waits for the lease of the one."""
        found, others, running = Found(), Found(), self.nodes[: HURT - 1]
        first = asyncio.ensure_future(self.revocation(grants[0], running, found, certify=True))
        try:
            for grant in grants[1:]:
                await self.revocation(grant, running, others, certify=False)
            await first
        finally:
            await end_tasks(first)
        found.last_denials += others.last_denials
        return found

    @asynccontextmanager
    async def _relayed(self) -> AsyncIterator[Relay]:
        """The node reaches the ledger through a relay for a while."""
        name, folder = node_name(HURT), self.cluster.folder
        path = folder.config_of(name)
        before = await self.runtime.disk(path.read_text)
        config = load_node_config(path)
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            listen = f"{HOST}:{probe.getsockname()[1]}"
        relay = Relay(self.runtime, listen, config.ledger_address)
        await relay.start()
        try:
            changed = replace(config, ledger_address=listen)
            await self._restart(path, render_node_config(changed, relative_to=path.parent))
            yield relay
        finally:
            await self._restart(path, before)
            await relay.close()

    async def _restart(self, path: Path, text: str) -> None:
        await self.cluster.kill([HURT])
        await self.runtime.disk(path.write_text, text)
        await self.cluster.revive([HURT])

    async def until_able(self) -> None:
        """Wait until the node that was hurt serves again."""
        await wait_serving(self.cluster.folder, node_name(HURT), self.runtime, 30.0)


async def run(options: Options, runtime: SystemRuntime, report: Report) -> dict[str, Any]:
    """Measure the three cases on one cluster."""
    started = runtime.monotonic()
    found: dict[str, Found] = {}
    async with open_cluster(options.work / "cluster", runtime, report) as cluster:
        genesis = await cluster.operator.genesis()
        measured = Run(cluster, report)
        effort = options.effort
        try:
            await measured.prepare()
            report(f"{effort.healthy} revocations, all nodes healthy")
            found[HEALTHY] = await measured.healthy(effort.healthy)
            report(f"{effort.hurt} revocations, one node stopped")
            found[STOPPED] = await measured.stopped(effort.hurt)
            await measured.until_able()
            report(f"{effort.hurt} revocations, one node cut off from the ledger")
            found[PARTITIONED] = await measured.partitioned(effort.hurt)
        finally:
            await measured.close()
    rows = [_row(name, found[name]) for name in CASES]
    lease_s = (genesis.lease_ms + genesis.skew_ms + CUT_MS) / 1000
    renewal_s = genesis.lease_ms / 3000
    return {
        "benchmark": "revoke",
        "quick": options.quick,
        "seconds": runtime.monotonic() - started,
        "environment": environment(options.work),
        "settings": {
            "nodes": NODES,
            "lease_ms": genesis.lease_ms,
            "skew_ms": genesis.skew_ms,
        },
        "cases": rows,
        "goals": [goal.as_data() for goal in revoke_goals(rows, lease_s, renewal_s)],
    }


def _row(name: str, found: Found) -> dict[str, Any]:
    return {
        "case": name,
        "revocations": len(found.last_denials),
        "denied_ms": _figures(found.last_denials),
        "certified_ms": _figures(found.certificates),
        "certificates": len(found.certificates),
        "hurt_refused_ms": None if found.hurt_refused is None else found.hurt_refused * 1000,
    }


def _figures(seconds: Sequence[float]) -> Mapping[str, float] | None:
    if not seconds:
        return None
    values = [each * 1000 for each in seconds]
    return {
        "p50": cases.percentile(values, 50),
        "p99": cases.percentile(values, 99),
        "max": max(values),
    }
