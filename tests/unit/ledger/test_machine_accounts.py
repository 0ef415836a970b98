"""Signatures, registration by each kind of admitter, deactivation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import AccountKind
from hcefs.encoding import dumps
from hcefs.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from hcefs.ids import AccountId, ClusterId
from hcefs.ledger.block import PROTOCOL_NEWEST
from hcefs.ledger.machine import AccountChanged
from hcefs.ledger.transactions import (
    DeactivateAccount,
    RegisterAccount,
    SignedTransaction,
    Upgrade,
    sign_transaction,
)
from tests.unit.ledger.scenario import (
    Scenario,
    make_genesis,
    seed,
    signing_key,
    with_signature_of,
)


@pytest.fixture
def world() -> Scenario:
    return Scenario().populate()


@pytest.mark.parametrize(
    ("kind", "admitters", "admitted_by"),
    [
        (AccountKind.OPERATOR, ("o1", "o3"), None),
        (AccountKind.NODE, ("o2", "o3"), None),
        (AccountKind.INSTITUTION, ("o1", "o2", "o3"), None),
        (AccountKind.PRACTITIONER, ("clinic",), "clinic"),
        (AccountKind.DEVICE, ("clinic",), "clinic"),
        (AccountKind.PATIENT, ("clinic",), "clinic"),
    ],
)
def test_registration(
    world: Scenario, kind: AccountKind, admitters: tuple[str, ...], admitted_by: str | None
) -> None:
    outcome = world.register("new", kind, *admitters)
    account = world.view.account(world.account("new"))
    assert account is not None
    assert outcome.events == (AccountChanged(account),)
    assert account.kind == kind
    assert account.active
    assert account.key_version == 1
    assert account.height == world.height
    assert account.admitted_by == (
        AccountId.zero() if admitted_by is None else world.account(admitted_by)
    )
    assert account.spki == (seed("spki new") if kind == AccountKind.NODE else b"")
    assert (account.account in world.view.operators()) == (kind == AccountKind.OPERATOR)


@pytest.mark.parametrize(
    ("kind", "signers", "error", "reason"),
    [
        (AccountKind.NODE, ("new",), Denied, "below-threshold"),
        (AccountKind.NODE, ("new", "o1"), Denied, "below-threshold"),
        (AccountKind.NODE, ("o1", "o2"), Unauthenticated, "no-possession"),
        (AccountKind.NODE, ("new", "o1", "clinic"), Denied, "unexpected-signer"),
        (AccountKind.NODE, ("new", "o1", "o2", "clinic"), Denied, "unexpected-signer"),
        (AccountKind.INSTITUTION, ("new", "clinic"), Denied, "unexpected-signer"),
        (AccountKind.OPERATOR, ("new", "o1"), Denied, "below-threshold"),
        (AccountKind.PATIENT, ("new",), Denied, "no-institution"),
        (AccountKind.PATIENT, ("clinic",), Unauthenticated, "no-possession"),
        (AccountKind.PATIENT, ("new", "doc"), Denied, "unexpected-signer"),
        (AccountKind.PATIENT, ("new", "o1"), Denied, "unexpected-signer"),
        (AccountKind.PRACTITIONER, ("new", "o1", "o2"), Denied, "unexpected-signer"),
        (AccountKind.DEVICE, ("new", "clinic", "clinic2"), Denied, "unexpected-signer"),
        (AccountKind.DEVICE, ("new", "stranger"), Unauthenticated, "unknown-signer"),
        (AccountKind.DEVICE, (), Unauthenticated, "not-signed"),
    ],
)
def test_registration_refused(
    world: Scenario,
    kind: AccountKind,
    signers: tuple[str, ...],
    error: type[Exception],
    reason: str,
) -> None:
    world.register("clinic2", AccountKind.INSTITUTION, "o1", "o2")
    refusal = world.refusal(world.registration("new", kind), *signers)
    assert isinstance(refusal, error)
    assert refusal.reason == reason


def test_a_candidate_operator_does_not_count_for_its_own_threshold(world: Scenario) -> None:
    refusal = world.refusal(world.registration("o4", AccountKind.OPERATOR), "o4", "o1")
    assert refusal.reason == "below-threshold"
    world.register("o4", AccountKind.OPERATOR, "o1", "o2")
    world.register("n1", AccountKind.NODE, "o4", "o3")


def test_an_account_is_registered_once(world: Scenario) -> None:
    again = world.refusal(world.registration("doc", AccountKind.PRACTITIONER), "doc", "clinic")
    assert isinstance(again, Conflict)
    assert again.reason == "account-exists"
    world.submit(DeactivateAccount(world.account("doc")), "clinic")
    again = world.refusal(world.registration("doc", AccountKind.DEVICE), "doc", "clinic")
    assert again.reason == "account-exists"


def test_token_key_must_prove_itself(world: Scenario) -> None:
    transaction = world.registration("new", AccountKind.PATIENT)
    assert isinstance(transaction, RegisterAccount)
    stolen = replace(transaction, token_key=world.party("doc").token.public_key)
    assert world.refusal(stolen, "new", "clinic").reason == "bad-signature"


def test_token_key_proof_is_for_one_account(world: Scenario) -> None:
    first = world.registration("one", AccountKind.PATIENT)
    second = world.registration("two", AccountKind.PATIENT)
    assert isinstance(first, RegisterAccount)
    assert isinstance(second, RegisterAccount)
    borrowed = replace(second, token_key=first.token_key, token_key_proof=first.token_key_proof)
    assert world.refusal(borrowed, "two", "clinic").reason == "bad-signature"


def test_signature_of_another_body_cluster_key_or_version(world: Scenario) -> None:
    transaction = DeactivateAccount(world.account("doc"))
    other = world.sign(DeactivateAccount(world.account("doc2")), "clinic")
    mixed = with_signature_of(world.sign(transaction, "clinic"), other)
    assert world.refusal_signed(mixed).reason == "bad-signature"
    clinic, key = world.account("clinic"), signing_key("clinic")
    for cluster, version, used, reason in (
        (ClusterId(bytes(15) + b"1"), 1, key, "bad-signature"),
        (world.genesis.cluster, 1, signing_key("doc"), "bad-signature"),
        (world.genesis.cluster, 2, key, "wrong-key-version"),
        (world.genesis.cluster, -1, key, "wrong-key-version"),
    ):
        signed = sign_transaction(transaction, cluster, [(clinic, version, used)])
        refusal = world.refusal_signed(signed)
        assert isinstance(refusal, Unauthenticated)
        assert refusal.reason == reason


def test_two_signatures_of_one_operator_count_once(world: Scenario) -> None:
    once = world.sign(world.registration("n1", AccountKind.NODE), "n1", "o1")
    twice = replace(once, signatures=(*once.signatures, once.signatures[1]))
    refusal = world.refusal_signed(twice)
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "duplicate-signer"


def test_a_bad_signature_beyond_the_threshold_is_still_refused(world: Scenario) -> None:
    signed = world.sign(world.registration("n1", AccountKind.NODE), "n1", "o1", "o2", "o3")
    bad = replace(signed.signatures[3], signature=bytes(64))
    spoilt = replace(signed, signatures=(*signed.signatures[:3], bad))
    assert world.refusal_signed(spoilt).reason == "bad-signature"


def test_too_many_signatures(world: Scenario) -> None:
    signed = world.sign(DeactivateAccount(world.account("doc")), "clinic")
    flood = replace(signed, signatures=signed.signatures * 65)
    assert world.refusal_signed(flood).reason == "too-many-signatures"


@pytest.mark.parametrize(
    ("target", "signers"),
    [
        ("clinic", ("o1", "o2")),
        ("node", ("o2", "o3")),
        ("o3", ("o1", "o2")),
        ("doc", ("clinic",)),
        ("watch", ("clinic",)),
        ("pat", ("clinic",)),
    ],
)
def test_deactivation(world: Scenario, target: str, signers: tuple[str, ...]) -> None:
    world.register("node", AccountKind.NODE, "o1", "o2")
    outcome = world.submit(DeactivateAccount(world.account(target)), *signers)
    account = world.view.account(world.account(target))
    assert account is not None
    assert not account.active
    assert outcome.events == (AccountChanged(account),)
    again = world.refusal(DeactivateAccount(world.account(target)), *signers)
    assert isinstance(again, Conflict)
    assert again.reason == "already-inactive"


@pytest.mark.parametrize(
    ("target", "signers", "error", "reason"),
    [
        ("clinic", ("o1",), Denied, "below-threshold"),
        ("clinic", ("clinic",), Denied, "unexpected-signer"),
        ("clinic", ("o1", "o2", "clinic2"), Denied, "unexpected-signer"),
        ("doc", ("o1", "o2"), Denied, "unexpected-signer"),
        ("doc", ("clinic2",), Denied, "not-the-admitter"),
        ("doc", ("clinic", "clinic2"), Denied, "unexpected-signer"),
        ("doc", ("doc",), Denied, "unexpected-signer"),
        ("nobody", ("o1", "o2"), NotFound, "unknown-account"),
    ],
)
def test_deactivation_refused(
    world: Scenario, target: str, signers: tuple[str, ...], error: type[Exception], reason: str
) -> None:
    world.register("clinic2", AccountKind.INSTITUTION, "o1", "o2")
    refusal = world.refusal(DeactivateAccount(world.account(target)), *signers)
    assert isinstance(refusal, error)
    assert refusal.reason == reason


def test_operators_step_in_for_a_dead_institution(world: Scenario) -> None:
    world.submit(DeactivateAccount(world.account("clinic")), "o1", "o2")
    refusal = world.refusal(DeactivateAccount(world.account("doc")), "clinic")
    assert refusal.reason == "inactive-account"
    world.submit(DeactivateAccount(world.account("doc")), "o1", "o2")


def test_a_dead_account_signs_nothing(world: Scenario) -> None:
    world.submit(DeactivateAccount(world.account("pat")), "clinic")
    refusal = world.refusal(world.opening("r9", "pat"), "pat")
    assert isinstance(refusal, Denied)
    assert refusal.reason == "inactive-account"


def test_operators_never_fall_below_the_threshold(world: Scenario) -> None:
    world.submit(DeactivateAccount(world.account("o3")), "o1", "o2")
    refusal = world.refusal(DeactivateAccount(world.account("o2")), "o1", "o2")
    assert isinstance(refusal, Conflict)
    assert refusal.reason == "too-few-operators"
    refusal = world.refusal(DeactivateAccount(world.account("clinic")), "o1", "o3")
    assert refusal.reason == "inactive-account"


def test_threshold_of_one() -> None:
    world = Scenario(make_genesis(threshold=1))
    world.register("node", AccountKind.NODE, "o2")


def test_upgrade_is_refused(world: Scenario) -> None:
    refusal = world.refusal(Upgrade(PROTOCOL_NEWEST + 1, 1_000), "o1", "o2", "o3")
    assert isinstance(refusal, Invalid)
    assert refusal.reason == "unsupported"


def test_unknown_transaction_version(world: Scenario) -> None:
    known = world.sign(DeactivateAccount(world.account("doc")), "clinic")
    for body in (dumps(["deactivate-account", 2, bytes(16)]), dumps(["burn", 1])):
        refusal = world.refusal_signed(SignedTransaction(body, known.signatures))
        assert isinstance(refusal, Invalid)
        assert refusal.reason == "unknown-transaction"


def test_too_large_transaction(world: Scenario) -> None:
    refusal = world.refusal_signed(SignedTransaction(bytes(1 << 20), ()))
    assert refusal.reason == "transaction-too-large"


def test_static_checks_run_first(world: Scenario) -> None:
    assert world.refusal(DeactivateAccount(AccountId.zero()), "clinic").reason == "bad-id"
