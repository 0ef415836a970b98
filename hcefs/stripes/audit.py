"""Read a shard of this node from end to end and say whether it is what its layout says.

No key is needed: length and checksums of header and footer first, then each piece's
digest, then the digest over those, which the layout binds; of a layout that its core, its
opening and the ledger bind it in turn.

Invariants: reads only; memory is bounded by one message of pieces, whatever the shard's
size; a part of a disk that cannot be read is damage, a store that is closed is not.

Not guaranteed: that a shard stays whole after it was read.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hcefs.errors import HcefsError, NotFound, Unavailable
from hcefs.formats.manifest import Core, Layout, Opening
from hcefs.formats.pack import PackLayout, PackOpening, decode_opening
from hcefs.ids import BlobBase
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.stripes.checks import Replica
from hcefs.stripes.fanout import layout_fits
from hcefs.stripes.manifest_digest import layout_digest
from hcefs.stripes.placed import decoded_layout, form_here, layout_under
from hcefs.stripes.shard_check import ShardCheck

READ_BYTES = 4 << 20
"""Read and digested by one call of a disk thread."""

PACK_ROWS_MAX = 2000


class ShardState(enum.IntEnum):
    """What was found.  The numbers travel."""

    WHOLE = 1
    DAMAGED = 2
    MISSING = 3


@dataclass(frozen=True)
class Audit:
    """What is to be said of one shard."""

    state: ShardState
    reason: str = ""
    bytes: int = 0
    """Bytes of pieces that were read."""


@dataclass(frozen=True)
class BaseFacts:
    """What a node's rows say of a base, each compared with the next."""

    profile: str = ""
    version: int = 0
    layout_digest: bytes = b""
    """Over profile, version and shard digests: the same at all holders of one layout."""

    committed: bool = False
    problem: str = ""
    """Why the rows do not prove themselves; empty when they do."""


class Auditor:
    """Audits shards of one node."""

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        replica: Replica,
        spend: Callable[[int], Awaitable[None]],
    ) -> None:
        """``spend`` waits until so many bytes may be read."""
        self._runtime = runtime
        self._stores = stores
        self._replica = replica
        self._spend = spend

    async def look(self, base: BlobBase, index: int, profile: str) -> Audit:
        """Read and compare one shard.

        Raises:
            Unavailable: the store is closed.
        """
        try:
            opened = await self._runtime.disk(self._open, base, index, profile)
        except NotFound as error:
            return Audit(ShardState.MISSING, error.reason)
        except HcefsError as error:
            return _damaged(error, 0)
        if isinstance(opened, Audit):
            return opened
        check, done = opened, 0
        try:
            while not check.done:
                await self._spend(check.ahead(READ_BYTES))
                done += await self._runtime.disk(check.step, READ_BYTES)
        except HcefsError as error:
            return _damaged(error, done)
        finally:
            await self._runtime.disk(check.close)
        return Audit(ShardState.WHOLE, "", done)

    def _open(self, base: BlobBase, index: int, profile: str) -> Audit | ShardCheck:
        rows = self._stores.rows
        form = form_here(rows, base, index, profile)
        data = layout_under(rows, base, profile)
        if form is None or data is None:
            return Audit(ShardState.MISSING, "no-such-shard")
        layout = decoded_layout(data)
        if layout.profile != profile:
            return Audit(ShardState.MISSING, "other-layout")
        check = ShardCheck(self._stores.shards, base, index, form)
        digests = layout.shard_digests
        if index >= len(digests) or check.footer.shard_digest != digests[index]:
            check.close()
            return Audit(ShardState.DAMAGED, "wrong-digest")
        return check

    async def facts(self, base: BlobBase, profile: str) -> BaseFacts:
        """What the rows of a base say, as it lies under a profile."""
        return await self._runtime.disk(self._facts, base, profile)

    def _facts(self, base: BlobBase, profile: str) -> BaseFacts:
        rows = self._stores.rows
        try:
            data = layout_under(rows, base, profile)
            if data is None:
                return BaseFacts(problem="no-layout")
            layout = decoded_layout(data)
            digest = layout_digest(layout)
            committed, problem = self._bound(base, layout)
            return BaseFacts(layout.profile, layout.version, digest, committed, problem)
        except HcefsError as error:
            return BaseFacts(problem=error.reason)

    def _bound(self, base: BlobBase, layout: Layout | PackLayout) -> tuple[bool, str]:
        """Whether the ledger holds a base, and what in its rows does not fit together."""
        rows, committed = self._stores.rows, False
        openings = rows.scan(Table.OPENINGS, bytes(base), limit=PACK_ROWS_MAX)
        if not openings:
            return False, "no-opening"
        for _, data in openings:
            opening = decode_opening(data)
            opening.check()
            leaf = self._replica.leaf_index(opening.record, opening.commitment())
            committed = committed or leaf is not None
            if isinstance(opening, Opening) and isinstance(layout, Layout):
                encoded = rows.get(Table.CORES, bytes(base))
                if encoded is None:
                    return committed, "no-core"
                core = Core.decode(encoded)
                if core.digest() != opening.core_digest or not layout_fits(core, layout):
                    return committed, "rows-disagree"
            elif not (isinstance(opening, PackOpening) and isinstance(layout, PackLayout)):
                return committed, "rows-disagree"
        return committed, ""


def _damaged(error: HcefsError, done: int) -> Audit:
    """What a failure to read says of a shard.

    Raises:
        Unavailable: nothing: the store is closed.
    """
    if isinstance(error, Unavailable) and error.reason != "disk-error":
        raise error
    return Audit(ShardState.DAMAGED, error.reason, done)
