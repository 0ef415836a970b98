"""docs/FORMATS.md says what the code does: every field, offset, tag and enumeration.

A type without a table fails here; the message is the table to fill in.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import re
import struct
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hcefs
from hcefs.encoding import Encoded
from hcefs.formats import shard
from hcefs.formats.shard import ShardFooter, ShardHeader
from hcefs.ids import BlobBase, FixedBytes
from hcefs.integrity import crc32c

PACKAGE = Path(hcefs.__file__).parent
DOCUMENT = (PACKAGE.parent / "docs" / "FORMATS.md").read_text("utf-8")

Row = tuple[str, ...]


def _modules() -> Iterator[str]:
    """The modules that define stored or signed types: those that derive from ``Encoded``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^ *class \w+\([^)]*\bEncoded\b", path.read_text("utf-8"), re.MULTILINE):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__")


def encoded_types() -> list[type[Encoded]]:
    """Every Encoded dataclass of hcefs."""
    for name in _modules():
        importlib.import_module(name)
    found: list[type[Encoded]] = []
    waiting = list(Encoded.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if cls.__module__.startswith("hcefs.") and dataclasses.is_dataclass(cls):
            found.append(cls)
    return sorted(found, key=qualified)


def qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def type_text(hint: Any) -> str:
    """How the document writes a field's type."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return type_text(inner) + "?"
    if typing.get_origin(hint) is tuple:
        return f"[{type_text(typing.get_args(hint)[0])}]"
    names = {str: "text", bytes: "bytes", int: "int", bool: "bool"}
    return names.get(hint) or str(hint.__name__)


def code_rows(cls: type[Encoded]) -> list[Row]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return [
        (str(position), f"`{field.name}`", type_text(hints[field.name]))
        for position, field in enumerate(fields, 2)
    ]


def heading(cls: type[Encoded]) -> str:
    return f"### `{cls.KIND}` version {cls.VERSION}: `{qualified(cls)}`"


def _cells(line: str) -> Row:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def table_after(title: str) -> list[Row]:
    """The rows of the first table behind a heading that is exactly ``title``."""
    lines = iter(DOCUMENT.splitlines())
    if title not in lines:  # consumes up to and including the title
        pytest.fail(f"docs/FORMATS.md has no heading {title!r}")
    rows: list[Row] = []
    for line in lines:
        if line.startswith("#"):
            break
        if line.startswith("|"):
            rows.append(_cells(line))
        elif rows:
            break
    return rows[2:]


TYPES = encoded_types()


@pytest.mark.parametrize("cls", TYPES, ids=qualified)
def test_every_type_has_the_right_table(cls: type[Encoded]) -> None:
    expected = code_rows(cls)
    skeleton = "\n".join(
        [heading(cls), "", "| # | field | type | meaning |", "|---|---|---|---|"]
        + [f"| {' | '.join(row)} | ... |" for row in expected]
    )
    if heading(cls) not in DOCUMENT.splitlines():
        pytest.fail(f"docs/FORMATS.md needs this section:\n\n{skeleton}\n")
    rows = table_after(heading(cls))
    assert [row[:3] for row in rows] == expected, f"docs/FORMATS.md should say:\n\n{skeleton}\n"
    assert all(len(row) == 4 and row[3] for row in rows), "a field without a meaning"


def test_no_table_describes_a_type_that_is_gone() -> None:
    described = set(re.findall(r"^### `[a-z0-9-]+` version \d+: `.+`$", DOCUMENT, re.MULTILINE))
    assert described == {heading(cls) for cls in TYPES}


def test_kinds_name_one_type_each() -> None:
    kinds = [(cls.KIND, cls.VERSION) for cls in TYPES]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("cls", TYPES, ids=qualified)
def test_bounds_other_than_the_default_are_in_the_table_of_bounds(cls: type[Encoded]) -> None:
    bounds = {row[0]: row[1] for row in table_after("### Bounds")}
    if cls.MAX_BYTES == Encoded.MAX_BYTES:
        assert f"`{cls.KIND}`" not in bounds
    else:
        assert bounds.get(f"`{cls.KIND}`") == str(cls.MAX_BYTES)


def _enumerations() -> list[type[enum.IntEnum] | type[enum.IntFlag]]:
    found: set[type[enum.IntEnum] | type[enum.IntFlag]] = set()
    for cls in TYPES:
        found.update(
            hint
            for hint in typing.get_type_hints(cls).values()
            if isinstance(hint, type) and issubclass(hint, enum.IntEnum | enum.IntFlag)
        )
    return sorted(found, key=qualified)


@pytest.mark.parametrize("cls", _enumerations(), ids=qualified)
def test_enumerations(cls: type[enum.IntEnum] | type[enum.IntFlag]) -> None:
    rows = table_after(f"### Enumeration `{qualified(cls)}`")
    assert [row[:2] for row in rows] == [(str(int(member)), member.name) for member in cls]


def test_identifiers() -> None:
    rows = {row[0]: (row[1], row[2]) for row in table_after("### Identifiers")}
    expected = {
        f"`{cls.__name__}`": (str(cls.SIZE), f"`{cls.PREFIX}-`")
        for cls in FixedBytes.__subclasses__()
        if cls.__module__ == "hcefs.ids"
    }
    assert rows == expected


def test_tags() -> None:
    rows = table_after("### Domain tags")
    for constant, value, *_ in rows:
        module, _, name = constant.strip("`").rpartition(".")
        found: bytes = getattr(importlib.import_module(module), name)
        assert value.strip("`") == found.decode().replace("\x00", "\\0"), constant


HEADER = ShardHeader(BlobBase(bytes(range(16))), 5, "ec-4-2", 4, 2, 1 << 20)
FOOTER = ShardFooter.of(2_500_000, bytes(range(96)))


def _number(value: int) -> Callable[[int], bytes]:
    return lambda size: value.to_bytes(size, "big")


def _offset_cases() -> list[tuple[str, bytes, dict[str, bytes | Callable[[int], bytes]]]]:
    head, foot = HEADER.encode(), FOOTER.encode()
    return [
        (
            "### Shard header",
            head,
            {
                "magic": b"HCEFSHRD",
                "version": _number(1),
                "base": bytes(HEADER.base),
                "index": _number(5),
                "profile": b"ec-4-2".ljust(16, b"\x00"),
                "k": _number(4),
                "m": _number(2),
                "segment_size": _number(1 << 20),
                "reserved": bytes,
                "crc32c": struct.pack(">I", crc32c(head[:-4])),
            },
        ),
        (
            "### Shard trailer",
            foot[-shard.TRAILER_SIZE :],
            {
                "plaintext_length": _number(2_500_000),
                "pieces": _number(3),
                "shard_digest": FOOTER.shard_digest,
                "version": _number(1),
                "reserved": bytes,
                "crc32c": struct.pack(">I", crc32c(foot[:-12])),
                "magic": b"HCEFSEND",
            },
        ),
    ]


@pytest.mark.parametrize(("title", "data", "expected"), _offset_cases(), ids=["header", "trailer"])
def test_offsets_of_the_shard_file(
    title: str, data: bytes, expected: dict[str, bytes | Callable[[int], bytes]]
) -> None:
    end = 0
    names = []
    for offset_text, size_text, field, *_ in table_after(title):
        offset, size, name = int(offset_text), int(size_text), field.strip("`")
        assert offset == end, f"{name} does not follow the field before it"
        end = offset + size
        value = expected[name]
        assert data[offset:end] == (value if isinstance(value, bytes) else value(size)), name
        names.append(name)
    assert end == len(data)
    assert names == list(expected)
