"""Cut sealed segments anew, from one profile into another, with no key.

What a core says of its data was fixed when the blob was written: the digests of its k
data shards, of a packed payload that of its own ciphertext.  Sealed segments give them
again whatever profile they are read under, so whoever moves them can prove, without a key,
that nothing was changed on the way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from hcefs.erasure.scheme import Profile, piece_length
from hcefs.errors import Corrupt
from hcefs.formats.manifest import Core, Layout
from hcefs.formats.pack import PackLayout, split_lengths
from hcefs.integrity import blake3_digest, shard_digest
from hcefs.runtime import Runtime
from hcefs.stripes.read import Stripe, StripeReader
from hcefs.stripes.stripe import EncodedStripe, encode_stripe, join_sealed_into, stripe_buffer


async def intact(
    runtime: Runtime, reader: StripeReader, segments: int
) -> AsyncIterator[list[Stripe]]:
    """All stripes in order, as many at once as are there, each piece as its digest says.

    Raises:
        Unavailable: fewer than k shards could be read.
        Corrupt: fewer than k undamaged ones are left.
    """
    try:
        async for stripes in reader.stripes(0, segments):
            good = await runtime.compute(_intact, stripes)
            if good:
                yield stripes[:good]
            if good == len(stripes):
                continue
            yield [await reader.recheck(stripes[good])]
            for stripe in stripes[good + 1 :]:
                again = await reader.renewed(stripe)
                if not await runtime.compute(_intact, [again]):
                    again = await reader.recheck(again)
                yield [again]
    finally:
        await reader.close()


def _intact(stripes: Sequence[Stripe]) -> int:
    """How many stripes come before the first damaged one."""
    for number, stripe in enumerate(stripes):
        try:
            stripe.check()
        except Corrupt:
            return number
    return len(stripes)


def recut(stripe: Stripe, source: Profile, target: Profile) -> tuple[memoryview, EncodedStripe]:
    """The sealed segment of a stripe, and its pieces under another profile.

    For a worker thread.

    Raises:
        Corrupt: the padding is not zero.
    """
    buffer = stripe_buffer(target, stripe.sealed_length)
    sealed = memoryview(buffer)[: stripe.sealed_length]
    join_sealed_into(stripe.data(source), sealed)
    return sealed.toreadonly(), encode_stripe(target, buffer, stripe.sealed_length)


class DataCheck:
    """Compares all sealed segments of a blob, or the body of a pack, with what its cores say."""

    def __init__(self, layout: Layout | PackLayout, cores: Sequence[Core]) -> None:
        self._layout = layout
        self._cores = cores
        self._pieces: list[list[bytes]] = [[] for _ in range(cores[0].k)]
        self._packed_right = True

    def take(self, sealed: memoryview) -> None:
        """The next sealed segment.  For a worker thread."""
        if isinstance(self._layout, PackLayout):
            self._take_body(self._layout, sealed)
            return
        k = self._cores[0].k
        size = piece_length(len(sealed), k)
        for number, digests in enumerate(self._pieces):
            piece = sealed[number * size : (number + 1) * size]
            digests.append(blake3_digest(bytes(piece).ljust(size, b"\x00")))

    def _take_body(self, layout: PackLayout, body: memoryview) -> None:
        ends: list[int] = [0]
        for length in split_lengths(layout.lengths):
            ends.append(ends[-1] + length)
        for core in self._cores:
            payload = body[ends[core.blob.slot - 1] : ends[core.blob.slot]]
            if (blake3_digest(payload),) != core.data_digests:
                self._packed_right = False

    def require(self) -> None:
        """After the last segment.

        Raises:
            Corrupt: ``wrong-data``: this is not what the cores were made of.
        """
        if isinstance(self._layout, PackLayout):
            right = self._packed_right
        else:
            digests = tuple(shard_digest(pieces) for pieces in self._pieces)
            right = digests == self._cores[0].data_digests
        if not right:
            raise Corrupt("the data differs from what its core says", reason="wrong-data")
