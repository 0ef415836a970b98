"""Proofs of transactions, as a client gathers them: for bundles and certificates alike.

Invariants: what leaves here is decoded and not checked; whoever builds something of it
checks the whole, as any reader will.  At most ``AT_ONCE`` questions are under way.
"""

from __future__ import annotations

import asyncio

from hcefs.client.channels import Recent
from hcefs.client.connection import Connection
from hcefs.client.ledger import LedgerClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.ids import AccountId
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.transactions import RegisterAccount
from hcefs.ledger.transactions_keys import RotateKeys
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.wire.v1 import ledger_pb2

AT_ONCE = 16
ACCOUNTS_MAX = 4096

Shown = dict[int, TransactionProof]
"""By version of an account's keys: the proof of what brought them to the ledger."""


class ProofClient(LedgerClient):
    """The part of a client that has the ledger prove its transactions."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._shown: Recent[AccountId, Shown] = Recent(self.runtime, ACCOUNTS_MAX)
        self._proving = asyncio.Semaphore(AT_ONCE)

    async def _proofs_of(
        self,
        *,
        account: bytes | None = None,
        grant: bytes | None = None,
        record: bytes | None = None,
        leaf: ledger_pb2.LeavesQuestion | None = None,
        erasure: bytes | None = None,
    ) -> list[TransactionProof]:
        """The transactions behind one fact, in the order of the ledger."""
        async with self._proving:
            answer = await self._ledger(
                "ProveTransactions",
                lambda: ledger_pb2.ProveTransactionsRequest(
                    proof=self._authorizer.plain("query"),
                    account=account,
                    grant=grant,
                    record=record,
                    leaf=leaf,
                    erasure=erasure,
                ),
                ledger_pb2.ProveTransactionsResponse,
            )
        return [TransactionProof.decode(data) for data in answer.proofs]

    async def _keys_shown(self, account: AccountId, version: int) -> Shown:
        """Proofs of an account's keys, up to ``version`` if the ledger knows that one.

        They never change, so those that are known are not asked for again.
        """
        known = self._shown.get(account)
        if known is not None and version in known:
            return known
        shown: Shown = {}
        for proof in await self._proofs_of(account=bytes(account)):
            change = proof.unchecked()
            if isinstance(change, RegisterAccount):
                shown[1] = proof
            elif isinstance(change, RotateKeys) and change.account == account:
                shown[change.key_version] = proof
        return self._shown.put(account, shown)
