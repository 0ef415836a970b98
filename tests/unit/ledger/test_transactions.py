"""Transactions alone: encoding, static checks, signing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import AccountKind, Action
from hcefs.crypto.signing import verify
from hcefs.encoding import dumps
from hcefs.errors import Invalid, Unauthenticated
from hcefs.ids import AccountId, BlobId, GrantId, PutKey, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import (
    Append,
    DeactivateAccount,
    OpenRecord,
    RevokeGrant,
    SetClusterMap,
    SignedTransaction,
    Transaction,
    Upgrade,
    add_signature,
    decode_transaction,
    sign_transaction,
    signed_message,
)
from tests.unit.ledger.scenario import Scenario, blob_id, public_key, signing_key

WORLD = Scenario()
REGISTER = WORLD.registration("someone", AccountKind.PATIENT)
NODE = WORLD.registration("node", AccountKind.NODE)
OPEN = WORLD.opening("r", "pat")
ENTRY = WORLD.entry("c")
APPEND = WORLD.append("p", ENTRY)
GRANT = WORLD.grant("g", "doc")
REVOKE = WORLD.revocation("g", "next")
SET_MAP = SetClusterMap(0, b"map")
DEACTIVATE = DeactivateAccount(WORLD.account("doc"))
UPGRADE = Upgrade(2, 100)
ALL: tuple[Transaction, ...] = (
    REGISTER, NODE, OPEN, APPEND, GRANT, REVOKE, SET_MAP, DEACTIVATE, UPGRADE,
)  # fmt: skip


@pytest.mark.parametrize("transaction", ALL, ids=lambda t: t.KIND)
def test_round_trip(transaction: Transaction) -> None:
    transaction.check()
    assert decode_transaction(transaction.encode()) == transaction


@pytest.mark.parametrize(
    "body",
    [
        dumps(["move-everything", 1]),
        dumps(["append", 2, [], bytes(16)]),
        dumps(["append", 0]),
        dumps([7, 1]),
        dumps(["append", "1"]),
    ],
)
def test_unknown_kind_or_version(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        decode_transaction(body)
    assert caught.value.reason == "unknown-transaction"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        dumps([]),
        dumps(["append"]),
        dumps("append"),
        dumps(["append", 1]),
        dumps(["append", 1, [], bytes(16), 0]),
        APPEND.encode() + b"\x00",
        APPEND.encode()[:-1],
    ],
)
def test_malformed(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        decode_transaction(body)
    assert caught.value.reason == "malformed-encoding"


def test_put_key_of_a_wrong_size_is_malformed() -> None:
    with pytest.raises(Invalid) as caught:
        decode_transaction(dumps(["append", 1, [], bytes(15)]))
    assert caught.value.reason == "bad-id"


@pytest.mark.parametrize(
    ("transaction", "change", "reason"),
    [
        (REGISTER, {"signing_key": bytes(31)}, "bad-key"),
        (REGISTER, {"token_key": bytes(33)}, "bad-key"),
        (REGISTER, {"receiving_key": bytes(1215)}, "bad-key"),
        (REGISTER, {"token_key": signing_key("someone").public_key}, "bad-key"),
        (REGISTER, {"spki": bytes(32)}, "bad-spki"),
        (NODE, {"spki": b""}, "bad-spki"),
        (NODE, {"spki": bytes(31)}, "bad-spki"),
        (REGISTER, {"token_key_proof": b""}, "bad-proof"),
        (OPEN, {"record": RecordId.zero()}, "bad-id"),
        (OPEN, {"public_key": bytes(1217)}, "bad-key"),
        (APPEND, {"entries": ()}, "bad-entries"),
        (APPEND, {"entries": (ENTRY,) * 4097}, "bad-entries"),
        (APPEND, {"put_key": PutKey.zero()}, "bad-id"),
        (APPEND, {"entries": (ENTRY, replace(ENTRY, generation=1))}, "duplicate-entry"),
        (APPEND, {"entries": (replace(ENTRY, record=RecordId.zero()),)}, "bad-id"),
        (APPEND, {"entries": (replace(ENTRY, commitment=b""),)}, "bad-commitment"),
        (APPEND, {"entries": (replace(ENTRY, generation=-1),)}, "unknown-generation"),
        (APPEND, {"entries": (replace(ENTRY, generation=1 << 32),)}, "unknown-generation"),
        (APPEND, {"entries": (replace(ENTRY, commit_by_ms=0),)}, "bad-times"),
        (APPEND, {"entries": (replace(ENTRY, commit_by_ms=1 << 63),)}, "bad-times"),
        (GRANT, {"grant": GrantId.zero()}, "bad-id"),
        (GRANT, {"record": RecordId.zero()}, "bad-id"),
        (GRANT, {"grantee": AccountId.zero()}, "bad-id"),
        (GRANT, {"blob": BlobId.zero()}, "bad-id"),
        (GRANT, {"parent": GrantId.zero()}, "bad-id"),
        (GRANT, {"range_length": 1}, "bad-range"),
        (GRANT, {"blob": blob_id("b"), "range_start": 1}, "bad-range"),
        (GRANT, {"blob": blob_id("b"), "range_start": -1, "range_length": 2}, "bad-range"),
        (GRANT, {"blob": blob_id("b"), "range_length": -1}, "bad-range"),
        (GRANT, {"blob": blob_id("b"), "range_start": 1, "range_length": (1 << 63) - 1},
         "bad-range"),
        (GRANT, {"actions": Action(0)}, "no-action"),
        (GRANT, {"purposes": ()}, "bad-purposes"),
        (GRANT, {"purposes": ("TREAT", "TREAT")}, "bad-purposes"),
        (GRANT, {"purposes": ("CURIOSITY",)}, "bad-purposes"),
        (GRANT, {"not_before_ms": GRANT.not_after_ms}, "bad-times"),
        (GRANT, {"not_before_ms": -1}, "bad-times"),
        (GRANT, {"not_after_ms": 1 << 62}, "bad-times"),
        (REVOKE, {"grant": GrantId.zero()}, "bad-id"),
        (REVOKE, {"next_public_key": b"short"}, "bad-key"),
        (SET_MAP, {"expected_epoch": -1}, "bad-epoch"),
        (SET_MAP, {"expected_epoch": 1 << 32}, "bad-epoch"),
        (DEACTIVATE, {"account": AccountId.zero()}, "bad-id"),
        (UPGRADE, {"version": 0}, "bad-upgrade"),
        (UPGRADE, {"height": 0}, "bad-upgrade"),
    ],
)  # fmt: skip
def test_static_checks(transaction: Any, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        replace(transaction, **change).check()
    assert caught.value.reason == reason


def test_unknown_action_bit_is_refused_when_decoded() -> None:
    fields = GRANT.fields()
    fields[6] = 8
    with pytest.raises(Invalid) as caught:
        decode_transaction(dumps([GRANT.KIND, GRANT.VERSION, *fields]))
    assert caught.value.reason == "unknown-value"


def test_widest_range_and_both_ends_of_time() -> None:
    replace(GRANT, blob=blob_id("b"), range_start=1, range_length=(1 << 63) - 2).check()
    replace(GRANT, blob=blob_id("b"), range_start=0, range_length=0).check()
    replace(GRANT, not_before_ms=0).check()


def test_signature_covers_cluster_and_body_and_hash_covers_the_body() -> None:
    signed = WORLD.sign(APPEND, "doc", "pat")
    cluster = WORLD.genesis.cluster
    assert signed.body == APPEND.encode()
    assert signed.hash() == blake3_digest(APPEND.encode())
    assert [signature.signer for signature in signed.signatures] == [
        WORLD.account("doc"),
        WORLD.account("pat"),
    ]
    made = signed.signatures[0].signature
    key = signing_key("doc").public_key
    verify(key, b"transaction", bytes(cluster) + signed.body, made)
    with pytest.raises(Unauthenticated):
        verify(key, b"transaction", signed.body, made)
    assert SignedTransaction.decode(signed.encode()) == signed
    assert signed_message(cluster, b"x") == bytes(cluster) + b"x"


def test_co_signing_keeps_the_hash_and_refuses_a_second_signature() -> None:
    alone = WORLD.sign(GRANT, "pat")
    both = add_signature(alone, WORLD.genesis.cluster, WORLD.account("doc"), 1, signing_key("doc"))
    assert both == WORLD.sign(GRANT, "pat", "doc")
    assert both.hash() == alone.hash()
    with pytest.raises(Invalid) as caught:
        add_signature(both, WORLD.genesis.cluster, WORLD.account("doc"), 1, signing_key("doc"))
    assert caught.value.reason == "duplicate-signer"


def test_too_large_to_sign() -> None:
    with pytest.raises(Invalid) as caught:
        sign_transaction(SetClusterMap(0, bytes(1 << 20)), WORLD.genesis.cluster, [])
    assert caught.value.reason == "transaction-too-large"


def test_too_large_to_decode() -> None:
    with pytest.raises(Invalid):
        SignedTransaction.decode(SignedTransaction(bytes(1 << 20), ()).encode())


def test_messages_carry_no_keys() -> None:
    secret = public_key("private matter")[:-1]
    with pytest.raises(Invalid) as caught:
        OpenRecord(OPEN.record, OPEN.owner, secret).check()
    assert secret.hex() not in caught.value.message
    assert isinstance(APPEND, Append)
    assert isinstance(REVOKE, RevokeGrant)
