"""The scrub: every byte of this node read and compared, round and round, within a budget.

One cycle goes through the shards by the first byte of their base (256 *sectors*), then
through every table of both databases, so that damage is found while the others still have
what it hit.  What was read of a page is compared with the other holders of its rows
(:mod:`.scrub_compare`).  A cycle is spread evenly over its target time and never exceeds
the ceiling; each read also takes its bytes from the budget that all upkeep shares and that
yields to clients.

Invariants: the cursor survives a stop, and what it has passed was read after the cycle
began; nothing is deleted: damage is set aside and entered for repair (:mod:`.scrub_shards`,
:mod:`.scrub_rows`); memory is one page of names and one piece; no shard or row that cannot
be judged stops the cycle.

Not guaranteed: that the disk would give the same bytes a second later; that what RocksDB
cannot read at all (a broken block) is mended while the node runs: that is reported, and
``docs/operations/disks.md`` says what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from hcefs.errors import Corrupt, HcefsError, NotFound
from hcefs.ids import BlobBase
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime
from hcefs.store.interface import RowPage, Stores, Table
from hcefs.stripes.placed import placed_shard
from hcefs.stripes.shard_check import ShardCheck
from hcefs.stripes.transfers import opened
from hcefs.upkeep.scrub_compare import HolderComparer
from hcefs.upkeep.scrub_rows import DONE, STAGES, RowMender, RowStage, stage_after
from hcefs.upkeep.scrub_shards import ShardJudge
from hcefs.upkeep.scrub_state import SECTORS, ScrubCursor, ScrubLog
from hcefs.upkeep.set_aside import ShardFile
from hcefs.upkeep.throttle import LEAST_BYTES, Throttle
from hcefs.upkeep.worker import Progress

READ_BYTES = 1 << 20
"""One disk call; a client's read waits for no more than this."""

SAVE_BYTES = 64 << 20
"""So much is read again at most after a stop."""

PAGE_SHARDS = 64
EMPTY_SECTORS = 32
"""So many at most are passed between two writes of the cursor."""

PAGE_ROWS = 512
RATE_MIN = 64 << 10
"""Bytes a second; a node with little on it is done long before its time."""

SLACK = 1.2
"""The pace that is aimed at, against what would just do: clients come first."""

STEP_SECONDS = 1.0
IDLE_SECONDS_MAX = 2.0
"""So soon an operator who asks for a cycle is heard."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScrubPlan:
    """How fast: seconds of a cycle, and the ceiling in bytes a second."""

    cycle_seconds: float
    rate_max: float


@dataclass(frozen=True)
class ScrubStatus:
    """Where the scrub is, for pages and verbs."""

    cursor: ScrubCursor
    stage: str
    done: float
    """Share of the cycle's stages that are passed, 0 to 1."""

    resting: bool
    rate: float
    oldest_ms: int
    """When what was verified longest ago was verified; 0 when something never was."""


class Pacer:
    """Lets bytes pass at a rate that may change while somebody waits."""

    def __init__(self, runtime: Runtime, rate: Callable[[], float]) -> None:
        self._runtime = runtime
        self._rate = rate
        self._refilled = runtime.monotonic()
        self._room = 0.0

    async def spend(self, size: int) -> None:
        """Wait until ``size`` bytes may pass."""
        left = float(size)
        while True:
            now, rate = self._runtime.monotonic(), self._rate()
            # What was not used is lost: a pause is not made up for by a rush.
            self._room = min(self._room + (now - self._refilled) * rate, rate * STEP_SECONDS)
            self._refilled = now
            taken = min(left, self._room)
            self._room -= taken
            left -= taken
            # The rest of a rounding error would be waited for by sleeps that end at once.
            if left < LEAST_BYTES:
                return
            await self._runtime.sleep(min(left / rate, STEP_SECONDS))


class Scrubber:
    """Reads everything on one node, again and again."""

    name = "scrub"

    def __init__(
        self,
        runtime: Runtime,
        stores: Stores,
        judge: ShardJudge,
        mender: RowMender,
        scrub_log: ScrubLog,
        throttle: Throttle,
        metrics: Metrics,
        plan: ScrubPlan,
        comparer: HolderComparer,
        suspended: Callable[[], bool] = lambda: False,
    ) -> None:
        """``suspended``: not now, because rows are still being restored."""
        self._runtime = runtime
        self._stores = stores
        self._judge = judge
        self._mender = mender
        self._log = scrub_log
        self._throttle = throttle
        self._metrics = metrics
        self._plan = plan
        self.comparer = comparer
        self._suspended = suspended
        self.idle_seconds = min(IDLE_SECONDS_MAX, plan.cycle_seconds / 10)
        self._pacer = Pacer(runtime, self._rate)
        self._cursor: ScrubCursor | None = None
        self._unsaved = 0
        self._asked = False
        self._asked_for = 0
        """The last cycle that somebody asked for; until its end all goes at the ceiling."""
        self._shard_bytes = 0
        self.broken: set[str] = set()
        """Tables that RocksDB could not read to their end in this process."""

    def _rate(self) -> float:
        """Bytes a second now: even over the cycle, or all that is allowed."""
        if self._asked or self._is_asked_for(self._cursor):
            return self._plan.rate_max
        even = self._shard_bytes * SLACK / self._plan.cycle_seconds
        return min(self._plan.rate_max, max(even, RATE_MIN))

    def hurry(self) -> None:
        """Read everything from now on, at the ceiling.

        What a cycle under way has passed already is read by another one right after it: who
        asks, after a crash say, wants to know how the disk is, not how it was.
        """
        self._asked = True

    def _is_asked_for(self, cursor: ScrubCursor | None) -> bool:
        """Whether the cycle under way, or the next one when none is, was asked for."""
        return cursor is not None and cursor.cycle + (cursor.stage >= DONE) <= self._asked_for

    async def work(self) -> Progress:
        """One page of shards or of rows."""
        if self._suspended():
            return Progress.IDLE
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = await self._runtime.disk(self._log.load)
        if self._asked:
            has_passed = bool(cursor.stage or cursor.after or cursor.piece)
            self._asked, self._asked_for = False, cursor.cycle + has_passed
        if cursor.stage >= DONE:
            begin = await self._next_cycle(cursor)
            if begin is None:
                return Progress.IDLE
            cursor = self._cursor = begin
        if not cursor.after and not cursor.piece:
            usage = await self._runtime.disk(self._stores.shards.usage)
            self._shard_bytes = usage.shard_bytes
        if cursor.stage < SECTORS:
            await self._shards(cursor)
        else:
            await self._rows(cursor)
        return Progress.BUSY

    async def _next_cycle(self, cursor: ScrubCursor) -> ScrubCursor | None:
        """The cursor of the next cycle when it is due."""
        now = self._runtime.now_ms()
        due = cursor.started_ms + int(self._plan.cycle_seconds * 1000)
        # A clock that was set back puts nothing off by more than a cycle.
        if not self._is_asked_for(cursor) and cursor.started_ms <= now < due:
            return None
        fresh = replace(
            cursor, cycle=cursor.cycle + 1, started_ms=now, stage=0, after=b"", piece=0,
            shards=0, read_bytes=0, rows=0, damaged=0,
        )  # fmt: skip
        await self._runtime.disk(self._log.save, fresh)
        return fresh

    # -- shards

    async def _shards(self, cursor: ScrubCursor) -> None:
        cursor, names = await self._page(cursor)
        self._cursor = cursor
        for name in names:
            shard = ShardFile(*name)
            piece = cursor.piece if cursor.piece and _resumes(cursor, shard) else 0
            await self._one(shard, piece)
            current = self._now_at()
            self._cursor = replace(
                current, after=_key_of(shard), piece=0, shards=current.shards + 1
            )
            self._metrics.count("scrub_shards_total")
        shards = [ShardFile(*name) for name in names]
        await self._compare(shards)
        current = self._now_at()
        if len(names) < PAGE_SHARDS:
            current = replace(
                current.with_verified(current.stage, self._runtime.now_ms()),
                stage=stage_after(current.stage), after=b"", piece=0,
            )  # fmt: skip
        if current.stage >= SECTORS:
            self.comparer.end()
        await self._save(current)

    async def _compare(self, shards: list[ShardFile]) -> None:
        """Compare a page with the other holders; what they have otherwise counts as found."""
        found = await self.comparer.page(self._now_at().cycle, shards, self._spend)
        current = self._now_at()
        self._cursor = replace(current, damaged=current.damaged + found)

    async def _page(
        self, cursor: ScrubCursor
    ) -> tuple[ScrubCursor, list[tuple[BlobBase, int, str]]]:
        """The next page of shards and the cursor before it; some empty sectors are passed."""
        for _ in range(EMPTY_SECTORS):
            names = await self._runtime.disk(
                self._stores.shards.page, cursor.stage, _shard_of(cursor.after), PAGE_SHARDS
            )
            if names or cursor.after or cursor.stage + 1 == SECTORS:
                return cursor, names
            cursor = replace(
                cursor.with_verified(cursor.stage, self._runtime.now_ms()),
                stage=stage_after(cursor.stage),
            )
        return cursor, await self._runtime.disk(
            self._stores.shards.page, cursor.stage, _shard_of(cursor.after), PAGE_SHARDS
        )

    def _now_at(self) -> ScrubCursor:
        if self._cursor is None:
            raise RuntimeError("the scrub has no cursor")
        return self._cursor

    async def _save(self, cursor: ScrubCursor) -> None:
        self._cursor = cursor
        self._unsaved = 0
        await self._runtime.disk(self._log.save, cursor)
        if cursor.stage >= DONE:
            self._metrics.count("scrub_cycles_total")
            log.info(
                "scrub cycle %d: %d shards, %d bytes, %d rows read, %d damaged",
                cursor.cycle, cursor.shards, cursor.read_bytes, cursor.rows, cursor.damaged,
            )  # fmt: skip

    async def _one(self, shard: ShardFile, piece: int) -> None:
        """Read one shard, and do about it what is to be done."""
        reason, in_file = await self._read(shard, piece)
        if in_file:
            # Suspected: memory and cables err too, so it is read once more, from the disk.
            first = reason
            reason, in_file = await self._read(shard, 0)
            if in_file:
                await self._judge.damaged(shard, reason)
            else:
                log.warning("shard %s index %d was bad once (%s)", shard.base, shard.index, first)
                self._judge.note("passing")
        if reason:
            current = self._now_at()
            self._cursor = replace(current, damaged=current.damaged + 1)

    async def _read(self, shard: ShardFile, piece: int) -> tuple[str, bool]:
        """One reading: what is wrong, empty for nothing, and whether it is in the file."""
        try:
            check = await opened(
                self._runtime,
                lambda: ShardCheck(self._stores.shards, shard.base, shard.index, shard.form, piece),
                ShardCheck.close,
            )
        except NotFound:
            return "", False  # moved or collected meanwhile
        except HcefsError as error:
            return _damage(error), True
        try:
            await self._spend(check.overhead)
            while not check.done:
                read = await self._runtime.disk(check.step, READ_BYTES)
                await self._spend(read)
                if self._unsaved >= SAVE_BYTES:
                    # The piece goes with the name that the cursor is *before*.
                    await self._save(
                        replace(self._now_at(), after=_before(shard), piece=check.piece)
                    )
        except HcefsError as error:
            return _damage(error), True
        finally:
            await self._runtime.disk(check.close)
        return await self._judge.rows(shard, check), False

    async def _spend(self, size: int) -> None:
        current = self._now_at()
        self._cursor = replace(current, read_bytes=current.read_bytes + size)
        self._unsaved += size
        self._metrics.count("scrub_bytes_total", size)
        await self._pacer.spend(size)
        await self._throttle.spend(size)

    # -- rows

    async def _rows(self, cursor: ScrubCursor) -> None:
        stage = STAGES.get(cursor.stage)
        if stage is None:  # of a version that knew another table
            await self._save(replace(cursor, stage=stage_after(cursor.stage), after=b""))
            return
        after = cursor.after or None
        page = await self._runtime.disk(self._inspect, stage, after)
        bad = len(page.damaged) + page.broken
        for key, stored in page.damaged:
            log.error("a row of %s is damaged", stage.name)
            self._judge.note("row")
            await self._runtime.disk(self._mender.mend, stage, key, stored)
        if page.broken:
            log.error("the table %s cannot be read to its end: see the page on disks", stage.name)
            self.broken.add(stage.name)
            self._judge.note("database")
        bad += await self._missing(stage, page)
        size = sum(len(key) + len(value) for key, value in page.rows)
        self._metrics.count("scrub_rows_total", len(page.rows))
        await self._spend(size)
        current = self._now_at()
        current = replace(
            current, rows=current.rows + len(page.rows), damaged=current.damaged + bad
        )
        if page.last is None or page.broken:
            current = replace(current, stage=stage_after(current.stage), after=b"")
        else:
            current = replace(current, after=page.last)
        await self._save(current)

    def _inspect(self, stage: RowStage, after: bytes | None) -> RowPage:
        if stage.keys is not None:
            return self._stores.keys.inspect(stage.keys, after, PAGE_ROWS)
        if stage.table is None:
            raise RuntimeError("a stage without a table")
        return self._stores.rows.inspect(stage.table, after, PAGE_ROWS)

    async def _missing(self, stage: RowStage, page: RowPage) -> int:
        """Enter the shards that rows name and that are not here; how many."""
        if stage.table is not Table.PLACED:
            return 0

        def job() -> int:
            missing = 0
            for key, value in page.rows:
                try:
                    shard = placed_shard(key, value)
                except (HcefsError, ValueError, IndexError):
                    continue
                missing += self._judge.missing(shard.base, shard.index, shard.form, shard.profile)
            return missing

        return await self._runtime.disk(job)

    # -- looking

    def status(self) -> ScrubStatus:
        """Where the scrub is.  For disk threads before the first unit, else for any."""
        cursor = self._cursor or self._log.load()
        passed = min(cursor.stage, SECTORS) + sum(number < cursor.stage for number in STAGES)
        resting = cursor.stage >= DONE and not self._asked
        if resting:
            name = "resting"
        elif cursor.stage >= DONE:
            name, passed = "begins", 0
        elif cursor.stage < SECTORS:
            name = f"shards {cursor.stage:02x}"
        else:
            stage = STAGES.get(cursor.stage)
            name = f"rows {stage.name if stage is not None else cursor.stage}"
        return ScrubStatus(
            cursor, name, passed / (SECTORS + len(STAGES)), resting, self._rate(),
            min(cursor.verified(sector) for sector in range(SECTORS)),
        )  # fmt: skip

    def oldest_seconds(self) -> float:
        """Age of what was verified longest ago; since the first cycle began if never."""
        cursor = self._cursor
        if cursor is None:
            return 0.0
        oldest = min(cursor.verified(sector) for sector in range(SECTORS))
        since = oldest or cursor.started_ms
        return max(0.0, (self._runtime.now_ms() - since) / 1000)

    def warnings(self) -> list[str]:
        """What an operator should know."""
        found = [
            f"the table {name} cannot be read to its end: set its database aside"
            for name in sorted(self.broken)
        ]
        needed = self._shard_bytes / self._plan.cycle_seconds
        if needed > self._plan.rate_max:
            found.append(
                f"the scrub needs {needed / (1 << 20):.1f} MiB/s to read everything within its "
                "cycle: raise scrub_rate_mib or scrub_cycle_s"
            )
        return found + self.comparer.warnings()


def _damage(error: HcefsError) -> str:
    """What is wrong with a file that could not be read through.

    Raises:
        HcefsError: nothing is known of the file.
    """
    if isinstance(error, Corrupt) or error.reason == "disk-error":
        return error.reason
    raise error


def _key_of(shard: ShardFile) -> bytes:
    return bytes(shard.base) + bytes([shard.index]) + shard.form.encode()


def _shard_of(key: bytes) -> tuple[BlobBase, int, str] | None:
    """The inverse of :func:`_key_of`, of a key or of what lies just before one."""
    if len(key) <= BlobBase.SIZE:
        return None
    form = key[BlobBase.SIZE + 1 :].decode("ascii", "replace")
    return BlobBase(key[: BlobBase.SIZE]), key[BlobBase.SIZE], form


def _before(shard: ShardFile) -> bytes:
    """A cursor just before a shard: listing goes on with it."""
    if shard.form:
        # Forms begin with letters, so nothing lies between this and the form.
        return _key_of(shard)[:-1]
    if shard.index:
        return bytes(shard.base) + bytes([shard.index - 1]) + b"\x7f"
    number = int.from_bytes(bytes(shard.base), "big")
    return (max(number, 1) - 1).to_bytes(BlobBase.SIZE, "big") + b"\xff"


def _resumes(cursor: ScrubCursor, shard: ShardFile) -> bool:
    return cursor.after == _before(shard)
