"""From one sealed segment to the n pieces of its stripe, and back.  Pure; runs in worker threads.

Invariant: the pieces of a stripe have one length, the padding is zero and is
covered by the digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import Profile, piece_length
from hcefs.errors import Corrupt
from hcefs.integrity import blake3_digest


@dataclass(frozen=True)
class EncodedStripe:
    """The n pieces of one stripe and their BLAKE3 digests, by index."""

    pieces: tuple[memoryview, ...]
    digests: tuple[bytes, ...]


def stripe_buffer(profile: Profile, sealed_length: int) -> bytearray:
    """A zeroed buffer for all pieces of a stripe; the sealed segment goes to its front."""
    return bytearray(piece_length(sealed_length, profile.k) * profile.n)


def encode_stripe(profile: Profile, buffer: bytearray, sealed_length: int) -> EncodedStripe:
    """Compute parity and digests of the sealed segment at the front of ``buffer``.

    The buffer belongs to the stripe afterwards: its pieces are views of it.
    """
    size = piece_length(sealed_length, profile.k)
    whole = memoryview(buffer)
    whole[sealed_length : size * profile.k] = bytes(size * profile.k - sealed_length)
    pieces = tuple(whole[i * size : (i + 1) * size] for i in range(profile.n))
    codec_for(profile).encode_into(pieces[: profile.k], pieces[profile.k :])
    return EncodedStripe(
        tuple(piece.toreadonly() for piece in pieces),
        tuple(blake3_digest(piece) for piece in pieces),
    )


def rebuild_data(profile: Profile, pieces: Mapping[int, memoryview]) -> list[memoryview]:
    """The k data pieces from any k pieces; those present are returned as they are.

    Raises:
        Unavailable: fewer than k pieces.
    """
    missing = [index for index in range(profile.k) if index not in pieces]
    rebuilt = codec_for(profile).rebuild(pieces, missing) if missing else {}
    return [
        pieces[index] if index in pieces else memoryview(rebuilt[index])
        for index in range(profile.k)
    ]


def join_sealed(data: list[memoryview], sealed_length: int) -> bytes:
    """The sealed segment from its data pieces.

    Raises:
        Corrupt: the padding is not zero, or the pieces are too short.
    """
    joined = b"".join(data)
    if len(joined) < sealed_length or any(joined[sealed_length:]):
        raise Corrupt("a stripe's padding is not zero", reason="bad-padding")
    return joined[:sealed_length]
