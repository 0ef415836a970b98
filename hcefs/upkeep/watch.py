"""Watch the other nodes, say on the ledger who is away, and give up who stays away.

One round: ping everybody, tell the ledger whom this node misses, and, where the policy
lets nodes act, agree with the others on the map that gives up those that a majority has
missed for long enough.  One of those that agree submits that map; the ledger checks it
all again.

What counts as unreachable: a node that gives no answer, or answers that it may not
serve.  The latter includes one whose lease has run out: it may hold its shards safe, but
it refuses every reader and every copy, so to the cluster it is as good as gone; and when
it is the ledger that is gone, this node's own lease ends too, and it counts nothing.  A
node that answers anything else, that it is busy or does not know the question, is there.
Away is also a node whose software this node cannot talk to, or that says so of this node's.

Invariants:

* Three failures in a row make a node unreachable and one answer brings it back; a
  restart forgets neither, because it begins with what this node last reported.
* A node that may be the one that is cut off (its lease has run out, or it reaches fewer
  than half of the others) says nothing; what it said before stands.
* Whom to give up follows from the reports on the ledger, never from this node's pings.
* Where more nodes are away than the policy allows, or no plan can do without them,
  nothing moves and :meth:`Watcher.warnings` says why.

Not guaranteed: that a node which answers pings has a disk that works.
Source: docs/ARCHITECTURE.md, "Nodes that stay away".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hcefs.errors import Conflict, HcefsError, Unavailable
from hcefs.ids import AccountId
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.rules_automatic import SERVING
from hcefs.ledger.state import StateView
from hcefs.ledger.transactions import SetClusterMap, Transaction
from hcefs.ledger.transactions_map import NodeReport
from hcefs.metrics import Metrics
from hcefs.placement.automatic import LIVE, automatic_successor
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.feasibility import Infeasible
from hcefs.runtime import Runtime
from hcefs.transport.node_facts import NodeFacts
from hcefs.transport.upkeep import Pulse, UpkeepPeers
from hcefs.transport.versions import PeerVersions
from hcefs.upkeep.away import agreed, is_cut_off, judge
from hcefs.upkeep.worker import Progress

ROUND_SECONDS = 2.0
PINGS_A_SECOND_MAX = 20
"""In large clusters rounds are longer, so that pings stay cheap."""

PINGS_AT_ONCE = 16
PING_SECONDS = 2.0
FAILURES = 3
"""In a row make a node unreachable: one lost message or one slow moment does not."""

REPORT_GAP_SECONDS = 5.0
"""Between two reports of this node: one that comes and goes must not fill the ledger."""

TURN_SECONDS = 5.0
"""How much longer each node waits with an agreed map than the one before it."""

RETRY_FIRST_SECONDS = 2.0
RETRY_LAST_SECONDS = 60.0
PROTOCOL_OF_REPORTS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """What becomes of giving up some nodes of one map: its successor, or why there is none."""

    epoch: int
    out: frozenset[int]
    successor: ClusterMap | None
    problem: str = ""


class _Pace:
    """When the next transaction of one sort may be tried: later and later while it fails."""

    def __init__(self, runtime: Runtime, gap_seconds: float) -> None:
        self._runtime = runtime
        self._gap = gap_seconds
        self._not_before = 0.0
        self._pause = RETRY_FIRST_SECONDS

    def is_due(self) -> bool:
        return self._runtime.monotonic() >= self._not_before

    def done(self) -> None:
        self._pause = RETRY_FIRST_SECONDS
        self._not_before = self._runtime.monotonic() + self._gap

    def failed(self) -> None:
        pause, self._pause = self._pause, min(RETRY_LAST_SECONDS, 2 * self._pause)
        self._not_before = self._runtime.monotonic() + pause * _jitter(self._runtime)


class Watcher:
    """Watches the other nodes on behalf of this one."""

    name = "watch"

    def __init__(
        self,
        runtime: Runtime,
        ledger: StateView,
        peers: UpkeepPeers,
        metrics: Metrics,
        me: AccountId,
        require_fresh: Callable[[], None],
        submit: Callable[[Transaction], Awaitable[SubmitResult]],
        versions: PeerVersions | None = None,
    ) -> None:
        """``require_fresh`` raises while this node's lease has run out.

        ``versions`` is told what each node says of its software.
        """
        self._versions = versions
        self._runtime = runtime
        self._ledger = ledger
        self._peers = peers
        self._metrics = metrics
        self._me = me
        self._require_fresh = require_fresh
        self._submit = submit
        self.idle_seconds = ROUND_SECONDS
        self._failures: dict[int, int] | None = None
        self._told: dict[int, NodeFacts] = {}
        self._silence = ""
        self._cut_off = ""
        self._blocked = ""
        self._plan: _Plan | None = None
        self._agreed: tuple[bytes, float] = (b"", 0.0)
        self._draft: NodeReport | None = None
        self._reports = _Pace(runtime, REPORT_GAP_SECONDS)
        self._changes = _Pace(runtime, TURN_SECONDS)
        self._submitted_height = 0

    def unreachable(self) -> tuple[int, ...]:
        """The nodes that do not answer, by ascending id."""
        failures = self._failures or {}
        return tuple(sorted(each for each, count in failures.items() if count >= FAILURES))

    def heard(self) -> dict[int, bool]:
        """Whether each node that was pinged answers; empty before the first round."""
        # Replaced whole after each round, so other threads may ask.
        return {each: count < FAILURES for each, count in dict(self._failures or {}).items()}

    def told(self) -> dict[int, NodeFacts]:
        """What each node that answered told about itself last."""
        # Replaced whole after each round, so other threads may ask.
        return self._told

    def warnings(self) -> list[str]:
        """What a person must see to."""
        refused = self._versions.warnings() if self._versions is not None else []
        return [*(text for text in (self._cut_off, self._blocked) if text), *refused]

    async def work(self) -> Progress:
        """One round."""
        current = self._ledger.cluster_map()
        me = current.node_of_account(self._me) if current is not None else None
        if current is None or me is None or me.state not in LIVE:
            self._failures, self._cut_off, self._blocked = None, "", ""
            self._told = {}
        else:
            others = [n for n in current.nodes if n.state in LIVE and n.node_id != me.node_id]
            if self._versions is not None:
                self._versions.keep(frozenset(each.account for each in others))
            self.idle_seconds = _jitter(self._runtime) * max(
                ROUND_SECONDS, len(others) / PINGS_A_SECOND_MAX
            )
            await self._look(current, me, others)
            if self._may_speak(current, me):
                await self._speak(current, me)
        blocked = bool(self._blocked) or bool(self._cut_off and self._ledger.policy().out_after_ms)
        self._metrics.set("unreachable_nodes", len(self.unreachable()))
        self._metrics.set("automatic_out_blocked", blocked)
        return Progress.IDLE

    # -- pings

    async def _look(self, current: ClusterMap, me: Node, others: Sequence[Node]) -> None:
        """Ping everybody once, and count."""
        if self._failures is None:
            # Whom this node missed before it was restarted, it misses until it hears of it:
            # to begin with a clean sheet would begin the policy's time anew.
            row = self._ledger.report(me.node_id)
            missed = row.unreachable if row is not None else ()
            self._failures = {each.node_id: FAILURES for each in missed}
        fresh = not self._stale()
        own = Pulse(current.epoch, self._ledger.height)
        places = asyncio.Semaphore(PINGS_AT_ONCE)

        async def ping(node: Node) -> str:
            async with places:
                return await self._ping(node, own, told)

        told: dict[int, NodeFacts] = {}
        jobs = [self._runtime.spawn(ping(node), name="ping") for node in others]
        try:
            answers = await asyncio.gather(*jobs, return_exceptions=True)
        finally:
            for job in jobs:
                job.cancel()
        fresh = fresh and not self._stale()
        before, after = self._failures, dict[int, int]()
        for node, answer in zip(others, answers, strict=True):
            # A connection that is closed under a ping ends it as cancelled.
            problem = answer if isinstance(answer, str) else type(answer).__name__
            was = before.get(node.node_id, 0)
            count = 0 if not problem else min(FAILURES, was + 1) if fresh else was
            after[node.node_id] = count
            if count >= FAILURES > was:
                log.warning("node %d cannot be reached (%s)", node.node_id, problem)
            elif was >= FAILURES > count:
                log.info("node %d is back", node.node_id)
        self._failures = after
        kept = {each.node_id: self._told.get(each.node_id) for each in others}
        self._told = {each: facts for each, facts in kept.items() if facts is not None} | told

    async def _ping(self, node: Node, own: Pulse, told: dict[int, NodeFacts]) -> str:
        """Why a node counts as away for this once; empty when it is there."""
        try:
            async with self._runtime.timeout(PING_SECONDS):
                answer = await self._peers.upkeep_peer(node).ping(own, PING_SECONDS)
            if self._versions is not None:
                self._versions.check(node.account, f"node {node.node_id}", answer.versions)
            if answer.facts is not None:
                told[node.node_id] = answer.facts
        except TimeoutError:
            return "deadline"
        except Unavailable as error:
            return error.reason
        except HcefsError as error:
            if error.reason == "version-refused":
                return error.reason
            log.debug("node %d answers a ping with %s", node.node_id, error.reason)
        return ""

    def _stale(self) -> bool:
        try:
            self._require_fresh()
        except Unavailable:
            return True
        return False

    def _may_speak(self, current: ClusterMap, me: Node) -> bool:
        """Whether this node's view of the others is worth anything."""
        if me.state not in SERVING:
            self._cut_off, self._blocked = "", ""
            return False
        if self._stale():
            # Status and metrics show the lease itself; what they showed of others stays.
            silence = "this node's lease has run out: it reports nothing about other nodes"
        elif is_cut_off(current, me.node_id, self.unreachable()):
            silence = (
                f"this node cannot reach {len(self.unreachable())} of {len(self._failures or ())} "
                "other nodes, more than half of those that serve: it takes itself to be cut off "
                "and reports nothing; a person must look at the network and at those nodes"
            )
            self._cut_off, self._blocked = silence, ""
        else:
            silence = self._cut_off = ""
        if silence != self._silence:
            log.warning("%s", silence or "this node can tell again who is away")
        self._silence = silence
        return not silence

    # -- what is said on the ledger

    async def _speak(self, current: ClusterMap, me: Node) -> None:
        """Report, and help to give up who has been away for long enough."""
        if self._ledger.protocol().at(self._ledger.height + 1) < PROTOCOL_OF_REPORTS:
            return
        plan = await self._plan_out(current, me)
        successor = plan.successor if plan is not None else None
        if self._ledger.height < self._submitted_height:
            return  # what was said last is not in the replica yet
        await self._report(current, me, successor.digest() if successor is not None else b"")
        if plan is not None and successor is not None:
            await self._give_up(current, me, plan.out, successor)

    async def _plan_out(self, current: ClusterMap, me: Node) -> _Plan | None:
        """The map without those that are to be given up, if nodes may do that now."""
        policy = self._ledger.policy()
        verdict = judge(self._ledger, current, policy, self._runtime.now_ms())
        plan: _Plan | None = None
        blocked = ""
        if verdict.due and verdict.away > policy.out_max:
            blocked = (
                f"{verdict.away} nodes are away at once, more than the {policy.out_max} that the "
                "policy allows: a person must decide; bring them back, or set them out"
            )
        elif verdict.due and me.node_id not in verdict.due:
            plan = await self._planned(current, verdict.due)
            blocked = plan.problem
        if blocked != self._blocked:
            log.warning("%s", blocked or "nodes may again be given up without a person")
        self._blocked = blocked
        return plan

    async def _planned(self, current: ClusterMap, out: frozenset[int]) -> _Plan:
        known = self._plan
        if known is not None and (known.epoch, known.out) == (current.epoch, out):
            return known
        try:
            successor = await self._runtime.compute(automatic_successor, current, out)
            made = _Plan(current.epoch, out, successor)
        except Infeasible as error:
            names = ", ".join(map(str, sorted(out)))
            made = _Plan(
                current.epoch,
                out,
                None,
                f"nodes that stay away ({names}) cannot be planned out, and a person must decide: "
                f"{error.message}",
            )
        self._plan = made
        return made

    async def _report(self, current: ClusterMap, me: Node, endorses: bytes) -> None:
        """Tell the ledger what has changed since this node's last report."""
        row = self._ledger.report(me.node_id)
        said = tuple(each.node_id for each in row.unreachable) if row is not None else ()
        # What was endorsed for another epoch counts for nothing, so it is not taken back.
        agreed_to = row.endorses if row is not None and row.epoch == current.epoch else b""
        unreachable = self.unreachable()
        if (said, agreed_to) == (unreachable, endorses) or not self._reports.is_due():
            return
        draft = self._draft
        drafted = (draft.epoch, draft.unreachable, draft.endorses) if draft is not None else None
        if draft is None or drafted != (current.epoch, unreachable, endorses):
            draft = self._draft = NodeReport(
                node_id=me.node_id,
                number=(row.number if row is not None else 0) + 1,
                epoch=current.epoch,
                unreachable=unreachable,
                endorses=endorses,
            )
        # What failed is repeated as it was: the ledger takes a repeat for what it is.
        if await self._say(self._reports, draft):
            self._draft = None  # should it not show, another one is made
            log.info(
                "reported: %s cannot be reached%s",
                ", ".join(map(str, unreachable)) or "no node",
                "; a map without those that stay away is endorsed" if endorses else "",
            )

    async def _give_up(
        self, current: ClusterMap, me: Node, out: frozenset[int], successor: ClusterMap
    ) -> None:
        """Submit an agreed map when it is this node's turn."""
        digest = successor.digest()
        nodes = agreed(self._ledger, current, out, digest)
        if me.node_id not in nodes:
            self._agreed = (b"", 0.0)
            return
        now = self._runtime.monotonic()
        if self._agreed[0] != digest:
            self._agreed = (digest, now)
        away = self.unreachable()
        turn = [each for each in nodes if each not in away].index(me.node_id)
        if now - self._agreed[1] < turn * TURN_SECONDS or not self._changes.is_due():
            return
        change = SetClusterMap(current.epoch, successor.encode())
        if await self._say(self._changes, change):
            log.warning(
                "epoch %d: nodes that stayed away are given up, their seats are rebuilt: %s",
                successor.epoch, ", ".join(map(str, sorted(out))),
            )  # fmt: skip

    async def _say(self, pace: _Pace, transaction: Transaction) -> bool:
        """Submit; whether it is committed.  A refusal is no fault: others speak too."""
        try:
            result = await self._submit(transaction)
        except HcefsError as error:
            pace.failed()
            quiet = isinstance(error, Conflict)
            log.log(
                logging.DEBUG if quiet else logging.INFO,
                "the ledger does not take a %s now: %s (%s)",
                transaction.KIND, error.message, error.reason,
            )  # fmt: skip
            return False
        pace.done()
        self._submitted_height = max(self._submitted_height, result.height)
        return True


def _jitter(runtime: Runtime) -> float:
    """0.75 to 1.25, so that nodes do not speak all at once."""
    return 0.75 + int.from_bytes(runtime.random(2), "big") / (1 << 17)
