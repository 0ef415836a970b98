"""The scrub's comparison: what this node's rows say, against what the other holders' say.

A shard, its layout and its core may fit together and still not be what the others have: a
node that missed a new layout, or was given another one.  So for each page of shards that
the scrub has read, the other holders of their rows are asked for digests
(:mod:`hcefs.stripes.manifest_digest`); where one differs, its rows are fetched and judged.

A later layout that proves itself (signed by a node of the ledger, of the same core, of
data digests that fit it) replaces this node's: entered if its shard is here, or else by
the repair, which brings the shard and compares every piece.  Who has the earlier one finds
out by its own scrub.  Two of the same version prove the same: that is reported, because
only a person can decide.

On the way it counts the shards that nothing gives a reason to be here; the retirer is who
deletes them.

Invariants: nothing is deleted; nobody's word counts, only rows that prove themselves here;
memory is that of one page; what is asked is paid for from the scrub's budget.

Not guaranteed: that a layout of another profile has the data of the core: old data shards
are kept until they have witnessed that (:mod:`.witness`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.planner import LOST_STATES
from hcefs.placement.ring import partition_of, seats
from hcefs.runtime import Runtime
from hcefs.store.interface import Stores, Table
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.manifest_digest import manifest_digest
from hcefs.stripes.placed import PlacedShard, decoded_layout, layout_under, shard_key, shards_of
from hcefs.transport.upkeep import Place, UpkeepPeers
from hcefs.upkeep.scrub_shards import Found
from hcefs.upkeep.set_aside import ShardFile

DIGEST_BYTES = 64
"""What one base costs one question, there and back."""

ROWS_BYTES = 4096
HOLDERS_JUDGED = 3
"""Differing holders whose rows are fetched for one base; more would tell the same."""

OTHER_LAYOUT = "other-layout"

log = logging.getLogger(__name__)

Spend = Callable[[int], Awaitable[None]]
Enter = Callable[[Adoptable], Awaitable[bool]]


@dataclass
class Compared:
    """What a cycle has found so far, in this process."""

    cycle: int = 0
    bases: int = 0
    disagreements: int = 0
    undecided: int = 0
    superfluous: int = 0


@dataclass
class _Page:
    """What is here of one page of shards."""

    digests: dict[tuple[str, BlobBase], bytes] = field(default_factory=dict)
    superfluous: int = 0


class HolderComparer:
    """Compares the rows of one node with those of others."""

    def __init__(
        self,
        runtime: Runtime,
        view: Callable[[], ClusterMap | None],
        stores: Stores,
        peers: UpkeepPeers,
        adopter: Adopter,
        enter: Enter,
        queue: Found,
        metrics: Metrics,
        me: AccountId,
    ) -> None:
        """``enter`` puts a proven later layout in force, if its shard is here."""
        self._runtime = runtime
        self._view = view
        self._stores = stores
        self._peers = peers
        self._adopter = adopter
        self._enter = enter
        self._queue = queue
        self._metrics = metrics
        self._me = me
        self.found = Compared()
        self.last_superfluous = 0
        """Of the last cycle that ended here."""

    def begin(self, cycle: int) -> None:
        """Count for a cycle from now on."""
        if self.found.cycle != cycle:
            self.found = Compared(cycle)

    def end(self) -> None:
        """The shards of the cycle are read."""
        self.last_superfluous = self.found.superfluous

    async def page(self, cycle: int, shards: Sequence[ShardFile], spend: Spend) -> int:
        """Compare what lies under some shards; how many bases others have otherwise.

        A holder that does not answer is not compared in this cycle.

        Raises:
            Unavailable: the store of this node is closed, or its disk failed.
        """
        self.begin(cycle)
        current = self._view()
        if current is None or current.node_of_account(self._me) is None or not shards:
            return 0
        page = await self._runtime.disk(self._here, current, shards)
        self.found.superfluous += page.superfluous
        self.found.bases += len(page.digests)
        differing: dict[tuple[str, BlobBase], list[Node]] = {}
        for (profile, node), bases in self._asked(current, page).items():
            await spend(DIGEST_BYTES * len(bases))
            said = await self._ask(current, profile, node, bases)
            for base, digest in zip(bases, said, strict=True):
                if digest and digest != page.digests[profile, base]:
                    differing.setdefault((profile, base), []).append(node)
        for (profile, base), nodes in differing.items():
            await self._disagree(current, profile, base, nodes, spend)
        return len(differing)

    def _here(self, current: ClusterMap, shards: Sequence[ShardFile]) -> _Page:
        page = _Page()
        for shard in shards:
            try:
                self._enter_shard(current, shard, page)
            except HcefsError as error:
                if error.retryable:
                    raise
                # A damaged row: its table's turn comes.
                log.debug("a shard is not compared: %s", error.reason)
        return page

    def _enter_shard(self, current: ClusterMap, shard: ShardFile, page: _Page) -> None:
        rows = self._stores.rows
        for placed in shards_of(rows, shard.base):
            if (placed.index, placed.form) != (shard.index, shard.form):
                continue
            if not self._is_seated(current, placed):
                key = shard_key(placed.base, placed.index, placed.form)
                page.superfluous += rows.get(Table.STAND_INS, key) is None
                continue
            digest = manifest_digest(rows, placed.base, placed.profile)
            if digest:
                page.digests[placed.profile, placed.base] = digest

    def _is_seated(self, current: ClusterMap, shard: PlacedShard) -> bool:
        """Whether the map gives a shard its place here: as a seat, or as a move's source."""
        if all(table.profile != shard.profile for table in current.tables):
            return False
        for seat in seats(current, shard.profile, shard.base):
            if seat.index == shard.index:
                source = seat.source.account if seat.source is not None else None
                return self._me in (seat.node.account, source)
        return False

    def _asked(self, current: ClusterMap, page: _Page) -> dict[tuple[str, Node], list[BlobBase]]:
        """Who is asked about which bases: all other seats of their rows."""
        asked: dict[tuple[str, Node], list[BlobBase]] = {}
        for profile, base in page.digests:
            for seat in seats(current, profile, base):
                node = seat.node
                if node.account != self._me and node.state not in LOST_STATES:
                    asked.setdefault((profile, node), []).append(base)
        return asked

    async def _ask(
        self, current: ClusterMap, profile: str, node: Node, bases: Sequence[BlobBase]
    ) -> list[bytes]:
        bits = current.table(profile).bits
        first, *also = sorted({partition_of(base, bits) for base in bases})
        peer = self._peers.upkeep_peer(node)
        try:
            return await peer.manifest_digests(Place(current.epoch, profile, first), also, bases)
        except HcefsError as error:
            log.debug("node %d is not compared with: %s", node.node_id, error.reason)
            return [b""] * len(bases)

    # -- who is right

    async def _disagree(
        self,
        current: ClusterMap,
        profile: str,
        base: BlobBase,
        nodes: Sequence[Node],
        spend: Spend,
    ) -> None:
        self.found.disagreements += 1
        place, outcome = Place.of_base(current, profile, base), "unproven"
        for node in nodes[:HOLDERS_JUDGED]:
            await spend(ROWS_BYTES)
            try:
                rows = await self._peers.upkeep_peer(node).load_rows(place, base)
                wanted = await self._runtime.compute(self._adopter.check, base, rows)
            except HcefsError as error:
                log.info(
                    "what node %d has of %s proves nothing: %s", node.node_id, base, error.reason
                )
                continue
            outcome = await self._judged(current, profile, wanted)
            if outcome != "unproven":
                break
        if outcome == "undecided":
            self.found.undecided += 1
        self._metrics.count("scrub_disagreements_total", outcome=outcome)
        log.warning("holders of %s disagree about its layout or core: %s", base, outcome)

    async def _judged(self, current: ClusterMap, profile: str, wanted: Adoptable) -> str:
        """What comes of another holder's proven rows."""
        own = await self._runtime.disk(layout_under, self._stores.rows, wanted.base, profile)
        version = decoded_layout(own).version if own is not None else 0
        if wanted.layout.version < version:
            return "newer-here"
        if wanted.layout.version == version:
            return "undecided"
        if not wanted.committed:
            return "unproven"
        try:
            if await self._enter(wanted):
                return "entered"
        except HcefsError as error:
            log.info("a later layout of %s is not entered: %s", wanted.base, error.reason)
        if any(table.profile == wanted.profile for table in current.tables):
            for seat in seats(current, wanted.profile, wanted.base):
                if seat.node.account == self._me:
                    await self._runtime.disk(
                        self._queue.found, wanted.base, seat.index, wanted.profile, OTHER_LAYOUT
                    )
                    return "queued"
        return "undecided"

    def warnings(self) -> list[str]:
        """What an operator should know."""
        if not self.found.undecided:
            return []
        return [
            f"{self.found.undecided} blobs have layouts that disagree and prove the same: "
            "`hcefs verify` names them, `hcefs repair explain` shows who has what"
        ]
