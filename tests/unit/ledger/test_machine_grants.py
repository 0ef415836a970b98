"""Giving grants, never wider than the parent, and revoking them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import AccountKind, Action
from hcefs.errors import Conflict, Denied, HcefsError, Invalid, NotFound
from hcefs.ledger.machine import GenerationAdded, GrantGiven, GrantRevoked
from hcefs.ledger.state import record_key
from hcefs.ledger.transactions import DeactivateAccount, GiveGrant
from tests.unit.ledger.scenario import (
    START_MS,
    Scenario,
    blob_id,
    grant_id,
    public_key,
    record_id,
)

READ_SHARE = Action.READ | Action.SHARE


@pytest.fixture
def world() -> Scenario:
    return Scenario().populate()


def test_give(world: Scenario) -> None:
    transaction = replace(
        world.grant("g", "doc", READ_SHARE), blob=blob_id("b"), range_start=3, range_length=4
    )
    outcome = world.submit(transaction, "pat")
    grant = world.granted("g")
    assert outcome.events == (GrantGiven(grant),)
    assert (grant.granter, grant.grantee) == (world.account("pat"), world.account("doc"))
    assert (grant.blob, grant.range_start, grant.range_length) == (blob_id("b"), 3, 4)
    assert (grant.height, grant.revoked_height) == (world.height, 0)
    assert grant.parent is None


@pytest.mark.parametrize(
    ("change", "signers", "error", "reason"),
    [
        ({}, ("doc",), Denied, "not-the-owner"),
        ({}, ("pat", "doc"), Invalid, "one-signature"),
        ({"grant": grant_id("old")}, ("pat",), Conflict, "grant-exists"),
        ({"record": record_id("none")}, ("pat",), NotFound, "unknown-record"),
        ({"grantee": None}, ("pat",), NotFound, "unknown-grantee"),
        ({"not_after_ms": START_MS, "not_before_ms": 0}, ("pat",), Invalid, "bad-times"),
        ({"parent": grant_id("none")}, ("doc",), NotFound, "unknown-grant"),
        ({"parent": grant_id("old")}, ("doc2",), Denied, "not-the-grantee"),
        ({"parent": grant_id("old")}, ("pat",), Denied, "not-the-grantee"),
    ],
)
def test_give_refused(
    world: Scenario,
    change: dict[str, Any],
    signers: tuple[str, ...],
    error: type[HcefsError],
    reason: str,
) -> None:
    world.submit(world.grant("old", "doc", READ_SHARE), "pat")
    if "grantee" in change:
        change = {"grantee": world.account("stranger")}
    transaction = replace(world.grant("g", "doc2"), **change)
    refusal = world.refusal(transaction, *signers)
    assert isinstance(refusal, error)
    assert refusal.reason == reason


def test_inactive_grantee(world: Scenario) -> None:
    world.submit(DeactivateAccount(world.account("doc")), "clinic")
    refusal = world.refusal(world.grant("g", "doc"), "pat")
    assert isinstance(refusal, Denied)
    assert refusal.reason == "inactive-grantee"


def parent_grant(world: Scenario) -> GiveGrant:
    return replace(
        world.grant("parent", "doc", READ_SHARE),
        blob=blob_id("b"),
        range_start=100,
        range_length=50,
    )


def test_a_child_may_be_as_wide_as_its_parent(world: Scenario) -> None:
    parent = parent_grant(world)
    world.submit(parent, "pat")
    child = replace(
        parent, grant=grant_id("child"), grantee=world.account("doc2"), parent=parent.grant
    )
    world.submit(child, "doc")
    assert world.granted("child").granter == world.account("doc")
    assert world.granted("child").parent == parent.grant


@pytest.mark.parametrize(
    "change",
    [
        {"blob": None, "range_start": 0, "range_length": 0},
        {"blob": blob_id("other")},
        {"range_start": 0, "range_length": 0},
        {"range_start": 99},
        {"range_length": 51},
        {"range_start": 101},
        {"actions": Action.READ | Action.APPEND},
        {"actions": Action.APPEND},
        {"purposes": ("TREAT", "HRESCH")},
        {"not_before_ms": START_MS - 1},
        {"not_after_ms": START_MS + 30 * 24 * 3_600_000 + 1},
    ],
)
def test_never_wider_than_the_parent(world: Scenario, change: dict[str, Any]) -> None:
    parent = parent_grant(world)
    world.submit(parent, "pat")
    child = replace(
        parent, grant=grant_id("child"), grantee=world.account("doc2"), parent=parent.grant
    )
    refusal = world.refusal(replace(child, **change), "doc")
    assert isinstance(refusal, Denied)
    assert refusal.reason == "wider-than-parent"


@pytest.mark.parametrize(
    "change",
    [
        {"blob": blob_id("b"), "range_start": 5, "range_length": 5},
        {"blob": blob_id("b")},
        {"purposes": ("ETREAT",)},
        {"not_before_ms": START_MS + 5, "not_after_ms": START_MS + 6},
    ],
)
def test_narrower_than_a_grant_on_the_record(world: Scenario, change: dict[str, Any]) -> None:
    world.submit(world.grant("parent", "doc", READ_SHARE), "pat")
    world.submit(replace(world.grant("child", "doc2", parent="parent"), **change), "doc")


def test_parent_must_be_live_and_shareable(world: Scenario) -> None:
    world.submit(world.grant("read", "doc", Action.READ), "pat")
    refusal = world.refusal(world.grant("child", "doc2", parent="read"), "doc")
    assert refusal.reason == "action-not-granted"
    future = replace(world.grant("future", "doc", READ_SHARE), not_before_ms=START_MS + 10)
    world.submit(future, "pat")
    child = replace(world.grant("child", "doc2", parent="future"), not_before_ms=START_MS + 10)
    assert world.refusal(child, "doc").reason == "not-yet-valid"
    world.time_ms += 10
    world.submit(child, "doc")
    world.submit(world.revocation("future", "k1"), "pat")
    again = replace(child, grant=grant_id("again"))
    assert world.refusal(again, "doc").reason == "revoked"


def test_parent_on_another_record(world: Scenario) -> None:
    world.submit(world.opening("r2", "pat"), "pat")
    world.submit(world.grant("parent", "doc", READ_SHARE), "pat")
    refusal = world.refusal(world.grant("child", "doc2", parent="parent", record="r2"), "doc")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "wrong-record"


def chain(world: Scenario, length: int) -> list[str]:
    """Grants c1..c<length>, each given under the one before to a new doctor."""
    names: list[str] = []
    giver = "pat"
    for number in range(1, length + 1):
        name, doctor = f"c{number}", f"d{number}"
        world.register(doctor, AccountKind.PRACTITIONER, "clinic")
        world.submit(
            world.grant(name, doctor, READ_SHARE, parent=names[-1] if names else ""), giver
        )
        names.append(name)
        giver = doctor
    return names


def test_chains_are_bounded(world: Scenario) -> None:
    chain(world, 8)
    refusal = world.refusal(world.grant("c9", "doc", parent="c8"), "d8")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "chain-too-deep"


def test_owner_revokes_and_the_generation_advances(world: Scenario) -> None:
    world.submit(world.grant("g", "doc"), "pat")
    world.time_ms += 5
    outcome = world.submit(world.revocation("g", "second"), "pat")
    grant = world.granted("g")
    record = world.view.record(record_id("r"))
    generation = world.view.generation(record_id("r"), 1)
    assert record is not None
    assert generation is not None
    assert grant.revoked_height == world.height
    assert record.generation == 1
    assert generation.public_key == public_key("second")
    assert (generation.height, generation.time_ms) == (world.height, world.time_ms)
    assert outcome.events == (GrantRevoked(grant), GenerationAdded(generation))
    first = world.view.generation(record_id("r"), 0)
    assert first is not None
    assert first.public_key == public_key("record r")


def test_revoking_without_read_keeps_the_generation(world: Scenario) -> None:
    world.submit(world.grant("g", "watch", Action.APPEND), "pat")
    refusal = world.refusal(world.revocation("g", "next"), "pat")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "unexpected-key"
    outcome = world.submit(world.revocation("g"), "pat")
    assert outcome.events == (GrantRevoked(world.granted("g")),)
    record = world.view.record(record_id("r"))
    assert record is not None
    assert record.generation == 0


@pytest.mark.parametrize(
    ("name", "key", "signers", "error", "reason"),
    [
        ("none", "", ("pat",), NotFound, "unknown-grant"),
        ("c1", "", ("pat",), Invalid, "next-key-missing"),
        ("c1", "k", ("d1",), Denied, "not-the-granter"),
        ("c1", "", ("clinic",), Denied, "not-the-granter"),
        ("c2", "", ("d2",), Denied, "not-the-granter"),
        ("c2", "", ("d3",), Denied, "not-the-granter"),
        ("c2", "k", ("d1",), Invalid, "unexpected-key"),
        ("c2", "", ("d1", "pat"), Invalid, "one-signature"),
    ],
)
def test_revoke_refused(
    world: Scenario,
    name: str,
    key: str,
    signers: tuple[str, ...],
    error: type[HcefsError],
    reason: str,
) -> None:
    chain(world, 3)
    refusal = world.refusal(world.revocation(name, key), *signers)
    assert isinstance(refusal, error)
    assert refusal.reason == reason


@pytest.mark.parametrize("signer", ["d2", "d1"])
def test_any_granter_above_may_revoke(world: Scenario, signer: str) -> None:
    chain(world, 3)
    outcome = world.submit(world.revocation("c3"), signer)
    assert outcome.events == (GrantRevoked(world.granted("c3")),)
    record = world.view.record(record_id("r"))
    assert record is not None
    assert record.generation == 0


def test_children_die_with_their_parent(world: Scenario) -> None:
    chain(world, 3)
    world.submit(world.revocation("c1", "next"), "pat")
    assert world.granted("c3").revoked_height == 0
    refusal = world.refusal(world.grant("c4", "doc", parent="c3"), "d3")
    assert refusal.reason == "parent-revoked"


def test_a_grant_is_revoked_once(world: Scenario) -> None:
    world.submit(world.grant("g", "doc"), "pat")
    world.submit(world.revocation("g", "k1"), "pat")
    refusal = world.refusal(world.revocation("g", "k2"), "pat")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "already-revoked"


def test_owner_brings_the_generation_after_another_granters_revocation(world: Scenario) -> None:
    chain(world, 2)
    world.submit(world.revocation("c2"), "d1")
    revoked = world.granted("c2")
    assert world.refusal(world.revocation("c2"), "d1").reason == "already-revoked"
    assert world.refusal(world.revocation("c2"), "pat").reason == "next-key-missing"
    outcome = world.submit(world.revocation("c2", "k1"), "pat")
    generation = world.view.generation(record_id("r"), 1)
    assert generation is not None
    assert outcome.events == (GenerationAdded(generation),)
    assert world.granted("c2") == revoked
    assert world.refusal(world.revocation("c2", "k2"), "pat").reason == "already-revoked"


def test_revocation_reaches_the_same_block(world: Scenario) -> None:
    world.submit(world.grant("g", "doc", READ_SHARE), "pat")
    before = world.refusal(world.grant("x", "doc2", parent="none"), "doc")
    assert before.reason == "unknown-grant"
    revoke = world.sign(world.revocation("g", "k1"), "pat").encode()
    child = world.sign(world.grant("x", "doc2", parent="g"), "doc").encode()
    with pytest.raises(Denied) as caught:
        world.next_block([revoke, child])
    assert caught.value.reason == "revoked"
    world.next_block([child, revoke])


def test_generations_do_not_wrap(world: Scenario) -> None:
    world.submit(world.grant("g", "doc"), "pat")
    record = world.view.record(record_id("r"))
    assert record is not None
    last = replace(record, generation=(1 << 32) - 1)
    world.state.write({record_key(record.record): last.encode()})
    revocation = replace(world.revocation("g", "k"), next_generation=(1 << 32) - 1)
    refusal = world.refusal(revocation, "pat")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "no-generation-left"


def test_of_two_revocations_at_one_moment_the_second_is_made_anew(world: Scenario) -> None:
    world.submit(world.grant("g", "doc"), "pat")
    world.submit(world.grant("h", "doc"), "pat")
    first, second = world.revocation("g", "second"), world.revocation("h", "second")
    world.submit(first, "pat")
    refusal = world.refusal(second, "pat")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "generation-moved"
    assert world.granted("h").revoked_height == 0
    world.submit(world.revocation("h", "third"), "pat")
    record = world.view.record(record_id("r"))
    assert record is not None
    assert record.generation == 2
