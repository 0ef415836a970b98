"""kill -9 of every process at once, under load, again and again: nothing acknowledged is lost.

Each round puts blobs and packs, reads, gives and revokes rights, stops all processes (ledger
and nodes) at one moment, kills them, and starts them again.  Then every blob that was ever
acknowledged reads back byte for byte, as many shards of it as were acknowledged lie on the
disks with true digests, and whatever else a listing shows is whole as well: the append of a
put may have been committed although nobody could be told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from hcefs.access.facts import Action
from hcefs.errors import HcefsError, NotFound
from hcefs.ids import BlobBase, BlobId, GrantId, RecordId
from hcefs.integrity import blake3_digest
from tests.cluster.conftest import MakeCluster
from tests.cluster.live import (
    HOUR_MS,
    POLL_SECONDS,
    LiveCluster,
    StepClient,
    some_bytes,
    until,
)
from tests.cluster.offline import ShardFile

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

SIZES = (3_000, 40_000, 300_000, 2_500_000)
PACKED_SIZES = (1, 300, 4096)
ACKNOWLEDGED_A_ROUND = 8
LOAD_SECONDS = 60.0
READ_AT_ONCE = 4


@dataclass(frozen=True)
class Kept:
    """A blob that was acknowledged."""

    digest: bytes
    durable_shards: int


@dataclass
class Round:
    """What one round did and found."""

    number: int
    acknowledged: int = 0
    reads: int = 0
    revoked: int = 0
    cut_off: int = 0
    """Puts that were under way."""

    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.number:>5} {self.acknowledged:>12} {self.reads:>6} {self.revoked:>8} "
            f"{self.cut_off:>8} {self.seconds:>8.1f} {len(self.faults):>7}"
        )


HEADER = "round acknowledged  reads  revoked  cut off  seconds  faults"


class Load:
    """Clients of one round.  Everything that they ever put is remembered by its digest."""

    def __init__(
        self, cluster: LiveCluster, clients: dict[str, StepClient], seed: int, history: History
    ) -> None:
        self._cluster = cluster
        self._clients = clients
        self._chance = random.Random(seed)  # noqa: S311 - a test's choices, not a secret
        self._seed = seed * 1_000_000
        self._history = history
        self.round = Round(seed)

    def _draw(self, size: int) -> bytes:
        self._seed += 1
        data = some_bytes(size, self._seed)
        self._history.attempted.add(blake3_digest(data))
        return data

    def _keep(self, blob: BlobId, data: bytes, durable_shards: int) -> None:
        self._history.kept[blob] = Kept(blake3_digest(data), durable_shards)
        self.round.acknowledged += 1

    async def put(self) -> None:
        data = self._draw(self._chance.choice(SIZES))
        self.round.cut_off += 1
        receipt = await self._clients["hospital"].put(
            self._history.record, data, grant=self._history.grants["hospital"]
        )
        self.round.cut_off -= 1
        self._keep(receipt.ref.blob, data, receipt.durable_shards)

    async def put_many(self) -> None:
        record = self._history.record
        datas = [self._draw(size) for size in PACKED_SIZES]
        self.round.cut_off += 1
        receipts = await self._clients["hospital"].put_many(
            [(record, data) for data in datas], grant=self._history.grants["hospital"]
        )
        self.round.cut_off -= 1
        for receipt, data in zip(receipts, datas, strict=True):
            self._keep(receipt.ref.blob, data, receipt.durable_shards)

    async def read(self) -> None:
        if not self._history.kept:
            await asyncio.sleep(POLL_SECONDS)
            return
        blob = self._chance.choice(list(self._history.kept))
        if problem := await read_fault(self._clients["doctor"], blob, self._history):
            self.round.faults.append(problem)
        self.round.reads += 1

    async def give_and_revoke(self) -> None:
        """A right, with its boxes at all seats, that ends: the boxes are erased everywhere."""
        patient, cluster = self._clients["patient"], self._cluster
        grant = await patient.give(
            self._history.record, cluster.accounts["assistant"].account, Action.READ, ("TREAT",),
            not_after_ms=cluster.runtime.now_ms() + HOUR_MS,
        )  # fmt: skip
        await patient.revoke(grant.grant)
        self._history.revoked.append(grant.grant)
        self.round.revoked += 1

    async def _over_and_over(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except HcefsError as error:
                if not error.retryable:
                    self.round.faults.append(f"{work.__name__}: {error.reason} {error.message}")
                await asyncio.sleep(POLL_SECONDS)

    async def until_killed(self) -> None:
        """Load, and in the middle of it the end of every process."""
        works = [self.put, self.put, self.put_many, self.read, self.read, self.give_and_revoke]
        tasks = [asyncio.create_task(self._over_and_over(work)) for work in works]
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while self.round.acknowledged < ACKNOWLEDGED_A_ROUND:
                    await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(self._chance.random() / 3)
            self._cluster.kill(*self._cluster.folder.process_names())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class History:
    """All rounds together, in a record of their own."""

    record: RecordId
    grants: dict[str, GrantId]
    kept: dict[BlobId, Kept] = field(default_factory=dict)
    attempted: set[bytes] = field(default_factory=set)
    revoked: list[GrantId] = field(default_factory=list)


async def read_fault(doctor: StepClient, blob: BlobId, history: History) -> str:
    """What is wrong with a blob that is read; empty: it is what was put."""
    stream = await doctor.get(history.record, blob, grant=history.grants["doctor"])
    found = blake3_digest(await stream.read())
    kept = history.kept.get(blob)
    if kept is not None:
        return "" if found == kept.digest else f"{blob} reads back as something else"
    # Committed, and nobody could be told: the bytes of one of the puts, or half a blob.
    return "" if found in history.attempted else f"{blob} is listed and reads as nobody's bytes"


def disk_faults(cluster: LiveCluster, kept: dict[BlobId, Kept]) -> list[str]:
    """Which acknowledged shards are not on the disks, or have other bytes."""
    found = []
    durable: dict[BlobBase, int] = {blob.base: each.durable_shards for blob, each in kept.items()}
    for base, number in durable.items():
        shards = cluster.shards(base)
        if len(shards) < number:
            found.append(f"{base}: {number} shards were acknowledged, {len(shards)} are there")
        for path in shards.values():
            try:
                ShardFile.read(path)
            except HcefsError as error:
                found.append(f"{base}: {path.name}: {error.reason}")
    return found


async def verify(
    cluster: LiveCluster, doctor: StepClient, patient: StepClient, history: History
) -> list[str]:
    """What is wrong with anything that was acknowledged, or is listed, or was revoked."""
    found = await asyncio.to_thread(disk_faults, cluster, history.kept)
    listing = await doctor.list(history.record, grant=history.grants["doctor"])
    listed = [entry.blob for entry in listing]
    if not listing.complete:
        found.append("the listing is not complete")
    if missing := history.kept.keys() - set(listed):
        found.append(f"{len(missing)} acknowledged blobs are not listed")
    if len(set(listed)) != len(listed):
        found.append("a blob is listed twice")
    blobs = iter(sorted(set(listed)))

    async def some() -> None:
        for blob in blobs:
            try:
                if problem := await read_fault(doctor, blob, history):
                    found.append(problem)
            except HcefsError as error:
                found.append(f"{blob} does not read: {error.reason} {error.message}")

    await asyncio.gather(*(some() for _ in range(READ_AT_ONCE)))
    for grant in history.revoked:
        if not (await patient.grant(grant)).revoked_height:
            found.append(f"{grant} was revoked and is not")
    return found


async def kill_round(cluster: LiveCluster, history: History, number: int) -> Round:
    """Load, death of everything, restart, and a look at everything."""
    started = cluster.runtime.monotonic()
    async with (
        cluster.client("hospital") as hospital,
        cluster.client("doctor") as doctor,
        cluster.client("patient") as patient,
    ):
        clients = {"hospital": hospital, "doctor": doctor, "patient": patient}
        load = Load(cluster, clients, number, history)
        await load.until_killed()
    assert cluster.alive() == []
    await cluster.start(*cluster.folder.process_names())
    async with cluster.client("doctor") as doctor, cluster.client("patient") as patient:
        await cluster.make_whole()
        await until(lambda: _serves(history, doctor), "the cluster serves again")
        load.round.faults += await verify(cluster, doctor, patient, history)
    load.round.seconds = cluster.runtime.monotonic() - started
    return load.round


async def _serves(history: History, doctor: StepClient) -> bool:
    try:
        return (await doctor.list(history.record, grant=history.grants["doctor"])).complete
    except NotFound:
        return False


async def kill_again_and_again(cluster: LiveCluster, rounds: int) -> None:
    async with cluster.client("patient") as patient:
        history = History(*await cluster.open_record(patient))
    print(f"\n{HEADER}")
    done = []
    for number in range(1, rounds + 1):
        done.append(await kill_round(cluster, history, number))
        print(done[-1])
    faults = [f"round {each.number}: {fault}" for each in done for fault in each.faults]
    print(
        f"{rounds} times every process killed at once: {len(history.kept)} blobs acknowledged, "
        f"{len(faults)} faults"
    )
    assert not faults, "\n".join(faults[:20])


async def test_every_process_is_killed_at_once_under_load(mortal_cluster: LiveCluster) -> None:
    await kill_again_and_again(mortal_cluster, 2)


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_every_process_is_killed_at_once_twenty_times(fresh_cluster: MakeCluster) -> None:
    await kill_again_and_again(await fresh_cluster(), 20)
