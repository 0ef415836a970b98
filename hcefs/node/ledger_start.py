"""How the ledger's process begins: its log is settled with the followers, then it writes.

Invariant: the writer signs nothing before :func:`hcefs.ledger.recovery.settle` returns,
unless an operator has said that there are no followers to ask.
"""

from __future__ import annotations

import asyncio
import logging

from hcefs.client.replicas import Asker, GrpcReplicas
from hcefs.crypto.signing import SigningKey
from hcefs.errors import HcefsError, Invalid
from hcefs.ids import AccountId
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.machine import require_known_protocol
from hcefs.ledger.recovery import WriterAsk, settle, sign_ask
from hcefs.ledger.writer import LedgerWriter, counted_nodes
from hcefs.runtime import Runtime, end_tasks
from hcefs.transport.dial import ServerDialer
from hcefs.transport.replica_calls import ReplicaCalls
from hcefs.wire.v1 import replica_pb2

log = logging.getLogger(__name__)


class LedgerStart:
    """Starts one writer, at once or when its followers have been asked."""

    def __init__(
        self,
        runtime: Runtime,
        ledger: LedgerLog,
        writer: LedgerWriter,
        key: SigningKey,
        dialer: ServerDialer | None,
    ) -> None:
        """Without a ``dialer`` no follower is asked."""
        self._runtime = runtime
        self._log = ledger
        self._writer = writer
        self._calls = ReplicaCalls(runtime, dialer) if dialer is not None else None
        self._asker = writer_asker(runtime, ledger, key)
        self._task: asyncio.Task[None] | None = None
        self.waits_for = ""
        self.failure: HcefsError | None = None
        self.failed = asyncio.Event()

    async def start(self) -> None:
        """Start the writer; where there are followers to ask, in the background.

        A log that newer software has written is not continued: the process stays and says so.

        Raises:
            HcefsError: why it may not write, where that needs no asking.
        """
        try:
            require_known_protocol(self._log)
        except HcefsError as error:
            log.error("this ledger does not write: %s", error.message)
            self.failure = error
            self._writer.refuse(error)
            return
        if self._calls is None or not counted_nodes(self._log.cluster_map()):
            await self._writer.start()
            return
        replicas = GrpcReplicas(self._calls, self._asker)
        self._task = self._runtime.spawn(self._settle(replicas), name="ledger-settle")

    async def _settle(self, replicas: GrpcReplicas) -> None:
        try:
            await settle(self._log, replicas, self._runtime, waiting=self._waits)
            await self._writer.start()
        except HcefsError as error:
            log.error("this ledger does not write: %s", error.message)
            self.failure = error
            self._writer.refuse(error)
            self.failed.set()
        except Exception as error:
            log.exception("the ledger's start met a fault of its own")
            self.failure = Invalid(f"the ledger could not start: {error}", reason="ledger-start")
            self._writer.refuse(self.failure)
            self.failed.set()

    def _waits(self, words: str) -> None:
        if words and words != self.waits_for:
            log.warning("this ledger does not write yet: %s", words)
        self.waits_for = words

    async def stop(self) -> None:
        """End what :meth:`start` began."""
        task, self._task = self._task, None
        await end_tasks(task)
        if self._calls is not None:
            await self._calls.close()


def writer_asker(runtime: Runtime, ledger: LedgerLog, key: SigningKey) -> Asker:
    """The writer asks: each request is signed for the node that it goes to."""

    def ask(account: AccountId | None) -> replica_pb2.ReplicaAsker:
        terms = ledger.terms
        signed = sign_ask(
            WriterAsk(
                ledger.genesis.cluster,
                terms.term,
                account or AccountId.zero(),
                runtime.now_ms(),
            ),
            key,
        )
        change = terms.statement(terms.term)
        return replica_pb2.ReplicaAsker(
            writer_ask=signed.encode(), term_change=change.encode() if change is not None else b""
        )

    return ask
