"""What the embedded ledger is made of: one writer over a log, and its services, from given parts.

Owns the composition and what it reports.  It opens no port, reads no file and knows
no TLS: :mod:`hcefs.node.ledger_process` does, and the simulator gives other parts.
"""

from __future__ import annotations

from typing import Any

from hcefs import __version__
from hcefs.access.token import TokenCache
from hcefs.access.verifier import NonceMemory, Verifier
from hcefs.config import LimitsConfig, QueriesConfig
from hcefs.crypto.signing import SigningKey
from hcefs.ids import AccountId
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.snapshot_maker import SnapshotMaker
from hcefs.ledger.writer import LedgerWriter
from hcefs.metrics import Metrics
from hcefs.node.emergency_gauges import emergency_gauges
from hcefs.node.ledger_start import LedgerStart
from hcefs.node.process_gauges import clock_gauges, map_gauges
from hcefs.runtime import Runtime
from hcefs.services.admin_service import AdminService
from hcefs.services.handlers import (
    admin_handlers,
    ledger_handlers,
    snapshot_handlers,
)
from hcefs.services.ledger_service import LedgerService, NodeKeys
from hcefs.services.rates import Rates
from hcefs.services.snapshot_service import SnapshotService, admit_nodes
from hcefs.transport.dial import ServerDialer
from hcefs.transport.limit import Gate
from hcefs.transport.versions import versions_message
from hcefs.wire.v1 import admin_pb2

CALLS_MAX = 2_000


class LedgerNode:
    """The ledger's writer and what answers its calls; it closes the log.

    ``client_handlers`` answer the calls on its client port, ``peer_handlers`` those on
    its peer port: generic handlers of gRPC.
    """

    def __init__(
        self,
        runtime: Runtime,
        genesis: Genesis,
        key: SigningKey,
        log: LedgerLog,
        dialer: ServerDialer | None = None,
        queries: QueriesConfig = QueriesConfig(),  # noqa: B008  (frozen)
    ) -> None:
        """``dialer`` leads to the followers, who are asked before anything is signed.

        Without one nobody is asked: only where an operator has said that nobody can be.
        ``queries`` bounds what accounts ask.
        """
        self._runtime = runtime
        self._genesis = genesis
        self.metrics = Metrics()
        self.log = log
        self.writer = LedgerWriter(log, key, runtime, genesis)
        self.snapshots = SnapshotMaker(log, runtime, self.writer.refuse)
        self.beginning = LedgerStart(runtime, log, self.writer, key, dialer)
        gate = Gate("ledger-calls", CALLS_MAX, runtime)
        verifier = Verifier(genesis.cluster, log, AccountId.zero(), TokenCache(), NonceMemory())
        limits = LimitsConfig(account_requests=queries.account_requests)
        self.rates = rates = Rates(runtime, self.metrics, limits)
        admin = AdminService(runtime, verifier, log, self.report, self.metrics, gate, rates=rates)

        def service(nodes: NodeKeys | None) -> LedgerService:
            return LedgerService(
                runtime, genesis, log, self.writer, verifier, self.metrics, gate, nodes, rates
            )

        self.client_handlers: tuple[Any, ...] = (
            ledger_handlers(service(None)),
            admin_handlers(admin),
        )
        snapshots = SnapshotService(runtime, log, self.metrics, gate, admit_nodes(log))
        self.peer_handlers: tuple[Any, ...] = (
            ledger_handlers(service(NodeKeys(log))),
            snapshot_handlers(snapshots),
        )

    async def report(self) -> admin_pb2.StatusResponse:
        """What ``hcefs status`` shows of the ledger."""
        head = self.log.head
        age = self._runtime.now_ms() - head.time_ms if head else 0
        current = self.log.cluster_map()
        return admin_pb2.StatusResponse(
            version=__version__,
            height=self.log.height,
            app_hash=self.log.app_hash,
            lease_age_ms=max(0, age),
            epoch=current.epoch if current else 0,
            warnings=self.unwritable(),
            versions=versions_message(),
            protocol=self.log.protocol().at(self.log.height + 1),
        )

    def unwritable(self) -> list[str]:
        """Why this ledger commits nothing now; nothing while its writer runs."""
        return (
            []
            if self.writer.running
            else self.unready()
            or [self.beginning.waits_for or "the writer does not run; see the log"]
        )

    def unready(self) -> list[str]:
        """Why this ledger answers nobody rightly: it has failed, and waiting does not help."""
        failure = self.beginning.failure or self.log.failure
        return [failure.message] if failure is not None and not self.writer.running else []

    async def start(self) -> None:
        """Begin to commit; whatever comes of it, :meth:`stop` is to follow."""
        self.metrics.set("build_info", 1, version=__version__)
        self.metrics.set("ledger_height", lambda: self.log.height)
        self.metrics.set("ledger_term", lambda: self.log.terms.term)
        self.metrics.set("ledger_fork_proofs", lambda: len(self.log.fork_proofs()))
        self.snapshots.gauges(self.metrics)
        emergency_gauges(self.metrics, self.log, self._runtime)
        self.metrics.set("serving", lambda: float(self.writer.running))
        clock_gauges(self.metrics, self._genesis, self._runtime)
        map_gauges(self.metrics, self.log, None)
        await self.beginning.start()
        self.snapshots.start()

    async def stop(self) -> None:
        """Finish the block in the making and close the log; nothing may call it any more."""
        await self.snapshots.stop()
        await self.beginning.stop()
        await self.writer.stop()
        self.log.close()
