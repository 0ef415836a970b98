"""What the ledger's process tells to whom: queries of strangers, and who may follow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.ledger.block import Block, SignedHead
from hcefs.transport.versions import versions_message
from hcefs.wire.v1 import ledger_pb2
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

LEDGER = "/hcefs.v1.Ledger"
FOLLOW = f"{LEDGER}/Follow"


def questions(record: RecordId, grant: GrantId, account: AccountId) -> list[dict[str, Any]]:
    """Everything that can be asked about somebody else's things."""
    return [
        {"record": bytes(record)},
        {"grant": bytes(grant)},
        {"grants_on_record": bytes(record)},
        {"account": bytes(account)},
        {"generation": {"record_id": bytes(record), "generation": 0}},
        {"generation": {"record_id": bytes(record), "generation": (1 << 64) - 1}},
        {"leaves": {"record_id": bytes(record), "first": 0, "count": 10}},
        {"leaves": {"record_id": bytes(record), "first": (1 << 64) - 1, "count": (1 << 64) - 1}},
    ]


async def query(rig: Rig, client: Any, **question: Any) -> ledger_pb2.QueryResponse:
    proof = rig.proof(rig.keys_of(client), "query")
    answer = await rig.unary(
        rig.ledger_address, f"{LEDGER}/Query", ledger_pb2.QueryRequest(proof=proof, **question)
    )
    return ledger_pb2.QueryResponse.FromString(answer)


async def prove(rig: Rig, client: Any, record: RecordId, **claim: int) -> bytes:
    proof = rig.proof(rig.keys_of(client), "query")
    request = ledger_pb2.ProveRequest(proof=proof, record_id=bytes(record), **claim)
    return await rig.unary(rig.ledger_address, f"{LEDGER}/Prove", request)


@pytest.mark.parametrize("number", range(8))
async def test_strangers_learn_nothing(rig: Rig, number: int) -> None:
    """What exists and what does not get one answer, word for word."""
    nobody = rig.account_keys().account
    there = questions(rig.record, rig.read_grant.grant, nobody)[number]
    invented = questions(RecordId(rig.runtime.random(16)), GrantId(rig.runtime.random(16)), nobody)[
        number
    ]
    errors = [
        await rig.refused(query(rig, rig.outsider, **question), "not-found", "not-found")
        for question in (there, invented)
    ]
    assert errors[0].message == errors[1].message


async def test_strangers_prove_nothing(rig: Rig) -> None:
    for record in (rig.record, RecordId(rig.runtime.random(16))):
        for claim in ({"leaf_index": 0}, {"consistent_with": 0}):
            call = prove(rig, rig.outsider, record, **claim)
            await rig.refused(call, "not-found", "not-found")


async def test_operators_do_not_see_records(rig: Rig) -> None:
    for question in questions(rig.record, rig.read_grant.grant, rig.doctor.account)[:3]:
        call = query(rig, rig.operators[0], **question)
        await rig.refused(call, "not-found", "not-found")


async def test_lists_are_of_the_asker(rig: Rig) -> None:
    assert len((await query(rig, rig.doctor, my_grants=True)).facts) >= 2
    assert not (await query(rig, rig.outsider, my_records=True)).facts
    assert len((await query(rig, rig.patient, my_records=True)).facts) >= 2


async def test_numbers_beyond_the_record(rig: Rig) -> None:
    huge = (1 << 64) - 1
    for first in (1_000, 1 << 63, huge):
        span = {"record_id": bytes(rig.record), "first": first, "count": huge}
        assert not (await query(rig, rig.patient, leaves=span)).facts
    for number in (7, 1 << 32, huge):
        asked = {"record_id": bytes(rig.record), "generation": number}
        await rig.refused(query(rig, rig.patient, generation=asked), "not-found", "not-found")
    for claim in ({"leaf_index": huge}, {"consistent_with": huge}, {"size": huge, "leaf_index": 0}):
        await rig.refused(prove(rig, rig.patient, rig.record, **claim), "invalid", "bad-range")


async def test_questions_of_a_wrong_shape(rig: Rig) -> None:
    await rig.refused(query(rig, rig.doctor), "invalid", "bad-message")
    questions: tuple[dict[str, Any], ...] = (
        {"record": b"r"},
        {"account": b""},
        {"grant": bytes(17)},
        {"grants_on_record": b"r"},
        {"generation": {}},
        {"leaves": {}},
    )
    for question in questions:
        await rig.refused(query(rig, rig.doctor, **question), "invalid", "bad-id")
    proof = rig.proof(rig.keys_of(rig.doctor), "query")
    request = ledger_pb2.ProveRequest(proof=proof, record_id=bytes(rig.record))
    call = rig.unary(rig.ledger_address, f"{LEDGER}/Prove", request)
    await rig.refused(call, "invalid", "bad-message")


async def test_many_leaves_are_looked_for_in_one_call(rig: Rig) -> None:
    put = await rig.patient.put(rig.record, b"to be looked for")
    listed = await rig.patient.leaves(rig.record, put.ref.leaf_index or 0, 1)
    leaf = listed[0]
    other = bytes(32)
    asked = [
        (leaf.commitment, None),
        (other, None),
        (leaf.commitment, leaf.signer),
        (leaf.commitment, rig.doctor.account),
    ]
    found = await rig.patient.has_leaves(rig.record, asked)
    assert found == [leaf, None, leaf, None]
    assert await rig.patient.has_leaves(rig.record, []) == []
    for commitment, signer in asked:
        one = await rig.patient.has_leaf(rig.record, commitment, signer)
        assert one == found[asked.index((commitment, signer))]


@pytest.mark.parametrize(
    ("commitments", "signers", "reason"),
    [
        (2, [b""], "bad-message"),
        (1, [b"short"], "bad-id"),
        (4097, [b""] * 4097, "bad-range"),
    ],
)
async def test_wrong_questions_about_leaves(
    rig: Rig, commitments: int, signers: list[bytes], reason: str
) -> None:
    request = ledger_pb2.HasLeavesRequest(
        proof=rig.proof(rig.keys_of(rig.patient), "query"),
        record_id=bytes(rig.record),
        commitments=[bytes(32)] * commitments,
        signers=signers,
    )
    call = rig.unary(rig.ledger_address, f"{LEDGER}/HasLeaves", request)
    await rig.refused(call, "invalid", reason)


async def test_clients_do_not_follow(rig: Rig) -> None:
    call = rig.converse(
        rig.ledger_address,
        FOLLOW,
        [ledger_pb2.FollowRequest(from_height=1, versions=versions_message())],
    )
    await rig.refused(call, "denied", "not-a-node")


async def test_unregistered_keys_do_not_follow(rig: Rig) -> None:
    """A certificate of the authority is not enough."""
    stray = rig.issue("stray")
    request = ledger_pb2.FollowRequest(from_height=1, versions=versions_message())
    call = rig.converse(rig.ledger_peer_address, FOLLOW, [request], stray)
    await rig.refused(call, "unauthenticated", "unknown-node")
    for name, question in (
        ("Query", ledger_pb2.QueryRequest(head=True)),
        ("HasLeaf", ledger_pb2.HasLeafRequest(record_id=bytes(rig.record))),
        ("HasLeaves", ledger_pb2.HasLeavesRequest(record_id=bytes(rig.record))),
        ("Prove", ledger_pb2.ProveRequest(record_id=bytes(rig.record), leaf_index=0)),
    ):
        asked = rig.unary(rig.ledger_peer_address, f"{LEDGER}/{name}", question, stray)
        await rig.refused(asked, "unauthenticated", "unknown-node")


@pytest.mark.parametrize(
    ("height", "kind", "reason"),
    [
        (0, "invalid", "bad-height"),
        (1_000_000, "conflict", "follower-ahead"),
        ((1 << 64) - 1, "conflict", "follower-ahead"),
    ],
)
async def test_follow_from_an_impossible_height(
    rig: Rig, height: int, kind: str, reason: str
) -> None:
    request = ledger_pb2.FollowRequest(from_height=height, versions=versions_message())
    call = rig.converse(rig.ledger_peer_address, FOLLOW, [request], rig.nodes[0].identity)
    await rig.refused(call, kind, reason)


async def test_follow_without_a_word(rig: Rig) -> None:
    call = rig.converse(rig.ledger_peer_address, FOLLOW, [], rig.nodes[0].identity)
    await rig.refused(call, "invalid", "bad-message")


async def test_the_last_block_comes_with_its_head(rig: Rig) -> None:
    channel = rig.channel(rig.ledger_peer_address, rig.nodes[0].identity)
    call = channel.stream_stream(FOLLOW)()
    first = ledger_pb2.FollowRequest(from_height=rig.ledger.log.height, versions=versions_message())
    await call.write(first.SerializeToString())
    answer = ledger_pb2.FollowResponse.FromString(await call.read())
    block, head = Block.decode(answer.block), SignedHead.decode(answer.block_head)
    assert (head.height, head.block_hash) == (block.header.height, block.hash())
    head.check(rig.ledger.log.genesis.writer_key)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()


async def test_acknowledgements_beyond_the_log_do_not_count(rig: Rig) -> None:
    """A node that claims a height of the future makes nothing durable by it."""
    node = rig.nodes[0]
    channel = rig.channel(rig.ledger_peer_address, node.identity)
    call = channel.stream_stream(FOLLOW)()
    await call.write(
        ledger_pb2.FollowRequest(from_height=1, versions=versions_message()).SerializeToString()
    )
    assert await call.read()
    claim = ledger_pb2.FollowRequest(persisted_height=1 << 60)
    await call.write(claim.SerializeToString())
    await call.write(claim.SerializeToString())
    assert await call.read()
    assert rig.ledger.writer.replicated_height <= rig.ledger.log.height
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()


async def test_a_follower_that_does_not_know_the_rules_is_refused(rig: Rig) -> None:
    """The release before says nothing of itself, and would stop at a block of these rules."""
    node = rig.nodes[0]
    before = rig.ledger.node.metrics.value("version_refused_total", what="follower")
    request = ledger_pb2.FollowRequest(from_height=1)
    call = rig.converse(rig.ledger_peer_address, FOLLOW, [request], node.identity)
    await rig.refused(call, "conflict", "version-refused")
    after = rig.ledger.node.metrics.value("version_refused_total", what="follower")
    assert after == before + 1
