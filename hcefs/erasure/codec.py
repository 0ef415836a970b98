"""Encoding and rebuilding the pieces of a stripe.

The code is zfec's: systematic Reed-Solomon over GF(2^8), polynomial 0x11D, whose
parity matrix is taken from zfec itself.  The kernel is ISA-L, byte-equal and many
times faster; zfec is the reference and the fallback.  With k = 1 every piece is a
copy of the data (which is also what zfec's matrix gives) and no kernel runs.

Invariants: the pieces of a stripe have one length; the result is the same bytes
whatever the kernel.  A new ISA-L codec is compared with zfec before it is used.
Codecs are immutable and safe to share between threads.

Not guaranteed: detection of damaged input; a damaged piece makes damaged output.
Check digests before or after (docs/ARCHITECTURE.md, "Data path").
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import zfec

from hcefs.erasure.isal import Buffer, IsalKernel, Matrix, WritableBuffer
from hcefs.erasure.scheme import Profile
from hcefs.errors import HcefsError, Internal, Invalid, Unavailable

PIECES_MAX = 256
"""Most pieces of a stripe: the number of elements of the field."""

_SELF_TEST_LENGTH = 193  # full vectors of every instruction set, and a tail

_log = logging.getLogger(__name__)


class Kernel(Protocol):
    """What computes pieces.  Counts, lengths and contiguity are already checked."""

    name: str

    def encode_into(
        self, data: Sequence[Buffer], parity: Sequence[WritableBuffer], length: int
    ) -> None:
        """Write the m parity pieces into the caller's buffers."""

    def encode(self, data: Sequence[Buffer], length: int) -> list[bytes]:
        """The m parity pieces."""

    def rebuild(
        self,
        survivors: tuple[int, ...],
        pieces: Sequence[Buffer],
        wanted: tuple[int, ...],
        length: int,
    ) -> list[bytes]:
        """The wanted pieces, out of k others whose indexes are ``survivors``."""


class _CopyKernel:
    """k = 1: every piece equals the only data piece."""

    name = "copy"

    def __init__(self, m: int) -> None:
        self._m = m

    def encode_into(
        self, data: Sequence[Buffer], parity: Sequence[WritableBuffer], length: int
    ) -> None:
        _copy_into([data[0]] * len(parity), parity)

    def encode(self, data: Sequence[Buffer], length: int) -> list[bytes]:
        return [bytes(data[0])] * self._m

    def rebuild(
        self,
        survivors: tuple[int, ...],
        pieces: Sequence[Buffer],
        wanted: tuple[int, ...],
        length: int,
    ) -> list[bytes]:
        return [bytes(pieces[0])] * len(wanted)


class _ZfecKernel:
    """zfec's own kernel: the reference."""

    name = "zfec"

    def __init__(self, k: int, m: int) -> None:
        self._k = k
        self._encoder = zfec.Encoder(k, k + m)
        self._decoder = zfec.Decoder(k, k + m)
        self._parity = tuple(range(k, k + m))

    def encode_into(
        self, data: Sequence[Buffer], parity: Sequence[WritableBuffer], length: int
    ) -> None:
        _copy_into(self.encode(data, length), parity)

    def encode(self, data: Sequence[Buffer], length: int) -> list[bytes]:
        if not length:
            return [b""] * len(self._parity)
        return [bytes(piece) for piece in self._encoder.encode(tuple(data), self._parity)]

    def rebuild(
        self,
        survivors: tuple[int, ...],
        pieces: Sequence[Buffer],
        wanted: tuple[int, ...],
        length: int,
    ) -> list[bytes]:
        if not length:
            return [b""] * len(wanted)
        data = tuple(self._decoder.decode(tuple(pieces), survivors))
        return [bytes(piece) for piece in self._encoder.encode(data, wanted)]


def _copy_into(pieces: Sequence[Buffer], targets: Sequence[WritableBuffer]) -> None:
    for piece, target in zip(pieces, targets, strict=True):
        memoryview(target).cast("B")[:] = memoryview(piece).cast("B")


def zfec_matrix(k: int, m: int) -> Matrix:
    """zfec's m x k parity matrix: the parity of the k unit vectors."""
    units = tuple(bytes(j == i for i in range(k)) for j in range(k))
    rows = zfec.Encoder(k, k + m).encode(units, tuple(range(k, k + m)))
    return tuple(bytes(row) for row in rows)


@functools.lru_cache(maxsize=64)
def _isal_kernel(k: int, m: int) -> IsalKernel:
    """An ISA-L kernel that agrees with zfec on a sample.

    Raises:
        Unavailable: libisal is not installed.
        Internal: it computes other bytes than zfec.
    """
    kernel, reference = IsalKernel(k, zfec_matrix(k, m)), _ZfecKernel(k, m)
    data = tuple(
        bytes((7 * i + 31 * j + i * j) & 0xFF for i in range(_SELF_TEST_LENGTH)) for j in range(k)
    )
    parity = reference.encode(data, _SELF_TEST_LENGTH)
    survivors, wanted = tuple(range(m, k + m))[:k], tuple(range(min(k, m)))
    pieces = [*data, *parity]
    rebuilt = kernel.rebuild(survivors, [pieces[i] for i in survivors], wanted, _SELF_TEST_LENGTH)
    if kernel.encode(data, _SELF_TEST_LENGTH) != parity or rebuilt != [data[i] for i in wanted]:
        raise Internal(
            f"libisal computes other bytes than zfec for {k}+{m}: "
            "install another build of it, or use the kernel zfec",
            reason="kernel-mismatch",
        )
    return kernel


@functools.lru_cache(maxsize=1)
def _warn_of_fallback(reason: str) -> None:
    _log.warning("erasure coding falls back to zfec, which is many times slower: %s", reason)


def _make_kernel(k: int, m: int, kernel: str) -> Kernel:
    if kernel not in ("auto", "isal", "zfec"):
        raise Invalid(f"kernel {kernel!r}: use auto, isal or zfec", reason="unknown-kernel")
    if k == 1:
        return _CopyKernel(m)
    if kernel == "zfec":
        return _ZfecKernel(k, m)
    try:
        return _isal_kernel(k, m)
    except HcefsError as error:
        if kernel == "isal":
            raise
        _warn_of_fallback(error.message)
        return _ZfecKernel(k, m)


class Codec:
    """The erasure code with ``k`` data and ``m`` parity pieces.

    ``kernel`` is asked for as ``auto``, ``isal`` or ``zfec``; the attribute names
    the one in use.  ``auto`` falls back to zfec with one warning in the log.

    Raises:
        Invalid: k and m are outside the code, or the kernel is unknown.
        Unavailable: ``isal`` was demanded and is not installed.
        Internal: ``isal`` was demanded and computes wrong bytes.
    """

    def __init__(self, k: int, m: int, kernel: str = "auto") -> None:
        if k < 1 or m < 1 or k + m > PIECES_MAX:
            raise Invalid(
                f"{k}+{m} pieces: k and m are at least 1 and at most {PIECES_MAX} together",
                reason="bad-profile",
            )
        self.k = k
        self.m = m
        self.n = k + m
        self._kernel = _make_kernel(k, m, kernel)
        self.kernel = self._kernel.name

    def encode_into(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Write the parity pieces into buffers of the caller.

        Shapes: k data and m parity buffers, contiguous, of one length; parity
        buffers overlap nothing else.

        Raises:
            Invalid: another shape, or a read-only parity buffer.
        """
        length = self._length_of(data)
        if len(parity) != self.m or any(_size(piece) != length for piece in parity):
            raise Invalid(
                f"needs {self.m} parity buffers as long as the data pieces", reason="bad-pieces"
            )
        if any(memoryview(piece).readonly for piece in parity):
            raise Invalid("parity buffers must be writable", reason="bad-buffer")
        self._kernel.encode_into(data, parity, length)

    def encode(self, data: Sequence[Buffer]) -> list[bytes]:
        """The m parity pieces of k data pieces of one length.

        Raises:
            Invalid: another number of pieces, or different lengths.
        """
        return self._kernel.encode(data, self._length_of(data))

    def rebuild(self, available: Mapping[int, Buffer], wanted: Sequence[int]) -> dict[int, bytes]:
        """The wanted pieces, data or parity, out of any k of the n.

        Of more than k available pieces those with the lowest indexes are used:
        data pieces make the cheapest matrix.

        Raises:
            Unavailable: fewer than k pieces.
            Invalid: an index outside the code, or pieces of different lengths.
        """
        if any(not 0 <= index < self.n for index in (*available, *wanted)):
            raise Invalid(f"piece indexes are 0..{self.n - 1}", reason="bad-pieces")
        missing = tuple(sorted({index for index in wanted if index not in available}))
        result = {index: bytes(available[index]) for index in wanted if index in available}
        if not missing:
            return result
        if len(available) < self.k:
            raise Unavailable(
                f"{len(available)} pieces cannot rebuild a stripe that needs {self.k}: "
                "wait for more nodes",
                reason="too-few-pieces",
            )
        survivors = tuple(sorted(available)[: self.k])
        pieces = [available[index] for index in survivors]
        rebuilt = self._kernel.rebuild(survivors, pieces, missing, self._length_of(pieces))
        result.update(zip(missing, rebuilt, strict=True))
        return result

    def _length_of(self, pieces: Sequence[Buffer]) -> int:
        if len(pieces) != self.k:
            raise Invalid(f"needs {self.k} pieces, got {len(pieces)}", reason="bad-pieces")
        length = _size(pieces[0])
        if any(_size(piece) != length for piece in pieces):
            raise Invalid("the pieces of a stripe have one length", reason="bad-pieces")
        return length


def _size(piece: Buffer) -> int:
    if not isinstance(piece, memoryview):
        return len(piece)
    if not piece.c_contiguous:
        raise Invalid("pieces need contiguous buffers", reason="bad-buffer")
    return piece.nbytes


@functools.lru_cache(maxsize=64)
def _codec(k: int, m: int) -> Codec:
    return Codec(k, m)


def codec_for(profile: Profile) -> Codec:
    """The shared codec of a profile, with the best kernel there is."""
    return _codec(profile.k, profile.m)
