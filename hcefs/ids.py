"""Identifiers: fixed-size byte strings with a type, a check and a text form.

Each id is a subclass of ``bytes`` so that it sorts, hashes and encodes as the
bytes it is, while mypy keeps a record id from being taken for a grant id.  The
text form is ``prefix-hex``; it is what the CLI and the logs show.
"""

from __future__ import annotations

from typing import ClassVar, Self

from hcefs.errors import Invalid


class FixedBytes(bytes):
    """Base of all ids: exactly ``SIZE`` bytes.

    Raises:
        Invalid: the length is wrong, or a text form cannot be parsed.
    """

    SIZE: ClassVar[int]
    PREFIX: ClassVar[str]

    def __new__(cls, raw: bytes) -> Self:
        if len(raw) != cls.SIZE:
            raise Invalid(
                f"{cls.__name__} must have {cls.SIZE} bytes, got {len(raw)}", reason="bad-id"
            )
        return super().__new__(cls, raw)

    @property
    def text(self) -> str:
        """The ``prefix-hex`` form shown to people."""
        return f"{self.PREFIX}-{self.hex()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form (the prefix is required)."""
        head, _, tail = text.strip().partition("-")
        try:
            raw = bytes.fromhex(tail)
        except ValueError:
            raw = b""
        if head != cls.PREFIX or len(raw) != cls.SIZE:
            raise Invalid(
                f"{text[:80]!r} is not a {cls.__name__}: expected {cls.PREFIX}- and "
                f"{2 * cls.SIZE} hexadecimal digits",
                reason="bad-id",
            )
        return cls(raw)

    @classmethod
    def zero(cls) -> Self:
        """All zero bytes: 'none' in canonical encodings."""
        return cls(bytes(cls.SIZE))

    def __bool__(self) -> bool:
        return self != bytes(self.SIZE)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text})"


class ClusterId(FixedBytes):
    """A cluster: the first 16 bytes of the digest of its genesis."""

    SIZE = 16
    PREFIX = "clu"


class AccountId(FixedBytes):
    """A party on the ledger; derived from its first signing key."""

    SIZE = 16
    PREFIX = "acc"


class RecordId(FixedBytes):
    """A record: the unit of permission; random."""

    SIZE = 16
    PREFIX = "rec"


class GrantId(FixedBytes):
    """A grant; random.  All zero means 'as the owner, without a grant'."""

    SIZE = 16
    PREFIX = "grt"


class HoldId(FixedBytes):
    """A legal hold on a record; random."""

    SIZE = 16
    PREFIX = "hold"


class PutKey(FixedBytes):
    """Idempotency key of an append, remembered per account until ``commit_by``."""

    SIZE = 16
    PREFIX = "put"


class RequestId(FixedBytes):
    """Follows one request through all nodes; random."""

    SIZE = 16
    PREFIX = "req"


class AskId(FixedBytes):
    """A request for access that is on the ledger; random."""

    SIZE = 16
    PREFIX = "ask"


class BlobBase(FixedBytes):
    """The random part of a blob id; what placement hashes and shards are named by."""

    SIZE = 16
    PREFIX = "base"


class BlobId(FixedBytes):
    """A blob: 16-byte random base and a big-endian u16 slot (0 = not packed)."""

    SIZE = 18
    PREFIX = "blob"

    @classmethod
    def of(cls, base: bytes, slot: int = 0) -> Self:
        """The id of the payload in ``slot`` of the shards named by ``base``."""
        if not 0 <= slot <= 0xFFFF:
            raise Invalid(f"slot {slot} is outside 0..65535", reason="bad-id")
        return cls(BlobBase(base) + slot.to_bytes(2, "big"))

    @property
    def base(self) -> BlobBase:
        return BlobBase(self[:16])

    @property
    def slot(self) -> int:
        return int.from_bytes(self[16:], "big")
