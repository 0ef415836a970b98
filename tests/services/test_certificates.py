"""Revocation certificates of a running cluster, and what strangers and the hasty are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import Action, Grant
from hcefs.client.certify import Certified
from hcefs.client.client import Client
from hcefs.config import LimitsConfig
from hcefs.errors import Exhausted
from hcefs.evidence.revocation import RevocationCertificate
from hcefs.ids import GrantId, RecordId
from hcefs.ledger.revocation_proof import verify_certificate
from hcefs.services import strangers
from hcefs.services.rates import Rates
from hcefs.wire.v1 import revocation_pb2
from tests.services.packs import batch_authorization, get_many, groups_of, payloads_of, receive
from tests.services.requests import ask, put, put_messages
from tests.services.rig import HOUR_MS, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

CONFIRM = "/hcefs.v1.Revocations/ConfirmRevocation"


async def _given(rig: Rig, parent: GrantId | None = None) -> Grant:
    """A grant on a record of its own to the doctor, or from the doctor to the outsider."""
    end = rig.runtime.now_ms() + HOUR_MS
    if parent is not None:
        known = await rig.doctor.grant(parent)
        return await rig.doctor.give(
            known.record, rig.outsider.account, Action.READ, ("TREAT",),
            not_after_ms=known.not_after_ms, parent=parent,
        )  # fmt: skip
    record = (await rig.patient.open_record()).record
    return await rig.patient.give(
        record, rig.doctor.account, Action.READ | Action.SHARE, ("TREAT",), not_after_ms=end
    )


async def _use(rig: Rig, client: Client, grant: Grant, node: Running) -> list[bytes]:
    """A request under a grant, which leaves a verified token on the node."""
    good = rig.authorization(client, "boxes", node, grant, says={"record": grant.record})
    height = max(rig.patient.height, rig.doctor.height)
    return await ask(rig, node, "boxes", good, record_id=bytes(grant.record), min_height=height)


async def test_every_node_confirms_and_forgets(rig: Rig) -> None:
    grant = await _given(rig)
    below = await _given(rig, grant.grant)
    for node in rig.nodes:
        assert await _use(rig, rig.doctor, grant, node)
        assert await _use(rig, rig.outsider, below, node)
    await rig.patient.revoke(grant.grant)
    told: dict[int, str] = {}
    certified = await rig.patient.certify(grant.grant, progress=told.__setitem__)
    verdict = certified.verdict
    assert verdict.complete
    assert not verdict.lapsed
    assert sorted(each.node_id for each in verdict.confirmed) == [1, 2, 3, 4, 5, 6]
    assert set(told.values()) == {"confirmed"}
    # Its own token, and the one of the grant that was given under it; holders had them as well.
    assert all(each.statement.tokens_dropped >= 2 for each in verdict.confirmed)
    again = RevocationCertificate.decode(certified.certificate.encode())
    assert verify_certificate(again) == verdict
    for node in rig.nodes:
        await rig.refused(_use(rig, rig.doctor, grant, node), "denied", "revoked")
        await rig.refused(_use(rig, rig.outsider, below, node), "denied", "parent-revoked")


async def test_granters_and_operators_get_it_and_nobody_else(rig: Rig) -> None:
    top = await _given(rig)
    below = await _given(rig, top.grant)
    await rig.doctor.revoke(below.grant)
    for client in (rig.doctor, rig.patient, rig.operators[0]):
        proof = rig.proof(rig.keys_of(client), "confirm-revocation")
        height = (await rig.patient.grant(below.grant)).revoked_height
        assert await rig.unary(
            rig.nodes[0].config.client_address,
            CONFIRM,
            revocation_pb2.ConfirmRevocationRequest(
                proof=proof, grant=bytes(below.grant), height=height
            ),
        )
    assert (await rig.doctor.certify(below.grant)).verdict.complete
    told = set()
    for wanted in (below.grant, GrantId(rig.runtime.random(16))):
        proof = rig.proof(rig.hospital_keys, "confirm-revocation")
        asked = revocation_pb2.ConfirmRevocationRequest(proof=proof, grant=bytes(wanted), height=1)
        call = rig.unary(rig.nodes[0].config.client_address, CONFIRM, asked)
        told.add((await rig.refused(call, "denied", "not-permitted")).message)
    assert len(told) == 1


async def test_what_is_not_revoked_is_not_confirmed(rig: Rig) -> None:
    grant = await _given(rig)
    await rig.refused(rig.patient.certify(grant.grant), "conflict", "not-revoked")
    keys = rig.keys_of(rig.patient)
    for height in (1, grant.height):
        asked: Any = revocation_pb2.ConfirmRevocationRequest(
            proof=rig.proof(keys, "confirm-revocation"), grant=bytes(grant.grant), height=height
        )
        call = rig.unary(rig.nodes[0].config.client_address, CONFIRM, asked)
        await rig.refused(call, "conflict", "not-revoked")


async def test_a_node_that_is_away_counts_when_its_lease_is_over(rig: Rig) -> None:
    """The clocks of the ledger and of the client go on while the node is away."""
    away = rig.nodes[5]
    await away.process.stop()
    try:
        grant = await _given(rig)
        await rig.patient.revoke(grant.grant)
        early = await rig.patient.certify(grant.grant, within_s=0.5)
        assert not early.verdict.complete
        assert early.verdict.silent == (6,)
        assert early.verdict.gap is not None
        assert early.verdict.gap.k == 1
        certified = await _after_the_leases(rig, grant)
        assert certified.verdict.complete
        assert certified.verdict.lapsed == (6,)
        assert certified.verdict.made_ms >= certified.verdict.lapsed_ms
    finally:
        away.process = type(away.process)(away.config, away.runtime, rig.snapshots)
        await away.process.start()
        await rig.until(away.process.able)
        others = [other.process for other in rig.nodes if other is not away]
        await asyncio.gather(*(rig.connected(other, away) for other in others))


async def _after_the_leases(rig: Rig, grant: Grant) -> Certified:
    """Certify while everybody's clock is set on."""
    genesis = rig.genesis
    task = asyncio.ensure_future(rig.patient.certify(grant.grant))
    await _pass(rig, genesis.lease_ms + genesis.skew_ms + 2_000, rig.nodes[:5])
    return await asyncio.wait_for(task, 20)


async def _pass(rig: Rig, milliseconds: int, nodes: Sequence[Running]) -> None:
    """Set everybody's clock on, in steps that no lease feels."""
    while milliseconds > 0:
        step = min(milliseconds, rig.genesis.lease_ms // 2)
        rig.runtime.offset_ms += step
        milliseconds -= step
        # The ledger renews by real time: a commit gives everybody a head of the new time.
        await rig.patient.open_record()
        newest = rig.patient.height
        await rig.until(
            lambda: all(node.process.follower.view.height >= newest for node in nodes)  # noqa: B023
        )


async def test_an_old_generation_is_refused_after_its_minute(rig: Rig) -> None:
    grant = await _given(rig)
    named = {"record": grant.record}
    await rig.patient.revoke(grant.grant)
    node = rig.nodes[0]

    async def put_old() -> list[bytes]:
        blob = rig.new_blob()
        right = rig.authorization(rig.patient, "put", node, None, blob=blob, says=named)
        messages = put_messages(
            rig, node, blob,
            header={
                "authorization": right,
                "record_id": bytes(grant.record),
                "writer": bytes(rig.patient.account),
                "min_height": rig.patient.height,
            },
            trailer={
                "authorization": rig.authorization(
                    rig.patient, "put", node, None, blob=blob, says=named
                )
            },
        )  # fmt: skip
        return [(await put(rig, node, messages)).core]

    assert await put_old()
    await _pass(rig, 61_000, rig.nodes)
    await rig.refused(put_old(), "conflict", "old-generation")


# -- strangers


@pytest.mark.parametrize("method", ["stat", "get", "list", "boxes", "put"])
async def test_a_stranger_learns_nothing(rig: Rig, method: str) -> None:
    """Unknown and forbidden records, blobs and grants: one kind, reason and text."""
    node, blob = rig.nodes[0], rig.receipt.ref.blob
    told, seconds = set(), []
    unknown_grant = replace(rig.read_grant, grant=GrantId(rig.runtime.random(16)))
    unknown_record = RecordId(rig.runtime.random(16))
    for record in (rig.record, rig.other_record, unknown_record):
        for right in (rig.read_grant, rig.future_grant, unknown_grant, None):
            for named in (blob, rig.new_blob()):
                of = named if method in ("stat", "get", "put") else None
                asked = rig.authorization(
                    rig.outsider, method, node, right, blob=of, says={"record": record}
                )
                fields: dict[str, Any] = {"record_id": bytes(record)}
                if method in ("stat", "get", "put"):
                    fields["blob_id"] = bytes(named)
                began = rig.runtime.monotonic()
                error = await rig.refused(
                    ask(rig, node, method, asked, **fields),
                    "denied",
                    "not-permitted",
                )
                seconds.append(rig.runtime.monotonic() - began)
                told.add(error.message)
    assert len(told) == 1
    assert min(seconds) >= strangers.ANSWER_SECONDS * 0.9
    # The node's own log and metrics know.
    assert node.process.metrics.value("denials_total", reason="unknown-record") > 0
    assert node.process.metrics.value("denials_total", reason="not-permitted") == 0


async def test_a_stranger_learns_nothing_from_a_batch(rig: Rig) -> None:
    node = rig.nodes[1]
    put = await rig.hospital.put_many(payloads_of(rig, 2), grant=rig.append_grant.grant)
    real = groups_of(put)
    unknown = [replace(real[0], record=RecordId(rig.runtime.random(16)))]
    told = set()
    for groups in (real, unknown):
        for grant in (rig.read_grant.grant, GrantId(rig.runtime.random(16))):
            token = rig.token(rig.keys_of(rig.outsider), grant)
            right = batch_authorization(
                rig, rig.outsider, "get-many", node, rig.read_grant, groups, token=token
            )
            request = get_many(
                rig, node, groups, authorization=right, min_height=rig.patient.height
            )
            error = await rig.refused(receive(rig, node, request), "denied", "not-permitted")
            told.add(error.message)
    assert len(told) == 1


async def test_who_has_a_part_is_told_why(rig: Rig) -> None:
    node, blob = rig.nodes[0], rig.receipt.ref.blob
    wrong = rig.authorization(rig.doctor, "get", node, rig.read_grant, blob=blob, purpose="HRESCH")
    await rig.refused(ask(rig, node, "get", wrong), "denied", "wrong-purpose")
    # Lent by the doctor under a grant to share: the outsider may know why it fails.
    token = rig.token(rig.keys_of(rig.doctor), rig.read_grant.grant)
    lent = rig.authorization(
        rig.outsider, "get", node, rig.read_grant, blob=blob, token=token, purpose="HRESCH"
    )
    await rig.refused(ask(rig, node, "get", lent), "denied", "wrong-purpose")
    owner = rig.authorization(rig.patient, "get", node, rig.read_grant, blob=blob)
    await rig.refused(ask(rig, node, "get", owner), "denied", "not-the-grantee")


# -- too often


@asynccontextmanager
async def _limited(node: Running, **limits: Any) -> AsyncIterator[Rates]:
    """A node with other rates for a while."""
    desk = node.process.node.desk
    before = desk.rates
    config = replace(LimitsConfig(account_denials=1e5), **limits)
    desk.rates = Rates(node.runtime, node.process.metrics, config)
    try:
        yield desk.rates
    finally:
        desk.rates = before


async def _stat(rig: Rig, node: Running, client: Client) -> list[bytes]:
    blob = rig.receipt.ref.blob
    good = rig.authorization(client, "stat", node, rig.read_grant, blob=blob)
    return await ask(rig, node, "stat", good)


async def test_an_account_that_asks_too_often_is_told_when_to_return(rig: Rig) -> None:
    node = rig.nodes[2]
    async with _limited(node, account_requests=0.5) as rates:
        for _ in range(2):
            assert await _stat(rig, node, rig.doctor)
        error = await rig.refused(_stat(rig, node, rig.doctor), "exhausted", "too-many-requests")
        assert isinstance(error, Exhausted)
        assert 500 <= error.retry_after_ms <= 4_000
        # Another account has a bucket of its own.
        await rig.refused(_stat(rig, node, rig.outsider), "denied", "not-permitted")
        assert len(rates) == 2
    assert node.process.metrics.value("rate_limited_total", limit="requests") >= 1


async def test_an_account_that_is_denied_too_often_has_to_wait(rig: Rig) -> None:
    node = rig.nodes[2]
    async with _limited(node, account_denials=0.75):
        for _ in range(3):
            await rig.refused(_stat(rig, node, rig.outsider), "denied", "not-permitted")
        error = await rig.refused(_stat(rig, node, rig.outsider), "exhausted", "too-many-denials")
        assert isinstance(error, Exhausted)
        assert error.retry_after_ms > 100
        assert await _stat(rig, node, rig.doctor)
    assert node.process.metrics.value("rate_limited_total", limit="denials") >= 1
