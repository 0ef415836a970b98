"""Receipts that are written, cut and anchored, killed between any two of these steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

from hcefs.access.facts import AccountKind
from hcefs.crashpoints import CrashPoint
from hcefs.evidence.proof import BatchProver
from hcefs.evidence.receipt import ChainHead, Receipt
from hcefs.evidence.upkeep_tally import UpkeepTally
from hcefs.ids import RequestId
from hcefs.ledger.anchored import check_anchor
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.terms import Terms
from hcefs.ledger.transactions import Transaction, Upgrade
from hcefs.ledger.writer import LedgerWriter
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime
from hcefs.store.files import open_stores
from hcefs.store.receipt_log import ReceiptLog
from hcefs.store.receipts import ReceiptStore
from hcefs.upkeep.anchor import ReceiptAnchorer
from tests.crash.scenarios import Scenario
from tests.crash.world import Journal
from tests.unit.ledger.replicas import open_log
from tests.unit.ledger.scenario import Scenario as Facts
from tests.unit.ledger.scenario import signing_key
from tests.vectors.generate_receipts import draft

P = CrashPoint


class Receipts(Scenario):
    """Requests come, their receipts are anchored, and more requests come."""

    name = "receipts"
    points: ClassVar[Mapping[CrashPoint, tuple[int, ...]]] = {
        P.RECEIPTS_MADE: (1, 2),
        P.RECEIPTS_WRITTEN: (1, 2),
        P.RECEIPTS_CUT: (1,),
        P.ANCHOR_SUBMITTED: (1,),
        P.ANCHOR_NOTED: (1,),
    }

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        super().__init__(folder, runtime)
        self.facts = Facts()
        self.node = self.facts.party("n1", AccountKind.NODE)
        self.journal = Journal(folder / "journal")
        self.ledger = open_log(folder / "ledger", self.facts)
        self.stores = open_stores(folder / "node", reserve_bytes=0)
        cluster = self.facts.genesis.cluster
        self.store = ReceiptStore(self.stores.rows, cluster, self.node.account)
        self.start = ChainHead.start(cluster, self.node.account)
        self.log = ReceiptLog(runtime, self.store, self._anchored, Metrics())

    def close(self) -> None:
        self.stores.close()
        self.ledger.close()

    def _anchored(self) -> ChainHead | None:
        anchor = self.ledger.receipt_anchor(self.node.account)
        if anchor is None:
            return None
        return ChainHead(anchor.batch.last, anchor.batch.chain, anchor.batch.until_ms)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LedgerWriter]:
        writer = LedgerWriter(self.ledger, signing_key("writer"), self.runtime, self.facts.genesis)
        await writer.start()
        try:
            yield writer
        finally:
            await writer.stop()

    def anchorer(self, writer: LedgerWriter) -> ReceiptAnchorer:
        async def submit(transaction: Transaction) -> SubmitResult:
            return await writer.submit(self.facts.sign(transaction, "n1").encode())

        return ReceiptAnchorer(
            self.runtime, self.log, self.ledger, UpkeepTally(), Metrics(),
            self.node.account, lambda: None, submit, 0.0,
        )  # fmt: skip

    async def requests(self, count: int) -> None:
        """Requests at once, each noted once its receipt was said to be durable."""

        async def once() -> None:
            request = RequestId(self.runtime.random(RequestId.SIZE))
            await self.log.write([draft(request=request)])
            self.journal.note(bytes(request))

        await asyncio.gather(*(once() for _ in range(count)))

    async def prepare(self) -> None:
        async with self.running() as writer:
            for version in (2, 3, 4):
                rise = Upgrade(version, self.ledger.height + 2)
                for signed in (
                    self.facts.sign(rise, "o1", "o2"),
                    self.facts.sign(
                        self.facts.registration(f"i{version}", AccountKind.INSTITUTION),
                        f"i{version}", "o1", "o2",
                    ),
                ):  # fmt: skip
                    await writer.submit(signed.encode())
            admitted = self.facts.sign(
                self.facts.registration("n1", AccountKind.NODE), "n1", "o1", "o2"
            )
            await writer.submit(admitted.encode())
            await self.requests(3)
            await self.anchor_all(writer)

    async def anchor_all(self, writer: LedgerWriter) -> None:
        anchorer = self.anchorer(writer)
        await anchorer.work()  # cuts and submits
        await anchorer.work()  # notes

    async def act(self) -> None:
        async with self.running() as writer:
            await self.requests(20)
            await self.anchor_all(writer)
            await self.requests(20)

    async def check(self) -> list[str]:
        found = self._faults()
        async with self.running() as writer:
            await self.requests(5)
            await self.anchor_all(writer)
        anchor = self.ledger.receipt_anchor(self.node.account)
        if anchor is None or anchor.batch.last != self.store.head().sequence:
            found.append("not all receipts can be anchored")
        found += self._unproved(self.store.head().sequence)
        return found + self._faults()

    def _faults(self) -> list[str]:
        """What is wrong with the receipts as they lie there."""
        encoded = self.store.receipts(1, 4096)
        head, known = self.start, set()
        for data in encoded:
            head = head.followed_by(data)
            known.add(bytes(Receipt.decode(data).request))
        kept = self.store.head()
        found = []
        if (kept.sequence, kept.hash) != (head.sequence, head.hash):
            found.append("the head is not that of the chain")
        if kept.bytes != sum(map(len, encoded)):
            found.append("the bytes were counted wrong")
        if not known >= set(self.journal.notes()):
            found.append("a request was answered whose receipt is not there")
        if len(self.store.about(draft().record, 0, 4096)) != len(encoded):
            found.append("not every receipt is found by its record")
        anchor = self.ledger.receipt_anchor(self.node.account)
        if anchor is not None and anchor.batch.last > kept.sequence:
            found.append("something is anchored that is not durable")
        return found

    def _unproved(self, last: int) -> list[str]:
        for number in range(1, last + 1):
            note = self.store.anchor_of(number)
            if note is None:
                return [f"receipt {number} is anchored, and nobody noted where"]
            proof = TransactionProof.decode(note.proof)
            anchored = check_anchor(proof, Terms(self.facts.genesis))
            encoded = self.store.receipts(anchored.first, anchored.last)
            BatchProver(note.batch, encoded).prove(number).check()
        return []
