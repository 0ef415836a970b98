"""The path of a request: proof, token, nonce, decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hcefs.access.facts import Action
from hcefs.access.rights import PERMITTED
from hcefs.access.token import Narrowing, TokenCache, mint, narrow
from hcefs.access.verifier import NO_TOKEN, NonceMemory, Presented, Verifier
from hcefs.crypto.signing import (
    NONCE_SIZE_MAX,
    NONCE_SIZE_MIN,
    PROOF_WINDOW_MS,
    RequestProof,
    SigningKey,
)
from hcefs.errors import Denied, Exhausted, HcefsError, Invalid, Unauthenticated
from hcefs.ids import AccountId, BlobId, RecordId
from hcefs.integrity import blake3_digest
from tests.unit.access.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    DOCTORS_USE,
    GRANT,
    NO_ACCOUNT,
    NO_GRANT,
    NODE,
    NOW_MS,
    NURSE,
    OTHER_BLOB,
    OTHER_CLUSTER,
    OTHER_RECORD,
    OWNER,
    RECORD,
    STRANGER,
    FakeView,
    account,
    grant,
    key_of,
    view,
)

TOKEN = mint(key_of(DOCTOR), CLUSTER, DOCTOR, GRANT)


@dataclass
class Desk:
    """A verifier, and a client that asks it correctly unless told otherwise."""

    view: FakeView = field(default_factory=lambda: view(grant()))
    nonces: NonceMemory = field(default_factory=NonceMemory)
    drawn: int = 0

    def __post_init__(self) -> None:
        self.verifier = Verifier(CLUSTER, self.view, NODE, TokenCache(), self.nonces)

    def proof(
        self, token: bytes = TOKEN, signer: SigningKey | None = None, **changes: Any
    ) -> bytes:
        self.drawn += 1
        body = RequestProof(
            cluster=CLUSTER,
            token_hash=blake3_digest(token) if token else NO_TOKEN,
            method="get",
            record=RECORD,
            blob=BLOB,
            range_start=0,
            range_length=0,
            purpose="TREAT",
            gateway=NODE,
            nonce=self.drawn.to_bytes(16, "big"),
            time_ms=NOW_MS,
            presenter=DOCTOR,
            key_version=1,
        )
        body = replace(body, **changes)
        return body.signed(signer or key_of(body.presenter)).encode()

    def present(self, proof: bytes, token: bytes = TOKEN, **changes: Any) -> Presented:
        asked: dict[str, Any] = {
            "method": "get",
            "record": RECORD,
            "blob": BLOB,
            "range_start": 0,
            "range_length": 0,
            "gateway": NODE,
            "now_ms": NOW_MS,
            "remember_nonce": True,
        }
        return self.verifier.present(token, proof, **(asked | changes))

    def refuses(
        self, kind: type[HcefsError], proof: bytes, token: bytes = TOKEN, **asked: Any
    ) -> str:
        with pytest.raises(kind) as caught:
            self.present(proof, token, **asked)
        assert type(caught.value) is kind
        return caught.value.reason


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_genuine_request_is_presented_and_permitted(desk: Desk) -> None:
    presented = desk.present(desk.proof())
    assert presented.use == DOCTORS_USE
    assert presented.proof.presenter == DOCTOR
    decision = desk.verifier.authorize(presented, Action.READ, NOW_MS)
    assert (decision.permitted, decision.reason) == (True, PERMITTED)


def test_a_request_on_the_whole_record_has_no_blob(desk: Desk) -> None:
    presented = desk.present(desk.proof(blob=BlobId.zero()), blob=None)
    assert desk.verifier.authorize(presented, Action.READ, NOW_MS).permitted


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "put"},
        {"record": OTHER_RECORD},
        {"blob": OTHER_BLOB},
        {"blob": BlobId.zero()},
        {"range_start": 1},
        {"range_length": 1},
    ],
)
def test_a_proof_of_another_request_is_refused(desk: Desk, changes: dict[str, Any]) -> None:
    assert desk.refuses(Denied, desk.proof(**changes)) == "proof-mismatch"


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "put"},
        {"record": OTHER_RECORD},
        {"blob": OTHER_BLOB},
        {"blob": None},
        {"range_start": 1},
        {"range_length": 1},
    ],
)
def test_a_request_that_was_not_signed_is_refused(desk: Desk, asked: dict[str, Any]) -> None:
    assert desk.refuses(Denied, desk.proof(), **asked) == "proof-mismatch"


def test_a_proof_of_another_cluster_is_refused(desk: Desk) -> None:
    assert desk.refuses(Denied, desk.proof(cluster=OTHER_CLUSTER)) == "wrong-cluster"


def test_a_proof_counts_for_its_window_only(desk: Desk) -> None:
    for offset in (-PROOF_WINDOW_MS, PROOF_WINDOW_MS):
        desk.present(desk.proof(time_ms=NOW_MS + offset))
    for offset in (-PROOF_WINDOW_MS - 1, PROOF_WINDOW_MS + 1):
        proof = desk.proof(time_ms=NOW_MS + offset)
        assert desk.refuses(Denied, proof) == "proof-expired"


@pytest.mark.parametrize(
    ("named", "came_through"),
    [(NODE, NURSE), (NODE, NO_ACCOUNT), (NO_ACCOUNT, NODE)],
)
def test_another_gateway_is_refused(desk: Desk, named: AccountId, came_through: AccountId) -> None:
    proof = desk.proof(gateway=named)
    assert desk.refuses(Denied, proof, gateway=came_through) == "wrong-gateway"


def test_a_direct_request_names_no_gateway(desk: Desk) -> None:
    desk.present(desk.proof(gateway=NO_ACCOUNT), gateway=NO_ACCOUNT)


def test_an_unknown_or_inactive_presenter_is_unauthenticated(desk: Desk) -> None:
    proof = desk.proof(presenter=STRANGER)
    assert desk.refuses(Unauthenticated, proof) == "unknown-account"
    desk.view.accounts[NURSE] = account(NURSE, active=False)
    assert desk.refuses(Unauthenticated, desk.proof(presenter=NURSE)) == "unknown-account"


def test_only_the_current_key_version_counts(desk: Desk) -> None:
    desk.view.accounts[DOCTOR] = account(DOCTOR, key_version=2)
    assert desk.refuses(Unauthenticated, desk.proof()) == "old-key"
    assert desk.refuses(Unauthenticated, desk.proof(key_version=3)) == "old-key"
    desk.present(desk.proof(key_version=2))


def test_keys_that_change_end_what_runs_and_what_is_remembered(desk: Desk) -> None:
    presented = desk.present(desk.proof())
    assert desk.verifier.authorize(presented, Action.READ, NOW_MS).permitted
    new = key_of(NURSE)
    desk.view.accounts[DOCTOR] = account(DOCTOR, key_version=2, token_key=new.public_key)
    for decide in (
        desk.verifier.authorize,
        desk.verifier.authorize_by_ledger,
        desk.verifier.authorize_owner,
    ):
        with pytest.raises(Unauthenticated) as caught:
            decide(presented, Action.READ, NOW_MS)
        assert caught.value.reason == "old-key"
    # The token was verified a moment ago, and is remembered: under the key that has ended.
    proof = desk.proof(key_version=2, signer=new)
    assert desk.refuses(Unauthenticated, proof) == "token-signature"


def test_a_lent_token_ends_with_the_keys_of_its_holder(desk: Desk) -> None:
    presented = desk.present(desk.proof(presenter=NURSE))
    desk.view.accounts[DOCTOR] = account(DOCTOR, key_version=2, token_key=key_of(OWNER).public_key)
    with pytest.raises(Unauthenticated) as caught:
        desk.verifier.authorize(presented, Action.READ, NOW_MS)
    assert caught.value.reason == "old-key"


def test_a_proof_signed_by_another_key_is_refused(desk: Desk) -> None:
    proof = desk.proof(signer=key_of(NURSE))
    assert desk.refuses(Unauthenticated, proof) == "bad-proof"


def test_a_proof_is_bound_to_its_token(desk: Desk) -> None:
    other = narrow(TOKEN, Narrowing(actions=("read",)), key_of(DOCTOR).public_key)
    assert desk.refuses(Denied, desk.proof(other)) == "proof-mismatch"
    assert desk.refuses(Denied, desk.proof(b"")) == "proof-mismatch"


@pytest.mark.parametrize("proof", [b"", b"\x80", b"x" * 100, bytes(5000)])
def test_a_malformed_proof_is_invalid(desk: Desk, proof: bytes) -> None:
    with pytest.raises(Invalid):
        desk.present(proof)


@pytest.mark.parametrize("size", [0, NONCE_SIZE_MIN - 1, NONCE_SIZE_MAX + 1])
def test_a_nonce_of_a_wrong_size_is_refused(desk: Desk, size: int) -> None:
    assert desk.refuses(Unauthenticated, desk.proof(nonce=bytes(size))) == "bad-proof"


def test_a_request_without_a_token_is_refused(desk: Desk) -> None:
    empty = desk.proof(token_hash=blake3_digest(b""))
    assert desk.refuses(Invalid, empty, b"") == "token-malformed"
    assert desk.refuses(Denied, desk.proof(b""), b"") == "proof-mismatch"


def test_an_oversize_token_is_refused(desk: Desk) -> None:
    token = bytes(9 << 10)
    assert desk.refuses(Invalid, desk.proof(token), token) == "token-malformed"


def test_a_token_of_another_cluster_is_refused(desk: Desk) -> None:
    token = mint(key_of(DOCTOR), OTHER_CLUSTER, DOCTOR, GRANT)
    assert desk.refuses(Denied, desk.proof(token), token) == "wrong-cluster"


def test_a_token_of_an_unregistered_account_is_refused(desk: Desk) -> None:
    token = mint(key_of(STRANGER), CLUSTER, STRANGER, GRANT)
    assert desk.refuses(Unauthenticated, desk.proof(token), token) == "unknown-account"


def test_a_token_signed_by_an_unregistered_key_is_refused(desk: Desk) -> None:
    token = mint(key_of(STRANGER), CLUSTER, OWNER, NO_GRANT)
    assert desk.refuses(Unauthenticated, desk.proof(token), token) == "token-signature"


def test_a_key_change_ends_tokens_that_were_verified_before(desk: Desk) -> None:
    desk.present(desk.proof())
    desk.view.accounts[DOCTOR] = account(DOCTOR, token_key=key_of(NURSE).public_key)
    proof = desk.proof(signer=key_of(NURSE))
    assert desk.refuses(Unauthenticated, proof) == "token-signature"


def test_who_asks_is_counted_before_a_token_is_looked_at(desk: Desk) -> None:
    """A token costs more to check than a proof, so that whoever brings bad ones has a rate."""
    asked: list[AccountId] = []

    def counted(presenter: AccountId) -> None:
        asked.append(presenter)
        if len(asked) > 2:
            raise Exhausted("too many", reason="too-many-requests")

    bad = b"no token at all"
    for nonce, kind in ((b"1" * 16, Invalid), (b"2" * 16, Invalid), (b"3" * 16, Exhausted)):
        proof = desk.proof(bad, nonce=nonce)
        with pytest.raises(kind):
            desk.present(proof, bad, proven=counted)
    assert len(asked) == 3
    # Neither a forged nor a replayed proof is counted against whom it names.
    with pytest.raises(Denied):
        desk.present(proof, bad, proven=counted)
    with pytest.raises(Unauthenticated):
        desk.present(desk.proof(signer=key_of(STRANGER)), proven=counted)
    assert len(asked) == 3


def test_a_replay_is_refused_where_nonces_are_remembered(desk: Desk) -> None:
    proof = desk.proof()
    desk.present(proof, remember_nonce=False)
    desk.present(proof, remember_nonce=False)
    desk.present(proof)
    assert desk.refuses(Denied, proof) == "replayed-proof"
    desk.present(proof, remember_nonce=False)


def test_a_refused_proof_uses_up_no_memory(desk: Desk) -> None:
    desk.refuses(Unauthenticated, desk.proof(signer=key_of(NURSE)))
    desk.refuses(Denied, desk.proof(method="put"))
    assert len(desk.nonces) == 0


@pytest.mark.parametrize(
    ("narrowing", "reason"),
    [
        (Narrowing(record=OTHER_RECORD), "token-check"),
        (Narrowing(blob=OTHER_BLOB), "token-check"),
        (Narrowing(not_after_ms=NOW_MS - 1_000), "token-check"),
        (Narrowing(actions=("append",)), "token-check"),
        (Narrowing(presenter=NURSE), "token-check"),
    ],
)
def test_the_tokens_checks_refuse_what_the_ledger_permits(
    desk: Desk, narrowing: Narrowing, reason: str
) -> None:
    token = narrow(TOKEN, narrowing, key_of(DOCTOR).public_key)
    presented = desk.present(desk.proof(token), token)
    with pytest.raises(Denied) as caught:
        desk.verifier.authorize(presented, Action.READ, NOW_MS)
    assert caught.value.reason == reason


def test_the_ledger_refuses_what_the_token_permits(desk: Desk) -> None:
    presented = desk.present(desk.proof())
    desk.view.grants[GRANT] = grant(revoked_height=8)
    with pytest.raises(Denied) as caught:
        desk.verifier.authorize(presented, Action.READ, NOW_MS)
    assert caught.value.reason == "revoked"


def test_no_action_and_several_actions_are_refused(desk: Desk) -> None:
    presented = desk.present(desk.proof())
    for action in (Action(0), Action.READ | Action.SHARE):
        with pytest.raises(Denied):
            desk.verifier.authorize(presented, action, NOW_MS)


def test_a_stolen_token_is_of_no_use_to_a_stranger_on_the_ledger() -> None:
    desk = Desk(view(grant(actions=Action.READ)))
    presented = desk.present(desk.proof(presenter=NURSE))
    with pytest.raises(Denied) as caught:
        desk.verifier.authorize(presented, Action.READ, NOW_MS)
    assert caught.value.reason == "not-shareable"


def test_a_lent_token_serves_the_one_it_was_narrowed_to(desk: Desk) -> None:
    token = narrow(TOKEN, Narrowing(presenter=NURSE), key_of(DOCTOR).public_key)
    lent = desk.present(desk.proof(token, presenter=NURSE), token)
    assert desk.verifier.authorize(lent, Action.READ, NOW_MS).permitted
    stolen = desk.present(desk.proof(token, presenter=OWNER), token)
    with pytest.raises(Denied) as caught:
        desk.verifier.authorize(stolen, Action.READ, NOW_MS)
    assert caught.value.reason == "token-check"


def test_only_the_owner_in_person_passes_authorize_owner(desk: Desk) -> None:
    token = mint(key_of(OWNER), CLUSTER, OWNER, NO_GRANT)
    owner = desk.present(desk.proof(token, presenter=OWNER), token)
    assert desk.verifier.authorize_owner(owner, Action.SHARE, NOW_MS).permitted
    doctor = desk.present(desk.proof())
    with pytest.raises(Denied) as caught:
        desk.verifier.authorize_owner(doctor, Action.SHARE, NOW_MS)
    assert caught.value.reason == "not-the-owner"


def plain(desk: Desk, **changes: Any) -> bytes:
    nothing = {"record": RecordId.zero(), "blob": BlobId.zero(), "method": "status"}
    return desk.proof(b"", **(nothing | changes))


@pytest.mark.parametrize("gateway", [NODE, NO_ACCOUNT])
def test_a_plain_request_needs_no_token(desk: Desk, gateway: AccountId) -> None:
    proof = plain(desk, gateway=gateway)
    asked = desk.verifier.present_plain(proof, method="status", now_ms=NOW_MS)
    assert asked.presenter == DOCTOR
    with pytest.raises(Denied) as caught:
        desk.verifier.present_plain(proof, method="status", now_ms=NOW_MS)
    assert caught.value.reason == "replayed-proof"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": OTHER_CLUSTER}, "wrong-cluster"),
        ({"method": "query"}, "proof-mismatch"),
        ({"token_hash": blake3_digest(TOKEN)}, "proof-mismatch"),
        ({"time_ms": NOW_MS - PROOF_WINDOW_MS - 1}, "proof-expired"),
        ({"gateway": NURSE}, "wrong-gateway"),
        ({"presenter": STRANGER}, "unknown-account"),
        ({"key_version": 2}, "old-key"),
        ({"signer": key_of(NURSE)}, "bad-proof"),
    ],
)
def test_a_plain_request_is_checked_alike(desk: Desk, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Denied) as caught:
        desk.verifier.present_plain(plain(desk, **changes), method="status", now_ms=NOW_MS)
    assert caught.value.reason == reason
    assert len(desk.nonces) == 0


NONCE = bytes(16)


def replay(memory: NonceMemory, *, nonce: bytes = NONCE, signed_ms: int, now_ms: int) -> str:
    try:
        memory.remember(DOCTOR, nonce, signed_ms, now_ms)
    except HcefsError as error:
        return error.reason
    return "accepted"


def test_a_nonce_is_remembered_for_as_long_as_its_proof_counts() -> None:
    for signed_ms in (NOW_MS - PROOF_WINDOW_MS, NOW_MS, NOW_MS + PROOF_WINDOW_MS):
        memory = NonceMemory()
        assert replay(memory, signed_ms=signed_ms, now_ms=NOW_MS) == "accepted"
        for now_ms in range(NOW_MS, signed_ms + PROOF_WINDOW_MS + 1, 500):
            assert replay(memory, signed_ms=signed_ms, now_ms=now_ms) == "replayed-proof"
        last = signed_ms + PROOF_WINDOW_MS
        assert replay(memory, signed_ms=signed_ms, now_ms=last) == "replayed-proof"


def test_a_nonce_belongs_to_its_presenter() -> None:
    memory = NonceMemory()
    memory.remember(DOCTOR, NONCE, NOW_MS, NOW_MS)
    memory.remember(NURSE, NONCE, NOW_MS, NOW_MS)
    assert len(memory) == 2


def test_nonces_are_forgotten_and_make_room() -> None:
    memory = NonceMemory(capacity=1)
    assert replay(memory, signed_ms=NOW_MS, now_ms=NOW_MS) == "accepted"
    assert replay(memory, nonce=b"2" * 16, signed_ms=NOW_MS, now_ms=NOW_MS) == "too-many-proofs"
    later = NOW_MS + PROOF_WINDOW_MS + 1_000
    assert replay(memory, nonce=b"2" * 16, signed_ms=later, now_ms=later) == "accepted"
    assert len(memory) == 1


def test_a_clock_set_back_opens_no_gap() -> None:
    memory = NonceMemory()
    assert replay(memory, signed_ms=NOW_MS, now_ms=NOW_MS) == "accepted"
    later = NOW_MS + 2 * PROOF_WINDOW_MS
    assert replay(memory, nonce=b"2" * 16, signed_ms=later, now_ms=later) == "accepted"
    assert replay(memory, signed_ms=NOW_MS, now_ms=NOW_MS) == "proof-expired"


def test_one_presenter_cannot_fill_the_memory() -> None:
    memory = NonceMemory(capacity=8)
    for number in range(2):
        memory.remember(DOCTOR, bytes([number]) * 16, NOW_MS, NOW_MS)
    with pytest.raises(Exhausted) as caught:
        memory.remember(DOCTOR, b"x" * 16, NOW_MS, NOW_MS)
    assert caught.value.retryable
    memory.remember(NURSE, b"x" * 16, NOW_MS, NOW_MS)


def test_a_nonce_memory_needs_room() -> None:
    with pytest.raises(Invalid):
        NonceMemory(capacity=0)
