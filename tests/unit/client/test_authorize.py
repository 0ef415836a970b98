"""Tokens and proofs as the client makes them, judged by the server's verifier."""

from __future__ import annotations

import pytest

from hcefs.access.token import Narrowing, read_use, verify_token
from hcefs.client.authorize import STREAM_TOKEN_MS, TOKEN_MS, Authorizer, Right, Scope
from hcefs.crypto.signing import SignedProof
from hcefs.errors import Invalid
from hcefs.ids import AccountId, BlobId, GrantId
from hcefs.integrity import blake3_digest
from tests.unit.client.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    GRANT,
    NODE,
    RECORD,
    FakeRuntime,
)


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def authorizer(runtime: FakeRuntime) -> Authorizer:
    return Authorizer(CLUSTER, DOCTOR, runtime)


def test_a_proof_names_exactly_the_request(authorizer: Authorizer, runtime: FakeRuntime) -> None:
    scope = Scope(RECORD, BLOB, 10, 20)
    made = authorizer.authorize("get", scope, Right(GRANT, "TREAT"), NODE)
    signed = SignedProof.decode(made.proof)
    signed.check(DOCTOR.token_key.public_key)
    proof = signed.proof
    assert (proof.cluster, proof.method, proof.record, proof.blob) == (CLUSTER, "get", RECORD, BLOB)
    assert (proof.range_start, proof.range_length, proof.purpose) == (10, 20, "TREAT")
    assert (proof.gateway, proof.presenter, proof.key_version) == (NODE, DOCTOR.account, 1)
    assert proof.time_ms == runtime.now_ms()
    assert proof.token_hash == blake3_digest(made.token)
    use = verify_token(made.token, DOCTOR.token_key.public_key).use
    assert (use.cluster, use.account, use.grant) == (CLUSTER, DOCTOR.account, GRANT)


def test_every_proof_is_new_and_the_token_is_kept(
    authorizer: Authorizer, runtime: FakeRuntime
) -> None:
    right, scope = Right(GRANT, "TREAT"), Scope(RECORD)
    first, second = (authorizer.authorize("list", scope, right, NODE) for _ in range(2))
    assert first.token == second.token
    assert first.proof != second.proof
    runtime.clock_ms += TOKEN_MS // 2
    assert authorizer.authorize("list", scope, right, NODE).token != first.token


def test_a_clock_that_was_set_back_does_not_keep_a_token(
    authorizer: Authorizer, runtime: FakeRuntime
) -> None:
    first = authorizer.token(GRANT)
    runtime.clock_ms -= TOKEN_MS
    assert authorizer.token(GRANT) != first


def test_a_stream_has_a_token_that_outlives_it(
    authorizer: Authorizer, runtime: FakeRuntime
) -> None:
    assert authorizer.token(GRANT, stream=True) != authorizer.token(GRANT)
    first = authorizer.token(GRANT, stream=True)
    runtime.clock_ms += STREAM_TOKEN_MS // 2 - 1
    assert authorizer.token(GRANT, stream=True) == first


def test_a_plain_proof_has_no_token_and_no_gateway(authorizer: Authorizer) -> None:
    proof = SignedProof.decode(authorizer.plain("query", RECORD)).proof
    assert proof.token_hash == bytes(32)
    assert proof.gateway == AccountId.zero()
    assert (proof.record, proof.blob) == (RECORD, BlobId.zero())


def test_a_token_that_was_handed_over_is_passed_on(authorizer: Authorizer) -> None:
    token = authorizer.mint(GRANT, Narrowing(blob=BLOB))
    right = Right(GrantId.zero(), "TREAT", token)
    assert authorizer.authorize("get", Scope(RECORD, BLOB), right, NODE).token == token
    assert read_use(token).grant == GRANT
    assert token.hex() not in repr(right)
    assert repr(token) not in repr(right)


def test_a_negative_range_is_refused(authorizer: Authorizer) -> None:
    with pytest.raises(Invalid):
        authorizer.authorize("get", Scope(RECORD, BLOB, -1, 1), Right(GRANT, "TREAT"), NODE)
