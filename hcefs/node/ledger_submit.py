"""The way of a node's own transactions to the ledger's writer, over gRPC with mutual TLS.

Arrivals and reports are signed by the node's account, which is what the ledger checks;
the connection checks the authority and the host name only.

Invariants: a submission ends in bounded time; it is sent once.  Not guaranteed: that a
submission that failed as ``Unavailable`` is not committed.  Every transaction is safe to
repeat, so whoever submitted it does that, or looks at the replica first.
"""

from __future__ import annotations

import asyncio

import grpc

from hcefs import tracing
from hcefs.errors import Unavailable
from hcefs.ids import RecordId
from hcefs.ledger.outcome import LeafResult
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.transactions import SignedTransaction
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.retired import ServerChannels
from hcefs.transport.status import from_rpc_error
from hcefs.wire.v1 import ledger_pb2

SUBMIT_SECONDS = 15.0
"""Longer than the writer waits for its followers."""


class LedgerSubmitter:
    """Submits to the writer at one address over one connection, made on first use."""

    def __init__(self, runtime: Runtime, address: str, dialer: ServerDialer) -> None:
        self._address = address
        self._channels = ServerChannels(runtime, dialer, CHANNEL_OPTIONS, 2 * SUBMIT_SECONDS)
        self._closed = False

    async def submit(self, signed: SignedTransaction) -> SubmitResult:
        """Commit a signed transaction; a repeat returns the first result.

        Raises:
            Invalid, Denied, Conflict, NotFound: why the ledger refuses it.
            Exhausted, Unavailable: try again later; it may be committed all the same.
        """
        if self._closed:
            raise Unavailable("this node is stopping", reason="stopping")
        call = self._channels.get(self._address).unary_unary(
            "/hcefs.v1.Ledger/Submit",
            request_serializer=ledger_pb2.SubmitRequest.SerializeToString,
            response_deserializer=ledger_pb2.SubmitResponse.FromString,
        )
        request = ledger_pb2.SubmitRequest(transaction=signed.encode())
        try:
            with tracing.span("call Submit", "client"):
                answer = await call(request, timeout=SUBMIT_SECONDS, metadata=tracing.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        except grpc.aio.UsageError:
            raise Unavailable("this node is stopping", reason="stopping") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                # gRPC's word for a channel that was closed under the call.
                raise Unavailable("this node is stopping", reason="stopping") from None
            raise
        leaves = tuple(
            LeafResult(RecordId(leaf.record_id), leaf.index, leaf.leaf) for leaf in answer.leaves
        )
        return SubmitResult(answer.height, answer.time_ms, leaves)

    async def close(self) -> None:
        """End the connection; a submission that is under way fails as ``Unavailable``."""
        self._closed = True
        await self._channels.close()
