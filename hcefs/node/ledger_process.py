"""The embedded ledger as a process: one writer, its log and its two ports."""

from __future__ import annotations

import asyncio

from hcefs import __version__
from hcefs.access.token import TokenCache
from hcefs.access.verifier import NonceMemory, Verifier
from hcefs.config import LedgerConfig
from hcefs.crypto.accounts import load_account
from hcefs.ids import AccountId
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.writer import LedgerWriter
from hcefs.metrics import Metrics, MetricsServer
from hcefs.node.logs import configure
from hcefs.node.servers import Port, load_genesis, load_identity, until_signal
from hcefs.runtime import Runtime, SystemRuntime
from hcefs.services.admin_service import AdminService
from hcefs.services.handlers import admin_handlers, ledger_handlers
from hcefs.services.ledger_service import LedgerService, NodeKeys
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import admin_pb2

CALLS_MAX = 2_000
GAUGE_SECONDS = 1.0


class LedgerProcess:
    """Everything the ledger's process runs."""

    def __init__(self, config: LedgerConfig, runtime: Runtime) -> None:
        self._config = config
        self._runtime = runtime
        self.metrics = Metrics()
        self._page: MetricsServer | None = None
        self._genesis: Genesis = load_genesis(config.genesis)
        key = load_account(config.writer_key).signing_key
        self.log = LedgerLog.open(config.data, self._genesis)
        self.writer = LedgerWriter(self.log, key, runtime, self._genesis)
        identity = load_identity(config.tls)
        gate = Gate("ledger-calls", CALLS_MAX, runtime)
        verifier = Verifier(
            self._genesis.cluster, self.log, AccountId.zero(), TokenCache(), NonceMemory()
        )
        admin = AdminService(runtime, verifier, self.log, self._report, self.metrics, gate)

        def service(nodes: NodeKeys | None) -> LedgerService:
            return LedgerService(
                runtime,
                self._genesis,
                self.log,
                self.writer,
                verifier,
                self.metrics,
                gate,
                nodes,
            )

        self._clients = Port(
            config.client_address,
            identity,
            [ledger_handlers(service(None)), admin_handlers(admin)],
            ["hcefs.v1.Ledger", "hcefs.v1.Admin"],
            mutual=False,
            streams=CALLS_MAX,
        )
        self._peers = Port(
            config.peer_address,
            identity,
            [ledger_handlers(service(NodeKeys(self.log)))],
            ["hcefs.v1.Ledger"],
            mutual=True,
            streams=CALLS_MAX,
        )

    async def _report(self) -> admin_pb2.StatusResponse:
        head = self.log.head
        age = self._runtime.now_ms() - head.time_ms if head else 0
        current = self.log.cluster_map()
        return admin_pb2.StatusResponse(
            version=__version__,
            height=self.log.height,
            app_hash=self.log.app_hash,
            lease_age_ms=max(0, age),
            epoch=current.epoch if current else 0,
            warnings=[] if self.writer.running else ["the writer has stopped; see the log"],
        )

    async def start(self) -> None:
        """Commit and serve; whatever comes of it, :meth:`stop` is to follow."""
        self._page = self.metrics.serve(self._config.metrics_address)
        self.metrics.set("build_info", 1, version=__version__)
        self.metrics.set("ledger_height", lambda: self.log.height)
        await self.writer.start()
        for port in (self._clients, self._peers):
            await port.start()
            await port.set_serving(True)

    async def stop(self) -> None:
        """End what :meth:`start` began, and close the log."""
        await asyncio.gather(self._clients.stop(), self._peers.stop())
        await self.writer.stop()
        if self._page is not None:
            self._page.close()
        self.log.close()

    async def run(self) -> None:
        """Serve until a signal."""
        try:
            await self.start()
            print(f"ready ledger {self._config.client_address}", flush=True)
            await until_signal()
        finally:
            await self.stop()


async def run(config: LedgerConfig) -> None:
    """Run the ledger until SIGTERM or SIGINT."""
    configure(config.log)
    runtime = SystemRuntime()
    try:
        await LedgerProcess(config, runtime).run()
    finally:
        runtime.close()
