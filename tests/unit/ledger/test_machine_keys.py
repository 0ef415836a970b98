"""Changing keys on the ledger: of an account, and of a record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.access.facts import Account, AccountKind, signing_key_of
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Conflict, Denied, HcefsError, Invalid, Unauthenticated
from hcefs.ledger.block import PROTOCOL_RIGHTS
from hcefs.ledger.cluster_facts import ProtocolSchedule, ProtocolStep
from hcefs.ledger.state import PROTOCOL_KEY
from hcefs.ledger.transactions import SignedTransaction, Transaction, sign_transaction
from hcefs.ledger.transactions_keys import RotateGeneration, RotateKeys, rotate_keys
from tests.unit.ledger.clusters import Cluster
from tests.unit.ledger.scenario import (
    Scenario,
    public_key,
    record_id,
    seed,
    signing_key,
    token_key,
)


def world(version: int = PROTOCOL_RIGHTS) -> Scenario:
    made = Scenario().populate()
    steps = tuple(ProtocolStep(number, 1) for number in range(2, version + 1))
    made.state.write({PROTOCOL_KEY: ProtocolSchedule(steps).encode()})
    return made


def change(made: Scenario, name: str = "pat", version: int = 2, new: str = "") -> RotateKeys:
    new = new or f"{name} v{version}"
    party = made.party(name)
    return rotate_keys(
        made.genesis.cluster,
        party.account,
        version,
        signing_key(new),
        token_key(new),
        public_key(new),
        party.spki,
    )


def signed(
    made: Scenario, transaction: Transaction, name: str, version: int, key: SigningKey
) -> SignedTransaction:
    signer = (made.account(name), version, key)
    return sign_transaction(transaction, made.genesis.cluster, [signer])


def fact(made: Scenario, name: str = "pat") -> Account:
    found = made.view.account(made.account(name))
    assert found is not None
    return found


def test_new_keys_take_the_place_of_the_old_ones_and_those_stay_known() -> None:
    made = world()
    before = fact(made)
    made.submit(change(made), "pat")
    after = fact(made)
    assert after == replace(
        before,
        key_version=2,
        signing_key=signing_key("pat v2").public_key,
        token_key=token_key("pat v2").public_key,
        receiving_key=public_key("pat v2"),
    )
    past = made.view.past_keys(before.account, 1)
    assert past is not None
    assert (past.signing_key, past.token_key, past.receiving_key) == (
        before.signing_key,
        before.token_key,
        before.receiving_key,
    )
    assert (past.until_height, past.until_ms) == (made.height, made.time_ms)
    assert signing_key_of(made.view, after, 1) == before.signing_key
    assert signing_key_of(made.view, after, 2) == after.signing_key
    assert [signing_key_of(made.view, after, version) for version in (-1, 0, 3, 1 << 32)] == [
        None
    ] * 4


def test_the_old_key_signs_nothing_more_and_the_new_one_does() -> None:
    made = world()
    made.submit(change(made), "pat")
    opening = made.opening("second", "pat")
    assert made.refusal(opening, "pat").reason == "wrong-key-version"
    thief = signed(made, opening, "pat", 2, signing_key("pat"))
    assert made.refusal_signed(thief).reason == "bad-signature"
    made.submit_signed(signed(made, opening, "pat", 2, signing_key("pat v2")))
    # And so for the next change: only the current key makes it.
    third = change(made, version=3)
    assert made.refusal(third, "pat").reason == "wrong-key-version"
    made.submit_signed(signed(made, third, "pat", 2, signing_key("pat v2")))
    assert fact(made).key_version == 3
    assert made.view.past_keys(made.account("pat"), 2) is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key_version": 3}, "wrong-key-version"),
        ({"signing_key": signing_key("thief").public_key}, "bad-signature"),
        ({"token_key": token_key("thief").public_key}, "bad-signature"),
        ({"receiving_key": public_key("thief")}, "bad-signature"),
        ({"signing_key_proof": bytes(64)}, "bad-signature"),
        ({"token_key_proof": bytes(64)}, "bad-signature"),
        ({"signing_key": signing_key("pat").public_key}, "same-key"),
        ({"token_key": token_key("pat").public_key}, "same-key"),
        ({"token_key": signing_key("pat").public_key}, "same-key"),
        ({"receiving_key": public_key("pat")}, "same-key"),
        ({"spki": bytes(32)}, "bad-spki"),
        ({"spki": bytes(31)}, "bad-spki"),
        ({"key_version": 1}, "bad-key-version"),
        ({"token_key": b"short"}, "bad-key"),
        ({"signing_key_proof": b"short"}, "bad-proof"),
    ],
)
def test_every_new_key_is_proved_and_new(changes: dict[str, object], reason: str) -> None:
    made = world()
    wrong = replace(change(made), **changes)  # type: ignore[arg-type]
    assert made.refusal(wrong, "pat").reason == reason


def test_a_proof_is_of_one_account_and_one_version() -> None:
    made = world()
    others = change(made, "doc", new="pat v2")
    stolen = replace(
        change(made),
        signing_key_proof=others.signing_key_proof,
        token_key_proof=others.token_key_proof,
    )
    assert made.refusal(stolen, "pat").reason == "bad-signature"


@pytest.mark.parametrize(("signer", "kind"), [("doc", Denied), ("o1", Denied)])
def test_only_the_account_itself_changes_its_keys(signer: str, kind: type[HcefsError]) -> None:
    made = world()
    refused = made.refusal(change(made), signer)
    assert isinstance(refused, kind)
    assert refused.reason == "not-the-account"


def test_an_operator_is_replaced_instead() -> None:
    made = world()
    assert made.refusal(change(made, "o1"), "o1").reason == "operator-keys"


def test_a_node_names_its_tls_key() -> None:
    made = world()
    made.register("node", AccountKind.NODE, "o1", "o2")
    assert made.refusal(replace(change(made, "node"), spki=b""), "node").reason == "bad-spki"
    made.submit(change(made, "node"), "node")
    assert fact(made, "node").spki == made.party("node").spki


@pytest.mark.parametrize("version", [1, 2, 3])
def test_before_version_4_there_is_neither_change(version: int) -> None:
    made = world(version)
    renewal = RotateGeneration(record_id("r"), 1, public_key("next"))
    for transaction in (change(made), renewal):
        refused = made.refusal(transaction, "pat")
        assert isinstance(refused, Invalid)
        assert refused.reason == "unsupported"


def test_a_record_gets_its_next_generation_without_a_revocation() -> None:
    made = world()
    made.submit(RotateGeneration(record_id("r"), 1, public_key("next")), "pat")
    record = made.view.record(record_id("r"))
    assert record is not None
    assert record.generation == 1
    current = made.view.generation(record.record, 1)
    assert current is not None
    assert current.public_key == public_key("next")
    assert made.view.generation(record.record, 0) is not None


@pytest.mark.parametrize(
    ("number", "key", "signer", "kind", "reason"),
    [
        (2, "next", "pat", Conflict, "generation-moved"),
        (1, "next", "doc", Denied, "not-the-owner"),
        (1, "", "pat", Invalid, "bad-key"),
        (0, "next", "pat", Invalid, "unknown-generation"),
    ],
)
def test_a_generation_follows_by_its_owners_word(
    number: int, key: str, signer: str, kind: type[HcefsError], reason: str
) -> None:
    made = world()
    new = public_key(key) if key else made.opening("r", "pat").public_key
    refused = made.refusal(RotateGeneration(record_id("r"), number, new), signer)
    assert isinstance(refused, kind)
    assert refused.reason == reason


def test_an_account_that_has_ended_changes_nothing() -> None:
    made = world()
    made.state.write(
        {b"account/" + made.account("pat"): replace(fact(made), active=False).encode()}
    )
    refused = made.refusal(change(made), "pat")
    assert isinstance(refused, Denied)
    assert not isinstance(refused, Unauthenticated)
    assert refused.reason == "inactive-account"


def test_a_node_does_not_take_the_tls_key_of_another() -> None:
    made = Cluster(3, 4)
    made.state.write({PROTOCOL_KEY: world().state.get(PROTOCOL_KEY)})
    other = made.party("n2")
    taking = rotate_keys(
        made.genesis.cluster,
        made.account("n1"),
        2,
        signing_key("n1 v2"),
        token_key("n1 v2"),
        public_key("n1 v2"),
        other.spki,
    )
    assert made.refusal(taking, "n1").reason == "spki-taken"
    assert fact(made, "n1").key_version == 1
    made.submit(change(made, "n1"), "n1")
    assert fact(made, "n1").spki == made.party("n1").spki
    # One that was never seen is its own.
    third = rotate_keys(
        made.genesis.cluster,
        made.account("n2"),
        2,
        signing_key("n2 v2"),
        token_key("n2 v2"),
        public_key("n2 v2"),
        seed("a new TLS key"),
    )
    made.submit(third, "n2")
    assert fact(made, "n2").spki == seed("a new TLS key")
