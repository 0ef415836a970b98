"""Recreate one shard from any k others, with no key.

Digests come first, because nobody opens what is rebuilt: each piece that is used is
compared with the digest that its holder claims and the layout confirms, so that a
damaged shard is found and read around.  What comes out is compared with the layout's
own digest by whoever keeps it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from hcefs.erasure.codec import codec_for
from hcefs.errors import Corrupt
from hcefs.runtime import Runtime
from hcefs.stripes.read import Stripe, StripeReader
from hcefs.transport.peers import Piece


async def rebuilt_pieces(
    runtime: Runtime, reader: StripeReader, index: int, segments: range
) -> AsyncIterator[list[Piece]]:
    """The pieces of one index, in order, as many at once as are there.

    Raises:
        Unavailable: fewer than k other shards could be read.
        Corrupt: fewer than k undamaged ones are left.
    """
    try:
        async for stripes in reader.stripes(segments.start, len(segments)):
            pieces, good = await runtime.compute(_rebuild, reader, stripes, index)
            yield pieces
            if good == len(stripes):
                continue
            mended = await reader.recheck(stripes[good])
            yield (await runtime.compute(_rebuild, reader, [mended], index))[0]
            for stripe in stripes[good + 1 :]:
                again = await reader.renewed(stripe)
                pieces, good = await runtime.compute(_rebuild, reader, [again], index)
                if not good:
                    again = await reader.recheck(again)
                    pieces, _ = await runtime.compute(_rebuild, reader, [again], index)
                yield pieces
    finally:
        await reader.close()


def _rebuild(
    reader: StripeReader, stripes: Sequence[Stripe], index: int
) -> tuple[list[Piece], int]:
    """The pieces of the stripes up to the first damaged one, and how many those are."""
    codec = codec_for(reader.profile)
    done: list[Piece] = []
    for stripe in stripes:
        try:
            stripe.check()
        except Corrupt:
            break
        known = stripe.pieces.get(index)
        if known is not None:
            done.append(known.data)
            continue
        pieces = {number: piece.data for number, piece in stripe.pieces.items()}
        done.append(codec.rebuild(pieces, [index])[index])
    return done, len(done)
