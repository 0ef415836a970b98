"""What this node's own seats lack: the durable queue of shards that are to be rebuilt here.

Whoever finds that a shard of this node is missing or damaged enters it here: the scrub,
a hint from a reader that proved true, the inventory.  The repair (:mod:`.repair`) takes
the entries with the least margin first, of those the oldest.

Invariants: an entry survives a restart, and the time at which it was first found stays
with it; entering it again changes nothing but what is known of its margin; there are
never more than ``ENTRIES_MAX``, and what has more margin gives way to what has less.
A failure puts off one entry alone, longer each time.

Not guaranteed: that an entry is still true: who takes one looks first.  What did not fit,
or whose row was damaged, is found again by the next inventory.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hcefs.crashpoints import CrashPoint, crash_point
from hcefs.encoding import Encoded
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.ids import BlobBase
from hcefs.placement.ring import position_of
from hcefs.store.interface import RowStore, Table

ENTRIES_MAX = 1 << 16
PAGE_ROWS = 1000
TEXT_MAX = 64
NOT_COMMITTED = "not-committed"
"""The error of a shard whose blob waits for its append: its put failed here, or goes on."""

BACKOFF_MS_FIRST = 30_000
BACKOFF_MS_MAX = 3_600_000

POSITION_SIZE = 8
_BASE_END = POSITION_SIZE + BlobBase.SIZE
_INDEX_END = _BASE_END + 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True, slots=True)
class DamagedName:
    """The shard that an entry is about: one that this node should have."""

    base: BlobBase
    index: int
    profile: str

    @property
    def parts(self) -> tuple[BlobBase, int, str]:
        """Base, index and profile."""
        return self.base, self.index, self.profile

    def key(self) -> bytes:
        """The key of its row: position on the ring, base, index, profile."""
        base = bytes(self.base)
        position = position_of(base).to_bytes(POSITION_SIZE, "big")
        return position + base + bytes([self.index]) + self.profile.encode()

    @classmethod
    def of_key(cls, key: bytes) -> DamagedName:
        """The inverse of :meth:`key`.

        Raises:
            Corrupt: ``bad-row-key``.
        """
        try:
            name = cls(
                BlobBase(key[POSITION_SIZE:_BASE_END]),
                key[_BASE_END],
                key[_INDEX_END:].decode("ascii"),
            )
            profile_named(name.profile)
        except (HcefsError, IndexError, UnicodeDecodeError):
            raise Corrupt("an entry names no shard", reason="bad-row-key") from None
        if name.key() != key:
            raise Corrupt("an entry lies at another place", reason="bad-row-key")
        return name


@dataclass(frozen=True)
class DamagedShard(Encoded):
    """What is known of one shard that is to be rebuilt."""

    KIND: ClassVar[str] = "damaged-shard"
    MAX_BYTES: ClassVar[int] = 1024

    reason: str
    found_ms: int
    live: int | None
    """Shards of the blob that were there at the last look; None before the first one."""

    attempts: int
    tried_ms: int
    error: str


@dataclass(frozen=True)
class Damaged:
    """An entry of the queue."""

    name: DamagedName
    shard: DamagedShard

    @property
    def margin(self) -> int | None:
        """Live shards beyond k; negative when it is beyond recovery."""
        live = self.shard.live
        return None if live is None else live - profile_named(self.name.profile).k

    @property
    def is_pending(self) -> bool:
        """Whether its blob was not committed at the last attempt: nothing is owed to it yet."""
        return self.shard.error == NOT_COMMITTED

    @property
    def urgency(self) -> tuple[int, int, DamagedName]:
        """Sorts the most urgent first: by margin, then by age.

        What was not looked at yet may be anything, so it comes with those at the brink;
        what is not committed, and what is beyond recovery, come last, because trying them
        again helps nobody else.
        """
        margin = self.margin
        rank = 0 if margin is None else margin if margin >= 0 else 1 << 16
        if self.is_pending:
            rank = 1 << 17
        return rank, self.shard.found_ms, self.name

    def due_ms(self) -> int:
        """Not to be tried before this time."""
        if not self.shard.attempts or not self.shard.tried_ms:
            return 0
        wait = BACKOFF_MS_FIRST << min(self.shard.attempts - 1, 16)
        return self.shard.tried_ms + min(wait, BACKOFF_MS_MAX)

    def is_due(self, now_ms: int) -> bool:
        """Whether it may be tried; a clock that was set back puts nothing off for ever."""
        return now_ms >= self.due_ms() or now_ms < self.shard.tried_ms


class DamageLog:
    """The queue of one node.  Thread-safe; whatever writes is for a disk thread."""

    def __init__(self, rows: RowStore, now_ms: Callable[[], int]) -> None:
        self._rows = rows
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._entries: dict[DamagedName, DamagedShard] = {}
        self.overflowed = False
        """Whether something did not fit since the start."""

        self._wanted: set[DamagedName] = set()
        """Entries that somebody waits for: readers, and blobs whose append has come."""

        self.news = 0
        """How often something new was entered: what is the most urgent may be another one."""

        self._load()

    def _load(self) -> None:
        after: bytes | None = None
        try:
            while page := self._rows.scan(Table.DAMAGED, after=after, limit=PAGE_ROWS):
                after = page[-1][0]
                for key, value in page:
                    self._read(key, value)
        except Corrupt as error:
            log.error("the rest of the queue of damage cannot be read: %s", error.reason)

    def _read(self, key: bytes, value: bytes) -> None:
        try:
            name, shard = DamagedName.of_key(key), DamagedShard.decode(value)
        except (Corrupt, Invalid) as error:
            log.error("an entry of the queue of damage cannot be read: %s", error.reason)
            return
        if len(self._entries) < ENTRIES_MAX:
            self._entries[name] = shard

    # -- entering

    def found(self, base: BlobBase, index: int, profile: str, reason: str) -> None:
        """Enter a shard of this node that is missing or damaged; durable on return.

        Raises:
            HcefsError: the disk failed.
            Invalid: there is no such profile, or no such index in it.
        """
        self.found_all([(DamagedName(base, index, profile), reason, None)])

    def found_all(self, found: Iterable[tuple[DamagedName, str, int | None]]) -> int:
        """Enter several in one write, each with why and the shards alive; how many were new.

        Raises:
            HcefsError: the disk failed; nothing was entered.
        """
        now = self._now_ms()
        with self._lock:
            changed: dict[DamagedName, DamagedShard] = {}
            new = 0
            for name, reason, live in found:
                if not 0 <= name.index < profile_named(name.profile).n:
                    raise Invalid("no shard has this index", reason="bad-index")
                known = changed.get(name) or self._entries.get(name)
                if known is None:
                    changed[name] = DamagedShard(reason[:TEXT_MAX], now, live, 0, 0, "")
                    new += 1
                elif live is not None and known.live != live:
                    changed[name] = replace(known, live=live)
            self._write(changed)
            crash_point(CrashPoint.DAMAGE_ENTERED)
            self.news += bool(new)
            return new

    def _write(self, changed: dict[DamagedName, DamagedShard]) -> None:
        """Keep changed entries, and push out what has most margin.  Under the lock."""
        fits, dropped = dict(changed), list[DamagedName]()
        added = sum(name not in self._entries for name in changed)
        surplus = len(self._entries) + added - ENTRIES_MAX
        if surplus > 0:
            self.overflowed = True
            everything = {**self._entries, **changed}
            ordered = sorted(
                (Damaged(*entry) for entry in everything.items()),
                key=lambda entry: entry.urgency,
            )
            for entry in ordered[ENTRIES_MAX:]:
                if entry.name in self._entries:
                    dropped.append(entry.name)
                fits.pop(entry.name, None)
        if fits:
            self._rows.put(
                [(Table.DAMAGED, name.key(), shard.encode()) for name, shard in fits.items()]
            )
        if dropped:
            self._rows.delete([(Table.DAMAGED, name.key()) for name in dropped])
        self._entries.update(fits)
        for name in dropped:
            self._entries.pop(name, None)
        self._wanted.difference_update(dropped)

    # -- progress

    def assessed(self, live: Iterable[tuple[DamagedName, int]]) -> None:
        """Note how many shards of some entries' blobs are alive."""
        with self._lock:
            self._write(
                {
                    name: replace(known, live=count)
                    for name, count in live
                    if (known := self._entries.get(name)) is not None and known.live != count
                }
            )

    def failed(self, name: DamagedName, error: str) -> None:
        """Note that a shard could not be rebuilt: it is tried again later."""
        with self._lock:
            known = self._entries.get(name)
            if known is not None:
                tried = replace(
                    known,
                    attempts=known.attempts + 1,
                    tried_ms=self._now_ms(),
                    error=error[:TEXT_MAX],
                )
                self._write({name: tried})
            self._wanted.discard(name)

    def settled(self, names: Sequence[DamagedName]) -> None:
        """Take entries out: the shard is here, or is not this node's to have."""
        with self._lock:
            known = [name for name in names if name in self._entries]
            if known:
                self._rows.delete([(Table.DAMAGED, name.key()) for name in known])
                crash_point(CrashPoint.DAMAGE_SETTLED)
            for name in known:
                del self._entries[name]
            self._wanted.difference_update(names)

    def forward(self, name: DamagedName) -> bool:
        """Bring an entry forward, because a reader has met its shard; whether that was done.

        It is tried at once, during a pass too, however often it was put off; but not within
        the first delay after the last attempt, so that readers cannot have it tried all the
        time.  Not kept over a restart.
        """
        with self._lock:
            known = self._entries.get(name)
            if known is None or name in self._wanted:
                return False
            now = self._now_ms()
            if known.attempts and 0 <= now - known.tried_ms < BACKOFF_MS_FIRST:
                return False
            self._entries[name] = replace(known, tried_ms=0) if known.attempts else known
            self._wanted.add(name)
            return True

    def committed(self, names: Iterable[DamagedName]) -> None:
        """Let entries be tried at once whose blobs' append has come.  As :meth:`forward`."""
        with self._lock:
            for name in names:
                known = self._entries.get(name)
                if known is not None:
                    self._entries[name] = replace(known, tried_ms=0, error="")
                    self._wanted.add(name)

    def hurry(self) -> None:
        """Let everything be tried at once, whatever was put off.  Not kept over a restart."""
        with self._lock:
            self._entries = {
                name: replace(shard, tried_ms=0) if shard.attempts else shard
                for name, shard in self._entries.items()
            }

    # -- looking

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: DamagedName) -> DamagedShard | None:
        """The entry of a shard."""
        return self._entries.get(name)

    def of_base(self, base: BlobBase) -> list[Damaged]:
        """The entries of one blob or pack."""
        with self._lock:
            found = [
                Damaged(name, shard) for name, shard in self._entries.items() if name.base == base
            ]
        return sorted(found, key=lambda entry: entry.urgency)

    def entries(self) -> list[Damaged]:
        """All entries, the most urgent first."""
        with self._lock:
            found = [Damaged(name, shard) for name, shard in self._entries.items()]
        return sorted(found, key=lambda entry: entry.urgency)

    def due(self, limit: int) -> list[Damaged]:
        """The most urgent entries that may be tried now."""
        now = self._now_ms()
        with self._lock:
            found = [Damaged(name, shard) for name, shard in self._entries.items()]
        due = (entry for entry in found if entry.is_due(now))
        return heapq.nsmallest(limit, due, key=lambda entry: entry.urgency)

    def wanted(self, limit: int) -> list[Damaged]:
        """Those that were brought forward, the most urgent first."""
        with self._lock:
            found = [
                Damaged(name, shard)
                for name in self._wanted
                if (shard := self._entries.get(name)) is not None
            ]
        return heapq.nsmallest(limit, found, key=lambda entry: entry.urgency)

    def unassessed(self, limit: int) -> list[Damaged]:
        """Entries whose margin nobody has looked at, the oldest first, whenever they are due."""
        with self._lock:
            found = [
                Damaged(name, shard) for name, shard in self._entries.items() if shard.live is None
            ]
        return heapq.nsmallest(limit, found, key=lambda entry: entry.urgency)

    def is_pending(self, name: DamagedName) -> bool:
        """Whether a shard waits for nothing but the append of its blob."""
        known = self._entries.get(name)
        return known is not None and Damaged(name, known).is_pending

    def owed(self) -> int:
        """How many entries are of blobs that are not known to wait for their append."""
        with self._lock:
            entries = list(self._entries.items())
        return sum(not Damaged(name, shard).is_pending for name, shard in entries)

    def backlog(self) -> dict[str, int]:
        """How many entries there are of each margin (:func:`margin_text`), pending ones apart."""
        found: dict[str, int] = {}
        with self._lock:
            entries = [Damaged(name, shard) for name, shard in self._entries.items()]
        for entry in entries:
            if not entry.is_pending:
                name = margin_text(entry.margin)
                found[name] = found.get(name, 0) + 1
        return found

    def oldest_ms(self) -> int:
        """When the oldest entry was found, pending ones apart; 0 when there is none."""
        with self._lock:
            entries = [Damaged(name, shard) for name, shard in self._entries.items()]
        return min((each.shard.found_ms for each in entries if not each.is_pending), default=0)


def margin_text(margin: int | None) -> str:
    """A margin as metrics and pages name it."""
    if margin is None:
        return "unknown"
    return "below-k" if margin < 0 else str(margin)
