"""The golden vectors of keys are read as they were written."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from hcefs.access.facts import Account, PastKeys
from hcefs.crypto.accounts import decode_keys, load_account
from hcefs.crypto.guardians import OpenedShare, recover
from hcefs.errors import Unauthenticated
from hcefs.ledger.transactions import decode_transaction
from hcefs.ledger.transactions_keys import RotateGeneration, RotateKeys
from tests.vectors.generate import frozen
from tests.vectors.generate_keys import account_keys, renewed

VECTORS = frozen("keys")


def data(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def test_both_versions_of_an_account_file_are_read() -> None:
    assert decode_keys(data("account_keys_v1")) == account_keys("first")
    assert decode_keys(data("account_keys_v2")) == renewed()
    assert decode_keys(data("account_keys_v1")).account == data("account")
    assert decode_keys(data("account_keys_v2")).account == data("account")


def test_a_sealed_file_opens_with_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "sealed.keys"
    path.touch(mode=0o600)
    path.write_bytes(data("sealed_account"))
    assert load_account(path, lambda _: str(VECTORS["passphrase"])) == renewed()
    with pytest.raises(Unauthenticated):
        load_account(path, lambda _: "another passphrase")


def test_any_two_shares_give_the_keys() -> None:
    shares = [OpenedShare.decode(bytes.fromhex(each)) for each in VECTORS["opened_shares"]]
    for chosen in combinations(shares, 2):
        assert recover(chosen) == renewed()


def test_transactions_and_facts_are_read() -> None:
    change = decode_transaction(data("rotate_keys"))
    assert isinstance(change, RotateKeys)
    change.check()
    renewal = decode_transaction(data("rotate_generation"))
    assert isinstance(renewal, RotateGeneration)
    renewal.check()
    past, account = PastKeys.decode(data("past_keys")), Account.decode(data("account_fact"))
    assert (past.account, past.key_version) == (account.account, 1)
    assert (account.key_version, account.signing_key) == (2, change.signing_key)
