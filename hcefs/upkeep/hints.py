"""Hints to nodes: whoever reads a bad shard tells the holder, who looks for itself.

Two halves.  The *teller* collects what reads and puts through this node came upon, and
passes it on; what cannot be delivered waits for its node a while.  The *listener* takes
hints of others in, reads its own shard, and enters it into the queue of damage only if
there is something wrong with it.  What is in the queue already and was put off is brought
forward.

Invariants: a hint is worth a look and nothing else: no shard is set aside, and nothing is
rebuilt, because somebody said so.  Both halves are bounded; of each giver only so many
hints a second are taken, and what is waiting or in the queue already is no new hint.  The
looks are paid for from upkeep's budget of bytes.

Not guaranteed: delivery.  What is lost here is found by the scrub or the next pass.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hcefs.erasure.scheme import profile_named
from hcefs.errors import HcefsError
from hcefs.ids import AccountId, BlobBase
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.runtime import Runtime
from hcefs.stripes.audit import Auditor, ShardState
from hcefs.transport.upkeep import Place, ShardName, UpkeepPeers
from hcefs.upkeep.damage import DamagedName, DamageLog
from hcefs.upkeep.fill import SeatFiller
from hcefs.upkeep.stocktaking import MISSING, place_here
from hcefs.upkeep.worker import Progress

WAITING_MAX = 4096
HINTS_BURST = 256
HINTS_A_SECOND = 8.0
GIVERS_MAX = 4096
LOOKS_A_UNIT = 16

TOLD_A_CALL = 256
RETRY_SECONDS = 30.0
KEPT_SECONDS = 3600.0
NODES_MAX = 1024

log = logging.getLogger(__name__)


@dataclass
class _Allowance:
    room: float
    since: float


class HintListener:
    """Takes hints about shards of this node, and looks.  For one event loop."""

    name = "hints"
    idle_seconds = 0.5

    def __init__(
        self,
        runtime: Runtime,
        view: Callable[[], ClusterMap | None],
        filler: SeatFiller,
        auditor: Auditor,
        queue: DamageLog,
        metrics: Metrics,
        me: AccountId,
    ) -> None:
        self._runtime = runtime
        self._view = view
        self._filler = filler
        self._auditor = auditor
        self._queue = queue
        self._metrics = metrics
        self._me = me
        self._givers: dict[AccountId, _Allowance] = {}
        self._waiting: dict[DamagedName, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, giver: AccountId, profile: str, shards: Sequence[ShardName]) -> int:
        """Take some hints of a node; how many will be looked at."""
        taken = 0
        for shard in shards:
            name = DamagedName(shard.base, shard.index, profile)
            if name in self._waiting:
                self._note("known")
            elif self._queue.get(name) is not None:
                # It is known, and now a reader has met it.
                forward = self._allowed(giver) and self._queue.forward(name)
                self._note("forward" if forward else "known")
                taken += forward
            elif len(self._waiting) >= WAITING_MAX or not self._allowed(giver):
                self._note("refused")
            else:
                self._waiting[name] = None
                taken += 1
        return taken

    def _allowed(self, giver: AccountId) -> bool:
        now = self._runtime.monotonic()
        known = self._givers.get(giver)
        if known is None:
            if len(self._givers) >= GIVERS_MAX:
                self._forget_givers(now)
            if len(self._givers) >= GIVERS_MAX:
                return False
            known = self._givers[giver] = _Allowance(HINTS_BURST, now)
        known.room = min(HINTS_BURST, known.room + (now - known.since) * HINTS_A_SECOND)
        known.since = now
        if known.room < 1:
            return False
        known.room -= 1
        return True

    def _forget_givers(self, now: float) -> None:
        """Those who have said nothing for so long that all is allowed to them again."""
        self._givers = {
            giver: each
            for giver, each in self._givers.items()
            if each.room + (now - each.since) * HINTS_A_SECOND < HINTS_BURST
        }

    def _note(self, outcome: str) -> None:
        self._metrics.count("repair_hints_total", outcome=outcome)

    async def work(self) -> Progress:
        """Look at some of what was hinted at."""
        current = self._view()
        if current is None or not self._waiting:
            return Progress.IDLE
        for name in list(self._waiting)[:LOOKS_A_UNIT]:
            del self._waiting[name]
            self._note(await self._look(current, name))
        return Progress.BUSY

    async def _look(self, current: ClusterMap, name: DamagedName) -> str:
        place = place_here(current, self._me, name)
        if place is None:
            return "not-here"
        if await self._filler.has(ShardName(name.base, name.index), name.profile):
            audit = await self._auditor.look(name.base, name.index, name.profile)
            if audit.state is not ShardState.DAMAGED:
                return "untrue"
            reason = audit.reason
        else:
            n = profile_named(name.profile).n
            lists = await self._filler.surveyor.asked(current, place, n, [name.base])
            if not lists.live(name.base):
                return "untrue"  # nobody has anything of it, so this node lacks nothing
            reason = MISSING
        await self._runtime.disk(self._queue.found, name.base, name.index, name.profile, reason)
        self._queue.forward(name)
        log.info("shard %s index %d: a hint was true (%s)", name.base, name.index, reason)
        return "true"


@dataclass
class _Untold:
    """What one node is to be told."""

    node: Node
    since: float
    names: dict[DamagedName, None] = field(default_factory=dict)
    again: float = 0.0


class HintTeller:
    """Tells other nodes of their shards.  For one event loop."""

    name = "tell"
    idle_seconds = 1.0

    def __init__(
        self,
        runtime: Runtime,
        view: Callable[[], ClusterMap | None],
        peers: UpkeepPeers,
        listener: HintListener,
        metrics: Metrics,
        me: AccountId,
    ) -> None:
        self._runtime = runtime
        self._view = view
        self._peers = peers
        self._listener = listener
        self._metrics = metrics
        self._me = me
        self._untold: dict[AccountId, _Untold] = {}
        self._recent: deque[tuple[float, AccountId, DamagedName]] = deque()
        self._told: set[tuple[AccountId, DamagedName]] = set()

    def suspect(self, node: Node, base: BlobBase, index: int, profile: str) -> None:
        """Note a shard that its holder should look at.  Bounded, and never raises."""
        now, name = self._runtime.monotonic(), DamagedName(base, index, profile)
        while self._recent and self._recent[0][0] < now - RETRY_SECONDS:
            _, *old = self._recent.popleft()
            self._told.discard((old[0], old[1]))
        # Each stripe of a read may come upon the same shard.
        if (node.account, name) in self._told or len(self._recent) >= WAITING_MAX:
            return
        self._told.add((node.account, name))
        self._recent.append((now, node.account, name))
        if node.account == self._me:
            self._listener.take(self._me, profile, [ShardName(base, index)])
            return
        if node.account not in self._untold and len(self._untold) >= NODES_MAX:
            return
        untold = self._untold.setdefault(node.account, _Untold(node, now))
        if len(untold.names) < WAITING_MAX:
            untold.names[name] = None
            untold.since = now

    async def work(self) -> Progress:
        """Tell every node that may be told now."""
        current = self._view()
        now = self._runtime.monotonic()
        for account, untold in list(self._untold.items()):
            if current is None or now < untold.again:
                continue
            if now - untold.since > KEPT_SECONDS:
                del self._untold[account]
                continue
            chosen = list(untold.names)[:TOLD_A_CALL]
            if await self._tell(current, untold, chosen) and not untold.names:
                del self._untold[account]
        return Progress.IDLE

    async def _tell(
        self, current: ClusterMap, untold: _Untold, chosen: Iterable[DamagedName]
    ) -> bool:
        known = {table.profile for table in current.tables}
        groups: dict[Place, list[DamagedName]] = {}
        for name in chosen:
            if name.profile not in known:
                untold.names.pop(name, None)
                continue
            place = Place.of_base(current, name.profile, name.base)
            groups.setdefault(place, []).append(name)
        peer = self._peers.upkeep_peer(untold.node)
        for place, names in groups.items():
            try:
                await peer.hint(place, [ShardName(name.base, name.index) for name in names])
            except HcefsError as error:
                self._metrics.count("repair_hints_sent_total", outcome=error.kind)
                if error.retryable:
                    untold.again = self._runtime.monotonic() + RETRY_SECONDS
                    return False
                log.info("node %d takes no hint: %s", untold.node.node_id, error.reason)
            else:
                self._metrics.count("repair_hints_sent_total", len(names), outcome="ok")
            for name in names:
                untold.names.pop(name, None)
        return True
