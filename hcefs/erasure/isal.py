"""The ISA-L kernel on zfec's matrix, called through ctypes.

Owns: finding and loading libisal, arithmetic over GF(2^8) for decode matrices,
and the addresses of the caller's buffers.  Systematic code: piece i < k is data
piece i; piece k + r is the sum over j of ``matrix[r][j] * data[j]``.

Invariants: a kernel is immutable after construction and may be used by any
number of threads at once (tables are read only, pointer arrays belong to one
call, ctypes releases the GIL); every buffer stays exported for the whole call,
so that it cannot be resized or freed under the kernel.

Not guaranteed: outputs that overlap inputs.

Source: Intel ISA-L ``erasure_code.h``; zfec (polynomial 0x11D, the same field);
Plank, "Erasure Codes for Storage Systems" (inversion of the surviving rows).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hcefs.errors import Invalid, Unavailable

Buffer = bytes | bytearray | memoryview
WritableBuffer = bytearray | memoryview
Matrix = tuple[bytes, ...]
"""Rows of coefficients over GF(2^8)."""

DECODE_TABLES_MAX = 1024
"""Bound on cached decode tables of one kernel; 10+4 has 1,001 sets of survivors."""

_POLYNOMIAL = 0x11D
_TABLE_BYTES = 32
_LENGTH_MAX = (1 << 31) - 1


def _field_tables() -> tuple[bytes, bytes]:
    exponents, logarithms, value = bytearray(510), bytearray(256), 1
    for power in range(255):
        exponents[power] = exponents[power + 255] = value
        logarithms[value] = power
        value <<= 1
        if value & 0x100:
            value ^= _POLYNOMIAL
    return bytes(exponents), bytes(logarithms)


_EXP, _LOG = _field_tables()


def multiply(a: int, b: int) -> int:
    """The product in GF(2^8)."""
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def _scaled(row: bytes, factor: int) -> bytes:
    return bytes(multiply(value, factor) for value in row)


def _added(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def invert(matrix: Matrix) -> Matrix:
    """The inverse of a square matrix over GF(2^8), by Gauss-Jordan elimination.

    Raises:
        Invalid: the matrix is singular; k distinct rows of zfec's code never are.
    """
    size = len(matrix)
    rows = [bytes(row) + _unit(size, i) for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next((i for i in range(column, size) if rows[i][column]), None)
        if pivot is None:
            raise Invalid("the matrix is singular: check k and m", reason="bad-profile")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = _EXP[255 - _LOG[rows[column][column]]]
        rows[column] = _scaled(rows[column], inverse)
        for i in range(size):
            if i != column and rows[i][column]:
                rows[i] = _added(rows[i], _scaled(rows[column], rows[i][column]))
    return tuple(row[size:] for row in rows)


def _unit(size: int, position: int) -> bytes:
    row = bytearray(size)
    row[position] = 1
    return bytes(row)


def rebuild_matrix(
    k: int, parity: Matrix, survivors: Sequence[int], wanted: Sequence[int]
) -> Matrix:
    """The rows that make the wanted pieces out of the k surviving ones.

    With S the rows of the code that survived, data = S^-1 * survivors, and a
    parity piece is its own row times that: one multiplication gives both.
    """
    identity = tuple(_unit(k, i) for i in range(k))
    code = identity + parity
    inverse = invert(tuple(code[index] for index in survivors))
    rows = []
    for index in wanted:
        row = bytes(k)
        for coefficient, source in zip(code[index], inverse, strict=True):
            if coefficient:
                row = _added(row, _scaled(source, coefficient))
        rows.append(row)
    return tuple(rows)


class _View(ctypes.Structure):
    """``Py_buffer``: part of CPython's stable ABI since 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


# pythonapi keeps the GIL and raises what the call raised.  Prototypes of our own:
# argtypes set on ctypes.pythonapi itself would be shared with other libraries.
_get_buffer = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release_buffer = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("PyBuffer_Release", ctypes.pythonapi))
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_PYBUF_SIMPLE, _PYBUF_WRITABLE = 0, 1
_VIEW_SIZE = ctypes.sizeof(_View)


def _new_piece(length: int) -> bytes:
    """Uninitialized bytes for the kernel to fill before anyone else sees them.

    This is how the C API says to build bytes in place; it saves zeroing and a copy.
    """
    piece: bytes = _new_bytes(None, length)
    return piece


class _Exports:
    """Addresses of buffers, valid inside the ``with`` block."""

    def __init__(self, readable: Sequence[Buffer], writable: Sequence[Buffer], fresh: bool) -> None:
        self._buffers = (*readable, *writable)
        self._writable_from = len(self._buffers) if fresh else len(readable)
        self._views = (_View * len(self._buffers))()
        self._held = 0

    def __enter__(self) -> list[int]:
        base = ctypes.addressof(self._views)
        try:
            for position, buffer in enumerate(self._buffers):
                flags = _PYBUF_WRITABLE if position >= self._writable_from else _PYBUF_SIMPLE
                _get_buffer(buffer, base + position * _VIEW_SIZE, flags)
                self._held += 1
        except (BufferError, TypeError) as error:
            self.__exit__()
            raise Invalid(
                f"pieces need contiguous buffers, outputs writable ones: {error}",
                reason="bad-buffer",
            ) from None
        return [view.buf for view in self._views]

    def __exit__(self, *_: object) -> None:
        base = ctypes.addressof(self._views)
        for position in range(self._held):
            _release_buffer(base + position * _VIEW_SIZE)
        self._held = 0


def _candidates() -> Iterator[str]:
    """Where libisal may be: the pyeclib wheel, then the system."""
    spec = importlib.util.find_spec("pyeclib")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        for folder in (package.parent / "pyeclib.libs", package / ".dylibs"):
            yield from (str(path) for path in sorted(folder.glob("libisal*")))
    yield from ("libisal.so.2", "libisal.2.dylib")


@functools.lru_cache(maxsize=1)
def load_library() -> Any:
    """The loaded libisal with its two functions declared.

    Raises:
        Unavailable: it is not installed, or is not ISA-L.
    """
    for candidate in _candidates():
        try:
            library = ctypes.CDLL(candidate)
            # int k, int rows, matrix, tables
            library.ec_init_tables.argtypes = (
                ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p,
            )  # fmt: skip
            library.ec_init_tables.restype = None
            # int length, int k, int rows, tables, data pointers, output pointers
            library.ec_encode_data.argtypes = (
                ctypes.c_int, ctypes.c_int, ctypes.c_int,
                ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
            )  # fmt: skip
            library.ec_encode_data.restype = None
        except (OSError, AttributeError):
            continue
        return library
    raise Unavailable(
        "libisal was not found: install the pyeclib wheel or the package libisal2",
        reason="no-kernel",
    )


class IsalKernel:
    """Matrix multiplication over GF(2^8) with vector instructions.

    Buffers are contiguous and of one length; :class:`hcefs.erasure.codec.Codec`
    checks that.

    Raises:
        Unavailable: libisal is not installed.
    """

    name = "isal"

    def __init__(self, k: int, parity: Matrix) -> None:
        self._k = k
        self._library = load_library()
        self._parity_rows = len(parity)
        self._parity_tables = self._tables(parity)

        def decode_tables(survivors: tuple[int, ...], wanted: tuple[int, ...]) -> Any:
            return self._tables(rebuild_matrix(k, parity, survivors, wanted))

        self._decode_tables = functools.lru_cache(maxsize=DECODE_TABLES_MAX)(decode_tables)

    def _tables(self, matrix: Matrix) -> Any:
        tables = ctypes.create_string_buffer(_TABLE_BYTES * self._k * len(matrix))
        self._library.ec_init_tables(self._k, len(matrix), b"".join(matrix), tables)
        return tables

    def _multiply(
        self,
        tables: Any,
        sources: Sequence[Buffer],
        targets: Sequence[Buffer],
        length: int,
        *,
        fresh: bool,
    ) -> None:
        if length > _LENGTH_MAX:
            raise Invalid(
                f"a piece of {length} bytes is too long: use smaller segments", reason="bad-pieces"
            )
        if not length:
            return
        count = len(sources)
        with _Exports(sources, targets, fresh) as addresses:
            pointers = (ctypes.c_void_p * len(addresses))(*addresses)
            start = ctypes.addressof(pointers)
            self._library.ec_encode_data(
                length,
                count,
                len(targets),
                tables,
                start,
                start + count * ctypes.sizeof(ctypes.c_void_p),
            )

    def encode_into(
        self, data: Sequence[Buffer], parity: Sequence[WritableBuffer], length: int
    ) -> None:
        """Write the m parity pieces of k data pieces into the caller's buffers."""
        self._multiply(self._parity_tables, data, parity, length, fresh=False)

    def encode(self, data: Sequence[Buffer], length: int) -> list[bytes]:
        """The m parity pieces of k data pieces."""
        parity = [_new_piece(length) for _ in range(self._parity_rows)]
        self._multiply(self._parity_tables, data, parity, length, fresh=True)
        return parity

    def rebuild(
        self,
        survivors: tuple[int, ...],
        pieces: Sequence[Buffer],
        wanted: tuple[int, ...],
        length: int,
    ) -> list[bytes]:
        """The wanted pieces out of exactly k surviving ones."""
        tables = self._decode_tables(survivors, wanted)
        rebuilt = [_new_piece(length) for _ in wanted]
        self._multiply(tables, pieces, rebuilt, length, fresh=True)
        return rebuilt
