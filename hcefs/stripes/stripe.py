"""From sealed segments to the n pieces of their stripes, and back.  Pure; runs in worker threads.

Invariant: the pieces of a stripe have one length, the padding is zero and is
covered by the digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hcefs.erasure.codec import codec_for
from hcefs.erasure.scheme import Profile, piece_length
from hcefs.errors import Corrupt, HcefsError, Unavailable
from hcefs.integrity import blake3_digest, crc32c
from hcefs.transport.framing import Frame


class StripeBatch:
    """Consecutive stripes on their way to the holders, made in the messages that carry them.

    Use: fill the data pieces of each stripe in order, ``encode`` each, ``close``.  Each
    index has one message with its pieces of all the stripes.
    """

    def __init__(self, profile: Profile, sealed_lengths: Sequence[int]) -> None:
        self._profile = profile
        self._sealed_lengths = sealed_lengths
        self._sizes = [piece_length(length, profile.k) for length in sealed_lengths]
        self.frames = tuple(Frame(sum(self._sizes), checksummed=True) for _ in range(profile.n))
        self._rooms = [frame.room for frame in self.frames]
        self.digests: tuple[list[bytes], ...] = tuple([] for _ in self.frames)

    @property
    def shard_bytes(self) -> int:
        """What it adds to each shard."""
        return sum(self._sizes)

    def data_pieces(self, stripe: int) -> list[memoryview]:
        """Where the sealed segment of a stripe goes, its pieces laid end to end."""
        return self._pieces(stripe)[: self._profile.k]

    def _pieces(self, stripe: int) -> list[memoryview]:
        start = sum(self._sizes[:stripe])
        return [room[start : start + self._sizes[stripe]] for room in self._rooms]

    def encode(self, stripe: int) -> None:
        """Pad the data pieces of a stripe with zeros, and compute its parity and digests."""
        pieces, k = self._pieces(stripe), self._profile.k
        filled = self._sealed_lengths[stripe]
        for piece in pieces[:k]:
            if filled < len(piece):
                piece[filled:] = bytes(len(piece) - filled)
            filled = max(0, filled - len(piece))
        codec_for(self._profile).encode_into(pieces[:k], pieces[k:])
        for digests, piece in zip(self.digests, pieces, strict=True):
            digests.append(blake3_digest(piece))

    def close(self) -> None:
        """Finish the messages."""
        self._rooms = []
        for frame in self.frames:
            frame.close(crc32c(frame.data))


@dataclass(frozen=True)
class EncodedStripe:
    """The n pieces of one stripe, a pack's body, and their BLAKE3 digests, by index."""

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


def too_few_shards(k: int, errors: Sequence[HcefsError], *, damaged: bool = False) -> HcefsError:
    """Why fewer than k shards could be read: some are damaged (``damaged`` too), or absent."""
    reasons = ", ".join(sorted({error.reason for error in errors}))
    if damaged or any(error.kind == "corrupt" for error in errors):
        return Corrupt(
            f"fewer than {k} undamaged shards are left ({reasons}); run a repair",
            reason="too-few-shards",
        )
    return Unavailable(
        f"fewer than {k} shards can be loaded now ({reasons}); retry later",
        reason="too-few-shards",
    )


def join_sealed_into(data: Sequence[memoryview], out: memoryview) -> None:
    """Fill ``out`` with the sealed segment of its length, from its data pieces.

    Raises:
        Corrupt: the padding is not zero, or the pieces are too short.
    """
    for piece in data:
        part, padding = piece[: len(out)], piece[len(out) :]
        out[: len(part)] = part
        out = out[len(part) :]
        if any(padding):
            raise Corrupt("a stripe's padding is not zero", reason="bad-padding")
    if out:
        raise Corrupt("the pieces of a stripe are too short", reason="bad-padding")
