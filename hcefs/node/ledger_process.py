"""The embedded ledger as a process: its files, ports, TLS, metrics page and signals."""

from __future__ import annotations

import asyncio
import logging

from hcefs.config import LedgerConfig
from hcefs.crashpoints import arm_from_environment
from hcefs.crypto.accounts import load_account
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotRule
from hcefs.ledger.writer import LedgerWriter
from hcefs.metrics import Metrics, MetricsServer
from hcefs.node.health import LoopBeat, ledger_pages
from hcefs.node.ledger_node import CALLS_MAX, LedgerNode
from hcefs.node.logs import configure
from hcefs.node.process_gauges import certificate_gauges, disk_gauges
from hcefs.node.servers import Port, at_hangup, load_genesis, load_identity, until_signal
from hcefs.node.tls_watch import TlsWatch
from hcefs.node.trace_export import TraceExporter, exporter_of
from hcefs.runtime import Runtime, SystemRuntime, end_tasks
from hcefs.transport.dial import TlsDialer
from hcefs.transport.tls_identity import CurrentIdentity

HEALTH_SECONDS = 0.5
log = logging.getLogger(__name__)


class LedgerProcess:
    """The ledger's writer, and what a process puts around it."""

    def __init__(
        self,
        config: LedgerConfig,
        runtime: Runtime,
        *,
        alone: bool = False,
        snapshots: SnapshotRule = SNAPSHOT_RULE,
    ) -> None:
        """``alone``: an operator has said that no follower can be asked."""
        self._runtime = runtime
        self._config = config
        self._page: MetricsServer | None = None
        self._beat = LoopBeat(runtime)
        self._health: asyncio.Task[None] | None = None
        self._traces: TraceExporter | None = None
        genesis = load_genesis(config.genesis)
        key = load_account(config.writer_key).signing_key
        self._identity = identity = CurrentIdentity(load_identity(config.tls))
        dialer = None if alone else TlsDialer(runtime, identity)
        if alone:
            log.warning("this ledger writes without asking any follower, as an operator said")
        ledger_log = LedgerLog.open(config.data, genesis, snapshots=snapshots)
        try:
            self.node = LedgerNode(runtime, genesis, key, ledger_log, dialer, config.queries)
        except BaseException:
            ledger_log.close()
            raise
        self._clients = Port(
            config.client_address,
            identity,
            self.node.client_handlers,
            ["hcefs.v1.Ledger", "hcefs.v1.Admin"],
            mutual=False,
            streams=CALLS_MAX,
        )
        self._peers = Port(
            config.peer_address,
            identity,
            self.node.peer_handlers,
            ["hcefs.v1.Ledger", "hcefs.v1.Snapshots"],
            mutual=True,
            streams=CALLS_MAX,
        )
        self.tls_watch = TlsWatch(runtime, config.tls, identity, self.metrics)

    @property
    def log(self) -> LedgerLog:
        """The ledger's log."""
        return self.node.log

    @property
    def writer(self) -> LedgerWriter:
        """The ledger's writer."""
        return self.node.writer

    @property
    def metrics(self) -> Metrics:
        """What the ledger counts."""
        return self.node.metrics

    async def start(self) -> None:
        """Commit and serve; whatever comes of it, :meth:`stop` is to follow."""
        certificate_gauges(self.metrics, self._identity)
        disk_gauges(self.metrics, self._config.data)
        pages = ledger_pages(self.node, self._beat)
        self._page = self.metrics.serve(self._config.metrics_address, pages)
        address = self._config.client_address
        self._traces = exporter_of(
            self._runtime, self._config.trace, self.metrics, "hcefs-ledger", address
        )
        if self._traces is not None:
            self._traces.start()
        await self.node.start()
        for port in (self._clients, self._peers):
            await port.set_serving(not self.node.unready())
            await port.start()
        self._health = self._runtime.spawn(self._watch(), name="health")
        self.tls_watch.start()

    async def _watch(self) -> None:
        """Keep the health service in step with the page."""
        shown = not self.node.unready()
        while True:
            self._beat.beat()
            ready = not self.node.unready()
            if ready != shown:
                shown = ready
                log.info("this ledger %s", "serves" if ready else "does not serve now")
                for port in (self._clients, self._peers):
                    await port.set_serving(ready)
            await self._runtime.sleep(HEALTH_SECONDS)

    @property
    def health_address(self) -> str:
        """Where the metrics and the health pages are, once it is started."""
        return self._page.address if self._page is not None else ""

    async def stop(self) -> None:
        """End what :meth:`start` began, and close the log."""
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

    async def _until_end(self) -> None:
        """Return at a signal; raise when the followers' answers forbid this ledger to write."""
        beginning = self.node.beginning
        signalled = self._runtime.spawn(until_signal(), name="signal")
        failed = self._runtime.spawn(beginning.failed.wait(), name="start-failed")
        try:
            await asyncio.wait((signalled, failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(signalled, failed)
        if beginning.failure is not None:
            raise beginning.failure

    async def run(self) -> None:
        """Serve until a signal."""
        try:
            at_hangup(self.tls_watch.look_now)
            await self.start()
            print(f"ready ledger {self._config.client_address}", flush=True)
            await self._until_end()
        finally:
            await self.stop()


async def run(config: LedgerConfig, *, alone: bool = False) -> None:
    """Run the ledger until SIGTERM or SIGINT; ``alone``: it asks no follower first."""
    configure(config.log)
    arm_from_environment()
    runtime = SystemRuntime()
    try:
        await LedgerProcess(config, runtime, alone=alone).run()
    finally:
        runtime.close()
