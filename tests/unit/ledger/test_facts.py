"""What a log remembers of its facts: never an old one, and never too much."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hcefs.access.facts import Grant, Record
from hcefs.errors import Unavailable
from hcefs.ids import PutKey
from hcefs.ledger import facts
from hcefs.ledger.facts import FactMemory
from hcefs.ledger.log import LedgerLog
from hcefs.ledger.state import PutRow
from tests.unit.ledger.replicas import an_append, make_block, open_log, population
from tests.unit.ledger.scenario import Scenario, record_id

RECORD = record_id("r")


def record(leaf_count: int) -> Record:
    return Record(RECORD, Scenario().account("pat"), 0, leaf_count, (), 1)


def test_what_is_kept_is_found_until_it_changes() -> None:
    memory = FactMemory()
    assert memory.get(b"key") is None
    memory.keep(b"key", record(1), memory.writes)
    assert memory.get(b"key") == record(1)
    memory.change({b"key": record(2), b"other": record(3)})
    assert (memory.get(b"key"), memory.get(b"other")) == (record(2), record(3))
    memory.change({b"key": None})
    assert (memory.get(b"key"), memory.get(b"other")) == (None, record(3))
    memory.forget()
    assert memory.get(b"other") is None


def test_what_was_read_before_a_write_is_not_kept_after_it() -> None:
    memory = FactMemory()
    for fails in (False, True):
        writes = memory.writes
        if fails:
            memory.forget()
        else:
            memory.change({b"another": None})
        memory.keep(b"key", record(1), writes)
        assert memory.get(b"key") is None


def test_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "FACTS_MAX", 2)
    memory = FactMemory()
    for number in range(3):
        memory.keep(bytes([number]), record(number), memory.writes)
    assert [memory.get(bytes([number])) for number in range(3)] == [None, record(1), record(2)]
    memory.change({b"\x01": record(5)})
    memory.keep(b"\x03", record(3), memory.writes)
    assert memory.get(b"\x01") == record(5)


def test_what_may_be_large_is_not_remembered() -> None:
    memory = FactMemory()
    memory.keep(b"row", PutRow(1, ()), memory.writes)
    memory.change({b"again": PutRow(1, ())})
    assert memory.get(b"row") is memory.get(b"again") is None


def test_no_reader_sees_a_height_with_older_facts(tmp_path: Path) -> None:
    world = Scenario()
    log = open_log(tmp_path, world)
    log.append([make_block(world, population(world))])
    first = log.height
    done = threading.Event()
    wrong: list[tuple[int, int]] = []

    def read() -> None:
        while not done.is_set():
            height = log.height
            found = log.record(RECORD)
            if found is None or found.leaf_count < height - first:
                wrong.append((height, -1 if found is None else found.leaf_count))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        log.append([make_block(world, [an_append(world, f"a{number}")])])
    done.set()
    for reader in readers:
        reader.join()
    log.close()
    assert not wrong


def test_after_a_failed_write_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Scenario()
    log = open_log(tmp_path, world)
    log.append([make_block(world, population(world))])
    assert log.record(RECORD) == log.record(RECORD)
    remembered = log._facts
    assert remembered.get(b"record/" + RECORD) is not None
    block = make_block(world, [an_append(world, "a")])

    class Broken:
        def write(self, *_: object) -> None:
            raise OSError("no disk")

    with monkeypatch.context() as patched:
        patched.setattr(log._database, "raw", Broken())
        with pytest.raises(Unavailable):
            log.append([block])
    assert remembered.get(b"record/" + RECORD) is None
    log.close()


def test_absent_rows_and_put_rows_are_asked_each_time(tmp_path: Path) -> None:
    world = Scenario()
    log = open_log(tmp_path, world)
    assert log.record(RECORD) is None
    assert log.fact(Grant, b"grant/none") is None
    log.append([make_block(world, population(world))])
    assert log.record(RECORD) is not None
    assert log.put_row(world.account("pat"), PutKey(bytes(16))) is None
    assert isinstance(log, LedgerLog)
    log.close()
