"""Tokens, proofs and grants that are not good: refused by the entry node and by holders."""

from __future__ import annotations

from typing import Any

import pytest

from hcefs.access.facts import Action
from hcefs.access.token import mint
from hcefs.crypto.signing import PROOF_WINDOW_MS
from hcefs.ids import BlobId, ClusterId, RecordId
from hcefs.wire.v1 import admin_pb2, blob_pb2, ledger_pb2
from tests.services.requests import ask, call_context, get, manifest_from, right_of
from tests.services.rig import HOUR_MS, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

METHODS = ["stat", "get", "list", "boxes", "put"]
READS = ["stat", "get", "list", "boxes"]


@pytest.mark.parametrize("method", READS)
async def test_honest_requests_are_answered(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    good = rig.authorization(client, method, rig.nodes[0], grant, blob=blob)
    assert await ask(rig, rig.nodes[0], method, good)


@pytest.mark.parametrize("method", METHODS)
async def test_token_of_another_cluster(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    keys = rig.keys_of(client)
    token = mint(keys.token_key, ClusterId(bytes(15) + b"x"), keys.account, grant.grant)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, token=token)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "wrong-cluster")


@pytest.mark.parametrize("method", METHODS)
async def test_proof_of_another_cluster(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(
        client, method, rig.nodes[0], grant, blob=blob, cluster=ClusterId(bytes(15) + b"x")
    )
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "wrong-cluster")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "narrowing",
    [
        {"not_after_ms": 1_600_000_000_000},
        {"record": RecordId(bytes(15) + b"r")},
        {"blob": BlobId(bytes(17) + b"b")},
        {"purposes": ("HRESCH",)},
        {"presenter": b"zero"},
    ],
    ids=["expired", "other-record", "other-blob", "other-purpose", "other-presenter"],
)
async def test_token_narrowed_to_something_else(
    rig: Rig, method: str, narrowing: dict[str, Any]
) -> None:
    client, grant, blob = right_of(rig, method)
    if "presenter" in narrowing:
        narrowing = {"presenter": rig.outsider.account}
    token = rig.token(rig.keys_of(client), grant.grant, **narrowing)
    wrong = rig.authorization(client, method, rig.nodes[1], grant, blob=blob, token=token)
    await rig.refused(ask(rig, rig.nodes[1], method, wrong), "denied", "token-check")


@pytest.mark.parametrize("method", METHODS)
async def test_tampered_token(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    token = bytearray(rig.token(rig.keys_of(client), grant.grant, not_after_ms=2 * 10**12))
    token[-5] ^= 1
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, token=bytes(token))
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "unauthenticated", "token-signature")


@pytest.mark.parametrize("method", METHODS)
async def test_token_signed_by_an_unregistered_key(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    stranger = rig.account_keys()
    forged = mint(stranger.token_key, rig.cluster, client.account, grant.grant)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, token=forged)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "unauthenticated", "token-signature")
    own = mint(stranger.token_key, rig.cluster, stranger.account, grant.grant)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, token=own)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "unauthenticated", "unknown-account")


@pytest.mark.parametrize("method", METHODS)
async def test_grant_for_another_record(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(
        client, method, rig.nodes[0], grant, blob=blob, record=rig.other_record
    )
    call = ask(rig, rig.nodes[0], method, wrong, record_id=bytes(rig.other_record))
    await rig.refused(call, "denied", "not-permitted")


@pytest.mark.parametrize("method", METHODS)
async def test_unknown_record(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    record = RecordId(rig.runtime.random(16))
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, record=record)
    call = ask(rig, rig.nodes[0], method, wrong, record_id=bytes(record))
    await rig.refused(call, "denied", "not-permitted")


@pytest.mark.parametrize("method", METHODS)
async def test_without_a_grant(rig: Rig, method: str) -> None:
    _, grant, blob = right_of(rig, method)
    for right in (grant, None):
        wrong = rig.authorization(rig.outsider, method, rig.nodes[0], right, blob=blob)
        await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "not-permitted")


@pytest.mark.parametrize("method", METHODS)
async def test_unregistered_account(rig: Rig, method: str) -> None:
    _, grant, blob = right_of(rig, method)
    nobody = rig.client(rig.account_keys())
    wrong = rig.authorization(nobody, method, rig.nodes[0], grant, blob=blob)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "unauthenticated", "unknown-account")


@pytest.mark.parametrize("method", READS)
async def test_grant_that_begins_later(rig: Rig, method: str) -> None:
    _, _, blob = right_of(rig, method)
    early = rig.authorization(rig.doctor, method, rig.nodes[0], rig.future_grant, blob=blob)
    await rig.refused(ask(rig, rig.nodes[0], method, early), "denied", "not-yet-valid")


@pytest.mark.parametrize("method", METHODS)
async def test_action_that_was_not_granted(rig: Rig, method: str) -> None:
    client, grant = (
        (rig.doctor, rig.read_grant) if method == "put" else (rig.hospital, rig.append_grant)
    )
    blob = right_of(rig, method)[2]
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "action-not-granted")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("purpose", "reason"), [("HRESCH", "wrong-purpose"), ("CURIOSITY", "unknown-purpose")]
)
async def test_purpose_that_was_not_granted(
    rig: Rig, method: str, purpose: str, reason: str
) -> None:
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, purpose=purpose)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", reason)


# -- proofs


@pytest.mark.parametrize("method", READS)
async def test_replayed_proof(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    once = rig.authorization(client, method, rig.nodes[2], grant, blob=blob)
    assert await ask(rig, rig.nodes[2], method, once)
    await rig.refused(ask(rig, rig.nodes[2], method, once), "denied", "replayed-proof")


@pytest.mark.parametrize("method", METHODS)
async def test_proof_that_names_another_gateway(rig: Rig, method: str) -> None:
    client, grant, blob = right_of(rig, method)
    for_first = rig.authorization(client, method, rig.nodes[0], grant, blob=blob)
    await rig.refused(ask(rig, rig.nodes[1], method, for_first), "denied", "wrong-gateway")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [-1, 1])
async def test_proof_out_of_its_time(rig: Rig, method: str, sign: int) -> None:
    client, grant, blob = right_of(rig, method)
    time = rig.runtime.now_ms() + sign * (PROOF_WINDOW_MS + 2_000)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, time_ms=time)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "proof-expired")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "fields",
    [
        {"method": "query"},
        {"record": RecordId(bytes(15) + b"r")},
        {"blob": BlobId(bytes(17) + b"b")},
        {"token_hash": bytes(32)},
    ],
    ids=["method", "record", "blob", "token"],
)
async def test_proof_of_another_request(rig: Rig, method: str, fields: dict[str, Any]) -> None:
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, says=fields)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "proof-mismatch")


@pytest.mark.parametrize("method", ["get", "put"])
@pytest.mark.parametrize("fields", [{"range_start": 1}, {"range_length": 1}, {"range_start": -1}])
async def test_proof_of_another_range(rig: Rig, method: str, fields: dict[str, Any]) -> None:
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, says=fields)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "denied", "proof-mismatch")


@pytest.mark.parametrize("method", ["stat", "list", "boxes"])
@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"range_start": -1}, "unauthenticated", "bad-proof"),
        ({"range_length": -1}, "unauthenticated", "bad-proof"),
        ({"range_start": 1 << 63}, "denied", "wrong-range"),
        ({"range_start": 1, "range_length": (1 << 64) - 1}, "denied", "wrong-range"),
    ],
)
async def test_range_that_cannot_be(
    rig: Rig, method: str, fields: dict[str, Any], kind: str, reason: str
) -> None:
    """These requests have no range of their own: the one in the proof counts."""
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, says=fields)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), kind, reason)


@pytest.mark.parametrize("method", METHODS)
async def test_proof_of_another_presenter(rig: Rig, method: str) -> None:
    """Signed by the outsider in the name of somebody else."""
    client, grant, blob = right_of(rig, method)
    token = rig.token(rig.keys_of(client), grant.grant)
    stolen = rig.authorization(
        rig.outsider,
        method,
        rig.nodes[0],
        grant,
        blob=blob,
        token=token,
        presenter=client.account,
    )
    await rig.refused(ask(rig, rig.nodes[0], method, stolen), "unauthenticated", "bad-proof")


@pytest.mark.parametrize("method", METHODS)
async def test_thief_of_a_token(rig: Rig, method: str) -> None:
    """Somebody else's token, presented under the thief's own name."""
    client, _, blob = right_of(rig, method)
    grant = rig.append_grant if method == "put" else rig.future_grant
    token = rig.token(rig.keys_of(client), grant.grant)
    stolen = rig.authorization(rig.outsider, method, rig.nodes[0], grant, blob=blob, token=token)
    await rig.refused(ask(rig, rig.nodes[0], method, stolen), "denied", "not-permitted")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"key_version": 2}, "old-key"), ({"nonce": b"short"}, "bad-proof"),
     ({"nonce": bytes(4)}, "bad-proof")],
)  # fmt: skip
async def test_proof_with_a_wrong_key_or_shape(
    rig: Rig, method: str, fields: dict[str, Any], reason: str
) -> None:
    client, grant, blob = right_of(rig, method)
    wrong = rig.authorization(client, method, rig.nodes[0], grant, blob=blob, **fields)
    await rig.refused(ask(rig, rig.nodes[0], method, wrong), "unauthenticated", reason)


@pytest.mark.parametrize("method", METHODS)
async def test_nothing_to_show(rig: Rig, method: str) -> None:
    empty = blob_pb2.Authorization()
    await rig.refused(ask(rig, rig.nodes[0], method, empty), "invalid", "malformed-encoding")


async def test_refused_nonces_are_not_remembered(rig: Rig) -> None:
    """A refused proof may not fill the memory of nonces for its account."""
    wrong = rig.authorization(
        rig.doctor, "stat", rig.nodes[0], rig.read_grant, token_hash=bytes(32)
    )
    for _ in range(2):
        await rig.refused(ask(rig, rig.nodes[0], "stat", wrong), "denied", "proof-mismatch")


# -- what holders check again


async def test_gateway_under_its_own_name(rig: Rig) -> None:
    """A node that saw a client's authorization cannot use it: it was not named."""
    first, second, holder = rig.nodes[0], rig.nodes[1], rig.nodes[2]
    context = call_context(rig, first, "get", blob=rig.receipt.ref.blob)
    assert (await manifest_from(rig, first, holder)).core
    call = manifest_from(rig, second, holder, authorization=context.authorization)
    await rig.refused(call, "denied", "wrong-gateway")


async def test_holders_check_the_right_again(rig: Rig) -> None:
    first, holder = rig.nodes[0], rig.nodes[2]
    blob = rig.receipt.ref.blob
    for client, grant, kind, reason in (
        (rig.outsider, rig.read_grant, "denied", "not-the-grantee"),
        (rig.doctor, rig.future_grant, "denied", "not-yet-valid"),
        (rig.client(rig.account_keys()), rig.read_grant, "unauthenticated", "unknown-account"),
    ):
        wrong = rig.authorization(client, "get", first, grant, blob=blob)
        call = manifest_from(rig, first, holder, authorization=wrong)
        await rig.refused(call, kind, reason)


async def test_holders_check_the_proof_again(rig: Rig) -> None:
    first, holder = rig.nodes[0], rig.nodes[2]
    blob = rig.receipt.ref.blob
    old = rig.runtime.now_ms() - PROOF_WINDOW_MS - 2_000
    for fields, kind, reason in (
        ({"time_ms": old}, "denied", "proof-expired"),
        ({"method": "stat"}, "denied", "proof-mismatch"),
        ({"presenter": rig.hospital.account}, "unauthenticated", "bad-proof"),
    ):
        wrong = rig.authorization(rig.doctor, "get", first, rig.read_grant, blob=blob, says=fields)
        call = manifest_from(rig, first, holder, authorization=wrong)
        await rig.refused(call, kind, reason)


async def test_revoked_grant_ends_at_once(rig: Rig) -> None:
    # In a record of its own: the revocation renews the record's key.
    record = (await rig.patient.open_record()).record
    named = {"record": record}
    grant = await rig.patient.give(
        record,
        rig.outsider.account,
        Action.READ,
        ("TREAT",),
        not_after_ms=rig.runtime.now_ms() + HOUR_MS,
    )
    good = rig.authorization(rig.outsider, "boxes", rig.nodes[3], grant, says=named)
    fields = {"record_id": bytes(record), "min_height": rig.patient.height}
    assert await ask(rig, rig.nodes[3], "boxes", good, **fields)
    done = await rig.patient.revoke(grant.grant)
    late = rig.authorization(rig.outsider, "boxes", rig.nodes[3], grant, says=named)
    call = ask(rig, rig.nodes[3], "boxes", late, **(fields | {"min_height": done.height}))
    await rig.refused(call, "denied", "revoked")


async def test_keys_that_do_not_open(rig: Rig) -> None:
    node = rig.nodes[0]
    wrong = rig.runtime.random(32)
    rig.secrets.add(wrong)
    await rig.refused(get(rig, node, dek=wrong), "denied", "wrong-key")
    await rig.refused(get(rig, node, dek=wrong[:31]), "invalid", "bad-key")
    short = blob_pb2.SegmentSecrets(first=0, secrets=wrong)
    await rig.refused(get(rig, node, secrets=short), "corrupt", "wrong-key")
    elsewhere = blob_pb2.SegmentSecrets(first=7, secrets=wrong)
    await rig.refused(get(rig, node, secrets=elsewhere), "denied", "missing-secret")
    ragged = blob_pb2.SegmentSecrets(first=0, secrets=wrong[:20])
    await rig.refused(get(rig, node, secrets=ragged), "invalid", "bad-key")
    await rig.refused(get(rig, node, sealed=False), "invalid", "bad-message")


# -- the ledger and Admin, which take proofs without tokens


async def test_status_is_for_operators(rig: Rig) -> None:
    for address in (rig.nodes[0].config.client_address, rig.ledger_address):
        for operator in rig.operators:
            assert (await operator.status(address)).epoch == 1
        for client in (rig.doctor, rig.patient, rig.hospital):
            await rig.refused(client.status(address), "denied", "not-an-operator")
        nobody = rig.client(rig.account_keys())
        await rig.refused(nobody.status(address), "unauthenticated", "unknown-account")


async def test_status_proof_is_of_one_use_and_one_process(rig: Rig) -> None:
    keys = rig.operator_keys[0]
    for address, gateway in (
        (rig.nodes[0].config.client_address, rig.nodes[1].account),
        (rig.ledger_address, rig.nodes[1].account),
    ):
        proof = rig.proof(keys, "status", gateway=gateway)
        await rig.refused(_status(rig, address, proof), "denied", "wrong-gateway")
        proof = rig.proof(keys, "query")
        await rig.refused(_status(rig, address, proof), "denied", "proof-mismatch")
        proof = rig.proof(keys, "status", token_hash=b"t" * 32)
        await rig.refused(_status(rig, address, proof), "denied", "proof-mismatch")
        proof = rig.proof(keys, "status")
        assert await _status(rig, address, proof)
        await rig.refused(_status(rig, address, proof), "denied", "replayed-proof")
        await rig.refused(_status(rig, address, b""), "invalid", "malformed-encoding")


async def _status(rig: Rig, address: str, proof: bytes) -> bytes:
    return await rig.unary(address, "/hcefs.v1.Admin/Status", admin_pb2.StatusRequest(proof=proof))


async def test_query_proof_is_of_one_use(rig: Rig) -> None:
    keys = rig.keys_of(rig.doctor)
    proof = rig.proof(keys, "query")
    request = ledger_pb2.QueryRequest(proof=proof, head=True)
    method = "/hcefs.v1.Ledger/Query"
    assert await rig.unary(rig.ledger_address, method, request)
    await rig.refused(rig.unary(rig.ledger_address, method, request), "denied", "replayed-proof")
    for wrong, kind, reason in (
        (rig.proof(rig.account_keys(), "query"), "unauthenticated", "unknown-account"),
        (rig.proof(keys, "status"), "denied", "proof-mismatch"),
        (rig.proof(keys, "query", time_ms=1), "denied", "proof-expired"),
        (rig.proof(keys, "query", gateway=rig.nodes[0].account), "denied", "wrong-gateway"),
        (rig.proof(keys, "query", cluster=ClusterId(b"c" * 16)), "denied", "wrong-cluster"),
    ):
        request = ledger_pb2.QueryRequest(proof=wrong, head=True)
        await rig.refused(rig.unary(rig.ledger_address, method, request), kind, reason)
