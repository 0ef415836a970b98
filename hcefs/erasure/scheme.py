"""Geometry of a blob's shards: profiles, pieces, ranges.  Pure integer arithmetic.

A blob of plaintext length L has max(1, ceil(L / segment size)) segments.  Each
is sealed (plaintext + 48 bytes), cut into k data pieces of ceil(sealed / k)
bytes rounded up to 64 and zero-padded, and given m parity pieces of the same
length.  A shard is all the pieces with one index.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.errors import Invalid

SEGMENT_SIZE = 1 << 20
"""Plaintext bytes of a full segment."""

SEAL_OVERHEAD = 48
"""Bytes that sealing adds: 32 of key commitment, 16 of tag.  Equal to crypto.stream's."""

PIECE_ALIGNMENT = 64
SEGMENTS_MAX = 1 << 16
"""Most segments of a blob (64 GiB), so that the digests of a shard fit one message (2 MiB)."""


@dataclass(frozen=True)
class Profile:
    """A named erasure code: ``k`` data and ``m`` parity pieces."""

    name: str
    k: int
    m: int

    @property
    def n(self) -> int:
        return self.k + self.m


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("ec-4-2", 4, 2),
        Profile("ec-8-3", 8, 3),
        Profile("ec-10-4", 10, 4),
        Profile("copy-3", 1, 2),
    )
}
DEFAULT_PROFILE = "ec-4-2"


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        Invalid: there is none.
    """
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(PROFILES)
        raise Invalid(
            f"profile {name!r} is unknown; known are {known}", reason="unknown-profile"
        ) from None


@dataclass(frozen=True)
class Geometry:
    """Lengths and offsets of one blob under one profile, in bytes."""

    plaintext_length: int
    profile: Profile
    segment_size: int = SEGMENT_SIZE

    def __post_init__(self) -> None:
        if self.plaintext_length < 0 or self.segment_size <= 0:
            raise Invalid("negative length or segment size", reason="bad-geometry")
        if self.segments > SEGMENTS_MAX:
            raise Invalid(
                f"a blob has at most {SEGMENTS_MAX} segments; split it", reason="too-large"
            )

    @property
    def segments(self) -> int:
        """Number of segments; an empty blob has one empty segment."""
        return max(1, -(-self.plaintext_length // self.segment_size))

    def plaintext_of(self, segment: int) -> int:
        """Plaintext bytes of a segment.

        Raises:
            Invalid: the blob has no such segment.
        """
        self._check(segment)
        if segment < self.segments - 1:
            return self.segment_size
        return self.plaintext_length - (self.segments - 1) * self.segment_size

    def sealed_of(self, segment: int) -> int:
        """Bytes of a sealed segment."""
        return self.plaintext_of(segment) + SEAL_OVERHEAD

    def piece_of(self, segment: int) -> int:
        """Bytes of each piece of a segment's stripe."""
        return piece_length(self.sealed_of(segment), self.profile.k)

    def offset_of(self, segment: int) -> int:
        """Offset of a segment's piece from the first piece of its shard.

        Raises:
            Invalid: the blob has no such segment.
        """
        self._check(segment)
        return segment * piece_length(self.segment_size + SEAL_OVERHEAD, self.profile.k)

    @property
    def pieces_length(self) -> int:
        """Bytes of all pieces of one shard."""
        return self.offset_of(self.segments - 1) + self.piece_of(self.segments - 1)

    def covering(self, start: int, length: int) -> range:
        """The segments that hold plaintext bytes [start, start+length).

        A range that ends at the end of the blob always covers the last segment,
        whose opening proves the length; an empty blob's range is segment 0.

        Raises:
            Invalid: the range is not inside the blob.
        """
        if start < 0 or length < 0 or start + length > self.plaintext_length:
            raise Invalid(
                f"range {start}+{length} is not inside the blob of {self.plaintext_length} bytes",
                reason="bad-range",
            )
        end = start + length
        first = min(start // self.segment_size, self.segments - 1)
        if end == self.plaintext_length:
            return range(first, self.segments)
        return range(first, max(first + 1, -(-end // self.segment_size)))

    def _check(self, segment: int) -> None:
        if not 0 <= segment < self.segments:
            raise Invalid(
                f"segment {segment} is not one of the blob's {self.segments}", reason="bad-range"
            )


def piece_length(sealed: int, k: int) -> int:
    """Bytes of a piece: ceil(sealed / k), rounded up to the alignment."""
    piece = -(-sealed // k)
    return -(-piece // PIECE_ALIGNMENT) * PIECE_ALIGNMENT


def resolve_range(plaintext_length: int, start: int, length: int) -> tuple[int, int]:
    """A request's range as (start, length); length 0 means up to the end.

    Raises:
        Invalid: not inside the blob.
    """
    if start > plaintext_length:
        raise Invalid(
            f"the range starts at {start}, the blob has {plaintext_length} bytes",
            reason="bad-range",
        )
    if length == 0:
        return start, plaintext_length - start
    if start + length > plaintext_length:
        raise Invalid(
            f"the range ends at {start + length}, the blob has {plaintext_length} bytes",
            reason="bad-range",
        )
    return start, length
