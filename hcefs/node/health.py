"""The health pages of a process: ``/health/live``, ``/health/ready``, ``/health/cluster``.

* *live*: does the process still turn?  503 means that a restart is the remedy.
* *ready*: may it serve now?  The same answer as the gRPC health service's, from the same
  function; what is shown there follows within half a second.
* *cluster*: can the cluster be read and written, as this process sees it, and would stopping
  this process lose either?  503 when it cannot be read or not be written.

Each answer is JSON with ``ok`` and ``reasons``, which say what to do.

Invariants: the pages name no account, record or blob; they change nothing; their cost is
bounded by the cluster map.  They run in the metrics server's threads and read only what is
replaced whole.

Not guaranteed: that the view is the whole truth.  A node counts another as serving that
answered one of its last pings; damage that waits for repair on others is not counted.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from hcefs.console.pages import ConsoleSite, name_of
from hcefs.console.snapshot import Facts, snapshot
from hcefs.ledger.log import LedgerLog
from hcefs.metrics import Body, Page
from hcefs.node.ledger_node import LedgerNode
from hcefs.node.storage_node import StorageNode
from hcefs.placement.availability import Answer, HealthFacts, availability
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.safety import ok_to_stop
from hcefs.placement.waves import SeatName
from hcefs.runtime import Runtime

LIVE_PATH: Final = "/health/live"
READY_PATH: Final = "/health/ready"
CLUSTER_PATH: Final = "/health/cluster"
STUCK_SECONDS = 30.0
"""A process whose event loop has not turned for so long does not come back by itself."""

_GONE = frozenset({NodeState.OUT, NodeState.REMOVED})


class LoopBeat:
    """When the event loop last turned: beaten by it, read by other threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._last = runtime.monotonic()

    def beat(self) -> None:
        """The loop turns."""
        self._last = self._runtime.monotonic()

    def reasons(self) -> list[str]:
        """Why the process counts as dead; nothing while it turns."""
        silent = self._runtime.monotonic() - self._last
        if silent <= STUCK_SECONDS:
            return []
        return [f"the process has not turned for {silent:.0f} s: restart it"]


def storage_pages(node: StorageNode, beat: LoopBeat) -> Mapping[str, Page]:
    """The health pages of a storage node."""
    return {
        LIVE_PATH: lambda: _verdict(beat.reasons()),
        READY_PATH: lambda: _verdict(node.unready()),
        CLUSTER_PATH: lambda: _storage_cluster(node),
    }


def ledger_pages(node: LedgerNode, beat: LoopBeat) -> Mapping[str, Page]:
    """The health pages of the embedded ledger.

    It is ready as soon as it answers, because nodes follow it before it may write; whether
    it writes is the cluster's page's to say.
    """
    return {
        LIVE_PATH: lambda: _verdict(beat.reasons()),
        READY_PATH: lambda: _verdict(node.unready()),
        CLUSTER_PATH: lambda: _ledger_cluster(node),
    }


def console_facts(node: StorageNode, runtime: Runtime) -> Facts:
    """What a storage node's console shows: its replica, its pings, and what nodes told it."""
    current, own = node.map(), node.facts.latest
    me = current.node_of_account(node.account) if current is not None else None
    told, answers = dict(node.watcher.told()), dict(node.watcher.heard())
    unready = tuple(node.unready())
    if me is not None:
        answers[me.node_id] = True
        if own is not None:
            told[me.node_id] = own
    elif not unready:
        unready = ("the cluster map does not name this node",)
    return Facts(
        runtime.now_ms(),
        current,
        node.arrived(),
        answers,
        told,
        node.height(),
        node.protocol(),
        node.lease_max_ms(),
        me.node_id if me is not None else 0,
        unready,
        tuple(node.warnings()),
        node.facts.seconds_left,
    )


def console_site(node: StorageNode, runtime: Runtime, *addresses: str) -> ConsoleSite:
    """The console of a storage node, which is reached by the hosts of some addresses."""
    configured = frozenset({socket.gethostname(), *(name_of(each) for each in addresses)})

    def names() -> frozenset[str]:
        current = node.map()
        me = current.node_of_account(node.account) if current is not None else None
        return configured | ({name_of(me.address)} if me is not None else set())

    return ConsoleSite(lambda: snapshot(console_facts(node, runtime)), runtime.monotonic, names)


def _page(ok: bool, data: Mapping[str, Any]) -> Body:
    text = json.dumps({"ok": ok, **data}, ensure_ascii=False)
    return Body(200 if ok else 503, text.encode() + b"\n")


def _verdict(reasons: Sequence[str]) -> Body:
    return _page(not reasons, {"reasons": list(reasons)})


def _answer(answer: Answer) -> dict[str, Any]:
    return {"ok": answer.yes, "known": answer.is_known, "reason": answer.reason}


# --- a storage node -------------------------------------------------------------------


def _storage_cluster(node: StorageNode) -> Body:
    current = node.map()
    unready = node.unready()
    me = current.node_of_account(node.account) if current is not None else None
    if current is None or me is None or unready:
        why = unready or ["the cluster map does not name this node"]
        return _unknown(why, disk=node.care.state())
    facts = health_facts(current, me, node.watcher.heard(), node.arrived())
    now = availability(current, facts)
    without = availability(current, facts, without=me.node_id)
    stop = ok_to_stop(current, me.node_id, facts)
    reasons = [each.reason for each in (now.reads, now.writes) if not each.yes]
    return _page(
        now.reads.yes and now.writes.yes,
        {
            "reasons": list(dict.fromkeys(reasons)),
            "read": _answer(now.reads),
            "write": _answer(now.writes),
            "stop": {
                **_answer(stop),
                "loses_read": _lost(now.reads, without.reads),
                "loses_write": _lost(now.writes, without.writes),
            },
            "node": me.node_id,
            "epoch": current.epoch,
            "disk": node.care.state(),
            "unreachable": list(node.watcher.unreachable()),
            "spare_shards": dict(now.spare),
        },
    )


def _unknown(reasons: Sequence[str], **more: Any) -> Body:
    """This process cannot tell: its own view is not fresh enough to conclude from."""
    unknown = {"ok": False, "known": False, "reason": "; ".join(reasons)}
    stop = {**unknown, "loses_read": None, "loses_write": None}
    data = {"reasons": list(reasons), "read": unknown, "write": unknown, "stop": stop}
    return _page(False, {**data, **more})


def _lost(now: Answer, without: Answer) -> bool | None:
    """Whether what works now would stop working; None where nobody can be sure."""
    if without.yes:
        return False
    return now.yes if without.is_known else None


def health_facts(
    current: ClusterMap, me: Node, heard: Mapping[int, bool], done: Collection[SeatName]
) -> HealthFacts:
    """Who serves, as one node sees it: itself, whom its pings reach, and who is given up."""
    healthy = dict(heard)
    healthy |= {each.node_id: False for each in current.nodes if each.state in _GONE}
    healthy[me.node_id] = True
    return HealthFacts(current.epoch, healthy, done)


# --- the ledger -----------------------------------------------------------------------


def _ledger_cluster(node: LedgerNode) -> Body:
    writes, log = node.unwritable(), node.log
    reason = "; ".join(writes) or "the writer commits"
    lease = _lease_seconds(log)
    read = Answer(
        not writes,
        f"nodes serve while they have heads that are at most {lease:g} s old; {reason}",
    )
    current = log.cluster_map()
    stop = Answer(
        False,
        f"puts and changes of rights stop at once without the ledger, gets when the nodes' "
        f"leases of {lease:g} s have run out: do it quickly, or in a pause",
    )
    return _page(
        not writes,
        {
            "reasons": list(writes),
            "read": _answer(read),
            "write": _answer(Answer(not writes, reason)),
            "stop": {**_answer(stop), "loses_read": True, "loses_write": True},
            "epoch": current.epoch if current is not None else 0,
            "height": log.height,
        },
    )


def _lease_seconds(log: LedgerLog) -> float:
    return log.genesis.lease_ms / 1000
