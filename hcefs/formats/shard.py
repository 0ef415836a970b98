"""The file of one shard: header, pieces back to back, piece digests, trailer.

Owns the bytes on a storage node's disk.  Invariants: the header has a fixed
length and the trailer is the last bytes of the file, so both are found without
an index; every byte outside the pieces is under a CRC32C, every piece under its
BLAKE3 digest, and the digests under the shard digest that the layout names.  A
file that lacks a valid trailer was never finished.

Two versions, of the same lengths.  In version 2 the footer's CRC32C begins with the header, so
that the file proves by itself that its two ends are of one shard and of one version.

Not guaranteed, in version 1: that the header and the footer are of one blob; a reader compares
the header with the name it asked for, and the shard digest with the layout.

Big-endian fixed offsets (tables in ``docs/FORMATS.md``), not CBOR, so that a disk
can be read from its raw bytes.  No keys and no cryptography beyond digests: stores
use this module.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hcefs.erasure.scheme import SEGMENTS_MAX, Geometry, Profile
from hcefs.errors import Corrupt, Invalid
from hcefs.ids import BlobBase
from hcefs.integrity import DIGEST_SIZE, crc32c, shard_digest, split_digests
from hcefs.versions import SHARD_FORMATS

HEADER_MAGIC = b"HCEFSHRD"
TRAILER_MAGIC = b"HCEFSEND"
VERSION_FIRST = 1
VERSION_BOUND = 2
"""From this version on the footer's checksum covers the header, too."""

# magic, version, base, index, profile, k, m, segment size, zeros; then the CRC32C
_HEADER = struct.Struct(">8sH16sH16sHHQ196s")
# plaintext length, pieces, shard digest, version, zeros; then CRC32C and magic
_TRAILER = struct.Struct(">QQ32sH2s")
_TRAILER_END = struct.Struct(">I8s")
_CRC = struct.Struct(">I")

HEADER_SIZE = _HEADER.size + _CRC.size
TRAILER_SIZE = _TRAILER.size + _TRAILER_END.size
PROFILE_NAME_MAX = 16
_HEADER_ZEROS = bytes(196)
_TRAILER_ZEROS = bytes(2)


@dataclass(frozen=True)
class ShardHeader:
    """What a shard file says about itself: whose it is and how it is cut."""

    base: BlobBase
    index: int
    profile: str
    k: int
    m: int
    segment_size: int
    version: int = VERSION_FIRST

    def encode(self) -> bytes:
        """The first ``HEADER_SIZE`` bytes of the file.

        Raises:
            Invalid: a field does not fit the format.
        """
        problem = self._problem()
        if problem:
            raise Invalid(f"shard header: {problem}", reason="bad-header")
        head = _HEADER.pack(
            HEADER_MAGIC,
            self.version,
            self.base,
            self.index,
            self.profile.encode("ascii"),
            self.k,
            self.m,
            self.segment_size,
            _HEADER_ZEROS,
        )
        return head + _CRC.pack(crc32c(head))

    @classmethod
    def decode(cls, data: bytes) -> ShardHeader:
        """Read the first ``HEADER_SIZE`` bytes of a file.

        Raises:
            Corrupt: too short, damaged, of an unknown version, or impossible.
        """
        if len(data) != HEADER_SIZE:
            raise _bad_header(f"has {len(data)} bytes, not {HEADER_SIZE}")
        magic, version, base, index, name, k, m, segment_size, zeros = _HEADER.unpack_from(data)
        if magic != HEADER_MAGIC:
            raise _bad_header("does not begin with the magic: this is not a shard file")
        if _CRC.unpack_from(data, _HEADER.size)[0] != crc32c(data[: _HEADER.size]):
            raise _bad_header("fails its CRC32C")
        if not VERSION_FIRST <= version <= SHARD_FORMATS.newest:
            raise _unknown_version(version)
        profile = name.rstrip(b"\x00")
        if zeros != _HEADER_ZEROS or b"\x00" in profile or not profile.isascii():
            raise _bad_header("has bytes where this version has zeros or ASCII")
        header = cls(BlobBase(base), index, profile.decode("ascii"), k, m, segment_size, version)
        problem = header._problem()
        if problem:
            raise _bad_header(problem)
        return header

    def geometry(self, plaintext_length: int) -> Geometry:
        """Where the pieces of this shard lie, for a blob of that length.

        Raises:
            Invalid: the length is negative or too large.
        """
        return Geometry(plaintext_length, Profile(self.profile, self.k, self.m), self.segment_size)

    def _problem(self) -> str:
        if not VERSION_FIRST <= self.version <= SHARD_FORMATS.newest:
            return f"version {self.version} is unknown"
        name_fits = self.profile.isascii() and "\x00" not in self.profile
        if not name_fits or not 1 <= len(self.profile) <= PROFILE_NAME_MAX:
            return f"the profile's name is not 1 to {PROFILE_NAME_MAX} ASCII characters"
        if self.k < 1 or self.m < 1 or self.k + self.m > 256:
            return f"{self.k}+{self.m} is not a code"
        if not 0 <= self.index < self.k + self.m:
            return f"index {self.index} is outside the code"
        if not 1 <= self.segment_size < 1 << 32:
            return f"segment size {self.segment_size} is not 1 to 2^32 - 1"
        return ""


@dataclass(frozen=True)
class Trailer:
    """The last ``TRAILER_SIZE`` bytes of a file, not yet checked against the digests."""

    plaintext_length: int
    pieces: int
    shard_digest: bytes
    footer_crc: int


@dataclass(frozen=True)
class ShardFooter:
    """What ends a shard file.  ``piece_digests`` are 32 bytes each, joined, in order."""

    plaintext_length: int
    piece_digests: bytes
    shard_digest: bytes

    @classmethod
    def of(cls, plaintext_length: int, piece_digests: bytes) -> ShardFooter:
        """The footer over these digests.

        Raises:
            Invalid: they are not one to ``SEGMENTS_MAX`` whole digests.
        """
        _check_counts(plaintext_length, piece_digests)
        return cls(plaintext_length, piece_digests, shard_digest(split_digests(piece_digests)))

    @property
    def pieces(self) -> int:
        """Number of pieces of the shard: one for each segment."""
        return len(self.piece_digests) // DIGEST_SIZE

    def digest_of(self, piece: int) -> bytes:
        """The BLAKE3 digest of one piece.

        Raises:
            Invalid: there is no such piece.
        """
        if not 0 <= piece < self.pieces:
            raise Invalid(f"piece {piece} is not one of {self.pieces}", reason="bad-range")
        return self.piece_digests[piece * DIGEST_SIZE : (piece + 1) * DIGEST_SIZE]

    def encode(self, header: ShardHeader | None = None) -> bytes:
        """The bytes after the last piece of a file with that header: digests and trailer.

        Without a header it is that of version 1, where the header does not matter.

        Raises:
            Invalid: a field does not fit, or the shard digest is another's.
        """
        _check_counts(self.plaintext_length, self.piece_digests)
        if self.shard_digest != shard_digest(split_digests(self.piece_digests)):
            raise Invalid("shard footer: the shard digest is another's", reason="bad-footer")
        version = header.version if header is not None else VERSION_FIRST
        body = self.piece_digests + _TRAILER.pack(
            self.plaintext_length, self.pieces, self.shard_digest, version, _TRAILER_ZEROS
        )
        return body + _TRAILER_END.pack(crc32c(_bound(header) + body), TRAILER_MAGIC)


def _bound(header: ShardHeader | None) -> bytes:
    """What the footer's checksum covers before the footer itself."""
    return header.encode() if header is not None and header.version >= VERSION_BOUND else b""


def footer_length(pieces: int) -> int:
    """Bytes of the footer of a shard with so many pieces."""
    return pieces * DIGEST_SIZE + TRAILER_SIZE


def file_length(geometry: Geometry) -> int:
    """Bytes of the whole file of one shard of that geometry."""
    return HEADER_SIZE + geometry.pieces_length + footer_length(geometry.segments)


def decode_trailer(data: bytes, header_version: int = VERSION_FIRST) -> Trailer:
    """Read the last ``TRAILER_SIZE`` bytes of a file: they say how long the footer is.

    For a file whose header is of that version: another version here is then damage, and is
    not to be taken for a file of newer software, which nobody would ever set aside.

    Raises:
        Corrupt: of another length, without the magic, of another version, or
            impossible.  The CRC32C covers the digests: :func:`decode_footer` checks it.
    """
    if len(data) != TRAILER_SIZE:
        raise _bad_footer(f"the trailer has {len(data)} bytes, not {TRAILER_SIZE}")
    plaintext_length, pieces, digest, version, zeros = _TRAILER.unpack_from(data)
    footer_crc, magic = _TRAILER_END.unpack_from(data, _TRAILER.size)
    if magic != TRAILER_MAGIC:
        raise _bad_footer("the file does not end with the magic: it was cut or never finished")
    if version != header_version:
        raise _bad_footer(f"the trailer says version {version}, its header {header_version}")
    if zeros != _TRAILER_ZEROS or not 1 <= pieces <= SEGMENTS_MAX:
        raise _bad_footer(f"{pieces} pieces are impossible, or reserved bytes are not zero")
    return Trailer(plaintext_length, pieces, digest, footer_crc)


def decode_footer(data: bytes, header: ShardHeader | None = None) -> ShardFooter:
    """Read everything after the last piece of a file with that header.

    Without a header it is that of version 1, where the header does not matter.

    Raises:
        Corrupt: damaged; the CRC32C or the shard digest does not match.
    """
    if len(data) < footer_length(1):
        raise _bad_footer(f"{len(data)} bytes are too few")
    version = header.version if header is not None else VERSION_FIRST
    trailer = decode_trailer(data[-TRAILER_SIZE:], version)
    if len(data) != footer_length(trailer.pieces):
        raise _bad_footer(f"{len(data)} bytes do not hold {trailer.pieces} digests")
    if trailer.footer_crc != crc32c(_bound(header) + bytes(data[: -_TRAILER_END.size])):
        raise _bad_footer("it fails its CRC32C")
    piece_digests = bytes(data[:-TRAILER_SIZE])
    if trailer.shard_digest != shard_digest(split_digests(piece_digests)):
        raise _bad_footer("the shard digest is not that of the piece digests")
    return ShardFooter(trailer.plaintext_length, piece_digests, trailer.shard_digest)


def check_lengths(header: ShardHeader, trailer: Trailer, size: int) -> Geometry:
    """The geometry that header, trailer and file size agree on.

    Raises:
        Corrupt: they contradict each other.
    """
    try:
        geometry = header.geometry(trailer.plaintext_length)
    except Invalid as error:
        raise _bad_footer(error.message) from None
    if geometry.segments != trailer.pieces or file_length(geometry) != size:
        raise _bad_footer(
            f"the file has {size} bytes and {trailer.pieces} pieces, "
            f"its geometry {file_length(geometry)} and {geometry.segments}"
        )
    return geometry


def decode_file(data: bytes) -> tuple[ShardHeader, ShardFooter, Geometry]:
    """Header, footer and geometry of a whole file; the pieces are not compared.

    Raises:
        Corrupt: too short, damaged, or header and trailer contradict each other.
    """
    header = ShardHeader.decode(data[:HEADER_SIZE])
    trailer = decode_trailer(data[-TRAILER_SIZE:], header.version)
    geometry = check_lengths(header, trailer, len(data))
    return header, decode_footer(data[-footer_length(trailer.pieces) :], header), geometry


def piece_in(data: bytes, geometry: Geometry, segment: int) -> bytes:
    """A piece of a whole file, not compared with its digest."""
    start = HEADER_SIZE + geometry.offset_of(segment)
    return data[start : start + geometry.piece_of(segment)]


def _check_counts(plaintext_length: int, piece_digests: bytes) -> None:
    pieces, rest = divmod(len(piece_digests), DIGEST_SIZE)
    if rest or not 1 <= pieces <= SEGMENTS_MAX:
        raise Invalid(
            f"shard footer: {len(piece_digests)} bytes are not 1 to {SEGMENTS_MAX} digests",
            reason="bad-footer",
        )
    if not 0 <= plaintext_length < 1 << 64:
        raise Invalid("shard footer: the length is not a u64", reason="bad-footer")


def _bad_header(problem: str) -> Corrupt:
    return Corrupt(f"shard header {problem}: quarantine the file and repair", reason="bad-header")


def _bad_footer(problem: str) -> Corrupt:
    return Corrupt(f"shard footer: {problem}: quarantine it and repair", reason="bad-footer")


def _unknown_version(version: int) -> Corrupt:
    return Corrupt(
        f"shard file version {version} is unknown (this software reads {VERSION_FIRST} to "
        f"{SHARD_FORMATS.newest}): upgrade it",
        reason="unknown-version",
    )
