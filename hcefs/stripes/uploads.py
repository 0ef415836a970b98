"""What is being stored at one holder, and under which epoch: the barrier of a change.

When seats move, whoever copies a partition lists it at its old holder.  A put that was
begun under the older map may still be on its way there, and must not be missed.  So a
holder takes nothing under an older epoch than its map has, and :meth:`Uploads.settled`
waits for what it took before.

Invariant: of a put and a barrier for a later epoch, either the put is refused or the
barrier waits for it, because a put is entered before the epoch is compared and a barrier
waits only once this node has the later map.

Not guaranteed: order between different holders.  Puts that reach others under the older
epoch are those holders' own to wait for.

Source: docs/decisions/0019-change-without-a-gap.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from hcefs.placement.ring import position_of
from hcefs.stripes.reseat import other_epoch


class Upload:
    """One put under way; :meth:`end` when it is durable or given up."""

    __slots__ = ("_ended", "epoch", "positions")

    def __init__(self, epoch: int, positions: tuple[int, ...], ended: Callable[[Upload], None]):
        self.epoch = epoch
        self.positions = positions
        self._ended: Callable[[Upload], None] | None = ended

    def end(self) -> None:
        """It is over.  Idempotent."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Uploads:
    """The puts under way at one holder.  For one event loop."""

    def __init__(self, epoch: Callable[[], int]) -> None:
        """``epoch`` is that of this node's map now; 0 without a map."""
        self._epoch = epoch
        self._uploads: set[Upload] = set()
        self._changed = asyncio.Event()

    def begin(self, epoch: int, names: Iterable[bytes]) -> Upload:
        """Enter a put of shards or rows under these bases and record ids.

        Raises:
            Unavailable: ``other-epoch``: this node's map is not that of ``epoch``.
        """
        positions = tuple(position_of(bytes(name)) for name in names)
        upload = Upload(epoch, positions, self._end)
        self._uploads.add(upload)
        mine = self._epoch()
        if mine != epoch:
            upload.end()
            raise other_epoch(mine, epoch)
        return upload

    def _end(self, upload: Upload) -> None:
        self._uploads.discard(upload)
        self._changed.set()

    async def settled(self, epoch: int, positions: range) -> None:
        """Return when no put of an older epoch is under way in a range of positions.

        Raises:
            Unavailable: ``other-epoch``: this node does not have that epoch's map yet.
        """
        mine = self._epoch()
        if mine < epoch:
            raise other_epoch(mine, epoch)
        while any(
            upload.epoch < epoch and any(at in positions for at in upload.positions)
            for upload in self._uploads
        ):
            self._changed.clear()
            await self._changed.wait()
