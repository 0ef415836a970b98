"""Account files: of every version, and under a passphrase."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.crypto.accounts import (
    AccountKeys,
    AccountKeysV1,
    account_in,
    decode_keys,
    is_sealed,
    load_account,
)
from hcefs.crypto.passphrase import Argon2Cost, SealedAccount, seal_account
from hcefs.errors import Invalid, Unauthenticated
from hcefs.ids import AccountId, ClusterId, RecordId

TINY = Argon2Cost(memory_kib=8, iterations=1, lanes=1)
CLUSTER = ClusterId(b"c" * ClusterId.SIZE)
KEYS = AccountKeys.generate(CLUSTER, bytes(range(128)))
RECORD = RecordId(b"r" * RecordId.SIZE)
WORDS = "correct horse battery"


def save(path: Path, keys: AccountKeys = KEYS, passphrase: str = WORDS) -> None:
    keys.save(path, passphrase=passphrase, randomness=bytes(28), replace=True, cost=TINY)


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    old = AccountKeysV1(
        KEYS.cluster, 1, KEYS.signing_seed, KEYS.token_seed, KEYS.receiving_seed, KEYS.record_master
    )
    path = tmp_path / "old.keys"
    path.touch(mode=0o600)
    path.write_bytes(old.encode())
    assert load_account(path) == KEYS
    assert account_in(path) == KEYS.account
    assert not is_sealed(path)


def test_new_keys_keep_the_account_and_what_the_old_ones_open() -> None:
    newer = KEYS.renewed(bytes(range(100, 228)))
    newest = newer.renewed(bytes(range(50, 178)))
    assert newest.account == newer.account == KEYS.account
    assert [newer.key_version, newest.key_version] == [2, 3]
    assert {version: key.public_key for version, key in newest.past_receiving_keys().items()} == {
        1: KEYS.receiving_key.public_key,
        2: newer.receiving_key.public_key,
    }
    derived = [key.public_key for key in newest.record_keys(RECORD, 0)]
    assert derived == [keys.record_key(RECORD, 0).public_key for keys in (newest, newer, KEYS)]
    assert len(set(derived)) == 3
    assert decode_keys(newest.encode()) == newest
    assert KEYS.signing_seed not in newest.encode()


def test_a_passphrase_opens_what_it_sealed_and_the_id_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "account.keys"
    save(path)
    asked: list[AccountId] = []

    def answer(account: AccountId) -> str:
        asked.append(account)
        return WORDS

    assert load_account(path, answer) == KEYS
    assert asked == [KEYS.account]
    assert account_in(path) == KEYS.account
    assert is_sealed(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for seed in (KEYS.signing_seed, KEYS.token_seed, KEYS.receiving_seed, KEYS.record_master):
        assert seed not in path.read_bytes()


def test_without_the_passphrase_nothing_opens(tmp_path: Path) -> None:
    path = tmp_path / "account.keys"
    save(path)
    with pytest.raises(Unauthenticated) as wrong:
        load_account(path, lambda _: WORDS + "!")
    assert wrong.value.reason == "wrong-passphrase"
    assert WORDS not in str(wrong.value)
    with pytest.raises(Invalid) as missing:
        load_account(path)
    assert missing.value.reason == "passphrase-needed"
    path.chmod(0o640)
    with pytest.raises(Invalid) as open_file:
        load_account(path, lambda _: WORDS)
    assert open_file.value.reason == "open-file"


def test_one_passphrase_typed_in_two_ways_is_one(tmp_path: Path) -> None:
    path = tmp_path / "account.keys"
    save(path, passphrase="Schlüssel für Ärzte")
    assert load_account(path, lambda _: unicodedata.normalize("NFD", "Schlüssel für Ärzte")) == KEYS


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": ClusterId(b"d" * 16)},
        {"account": AccountId(b"d" * 16)},
        {"iterations": 2},
        {"memory_kib": 16},
        {"salt": b"s" * 16},
        {"nonce": b"n" * 12},
        {"ciphertext": bytes(100)},
    ],
)
def test_all_that_stands_beside_the_secret_is_bound(change: dict[str, object]) -> None:
    sealed = seal_account(KEYS.encode(), CLUSTER, KEYS.account, WORDS, bytes(28), TINY)
    with pytest.raises(Unauthenticated):
        replace(sealed, **change).opened(WORDS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 1 << 30},
        {"memory_kib": 7},
        {"iterations": 0},
        {"iterations": 1 << 20},
        {"lanes": 0},
        {"lanes": 17},
        {"salt": b""},
        {"nonce": b""},
    ],
)
def test_costs_of_a_file_are_bounded_before_they_are_paid(change: dict[str, object]) -> None:
    sealed = SealedAccount(CLUSTER, KEYS.account, 8, 1, 1, bytes(16), bytes(12), bytes(16))
    with pytest.raises(Invalid) as caught:
        replace(sealed, **change).opened(WORDS)  # type: ignore[arg-type]
    assert caught.value.reason == "bad-kdf"


@pytest.mark.parametrize("passphrase", ["short", "x" * 1025])
def test_a_passphrase_has_a_least_length(passphrase: str) -> None:
    seal = functools.partial(seal_account, b"", CLUSTER, KEYS.account)
    with pytest.raises(Invalid) as caught:
        seal(passphrase, bytes(28), TINY)
    assert caught.value.reason == "weak-passphrase"


def test_a_passphrase_that_is_no_text_is_refused_and_not_shown() -> None:
    bad = "hunter2 words \ud800"
    sealed = SealedAccount(CLUSTER, KEYS.account, 8, 1, 1, bytes(16), bytes(12), bytes(16))
    for use in (
        lambda: seal_account(b"", CLUSTER, KEYS.account, bad, bytes(28), TINY),
        lambda: sealed.opened(bad),
    ):
        with pytest.raises(Invalid) as caught:
            use()
        assert caught.value.reason == "bad-passphrase"
        assert caught.value.__context__ is None, "the encoder's error holds the passphrase"
        assert "hunter2" not in caught.value.message


def test_keys_that_say_they_are_of_another_account_are_refused(tmp_path: Path) -> None:
    other = seal_account(KEYS.encode(), CLUSTER, AccountId(b"o" * 16), WORDS, bytes(28), TINY)
    path = tmp_path / "account.keys"
    path.touch(mode=0o600)
    path.write_bytes(other.encode())
    with pytest.raises(Invalid, match="another account"):
        load_account(path, lambda _: WORDS)
