"""All new shards of a base that is re-profiled, on the mover's disk until others have theirs.

Invariant: what was finished before a stop is kept only if it is, to the byte, what would be
written now.
"""

from __future__ import annotations

from dataclasses import replace

from hcefs.erasure.scheme import profile_named
from hcefs.errors import Conflict, HcefsError, Unavailable
from hcefs.formats.shard import ShardFooter, ShardHeader, file_length
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores
from hcefs.stripes.adopt import Adoptable
from hcefs.stripes.shard_index import read_footer
from hcefs.stripes.stripe import EncodedStripe
from hcefs.stripes.transfers import BegunShard, begin_shard, whole


class StagedFiles:
    """The new shards of one base, all of them on this node's disk."""

    def __init__(self, runtime: Runtime, stores: Stores, wanted: Adoptable, target: str) -> None:
        self._runtime = runtime
        self._shards = stores.shards
        self._wanted = replace(wanted, profile=target)
        self._profile = profile_named(target)
        self._writers: dict[int, BegunShard] = {}
        self._digests: list[list[bytes]] = [[] for _ in range(self._profile.n)]

    async def begin(self) -> None:
        """Begin those that are not here: of the others what was written before is kept.

        Raises:
            Exhausted: the disk is full.
        """

        def job() -> None:
            wanted, profile = self._wanted, self._profile
            size = file_length(wanted.geometry)
            for index in range(profile.n):
                header = ShardHeader(
                    wanted.base, index, profile.name, profile.k, profile.m, wanted.segment_size
                )
                try:
                    self._writers[index] = begin_shard(self._shards, header, size, profile.name)
                except Conflict:
                    continue

        try:
            await whole(self._runtime, job)
        except BaseException:
            await self.abort()
            raise

    async def write(self, stripe: EncodedStripe) -> None:
        """The pieces of the next stripe."""
        for digests, digest in zip(self._digests, stripe.digests, strict=True):
            digests.append(digest)

        def job() -> None:
            for index, writer in self._writers.items():
                writer.write(stripe.pieces[index])

        await whole(self._runtime, job)

    async def finish(self) -> tuple[bytes, ...]:
        """Make them durable; the digests of all shards.

        Raises:
            Unavailable: one that was here before is of other data, and is dropped.
        """
        return await whole(self._runtime, self._finish)

    def _finish(self) -> tuple[bytes, ...]:
        wanted = self._wanted
        found = []
        stale = False
        for index, pieces in enumerate(self._digests):
            footer = ShardFooter.of(wanted.plaintext_length, b"".join(pieces))
            found.append(footer.shard_digest)
            writer = self._writers.get(index)
            if writer is not None:
                writer.finish(footer)
            elif not self._is_whole(index, footer):
                self._shards.remove(wanted.base, index, self._profile.name)
                stale = True
        if stale:
            raise Unavailable("a staged shard was of other data", reason="stale-staged")
        return tuple(found)

    def _is_whole(self, index: int, footer: ShardFooter) -> bool:
        try:
            here = read_footer(self._shards, self._wanted.base, index, self._profile.name)
        except HcefsError:
            return False
        return here == footer

    async def abort(self) -> None:
        """Forget what is not finished."""

        def job() -> None:
            for writer in self._writers.values():
                writer.abort()

        await whole(self._runtime, job)
