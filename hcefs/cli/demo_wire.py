"""Requests made by hand, as a thief would: what the SDK itself never sends.

The demo uses these to show that nodes, not the SDK, refuse.  Nothing here opens
anything: reads ask for sealed segments.
"""

from __future__ import annotations

from contextlib import aclosing
from types import TracebackType
from typing import Self

from hcefs.cli.demo_stage import PURPOSE, Stage
from hcefs.client.authorize import Authorizer, Right, Scope
from hcefs.client.channels import Channels
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.signing import RequestProof, SigningKey
from hcefs.ids import AccountId, BlobId, GrantId, RequestId
from hcefs.integrity import blake3_digest
from hcefs.placement.cluster_map import Node
from hcefs.transport.dial import AuthorityDialer
from hcefs.wire.v1 import blob_pb2

CALL_SECONDS = 10.0


class Wire:
    """A connection to the nodes without an account of its own; use ``async with``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._channels = Channels(stage.runtime, AuthorityDialer(stage.connection.authority))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channels.close()

    # -- authorizations

    def presenting(
        self, keys: AccountKeys, token: bytes, node: Node, method: str, blob: BlobId | None
    ) -> blob_pb2.Authorization:
        """A genuine proof of ``keys``' account over whatever token it has got hold of."""
        authorizer = Authorizer(self._stage.connection.cluster, keys, self._stage.runtime)
        right = Right(GrantId.zero(), PURPOSE, token)
        scope = Scope(self._stage.record, blob)
        return authorizer.authorize(method, scope, right, node.account)

    def own_token(self, keys: AccountKeys, grant: GrantId) -> bytes:
        """The token that the SDK of an account makes for its requests."""
        return Authorizer(self._stage.connection.cluster, keys, self._stage.runtime).token(grant)

    def forged(
        self, presenter: AccountId, key: SigningKey, token: bytes, node: Node, blob: BlobId
    ) -> blob_pb2.Authorization:
        """A proof in the name of ``presenter``, signed with another account's key."""
        runtime = self._stage.runtime
        proof = RequestProof(
            cluster=self._stage.connection.cluster,
            token_hash=blake3_digest(token),
            method="get",
            record=self._stage.record,
            blob=blob,
            range_start=0,
            range_length=0,
            purpose=PURPOSE,
            gateway=node.account,
            nonce=runtime.random(16),
            time_ms=runtime.now_ms(),
            presenter=presenter,
            key_version=1,
        )
        return blob_pb2.Authorization(token=token, proof=proof.signed(key).encode())

    # -- requests

    async def get(self, authorization: blob_pb2.Authorization, node: Node, blob: BlobId) -> int:
        """Read a blob's sealed segments; the number of messages that came.

        Raises:
            HcefsError: what the node answers.
        """
        request = blob_pb2.GetRequest(
            authorization=authorization,
            blob_id=bytes(blob),
            record_id=bytes(self._stage.record),
            request_id=self._request(),
            sealed=True,
        )
        return await self._count(node, "Get", request.SerializeToString())

    async def list(self, authorization: blob_pb2.Authorization, node: Node) -> int:
        """List the record; the number of messages that came.

        Raises:
            HcefsError: what the node answers.
        """
        request = blob_pb2.ListRequest(
            authorization=authorization,
            record_id=bytes(self._stage.record),
            request_id=self._request(),
        )
        return await self._count(node, "List", request.SerializeToString())

    async def stat(
        self, authorization: blob_pb2.Authorization, node: Node, blob: BlobId
    ) -> blob_pb2.StatResponse:
        """A blob's rows, key row included.

        Raises:
            HcefsError: what the node answers.
        """
        request = blob_pb2.StatRequest(
            authorization=authorization,
            blob_id=bytes(blob),
            record_id=bytes(self._stage.record),
            request_id=self._request(),
        )
        return await self._channels.unary(
            node.address, "/hcefs.v1.Blobs/Stat", request, blob_pb2.StatResponse, CALL_SECONDS
        )

    async def _count(self, node: Node, method: str, request: bytes) -> int:
        messages = self._channels.answers(node.address, f"/hcefs.v1.Blobs/{method}", request)
        async with aclosing(messages):
            return len([None async for _ in messages])

    def _request(self) -> bytes:
        return bytes(RequestId(self._stage.runtime.random(RequestId.SIZE)))
