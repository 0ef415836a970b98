"""What clients do during a run: put, pack, read, grant, revoke, vanish, and change the map.

All of it through the SDK, over the network, as typed errors allow; every promise that a
client gets goes into the :class:`~.history.History`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from hcefs.access.facts import Action, Grant
from hcefs.client.receipts import PutReceipt
from hcefs.errors import Conflict, HcefsError, Internal
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.ledger.transactions import SetClusterMap
from hcefs.placement.cluster_map import Node, NodeState
from hcefs.placement.feasibility import Infeasible
from hcefs.placement.planner import plan
from hcefs.placement.waves import apply_plan, is_planned
from hcefs.testing.simulator.history import (
    Acknowledged,
    History,
    Revoked,
    Violation,
    internal,
    unexpected,
)
from hcefs.testing.simulator.world import LEASE_MS, SKEW_MS, Person, World, marker

HOURS_MS = 48 * 3_600_000
REVOKED_SECONDS = (LEASE_MS + SKEW_MS) / 1000
MODES = (("node", "gateway"), ("client", "gateway"), ("node", "direct"))


class Workload:
    """The clients of one run."""

    def __init__(self, world: World, history: History, fail: Callable[[Violation], None]) -> None:
        self._world = world
        self._history = history
        self._fail = fail
        self._random = random.Random(f"{world.seed}/workload")
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.record = RecordId.zero()
        self.append: Grant | None = None
        self.read: Grant | None = None
        self.plans_made = 0
        self._vanished = 0

    async def begin(self) -> None:
        """Open a record and give the rights that the others use."""
        patient = self._world.people["patient"]
        client = patient.client

        async def open_and_give() -> None:
            self.record = (await client.open_record()).record
            end = client.runtime.now_ms() + HOURS_MS
            hospital, doctor = self._account("hospital"), self._account("doctor")
            give = client.give
            self.append = await give(
                self.record, hospital, Action.APPEND, ("TREAT",), not_after_ms=end
            )
            self.read = await give(self.record, doctor, Action.READ, ("TREAT",), not_after_ms=end)

        await self._world.on(patient, open_and_give())
        await self._put_one("patient", None, "PATRQT")

    def _account(self, name: str) -> AccountId:
        return self._world.people[name].keys.account

    def start(self) -> None:
        """Let everybody begin."""
        self._is_over = False
        for name, job in (
            ("hospital", self._writes),
            ("patient", self._packs),
            ("doctor", self._reads),
            ("nurse", self._revocations),
            ("device", self._vanishes),
            ("operator-1", self._changes),
        ):
            self._tasks.append(self._world.loop.create_task(self._guarded(job), name=name))

    async def stop(self) -> None:
        """Let everybody finish what they do."""
        self._is_over = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def _guarded(self, job: Callable[[], Awaitable[None]]) -> None:
        while not self._is_over:
            await asyncio.sleep(self._random.uniform(3.0, 15.0))
            if self._is_over:
                return
            try:
                await job()
            except Internal as error:
                self._world.trace.note(f"internal: {error.reason} {error.message}")
                if error.reason not in ("store-failure", "follower-failed"):
                    self._fail(internal(error, job.__name__))
            except HcefsError as error:
                self._world.trace.note(f"{job.__name__}: {error.kind} {error.reason}")
                self._world.trace.count(f"{job.__name__} {error.kind}")
            except Violation as violation:
                self._fail(violation)
            except Exception as error:  # noqa: BLE001 - whatever it is, the SDK let it through
                self._fail(unexpected(error, job.__name__))
            else:
                self._world.trace.count(job.__name__)

    # -- writers

    def _payload(self, length: int) -> bytes:
        lead = self._random.randbytes(8)
        mark = marker()
        return (lead + mark * (length // len(mark) + 1))[:length]

    async def _put_one(self, name: str, grant: GrantId | None, purpose: str) -> None:
        person = self._world.people[name]
        length = self._random.choice((0, 1, 40_000, 90_000, 200_000, 300_000))
        if self._random.random() < 0.04:
            length = (1 << 20) + self._random.randrange(5_000)
        data = self._payload(length)
        seal, mode = self._random.choice(MODES)
        receipt = await self._world.on(
            person,
            person.client.put(
                self.record, data, grant=grant, purpose=purpose, seal=seal, mode=mode
            ),
        )
        self._note(receipt.ref.blob, data, receipt)

    async def put_again(self) -> None:
        """One more put, by the owner, when nothing is wrong."""
        await self._put_one("patient", None, "PATRQT")

    def _note(self, blob: BlobId, data: bytes, receipt: PutReceipt) -> None:
        made = Acknowledged(
            self.record,
            blob,
            data,
            receipt.durable_shards,
            receipt.total_shards,
            receipt.height,
            self._world.loop.time(),
        )
        if made.spare < 1:
            raise Violation("quorum", f"{blob} was acknowledged with {made.durable} shards")
        self._history.put(made)
        if blob.slot <= 1:
            self._world.trace.note(f"put {blob} d={made.durable}/{made.total}")

    async def _writes(self) -> None:
        grant = self.append
        await self._put_one("hospital", grant.grant if grant else None, "TREAT")

    async def _packs(self) -> None:
        if self._random.random() < 0.5:
            await self._put_one("patient", None, "PATRQT")
            return
        person = self._world.people["patient"]
        count = self._random.choice((1, 3, 12))
        size = self._random.choice((30, 900, 12_000))
        datas = [self._payload(self._random.randint(1, size)) for _ in range(count)]
        receipts = await self._world.on(
            person,
            person.client.put_many([(self.record, data) for data in datas], purpose="PATRQT"),
        )
        for data, receipt in zip(datas, receipts, strict=True):
            self._note(receipt.ref.blob, data, receipt)

    async def _vanishes(self) -> None:
        """A client whose process is killed in the middle of a put; its next one is another."""
        world = self._world
        self._vanished += 1
        patient = world.person(f"vanishing-{self._vanished}", world.people["patient"].keys)
        data = self._payload(self._random.choice((50_000, 400_000)))
        putting = patient.life.start(
            patient.client.put(self.record, data, purpose="PATRQT", seal="node"), "vanishing"
        )
        await asyncio.sleep(self._random.uniform(0.0, 0.1))
        patient.life.end()
        await asyncio.gather(putting, return_exceptions=True)

    # -- readers

    async def read_back(
        self, person: Person, made: Acknowledged, grant: GrantId | None, purpose: str, **how: Any
    ) -> bytes:
        """A whole blob through the SDK."""

        async def get() -> bytes:
            stream = await person.client.get(
                made.record, made.blob, grant=grant, purpose=purpose, **how
            )
            return await stream.read()

        return await self._world.on(person, get())

    async def _reads(self) -> None:
        grant = self.read
        puts = list(self._history.puts.values())
        made = self._random.choice(puts)
        seal, mode = self._random.choice(MODES)
        person = self._world.people["doctor"]
        reading = grant.grant if grant else None
        if self._random.random() < 0.3 and len(made.data) > 2:
            start = self._random.randrange(len(made.data) - 1)
            length = self._random.randint(1, len(made.data) - start)

            async def get() -> bytes:
                stream = await person.client.get(
                    made.record, made.blob, grant=reading, start=start, length=length,
                    seal=seal, mode=mode,
                )  # fmt: skip
                return await stream.read()

            found, expected = await self._world.on(person, get()), made.data[start : start + length]
        else:
            found = await self.read_back(person, made, reading, "TREAT", seal=seal, mode=mode)
            expected = made.data
        if found != expected:
            raise Violation("read-back", f"{made.blob} reads back as something else")

    # -- rights

    async def _revocations(self) -> None:
        """Give, read, revoke, and go on asking every node."""
        world = self._world
        patient, nurse = world.people["patient"], world.people["nurse"]
        made = self._random.choice(list(self._history.puts.values()))
        end = patient.client.runtime.now_ms() + HOURS_MS
        grant = await world.on(
            patient,
            patient.client.give(
                made.record, nurse.keys.account, Action.READ, ("TREAT",), not_after_ms=end
            ),
        )
        try:
            found = await self.read_back(nurse, made, grant.grant, "TREAT")
            if found != made.data:
                raise Violation("read-back", f"{made.blob} reads back as something else")
        except HcefsError as error:
            world.trace.note(f"the nurse cannot read: {error.kind} {error.reason}")
        done = await world.on(patient, patient.client.revoke(grant.grant))
        until = world.loop.time() + REVOKED_SECONDS
        self._history.revoked.append(Revoked(grant.grant, made.record, done.height, until))
        for _ in range(6):
            if self._is_over:
                return
            await asyncio.sleep(self._random.uniform(1.0, 8.0))
            await self.ask_revoked(self._history.revoked[-1])

    async def ask_revoked(self, revoked: Revoked) -> None:
        """Read under a revoked grant through one node, which must refuse in time."""
        world = self._world
        nurse = world.people["nurse"]
        made = self._random.choice(list(self._history.puts.values()))
        through = self._random.choice(world.map().nodes)
        asked = world.loop.time()
        height = world.applied_height(through.account)
        seal, mode = self._random.choice(MODES)
        try:
            await self.read_back(
                nurse, made, revoked.grant, "TREAT", node=through.address, seal=seal, mode=mode
            )
        except HcefsError:
            return
        if asked > revoked.until:
            raise Violation("revocation", f"{revoked.grant} works {asked - revoked.until:.1f} s on")
        if mode == "gateway" and height >= revoked.height:
            raise Violation(
                "revocation", f"node {through.node_id} serves {revoked.grant} that it knows revoked"
            )

    # -- operators

    async def _changes(self) -> None:
        world = self._world
        await asyncio.sleep(self._random.uniform(5.0, 40.0))
        current = world.map()
        if self._is_over or is_planned(current) or self.plans_made >= 2:
            return
        nodes = self._changed(current.nodes)
        try:
            made = plan(current, nodes)
        except Infeasible:
            return
        try:
            successor = apply_plan(made, current, world.log.arrived())
            await world.decree(SetClusterMap(successor.epoch - 1, successor.encode()))
        except Conflict:
            return
        self.plans_made += 1
        world.trace.note(f"map of epoch {successor.epoch} begins a plan")

    def _changed(self, nodes: Sequence[Node]) -> list[Node]:
        """A spare joins, or one that is in is drained while the spare takes its place."""
        known = {node.node_id for node in nodes}
        changed = list(nodes)
        spares = [each for each in self._world.nodes if each.number not in known]
        if spares:
            changed += [each.map_node(NodeState.JOINING) for each in spares]
        up = [node for node in nodes if node.state is NodeState.UP]
        if self._random.random() < 0.6 and len(up) + len(spares) > 6:
            leaves = self._random.choice(up)
            changed = [
                replace(node, state=NodeState.DRAINING) if node.node_id == leaves.node_id else node
                for node in changed
            ]
        return changed
