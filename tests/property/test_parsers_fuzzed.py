"""Hostile bytes: parsers end in typed errors, and nothing signed survives a change.

Three kinds of input for each parser: bytes from nowhere, good bytes that were changed,
cut, extended or spliced, and structures that Hypothesis builds.  The parsers are those of
tokens, of everything encoded (manifests, keys, transactions, blocks, facts), of shard
files' headers and trailers, of sealed segments, and of frames.

Every canonical encoding has one form; so what decodes from changed bytes must encode to
those bytes again, and a signature made over the old ones must not fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hcefs.access.token import Narrowing, mint, narrow, verify_token
from hcefs.crypto.signing import SigningKey, verify
from hcefs.crypto.stream import open_segment, seal_segment
from hcefs.encoding import Encoded, dumps, loads
from hcefs.errors import Corrupt, HcefsError
from hcefs.formats.record_class import RecordClass
from hcefs.formats.shard import ShardFooter, ShardHeader, decode_footer
from hcefs.ids import AccountId, BlobBase, BlobId, ClusterId, GrantId, RecordId
from hcefs.ledger.transactions import (
    TRANSACTION_TAG,
    SignedTransaction,
    decode_transaction,
    signed_message,
)
from tests.unit.formats.test_formats_doc import encoded_types
from tests.unit.ledger.rights_world import RightsWorld
from tests.unit.ledger.scenario import Scenario

VECTORS = Path(__file__).parents[1] / "vectors"
KEY = SigningKey.from_seed(b"k" * 32)
CLUSTER = ClusterId(b"c" * 16)
TOKEN = narrow(
    mint(KEY, CLUSTER, AccountId(b"a" * 16), GrantId(b"g" * 16)),
    Narrowing(blob=BlobId.of(b"b" * 16)),
    KEY.public_key,
)
SECRET, BLOB, RECORD = b"s" * 32, BlobId.of(b"b" * 16), RecordId(b"r" * 16)
SEALED = seal_segment(SECRET, BLOB, RECORD, True, b"plaintext of a last segment" * 9)
HEADER = ShardHeader(BlobBase(bytes(range(16))), 5, "ec-4-2", 4, 2, 1 << 20).encode()
FOOTER = ShardFooter.of(2_500_000, bytes(range(96))).encode()

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
deep = settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _frozen() -> list[bytes]:
    """All canonical bytes in the golden vectors: real ones of nearly every type."""
    found: dict[bytes, None] = {}
    for path in sorted(VECTORS.glob("*.json")):
        for text in _texts(json.loads(path.read_text("utf-8"))):
            try:
                data = bytes.fromhex(text)
                value = loads(data, max_bytes=1 << 16)
            except (ValueError, HcefsError):
                continue
            if type(value) is list and len(value) > 2 and (value[0], value[1]) in BY_NAME:
                found[data] = None
    return list(found)


BY_NAME = {(cls.KIND, cls.VERSION): cls for cls in encoded_types()}
FROZEN = _frozen()


def named(data: bytes) -> type[Encoded]:
    value = loads(data, max_bytes=1 << 16)
    assert type(value) is list
    return BY_NAME[value[0], value[1]]


def test_the_corpus_has_nearly_every_type() -> None:
    kinds = {named(data).KIND for data in FROZEN}
    assert len(kinds) > 50
    assert {
        "core",
        "layout",
        "key-row",
        "key-box",
        "give-grant",
        "request-access",
        "block",
    } <= kinds


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """``good`` with one to three changes of a kind that a hostile node would try."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "add", "drop", "double", "length"])):
            case "flip" if data:
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:]
            case "add":
                data[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "drop":
                del data[at : at + draw(st.integers(1, 9))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
            case "length" if data:  # heads of CBOR that promise gigabytes
                data[at : at + 1] = (
                    draw(st.sampled_from([b"\x9b", b"\x5b", b"\x9f", b"\xbf", b"\x7b", b"\x3b"]))
                    + b"\xff" * 8
                )
            case _:
                pass
    return bytes(data)


def _decode_changed(good: bytes, bad: bytes) -> None:
    """Decode as the type that the good bytes have; a success must be faithful."""
    cls = named(good)
    try:
        made = cls.decode(bad)
    except HcefsError:
        return
    assert made.encode() == bad, f"{cls.KIND}: two encodings of one value"
    if bad != good:
        assert made != cls.decode(good)
    check = getattr(made, "check", None)
    if check is not None and check.__code__.co_argcount == 1:
        try:
            check()
        except HcefsError:
            return


def _frozen_cases(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(FROZEN))
    _decode_changed(good, data.draw(changed(good)))


@quick
@given(st.data())
def test_changed_encodings_end_in_typed_errors(data: st.DataObject) -> None:
    _frozen_cases(data)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@deep
@given(st.data())
def test_changed_encodings_at_length(data: st.DataObject) -> None:
    _frozen_cases(data)


values = st.recursive(
    st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@settings(quick, max_examples=60)
@given(st.sampled_from(sorted(BY_NAME)), st.lists(values, max_size=14))
def test_any_fields_of_any_type_end_in_typed_errors(
    name: tuple[str, int], fields: list[Any]
) -> None:
    try:
        data = dumps([*name, *fields])
        made = BY_NAME[name].decode(data)
    except HcefsError:
        return
    assert made.encode() == data


def _parsers() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    return {
        "token": (TOKEN, lambda data: verify_token(data, KEY.public_key)),
        "segment": (SEALED, lambda data: open_segment(SECRET, BLOB, RECORD, True, data)),
        "shard header": (HEADER, ShardHeader.decode),
        "shard footer": (FOOTER, decode_footer),
        "transaction": (_signed().encode(), _checked_transaction),
        "class": (RecordClass.of_payload(_class()).payload(), RecordClass.of_payload),
    }


def _class() -> bytes:
    vectors = json.loads((VECTORS / "record_class.json").read_text("utf-8"))
    return bytes.fromhex(next(iter(vectors.values()))["payload"])


WORLD = Scenario()


def _signed() -> SignedTransaction:
    asked = RightsWorld.ask(WORLD, "q")  # type: ignore[arg-type]
    return WORLD.sign(asked, "doc")


def _checked_transaction(data: bytes) -> object:
    """What a ledger does before it looks at its state; the signer's key is known."""
    signed = SignedTransaction.decode(data)
    transaction = decode_transaction(signed.body)
    transaction.check()
    doctor = WORLD.party("doc")
    (signature,) = signed.signatures[:1] or (None,)
    if signature is None or signature.signer != doctor.account or len(signed.signatures) != 1:
        raise Corrupt("not signed by the doctor", reason="not-signed")
    if signature.key_version != 1:
        raise Corrupt("not the doctor's key", reason="wrong-key-version")
    message = signed_message(WORLD.genesis.cluster, signed.body)
    verify(doctor.signing.public_key, TRANSACTION_TAG, message, signature.signature)
    return transaction


PARSERS = _parsers()
AUTHENTICATED = ("token", "segment", "transaction")
"""Where any change must be refused; the others carry a checksum, or only a form."""


def _attack(name: str, bad: bytes) -> None:
    good, parse = PARSERS[name]
    try:
        parse(bad)
    except HcefsError:
        return
    assert bad == good or name not in AUTHENTICATED, f"{name}: changed bytes were accepted"


def test_the_parsers_accept_what_is_good() -> None:
    for good, parse in PARSERS.values():
        parse(good)


@pytest.mark.parametrize("name", PARSERS)
@settings(quick, max_examples=80)
@given(data=st.data())
def test_changed_bytes_are_refused(name: str, data: st.DataObject) -> None:
    _attack(name, data.draw(changed(PARSERS[name][0])))


@pytest.mark.parametrize("name", PARSERS)
@settings(quick, max_examples=40)
@given(bad=st.binary(max_size=700))
@example(bad=b"")
@example(bad=b"\x9b" + b"\xff" * 8)
@example(bad=b"\x81" * 600)
def test_bytes_from_nowhere_are_refused(name: str, bad: bytes) -> None:
    _attack(name, bad)


@pytest.mark.parametrize("name", AUTHENTICATED)
def test_every_single_bit_counts(name: str) -> None:
    good, _ = PARSERS[name]
    # Each byte, one bit of it in turn: all of them would only take longer.
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        _attack(name, bytes(bad))


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", PARSERS)
@deep
@given(data=st.data())
def test_changed_bytes_at_length(name: str, data: st.DataObject) -> None:
    _attack(name, data.draw(changed(PARSERS[name][0])))
