"""Recreate one shard from any k others, with no key.

Nobody opens what is rebuilt, so digests say whether it is right, and whoever keeps it
compares what comes out with the layout's own digest.  That alone proves everything that
went in, for a fifth of the hashing (k = 4); so the first attempt compares nothing else.
Only when its result is wrong, a second one compares each piece that is used with the
digest that its holder claims and the layout confirms, so that a damaged shard is found
and read around (docs/decisions/0017).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from hcefs.erasure.codec import codec_for
from hcefs.errors import Corrupt
from hcefs.runtime import Runtime
from hcefs.stripes.read import Stripe, StripeReader
from hcefs.transport.peers import Piece


async def rebuilt_pieces(
    runtime: Runtime, reader: StripeReader, index: int, segments: range, *, checked: bool
) -> AsyncIterator[list[Piece]]:
    """The pieces of one index, in order, as many at once as are there.

    Not ``checked``, they are wrong wherever a piece that came was damaged.

    Raises:
        Unavailable: fewer than k other shards could be read.
        Corrupt: fewer than k undamaged ones are left.
    """
    try:
        async for stripes in reader.stripes(segments.start, len(segments)):
            pieces, good = await runtime.compute(_rebuild, reader, stripes, index, checked)
            yield pieces
            if good == len(stripes):
                continue
            mended = await reader.recheck(stripes[good])
            yield (await runtime.compute(_rebuild, reader, [mended], index, True))[0]
            for stripe in stripes[good + 1 :]:
                again = await reader.renewed(stripe)
                pieces, good = await runtime.compute(_rebuild, reader, [again], index, True)
                if not good:
                    again = await reader.recheck(again)
                    pieces, _ = await runtime.compute(_rebuild, reader, [again], index, True)
                yield pieces
    finally:
        await reader.close()


def _rebuild(
    reader: StripeReader, stripes: Sequence[Stripe], index: int, checked: bool
) -> tuple[list[Piece], int]:
    """The pieces of the stripes up to the first one found damaged, and how many those are."""
    codec = codec_for(reader.profile)
    done: list[Piece] = []
    for stripe in stripes:
        if checked:
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
