"""Tokens: what they may hold, what they refuse, and hostile ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import biscuit_auth
import pytest

from hcefs.access import token as token_module
from hcefs.access.facts import PURPOSES
from hcefs.access.token import (
    BLOCKS_MAX,
    TOKEN_BYTES_MAX,
    Narrowing,
    TokenCache,
    TokenFacts,
    mint,
    narrow,
    read_checks,
    read_use,
    sign_block,
    verify_token,
)
from hcefs.errors import Denied, HcefsError, Invalid, Unauthenticated, Unavailable
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
    key_of,
)

biscuit: Any = biscuit_auth  # the stubs of 0.4.0 describe an older interface

KEY = key_of(DOCTOR)
ROOT = KEY.public_key
USE = f"use(hex:{CLUSTER.hex()}, hex:{DOCTOR.hex()}, hex:{GRANT.hex()})"
FACTS = TokenFacts(
    now_ms=NOW_MS,
    action="read",
    record=RECORD,
    blob=BLOB,
    range_start=100,
    range_length=50,
    purpose="TREAT",
    presenter=DOCTOR,
)


def minted(**narrowing: Any) -> bytes:
    return mint(KEY, CLUSTER, DOCTOR, GRANT, Narrowing(**narrowing))


def private_key() -> Any:
    return biscuit.PrivateKey.from_bytes(KEY.seed, biscuit.Algorithm.Ed25519)


def handmade(source: str, *blocks: str, root_key_id: int | None = None) -> bytes:
    """A token that is signed properly and may hold anything."""
    builder = biscuit.BiscuitBuilder(source)
    if root_key_id is not None:
        builder.set_root_key_id(root_key_id)
    made = builder.build(private_key())
    for block in blocks:
        made = made.append(biscuit.BlockBuilder(block))
    return bytes(made.to_bytes())


def reason_of(token: bytes, root: bytes = ROOT) -> str:
    with pytest.raises(HcefsError) as caught:
        verify_token(token, root)
    return caught.value.reason


def permits(token: bytes, facts: TokenFacts = FACTS) -> bool:
    try:
        verify_token(token, ROOT).authorize(facts)
    except Denied as error:
        return error.reason != "token-check"
    return True


def test_a_fresh_token_names_its_use_and_permits_everything() -> None:
    token = minted()
    assert read_use(token) == DOCTORS_USE
    assert verify_token(token, ROOT).use == DOCTORS_USE
    assert permits(token)
    assert permits(token, replace(FACTS, blob=None, range_start=0, range_length=0))


def test_a_token_hides_itself_in_its_repr() -> None:
    assert "Biscuit" not in repr(verify_token(minted(), ROOT))


EVERYTHING: dict[str, Any] = {
    "not_after_ms": NOW_MS + 5_000,
    "actions": ("read", "append"),
    "record": RECORD,
    "blob": BLOB,
    "range_start": 100,
    "range_length": 50,
    "purposes": ("TREAT", "HRESCH"),
    "presenter": DOCTOR,
}


def test_all_checks_together_permit_what_they_name() -> None:
    assert permits(minted(**EVERYTHING))
    assert permits(narrow(minted(), Narrowing(**EVERYTHING), ROOT))


@pytest.mark.parametrize(
    ("narrowing", "changes"),
    [
        ({"not_after_ms": NOW_MS - 1_000}, {}),
        ({"not_after_ms": NOW_MS}, {}),
        ({"not_after_ms": 0}, {}),
        ({"actions": ("append", "share")}, {}),
        ({"actions": ("read",)}, {"action": "append"}),
        ({"record": OTHER_RECORD}, {}),
        ({"blob": OTHER_BLOB}, {}),
        ({"blob": BLOB}, {"blob": None, "range_start": 0, "range_length": 0}),
        ({"range_start": 101, "range_length": 49}, {}),
        ({"range_start": 0, "range_length": 149}, {}),
        ({"range_start": 0, "range_length": 200}, {"range_length": 0}),
        ({"range_length": 9}, {"blob": None, "range_start": 0, "range_length": 0}),
        ({"purposes": ("HPAYMT", "HLEGAL")}, {}),
        ({"presenter": NURSE}, {}),
    ],
)
def test_each_check_refuses_what_it_does_not_name(
    narrowing: dict[str, Any], changes: dict[str, Any]
) -> None:
    facts = replace(FACTS, **changes)
    assert not permits(minted(**narrowing), facts)
    assert not permits(narrow(minted(), Narrowing(**narrowing), ROOT), facts)


def test_expiry_is_never_late() -> None:
    token = minted(not_after_ms=NOW_MS + 1_700)
    assert permits(token, replace(FACTS, now_ms=NOW_MS + 1_499))
    assert not permits(token, replace(FACTS, now_ms=NOW_MS + 1_500))


@pytest.mark.parametrize(
    ("start", "length"), [(-1, 5), (5, -6), (1 << 63, 0), ((1 << 63) - 1, 1), (1, 1 << 64)]
)
def test_ranges_beyond_64_bits_are_refused(start: int, length: int) -> None:
    assert not permits(minted(), replace(FACTS, range_start=start, range_length=length))


def test_text_of_a_request_never_becomes_source() -> None:
    facts = replace(FACTS, purpose='X"); purpose("TREAT', action='x"); action("read')
    assert not permits(minted(purposes=("TREAT",)), facts)
    assert not permits(minted(actions=("read",)), facts)


@pytest.mark.parametrize(
    "narrowing",
    [
        {"not_after_ms": -1},
        {"not_after_ms": 253_402_300_800_000},
        {"actions": ("read", "delete")},
        {"actions": ('read"); allow if true; check if action("read',)},
        {"purposes": ("MARKETING",)},
        {"range_start": 5},
        {"range_start": -1, "range_length": 5},
        {"range_length": -1},
        {"range_length": 1 << 63},
    ],
)
def test_a_malformed_narrowing_is_refused(narrowing: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as minting:
        minted(**narrowing)
    with pytest.raises(Invalid) as narrowing_later:
        narrow(minted(), Narrowing(**narrowing), ROOT)
    assert minting.value.reason == narrowing_later.value.reason == "bad-narrowing"


def test_the_widest_narrowing_has_the_accepted_shape() -> None:
    token = minted(
        not_after_ms=253_402_300_799_999,
        actions=("share", "append", "read", "read"),
        range_length=(1 << 63) - 1,
        purposes=tuple(PURPOSES),
    )
    assert permits(token)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("", id="empty"),
        pytest.param('check if action("read")', id="no use"),
        pytest.param(f"{USE}; {USE.replace(GRANT.hex(), '00' * 16)}", id="two uses"),
        pytest.param(f'{USE}; grant("everything")', id="a grant fact"),
        pytest.param(f"{USE}; time(2020-01-01T00:00:00Z)", id="a time fact"),
        pytest.param(f'{USE}; action("read")', id="an action fact"),
        pytest.param(f"time(2020-01-01T00:00:00Z); {USE}", id="a fact before the use"),
        pytest.param(f'{USE}; action("read") <- time($t)', id="a rule"),
        pytest.param(f"{USE}; purpose($p) <- use($c, $a, $p)", id="a rule from the use"),
        pytest.param("use(hex:00, hex:01, hex:02)", id="short ids"),
        pytest.param(USE.replace("use(", "use(1, "), id="four terms"),
        pytest.param(USE.replace("use", "uses"), id="another name"),
        pytest.param(f'use("{CLUSTER.hex()}", hex:{DOCTOR.hex()}, hex:{GRANT.hex()})', id="text"),
        pytest.param(f'{USE}; check all action($a), $a == "read"', id="check all"),
        pytest.param(f'{USE}; reject if action("append")', id="reject if"),
        pytest.param(f'{USE}; check if operation("read")', id="unknown predicate"),
        pytest.param(f"{USE}; check if use($c, $a, $g)", id="a check of the use"),
        pytest.param(f'{USE}; check if action($a), $a.matches("(a+)+$")', id="an expression"),
        pytest.param(f"{USE}; check if true", id="a check of nothing"),
        pytest.param(f'{USE}; check if action("read") trusting previous', id="a scope"),
        pytest.param(f'{USE}; check if purpose("TREAT\\n;")', id="line feed in a string"),
        pytest.param(f'{USE}; check if purpose("A;B")', id="semicolon in a string"),
        pytest.param(f'{USE}; check if purpose("TREÄT")', id="letters beyond ASCII"),
        pytest.param(
            f"{USE}; check if time($t), $t > 2020-01-01T00:00:00Z", id="another comparison"
        ),
    ],
)
def test_a_first_block_with_anything_else_is_refused(source: str) -> None:
    assert reason_of(handmade(source)) == "token-shape"


@pytest.mark.parametrize(
    "block",
    [
        USE,
        "time(2020-01-01T00:00:00Z)",
        'action("read") <- time($t)',
        'check if action("read"); purpose("TREAT")',
        'check if action("read") or true',
        'check if purpose("A\\"); check if purpose(\\"B")',
    ],
)
def test_a_later_block_with_anything_but_checks_is_refused(block: str) -> None:
    assert reason_of(handmade(USE, block)) == "token-shape"
    assert reason_of(handmade(USE, 'check if action("read")', block)) == "token-shape"


def test_a_string_cannot_break_out_of_its_line() -> None:
    # Printed unescaped, this argument looks like a check and then a second line.
    smuggled = 'TREAT");\ncheck if purpose("TREAT'
    hidden = biscuit.BlockBuilder("check if purpose({p})", {"p": smuggled})
    made = biscuit.BiscuitBuilder(USE).build(private_key()).append(hidden)
    token = bytes(made.to_bytes())
    # It is still one check, of a purpose that nobody has: narrower, never wider.
    assert read_use(token) == DOCTORS_USE
    assert not permits(token)


def test_a_string_cannot_hide_a_fact() -> None:
    smuggled = 'TREAT");\ncheck if purpose("TREAT'
    builder = biscuit.BiscuitBuilder(USE + "; purpose({p})", {"p": smuggled})
    assert reason_of(bytes(builder.build(private_key()).to_bytes())) == "token-shape"


def test_a_policy_does_not_fit_in_a_token() -> None:
    with pytest.raises(biscuit.DataLogError):
        biscuit.BiscuitBuilder(f"{USE}; allow if true")
    with pytest.raises(Invalid) as caught:
        token_module._read_first(f"{USE};\nallow if true;\n")
    assert caught.value.reason == "token-shape"


def test_source_that_does_not_end_in_a_line_feed_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        token_module._read_first(f"{USE};")
    assert caught.value.reason == "token-shape"


def test_a_third_partys_block_is_refused() -> None:
    made = biscuit.BiscuitBuilder(USE).build(private_key())
    other = biscuit.KeyPair()
    block = biscuit.BlockBuilder('check if action("read")')
    signed = made.third_party_request().create_block(other.private_key, block)
    token = bytes(made.append_third_party(other.public_key, signed).to_bytes())
    assert reason_of(token) == "token-shape"


def test_a_root_key_id_is_refused() -> None:
    assert reason_of(handmade(USE, root_key_id=1)) == "token-shape"


def test_signing_a_block_gives_a_genuine_token_of_any_shape() -> None:
    genuine = sign_block(KEY, USE)
    assert verify_token(genuine, ROOT).use == DOCTORS_USE
    assert reason_of(genuine, key_of(NURSE).public_key) == "token-signature"
    assert reason_of(sign_block(KEY, f'{USE}; grant("everything")')) == "token-shape"
    with pytest.raises(Invalid) as caught:
        sign_block(KEY, "use(")
    assert caught.value.reason == "token-malformed"


def test_every_truncation_and_extension_is_refused() -> None:
    token = minted(actions=("read",))
    for length in range(len(token)):
        assert reason_of(token[:length]) in {"token-malformed", "token-shape", "token-signature"}
    assert reason_of(token + b"x") == "token-malformed"


def test_every_changed_byte_is_refused() -> None:
    token = narrow(minted(actions=("read",)), Narrowing(presenter=DOCTOR), ROOT)
    for position in range(len(token)):
        changed = bytearray(token)
        # Changes of a protobuf tag can leave the meaning as it was; they are refused too.
        changed[position] ^= 0x10
        assert reason_of(bytes(changed)) in {"token-malformed", "token-shape", "token-signature"}


@pytest.mark.parametrize("garbage", [b"", b"\x00", b"{}", bytes(100), b"\xff" * 300])
def test_garbage_is_refused(garbage: bytes) -> None:
    assert reason_of(garbage) == "token-malformed"


def test_an_oversize_token_is_refused_before_it_is_parsed() -> None:
    checks = "; ".join('check if action("read")' for _ in range(1000))
    token = handmade(f"{USE}; {checks}")
    assert len(token) > TOKEN_BYTES_MAX
    assert reason_of(token) == "token-malformed"
    with pytest.raises(Invalid):
        TokenCache().verify(token, ROOT)


def test_too_many_blocks_are_refused() -> None:
    check = 'check if action("read")'
    assert permits(handmade(USE, *[check] * (BLOCKS_MAX - 1)))
    assert reason_of(handmade(USE, *[check] * BLOCKS_MAX)) == "token-shape"


def test_narrowing_stops_at_the_bounds_that_verification_has() -> None:
    token = minted()
    for _ in range(BLOCKS_MAX - 1):
        token = narrow(token, Narrowing(actions=("read",)), ROOT)
    assert permits(token)
    with pytest.raises(Invalid) as caught:
        narrow(token, Narrowing(actions=("read",)), ROOT)
    assert caught.value.reason == "token-shape"


def test_narrowing_never_makes_a_token_too_large_to_use() -> None:
    check = "check if presenter(hex:" + "ab" * 16 + ")"
    token = handmade("; ".join([USE, *[check] * 238]))
    assert TOKEN_BYTES_MAX - 150 < len(token) <= TOKEN_BYTES_MAX
    with pytest.raises(Invalid) as caught:
        narrow(token, Narrowing(actions=("read",)), ROOT)
    assert caught.value.reason == "token-malformed"


def test_an_empty_narrowing_gives_the_token_back() -> None:
    token = minted()
    assert narrow(token, Narrowing(), ROOT) == token


@pytest.mark.parametrize("root", [key_of(OWNER).public_key, b"\xff" * 32, b"", bytes(31)])
def test_a_token_of_another_key_is_unauthenticated(root: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        verify_token(minted(), root)
    assert caught.value.reason == "token-signature"
    with pytest.raises(Unauthenticated):
        narrow(minted(), Narrowing(actions=("read",)), root)


def test_a_token_that_claims_anothers_account_does_not_verify_with_that_accounts_key() -> None:
    forged = mint(KEY, CLUSTER, OWNER, GRANT)
    assert read_use(forged).account == OWNER
    assert reason_of(forged, key_of(OWNER).public_key) == "token-signature"


def test_a_block_cannot_be_cut_off() -> None:
    one = minted()
    two = narrow(one, Narrowing(actions=("read",)), ROOT)
    # A token ends with the proof that its last block may be followed: 36 bytes.  What
    # lies between the first block and that proof is the second block.
    first_block, last_proof = two[: len(one) - 36], two[-36:]
    assert two[len(first_block)] == 0x1A  # protobuf: field 3, length-delimited
    cut = first_block + last_proof
    assert read_use(cut) == DOCTORS_USE
    assert reason_of(cut) == "token-signature"


def test_checks_that_take_too_long_are_not_a_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_module, "_TIME_MAX", timedelta(0))
    verified = verify_token(minted(actions=("read",)), ROOT)
    with pytest.raises(Unavailable) as caught:
        verified.authorize(FACTS)
    assert caught.value.reason == "token-limits"
    assert caught.value.retryable


def test_the_cache_verifies_once_and_is_bounded() -> None:
    cache = TokenCache(size=2)
    tokens = [minted() for _ in range(3)]
    first = cache.verify(tokens[0], ROOT)
    assert cache.verify(tokens[0], ROOT) is first
    second = cache.verify(tokens[1], ROOT)
    cache.verify(tokens[0], ROOT)
    cache.verify(tokens[2], ROOT)
    assert len(cache) == 2
    assert cache.verify(tokens[0], ROOT) is first
    assert cache.verify(tokens[1], ROOT) is not second


def test_the_cache_does_not_carry_a_token_over_a_key_change() -> None:
    cache = TokenCache()
    token = minted()
    cache.verify(token, ROOT)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            cache.verify(token, key_of(OWNER).public_key)
    assert len(cache) == 1


def test_the_cache_forgets_what_is_concerned_and_how_it_was_checked() -> None:
    cache = TokenCache()
    kept, gone = minted(), minted()
    first = cache.verify(kept, ROOT)
    cache.verify(gone, ROOT)
    assert cache.forget(lambda use: use.grant != GRANT) == 0
    assert cache.verify(kept, ROOT) is first
    assert cache.forget(lambda use: use.grant == GRANT) == 2
    assert len(cache) == 0
    assert cache.verify(kept, ROOT) is not first


def test_a_cache_needs_room() -> None:
    with pytest.raises(Invalid):
        TokenCache(size=0)


def test_the_checks_can_be_shown() -> None:
    token = mint(key_of(DOCTOR), CLUSTER, DOCTOR, GRANT, Narrowing(purposes=("TREAT",)))
    narrowed = narrow(token, Narrowing(blob=BLOB), key_of(DOCTOR).public_key)
    blocks = read_checks(narrowed)
    assert [len(block) for block in blocks] == [1, 1]
    assert blocks[0][0].startswith('check if purpose("TREAT")')
    assert bytes(BLOB).hex() in blocks[1][0]
