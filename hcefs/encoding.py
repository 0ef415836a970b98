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

Invariants: ``decode`` accepts only what ``encode`` produces: what was parsed is
encoded again and compared, so that two byte strings never mean the same value.
Input is never trusted: size first, then shape, then types; the error is
:class:`Invalid`.

Every transaction of the ledger is decoded on every node, so each class gets two
functions of its own, written from its fields as ``dataclasses`` writes
``__init__``.  They accept nothing that the plain path does not: whatever they
stumble over is read again by :func:`loads`, which says why it is refused.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Self, TypeVar

import cbor2

from hcefs.errors import Invalid
from hcefs.ids import FixedBytes

Value = int | bytes | str | Sequence["Value"]
"""What deterministic CBOR here may contain."""

MAX_BYTES = 1 << 20
"""Default bound on encoded bytes taken from disk or network."""

_MAX_DEPTH = 12
_INT_MIN, _INT_END = -(1 << 63), 1 << 64


class _NoTags(dict[int, Any]):
    """Decoders of tagged values: asked for any, the parser fails.

    So nothing is parsed that stands for more than itself (tags 25 and 28 refer to
    other values) or costs more than its length, and no tag has to be looked for.
    """

    def __missing__(self, tag: int) -> NoReturn:
        raise ValueError(f"tag {tag}")


_NO_TAGS = _NoTags()


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
        value = _parse(data)
    except Exception as error:  # noqa: BLE001 - the library raises many types on malformed input
        raise Invalid(
            f"not deterministic CBOR: {type(error).__name__}", reason="malformed-encoding"
        ) from None
    _check(value, 0)
    if dumps(value) != bytes(data):
        raise Invalid("not deterministic CBOR: encoded differently", reason="malformed-encoding")
    return value


def _parse(data: bytes) -> Any:
    return cbor2.loads(data, semantic_decoders=_NO_TAGS)


def _check(value: Any, depth: int) -> None:
    """Check types and depth."""
    if depth > _MAX_DEPTH:
        raise Invalid("not deterministic CBOR: nested too deeply", reason="malformed-encoding")
    kind = type(value)
    if kind is list:
        for item in value:
            _check(item, depth + 1)
    elif kind is int:
        if not _INT_MIN <= value < _INT_END:
            raise Invalid("integer beyond 64 bits", reason="malformed-encoding")
    elif kind not in (bytes, str):
        raise Invalid(f"type {kind.__name__} is not allowed here", reason="malformed-encoding")


_Write = Callable[[Any], bytes]
_Unpack = Callable[[Any], Any]

_INT, _BYTES, _TEXT, _ARRAY = 0x00, 0x40, 0x60, 0x80
"""Major types of CBOR, in the upper three bits."""


def _head(major: int, number: int) -> bytes:
    """The first bytes of a value: its major type with an integer below 2^64, shortest form."""
    if number < 24:
        return bytes((major | number,))
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes((major | extra,)) + number.to_bytes(size, "big")
    raise OverflowError(number)


_TABLE = 256
_INT_HEADS = tuple(_head(_INT, number) for number in range(_TABLE))
_BYTES_HEADS = tuple(_head(_BYTES, number) for number in range(_TABLE))


def _write_int(value: int) -> bytes:
    if 0 <= value < _TABLE:
        return _INT_HEADS[value]
    if 1 << 32 <= value < _INT_END:  # a time in milliseconds
        return b"\x1b" + value.to_bytes(8, "big")
    return dumps(int(value))


def _write_bytes(value: bytes) -> bytes:
    size = len(value)
    return (_BYTES_HEADS[size] if size < _TABLE else _head(_BYTES, size)) + value


def _write_text(value: str) -> bytes:
    data = value.encode()
    return _head(_TEXT, len(data)) + data


def _wrong(what: str, value: Any) -> NoReturn:
    if what == "an integer" and type(value) is int:
        raise Invalid("integer beyond 64 bits", reason="malformed-encoding")
    raise Invalid(f"expected {what}, got {type(value).__name__}", reason="malformed-encoding")


def _sequence(value: Any) -> list[Any]:
    if type(value) is not list:
        _wrong("an array", value)
    return value


def _enum_of(cls: type[enum.IntEnum] | type[enum.IntFlag]) -> _Unpack:
    # An IntFlag keeps unknown bits silently, so say which ones it has.
    known = sum(int(flag) for flag in cls) if issubclass(cls, enum.IntFlag) else -1

    def unpack(value: Any) -> Any:
        if type(value) is not int:
            _wrong("an integer", value)
        try:
            member = cls(value) if not value & ~known else None
        except ValueError:
            member = None
        if member is None:
            raise Invalid(f"{cls.__name__} {value} is unknown", reason="unknown-value")
        return member

    return unpack


def _bool(value: Any) -> bool:
    if type(value) is not int or value not in (0, 1):
        raise Invalid("expected 0 or 1", reason="malformed-encoding")
    return bool(value)


def _optional(hint: Any) -> tuple[_Write, _Unpack]:
    inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"unsupported union {hint}")
    write, unpack = _codec_of(inner[0])

    def unpack_optional(value: Any) -> Any:
        items = _sequence(value)
        if len(items) > 1:
            raise Invalid("expected at most one element", reason="malformed-encoding")
        return unpack(items[0]) if items else None

    return (lambda v: b"\x80" if v is None else b"\x81" + write(v)), unpack_optional


def _tuple(hint: Any) -> tuple[_Write, _Unpack]:
    args = typing.get_args(hint)
    if len(args) != 2 or args[1] is not Ellipsis:
        raise TypeError(f"unsupported tuple {hint}")
    write, unpack = _codec_of(args[0])
    return (
        lambda v: _head(_ARRAY, len(v)) + b"".join([write(item) for item in v]),
        lambda v: tuple([unpack(item) for item in _sequence(v)]),
    )


def _codec_of(hint: Any) -> tuple[_Write, _Unpack]:
    """The functions that write a value of a type and convert one that was parsed."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _optional(hint)
    if origin is tuple:
        return _tuple(hint)
    if not isinstance(hint, type):
        raise TypeError(f"unsupported field type {hint}")
    if hint is bool:
        return _write_int, _bool
    if issubclass(hint, (enum.IntEnum, enum.IntFlag)):
        return (lambda v: _write_int(int(v))), _enum_of(hint)
    if issubclass(hint, Encoded):
        made = hint._functions()
        return made.inside, made.unpack
    write, check = _plain(hint)
    scope: dict[str, Any] = {"hint": hint, "new": bytes.__new__, "wrong": _wrong}
    source = f"def unpack(v):\n{check('v', 'hint')}\n return v"
    exec(source, scope)  # noqa: S102 - made of the lines of _plain alone
    return write, scope["unpack"]


_CHECK_INT = " if type({v}) is not int or not {low} <= {v} < {end}: wrong('an integer', {v})"
_CHECK_TEXT = " if type({v}) is not str: wrong('text', {v})"
_CHECK_BYTES = " if type({v}) is not bytes: wrong('bytes', {v})"
# The length is compared here too, because the call of a constructor costs more.
_CHECK_ID = _CHECK_BYTES + "\n {v} = new({hint}, {v}) if len({v}) == {hint}.SIZE else {hint}({v})"


def _plain(hint: type) -> tuple[_Write, Callable[[str, str], str]]:
    """How a plain type is written, and the lines that check and convert a variable.

    Raises:
        TypeError: a type that has no encoding.
    """
    write: _Write
    if hint is int:
        write, lines = _write_int, _CHECK_INT
    elif hint is str:
        write, lines = _write_text, _CHECK_TEXT
    elif hint is bytes:
        write, lines = _write_bytes, _CHECK_BYTES
    elif issubclass(hint, FixedBytes):
        write, lines = _write_bytes, _CHECK_ID
    else:
        raise TypeError(f"unsupported field type {hint}")
    return write, lambda v, name: lines.format(v=v, hint=name, low=_INT_MIN, end=_INT_END)


def _is_plain(hint: Any) -> bool:
    return isinstance(hint, type) and not issubclass(hint, (Encoded, enum.Enum, bool))


class _Functions(typing.NamedTuple):
    """What is made for a class.

    ``inside`` writes the array of its fields as a part of another value, ``outside``
    with kind and version; ``unpack`` is given the parsed array of the fields.
    """

    inside: _Write
    outside: _Write
    unpack: _Unpack


def _functions_of(cls: type[Encoded]) -> _Functions:
    hints = typing.get_type_hints(cls)
    scope: dict[str, Any] = {"cls": cls, "new": bytes.__new__, "wrong": _wrong, "count": _count}
    lines: list[str] = []
    named = [
        (f"v{number}", field.name)
        for number, field in enumerate(dataclasses.fields(cls))  # type: ignore[arg-type]
    ]
    values = [value for value, _ in named]
    for value, name in named:
        hint = hints[name]
        if _is_plain(hint):
            scope[f"w{value}"], check = _plain(hint)
            scope[f"t{value}"] = hint
            lines.append(check(value, f"t{value}"))
        else:
            scope[f"w{value}"], scope[f"u{value}"] = _codec_of(hint)
            lines.append(f" {value} = u{value}({value})")
    names = ", ".join(values)
    fields = "".join(f"w{value}(o.{name}), " for value, name in named)
    inside = _head(_ARRAY, len(values))
    outside = _head(_ARRAY, 2 + len(values)) + _write_text(cls.KIND) + _write_int(cls.VERSION)
    source = "\n".join(
        (
            f"def inside(o):\n return b''.join(({inside!r}, {fields}))",
            f"def outside(o):\n return b''.join(({outside!r}, {fields}))",
            "def unpack(values):",
            f" if type(values) is not list or len(values) != {len(values)}: count(cls, values)",
            f" [{names}] = values",
            *lines,
            f" return cls({names})",
        )
    )
    exec(source, scope)  # noqa: S102 - made of field names and the lines above alone
    return _Functions(scope["inside"], scope["outside"], scope["unpack"])


def _count(cls: type[Encoded], values: Any) -> NoReturn:
    raise Invalid(
        f"{cls.KIND}: expected {len(dataclasses.fields(cls))} fields, "  # type: ignore[arg-type]
        f"got {len(_sequence(values))}",
        reason="malformed-encoding",
    )


class Encoded:
    """Base of frozen dataclasses with canonical bytes ``[KIND, VERSION, fields...]``.

    A new version of a type is a new class with the same ``KIND`` and the next
    ``VERSION``; the old class stays as the reader for old bytes.
    """

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_BYTES

    @classmethod
    def _functions(cls) -> _Functions:
        made: _Functions | None = cls.__dict__.get("_made_functions")
        if made is None:
            made = _functions_of(cls)
            cls._made_functions = made  # type: ignore[attr-defined]
        return made

    def fields(self) -> list[Any]:
        """The field values as a CBOR array, without kind and version."""
        return _sequence(_parse(self._functions().inside(self)))

    @classmethod
    def from_fields(cls, values: Any) -> Self:
        """The inverse of :meth:`fields`.

        Raises:
            Invalid: wrong number or type of fields, or a value the type refuses.
        """
        return typing.cast(Self, cls._functions().unpack(values))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return self._functions().outside(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read canonical bytes of exactly this kind and version.

        Raises:
            Invalid: not canonical, another kind, an unknown version, or fields
                of the wrong shape.
        """
        quick = decode_quickly({(cls.KIND, cls.VERSION): cls}, data, max_bytes=cls.MAX_BYTES)
        if quick is not None:
            return quick
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


_E = TypeVar("_E", bound=Encoded)


def decode_quickly(
    classes: Mapping[tuple[str, int], type[_E]], data: bytes, *, max_bytes: int
) -> _E | None:
    """What canonical bytes of one of the classes mean; None says nothing: use :func:`loads`.

    The parser saw no tag, so a class's function visits all that was parsed, and the
    comparison proves that it was written in the only way.
    """
    if type(data) is not bytes or len(data) > max_bytes:
        return None
    try:
        value = _parse(data)
        kind, version = value[:2]
        # Of these exact types, because 1 and true are equal in Python.
        if type(value) is not list or type(kind) is not str or type(version) is not int:
            return None
        found = classes[kind, version].from_fields(value[2:])
        return found if dumps(value) == data else None
    except Exception:  # noqa: BLE001 - the plain path finds out what is wrong, and says it
        return None
