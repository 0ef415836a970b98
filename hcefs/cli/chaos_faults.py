"""Does faults to the cluster of a chaos run, undoes them, and sees that it becomes whole again.

What the cluster does not heal by itself within ``SELF_HEAL_SECONDS`` an operator would cure:
damaged shard files are taken away, a node whose database is damaged gets an empty disk.
Each such cure is counted and named in the report, so that it shows what the cluster found
by itself and what it did not.

Invariant: after :meth:`Faults.settle` every fault is undone, every process runs, and no plan
is in progress, or a problem says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.chaos_disks import Disks, Lack, damage_database, damage_shards
from hcefs.cli.chaos_load import Load
from hcefs.cli.chaos_plan import (
    PLANNED,
    Budget,
    Draws,
    Fault,
    Kind,
    next_fault,
)
from hcefs.cli.chaos_proxy import Passing
from hcefs.cli.chaos_stage import LEASE_MS, Stage
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.errors import HcefsError, Unavailable
from hcefs.ids import BlobBase
from hcefs.placement import changes
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.planner import plan
from hcefs.placement.ring import partition_of
from hcefs.placement.waves import apply_plan, is_planned

M = 2
"""Shards that a blob of the smallest margin may lose: 4+2 and copies on three nodes."""

REST = 3
"""One round in so many waits until everything is whole, so that losses become possible."""

REST_SECONDS = 12.0
SELF_HEAL_SECONDS = 45.0
POLL_SECONDS = 0.5
BETWEEN_SECONDS = (0.2, 1.5)
PLAN_SECONDS = 240.0


@dataclass
class Event:
    """A line of the timeline: when it began, in seconds of the run, and what came of it."""

    at: float
    text: str
    seconds: float = 0.0
    outcome: str = "undone"


class Faults:
    """The faults of one run."""

    def __init__(
        self, stage: Stage, load: Load, seed: int, kinds: Collection[Kind], nodes: int
    ) -> None:
        self._stage = stage
        self._runtime = stage.runtime
        self._load = load
        self._draws = Draws(seed, "faults")
        self._kinds = kinds
        self._nodes_least = nodes
        self._disks = Disks()
        self._began = stage.runtime.monotonic()
        self._wounded: dict[int, float] = {}
        """Node -> when it was hurt."""

        self._bad_databases: set[int] = set()
        self._whole = True
        self._leaving = 0
        """The node that is being drained, to be taken away."""

        self._changing = False
        self.timeline: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.cures: list[str] = []
        self.problems: list[str] = []

    # -- one round

    async def run(self, seconds: float) -> None:
        """Fault after fault for so long; the last one ends in its own time."""
        until = self._runtime.monotonic() + seconds
        while self._runtime.monotonic() < until:
            await self.round()

    async def round(self) -> None:
        """One fault, from its beginning to its end; or a rest."""
        await self._look()
        numbers = tuple(self._stage.serving_nodes())
        budget = Budget(
            nodes=tuple(number for number in numbers if number != self._leaving),
            m=M,
            wounded=frozenset(self._wounded),
            whole=self._whole,
            changing=self._changing,
            can_drain=len(numbers) > self._nodes_least,
        )
        if self._draws.below(REST) == 0 and not (budget.whole and not budget.wounded):
            await self._rest()
            return
        fault = next_fault(self._draws, budget, self._kinds)
        if fault is not None:
            await self._perform(fault)
        await self._runtime.sleep(self._draws.between(*BETWEEN_SECONDS))

    async def _rest(self) -> None:
        event = self._begin("rest: waiting for every shard at its seat")
        until = self._runtime.monotonic() + REST_SECONDS
        while self._runtime.monotonic() < until and not (self._whole and not self._wounded):
            await self._runtime.sleep(POLL_SECONDS)
            await self._look()
        self._end(event, "whole" if self._whole and not self._wounded else "not whole yet")

    async def _perform(self, fault: Fault) -> None:
        event = self._begin(fault.text())
        self._stage.say(fault.text())
        self.counts[fault.kind.value] += 1
        self._whole = self._whole and fault.kind in PLANNED
        try:
            outcome = await self._doers()[fault.kind](fault)
        except HcefsError as error:
            # What could not be done, or not be undone, the end of the run demands again.
            outcome = f"{error.kind}, {error.reason}: {error.message}"
            if error.reason in ("not-serving", "process-ended"):
                self.problems.append(f"after {fault.text()}: {outcome}")
        self._end(event, outcome)

    def _begin(self, text: str) -> Event:
        event = Event(self._runtime.monotonic() - self._began, text)
        self.timeline.append(event)
        return event

    def _end(self, event: Event, outcome: str) -> None:
        event.seconds = self._runtime.monotonic() - self._began - event.at
        event.outcome = outcome

    def _doers(self) -> dict[Kind, Callable[[Fault], Awaitable[str]]]:
        return {
            Kind.KILL: self._kill,
            Kind.KILL_LEDGER: self._kill,
            Kind.KILL_ALL: self._kill,
            Kind.PAUSE: self._pause,
            Kind.PAUSE_LEDGER: self._pause,
            Kind.RESTART: self._restart,
            Kind.REFUSE: self._cut,
            Kind.STALL: self._cut,
            Kind.CUT_LEDGER: self._cut_ledger,
            Kind.FULL: self._fill,
            Kind.CORRUPT_SHARDS: self._corrupt_shards,
            Kind.CORRUPT_DATABASE: self._corrupt_database,
            Kind.WIPE: self._wipe,
            Kind.ADD: self._add,
            Kind.DRAIN: self._drain,
        }

    # -- processes and networks

    def _names(self, fault: Fault) -> list[str]:
        if fault.kind is Kind.KILL_ALL:
            return self._stage.all_running()
        return list(map(node_name, fault.nodes)) or [LEDGER]

    async def _kill(self, fault: Fault) -> str:
        names = self._names(fault)
        await self._stage.kill(names)
        if fault.kind is not Kind.KILL_ALL:
            await self._runtime.sleep(fault.seconds)
        await self._stage.start_processes(names)
        return "serves again"

    async def _pause(self, fault: Fault) -> str:
        names = self._names(fault)
        await self._stage.pause(names)
        try:
            await self._runtime.sleep(fault.seconds)
        finally:
            await self._stage.start_processes(names)
        return "serves again"

    async def _restart(self, fault: Fault) -> str:
        names = self._names(fault)
        killed = await self._runtime.disk(self._stage.processes.stop, names)
        await self._stage.start_processes(names)
        return "serves again" + (", but did not end when told to" if killed else "")

    async def _cut(self, fault: Fault) -> str:
        relays = [self._stage.peers[n] for n in fault.nodes if n in self._stage.peers]
        if not relays:
            return "left alone: this node joined later and has no relay before it"
        how = Passing.REFUSE if fault.kind is Kind.REFUSE else Passing.STALL
        for relay in relays:
            relay.set(how)
        try:
            await self._runtime.sleep(fault.seconds)
        finally:
            for relay in relays:
                relay.set(Passing.PASS)
        return "reachable again"

    async def _cut_ledger(self, fault: Fault) -> str:
        links = [self._stage.ledger_links[n] for n in fault.nodes if n in self._stage.ledger_links]
        for link in links:
            link.set(Passing.STALL if self._draws.below(2) else Passing.REFUSE)
        try:
            # Longer than a lease: the node must stop answering, and begin again.
            await self._runtime.sleep(fault.seconds + LEASE_MS / 1000)
        finally:
            for link in links:
                link.set(Passing.PASS)
        await self._stage.start_processes(self._names(fault))
        return "serves again"

    async def _fill(self, fault: Fault) -> str:
        node = fault.nodes[0]
        if node == self._stage.small_disk:
            ballast = await self._runtime.disk(self._stage.fill_disk, node)
            try:
                await self._runtime.sleep(fault.seconds)
            finally:
                await self._runtime.disk(ballast.unlink)
            return await self._recovers(node)
        await self._set_full(node, True)
        try:
            await self._runtime.sleep(fault.seconds)
        finally:
            await self._set_full(node, False)
        return "by its reserve; there is room again"

    async def _recovers(self, node: int) -> str:
        """A node whose disk has room again must serve without anybody's help."""
        name = node_name(node)
        if not self._stage.processes.alive(name):
            self.problems.append(f"node {node} ended when its disk was full")
        try:
            await self._stage.start_processes([name])
        except Unavailable as error:
            # The run goes on as an operator would; what was promised did not happen.
            self.problems.append(f"node {node} did not recover from a full disk: {error.message}")
            await self._stage.kill([name])
            await self._stage.start_processes([name])
            return "by ballast on its tmpfs; it served again only after a restart"
        return "by ballast on its tmpfs; there is room again, and it serves"

    async def _set_full(self, node: int, full: bool) -> None:
        await self._runtime.disk(self._stage.processes.stop, [node_name(node)])
        await self._runtime.disk(self._stage.set_full, node, full)
        await self._stage.start_processes([node_name(node)])

    # -- losses

    def _hurt(self, node: int) -> None:
        self._wounded[node] = self._runtime.monotonic()

    async def _corrupt_shards(self, fault: Fault) -> str:
        node = fault.nodes[0]
        self._hurt(node)
        data = self._stage.data(node)
        paths = await self._runtime.disk(damage_shards, data, self._draws)
        return f"{len(paths)} files"

    async def _corrupt_database(self, fault: Fault) -> str:
        node = fault.nodes[0]
        self._hurt(node)
        await self._stage.kill([node_name(node)])
        paths = await self._runtime.disk(damage_database, self._stage.data(node), self._draws)
        self._bad_databases.add(node)
        names = ", ".join(path.name for path in paths) or "nothing to damage"
        try:
            await self._stage.start_processes([node_name(node)])
        except Unavailable as error:
            await self._cure_node(node, f"with a damaged database it does not serve: {error}")
            return f"{names}; it did not serve with it"
        return f"{names}; it serves"

    async def _wipe(self, fault: Fault) -> str:
        node = fault.nodes[0]
        self._hurt(node)
        await self._stage.kill([node_name(node)])
        await self._empty(node)
        return "serves again, empty"

    async def _empty(self, node: int) -> None:
        name = node_name(node)
        if self._stage.processes.alive(name):
            await self._stage.kill([name])
        await self._runtime.disk(self._stage.empty_disk, node)
        await self._stage.start_processes([name])

    async def _cure_node(self, node: int, why: str) -> None:
        self.cures.append(f"node {node} got an empty disk: {' '.join(why.split())[:200]}")
        self._bad_databases.discard(node)
        await self._empty(node)
        self._hurt(node)

    # -- wholeness

    async def lacks(self) -> list[Lack] | None:
        """Which shards are not at their seats; None while that cannot be told."""
        try:
            current = await self._stage.current_map()
        except HcefsError:
            return None
        self._changing = is_planned(current)
        if self._changing:
            return None
        folders = self._folders(current)
        bases = {made.blob.base for made in self._load.blobs}
        return await self._runtime.disk(self._disks.lacks, current, folders, bases)

    def _folders(self, current: ClusterMap) -> dict[int, Path]:
        numbers = set(self._stage.folder.node_numbers())
        return {
            node.node_id: self._stage.data(node.node_id)
            for node in current.nodes
            if node.node_id in numbers
        }

    async def _look(self) -> None:
        """Learn whether everything is whole again, and cure what does not heal by itself."""
        if self._leaving and not self._changing:
            await self._take_away()
        if self._whole and not self._wounded and not self._changing:
            return
        found = await self.lacks()
        if found is None:
            return
        if not found and await self._rows_agree():
            self._whole, self._bad_databases = True, set()
            self._wounded.clear()
            return
        overdue = [
            node
            for node, since in self._wounded.items()
            if self._runtime.monotonic() - since > SELF_HEAL_SECONDS
        ]
        if overdue:
            await self._cure(found, overdue)

    async def _rows_agree(self) -> bool:
        """Whether all holders of the acknowledged blobs' partitions say that they have the same."""
        try:
            current = await self._stage.current_map()
            facts = await self._stage.layout.inventory(current)
        except HcefsError:
            return False
        table = current.table(current.default_profile)
        bases: set[BlobBase] = {made.blob.base for made in self._load.blobs}
        wanted = {partition_of(bytes(base), table.bits) for base in bases}
        return wanted <= set(facts.complete[table.profile])

    async def _cure(self, found: list[Lack], overdue: list[int]) -> None:
        """Do what an operator would do about what the cluster has not healed."""
        damaged = [lack.path for lack in found if lack.path is not None]
        for path in damaged:
            await self._runtime.disk(path.unlink)
        if damaged:
            self.cures.append(
                f"{len(damaged)} damaged shard files were taken away: the cluster had not found "
                f"them within {SELF_HEAL_SECONDS:.0f} s"
            )
        for node in overdue:
            self._wounded[node] = self._runtime.monotonic()
            if node in self._bad_databases:
                await self._cure_node(node, "its damaged database had not been made whole")

    # -- planned changes

    async def _add(self, _: Fault) -> str:
        new = await self._stage.new_node()
        await self._apply(lambda current: changes.add(current, [new]))
        return f"node {new.node_id} joins; seats move on in the background"

    async def _drain(self, fault: Fault) -> str:
        node = fault.nodes[0]
        await self._apply(lambda current: changes.drain(current, node))
        self._leaving = node
        return "its seats move on in the background"

    async def _apply(self, change: Callable[[ClusterMap], Collection[Node]]) -> None:
        current = await self._stage.current_map()
        made = await self._runtime.compute(lambda: plan(current, tuple(change(current))))
        progress = await self._stage.operator.map_progress()
        done = progress.names if progress.epoch == current.epoch else frozenset()
        await self._stage.layout.apply(current, apply_plan(made, current, done))
        self._changing = True

    async def _take_away(self) -> None:
        node = self._leaving
        try:
            current = await self._stage.current_map()
            self._changing = is_planned(current)
            if self._changing:
                return
            if changes.seats_of(current, node):
                raise Unavailable("a drained node still has seats", reason="not-drained")
            await self._apply(lambda current: changes.remove(current, node))
            await self._stage.take_away(node)
        except HcefsError as error:
            self.problems.append(f"node {node} was drained and cannot leave: {error.message}")
        event = self._begin(f"node {node} has left")
        self._leaving = 0
        self._end(event, "its folder is set aside")

    # -- the end

    async def settle(self, seconds: float) -> list[Lack] | None:
        """Start what does not run, let plans end, wait until all is whole; what is still lacking.

        Raises:
            Unavailable: a process does not serve any more.
        """
        event = self._begin("the end: all faults undone, waiting for every shard at its seat")
        names = self._stage.folder.process_names()
        await self._stage.start_processes(names)
        until = self._runtime.monotonic() + seconds
        until_planned = self._runtime.monotonic() + seconds + PLAN_SECONDS
        found: list[Lack] | None = None
        self._whole = False
        while self._runtime.monotonic() < (until_planned if self._changing else until):
            await self._look()
            found = await self.lacks()
            if found == [] and self._whole and not self._leaving:
                break
            # At rest nobody else will: every node with a lack counts as hurt.
            for lack in found or ():
                self._wounded.setdefault(lack.node, self._runtime.monotonic())
            await self._runtime.sleep(POLL_SECONDS)
        self._end(event, "whole" if found == [] and self._whole else "not whole")
        if found == [] and not self._whole:
            self.problems.append("holders of one partition still list different rows")
        return found
