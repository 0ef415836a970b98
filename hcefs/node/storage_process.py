"""A storage node as a process: its files, ports, TLS, metrics page, health and signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from hcefs.config import NodeConfig
from hcefs.console import pages as console_pages
from hcefs.crashpoints import arm_from_environment
from hcefs.crypto.accounts import load_account
from hcefs.ids import AccountId
from hcefs.ledger.follower import Follower
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotRule
from hcefs.metrics import Metrics, MetricsServer
from hcefs.node.health import LoopBeat, console_site, storage_pages
from hcefs.node.ledger_join import join_by_snapshot
from hcefs.node.ledger_link import GrpcLedgerLink
from hcefs.node.ledger_submit import LedgerSubmitter
from hcefs.node.logs import configure
from hcefs.node.process_gauges import certificate_gauges
from hcefs.node.servers import Port, at_hangup, load_genesis, load_identity, until_signal
from hcefs.node.storage_node import PEER_CALLS_FACTOR, NodeParts, StorageNode
from hcefs.node.tls_watch import TlsWatch
from hcefs.node.trace_export import TraceExporter, exporter_of
from hcefs.runtime import Runtime, SystemRuntime
from hcefs.store.files import open_stores
from hcefs.store.health import DiskHealth
from hcefs.store.interface import Stores
from hcefs.store.receipt_log import ReceiptLog
from hcefs.store.recovery import LEDGER, Restoring, opened_or_set_aside
from hcefs.transport.dial import TlsDialer
from hcefs.transport.grpc_peers import GrpcPeers
from hcefs.transport.limit import Gate
from hcefs.transport.pinned_channels import Channels
from hcefs.transport.tls import spki_hash
from hcefs.transport.tls_identity import CurrentIdentity
from hcefs.upkeep.watch import Watcher

HEALTH_SECONDS = 0.5
log = logging.getLogger(__name__)


class StorageProcess:
    """One storage node, and what a process puts around it."""

    def __init__(
        self, config: NodeConfig, runtime: Runtime, snapshots: SnapshotRule = SNAPSHOT_RULE
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._page: MetricsServer | None = None
        self._beat = LoopBeat(runtime)
        self._health: asyncio.Task[None] | None = None
        self._traces: TraceExporter | None = None
        genesis = load_genesis(config.genesis)
        self._identity = identity = CurrentIdentity(load_identity(config.tls))
        dialer = TlsDialer(runtime, identity)
        keys = load_account(config.account)
        with contextlib.ExitStack() as undo:
            metrics = Metrics()
            health = DiskHealth(
                runtime.monotonic,
                lambda call, took: metrics.observe("disk_call_seconds", took, call=call),
                lambda call: metrics.count("disk_failures_total", call=call),
            )
            config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            restoring = Restoring(config.data)
            stores = open_stores(
                config.data,
                reserve_bytes=config.limits.reserve_mib << 20,
                health=health,
                restoring=restoring,
            )
            undo.callback(stores.close)
            ledger_log = opened_or_set_aside(
                config.data / LEDGER,
                restoring,
                lambda path: LedgerLog.open(path, genesis, snapshots=snapshots),
            )
            undo.callback(ledger_log.close)
            self.node = StorageNode(
                NodeParts(
                    runtime,
                    genesis,
                    keys,
                    stores,
                    ledger_log,
                    GrpcLedgerLink(runtime, config.ledger_address, dialer),
                    LedgerSubmitter(runtime, config.ledger_address, dialer),
                    dialer,
                    config.limits,
                    config.upkeep,
                    restoring,
                    health,
                    metrics,
                )
            )
            undo.pop_all()
        streams = config.limits.streams
        self._clients = Port(
            config.client_address,
            identity,
            self.node.client_handlers,
            [
                "hcefs.v1.Blobs",
                "hcefs.v1.Shards",
                "hcefs.v1.Admin",
                "hcefs.v1.Revocations",
                "hcefs.v1.Replica",
                "hcefs.v1.Snapshots",
                "hcefs.v1.Backups",
            ],
            mutual=False,
            streams=streams,
        )
        self._peers = Port(
            config.peer_address,
            identity,
            self.node.peer_handlers,
            ["hcefs.v1.Shards", "hcefs.v1.Upkeep", "hcefs.v1.Snapshots"],
            mutual=True,
            streams=streams * PEER_CALLS_FACTOR,
        )
        self.tls_watch = TlsWatch(
            runtime, config.tls, identity, self.metrics, self.node.registered_spki
        )

    @property
    def account(self) -> AccountId:
        """The node's account."""
        return self.node.account

    @property
    def metrics(self) -> Metrics:
        """What the node counts."""
        return self.node.metrics

    @property
    def stores(self) -> Stores:
        """What the node keeps."""
        return self.node.stores

    @property
    def follower(self) -> Follower:
        """The node's replica of the ledger."""
        return self.node.follower

    @property
    def channels(self) -> Channels:
        """The node's channels to other nodes."""
        return self.node.channels

    @property
    def peers(self) -> GrpcPeers:
        """All holders, as the node sees them."""
        return self.node.peers

    @property
    def gate(self) -> Gate:
        """The bound on clients' streams."""
        return self.node.gate

    @property
    def receipts(self) -> ReceiptLog:
        """The node's receipts."""
        return self.node.receipts

    @property
    def watcher(self) -> Watcher:
        """What looks whether the other nodes answer."""
        return self.node.watcher

    @property
    def health_address(self) -> str:
        """Where the metrics and the health pages are, once it is started."""
        return self._page.address if self._page is not None else ""

    def able(self) -> bool:
        """See :meth:`StorageNode.able`."""
        return self.node.able()

    async def _watch(self) -> None:
        """Keep the health service in step with :meth:`able`."""
        shown: bool | None = None
        while True:
            self._beat.beat()
            able = self.able()
            if able != shown:
                shown = able
                log.info("this node %s", "serves" if able else "does not serve now")
                for port in (self._clients, self._peers):
                    await port.set_serving(able)
            await self._runtime.sleep(HEALTH_SECONDS)

    async def start(self) -> None:
        """Follow and serve; whatever comes of it, :meth:`stop` is to follow."""
        certificate_gauges(self.metrics, self._identity)
        pages = storage_pages(self.node, self._beat)
        address = self._config.client_address
        console = console_site(
            self.node, self._runtime, address, self._config.peer_address,
            self._config.metrics_address,
        )  # fmt: skip
        self._page = self.metrics.serve(
            self._config.metrics_address, pages, {console_pages.PREFIX: console}
        )
        self._traces = exporter_of(
            self._runtime, self._config.trace, self.metrics, "hcefs-node", address
        )
        if self._traces is not None:
            self._traces.start()
        await self.node.start()
        for port in (self._clients, self._peers):
            await port.set_serving(False)
            await port.start()
        self._health = self._runtime.spawn(self._watch(), name="health")
        self.tls_watch.start()

    async def stop(self) -> None:
        """End what :meth:`start` began, and close the stores."""
        if self._health is not None:
            self._health.cancel()
        if self._page is not None:
            # First: whoever reads it reads from what is closed below.  It waits for those who
            # read, hence not in the event loop.
            await self._runtime.disk(self._page.close)
        await self.tls_watch.stop()
        await asyncio.gather(self._clients.stop(), self._peers.stop())
        await self.node.stop()
        if self._traces is not None:
            await self._traces.stop()

    async def run(self) -> None:
        """Serve until a signal."""
        try:
            at_hangup(self.tls_watch.look_now)
            await self.start()
            print(f"ready node {self._config.client_address}", flush=True)
            await until_signal()
        finally:
            await self.stop()


async def join_ledger(
    config: NodeConfig, runtime: Runtime, snapshots: SnapshotRule = SNAPSHOT_RULE
) -> int:
    """Before a node is made: let its replica of the ledger begin with a snapshot, if it is new.

    Returns the snapshot's height, or 0.
    """
    if (config.data / LEDGER).exists():
        return 0
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = load_identity(config.tls)
    return await join_by_snapshot(
        runtime,
        config.data / LEDGER,
        load_genesis(config.genesis),
        config.ledger_address,
        TlsDialer(runtime, identity),
        spki_hash(identity.certificate),
        snapshots,
    )


async def run(config: NodeConfig) -> None:
    """Run a storage node until SIGTERM or SIGINT."""
    configure(config.log)
    arm_from_environment()
    runtime = SystemRuntime()
    try:
        await join_ledger(config, runtime)
        await StorageProcess(config, runtime).run()
    finally:
        runtime.close()
