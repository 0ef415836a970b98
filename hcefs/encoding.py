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


_Pack = Callable[[Any], Any]
_Unpack = Callable[[Any], Any]


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


def _optional(hint: Any) -> tuple[_Pack, _Unpack]:
    inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"unsupported union {hint}")
    pack, unpack = _codec_of(inner[0])

    def unpack_optional(value: Any) -> Any:
        items = _sequence(value)
        if len(items) > 1:
            raise Invalid("expected at most one element", reason="malformed-encoding")
        return unpack(items[0]) if items else None

    return (lambda v: [] if v is None else [pack(v)]), unpack_optional


def _tuple(hint: Any) -> tuple[_Pack, _Unpack]:
    args = typing.get_args(hint)
    if len(args) != 2 or args[1] is not Ellipsis:
        raise TypeError(f"unsupported tuple {hint}")
    pack, unpack = _codec_of(args[0])
    return (
        lambda v: [pack(item) for item in v],
        lambda v: tuple([unpack(item) for item in _sequence(v)]),
    )


def _codec_of(hint: Any) -> tuple[_Pack, _Unpack]:
    """The functions that turn a value of a type into a CBOR value and back."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _optional(hint)
    if origin is tuple:
        return _tuple(hint)
    if not isinstance(hint, type):
        raise TypeError(f"unsupported field type {hint}")
    if hint is bool:
        return int, _bool
    if issubclass(hint, (enum.IntEnum, enum.IntFlag)):
        return int, _enum_of(hint)
    if issubclass(hint, Encoded):
        return hint._functions()
    inline = _inline(hint)
    scope: dict[str, Any] = {"hint": hint, "new": bytes.__new__, "wrong": _wrong}
    source = f"def unpack(v):\n{inline.check('v', 'hint')}\n return v"
    exec(source, scope)  # noqa: S102 - made of the names in _inline alone
    return inline.pack, scope["unpack"]


@dataclasses.dataclass(frozen=True)
class _Inline:
    """How a plain type is packed, and the lines that check and convert ``{v}``."""

    pack: type
    lines: str

    def check(self, value: str, hint: str) -> str:
        return self.lines.format(v=value, hint=hint, low=_INT_MIN, end=_INT_END)


_INT = _Inline(
    int, " if type({v}) is not int or not {low} <= {v} < {end}: wrong('an integer', {v})"
)
_STR = _Inline(str, " if type({v}) is not str: wrong('text', {v})")
_BYTES = _Inline(bytes, " if type({v}) is not bytes: wrong('bytes', {v})")
_ID = _Inline(
    bytes,
    # The length is checked here too, because the call of a constructor costs more than it.
    _BYTES.lines + "\n {v} = new({hint}, {v}) if len({v}) == {hint}.SIZE else {hint}({v})",
)


def _inline(hint: type) -> _Inline:
    """
    Raises:
        TypeError: a type that has no encoding.
    """
    if hint is int:
        return _INT
    if hint is str:
        return _STR
    if hint is bytes:
        return _BYTES
    if issubclass(hint, FixedBytes):
        return _ID
    raise TypeError(f"unsupported field type {hint}")


def _write(cls: type[Encoded]) -> tuple[_Pack, _Unpack]:
    """The functions of a class: ``pack(self) -> list`` and ``unpack(list) -> cls``."""
    hints = typing.get_type_hints(cls)
    scope: dict[str, Any] = {"cls": cls, "new": bytes.__new__, "wrong": _wrong, "count": _count}
    packed: list[str] = []
    lines: list[str] = []
    values: list[str] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint, value = hints[field.name], f"v{len(values)}"
        values.append(value)
        if (
            hint is not bool
            and isinstance(hint, type)
            and not issubclass(hint, (Encoded, enum.Enum))
        ):
            inline = _inline(hint)
            scope[f"t{value}"] = hint
            packed.append(f"{inline.pack.__name__}(o.{field.name})")
            lines.append(inline.check(value, f"t{value}"))
        else:
            scope[f"p{value}"], scope[f"u{value}"] = _codec_of(hint)
            packed.append(f"p{value}(o.{field.name})")
            lines.append(f" {value} = u{value}({value})")
    names = ", ".join(values)
    source = "\n".join(
        (
            "def pack(o):",
            f" return [{', '.join(packed)}]",
            "def unpack(values):",
            f" if type(values) is not list or len(values) != {len(values)}: count(cls, values)",
            f" [{names}] = values",
            *lines,
            f" return cls({names})",
        )
    )
    exec(source, scope)  # noqa: S102 - made of field names and the lines above alone
    return scope["pack"], scope["unpack"]


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
    def _functions(cls) -> tuple[_Pack, _Unpack]:
        made = cls.__dict__.get("_made_functions")
        if made is None:
            made = _write(cls)
            cls._made_functions = made  # type: ignore[attr-defined]
        return typing.cast(tuple[_Pack, _Unpack], made)

    def fields(self) -> list[Any]:
        """The field values as a CBOR array, without kind and version."""
        return typing.cast(list[Any], self._functions()[0](self))

    @classmethod
    def from_fields(cls, values: Any) -> Self:
        """The inverse of :meth:`fields`.

        Raises:
            Invalid: wrong number or type of fields, or a value the type refuses.
        """
        return typing.cast(Self, cls._functions()[1](values))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return dumps([self.KIND, self.VERSION, *self._functions()[0](self)])

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
