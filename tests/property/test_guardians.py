"""Guardians: any threshold of them give an account's keys back, fewer give nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import shamir_mnemonic
from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.guardians import (
    Guardian,
    GuardianShare,
    OpenedShare,
    guard,
    load_share,
    open_share,
    recover,
)
from hcefs.crypto.keys import HybridKey
from hcefs.errors import Conflict, Corrupt, Invalid, NotFound
from hcefs.ids import ClusterId

CLUSTER = ClusterId(b"c" * ClusterId.SIZE)
KEYS = AccountKeys.generate(CLUSTER, bytes(range(128)))
RANDOM = bytes(range(44))


def guardian_keys(number: int) -> AccountKeys:
    return AccountKeys.generate(CLUSTER, bytes([number]) * 128)


def guardians(count: int) -> list[Guardian]:
    found = [guardian_keys(number) for number in range(1, count + 1)]
    return [Guardian(keys.account, 1, keys.receiving_key.public_key) for keys in found]


def opened(share: GuardianShare, number: int) -> OpenedShare:
    keys = guardian_keys(number)
    return open_share(share, keys.account, {1: keys.receiving_key})


def made(count: int, threshold: int, keys: AccountKeys = KEYS) -> list[OpenedShare]:
    shares = guard(keys, guardians(count), threshold, RANDOM)
    return [opened(share, number) for number, share in enumerate(shares, 1)]


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_threshold_gives_the_keys_and_fewer_give_nothing(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 6))
    threshold = data.draw(st.integers(2, count))
    shares = made(count, threshold)
    order = data.draw(st.permutations(range(count)))
    enough = [shares[i] for i in order[:threshold]]
    assert recover(enough) == KEYS
    assert recover([*enough, *enough]) == KEYS
    assert recover([shares[i] for i in order]) == KEYS
    for fewer in (enough[:-1], [*enough[:-1], *enough[:-1]]):
        with pytest.raises(Invalid) as caught:
            recover(fewer)
        assert caught.value.reason == "too-few-shares"


def test_every_set_of_three_of_five() -> None:
    shares = made(5, 3)
    for chosen in combinations(shares, 3):
        assert recover(chosen) == KEYS


def test_one_share_less_fits_every_key() -> None:
    """Below the threshold the sharing says nothing: with the last share of another sharing
    under the same number, what is left over determines no key, so nothing opens."""
    ours, others = made(3, 3), made(3, 3, KEYS.renewed(bytes(128)))
    forged = replace(others[2], capsule=ours[2].capsule)
    with pytest.raises(Corrupt) as caught:
        recover([ours[0], ours[1], forged])
    assert caught.value.reason == "damaged-capsule"
    # A lie about the threshold does not lower it either: the words know it.
    lying = [replace(s, capsule=replace(s.capsule, threshold=2)) for s in ours[:2]]
    with pytest.raises(Corrupt):
        recover(lying)


def test_a_damaged_share_is_named() -> None:
    shares = made(3, 2)
    words = shares[1].words.split()
    words[7], words[8] = words[8], words[7]
    damaged = replace(shares[1], words=" ".join(words))
    with pytest.raises(Corrupt, match=str(shares[1].guardian)) as caught:
        recover([shares[0], damaged])
    assert caught.value.reason == "damaged-share"
    exchanged = replace(shares[1], words=shares[2].words)
    with pytest.raises(Corrupt, match=str(shares[1].guardian)):
        recover([shares[0], exchanged])
    sealed = guard(KEYS, guardians(3), 2, RANDOM)[1]
    flipped = sealed.envelope.ciphertext[:-1] + bytes([sealed.envelope.ciphertext[-1] ^ 1])
    with pytest.raises(Corrupt, match=str(shares[1].guardian)):
        opened(replace(sealed, envelope=replace(sealed.envelope, ciphertext=flipped)), 2)
    with pytest.raises(Corrupt, match=str(shares[1].guardian)):
        opened(replace(sealed, capsule=replace(sealed.capsule, key_version=9)), 2)


def test_shares_of_two_capsules_do_not_mix() -> None:
    ours, others = made(3, 2), made(3, 2, KEYS.renewed(bytes(128)))
    with pytest.raises(Conflict) as caught:
        recover([ours[0], others[1]])
    assert caught.value.reason == "other-capsule"


def test_a_share_is_for_its_guardian_alone() -> None:
    share = guard(KEYS, guardians(3), 2, RANDOM)[0]
    with pytest.raises(Invalid) as caught:
        opened(share, 2)
    assert caught.value.reason == "not-the-guardian"
    thief = replace(share, guardian=guardian_keys(2).account)
    with pytest.raises(Corrupt):
        opened(thief, 2)
    with pytest.raises(NotFound):
        open_share(share, share.guardian, {2: HybridKey(bytes(32))})


def test_no_seed_and_no_word_is_in_a_sealed_share() -> None:
    shares = guard(KEYS, guardians(3), 2, RANDOM)
    for number, share in enumerate(shares, 1):
        data = share.encode()
        assert opened(share, number).words.encode() not in data
        assert RANDOM[:32] not in data
        for seed in (KEYS.signing_seed, KEYS.token_seed, KEYS.record_master):
            assert seed not in data


@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (3, 1), (3, 4), (17, 2), (0, 2)])
def test_guardians_are_some_and_not_one(count: int, threshold: int) -> None:
    with pytest.raises(Invalid) as caught:
        guard(KEYS, guardians(count), threshold, RANDOM)
    assert caught.value.reason == "bad-guardians"


def test_nobody_guards_himself_and_nobody_twice() -> None:
    mine = Guardian(KEYS.account, 1, KEYS.receiving_key.public_key)
    for named in ([mine, *guardians(2)], [*guardians(2), *guardians(1)]):
        with pytest.raises(Invalid):
            guard(KEYS, named, 2, RANDOM)


def test_both_forms_of_a_share_are_files(tmp_path: Path) -> None:
    share = guard(KEYS, guardians(2), 2, RANDOM)[0]
    sealed, plain = tmp_path / "a.share", tmp_path / "a.opened"
    sealed.write_bytes(share.encode())
    opened(share, 1).save(plain)
    assert load_share(sealed) == share
    assert load_share(plain) == opened(share, 1)
    assert plain.stat().st_mode & 0o777 == 0o600
    sealed.write_bytes(share.encode()[:-1])
    with pytest.raises(Corrupt, match=r"a\.share"):
        load_share(sealed)
    with pytest.raises(NotFound):
        load_share(tmp_path / "missing")


def test_the_words_are_those_of_slip_39() -> None:
    words = made(2, 2)[0].words
    assert len(words.split()) == 33
    assert shamir_mnemonic.Share.from_mnemonic(words).index == 0
