"""The queue of damage: idempotent, durable, bounded, and ordered by margin, then age."""

from __future__ import annotations

import threading

import pytest

from hcefs.errors import Invalid
from hcefs.ids import BlobBase
from hcefs.store.interface import Table
from hcefs.store.memory import MemoryRowStore
from hcefs.upkeep import damage
from hcefs.upkeep.damage import BACKOFF_MS_FIRST, BACKOFF_MS_MAX, DamagedName, DamageLog


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def base(number: int) -> BlobBase:
    return BlobBase(number.to_bytes(16, "big"))


def name(number: int, index: int = 1, profile: str = "ec-4-2") -> DamagedName:
    return DamagedName(base(number), index, profile)


@pytest.fixture
def rows() -> MemoryRowStore:
    return MemoryRowStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_entry_keeps_its_first_time_and_survives_a_restart(
    rows: MemoryRowStore, clock: Clock
) -> None:
    log = DamageLog(rows, clock)
    log.found(base(1), 1, "ec-4-2", "damaged-piece")
    clock.ms += 5000
    log.found(base(1), 1, "ec-4-2", "missing")
    assert len(log) == 1
    again = DamageLog(rows, clock)
    (entry,) = again.entries()
    assert (entry.name, entry.shard.reason, entry.shard.found_ms) == (
        name(1),
        "damaged-piece",
        1_000_000,
    )
    again.settled([entry.name])
    assert not len(DamageLog(rows, clock))


def test_the_least_margin_comes_first_then_the_oldest(rows: MemoryRowStore, clock: Clock) -> None:
    """Of every profile: the margin counts from its own k."""
    log = DamageLog(rows, clock)
    for number, profile, live in [
        (1, "ec-4-2", 5),
        (2, "ec-4-2", 4),
        (3, "copy-3", 2),
        (4, "copy-3", 1),
        (5, "ec-4-2", 3),
        (6, "ec-4-2", 4),
    ]:
        clock.ms += 1
        log.found_all([(name(number, 0, profile), "missing", live)])
    assert [entry.name.base for entry in log.entries()] == [base(n) for n in (2, 4, 6, 1, 3, 5)]
    assert log.backlog() == {"0": 3, "1": 2, "below-k": 1}
    log.assessed([(name(1, 0), 4)])
    assert log.entries()[0].name == name(1, 0), "it has become the oldest at the brink"


def test_a_failure_puts_off_one_entry_longer_each_time(rows: MemoryRowStore, clock: Clock) -> None:
    log = DamageLog(rows, clock)
    log.found(base(1), 1, "ec-4-2", "missing")
    log.found(base(2), 1, "ec-4-2", "missing")
    wait = BACKOFF_MS_FIRST
    for _ in range(3):
        log.failed(name(1), "too-few-holders")
        assert [entry.name for entry in log.due(10)] == [name(2)]
        clock.ms += wait - 1
        assert [entry.name for entry in log.due(10)] == [name(2)]
        clock.ms += 1
        assert len(log.due(10)) == 2
        wait *= 2
    for _ in range(40):
        log.failed(name(1), "too-few-holders")
    entry = next(each for each in log.entries() if each.name == name(1))
    assert entry.due_ms() == clock.ms + BACKOFF_MS_MAX
    log.hurry()
    assert len(log.due(10)) == 2
    assert DamageLog(rows, clock).get(name(1)) is not None


def test_a_clock_that_was_set_back_puts_nothing_off(rows: MemoryRowStore, clock: Clock) -> None:
    log = DamageLog(rows, clock)
    log.found(base(1), 1, "ec-4-2", "missing")
    log.failed(name(1), "unreachable")
    clock.ms -= 900_000
    assert log.due(1)


def test_what_has_most_margin_gives_way(
    rows: MemoryRowStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "ENTRIES_MAX", 3)
    log = DamageLog(rows, clock)
    log.found_all([(name(number), "missing", 5) for number in (1, 2, 3)])
    assert not log.overflowed
    log.found_all([(name(4), "missing", 4), (name(5), "missing", 5)])
    assert log.overflowed
    assert {entry.name for entry in log.entries()} == {name(4), name(1), name(2)}
    assert len(rows.scan(Table.DAMAGED)) == 3
    assert {entry.name for entry in DamageLog(rows, clock).entries()} == {name(4), name(1), name(2)}


def test_bad_rows_are_passed_over(rows: MemoryRowStore, clock: Clock) -> None:
    DamageLog(rows, clock).found(base(2), 1, "ec-4-2", "missing")
    rows.put([(Table.DAMAGED, b"\x00" * 10, b"x"), (Table.DAMAGED, name(1).key(), b"\x80")])
    assert [entry.name for entry in DamageLog(rows, clock).entries()] == [name(2)]


@pytest.mark.parametrize(("index", "profile"), [(6, "ec-4-2"), (3, "copy-3"), (0, "ec-99")])
def test_what_no_profile_has_is_refused(
    rows: MemoryRowStore, clock: Clock, index: int, profile: str
) -> None:
    with pytest.raises(Invalid):
        DamageLog(rows, clock).found(base(1), index, profile, "missing")


def test_threads_enter_each_shard_once(rows: MemoryRowStore, clock: Clock) -> None:
    log = DamageLog(rows, clock)

    def work() -> None:
        for number in range(50):
            log.found(base(number), 1, "ec-4-2", "missing")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log) == len(rows.scan(Table.DAMAGED)) == 50


def test_an_entry_is_brought_forward_once_for_each_attempt(
    rows: MemoryRowStore, clock: Clock
) -> None:
    queue = DamageLog(rows, clock)
    queue.found(*name(1).parts, "missing")
    queue.found(*name(2).parts, "missing")
    for _ in range(5):
        queue.failed(name(1), "too-few-shards")
    assert not queue.forward(name(1)), "it was tried a moment ago"
    clock.ms += BACKOFF_MS_FIRST
    assert [entry.name for entry in queue.due(9)] == [name(2)]
    assert queue.forward(name(1))
    assert not queue.forward(name(1)), "it is in front already"
    assert [entry.name for entry in queue.due(9)] == [name(1), name(2)]
    assert [entry.name for entry in queue.wanted(9)] == [name(1)]
    queue.failed(name(1), "too-few-shards")
    assert not queue.wanted(9)
    assert [entry.name for entry in queue.due(9)] == [name(2)]
    assert not queue.forward(name(3)), "there is no such entry"
    assert queue.forward(name(2))
    queue.settled([name(2)])
    assert not queue.wanted(9)


def test_what_is_committed_by_now_is_due_and_owed(rows: MemoryRowStore, clock: Clock) -> None:
    queue = DamageLog(rows, clock)
    queue.found(*name(1).parts, "missing")
    queue.failed(name(1), damage.NOT_COMMITTED)
    assert (queue.owed(), queue.due(9)) == (0, [])
    queue.committed([name(1), name(2)])
    assert queue.owed() == 1
    assert [entry.name for entry in queue.wanted(9)] == [name(1)]
    assert [entry.name for entry in queue.due(9)] == [name(1)]
