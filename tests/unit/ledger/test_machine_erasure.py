"""Retention, legal holds and erasure under protocol version 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hcefs.access.facts import AccountKind, Action
from hcefs.errors import Conflict, Denied, Invalid, NotFound
from hcefs.ids import GrantId, HoldId, RecordId
from hcefs.ledger.outcome import RecordErased
from hcefs.ledger.rules_erasure import HOLDS_MAX
from hcefs.ledger.state import HEIGHTS_SOUGHT
from hcefs.ledger.transactions import DeactivateAccount, Transaction, Upgrade
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention
from hcefs.ledger.transactions_keys import RotateGeneration
from tests.unit.ledger.scenario import (
    DAY_MS,
    START_MS,
    Scenario,
    grant_id,
    public_key,
    record_id,
    seed,
)

R = record_id("r")
ORDER = seed("order")
OPERATORS = ("o1", "o2")
ZERO = GrantId.zero()


def retention(until: int, *, standing: GrantId = ZERO, record: RecordId = R) -> SetRetention:
    return SetRetention(record, until, "DE-BY", standing)


def hold(name: str = "h", *, standing: GrantId = ZERO, record: RecordId = R) -> PlaceHold:
    return PlaceHold(record, HoldId(seed("hold " + name)[:16]), seed("case"), standing)


def lift(name: str = "h") -> LiftHold:
    return LiftHold(R, HoldId(seed("hold " + name)[:16]))


def by_owner() -> EraseRecord:
    return EraseRecord(R, b"")


def by_order() -> EraseRecord:
    return EraseRecord(R, ORDER)


def upgraded() -> Scenario:
    """Version 4, the usual parties, and a second institution with a doctor of its own."""
    world = Scenario()
    for version in (2, 3, 4):
        world.submit(Upgrade(version, world.height + 2), *OPERATORS)
        world.register(f"spacer-{version}", AccountKind.INSTITUTION, *OPERATORS)
    world.populate()
    world.register("lab", AccountKind.INSTITUTION, *OPERATORS)
    world.register("lab-doc", AccountKind.PRACTITIONER, "lab")
    return world


@pytest.fixture
def world() -> Scenario:
    return upgraded()


@pytest.fixture
def filled(world: Scenario) -> Scenario:
    """The record has an entry and must be kept for a day."""
    world.submit(world.append("p", world.entry("c")), "pat")
    world.submit(retention(world.time_ms + DAY_MS), "clinic")
    return world


def pass_time(world: Scenario, ms: int = 2 * DAY_MS) -> None:
    world.time_ms += ms


# --- versions -------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [retention(START_MS), hold(), lift(), by_owner()])
def test_before_version_4_there_is_none_of_it(made: Transaction) -> None:
    world = Scenario().populate()
    refusal = world.refusal(made, "pat")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "unsupported"


# --- static checks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (retention(1, record=RecordId.zero()), "bad-id"),
        (retention(0), "bad-times"),
        (retention(1 << 60), "bad-times"),
        (replace(retention(1), jurisdiction="de"), "bad-jurisdiction"),
        (replace(retention(1), jurisdiction="DE-"), "bad-jurisdiction"),
        (replace(retention(1), jurisdiction=""), "bad-jurisdiction"),
        (replace(hold(), hold=HoldId.zero()), "bad-id"),
        (replace(hold(), case_digest=b"short"), "bad-digest"),
        (replace(lift(), hold=HoldId.zero()), "bad-id"),
        (replace(by_order(), order_digest=b"short"), "bad-digest"),
        (EraseRecord(RecordId.zero(), b""), "bad-id"),
    ],
)
def test_what_is_malformed_is_refused(world: Scenario, made: Transaction, reason: str) -> None:
    assert world.refusal(made, "pat").reason == reason


# --- retention ------------------------------------------------------------------------------


def test_the_owner_of_an_empty_record_may_set_any_date(world: Scenario) -> None:
    for until in (START_MS + 9 * DAY_MS, START_MS + DAY_MS):
        world.submit(retention(until), "pat")
        found = world.view.retention(R)
        assert found is not None
        assert (found.retain_until_ms, found.set_by) == (until, world.account("pat"))


def test_the_date_of_a_record_with_content_only_moves_on(filled: Scenario) -> None:
    date = filled.view.retention(R)
    assert date is not None
    for names in (("clinic",), OPERATORS):
        refusal = filled.refusal(retention(date.retain_until_ms - 1), *names)
        assert isinstance(refusal, Conflict)
        assert refusal.reason == "retention-shortened"
    filled.submit(retention(date.retain_until_ms), "clinic")
    assert filled.view.retention(R) == date
    filled.submit(retention(date.retain_until_ms + 1), *OPERATORS)
    later = filled.view.retention(R)
    assert later is not None
    assert later.retain_until_ms == date.retain_until_ms + 1
    assert not later.set_by


def test_the_owner_does_not_set_the_date_of_a_record_with_content(filled: Scenario) -> None:
    refusal = filled.refusal(retention(START_MS + 9 * DAY_MS), "pat")
    assert isinstance(refusal, Denied)
    assert refusal.reason == "retention-not-yours"


@pytest.mark.parametrize("make", [lambda s: retention(START_MS + DAY_MS, standing=s),
                                  lambda s: hold(standing=s)])  # fmt: skip
def test_an_institution_needs_standing(
    world: Scenario, make: Callable[[GrantId], Transaction]
) -> None:
    refusal = world.refusal(make(ZERO), "lab")
    assert isinstance(refusal, Denied)
    assert refusal.reason == "no-standing"
    assert isinstance(world.refusal(make(grant_id("none")), "lab"), NotFound)
    world.submit(world.grant("reads", "lab-doc"), "pat")
    assert world.refusal(make(grant_id("reads")), "lab").reason == "no-standing"
    world.submit(world.grant("writes", "lab-doc", Action.APPEND), "pat")
    assert world.refusal(make(grant_id("writes")), "clinic").reason == "no-standing"
    world.submit(world.revocation("writes"), "pat")
    world.submit(make(grant_id("writes")), "lab")


def test_others_have_no_part_in_it(filled: Scenario) -> None:
    for made in (retention(START_MS + 9 * DAY_MS), hold()):
        assert filled.refusal(made, "doc").reason == "unexpected-signer"
        assert filled.refusal(made, "o1").reason == "below-threshold"
        assert filled.refusal(made, "clinic", "o1").reason == "unexpected-signer"
    assert filled.refusal(by_owner(), "doc").reason == "not-the-owner"
    assert filled.refusal(by_owner(), "clinic").reason == "not-the-owner"
    assert filled.refusal(by_order(), "o1").reason == "below-threshold"


# --- holds ----------------------------------------------------------------------------------


def test_several_holds_stand_at_once_and_each_is_lifted_alone(filled: Scenario) -> None:
    filled.submit(hold("one"), "clinic")
    filled.submit(hold("two"), *OPERATORS)
    pass_time(filled)
    filled.submit(lift("one"), "clinic")
    assert [each.stands for each in sorted(filled.view.holds(R), key=lambda h: h.height)] == [
        False, True,
    ]  # fmt: skip
    assert filled.refusal(by_owner(), "pat").reason == "on-hold"
    assert filled.refusal(by_order(), *OPERATORS).reason == "on-hold"
    filled.submit(lift("two"), *OPERATORS)
    filled.submit(by_owner(), "pat")


def test_a_hold_is_lifted_by_its_placer_or_the_operators(filled: Scenario) -> None:
    filled.submit(hold("clinic's"), "clinic")
    filled.submit(hold("operators'"), *OPERATORS)
    for names in (("pat",), ("lab",), ("doc",)):
        assert filled.refusal(lift("clinic's"), *names).reason == "not-the-placer"
    assert filled.refusal(lift("operators'"), "clinic").reason == "not-the-placer"
    assert filled.refusal(lift("clinic's"), "o1").reason == "below-threshold"
    filled.submit(lift("clinic's"), *OPERATORS)
    assert filled.refusal(lift("clinic's"), "clinic").reason == "already-lifted"
    assert isinstance(filled.refusal(lift("none"), "clinic"), NotFound)


def test_the_id_of_a_hold_is_used_once(filled: Scenario) -> None:
    """Otherwise whoever kept the signed transaction could place a lifted hold again."""
    filled.submit(hold(), "clinic")
    assert filled.refusal(hold(), "clinic").reason == "hold-exists"
    filled.submit(lift(), "clinic")
    assert filled.refusal(hold(), "clinic").reason == "hold-exists"


def test_institutions_cannot_fill_a_record_with_holds(filled: Scenario) -> None:
    made = [filled.sign(hold(str(n)), "clinic").encode() for n in range(HOLDS_MAX)]
    filled.commit(made)
    assert filled.refusal(hold("more"), "clinic").reason == "too-many-holds"
    filled.submit(hold("more"), *OPERATORS)


# --- erasure --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "names"), [(by_owner(), ("pat",)), (by_order(), OPERATORS)], ids=["owner", "order"]
)
def test_nobody_erases_before_the_date(
    filled: Scenario, made: EraseRecord, names: tuple[str, ...]
) -> None:
    filled.time_ms += DAY_MS - 1
    assert filled.refusal(made, *names).reason == "retained"
    filled.time_ms += 1
    outcome = filled.submit(made, *names)
    erasure = filled.view.erasure(R)
    assert erasure is not None
    assert outcome.events == (RecordErased(erasure),)
    assert (erasure.height, erasure.time_ms) == (filled.height, filled.time_ms)
    assert erasure.erased_by == (filled.account("pat") if names == ("pat",) else bytes(16))
    assert erasure.transaction == filled.sign(made, *names).hash()
    assert filled.view.erased_after(0, RecordId.zero(), 9) == [erasure]
    assert filled.view.erased_after(erasure.height, R, 9) == []


def test_a_record_without_a_date(world: Scenario) -> None:
    world.submit(world.append("p", world.entry("c")), "pat")
    assert world.refusal(by_owner(), "pat").reason == "no-retention"
    assert world.refusal(by_owner(), *OPERATORS).reason == "no-order"
    assert world.refusal(by_order(), "pat").reason == "unexpected-order"
    world.submit(by_order(), *OPERATORS)


def test_an_empty_record_needs_no_date(world: Scenario) -> None:
    world.submit(by_owner(), "pat")
    assert world.view.erasure(R) is not None


@pytest.mark.parametrize("first", ["hold", "erase"])
def test_of_a_hold_and_an_erasure_the_lower_place_wins(filled: Scenario, first: str) -> None:
    """In one block even; and the log shows which it was."""
    pass_time(filled)
    moves: dict[str, tuple[Transaction, str]] = {
        "hold": (hold(), "clinic"),
        "erase": (by_owner(), "pat"),
    }
    second = "erase" if first == "hold" else "hold"
    before = filled.height
    filled.submit(*moves[first])
    refusal = filled.refusal(*moves[second])
    assert isinstance(refusal, Conflict)
    assert refusal.reason == ("on-hold" if first == "hold" else "erased")
    assert str(filled.height) in refusal.message
    both = [filled.sign(*moves[name]).encode() for name in (second, second)]
    with pytest.raises(Conflict):
        filled.next_block(both)
    erasure, holds = filled.view.erasure(R), filled.view.holds(R)
    assert (erasure is None, len(holds)) == ((True, 1) if first == "hold" else (False, 0))
    assert (holds[0].height if erasure is None else erasure.height) == before + 1


def test_within_one_block_the_order_decides(filled: Scenario) -> None:
    pass_time(filled)
    erase, place = filled.sign(by_owner(), "pat"), filled.sign(hold(), "clinic")
    for both, reason in (((erase, place), "erased"), ((place, erase), "on-hold")):
        with pytest.raises(Conflict) as caught:
            filled.next_block([signed.encode() for signed in both])
        assert caught.value.reason == reason


def test_after_an_erasure_everything_below_is_dead(filled: Scenario) -> None:
    filled.submit(filled.grant("g", "doc", Action.READ | Action.APPEND | Action.SHARE), "pat")
    pass_time(filled)
    filled.submit(by_owner(), "pat")
    cases: list[tuple[Transaction, tuple[str, ...]]] = [
        (filled.append("q", filled.entry("d")), ("pat",)),
        (filled.append("q", filled.entry("d", grant="g")), ("doc",)),
        (filled.grant("h", "doc2"), ("pat",)),
        (filled.grant("h", "doc2", parent="g"), ("doc",)),
        (filled.revocation("g", "next"), ("pat",)),
        (RotateGeneration(R, 1, public_key("next")), ("pat",)),
        (retention(START_MS + 99 * DAY_MS), ("clinic",)),
        (hold("late"), OPERATORS),
        (by_owner(), ("pat",)),
        (by_order(), OPERATORS),
    ]
    for made, names in cases:
        assert filled.refusal(made, *names).reason == "erased", made


def test_the_owner_of_another_record_is_not_touched(filled: Scenario) -> None:
    filled.submit(filled.opening("s", "pat"), "pat")
    pass_time(filled)
    filled.submit(by_owner(), "pat")
    filled.submit(filled.append("q", filled.entry("d", record="s")), "pat")


def test_a_record_of_an_inactive_owner_is_erased_by_the_operators(filled: Scenario) -> None:
    filled.submit(DeactivateAccount(filled.account("pat")), "clinic")
    pass_time(filled)
    assert filled.refusal(by_owner(), "pat").reason == "inactive-account"
    filled.submit(by_order(), *OPERATORS)


def test_erasures_come_in_the_order_of_the_ledger(world: Scenario) -> None:
    names = ["r", "s", "t"]
    for name in names[1:]:
        world.submit(world.opening(name, "pat"), "pat")
    made = [world.sign(EraseRecord(record_id(name), b""), "pat").encode() for name in names[1:]]
    world.submit(by_owner(), "pat")
    world.commit(made)
    found = world.view.erased_after(0, RecordId.zero(), 9)
    assert [(each.height, each.record) for each in found] == sorted(
        (each.height, each.record) for each in found
    )
    assert len(found) == len(names)
    first = found[0]
    for blocks in (0, HEIGHTS_SOUGHT + 2):  # sought by height, then among all
        for _ in range(blocks):
            world.commit([])
        assert world.view.erased_after(first.height, first.record, 1) == found[1:2]
        assert world.view.erased_after(first.height, first.record, 9) == found[1:]
