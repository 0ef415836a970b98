"""Narrowing never widens, in tokens and in chains of grants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs.access.facts import PURPOSES, Action, Grant
from hcefs.access.rights import CHAIN_DEPTH_MAX, AccessRequest, decide
from hcefs.access.token import (
    Narrowing,
    TokenFacts,
    VerifiedToken,
    mint,
    narrow,
    read_use,
    verify_token,
)
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Denied, Invalid
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId
from tests.unit.access.world import (
    BLOB,
    CLUSTER,
    DOCTOR,
    DOCTORS_USE,
    GRANT,
    NOW_MS,
    NURSE,
    OTHER_BLOB,
    OTHER_RECORD,
    OWNER,
    RECORD,
    account,
    child,
    grant,
    key_of,
    request,
    view,
)

KEY = key_of(DOCTOR)
ACTIONS = ("read", "append", "share")
SOME_PURPOSES = ("TREAT", "HRESCH", "HPAYMT")

# Small domains, so that narrowings and requests meet at their edges.
times = st.integers(NOW_MS - 3_000, NOW_MS + 3_000)
offsets = st.integers(0, 4)
lengths = st.integers(0, 4)
blobs = st.sampled_from([BLOB, OTHER_BLOB])
records = st.sampled_from([RECORD, OTHER_RECORD])
presenters = st.sampled_from([DOCTOR, NURSE])


@st.composite
def narrowings(draw: st.DrawFn) -> Narrowing:
    length = draw(lengths)
    return Narrowing(
        not_after_ms=draw(st.none() | times),
        actions=tuple(draw(st.sets(st.sampled_from(ACTIONS)))),
        record=draw(st.none() | records),
        blob=draw(st.none() | blobs),
        range_start=draw(offsets) if length else 0,
        range_length=length,
        purposes=tuple(draw(st.sets(st.sampled_from(SOME_PURPOSES)))),
        presenter=draw(st.none() | presenters),
    )


@st.composite
def facts(draw: st.DrawFn) -> TokenFacts:
    blob = draw(st.none() | blobs)
    return TokenFacts(
        now_ms=draw(times),
        action=draw(st.sampled_from(ACTIONS)),
        record=draw(records),
        blob=blob,
        range_start=draw(offsets) if blob else 0,
        range_length=draw(lengths) if blob else 0,
        purpose=draw(st.sampled_from(SOME_PURPOSES)),
        presenter=draw(presenters),
    )


def permits(token: bytes, asked: TokenFacts) -> bool:
    try:
        verify_token(token, KEY.public_key).authorize(asked)
    except Denied:
        return False
    return True


def meant(narrowing: Narrowing, asked: TokenFacts) -> bool:
    """What a narrowing means, written a second time and without Biscuit."""
    if (
        narrowing.not_after_ms is not None
        and asked.now_ms // 1000 >= narrowing.not_after_ms // 1000
    ):
        return False
    if narrowing.actions and asked.action not in narrowing.actions:
        return False
    if narrowing.record not in (None, asked.record) or narrowing.blob not in (None, asked.blob):
        return False
    if narrowing.purposes and asked.purpose not in narrowing.purposes:
        return False
    if narrowing.presenter not in (None, asked.presenter):
        return False
    if not narrowing.range_length:
        return True
    wanted = range(asked.range_start, asked.range_start + asked.range_length)
    allowed = range(narrowing.range_start, narrowing.range_start + narrowing.range_length)
    return asked.blob is not None and bool(wanted) and all(byte in allowed for byte in wanted)


@settings(max_examples=50, deadline=None)
@given(first=narrowings(), later=st.lists(narrowings(), max_size=2), asked=facts())
def test_each_block_takes_away_and_none_gives_back(
    first: Narrowing, later: list[Narrowing], asked: TokenFacts
) -> None:
    token = mint(KEY, CLUSTER, DOCTOR, GRANT, first)
    blocks = [first]
    assert permits(token, asked) == meant(first, asked)
    for narrowing in later:
        token = narrow(token, narrowing, KEY.public_key)
        blocks.append(narrowing)
        assert read_use(token) == DOCTORS_USE
        assert permits(token, asked) == all(meant(block, asked) for block in blocks)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_crash_the_reader(garbage: bytes) -> None:
    try:
        read_use(garbage)
    except Invalid:
        return
    raise AssertionError("garbage was read as a token")


@settings(max_examples=50, deadline=None)
@given(position=st.integers(0), change=st.integers(1, 255))
def test_no_changed_token_passes(position: int, change: int) -> None:
    token = bytearray(
        narrow(mint(KEY, CLUSTER, DOCTOR, GRANT), Narrowing(blob=BLOB), KEY.public_key)
    )
    token[position % len(token)] ^= change
    try:
        verify_token(bytes(token), KEY.public_key)
    except (Invalid, Denied):
        return
    raise AssertionError("a changed token was accepted")


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    blob = draw(st.none() | blobs)
    length = draw(lengths) if blob else 0
    return {
        "record": draw(records),
        "blob": blob,
        "range_start": draw(offsets) if length else 0,
        "range_length": length,
        "actions": Action(draw(st.integers(0, 7))),
        "purposes": tuple(sorted(draw(st.sets(st.sampled_from(SOME_PURPOSES))))),
        "not_before_ms": draw(times),
        "not_after_ms": draw(times),
        "revoked_height": draw(st.sampled_from([0, 0, 0, 5])),
    }


@st.composite
def requests(draw: st.DrawFn) -> AccessRequest:
    asked = draw(facts())
    return request(
        action=draw(st.sampled_from(list(Action))),
        record=asked.record,
        blob=asked.blob,
        range_start=asked.range_start,
        range_length=asked.range_length,
        purpose=asked.purpose,
    )


def as_party(asked: AccessRequest, given_grant: Grant) -> AccessRequest:
    party = given_grant.grantee
    return replace(asked, presenter=party, holder=party, grant=given_grant.grant)


@settings(max_examples=50, deadline=None)
@given(
    parent_scope=scopes(),
    child_scope=scopes(),
    asked=requests(),
    now_ms=times,
    own=st.booleans(),
)
def test_a_grant_never_reaches_further_than_its_parent(
    parent_scope: dict[str, Any],
    child_scope: dict[str, Any],
    asked: AccessRequest,
    now_ms: int,
    own: bool,
) -> None:
    parent = grant(**(parent_scope if own else {}))
    passed = child(**child_scope)
    ledger = view(parent, passed)
    if decide(ledger, as_party(asked, passed), now_ms).permitted:
        assert decide(ledger, as_party(asked, parent), now_ms).permitted
        assert parent.actions & Action.SHARE


@settings(max_examples=50, deadline=None)
@given(scope=scopes(), asked=requests(), now_ms=times)
def test_a_grant_never_reaches_further_than_the_owner(
    scope: dict[str, Any], asked: AccessRequest, now_ms: int
) -> None:
    given_grant = grant(**scope)
    ledger = view(given_grant)
    if decide(ledger, as_party(asked, given_grant), now_ms).permitted:
        owned = replace(asked, presenter=OWNER, holder=OWNER, grant=request().grant.zero())
        assert decide(ledger, owned, now_ms).permitted
    assert asked.purpose in PURPOSES


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(scopes(), min_size=2, max_size=CHAIN_DEPTH_MAX + 1),
    same=st.integers(0, CHAIN_DEPTH_MAX),
    asked=requests(),
    now_ms=times,
)
def test_a_chain_never_reaches_further_than_any_link_of_it(
    widths: list[dict[str, Any]], same: int, asked: AccessRequest, now_ms: int
) -> None:
    """Whatever a ledger holds, also what its rules would refuse to record."""
    people = [OWNER, *(AccountId(bytes([n + 1]) * 16) for n in range(len(widths)))]
    links: list[Grant] = []
    for number, scope in enumerate(widths):
        # Up to ``same`` all links are as wide as can be, so that long chains do permit.
        wide = (
            {"actions": Action(7), "purposes": tuple(sorted(PURPOSES))} if number < same else scope
        )
        links.append(
            grant(
                grant=GrantId(bytes([number + 1]) * 16),
                granter=people[number],
                grantee=people[number + 1],
                parent=links[-1].grant if links else None,
                **wide,
            )
        )
    ledger = view(*links)
    ledger.accounts |= {party: account(party) for party in people}
    answers = [decide(ledger, as_party(asked, link), now_ms).permitted for link in links]
    # From the top down a permission, once lost, is never found again.
    assert answers == sorted(answers, reverse=True)
    assert not any(answers[CHAIN_DEPTH_MAX:])
    for link, permitted in zip(links[1:], answers[1:], strict=True):
        if permitted:
            above = ledger.grants[link.parent] if link.parent else None
            assert above is not None
            assert above.actions & Action.SHARE


# -- what passed once


@settings(deadline=None)
@given(data=st.data())
def test_a_token_that_was_asked_before_answers_as_a_fresh_one(data: st.DataObject) -> None:
    """What a token remembers never lets anything pass that its checks refuse."""
    key = SigningKey.from_seed(b"k" * 32)
    records = [RecordId(bytes([n]) * 16) for n in range(2)]
    blobs = [BlobId.of(bytes([n]) * 16, n) for n in range(2)]
    people = [AccountId(bytes([n]) * 16) for n in range(2)]
    narrowing = Narrowing(
        not_after_ms=data.draw(st.sampled_from([None, 5_000, 5_999, 9_000])),
        actions=data.draw(st.sampled_from([(), ("read",), ("read", "append")])),
        record=data.draw(st.sampled_from([None, *records])),
        blob=data.draw(st.sampled_from([None, *blobs])),
        range_length=data.draw(st.sampled_from([0, 10])),
        purposes=data.draw(st.sampled_from([(), ("TREAT",)])),
        presenter=data.draw(st.sampled_from([None, *people])),
    )
    token = mint(key, ClusterId(bytes(16)), people[0], GrantId(bytes(16)), narrowing)
    later = data.draw(st.sampled_from([None, Narrowing(not_after_ms=4_000)]))
    if later is not None:
        token = narrow(token, later, key.public_key)
    used = verify_token(token, key.public_key)
    for _ in range(12):
        facts = TokenFacts(
            now_ms=data.draw(st.sampled_from([1_000, 3_999, 4_000, 4_999, 5_000, 8_999, 9_000])),
            action=data.draw(st.sampled_from(["read", "append"])),
            record=data.draw(st.sampled_from(records)),
            blob=data.draw(st.sampled_from([None, *blobs])),
            range_start=0,
            range_length=data.draw(st.sampled_from([0, 5, 10, 11])),
            purpose=data.draw(st.sampled_from(["TREAT", "HRESCH"])),
            presenter=data.draw(st.sampled_from(people)),
        )
        fresh = verify_token(token, key.public_key)
        assert _passes(used, facts) == _passes(fresh, facts)


def _passes(token: VerifiedToken, facts: TokenFacts) -> bool:
    try:
        token.authorize(facts)
    except Denied:
        return False
    return True
