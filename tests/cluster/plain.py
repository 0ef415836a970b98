"""The cluster as a client in any language sees it: generated stubs, ordinary protobuf.

Of HCE-FS, only tokens and proofs are made with its code.  Whatever works from
here works without the SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hcefs.access.token import mint
from hcefs.client.connection import Connection
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.signing import RequestProof
from hcefs.ids import AccountId, BlobId, GrantId, RecordId, RequestId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import SignedTransaction
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.transport.status import from_rpc_error
from hcefs.transport.tls import client_credentials
from hcefs.wire.v1 import blob_pb2, blob_pb2_grpc, ledger_pb2, ledger_pb2_grpc

CALL_SECONDS = 60.0
HOUR_MS = 3_600_000
READS = ("stat", "list", "get", "boxes")
"""The methods that need a right to read."""


@dataclass(frozen=True)
class ByRight:
    """By what right, and for what purpose, a request is made; a zero grant is the owner's."""

    grant: GrantId = field(default_factory=GrantId.zero)
    purpose: str = "TREAT"


OWNER = ByRight()


@dataclass(frozen=True)
class Caller:
    """Makes the tokens and proofs of one account."""

    keys: AccountKeys
    runtime: Runtime

    def authorization(
        self,
        method: str,
        gateway: AccountId,
        record: RecordId,
        blob: BlobId | None,
        right: ByRight = OWNER,
        start: int = 0,
        length: int = 0,
    ) -> blob_pb2.Authorization:
        """For one request to the node whose account is ``gateway``."""
        keys = self.keys
        token = mint(keys.token_key, keys.cluster, keys.account, right.grant)
        proof = replace(
            self._proof(method, record),
            token_hash=blake3_digest(token),
            blob=blob or BlobId.zero(),
            range_start=start,
            range_length=length,
            purpose=right.purpose,
            gateway=gateway,
        )
        return blob_pb2.Authorization(token=token, proof=proof.signed(keys.token_key).encode())

    def plain_proof(self, method: str, record: RecordId) -> bytes:
        """For one request to the ledger."""
        return self._proof(method, record).signed(self.keys.token_key).encode()

    def _proof(self, method: str, record: RecordId) -> RequestProof:
        return RequestProof(
            cluster=self.keys.cluster,
            token_hash=bytes(32),
            method=method,
            record=record,
            blob=BlobId.zero(),
            range_start=0,
            range_length=0,
            purpose="",
            gateway=AccountId.zero(),
            nonce=self.runtime.random(16),
            time_ms=self.runtime.now_ms(),
            presenter=self.keys.account,
            key_version=self.keys.key_version,
        )

    def request_id(self) -> bytes:
        return self.runtime.random(RequestId.SIZE)


@dataclass(frozen=True)
class PutHead:
    """What a writer decides before the first byte."""

    record: RecordId
    blob: BlobId
    salt: bytes
    commit_by_ms: int
    generation: int = 0

    @classmethod
    def draw(cls, runtime: Runtime, record: RecordId) -> PutHead:
        return cls(
            record,
            BlobId.of(runtime.random(16)),
            runtime.random(32),
            runtime.now_ms() + HOUR_MS,
        )


class PlainNode:
    """One node's client port."""

    def __init__(self, node: Node, connection: Connection) -> None:
        self.account = node.account
        self._address = node.address
        self._credentials = client_credentials(connection.authority)
        self._channel = grpc.aio.secure_channel(self._address, self._credentials)
        # The generated stubs carry no types.
        self.blobs: Any = blob_pb2_grpc.BlobsStub(self._channel)  # type: ignore[no-untyped-call]
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    async def __aenter__(self) -> PlainNode:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def serves(self) -> bool:
        """What the health service says."""
        request = health_pb2.HealthCheckRequest(service="hcefs.v1.Blobs")
        answer = await _answered(self._health.Check(request, timeout=CALL_SECONDS))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def read(
        self,
        caller: Caller,
        method: str,
        record: RecordId,
        blob: BlobId,
        right: ByRight = OWNER,
        min_height: int = 0,
    ) -> Any:
        """One of ``READS``; a get is sealed.  Streams come as a list of messages.

        Raises:
            HcefsError: what the node says.
        """
        named = None if method in ("list", "boxes") else blob
        common: dict[str, Any] = {
            "authorization": caller.authorization(method, self.account, record, named, right),
            "record_id": bytes(record),
            "request_id": caller.request_id(),
            "min_height": min_height,
        }
        if method == "stat":
            request = blob_pb2.StatRequest(**common, blob_id=bytes(blob))
            return await _answered(self.blobs.Stat(request, timeout=CALL_SECONDS))
        if method == "boxes":
            boxes = blob_pb2.GetBoxesRequest(**common)
            return await _answered(self.blobs.GetBoxes(boxes, timeout=CALL_SECONDS))
        if method == "list":
            listing = blob_pb2.ListRequest(**common)
            return await _streamed(self.blobs.List(listing, timeout=CALL_SECONDS))
        sealed = blob_pb2.GetRequest(**common, blob_id=bytes(blob), sealed=True)
        return await _streamed(self.blobs.Get(sealed, timeout=CALL_SECONDS))

    async def get(
        self,
        caller: Caller,
        record: RecordId,
        blob: BlobId,
        right: ByRight = OWNER,
        start: int = 0,
        length: int = 0,
        min_height: int = 0,
        **opening: Any,
    ) -> tuple[blob_pb2.GetHeader, list[bytes]]:
        """A get opened by ``dek``, ``secrets`` or ``sealed``: the header and the data.

        Raises:
            HcefsError: what the node says.
        """
        request = blob_pb2.GetRequest(
            authorization=caller.authorization(
                "get", self.account, record, blob, right, start, length
            ),
            blob_id=bytes(blob),
            record_id=bytes(record),
            range_start=start,
            range_length=length,
            min_height=min_height,
            request_id=caller.request_id(),
            **opening,
        )
        first, *rest = await _streamed(self.blobs.Get(request, timeout=CALL_SECONDS))
        return first.header, [message.data for message in rest]

    async def put(
        self,
        caller: Caller,
        head: PutHead,
        parts: Iterable[bytes],
        length: int,
        right: ByRight = OWNER,
        *,
        client_seal: blob_pb2.ClientSeal | None = None,
        **trailer: bytes,
    ) -> blob_pb2.PutResponse:
        """A put of ``parts``; ``trailer`` is ``metadata`` or ``sealed_metadata``.

        Raises:
            HcefsError: what the node says.
        """

        def authorization() -> blob_pb2.Authorization:
            return caller.authorization("put", self.account, head.record, head.blob, right)

        def requests() -> Iterator[blob_pb2.PutRequest]:
            header = blob_pb2.PutHeader(
                authorization=authorization(),
                blob_id=bytes(head.blob),
                record_id=bytes(head.record),
                generation=head.generation,
                commit_by_ms=head.commit_by_ms,
                salt=head.salt,
                request_id=caller.request_id(),
                writer=bytes(caller.keys.account),
                client_seal=client_seal,
            )
            yield blob_pb2.PutRequest(header=header)
            for part in parts:
                yield blob_pb2.PutRequest(data=part)
            end = blob_pb2.PutTrailer(
                plaintext_length=length, authorization=authorization(), **trailer
            )
            yield blob_pb2.PutRequest(trailer=end)

        return await asyncio.to_thread(self._put, requests())

    def _put(self, requests: Iterator[blob_pb2.PutRequest]) -> blob_pb2.PutResponse:
        """By the blocking API: the asynchronous one loses a status that comes while it writes."""
        with grpc.secure_channel(self._address, self._credentials) as channel:
            blobs: Any = blob_pb2_grpc.BlobsStub(channel)  # type: ignore[no-untyped-call]
            try:
                answer: blob_pb2.PutResponse = blobs.Put(requests, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                raise from_rpc_error(cast(Any, error)) from None
        return answer


class PlainLedger:
    """The ledger's client port."""

    def __init__(self, connection: Connection) -> None:
        credentials = client_credentials(connection.authority)
        self._channel = grpc.aio.secure_channel(connection.ledger, credentials)
        # The generated stubs carry no types.
        self.stub: Any = ledger_pb2_grpc.LedgerStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> PlainLedger:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def submit(self, signed: SignedTransaction) -> ledger_pb2.SubmitResponse:
        """Commit a transaction.

        Raises:
            HcefsError: why the ledger refuses it.
        """
        request = ledger_pb2.SubmitRequest(transaction=signed.encode())
        answer: ledger_pb2.SubmitResponse = await _answered(
            self.stub.Submit(request, timeout=CALL_SECONDS)
        )
        return answer

    async def consistency(
        self, caller: Caller, record: RecordId, size: int
    ) -> ledger_pb2.ProveResponse:
        """The proof that the first ``size`` leaves are still the first ones.

        Raises:
            HcefsError: what the ledger says.
        """
        request = ledger_pb2.ProveRequest(
            proof=caller.plain_proof("query", record), record_id=bytes(record), consistent_with=size
        )
        answer: ledger_pb2.ProveResponse = await _answered(
            self.stub.Prove(request, timeout=CALL_SECONDS)
        )
        return answer


async def _answered(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def _streamed(call: Any) -> list[Any]:
    try:
        return [message async for message in call]
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
