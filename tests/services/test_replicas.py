"""Who may ask a node about its replica of the ledger, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hcefs.client.replicas import GrpcReplicas
from hcefs.errors import Denied, HcefsError, Invalid, NotFound, Unauthenticated
from hcefs.ids import AccountId
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.link import BlockBytes
from hcefs.ledger.recovery import WriterAsk, settle, sign_ask
from hcefs.node.ledger_start import writer_asker
from hcefs.transport.dial import AuthorityDialer
from hcefs.transport.replica_calls import ReplicaCalls
from hcefs.wire.v1 import replica_pb2
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


@pytest.fixture
async def calls(rig: Rig) -> AsyncIterator[ReplicaCalls]:
    made = ReplicaCalls(rig.runtime, AuthorityDialer(rig.authority))
    yield made
    await made.close()


def operator(rig: Rig, client: Any = None) -> replica_pb2.ReplicaAsker:
    keys = rig.keys_of(client if client is not None else rig.operators[0])
    return replica_pb2.ReplicaAsker(proof=rig.proof(keys, "replica"))


async def refusal(work: Any) -> HcefsError:
    with pytest.raises(HcefsError) as caught:
        await work
    return caught.value


async def test_an_operator_sees_replicas_and_reads_their_blocks(
    rig: Rig, calls: ReplicaCalls
) -> None:
    node = rig.nodes[0]
    replicas = GrpcReplicas(calls, lambda _: operator(rig))
    answer = await replicas.describe(None, node.config.client_address)
    assert answer.account == node.process.account
    assert (answer.status, answer.terms, answer.superseded) == ("following", (), b"")
    assert answer.block_hash == rig.ledger.log.block_hash(answer.height)
    head = SignedHead.decode(answer.head)
    assert head.height >= answer.height - 1
    feed = replicas.blocks(None, node.config.client_address, 2, answer.height)
    heights = []
    async for message in feed:
        assert isinstance(message, BlockBytes)
        heights.append(Block.decode(message.data).header.height)
    assert heights == list(range(2, answer.height + 1))
    beyond = replicas.blocks(None, node.config.client_address, 1, 1 << 40)
    with pytest.raises(NotFound):
        await anext(beyond)


async def test_the_writer_asks_with_its_key(rig: Rig, calls: ReplicaCalls) -> None:
    node = rig.nodes[0]
    asker = writer_asker(rig.runtime, rig.ledger.log, rig._writer.signing_key)
    replicas = GrpcReplicas(calls, asker)
    answer = await replicas.describe(node.process.account, node.config.client_address)
    assert answer.height > 0
    # For one node only, and from the writer only.
    error = await refusal(replicas.describe(AccountId.zero(), node.config.client_address))
    assert (type(error), error.reason) == (Unauthenticated, "bad-writer-ask")
    stranger = writer_asker(rig.runtime, rig.ledger.log, rig.keys_of(rig.outsider).signing_key)
    error = await refusal(
        GrpcReplicas(calls, stranger).describe(node.process.account, node.config.client_address)
    )
    assert type(error) is Unauthenticated
    late = sign_ask(
        WriterAsk(rig.cluster, 1, node.process.account, rig.runtime.now_ms() - 31_000),
        rig._writer.signing_key,
    )
    unknown = sign_ask(
        WriterAsk(rig.cluster, 2, node.process.account, rig.runtime.now_ms()),
        rig._writer.signing_key,
    )
    for signed in (late, unknown):
        request = replica_pb2.ReplicaAsker(writer_ask=signed.encode())
        error = await refusal(calls.describe(node.config.client_address, request))
        assert error.reason == "bad-writer-ask"


async def test_nobody_else_is_told_anything(rig: Rig, calls: ReplicaCalls) -> None:
    address = rig.nodes[0].config.client_address
    for client in (rig.doctor, rig.patient, rig.hospital):
        error = await refusal(calls.describe(address, operator(rig, client)))
        assert type(error) is Denied
        feed = calls.blocks(
            address,
            replica_pb2.ReadBlocksRequest(asker=operator(rig, client), from_height=1),
        )
        assert type(await refusal(anext(feed))) is Denied
    error = await refusal(calls.describe(address, replica_pb2.ReplicaAsker()))
    assert type(error) in (Invalid, Unauthenticated)
    error = await refusal(calls.begin_term(address, b"junk"))
    assert type(error) is Invalid


async def test_the_ledger_settles_with_its_followers_when_it_starts_again(rig: Rig) -> None:
    """The rig's own ledger: asked like one that starts, it finds itself level."""
    calls = ReplicaCalls(rig.runtime, AuthorityDialer(rig.authority))
    asker = writer_asker(rig.runtime, rig.ledger.log, rig._writer.signing_key)
    try:
        async with asyncio.timeout(60):
            await settle(rig.ledger.log, GrpcReplicas(calls, asker), rig.runtime)
    finally:
        await calls.close()
