"""Deterministic CBOR: the one encoding of everything that is hashed, signed or stored.

Source: RFC 8949 section 4.2.1 (core deterministic encoding), restricted to
unsigned and negative integers, byte strings, text strings and arrays.  There
are no maps, floats, tags, nulls or booleans, so there is exactly one encoding
of each value.

Every persisted or signed type is a frozen dataclass that derives from
:class:`Encoded`.  Its bytes are the array ``[kind, version, field, ...]`` with
the fields in declaration order.  Field types: ``int``, ``bytes``, ``str``,
``bool`` (0 or 1), ids (byte strings), ``IntEnum``/``IntFlag``, other
``Encoded`` types (nested as arrays without kind and version), ``tuple[X, ...]``
(array) and ``X | None`` (array of zero or one element).

Invariants: ``decode`` accepts only what ``encode`` produces: it re-encodes and
compares, so that two byte strings never mean the same value.  Input is never
trusted: size first, then shape, then types; the error is :class:`Invalid`.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import cbor2

from hcefs.errors import Invalid
from hcefs.ids import FixedBytes

Value = int | bytes | str | Sequence["Value"]
"""What deterministic CBOR here may contain."""

MAX_BYTES = 1 << 20
"""Default bound on encoded bytes taken from disk or network."""

_MAX_DEPTH = 12


def dumps(value: Value) -> bytes:
    """Encode integers, bytes, text and arrays deterministically."""
    return cbor2.dumps(value, canonical=True)


def loads(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Decode strictly.

    Raises:
        Invalid: too long, malformed, not deterministic, or of a type that is
            not used here.
    """
    if len(data) > max_bytes:
        raise Invalid(
            f"encoded value has {len(data)} bytes, more than the {max_bytes} allowed",
            reason="malformed-encoding",
        )
    try:
        value = cbor2.loads(data)
    except Exception as error:  # noqa: BLE001 - the library raises many types on malformed input
        raise Invalid(
            f"not deterministic CBOR: {type(error).__name__}", reason="malformed-encoding"
        ) from None
    _check(value, 0, len(data))
    if dumps(value) != bytes(data):
        raise Invalid("not deterministic CBOR: encoded differently", reason="malformed-encoding")
    return value


def _check(value: Any, depth: int, room: int) -> int:
    """Check types, depth and size; returns how much of ``room`` is left.

    Shared references (tags 28 and 29) make a small input stand for a huge value:
    nothing here weighs more than the bytes it came from.
    """
    if depth > _MAX_DEPTH:
        raise Invalid("not deterministic CBOR: nested too deeply", reason="malformed-encoding")
    kind = type(value)
    room -= 1 + (len(value) if kind in (bytes, str) else 0)
    if room < 0:
        raise Invalid("not deterministic CBOR: shared values", reason="malformed-encoding")
    if kind is list:
        for item in value:
            room = _check(item, depth + 1, room)
    elif kind is int:
        if not -(1 << 63) <= value < 1 << 64:
            raise Invalid("integer beyond 64 bits", reason="malformed-encoding")
    elif kind not in (bytes, str):
        raise Invalid(f"type {kind.__name__} is not allowed here", reason="malformed-encoding")
    return room


_Pack = Callable[[Any], Any]
_Unpack = Callable[[Any], Any]


def _expect(kind: type, what: str) -> _Unpack:
    def unpack(value: Any) -> Any:
        if type(value) is not kind:
            raise Invalid(
                f"expected {what}, got {type(value).__name__}", reason="malformed-encoding"
            )
        return value

    return unpack


def _sequence(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Invalid(f"expected an array, got {type(value).__name__}", reason="malformed-encoding")
    return value


def _enum_of(cls: type[enum.IntEnum] | type[enum.IntFlag]) -> _Unpack:
    def unpack(value: Any) -> Any:
        number = _expect(int, "an integer")(value)
        try:
            member = cls(number)
        except ValueError:
            member = None
        # An IntFlag keeps unknown bits silently, so name them here.
        if member is None or (
            issubclass(cls, enum.IntFlag) and int(number) & ~sum(int(flag) for flag in cls)
        ):
            raise Invalid(f"{cls.__name__} {number} is unknown", reason="unknown-value")
        return member

    return unpack


def _bool(value: Any) -> bool:
    if type(value) is not int or value not in (0, 1):
        raise Invalid("expected 0 or 1", reason="malformed-encoding")
    return bool(value)


def _compile(hint: Any) -> tuple[_Pack, _Unpack]:
    """The functions that turn one field into a CBOR value and back."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"unsupported union {hint}")
        pack, unpack = _compile(inner[0])

        def unpack_optional(value: Any) -> Any:
            items = _sequence(value)
            if len(items) > 1:
                raise Invalid("expected at most one element", reason="malformed-encoding")
            return unpack(items[0]) if items else None

        return (lambda v: [] if v is None else [pack(v)]), unpack_optional
    if origin is tuple:
        args = typing.get_args(hint)
        if len(args) != 2 or args[1] is not Ellipsis:
            raise TypeError(f"unsupported tuple {hint}")
        pack, unpack = _compile(args[0])
        return (
            lambda v: [pack(item) for item in v],
            lambda v: tuple(unpack(item) for item in _sequence(v)),
        )
    if not isinstance(hint, type):
        raise TypeError(f"unsupported field type {hint}")
    if hint is bool:
        return int, _bool
    if issubclass(hint, (enum.IntEnum, enum.IntFlag)):
        return int, _enum_of(hint)
    if hint is int:
        return int, _expect(int, "an integer")
    if hint is str:
        return str, _expect(str, "text")
    if issubclass(hint, FixedBytes):
        as_bytes = _expect(bytes, "bytes")
        return bytes, lambda v: hint(as_bytes(v))
    if hint is bytes:
        return bytes, _expect(bytes, "bytes")
    if issubclass(hint, Encoded):
        return (lambda v: v.fields()), hint.from_fields
    raise TypeError(f"unsupported field type {hint}")


class Encoded:
    """Base of frozen dataclasses with canonical bytes ``[KIND, VERSION, fields...]``.

    A new version of a type is a new class with the same ``KIND`` and the next
    ``VERSION``; the old class stays as the reader for old bytes.
    """

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_BYTES

    @classmethod
    def _codec(cls) -> tuple[tuple[str, _Pack, _Unpack], ...]:
        cached = cls.__dict__.get("_codec_cache")
        if cached is None:
            hints = typing.get_type_hints(cls)
            cached = tuple(
                (field.name, *_compile(hints[field.name]))
                for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            )
            cls._codec_cache = cached  # type: ignore[attr-defined]
        return typing.cast(tuple[tuple[str, _Pack, _Unpack], ...], cached)

    def fields(self) -> list[Any]:
        """The field values as a CBOR array, without kind and version."""
        return [pack(getattr(self, name)) for name, pack, _ in self._codec()]

    @classmethod
    def from_fields(cls, values: Any) -> Self:
        """The inverse of :meth:`fields`.

        Raises:
            Invalid: wrong number or type of fields, or a value the type refuses.
        """
        codec = cls._codec()
        items = _sequence(values)
        if len(items) != len(codec):
            raise Invalid(
                f"{cls.KIND}: expected {len(codec)} fields, got {len(items)}",
                reason="malformed-encoding",
            )
        return cls(*(unpack(item) for (_, _, unpack), item in zip(codec, items, strict=True)))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return dumps([self.KIND, self.VERSION, *self.fields()])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read canonical bytes of exactly this kind and version.

        Raises:
            Invalid: not canonical, another kind, an unknown version, or fields
                of the wrong shape.
        """
        value = _sequence(loads(data, max_bytes=cls.MAX_BYTES))
        if len(value) < 2 or value[0] != cls.KIND:
            raise Invalid(f"these bytes are not a {cls.KIND}", reason="malformed-encoding")
        if value[1] != cls.VERSION:
            raise Invalid(
                f"{cls.KIND} version {value[1]!r} is unknown to this software "
                f"(it reads version {cls.VERSION}): upgrade it",
                reason="unknown-version",
            )
        return cls.from_fields(value[2:])
