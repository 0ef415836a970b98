"""A batch never permits what single requests would deny, and its digest binds all of it.

The security-critical comparison: generated ledgers (owners, a grant, one given under
it, accounts that ended), generated tokens (any narrowing, in several blocks, of any of
the holders), and generated groups are decided as one batch, and blob by blob by the
path that a single request takes.  The answers and their reasons must be the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3
from hypothesis import event, given, settings
from hypothesis import strategies as st

from hcefs.access.batch import (
    BatchGroup,
    Refused,
    authorize_batch,
    batch_digest,
    check_batch,
    present_batch,
    whole_records,
)
from hcefs.access.facts import Action, Grant
from hcefs.access.rights import ACTION_NAMES, RANGE_END_MAX
from hcefs.access.token import (
    Narrowing,
    TokenCache,
    TokenFacts,
    mint,
    narrow,
    read_use,
    verify_token,
)
from hcefs.access.verifier import NonceMemory, Verifier
from hcefs.crypto.signing import RequestProof
from hcefs.errors import Denied, Invalid
from hcefs.ids import AccountId, BlobId, RecordId
from hcefs.integrity import blake3_digest
from tests.unit.access.world import (
    BLOB,
    CHILD,
    CLUSTER,
    DOCTOR,
    GRANT,
    NO_GRANT,
    NODE,
    NOW_MS,
    NURSE,
    OTHER_BLOB,
    OTHER_RECORD,
    OWNER,
    RECORD,
    FakeView,
    account,
    child,
    grant,
    key_of,
    view,
)

THIRD_BLOB = BlobId.of(BLOB.base, 7)
UNKNOWN_RECORD = RecordId(b"u" * 16)
ACTIONS = ("read", "append", "share")
SOME_PURPOSES = ("TREAT", "HRESCH")

# Small domains, so that rights, narrowings and requests meet at their edges.
times = st.integers(NOW_MS - 2_000, NOW_MS + 2_000)
blobs = st.sampled_from([BLOB, OTHER_BLOB, THIRD_BLOB])
records = st.sampled_from([RECORD, RECORD, OTHER_RECORD])
parties = st.sampled_from([OWNER, DOCTOR, NURSE])
ranges = st.sampled_from(
    [(0, 0)] * 6 + [(0, 3), (2, 5), (0, RANGE_END_MAX), (1, RANGE_END_MAX - 1)]
)


def mostly(usual: Any, unusual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The usual value, or in a tenth of cases another: else hardly a request is permitted."""
    return st.integers(0, 9).flatmap(lambda number: unusual if number == 9 else st.just(usual))


NARROWED: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "time": times.map(lambda time_ms: {"not_after_ms": time_ms}),
    "actions": st.sets(st.sampled_from(ACTIONS)).map(lambda found: {"actions": tuple(found)}),
    "record": records.map(lambda record: {"record": record}),
    "blob": blobs.map(lambda blob: {"blob": blob}),
    "range": ranges.map(lambda ends: {"range_start": ends[0], "range_length": ends[1]}),
    "purposes": st.sets(st.sampled_from(SOME_PURPOSES)).map(lambda f: {"purposes": tuple(f)}),
    "presenter": parties.map(lambda party: {"presenter": party}),
}


@st.composite
def narrowings(draw: st.DrawFn) -> Narrowing:
    names = draw(st.lists(st.sampled_from(sorted(NARROWED)), max_size=2, unique=True))
    changes: dict[str, Any] = {}
    for name in names:
        changes |= draw(NARROWED[name])
    return Narrowing(**changes)


USES = {OWNER: NO_GRANT, DOCTOR: GRANT, NURSE: CHILD}


@st.composite
def tokens(draw: st.DrawFn, presenter: AccountId = DOCTOR) -> bytes:
    holder = draw(mostly(presenter, parties))
    used = draw(mostly(USES[holder], st.sampled_from([NO_GRANT, GRANT, CHILD])))
    key = key_of(holder)
    token = mint(key, CLUSTER, holder, used, draw(narrowings()))
    for narrowing in draw(mostly([], st.lists(narrowings(), max_size=2))):
        token = narrow(token, narrowing, key.public_key)
    return token


SCOPED: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "record": records.map(lambda record: {"record": record}),
    "blob": blobs.map(lambda blob: {"blob": blob}),
    "range": st.tuples(blobs, ranges).map(
        lambda found: {
            "blob": found[0],
            "range_start": found[1][0],
            "range_length": found[1][1],
        }
    ),
    "actions": st.integers(0, 7).map(lambda bits: {"actions": Action(bits)}),
    "purposes": st.sampled_from(SOME_PURPOSES).map(lambda code: {"purposes": (code,)}),
    "not before": times.map(lambda time_ms: {"not_before_ms": time_ms}),
    "not after": times.map(lambda time_ms: {"not_after_ms": time_ms}),
    "revoked": st.just({"revoked_height": 5}),
}


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(sorted(SCOPED)), max_size=1)):
        changes |= draw(SCOPED[name])
    return changes


@st.composite
def ledgers(draw: st.DrawFn) -> FakeView:
    given_grant: Grant = grant(**draw(scopes()))
    passed: Grant = child(**draw(scopes()))
    ledger = view(given_grant, passed)
    if draw(st.booleans()):
        ledger.records[OTHER_RECORD] = replace(ledger.records[OTHER_RECORD], owner=DOCTOR)
    return ledger


@dataclass(frozen=True)
class Asked:
    """One batch."""

    ledger: FakeView
    tokens: tuple[bytes, ...]
    groups: tuple[BatchGroup, ...]
    presenter: AccountId
    purpose: str
    action: Action
    now_ms: int
    ended: frozenset[AccountId]


@st.composite
def batches(draw: st.DrawFn) -> Asked:
    presenter = draw(parties)
    presented = draw(st.lists(tokens(presenter), min_size=1, max_size=3))
    groups = draw(
        st.lists(
            st.builds(
                lambda token, record, ids: BatchGroup(token, record, b"".join(ids)),
                st.integers(0, len(presented) - 1),
                st.sampled_from([RECORD] * 5 + [OTHER_RECORD] * 3 + [UNKNOWN_RECORD]),
                st.lists(
                    mostly(BLOB, blobs) | blobs | mostly(BLOB, st.just(BlobId.zero())),
                    min_size=1,
                    max_size=3,
                ),
            ),
            min_size=1,
            max_size=4,
        )
    )
    return Asked(
        draw(ledgers()),
        tuple(presented),
        tuple(groups),
        presenter,
        draw(mostly("TREAT", st.just("HRESCH"))),
        draw(mostly(Action.READ, st.sampled_from([Action.APPEND, Action.SHARE]))),
        draw(mostly(NOW_MS, times)),
        frozenset(draw(mostly(set(), st.sets(parties, max_size=1)))),
    )


def proof_of(asked: Asked, token_hash: bytes, record: RecordId, blob: BlobId, n: int) -> bytes:
    body = RequestProof(
        CLUSTER, token_hash, "get-many", record, blob, 0, 0, asked.purpose, NODE,
        n.to_bytes(16, "big"), asked.now_ms, asked.presenter, 1,
    )  # fmt: skip
    return body.signed(key_of(asked.presenter)).encode()


def singly(asked: Asked, verifier: Verifier) -> list[tuple[RecordId, BlobId, str]]:
    """What each blob of each group gets as a request of its own; an empty reason permits."""
    answers: list[tuple[RecordId, BlobId, str]] = []
    for group in asked.groups:
        token = asked.tokens[group.token]
        for blob in group.ids():
            proof = proof_of(asked, blake3_digest(token), group.record, blob, len(answers) + 1)
            presented = verifier.present(
                token,
                proof,
                method="get-many",
                record=group.record,
                blob=blob or None,
                range_start=0,
                range_length=0,
                gateway=NODE,
                now_ms=asked.now_ms,
                remember_nonce=False,
            )
            with ending(asked):
                try:
                    verifier.authorize(presented, asked.action, asked.now_ms)
                except Denied as error:
                    answers.append((group.record, blob, error.reason))
                else:
                    answers.append((group.record, blob, ""))
    return answers


class ending:  # noqa: N801 - reads as a verb
    """Some accounts end between presenting and deciding, as by a block that arrives then."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def __enter__(self) -> None:
        self._set(False)

    def __exit__(self, *_: object) -> None:
        self._set(True)

    def _set(self, active: bool) -> None:
        for name in self._asked.ended:
            self._asked.ledger.accounts[name] = account(name, active=active)


@settings(max_examples=250, deadline=None)
@given(asked=batches())
def test_a_batch_is_decided_as_its_blobs_would_be_alone(asked: Asked) -> None:
    verifier = Verifier(CLUSTER, asked.ledger, NODE, TokenCache(), NonceMemory())
    expected = singly(asked, verifier)
    permitted = {(record, blob) for record, blob, reason in expected if not reason}
    denied: dict[tuple[RecordId, BlobId], set[str]] = {}
    for record, blob, reason in expected:
        if reason:
            denied.setdefault((record, blob), set()).add(reason)

    digest = batch_digest(asked.tokens, asked.groups)
    batch = present_batch(
        verifier,
        asked.tokens,
        proof_of(asked, digest, RecordId.zero(), BlobId.zero(), 0),
        asked.groups,
        method="get-many",
        gateway=NODE,
        now_ms=asked.now_ms,
        remember_nonce=True,
    )
    refused: Refused = {}
    nothing = ""
    with ending(asked):
        whole = whole_records(verifier, batch, asked.action, asked.now_ms)
        try:
            refused = authorize_batch(verifier, batch, asked.action, asked.now_ms)
        except Denied as error:
            nothing = error.reason
    if nothing:
        event("all denied")
        assert not permitted
        assert nothing in set(itertools.chain(*denied.values()))
        return
    event("some denied" if refused else "all permitted")
    assert permitted
    alone = replace(
        asked, groups=tuple(replace(g, blobs=bytes(BlobId.zero())) for g in asked.groups)
    )
    assert whole == {record for record, _, reason in singly(alone, verifier) if not reason}
    # Served is what no group's right denies; refused is the rest, each for a true reason.
    assert set(refused) == set(denied)
    for name, refusal in refused.items():
        assert isinstance(refusal, Denied)
        assert refusal.reason in denied[name]


@settings(max_examples=150, deadline=None)
@given(asked=batches())
def test_who_may_have_the_whole_record_may_have_each_blob(asked: Asked) -> None:
    """What the order of a batch's decisions rests on."""
    verifier = Verifier(CLUSTER, asked.ledger, NODE, TokenCache(), NonceMemory())
    for group in asked.groups:
        whole = replace(asked, groups=(replace(group, blobs=bytes(BlobId.zero())),))
        ((_, _, refusal),) = singly(whole, verifier)
        if not refusal:
            assert {
                reason for _, _, reason in singly(replace(asked, groups=(group,)), verifier)
            } == {""}


@settings(max_examples=150, deadline=None)
@given(token=tokens(), now_ms=times, party=parties, data=st.data())
def test_a_token_answers_alike_what_it_cannot_tell_apart(
    token: bytes, now_ms: int, party: AccountId, data: st.DataObject
) -> None:
    verified = verify_token(token, key_of(read_use(token).account).public_key)
    action = data.draw(st.sampled_from(sorted(ACTION_NAMES.values())))
    purpose = data.draw(st.sampled_from(SOME_PURPOSES))
    answers: dict[tuple[bytes, bytes, bool], bool] = {}
    for record in (RECORD, OTHER_RECORD, UNKNOWN_RECORD):
        for blob in (None, BLOB, OTHER_BLOB, THIRD_BLOB, BlobId(b"?" * 18)):
            facts = TokenFacts(now_ms, action, record, blob, 0, 0, purpose, party)
            try:
                verified.authorize(facts)
            except Denied:
                answer = False
            else:
                answer = True
            assert answers.setdefault(verified.apart(record, blob), answer) == answer
    assert len(answers) <= 2 * (len(verified.named) + 1) ** 2


# The digest.

small_tokens = st.lists(st.binary(max_size=3), min_size=1, max_size=3)
small_groups = st.lists(
    st.builds(
        BatchGroup,
        st.integers(0, 2),
        st.sampled_from([RECORD, OTHER_RECORD, RecordId(bytes(16)), RecordId(b"\x01" * 16)]),
        st.lists(
            st.sampled_from([bytes(18), b"\x01" * 18, bytes(BLOB)]), min_size=1, max_size=3
        ).map(b"".join),
    ),
    min_size=1,
    max_size=4,
)
Batch = tuple[list[bytes], list[BatchGroup]]


def encoding_of(batch: Batch) -> bytes:
    """What is hashed, written down a second time from docs/FORMATS.md."""
    given_tokens, groups = batch
    out = b"hcefs/v1/batch\x00" + len(given_tokens).to_bytes(2, "big")
    out += b"".join(blake3(token).digest() for token in given_tokens)
    for group in groups:
        out += group.token.to_bytes(2, "big") + bytes(group.record)
        out += (len(group.blobs) // 18).to_bytes(4, "big") + group.blobs
    return out


def parsed(data: bytes) -> tuple[list[bytes], list[BatchGroup]]:
    """The inverse: there is one, so no two batches share an input of the hash."""
    assert data.startswith(b"hcefs/v1/batch\x00")
    at = 15
    count = int.from_bytes(data[at : at + 2], "big")
    at += 2
    hashes = [data[at + 32 * i : at + 32 * (i + 1)] for i in range(count)]
    at += 32 * count
    groups = []
    while at < len(data):
        token, record = int.from_bytes(data[at : at + 2], "big"), data[at + 2 : at + 18]
        size = 18 * int.from_bytes(data[at + 18 : at + 22], "big")
        groups.append(BatchGroup(token, RecordId(record), data[at + 22 : at + 22 + size]))
        at += 22 + size
    assert at == len(data)
    return hashes, groups


@settings(max_examples=200, deadline=None)
@given(given_tokens=small_tokens, groups=small_groups)
def test_the_digest_is_of_an_encoding_that_can_be_read_back(
    given_tokens: list[bytes], groups: list[BatchGroup]
) -> None:
    encoded = encoding_of((given_tokens, groups))
    assert batch_digest(given_tokens, groups) == blake3(encoded).digest()
    assert parsed(encoded) == ([blake3(token).digest() for token in given_tokens], groups)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Batch, Batch]:
    """Two batches: unrelated ones, or one and a small rearrangement of it."""
    first = (draw(small_tokens), draw(small_groups))
    if draw(st.booleans()):
        return first, (draw(small_tokens), draw(small_groups))
    given_tokens, groups = list(first[0]), list(first[1])
    at = draw(st.integers(0, len(groups) - 1))
    group = groups[at]
    match draw(st.integers(0, 6)):
        case 0:  # a group cut in two
            half = 18 * (group.count // 2)
            groups[at : at + 1] = [
                replace(group, blobs=part)
                for part in (group.blobs[:half], group.blobs[half:])
                if part
            ]
        case 1:
            groups.reverse()
        case 2:
            given_tokens.reverse()
        case 3:
            groups[at] = replace(group, token=draw(st.integers(0, 2)))
        case 4:
            groups[at] = replace(group, record=RecordId(group.blobs[:16]))
        case 5:
            groups[at] = replace(group, blobs=group.blobs[18:] or bytes(group.record) + bytes(2))
        case 6:
            given_tokens.append(b"")
    return first, (given_tokens, groups)


@settings(max_examples=150, deadline=None)
@given(pair=pairs())
def test_two_batches_have_one_digest_only_if_they_are_one(pair: tuple[Batch, Batch]) -> None:
    first, second = pair
    assert (batch_digest(*first) == batch_digest(*second)) == (first == second)


@settings(max_examples=200, deadline=None)
@given(
    given_tokens=st.lists(st.binary(max_size=3), max_size=3),
    groups=st.lists(
        st.builds(BatchGroup, st.integers(-1, 3), st.just(RECORD), st.binary(max_size=40)),
        max_size=3,
    ),
)
def test_what_passes_the_check_is_digested_without_loss(
    given_tokens: list[bytes], groups: list[BatchGroup]
) -> None:
    """Blob ids that are not whole would be: two lengths could have one count."""
    try:
        check_batch(given_tokens, groups)
    except Invalid:
        return
    assert parsed(encoding_of((given_tokens, groups)))[1] == groups
    assert all(len(list(group.ids())) == group.count > 0 for group in groups)
