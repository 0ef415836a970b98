"""Revocation certificates of a running cluster, and what strangers and the hasty are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import Action, Grant
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
from tests.services.requests import ask
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
