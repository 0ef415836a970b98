"""The genesis document: its bounds, its cluster id, its operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import AccountKind
from hcefs.crypto.signing import account_id
from hcefs.errors import Invalid
from hcefs.ids import AccountId
from hcefs.integrity import blake3_digest
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.machine import genesis_state
from hcefs.ledger.state import StateView
from tests.unit.ledger.scenario import make_genesis, public_key, signing_key

GENESIS = make_genesis()


def test_round_trip_and_cluster_id() -> None:
    GENESIS.check()
    assert Genesis.decode(GENESIS.encode()) == GENESIS
    assert GENESIS.digest == blake3_digest(GENESIS.encode())
    assert GENESIS.cluster == GENESIS.digest[:16]
    assert replace(GENESIS, nonce=bytes(31) + b"1").cluster != GENESIS.cluster


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "x" * 129},
        {"name": "line\nbreak"},
        {"name": "h\u00f4pital"},
        {"time_ms": 0},
        {"time_ms": 1 << 60},
        {"operators": ()},
        {"operators": GENESIS.operators[:1] * 2},
        {"threshold": 0},
        {"threshold": 4},
        {"lease_ms": 0},
        {"lease_ms": 1 << 40},
        {"skew_ms": -1},
        {"skew_ms": 1 << 40},
        {"nonce": b"short"},
        {"writer_key": bytes(31)},
        {"operators": (replace(GENESIS.operators[0], signing_key=bytes(31)),), "threshold": 1},
        {"operators": (replace(GENESIS.operators[0], token_key=b""),), "threshold": 1},
        {"nonce": bytes(65)},
        {"operators": (replace(GENESIS.operators[0], receiving_key=b""),), "threshold": 1},
        {
            "operators": (
                replace(GENESIS.operators[0], token_key=GENESIS.operators[0].signing_key),
            ),
            "threshold": 1,
        },
    ],
)
def test_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        replace(GENESIS, **change).check()
    assert caught.value.reason == "bad-genesis"


def test_operators_are_accounts_from_the_start() -> None:
    state, app_hash = genesis_state(GENESIS)
    view = StateView(state, 0, GENESIS.time_ms)
    key = signing_key("o2").public_key
    operator = view.account(account_id(GENESIS.cluster, key))
    assert operator is not None
    assert operator.kind == AccountKind.OPERATOR
    assert operator.active
    assert (operator.key_version, operator.height) == (1, 0)
    assert operator.admitted_by == AccountId.zero()
    assert operator.receiving_key == public_key("o2")
    assert view.operators() == {account.account for account in GENESIS.operator_accounts()}
    assert len(app_hash) == 32
    assert genesis_state(replace(GENESIS, nonce=bytes(32)))[1] != app_hash


def test_malformed_genesis_has_no_state() -> None:
    with pytest.raises(Invalid):
        genesis_state(replace(GENESIS, threshold=0))
