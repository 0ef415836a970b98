"""What goes wrong when: drawn from the seed, within what the promises allow.

Invariant (the budget): in one phase, shards of at most one node are destroyed (its disk
is lost, bits of its shards flip, or they become others), because a degraded put may be
spared no more than one.  Everything else takes nothing that was synchronised, so it is not
counted: kills, power cuts, partitions, slow, full and failing disks, and wrong clocks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from hcefs.errors import HcefsError
from hcefs.formats.shard import (
    HEADER_SIZE,
    ShardFooter,
    decode_file,
    footer_length,
    piece_in,
)
from hcefs.ids import BlobBase
from hcefs.integrity import blake3_digest
from hcefs.ledger.follower import FollowerStatus
from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.ring import partition_of, rotation_of
from hcefs.placement.waves import SeatName, in_flight
from hcefs.runtime import end_tasks
from hcefs.testing.simulator.files import PlatterFile, index_of_name
from hcefs.testing.simulator.history import History, Violation
from hcefs.testing.simulator.ledger_recovery import recover
from hcefs.testing.simulator.machine import Crash
from hcefs.testing.simulator.world import LEASE_MS, SKEW_MS, SimNode, World

WITH_A_PLAN = 0.5
"""How many phases destroy shards at the beginning or the end of a plan, if there is one."""

WITHOUT_LEDGER = 0.2
"""In how many phases the ledger's disk is lost."""

Shard = tuple[BlobBase, int, PlatterFile]
"""Base, index and file of a shard on a node's disk."""

FAILED = (FollowerStatus.FAILED, FollowerStatus.DIVERGED, FollowerStatus.FORKED)


class Faults:
    """The faults of one phase, and the supervisor that restarts what died."""

    def __init__(
        self, world: World, history: History, fail: Callable[[Violation], None], name: str
    ) -> None:
        self._world = world
        self._history = history
        self._fail = fail
        self._random = random.Random(f"{world.seed}/faults/{name}")
        self._tasks: list[asyncio.Task[None]] = []
        self._held: set[int] = set()
        """Nodes that are down on purpose."""

        self._is_ledger_held = False
        self._may_destroy = True
        self._is_over = False

    def start(self) -> None:
        """Let things go wrong."""
        jobs = [self._goes_wrong() for _ in range(self._random.choice((1, 1, 2)))]
        if self._random.random() < WITH_A_PLAN:
            # What is destroyed in this phase is destroyed when it hurts a plan most.
            self._may_destroy = False
            jobs.append(self._random.choice((self._forge, self._lose_new_home))())
        if self._random.random() < WITHOUT_LEDGER:
            jobs.append(self._lose_ledger())
        self._tasks = [self._world.loop.create_task(job) for job in (*jobs, self._supervise())]

    async def stop(self) -> None:
        """End all faults; everything runs again."""
        self._is_over = True
        await end_tasks(*self._tasks)
        self._held.clear()
        self._is_ledger_held = False
        self._world.heal()
        self._recover()
        self._world.trace.note("everything is healed")

    async def _goes_wrong(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self._kill, self._kill, self._kill_many, self._kill_all, self._kill_ledger,
            self._crash_in_call, self._crash_in_call, self._crash_in_write, self._partition,
            self._one_way, self._lossy, self._slow, self._full_disk, self._failing_disk,
            self._clock, self._back_while_unheard, self._destroy, self._failing_rows,
            self._full_ledger,
        ]  # fmt: skip
        while True:
            await asyncio.sleep(self._random.uniform(3.0, 20.0))
            kind = self._random.choice(kinds)
            self._world.trace.count(f"fault {kind.__name__[1:]}")
            await kind()

    # -- processes

    def _some_node(self) -> SimNode:
        return self._random.choice(self._world.nodes)

    async def _down(self, nodes: list[SimNode], seconds: float, *, power: bool) -> None:
        for node in nodes:
            self._held.add(node.number)
            self._world.kill_node(node, power=power)
        await asyncio.sleep(seconds)
        for node in nodes:
            self._held.discard(node.number)

    async def _kill(self) -> None:
        power = self._random.random() < 0.5
        await self._down([self._some_node()], self._random.choice((0.5, 5.0, 40.0)), power=power)

    async def _kill_many(self) -> None:
        nodes = self._random.sample(self._world.nodes, self._random.randint(2, 4))
        await self._down(nodes, self._random.choice((0.5, 10.0, 30.0)), power=True)

    async def _kill_all(self) -> None:
        self._world.kill_ledger(power=True)
        self._is_ledger_held = True
        await self._down(list(self._world.nodes), self._random.uniform(1.0, 10.0), power=True)
        self._is_ledger_held = False

    async def _kill_ledger(self) -> None:
        self._is_ledger_held = True
        self._world.kill_ledger(power=self._random.random() < 0.5)
        await asyncio.sleep(self._random.choice((0.5, 5.0, 20.0)))
        self._is_ledger_held = False

    async def _lose_ledger(self) -> None:
        """Its disk is gone; some time later the operators begin a new term."""
        await asyncio.sleep(self._random.uniform(10.0, 90.0))
        self._world.lose_ledger_disk()
        await asyncio.sleep(self._random.choice((0.5, 5.0, 30.0)))
        self._recover()

    def _recover(self) -> None:
        """Operators begin a new term, and go on with it when the faults are over."""
        ledger = self._world.ledger
        if ledger.is_lost and ledger.recovery is None:
            ledger.recovery = self._world.loop.create_task(recover(self._world))

    async def _crash_in_call(self) -> None:
        self._some_node().storage.platter.crash_after = self._random.randint(0, 60)
        await asyncio.sleep(10.0)

    async def _crash_in_write(self) -> None:
        table = self._random.choice(self._some_node().storage.tables)
        table.crash_after = self._random.randint(0, 12)
        await asyncio.sleep(10.0)

    # -- the network

    def _names(self) -> list[str]:
        return ["ledger", *(node.name for node in self._world.nodes)]

    async def _cut_off(self, pairs: list[tuple[str, str]], seconds: float) -> None:
        links = [self._world.network.link(*pair) for pair in pairs]
        for link in links:
            link.is_closed = True
        await asyncio.sleep(seconds)
        for link in links:
            link.open()

    async def _partition(self) -> None:
        names = self._names()
        some = self._random.sample(names, self._random.randint(1, 3))
        others = [name for name in [*names, *self._world.people] if name not in some]
        self._world.trace.note(f"partition {some}")
        pairs = [(a, b) for a in some for b in others] + [(b, a) for a in some for b in others]
        await self._cut_off(pairs, self._random.choice((2.0, 12.0, 40.0)))

    async def _one_way(self) -> None:
        names = self._names()
        one = self._random.choice(names)
        others = self._random.sample([n for n in names if n != one], self._random.randint(1, 6))
        self._world.trace.note(f"nothing of {one} reaches {others}")
        await self._cut_off([(one, b) for b in others], self._random.choice((2.0, 12.0, 40.0)))

    async def _lossy(self) -> None:
        one = self._random.choice(self._names())
        links = [
            self._world.network.link(*pair)
            for other in [*self._names(), *self._world.people]
            if other != one
            for pair in ((one, other), (other, one))
        ]
        loss, cut = self._random.choice(((0.05, 0.0), (0.0, 0.1), (0.02, 0.05), (0.3, 0.0)))
        self._world.trace.note(f"the network of {one} loses {loss} and cuts {cut}")
        for link in links:
            link.loss, link.cut = loss, cut
            link.delay_seconds = (0.0005, 0.2)
        await asyncio.sleep(self._random.uniform(5.0, 40.0))
        for link in links:
            link.heal()

    async def _slow(self) -> None:
        node = self._some_node()
        self._world.trace.note(f"{node.name} is slow")
        node.machine.disk_seconds = self._random.choice(((0.02, 0.1), (0.1, 0.6), (1.0, 4.0)))
        await asyncio.sleep(self._random.uniform(10.0, 40.0))
        node.machine.disk_seconds = (0.0, 0.002)

    # -- disks

    async def _full_disk(self) -> None:
        node = self._some_node()
        self._world.trace.note(f"the disk of {node.name} is full")
        platter = node.storage.platter
        platter.capacity_bytes = platter.used_bytes + self._random.choice((0, 100_000, 41 << 20))
        rows_too = self._random.random() < 0.3
        for table in node.storage.tables:
            table.is_full = rows_too
        await asyncio.sleep(self._random.uniform(5.0, 40.0))
        platter.capacity_bytes = platter.total_bytes
        for table in node.storage.tables:
            table.is_full = False

    async def _full_ledger(self) -> None:
        """The ledger's disk takes nothing for a while, or fails; nobody restarts the writer."""
        table = self._world.ledger.table
        if self._random.random() < 0.5:
            self._world.trace.note("the disk of the ledger is full")
            table.is_full = True
        else:
            self._world.trace.note("the disk of the ledger fails now and then")
            table.fails = 0.3
        await asyncio.sleep(self._random.uniform(5.0, 30.0))
        table.is_full, table.fails = False, 0.0

    async def _failing_disk(self) -> None:
        node = self._some_node()
        self._world.trace.note(f"the disk of {node.name} fails now and then")
        node.storage.platter.fails = self._random.choice((0.02, 0.2, 1.0))
        await asyncio.sleep(self._random.uniform(5.0, 30.0))
        node.storage.platter.fails = 0.0

    async def _failing_rows(self) -> None:
        node = self._some_node()
        self._world.trace.note(f"the databases of {node.name} fail now and then")
        for table in node.storage.tables:
            table.fails = 0.1
        await asyncio.sleep(self._random.uniform(5.0, 30.0))
        for table in node.storage.tables:
            table.fails = 0.0

    async def _destroy(self) -> None:
        """The one fault of a phase that takes acknowledged shards."""
        if not self._may_destroy:
            return
        self._may_destroy = False
        await self._random.choice((self._lose_disk, self._flip))()

    async def _lose_disk(self) -> None:
        node = self._some_node()
        for base, index, _ in self._shards(node):
            self._history.destroy(base, index)
        self._world.kill_node(node)
        self._world.replace_disk(node)

    async def _flip(self) -> None:
        node = self._some_node()
        self._world.trace.note(f"bits flip on {node.name}")
        for file in self._take(self._shards(node)):
            place, bit = self._random.randrange(len(file.data)), self._random.randrange(8)
            node.storage.platter.flip(file, place, bit)

    def _take(self, shards: list[Shard]) -> list[PlatterFile]:
        """Some of these shards, which are about to be destroyed."""
        taken = self._random.sample(shards, min(len(shards), self._random.randint(1, 12)))
        for base, index, _ in taken:
            self._history.destroy(base, index)
        return [file for _, _, file in taken]

    async def _forge(self) -> None:
        """Shards that are about to be copied are whole, and not what was written.

        As from a memory that failed before the digests were computed: only the layout tells.
        """
        moving = await self._plan()
        nodes = [node for node in self._world.nodes if self._leaving(node, moving)]
        node = self._random.choice(nodes) if nodes else self._some_node()
        self._world.trace.note(f"shards of {node.name} become others")
        for file in self._take(self._leaving(node, moving) or self._shards(node)):
            node.storage.platter.forge(file, another(bytes(file.data)))

    async def _lose_new_home(self) -> None:
        """A node that has just been given seats loses its disk, while others still have copies.

        Those are not destroyed: who gave up its seat must keep its copy now.
        """
        moving = await self._plan()
        while now := in_flight(self._world.map()):
            moving |= now
            await asyncio.sleep(0.1)
        await asyncio.sleep(self._random.uniform(0.05, 1.5))
        current = self._world.map()
        homes = [
            node
            for node in self._world.nodes
            if any(_node_id(current, node) == _holder(current, name) for name in moving)
        ]
        node = self._random.choice(homes) if homes else self._some_node()
        for base, index, _ in self._shards(node):
            if not self._is_kept(current, moving, node, base, index):
                self._history.destroy(base, index)
        self._world.kill_node(node)
        self._world.replace_disk(node)

    def _is_kept(
        self,
        current: ClusterMap,
        moving: Mapping[SeatName, int],
        node: SimNode,
        base: BlobBase,
        index: int,
    ) -> bool:
        """Whether who gave a seat to a node still has its copy of a shard."""
        for name in names_of(current, base, index):
            source = moving.get(name)
            if source is None or _holder(current, name) != _node_id(current, node):
                continue
            for other in self._world.nodes:
                if _node_id(current, other) == source:
                    held = other.storage.platter.durable_shards()
                    if (bytes(base), index) in {index_of_name(each) for each, _ in held}:
                        return True
        return False

    async def _plan(self) -> dict[SeatName, int]:
        """Wait for a plan to begin; the seats that are in flight, with their sources."""
        while not (found := in_flight(self._world.map())):
            await asyncio.sleep(0.02)
        return dict(found)

    def _leaving(self, node: SimNode, moving: Mapping[SeatName, int]) -> list[Shard]:
        """The shards of a node whose seats move from it."""
        current = self._world.map()
        mine = {name for name, source in moving.items() if source == _node_id(current, node)}
        return [
            shard
            for shard in self._shards(node)
            if mine.intersection(names_of(current, shard[0], shard[1]))
        ]

    def _shards(self, node: SimNode) -> list[Shard]:
        found: list[Shard] = []
        for _, name, file in node.storage.platter.shards():
            parsed = index_of_name(name)
            if parsed is not None:
                found.append((BlobBase(parsed[0]), parsed[1], file))
        return found

    # -- clocks

    async def _clock(self) -> None:
        node = self._some_node()
        beyond = self._random.random() < 0.4
        most = 4 * (LEASE_MS + SKEW_MS) if beyond else SKEW_MS * 3 // 4
        node.machine.offset_ms = self._random.randint(-most, most)
        self._world.trace.note(f"the clock of {node.name} is {node.machine.offset_ms} ms off")
        await asyncio.sleep(self._random.uniform(5.0, 60.0))
        node.machine.offset_ms = 0

    async def _back_while_unheard(self) -> None:
        """A clock is set back on a node that hears of the ledger from nobody; clients reach it."""
        node = self._some_node()
        others = [name for name in self._names() if name != node.name]
        self._world.trace.note(f"{node.name} is cut off, and its clock is set back")
        node.machine.offset_ms = -self._random.randint(2, 6) * (LEASE_MS + SKEW_MS)
        pairs = [(other, node.name) for other in others] + [(node.name, each) for each in others]
        await self._cut_off(pairs, self._random.uniform(2.0, 4.0) * (LEASE_MS + SKEW_MS) / 1000)
        node.machine.offset_ms = 0

    # -- the supervisor

    async def _supervise(self) -> None:
        while not self._is_over:
            await asyncio.sleep(self._random.uniform(0.5, 3.0))
            if not self._is_ledger_held:
                keep_ledger(self._world, self._fail)
            for node in self._world.nodes:
                if node.number not in self._held:
                    keep_node(self._world, node, self._fail)


def another(data: bytes) -> bytes:
    """A shard file with one byte of its first piece changed, and whole in itself."""
    header, footer, geometry = decode_file(data)
    changed = bytearray(data[: -footer_length(footer.pieces)])
    changed[HEADER_SIZE] ^= 1
    digest = blake3_digest(piece_in(bytes(changed), geometry, 0))
    digests = digest + footer.piece_digests[len(digest) :]
    return bytes(changed) + ShardFooter.of(footer.plaintext_length, digests).encode(header)


def names_of(current: ClusterMap, base: BlobBase, index: int) -> list[SeatName]:
    """The seats, one of each profile, at which an index of a base would be."""
    found = []
    for table in current.tables:
        if index < table.n:
            partition = partition_of(bytes(base), table.bits)
            seat = (index - rotation_of(base, table.n)) % table.n
            found.append(SeatName(table.profile, partition, seat))
    return found


def _holder(current: ClusterMap, name: SeatName) -> int:
    return current.table(name.profile).node_rows[name.partition][name.seat]


def _node_id(current: ClusterMap, node: SimNode) -> int:
    known = current.node_of_account(node.account)
    return 0 if known is None else known.node_id


def keep_ledger(world: World, fail: Callable[[Violation], None]) -> None:
    """Start the ledger if it does not run, or could not begin; it goes on by itself otherwise.

    It waits by itself for followers, and for a disk that is full or fails.
    """
    ledger = world.ledger
    if ledger.is_lost:
        return
    if ledger.is_up and ledger.node is not None and ledger.node.beginning.failure is not None:
        failure = ledger.node.beginning.failure
        if failure.reason in ("forked", "superseded"):
            fail(Violation("one-ledger", f"the ledger does not start: {failure.reason}"))
        world.kill_ledger()
    if not ledger.is_up:
        try:
            world.start_ledger()
        except (HcefsError, OSError, Crash) as error:
            world.trace.note(f"the ledger does not start: {error!r}")
            world.kill_ledger()


def keep_node(world: World, node: SimNode, fail: Callable[[Violation], None]) -> None:
    """Start a node that does not run, restart one whose replica has given up."""
    if node.is_up and node.node is not None:
        status = node.node.follower.status
        if status in (FollowerStatus.FORKED, FollowerStatus.DIVERGED):
            fail(Violation("one-ledger", f"{node.name} is {status}"))
        if status in FAILED:
            world.kill_node(node)
    if not node.is_up:
        if node.machine.was_cut:
            # It died in a disk call: what was not synchronised may be lost.
            node.machine.was_cut = False
            world.kill_node(node, power=True)
        try:
            world.start_node(node)
        except (HcefsError, OSError, Crash) as error:
            world.trace.note(f"{node.name} does not start: {type(error).__name__} {error}")
            world.kill_node(node, power=isinstance(error, Crash))
