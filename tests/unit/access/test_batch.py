"""Batches: what one proof covers, what is refused and why, and what stays single."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from hcefs.access import rights
from hcefs.access import token as token_module
from hcefs.access.batch import (
    BLOBS_MAX,
    TOKENS_MAX,
    BatchGroup,
    PresentedBatch,
    Refused,
    authorize_batch,
    batch_digest,
    check_batch,
    present_batch,
    served_part,
    whole_records,
)
from hcefs.access.facts import Action
from hcefs.access.rights import RANGE_END_MAX
from hcefs.access.token import (
    TOKEN_BYTES_MAX,
    Narrowing,
    TokenCache,
    TokenFacts,
    VerifiedToken,
    mint,
    narrow,
)
from hcefs.access.verifier import NonceMemory, Verifier
from hcefs.crypto.signing import PROOF_WINDOW_MS, RequestProof, SigningKey
from hcefs.errors import Denied, Exhausted, HcefsError, Invalid, Unauthenticated, Unavailable
from hcefs.ids import BlobId, RecordId
from hcefs.integrity import blake3_digest
from tests.unit.access.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    GRANT,
    HOUR_MS,
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

DOCTORS = mint(key_of(DOCTOR), CLUSTER, DOCTOR, GRANT)
OWNERS = mint(key_of(OWNER), CLUSTER, OWNER, NO_GRANT)


def group(record: RecordId = RECORD, *blobs: BlobId, token: int = 0) -> BatchGroup:
    return BatchGroup(token, record, b"".join(blobs or (BLOB, OTHER_BLOB)))


GROUPS = (group(),)


@dataclass
class Desk:
    """A verifier, and a client that asks it for batches correctly unless told otherwise."""

    view: FakeView = field(default_factory=lambda: view(grant()))
    nonces: NonceMemory = field(default_factory=NonceMemory)
    drawn: int = 0

    def __post_init__(self) -> None:
        self.verifier = Verifier(CLUSTER, self.view, NODE, TokenCache(), self.nonces)

    def proof(
        self,
        tokens: Sequence[bytes] = (DOCTORS,),
        groups: Sequence[BatchGroup] = GROUPS,
        signer: SigningKey | None = None,
        **changes: Any,
    ) -> bytes:
        self.drawn += 1
        body = RequestProof(
            cluster=CLUSTER,
            token_hash=batch_digest(tokens, groups),
            method="get-many",
            record=RecordId.zero(),
            blob=BlobId.zero(),
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

    def present(
        self,
        proof: bytes | None = None,
        tokens: Sequence[bytes] = (DOCTORS,),
        groups: Sequence[BatchGroup] = GROUPS,
        **changes: Any,
    ) -> PresentedBatch:
        asked: dict[str, Any] = {
            "method": "get-many",
            "gateway": NODE,
            "now_ms": NOW_MS,
            "remember_nonce": True,
        }
        if proof is None:
            proof = self.proof(tokens, groups)
        return present_batch(self.verifier, tokens, proof, groups, **(asked | changes))

    def refuses(self, kind: type[HcefsError], *arguments: Any, **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            self.present(*arguments, **changes)
        assert type(caught.value) is kind
        return caught.value.reason

    def decide(
        self,
        tokens: Sequence[bytes],
        groups: Sequence[BatchGroup],
        action: Action = Action.READ,
        now_ms: int = NOW_MS,
        **proof: Any,
    ) -> Refused:
        presented = self.present(self.proof(tokens, groups, **proof), tokens, groups)
        return authorize_batch(self.verifier, presented, action, now_ms)

    def denies(self, *arguments: Any, **changes: Any) -> str:
        with pytest.raises(Denied) as caught:
            self.decide(*arguments, **changes)
        return caught.value.reason


@pytest.fixture
def desk() -> Desk:
    return Desk()


def reasons(refused: Refused) -> dict[tuple[RecordId, BlobId], str]:
    return {name: error.reason for name, error in refused.items()}


def test_a_genuine_batch_is_presented_and_permitted(desk: Desk) -> None:
    presented = desk.present()
    assert presented.proof.presenter == DOCTOR
    assert presented.groups == GROUPS
    assert [token.use.account for token in presented.tokens] == [DOCTOR]
    assert authorize_batch(desk.verifier, presented, Action.READ, NOW_MS) == {}


def test_groups_give_their_blobs_in_order() -> None:
    given = group(RECORD, OTHER_BLOB, BLOB)
    assert list(given.ids()) == [OTHER_BLOB, BLOB]
    assert given.count == 2


FULL = BatchGroup(0, RECORD, bytes(18 * BLOBS_MAX))


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [
        ([b"t"], [FULL]),
        ([b"t"] * TOKENS_MAX, [BatchGroup(TOKENS_MAX - 1, RECORD, bytes(18))]),
        ([bytes(TOKEN_BYTES_MAX)], [BatchGroup(0, RECORD, bytes(18))] * BLOBS_MAX),
    ],
)
def test_batches_up_to_the_limits(tokens: list[bytes], groups: list[BatchGroup]) -> None:
    check_batch(tokens, groups)


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [
        ([], [group()]),
        ([b"t"], []),
        ([b"t"] * (TOKENS_MAX + 1), [group()]),
        ([bytes(TOKEN_BYTES_MAX + 1)], [group()]),
        ([b"t"], [group(token=1)]),
        ([b"t"], [group(token=-1)]),
        ([b"t", b"u"], [group(), group(token=2)]),
        ([b"t"], [group(), BatchGroup(0, RECORD, b"")]),
        ([b"t"], [BatchGroup(0, RECORD, bytes(17))]),
        ([b"t"], [BatchGroup(0, RECORD, bytes(19))]),
        ([b"t"], [BatchGroup(0, RECORD, bytes(18 * (BLOBS_MAX + 1)))]),
        ([b"t"], [FULL, group(RECORD, BLOB)]),
    ],
)
def test_a_batch_of_a_bad_shape_is_refused_before_its_proof_is_read(
    desk: Desk, tokens: list[bytes], groups: list[BatchGroup]
) -> None:
    assert desk.refuses(Invalid, b"no proof", tokens, groups) == "bad-batch"


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [
        ([OWNERS], GROUPS),
        ([DOCTORS, DOCTORS], GROUPS),
        ([DOCTORS], [group(OTHER_RECORD)]),
        ([DOCTORS], [group(RECORD, BLOB)]),
        ([DOCTORS], [group(RECORD, OTHER_BLOB, BLOB)]),
        ([DOCTORS], [group(RECORD, BLOB), group(RECORD, OTHER_BLOB)]),
        ([DOCTORS], [group(), group()]),
    ],
)
def test_a_proof_of_other_tokens_or_groups_is_refused(
    desk: Desk, tokens: list[bytes], groups: list[BatchGroup]
) -> None:
    proof = desk.proof([DOCTORS], GROUPS)
    assert desk.refuses(Denied, proof, tokens, groups) == "proof-mismatch"


def test_a_group_cannot_be_moved_to_another_token(desk: Desk) -> None:
    tokens = [DOCTORS, OWNERS]
    proof = desk.proof(tokens, [group(token=0)])
    assert desk.refuses(Denied, proof, tokens, [group(token=1)]) == "proof-mismatch"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "put-many"},
        {"record": RECORD},
        {"blob": BLOB},
        {"range_start": 1},
        {"range_length": 1},
        {"token_hash": bytes(32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_proof_of_another_request_is_refused(desk: Desk, changes: dict[str, Any]) -> None:
    assert desk.refuses(Denied, desk.proof(**changes)) == "proof-mismatch"


def test_a_proof_of_a_single_request_serves_no_batch_nor_the_other_way(desk: Desk) -> None:
    """Even where the method were the same: the digests differ, and a batch names no record."""
    single = desk.proof(token_hash=blake3_digest(DOCTORS))
    assert desk.refuses(Denied, single) == "proof-mismatch"
    with pytest.raises(Denied) as caught:
        desk.verifier.present(
            DOCTORS,
            desk.proof(),
            method="get-many",
            record=RecordId.zero(),
            blob=None,
            range_start=0,
            range_length=0,
            gateway=NODE,
            now_ms=NOW_MS,
            remember_nonce=True,
        )
    assert caught.value.reason == "proof-mismatch"


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"cluster": OTHER_CLUSTER}, Denied, "wrong-cluster"),
        ({"gateway": NURSE}, Denied, "wrong-gateway"),
        ({"gateway": NO_ACCOUNT}, Denied, "wrong-gateway"),
        ({"time_ms": NOW_MS - PROOF_WINDOW_MS - 1}, Denied, "proof-expired"),
        ({"time_ms": NOW_MS + PROOF_WINDOW_MS + 1}, Denied, "proof-expired"),
        ({"presenter": STRANGER}, Unauthenticated, "unknown-account"),
        ({"key_version": 2}, Unauthenticated, "old-key"),
        ({"signer": key_of(NURSE)}, Unauthenticated, "bad-proof"),
    ],
)
def test_a_proof_that_does_not_hold_is_refused(
    desk: Desk, changes: dict[str, Any], kind: type[HcefsError], reason: str
) -> None:
    found = desk.refuses(kind, desk.proof(**changes))
    assert found == reason
    assert len(desk.nonces) == 0


@pytest.mark.parametrize("proof", [b"", b"\x80", bytes(3000)])
def test_a_malformed_proof_is_refused(desk: Desk, proof: bytes) -> None:
    assert desk.refuses(Invalid, proof) == "malformed-encoding"


def test_a_batch_is_replayed_nowhere_but_where_nonces_are_not_remembered(desk: Desk) -> None:
    proof = desk.proof()
    desk.present(proof)
    assert desk.refuses(Denied, proof) == "replayed-proof"
    desk.present(proof, remember_nonce=False)


def test_a_full_memory_of_nonces_refuses() -> None:
    desk = Desk(nonces=NonceMemory(capacity=1, share=1))
    desk.present()
    assert desk.refuses(Exhausted) == "too-many-proofs"


@pytest.mark.parametrize(
    ("token", "kind", "reason"),
    [
        (b"", Invalid, "token-malformed"),
        (b"junk", Invalid, "token-malformed"),
        (mint(key_of(DOCTOR), OTHER_CLUSTER, DOCTOR, GRANT), Denied, "wrong-cluster"),
        (mint(key_of(NURSE), CLUSTER, DOCTOR, GRANT), Unauthenticated, "token-signature"),
        (mint(key_of(STRANGER), CLUSTER, STRANGER, GRANT), Unauthenticated, "unknown-account"),
    ],
)
def test_one_token_that_is_not_genuine_refuses_the_batch(
    desk: Desk, token: bytes, kind: type[HcefsError], reason: str
) -> None:
    assert desk.refuses(kind, None, [DOCTORS, token], GROUPS) == reason


# Decisions.  What is here as single cases, tests/property/test_batch_properties.py
# compares with single requests over generated tokens, grants and groups.

BLOB_ONLY = narrow(DOCTORS, Narrowing(blob=BLOB), key_of(DOCTOR).public_key)
RECORD_ONLY = narrow(DOCTORS, Narrowing(record=RECORD), key_of(DOCTOR).public_key)


def test_a_token_narrowed_to_a_blob_serves_that_blob(desk: Desk) -> None:
    refused = desk.decide([BLOB_ONLY], [group()])
    assert reasons(refused) == {(RECORD, OTHER_BLOB): "token-check"}
    assert desk.denies([BLOB_ONLY], [group(RECORD, OTHER_BLOB)]) == "token-check"


def test_what_a_token_passed_for_one_record_it_passes_for_no_other() -> None:
    """The narrowing to a record is asked again, although the first answer was yes."""
    desk = Desk(view=view())
    token = mint(key_of(OWNER), CLUSTER, OWNER, NO_GRANT, Narrowing(record=RECORD))
    groups = [group(RECORD, BLOB), group(OTHER_RECORD, BLOB), group(RECORD, OTHER_BLOB)]
    refused = desk.decide([token], groups, presenter=OWNER)
    assert reasons(refused) == {(OTHER_RECORD, BLOB): "token-check"}


def test_what_a_token_failed_for_one_record_it_does_not_fail_for_another() -> None:
    desk = Desk(view=view())
    token = mint(key_of(OWNER), CLUSTER, OWNER, NO_GRANT, Narrowing(record=RECORD))
    groups = [group(OTHER_RECORD, BLOB), group(RECORD, BLOB)]
    refused = desk.decide([token], groups, presenter=OWNER)
    assert reasons(refused) == {(OTHER_RECORD, BLOB): "token-check"}


def test_a_tokens_answer_holds_for_that_token_only(desk: Desk) -> None:
    research = narrow(DOCTORS, Narrowing(purposes=("HRESCH",)), key_of(DOCTOR).public_key)
    groups = [group(RECORD, BLOB, token=0), group(RECORD, OTHER_BLOB, token=1)]
    assert reasons(desk.decide([DOCTORS, research], groups)) == {
        (RECORD, OTHER_BLOB): "token-check"
    }


def test_a_grant_is_no_right_on_the_record_of_another_group(desk: Desk) -> None:
    refused = desk.decide([DOCTORS], [group(), group(OTHER_RECORD, BLOB)])
    assert reasons(refused) == {(OTHER_RECORD, BLOB): "wrong-record"}


def test_a_grant_on_one_blob_serves_that_blob() -> None:
    desk = Desk(view=view(grant(blob=BLOB)))
    assert reasons(desk.decide([DOCTORS], [group()])) == {(RECORD, OTHER_BLOB): "wrong-blob"}


def test_a_grant_on_a_range_serves_no_whole_blob() -> None:
    desk = Desk(view=view(grant(blob=BLOB, range_length=1 << 40)))
    assert desk.denies([DOCTORS], [group(RECORD, BLOB)]) == "wrong-range"


def test_a_blob_id_of_zeros_asks_for_the_whole_record() -> None:
    """It is what a proof says of a record as a whole, so it needs that right."""
    desk = Desk(view=view(grant(blob=BLOB)))
    zero = BlobId.zero()
    refused = desk.decide([DOCTORS], [group(RECORD, zero, BLOB)])
    assert reasons(refused) == {(RECORD, zero): "wrong-blob"}
    narrowed = Desk()
    assert reasons(narrowed.decide([BLOB_ONLY], [group(RECORD, zero, BLOB)])) == {
        (RECORD, zero): "token-check"
    }


def test_a_blob_may_be_served_where_the_whole_record_may_not() -> None:
    """A token narrowed to a range that ends at the last possible byte, beside zeros."""
    ends = Narrowing(range_length=RANGE_END_MAX)
    token = narrow(DOCTORS, ends, key_of(DOCTOR).public_key)
    zero = BlobId.zero()
    for order in ((BLOB, zero), (zero, BLOB)):
        refused = Desk().decide([token], [group(RECORD, *order)])
        assert reasons(refused) == {(RECORD, zero): "token-check"}


def test_rights_on_every_blob_asked_for_are_none_on_the_record() -> None:
    """Else the opening of a pack would tell of blobs that nobody may see."""
    desk = Desk(view=view(grant()))
    desk.view.records[OTHER_RECORD] = replace(desk.view.records[OTHER_RECORD], owner=DOCTOR)
    own = mint(key_of(DOCTOR), CLUSTER, DOCTOR, NO_GRANT)
    tokens = [BLOB_ONLY, DOCTORS, own]
    only = desk.present(None, tokens, [group(RECORD, BLOB), group(OTHER_RECORD, BLOB, token=2)])
    assert authorize_batch(desk.verifier, only, Action.READ, NOW_MS) == {}
    assert whole_records(desk.verifier, only, Action.READ, NOW_MS) == {OTHER_RECORD}
    both = desk.present(None, tokens, [group(RECORD, BLOB), group(RECORD, BLOB, token=1)])
    assert whole_records(desk.verifier, both, Action.READ, NOW_MS) == {RECORD}
    desk.view.grants[GRANT] = grant(blob=BLOB)
    assert whole_records(desk.verifier, both, Action.READ, NOW_MS) == frozenset()


def test_a_blob_named_twice_needs_every_right_that_is_named() -> None:
    """A refusal is by record and blob, so it must not depend on the order of groups."""
    desk = Desk(view=view(grant()))
    other = mint(key_of(OWNER), CLUSTER, OWNER, NO_GRANT)  # presented by the doctor: not lent
    for order in ((0, 1), (1, 0)):
        groups = [group(RECORD, BLOB, token=token) for token in order]
        groups.append(group(RECORD, OTHER_BLOB))
        refused = desk.decide([DOCTORS, other], groups)
        assert reasons(refused) == {(RECORD, BLOB): "not-shareable"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revoked_height": 5}, "revoked"),
        ({"not_after_ms": NOW_MS}, "expired"),
        ({"not_before_ms": NOW_MS + 1}, "not-yet-valid"),
        ({"actions": Action.APPEND | Action.SHARE}, "action-not-granted"),
        ({"purposes": ("HRESCH",)}, "wrong-purpose"),
        ({"grantee": NURSE}, "not-the-grantee"),
        ({"granter": NURSE}, "broken-chain"),
    ],
)
def test_a_batch_that_nothing_permits_is_denied_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    assert Desk(view=view(grant(**changes))).denies([DOCTORS], GROUPS) == reason


def test_a_batch_is_decided_anew_when_the_ledger_changes(desk: Desk) -> None:
    presented = desk.present()
    assert authorize_batch(desk.verifier, presented, Action.READ, NOW_MS) == {}
    desk.view.grants[GRANT] = grant(revoked_height=8)
    with pytest.raises(Denied) as caught:
        authorize_batch(desk.verifier, presented, Action.READ, NOW_MS)
    assert caught.value.reason == "revoked"
    desk.view.grants[GRANT] = grant()
    desk.view.accounts[DOCTOR] = account(DOCTOR, active=False)
    with pytest.raises(Denied) as inactive:
        authorize_batch(desk.verifier, presented, Action.READ, NOW_MS)
    assert inactive.value.reason == "inactive-account"
    desk.view.accounts[DOCTOR] = account(DOCTOR)
    with pytest.raises(Denied) as expired:
        authorize_batch(desk.verifier, presented, Action.READ, NOW_MS + HOUR_MS)
    assert expired.value.reason == "expired"


def test_a_right_to_read_is_none_to_append() -> None:
    desk = Desk(view=view(grant(actions=Action.READ)))
    assert desk.decide([DOCTORS], GROUPS) == {}
    assert desk.denies([DOCTORS], GROUPS, Action.APPEND) == "action-not-granted"


def test_a_token_that_does_not_answer_in_time_stops_the_batch(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    presented = desk.present()
    monkeypatch.setattr(token_module, "_TIME_MAX", timedelta(0))
    with pytest.raises(Unavailable) as caught:
        authorize_batch(desk.verifier, presented, Action.READ, NOW_MS)
    assert caught.value.reason == "token-limits"


@pytest.mark.parametrize(
    ("token", "asked_max"),
    [(DOCTORS, 1), (RECORD_ONLY, 1), (BLOB_ONLY, 3)],
    ids=["open", "record", "blob"],
)
@pytest.mark.parametrize("purpose", ["TREAT", "HRESCH"])
def test_a_token_is_asked_a_few_times_however_large_the_batch(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, token: bytes, asked_max: int, purpose: str
) -> None:
    """Else one request with thousands of blobs holds up all others for half a second."""
    asked = 0
    authorize = VerifiedToken.authorize

    def counted(verified: VerifiedToken, facts: TokenFacts) -> None:
        nonlocal asked
        asked += 1
        authorize(verified, facts)

    monkeypatch.setattr(VerifiedToken, "authorize", counted)
    treat = narrow(token, Narrowing(purposes=("TREAT",)), key_of(DOCTOR).public_key)
    blobs = [BlobId.of(BLOB.base, slot) for slot in range(BLOBS_MAX)]
    groups = [group(RECORD, *blobs[: BLOBS_MAX // 2])]
    groups += [group(RECORD, blob) for blob in blobs[BLOBS_MAX // 2 :]]
    if purpose == "TREAT":
        refused = desk.decide([treat], groups)
        assert len(refused) == (BLOBS_MAX - 1 if token == BLOB_ONLY else 0)
    else:
        assert desk.denies([treat], groups, purpose=purpose) == "token-check"
        asked_max = max(asked_max, 2)
    assert asked <= asked_max


def test_presenters_need_the_right_to_use_the_token() -> None:
    desk = Desk(view=view(grant(actions=Action.READ)))
    assert desk.denies([DOCTORS], GROUPS, presenter=NURSE) == "not-shareable"
    lent = Desk(view=view(grant()))
    assert lent.decide([DOCTORS], GROUPS, presenter=NURSE) == {}
    bound = narrow(DOCTORS, Narrowing(presenter=NURSE), key_of(DOCTOR).public_key)
    assert lent.decide([bound], GROUPS, presenter=NURSE) == {}
    assert lent.denies([bound], GROUPS, presenter=OWNER) == "token-check"


def test_a_record_is_decided_once_however_many_groups_name_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decisions are made again twice a second for as long as a batch is served."""
    desk = Desk()
    blobs = [BlobId(number.to_bytes(16, "big") + b"\x00\x01") for number in range(1, 301)]
    groups = tuple(group(RECORD, blob) for blob in blobs)
    batch = desk.present(groups=groups)
    decided: list[BlobId | None] = []
    decide = rights.decide

    def counted(view: Any, request: Any, now_ms: int) -> Any:
        decided.append(request.blob)
        return decide(view, request, now_ms)

    monkeypatch.setattr(rights, "decide", counted)
    assert authorize_batch(desk.verifier, batch, Action.READ, NOW_MS) == {}
    assert decided == [None]
    assert whole_records(desk.verifier, batch, Action.READ, NOW_MS) == {RECORD}
    assert decided == [None] * 2


def test_what_is_refused_is_not_decided_again() -> None:
    desk = Desk(view=view(grant(blob=BLOB)))
    batch = desk.present(groups=(group(RECORD, BLOB, OTHER_BLOB), group(RECORD, BLOB)))
    refused = authorize_batch(desk.verifier, batch, Action.READ, NOW_MS)
    assert set(refused) == {(RECORD, OTHER_BLOB)}
    part = served_part(batch, refused)
    assert part.groups == (group(RECORD, BLOB, BLOB),)
    assert authorize_batch(desk.verifier, part, Action.READ, NOW_MS) == {}
    # Two tokens for one blob, of which one may not: nothing of it is served.
    nothing = served_part(batch, {(RECORD, BLOB): refused[RECORD, OTHER_BLOB], **refused})
    assert nothing.groups == ()
    assert authorize_batch(desk.verifier, nothing, Action.READ, NOW_MS) == {}
