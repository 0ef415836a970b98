"""What the ledger's process tells to whom: queries of strangers, and who may follow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hcefs.config import LimitsConfig
from hcefs.errors import Denied, Exhausted
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.transactions import DeactivateAccount, SignedTransaction, sign_transaction
from hcefs.node.ledger_submit import LedgerSubmitter
from hcefs.services.rates import BURST_SECONDS, Rates
from hcefs.transport.dial import TlsDialer
from hcefs.transport.versions import versions_message
from hcefs.wire.v1 import admin_pb2, ledger_pb2
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

LEDGER = "/hcefs.v1.Ledger"
STATUS = "/hcefs.v1.Admin/Status"
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


class Standing:
    """A clock that stands still, so that no slow machine earns an account another request."""

    def __init__(self, rig: Rig) -> None:
        self.random = rig.runtime.random

    def monotonic(self) -> float:
        return 0.0


@contextmanager
def at_most(rig: Rig, requests: int) -> Iterator[None]:
    """The ledger answers each account so often, for a while."""
    node = rig.ledger.node
    before = vars(node.rates).copy()
    limits = LimitsConfig(account_requests=requests / BURST_SECONDS)
    vars(node.rates).update(vars(Rates(Standing(rig), node.metrics, limits)))  # type: ignore[arg-type]
    try:
        yield
    finally:
        vars(node.rates).update(before)


async def test_an_account_asks_the_ledger_only_so_often(rig: Rig) -> None:
    """Questions, proofs and status are counted together, and nobody else pays for them."""
    operator = rig.operators[0]
    proof = rig.proof(rig.keys_of(operator), "status")
    status = admin_pb2.StatusRequest(proof=proof)
    with at_most(rig, 3):
        await prove(rig, rig.patient, rig.record, leaf_index=0)
        await query(rig, rig.patient, head=True)
        await query(rig, rig.patient, my_records=True)
        error = await rig.refused(
            query(rig, rig.patient, my_records=True), "exhausted", "too-many-requests"
        )
        assert isinstance(error, Exhausted)
        assert error.retry_after_ms > 0
        await rig.refused(
            prove(rig, rig.patient, rig.record, leaf_index=0), "exhausted", "too-many-requests"
        )
        await query(rig, rig.doctor, my_grants=True)
        await query(rig, operator, head=True)
        await query(rig, operator, head=True)
        await rig.unary(rig.ledger_address, STATUS, status)
        status.proof = rig.proof(rig.keys_of(operator), "status")
        await rig.refused(
            rig.unary(rig.ledger_address, STATUS, status), "exhausted", "too-many-requests"
        )
        assert rig.ledger.metrics.value("rate_limited_total", limit="requests") >= 3
    await query(rig, rig.patient, my_records=True)


async def test_only_authors_pay_for_a_transaction(rig: Rig) -> None:
    """A signature that is not good makes nobody pay, however often an account is named."""
    keys = rig.keys_of(rig.patient)
    opening = DeactivateAccount(rig.outsider.account)  # the patient may not, and is told so
    honest = sign_transaction(
        opening, rig.cluster, [(keys.account, keys.key_version, keys.signing_key)]
    )
    other = rig.keys_of(rig.outsider)
    forged = sign_transaction(
        opening, rig.cluster, [(keys.account, keys.key_version, other.signing_key)]
    )

    async def submit(signed: SignedTransaction) -> bytes:
        request = ledger_pb2.SubmitRequest(transaction=signed.encode())
        return await rig.unary(rig.ledger_address, f"{LEDGER}/Submit", request)

    with at_most(rig, 2):
        for _ in range(3):
            await rig.refused(submit(forged), "unauthenticated", "bad-signature")
        for _ in range(2):
            await rig.refused(submit(honest), "denied", "unexpected-signer")
        await rig.refused(submit(honest), "exhausted", "too-many-requests")
        await rig.refused(submit(forged), "unauthenticated", "bad-signature")
        # Nodes are not bounded: they carry what is everybody's.
        submitter = LedgerSubmitter(
            rig.runtime, rig.ledger_peer_address, TlsDialer(rig.runtime, rig.nodes[0].identity)
        )
        try:
            for _ in range(3):
                with pytest.raises(Denied):
                    await submitter.submit(honest)
        finally:
            await submitter.close()


async def test_a_follower_that_does_not_know_the_rules_is_refused(rig: Rig) -> None:
    """The release before says nothing of itself, and would stop at a block of these rules."""
    node = rig.nodes[0]
    before = rig.ledger.node.metrics.value("version_refused_total", what="follower")
    request = ledger_pb2.FollowRequest(from_height=1)
    call = rig.converse(rig.ledger_peer_address, FOLLOW, [request], node.identity)
    await rig.refused(call, "conflict", "version-refused")
    after = rig.ledger.node.metrics.value("version_refused_total", what="follower")
    assert after == before + 1
