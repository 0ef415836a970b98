"""The ``Backups`` service: a storage node's rows, for operators who keep them elsewhere.

What leaves here are rows as they lie on the disk: sealed keys stay sealed, so an operator
who copies them learns what the ledger's operators may know anyway, who stored how much in
which record, and reads nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from hcefs.access.facts import AccountKind, LedgerView
from hcefs.access.verifier import Verifier
from hcefs.errors import Denied, Unavailable
from hcefs.formats.backup import BackupRow, BackupRows, RowSource
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.services.serving import streamed
from hcefs.store.dump import DumpedPage, dumped
from hcefs.store.interface import KeyTable, Stores
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import backup_pb2


class BackupService:
    """Servicer of ``hcefs.v1.Backups`` for the node ``account``.

    ``height`` is that of its replica; ``restoring`` says that rows may be missing here.
    """

    def __init__(
        self,
        runtime: Runtime,
        verifier: Verifier,
        view: LedgerView,
        stores: Stores,
        account: AccountId,
        metrics: Metrics,
        gate: Gate,
        height: Callable[[], int],
        restoring: Callable[[], bool],
    ) -> None:
        self.runtime = runtime
        self.metrics = metrics
        self.gate = gate
        self._verifier = verifier
        self._view = view
        self._stores = stores
        self._account = account
        self._height = height
        self._restoring = restoring

    @streamed("read-rows")
    async def ReadRows(
        self, request: backup_pb2.ReadRowsRequest, context: Any
    ) -> AsyncIterator[backup_pb2.ReadRowsResponse]:
        """All rows, a page in memory at a time: the reader sets the pace."""
        self._admit(request.proof)
        if self._restoring():
            raise Unavailable(
                "this node lost rows and has not brought all of them back: take the backup when "
                "it has (`hcefs status`), or from the others",
                reason="restoring",
            )
        yield backup_pb2.ReadRowsResponse(
            start=backup_pb2.RowsStart(account=bytes(self._account), height=self._height())
        )
        pages = dumped(self._stores)
        rows = count = 0
        while (page := await self.runtime.disk(next, pages, None)) is not None:
            rows += len(page.rows)
            count += 1
            self.metrics.count("backup_rows_total", len(page.rows))
            yield backup_pb2.ReadRowsResponse(page=_entry(page).encode())
        yield backup_pb2.ReadRowsResponse(end=backup_pb2.RowsEnd(rows=rows, pages=count))

    def _admit(self, data: bytes) -> None:
        proof = self._verifier.present_plain(data, method="backup", now_ms=self.runtime.now_ms())
        account = self._view.account(proof.presenter)
        if account is None or account.kind is not AccountKind.OPERATOR or not account.active:
            raise Denied("backups are for operators", reason="not-an-operator")


def _entry(page: DumpedPage) -> BackupRows:
    source = RowSource.KEYS if isinstance(page.table, KeyTable) else RowSource.ROWS
    return BackupRows(source, int(page.table), tuple(BackupRow(*row) for row in page.rows))
