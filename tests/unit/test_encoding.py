"""Canonical encoding: one byte string a value, and strict reading."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcefs.encoding import Encoded, dumps, loads
from hcefs.errors import Invalid
from hcefs.ids import RecordId

RECORD = RecordId(bytes(range(16)))


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Inner(Encoded):
    KIND = "test-inner"

    number: int
    name: str


@dataclass(frozen=True)
class Outer(Encoded):
    KIND = "test-outer"
    VERSION = 3

    record: RecordId
    inner: Inner
    items: tuple[Inner, ...]
    maybe: bytes | None
    flag: bool
    colour: Colour
    rights: Rights


SAMPLE = Outer(
    RECORD, Inner(7, "ä"), (Inner(-1, ""),), b"x", True, Colour.BLUE, Rights.READ | Rights.WRITE
)

values = st.recursive(
    st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(values)
def test_what_is_dumped_is_loaded(value: Any) -> None:
    assert loads(dumps(value)) == value


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_what_is_accepted_has_exactly_one_encoding(data: bytes) -> None:
    try:
        value = loads(data)
    except Invalid as error:
        assert error.reason == "malformed-encoding"  # noqa: PT017 - acceptance is fine too
    else:
        assert dumps(value) == data


# RFC 8949, appendix A: examples of preferred serialization.
RFC_8949_EXAMPLES: list[tuple[Any, str]] = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (1_000_000, "1a000f4240"),
    (18_446_744_073_709_551_615, "1bffffffffffffffff"),
    (-1, "20"),
    (-1000, "3903e7"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("ü", "62c3bc"),
    ([], "80"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
]


@pytest.mark.parametrize(("value", "encoded"), RFC_8949_EXAMPLES)
def test_examples_of_the_rfc(value: Any, encoded: str) -> None:
    assert dumps(value).hex() == encoded
    assert loads(bytes.fromhex(encoded)) == value


REFUSED = {
    "nothing": "",
    "trailing bytes": "0101",
    "not shortest integer": "1801",
    "not shortest length": "580101",
    "indefinite array": "9f01ff",
    "indefinite bytes": "5f4101ff",
    "map": "a0",
    "float": "fb3ff8000000000000",
    "true": "f5",
    "null": "f6",
    "undefined": "f7",
    "tagged time": "c11a514b67b0",
    "big integer": "c249010000000000000000",
    "regular expression": "d8236161",
    "self-description": "d9d9f700",
    "length beyond the data": "5b7fffffffffffffff",
    "count beyond the data": "9b0000ffffffffffff",
    "malformed UTF-8": "62c328",
    "shared references": "d81c8284d81c8201020101d81d01",
    "shared references, long tags": "d9001c8201da0000001d00",
    "references to strings": "d901008263616263d81900",
    "tag around an array": "c18101",
}


@pytest.mark.parametrize("encoded", REFUSED.values(), ids=REFUSED.keys())
def test_everything_else_is_refused(encoded: str) -> None:
    with pytest.raises(Invalid) as caught:
        loads(bytes.fromhex(encoded))
    assert caught.value.reason == "malformed-encoding"


@pytest.mark.parametrize("depth", [14, 500_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(Invalid) as caught:
        loads(b"\x81" * depth + b"\x01")
    assert caught.value.reason == "malformed-encoding"


def test_the_bound_counts_before_anything_is_parsed() -> None:
    data = dumps(bytes(100))
    assert loads(data, max_bytes=len(data)) == bytes(100)
    with pytest.raises(Invalid, match="more than"):
        loads(data, max_bytes=len(data) - 1)


def test_encoded_round_trip_and_shape() -> None:
    data = SAMPLE.encode()
    assert Outer.decode(data) == SAMPLE
    assert loads(data) == [
        "test-outer", 3, bytes(RECORD), [7, "ä"], [[-1, ""]], [b"x"], 1, 2, 3,
    ]  # fmt: skip


integers = st.integers(-(1 << 63), (1 << 64) - 1) | st.sampled_from(
    [0, 23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1, -1, -257]
)
texts = st.text(max_size=30) | st.sampled_from([23, 24, 255, 256, 65_536]).map(lambda n: "x" * n)
inners = st.builds(Inner, integers, texts)
outers = st.builds(
    Outer,
    st.binary(min_size=16, max_size=16).map(RecordId),
    inners,
    st.lists(inners, max_size=3).map(tuple)
    | st.sampled_from([23, 24, 255, 256]).map(lambda n: (Inner(n, ""),) * n),
    st.none() | st.sampled_from([0, 23, 24, 255, 256, 65_535, 65_536]).map(bytes),
    st.booleans(),
    st.sampled_from(Colour),
    st.integers(0, 3).map(Rights),
)


@settings(max_examples=200, deadline=None)
@given(outers)
def test_what_is_written_is_what_the_library_writes(value: Outer) -> None:
    def inner(part: Inner) -> list[Any]:
        return [part.number, part.name]

    assert value.encode() == dumps(
        [
            "test-outer", 3, bytes(value.record), inner(value.inner),
            [inner(item) for item in value.items],
            [] if value.maybe is None else [value.maybe],
            int(value.flag), int(value.colour), int(value.rights),
        ]
    )  # fmt: skip
    assert Outer.decode(value.encode()) == value


def test_none_is_an_empty_array() -> None:
    value = Outer(RECORD, Inner(0, ""), (), None, False, Colour.RED, Rights(0))
    assert loads(value.encode())[5] == []
    assert Outer.decode(value.encode()) == value


def test_decoded_types_are_the_declared_ones() -> None:
    value = Outer.decode(SAMPLE.encode())
    assert [type(value.record), type(value.flag), type(value.colour), type(value.rights)] == [
        RecordId, bool, Colour, Rights,
    ]  # fmt: skip


def changed(position: int, replacement: Any) -> bytes:
    fields = loads(SAMPLE.encode())
    fields[position] = replacement
    return dumps(fields)


def shortened() -> bytes:
    return dumps(loads(SAMPLE.encode())[:-1])


def lengthened() -> bytes:
    return dumps([*loads(SAMPLE.encode()), 0])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dumps(5), "malformed-encoding"),
        (lambda: dumps(["test-outer"]), "malformed-encoding"),
        (lambda: changed(0, "test-inner"), "malformed-encoding"),
        (lambda: changed(1, 4), "unknown-version"),
        (lambda: changed(1, "3"), "unknown-version"),
        (lambda: changed(2, bytes(15)), "bad-id"),
        (lambda: changed(2, "text"), "malformed-encoding"),
        (lambda: changed(3, [7]), "malformed-encoding"),
        (lambda: changed(3, 7), "malformed-encoding"),
        (lambda: changed(4, [7]), "malformed-encoding"),
        (lambda: changed(5, [b"x", b"y"]), "malformed-encoding"),
        (lambda: changed(5, b"x"), "malformed-encoding"),
        (lambda: changed(6, 2), "malformed-encoding"),
        (lambda: changed(7, 3), "unknown-value"),
        (lambda: changed(8, 4), "unknown-value"),
        (lambda: changed(8, -1), "unknown-value"),
        (shortened, "malformed-encoding"),
        (lengthened, "malformed-encoding"),
    ],
)
def test_wrong_shapes_are_refused(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        Outer.decode(make())
    assert caught.value.reason == reason


def plainly(cls: type[Encoded], data: bytes) -> Any:
    """Decoding step by step, as the documentation says it: the reference."""
    value = loads(data)
    if type(value) is not list or len(value) < 2 or value[0] != cls.KIND:
        raise Invalid("another kind", reason="malformed-encoding")
    if value[1] != cls.VERSION:
        raise Invalid("another version", reason="unknown-version")
    return cls.from_fields(value[2:])


def outcome(read: Callable[[type[Encoded], bytes], Any], data: bytes) -> Any:
    try:
        return read(Outer, data)
    except Invalid as error:
        return error.reason


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=3), st.integers(0, 3)), max_size=2)
)
def test_the_quick_way_accepts_and_refuses_as_the_plain_one(
    changes: list[tuple[int, bytes, int]],
) -> None:
    data = SAMPLE.encode()
    for position, inserted, removed in changes:
        data = data[:position] + inserted + data[position + removed :]
    assert outcome(lambda cls, given: cls.decode(given), data) == outcome(plainly, data)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=9), st.integers(0, 9))
def test_the_quick_way_reads_no_other_shape(fields: list[Any], kept: int) -> None:
    sample = loads(SAMPLE.encode())
    data = dumps([*sample[:kept], *fields])
    assert outcome(lambda cls, given: cls.decode(given), data) == outcome(plainly, data)


def test_bytes_that_are_not_of_the_type_bytes_are_read_alike() -> None:
    for data in (bytearray(SAMPLE.encode()), memoryview(SAMPLE.encode())):
        assert Outer.decode(data) == SAMPLE  # type: ignore[arg-type]


def test_true_is_not_version_one() -> None:
    data = Inner(1, "").encode()
    assert data[12:13] == b"\x01"
    with pytest.raises(Invalid):
        Inner.decode(data[:12] + b"\xf5" + data[13:])


@pytest.mark.parametrize("number", [-(1 << 63), (1 << 64) - 1])
def test_the_largest_and_the_smallest_integer(number: int) -> None:
    value = Inner(number, "")
    assert Inner.decode(value.encode()) == value


def test_an_integer_below_64_bits_is_refused() -> None:
    # Negative integers of CBOR reach down to -2^64, and parsers take them.
    data = Inner(-(1 << 63), "").encode().replace(b"\x3b\x7f", b"\x3b\x80")
    with pytest.raises(Invalid, match="64 bits"):
        Inner.decode(data)


def test_an_unknown_version_says_what_to_do() -> None:
    with pytest.raises(Invalid, match="upgrade"):
        Outer.decode(changed(1, 4))


def test_types_without_an_encoding_are_a_programming_error() -> None:
    @dataclass(frozen=True)
    class Bad(Encoded):
        KIND = "test-bad"
        value: float

    @dataclass(frozen=True)
    class BadUnion(Encoded):
        KIND = "test-bad-union"
        value: int | str

    for cls in (Bad, BadUnion):
        with pytest.raises(TypeError):
            cls(1).encode()
