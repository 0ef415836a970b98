"""Protobuf framing by hand for the four bulk messages: one copy out, none in.

Owns the bytes of ``PutRequest``, ``GetResponse``, ``StoreRequest`` and
``LoadResponse`` when they carry data.  All four have ``bytes data = 2`` in a
oneof; ``StoreRequest`` has ``fixed32 crc32c = 4`` as well.  The generated classes
copy a payload once more on either side; these functions do not.

Invariants: ``frame_data`` writes exactly what the generated class would; ``parse``
reads whatever the generated class reads (other field orders, unknown fields),
if need be by handing it the message.  So any generated client interoperates.

Not guaranteed: the checksum guards against accidents only; it is the caller who
compares it.  proto3 omits a zero, so a missing checksum *is* the checksum zero.

Source: the protobuf encoding, https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from hcefs.errors import Invalid

Buffer = bytes | bytearray | memoryview

_DATA_TAG = b"\x12"  # field 2, length-delimited
_CRC32C_TAG = b"\x25"  # field 4, 32 bits
_FIXED32 = struct.Struct("<I")
_CHECKSUM_SIZE = 1 + _FIXED32.size
_FAST_VARINT_SIZE = 4
"""Longer lengths (256 MiB and more) exceed every message limit: the generated parser may judge."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class DataFrame:
    """The payload of a data message.

    ``data`` is a view of the message that it came in.  ``crc32c`` is None when
    the message type has no checksum.
    """

    data: memoryview
    crc32c: int | None


# How the C API says to build bytes in place.  Prototypes of our own: argtypes set on
# ctypes.pythonapi itself would be shared with other libraries.
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyBytes_AsString", ctypes.pythonapi)
)
_view_of = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_WRITABLE = 0x200


class Frame:
    """A data message that is built in place, so that its payload is never copied into it.

    Use: fill the ``room``, call ``close``, then send ``message``.  With ``bare`` the
    message is the payload alone, without framing.

    Not guaranteed: anything about the room after ``close``, or once the frame is gone;
    views of ``data`` keep the bytes alive, views of the room do not.
    """

    __slots__ = ("_room", "_start", "data", "message")

    def __init__(self, size: int, *, checksummed: bool = False, bare: bool = False) -> None:
        head = b"" if bare else _DATA_TAG + _varint(size)
        tail = _CHECKSUM_SIZE if checksummed else 0
        self.message: bytes = _new_bytes(None, len(head) + size + tail)
        self._start = len(head)
        self._room: memoryview = _view_of(_address_of(self.message), len(self.message), _WRITABLE)
        self._room[: self._start] = head
        self.data = memoryview(self.message)[self._start : self._start + size]

    @property
    def room(self) -> memoryview:
        """Where the payload goes."""
        return self._room[self._start : self._start + len(self.data)]

    def close(self, crc32c: int | None = None) -> None:
        """Finish the message; ``crc32c`` of the payload, if it is to carry one."""
        end = self._start + len(self.data)
        if crc32c:
            self._room[end:] = _CRC32C_TAG + _FIXED32.pack(crc32c)
        self._room.release()
        if crc32c == 0:  # proto3 does not write a zero
            self.message = self.message[:end]


def frame_data(payload: Buffer, crc32c: int | None = None) -> bytes:
    """A data message with this payload; copies it once.

    ``crc32c`` is for ``StoreRequest`` only.

    Raises:
        Invalid: the checksum is not an unsigned 32-bit number.
    """
    return frame_pieces((payload,), crc32c)


def frame_pieces(pieces: Sequence[Buffer], crc32c: int | None = None, head: bytes = b"") -> bytes:
    """A data message whose payload is the pieces joined; copies each once.

    ``head`` are the encoded other fields of the message, to come before.

    Raises:
        Invalid: the checksum is not an unsigned 32-bit number.
    """
    size = sum(piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in pieces)
    parts: list[Buffer] = [head, _DATA_TAG, _varint(size), *pieces]
    if crc32c:  # proto3 does not write a zero
        if not 0 < crc32c < 1 << 32:
            raise Invalid("a CRC32C is an unsigned 32-bit number", reason="bad-checksum")
        parts += (_CRC32C_TAG, _FIXED32.pack(crc32c))
    return b"".join(parts)


def frame_field(tag: bytes, payload: Buffer, head: bytes) -> bytes:
    """A message of the encoded fields ``head`` and one bytes field; copies each once."""
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    return b"".join((head, tag, _varint(size), payload))


def parse(message: bytes, kind: type[M]) -> DataFrame | M:
    """Read one bulk message: a view of its payload, or the generated message.

    Raises:
        Invalid: malformed, or neither header, data nor trailer
            (``malformed-message``).
    """
    checksummed = _has_checksum(kind)
    fast = _parse_fast(message, checksummed)
    if fast is not None:
        return fast
    try:
        generated = kind.FromString(message)
    except DecodeError:
        raise Invalid(
            f"the bytes are not a {kind.DESCRIPTOR.name}: client and server disagree on the "
            "protocol",
            reason="malformed-message",
        ) from None
    part = generated.WhichOneof("message")
    if part is None:
        raise Invalid(
            f"a {kind.DESCRIPTOR.name} carries nothing that this version knows: client and server "
            "disagree on the protocol",
            reason="malformed-message",
        )
    if part == "data":
        fields: Any = generated  # the four classes have no common type with these fields
        return DataFrame(memoryview(fields.data), fields.crc32c if checksummed else None)
    return generated


def _parse_fast(message: bytes, checksummed: bool) -> DataFrame | None:
    """The payload of a message laid out as ``frame_data`` does, or None."""
    total = len(message)
    if total < 2 or message[0] != _DATA_TAG[0]:
        return None
    size = shift = 0
    start = 1
    while True:
        if start == total or start > _FAST_VARINT_SIZE:
            return None
        byte = message[start]
        start += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    end = start + size
    if end == total:
        return DataFrame(memoryview(message)[start:], 0 if checksummed else None)
    if checksummed and end + _CHECKSUM_SIZE == total and message[end] == _CRC32C_TAG[0]:
        (crc32c,) = _FIXED32.unpack_from(message, end + 1)
        return DataFrame(memoryview(message)[start:end], crc32c)
    return None


def _has_checksum(kind: type[Message]) -> bool:
    return "crc32c" in kind.DESCRIPTOR.fields_by_name


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
