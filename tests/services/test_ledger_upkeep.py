"""What nodes submit over the peer port, and what operators then see of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hcefs.cli.bringup import upgrade_protocol
from hcefs.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.ledger.cluster_facts import MapCause, UpkeepPolicy
from hcefs.ledger.transactions import (
    SignedTransaction,
    Upgrade,
    decode_transaction,
    sign_transaction,
)
from hcefs.ledger.transactions_map import NodeReport, SetUpkeepPolicy
from hcefs.node.ledger_submit import LedgerSubmitter
from hcefs.transport.dial import TlsDialer
from tests.services.rig import Rig, Running, free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


def dialer(rig: Rig, number: int) -> TlsDialer:
    return TlsDialer(rig.runtime, rig.nodes[number].identity)


@pytest_asyncio.fixture(loop_scope="session")
async def submitter(rig: Rig) -> AsyncIterator[LedgerSubmitter]:
    made = LedgerSubmitter(rig.runtime, rig.ledger_peer_address, dialer(rig, 0))
    yield made
    await made.close()


def report(rig: Rig, node: Running, number: int) -> SignedTransaction:
    transaction = NodeReport(node.number, number, rig.map.epoch, (), b"")
    return sign_transaction(
        transaction, rig.cluster, [(node.account, node.keys.key_version, node.keys.signing_key)]
    )


async def test_a_node_submits_and_repeats(rig: Rig, submitter: LedgerSubmitter) -> None:
    # Far above what the node may have reported by itself while another was away.
    node, once, twice = rig.nodes[0], 100, 200
    first = await submitter.submit(report(rig, node, once))
    assert first.height <= rig.ledger.log.height
    assert await submitter.submit(report(rig, node, once)) == first
    later = await submitter.submit(report(rig, node, twice))
    assert later.height > first.height
    rows = await rig.operators[0].node_reports()
    assert [(row.node_id, row.number) for row in rows if row.node_id == node.number] == [
        (node.number, twice)
    ]


async def test_a_refusal_keeps_its_type(rig: Rig, submitter: LedgerSubmitter) -> None:
    with pytest.raises(Denied) as denied:
        await submitter.submit(report(rig, rig.stranger, 1))
    assert denied.value.reason == "not-in-map"
    node = rig.nodes[1]
    await submitter.submit(report(rig, node, 109))
    with pytest.raises(Conflict) as conflict:
        await submitter.submit(report(rig, node, 108))
    assert conflict.value.reason == "report-moved"
    assert not conflict.value.retryable


async def test_where_nobody_serves_the_caller_may_try_again(rig: Rig) -> None:
    lost = LedgerSubmitter(rig.runtime, f"127.0.0.1:{free_port()}", dialer(rig, 0))
    with pytest.raises(Unavailable) as caught:
        await lost.submit(report(rig, rig.nodes[0], 1))
    assert caught.value.retryable
    await lost.close()


async def test_a_submitter_that_closes_ends_what_is_under_way(rig: Rig) -> None:
    made = LedgerSubmitter(rig.runtime, rig.ledger_peer_address, dialer(rig, 2))
    task = asyncio.ensure_future(made.submit(report(rig, rig.nodes[2], 1)))
    await asyncio.sleep(0)
    await made.close()
    try:
        await task
    except Unavailable as error:
        assert error.reason == "stopping"  # noqa: PT017 - it may have been quicker
    with pytest.raises(Unavailable) as caught:
        await made.submit(report(rig, rig.nodes[2], 2))
    assert caught.value.reason == "stopping"


async def test_operators_see_the_cluster(rig: Rig) -> None:
    operator = rig.operators[0]
    status = await operator.protocol_version()
    assert (status.version, status.next_version) == (PROTOCOL_NEWEST, 0)
    progress = await operator.map_progress()
    assert (progress.epoch, progress.in_flight, progress.names) == (1, 0, frozenset())
    (change,) = await operator.map_history()
    assert (change.epoch, change.cause, change.digest) == (
        1,
        MapCause.OPERATORS,
        rig.map.digest(),
    )
    assert await operator.map_history(2) == []
    assert await operator.upkeep_policy() == UpkeepPolicy()
    policy = UpkeepPolicy(1, out_max=2)
    signers = [(keys.account, 1, keys.signing_key) for keys in rig.operator_keys]
    await operator.submit(sign_transaction(SetUpkeepPolicy(0, policy), rig.cluster, signers))
    assert await operator.upkeep_policy() == policy


async def test_patients_do_not(rig: Rig) -> None:
    for question in (
        rig.patient.protocol_version,
        rig.patient.map_progress,
        rig.patient.map_history,
        rig.patient.upkeep_policy,
        rig.patient.operators,
        rig.patient.node_reports,
    ):
        with pytest.raises(NotFound):
            await question()


async def test_an_upgrade_that_is_in_force_is_left_alone(rig: Rig) -> None:
    height = rig.ledger.log.height
    for version in range(1, PROTOCOL_NEWEST + 1):
        status = await upgrade_protocol(rig.operators[0], rig.operator_keys, version)
        assert status.version == PROTOCOL_NEWEST
    # Nodes anchor their receipts meanwhile; nobody has upgraded anything.
    log = rig.ledger.log
    made = [log.block(each) for each in range(height + 1, log.height + 1)]
    bodies = [SignedTransaction.decode(data).body for block in made for data in block.transactions]
    assert not [body for body in bodies if isinstance(decode_transaction(body), Upgrade)]
    with pytest.raises(Invalid) as unknown:
        await upgrade_protocol(rig.operators[0], rig.operator_keys, PROTOCOL_NEWEST + 1)
    assert unknown.value.reason == "unsupported"
