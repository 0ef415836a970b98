"""The log: atomic appends, checked rows, what a reopened folder holds, verification."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from hcefs.access.facts import Action
from hcefs.errors import Conflict, Corrupt, Exhausted, HcefsError, Internal, Invalid, NotFound
from hcefs.ids import AccountId, RecordId
from hcefs.integrity import leaf_hash, merkle_root
from hcefs.ledger.block import SignedHead, sign_head
from hcefs.ledger.database import RECOVERY_FREE_BYTES
from hcefs.ledger.log import ForkProof, LedgerLog
from hcefs.ledger.outcome import LeafAppended
from hcefs.ledger.rows import (
    HEAD_ROW,
    TIP_ROW,
    block_hash_row,
    block_row,
    commitment_row,
    leaf_row,
    result_row,
    seal,
    unseal,
)
from hcefs.ledger.state import account_key, grant_key, record_key
from hcefs.ledger.transactions import SignedTransaction
from tests.unit.ledger.replicas import (
    an_append,
    make_block,
    nodes_and_map,
    open_log,
    population,
)
from tests.unit.ledger.scenario import (
    START_MS,
    Scenario,
    grant_id,
    make_genesis,
    record_id,
    seed,
)

RECORD = record_id("r")


@pytest.fixture
def world() -> Scenario:
    return Scenario()


@pytest.fixture
def log(tmp_path: Path, world: Scenario) -> Iterator[LedgerLog]:
    made = open_log(tmp_path / "log", world)
    yield made
    made.close()


def filled(log: LedgerLog, world: Scenario, appends: int = 5) -> LedgerLog:
    log.append([make_block(world, population(world))])
    for number in range(appends):
        world.time_ms += 1_000
        log.append([make_block(world, [an_append(world, f"a{number}")])])
    return log


def test_a_copied_commitment_does_not_hide_its_writers_leaf(
    log: LedgerLog, world: Scenario
) -> None:
    filled(log, world, appends=1)
    may_append = world.sign(world.grant("g", "doc", Action.APPEND), "pat").encode()
    log.append([make_block(world, [may_append])])
    doctor, patient = world.account("doc"), world.account("pat")
    stolen, copied = seed("commitment stolen"), seed("commitment a0")
    for name, entry, signer in (
        ("c1", world.entry("stolen", grant="g"), "doc"),  # before its writer
        ("c2", world.entry("stolen"), "pat"),
        ("c3", world.entry("a0", grant="g"), "doc"),  # after its writer
        ("c4", world.entry("a0", grant="g"), "doc"),
    ):
        world.time_ms += 1_000
        log.append([make_block(world, [world.sign(world.append(name, entry), signer).encode()])])

    def index(commitment: bytes, signer: AccountId | None) -> int | None:
        found = log.leaf_of(RECORD, commitment, signer)
        return None if found is None else found[0]

    assert [index(stolen, who) for who in (None, doctor, patient)] == [1, 1, 2]
    assert [index(copied, who) for who in (None, patient, doctor)] == [0, 0, 3]
    assert index(copied, world.account("o1")) is None
    assert log.verify_chain() == log.height


def head_of(world: Scenario, time_ms: int) -> SignedHead:
    return sign_head(world.genesis, world.header, world.app_hash, time_ms, world.writer, term=1)


def edit(folder: Path, key: bytes, change: Callable[[bytes], bytes | None]) -> None:
    """Change a row behind the log's back; ``change`` gets and returns the whole row."""
    database = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True))
    row = change(database.get(key) or b"")
    if row is None:
        database.delete(key)
    else:
        database.put(key, row)
    database.close()


def test_a_new_log_holds_the_genesis(log: LedgerLog, world: Scenario) -> None:
    assert (log.height, log.time_ms) == (0, START_MS)
    assert log.app_hash == world.app_hash
    assert log.tip is None
    assert log.tip_hash == log.block_hash(0) == world.genesis.digest
    assert log.account(world.account("o1")) == world.view.account(world.account("o1"))
    assert log.operators() == world.view.operators()
    assert log.cluster_map() is None
    assert log.verify_chain() == 0
    assert log.snapshot().height == 0
    with pytest.raises(NotFound):
        log.block(1)


def test_facts_are_those_of_the_state_machine(log: LedgerLog, world: Scenario) -> None:
    filled(log, world)
    grant = world.sign(world.grant("g", "doc"), "pat").encode()
    log.append([make_block(world, [grant])])
    assert log.height == world.height
    assert log.time_ms == world.time_ms
    assert log.app_hash == world.app_hash
    for view in (log, log.snapshot()):
        assert view.record(RECORD) == world.view.record(RECORD)
        assert view.generation(RECORD, 0) == world.view.generation(RECORD, 0)
        assert view.grant(grant_id("g")) == world.granted("g")
        assert view.grants_on_record(RECORD) == [world.granted("g")]
        assert view.grants_to(world.account("doc")) == [world.granted("g")]
        assert view.records_of(world.account("pat")) == [world.view.record(RECORD)]
    assert list(log.scan(b"")) == list(world.state.scan(b""))


def test_leaves_are_indexed(log: LedgerLog, world: Scenario) -> None:
    filled(log, world, appends=3)
    found = log.leaf_of(RECORD, seed("commitment a1"))
    assert found is not None
    index, leaf, height = found
    assert (index, height) == (1, 3)
    assert leaf.commitment == seed("commitment a1")
    assert leaf.signer == world.account("pat")
    assert log.leaf_index(RECORD, seed("commitment a2")) == 2
    assert log.leaf_of(RECORD, seed("commitment none")) is None
    assert log.leaf_of(record_id("other"), seed("commitment a1")) is None
    assert [each.commitment for each in log.leaves(RECORD, 1, 9)] == [
        seed("commitment a1"),
        seed("commitment a2"),
    ]
    assert len(log.leaves(RECORD, 0, 2)) == 2
    assert log.leaves(RECORD, 3, 1) == log.leaves(RECORD, -1, 1) == []
    assert log.leaves(RECORD, 1 << 64, 1) == []


def test_the_first_leaf_with_a_commitment_is_the_one_that_is_found(
    log: LedgerLog, world: Scenario
) -> None:
    log.append([make_block(world, population(world))])
    log.append([make_block(world, [an_append(world, "one", "x"), an_append(world, "two", "x")])])
    log.append([make_block(world, [an_append(world, "three", "x")])])
    assert log.leaf_index(RECORD, seed("commitment x")) == 0
    assert len(log.leaves(RECORD, 0, 9)) == 3
    assert log.verify_chain() == 3


def test_subtrees_are_those_of_the_tree_of_leaves(log: LedgerLog, world: Scenario) -> None:
    log.append([make_block(world, population(world))])
    # Pairs within one transaction, one block and across blocks.
    log.append(
        [
            make_block(world, [an_append(world, "p", "1", "2", "3"), an_append(world, "q")]),
            make_block(world, [an_append(world, "s", "5", "6")]),
        ]
    )
    log.append([make_block(world, [an_append(world, "t", "7", "8")])])
    hashes = [leaf.hash() for leaf in log.leaves(RECORD, 0, 9)]
    for level in range(4):
        for index in range(8 >> level):
            span = hashes[index << level : (index + 1) << level]
            assert log.subtree(RECORD, level, index) == merkle_root(span)
    record = log.record(RECORD)
    assert record is not None
    assert record.peaks == (log.subtree(RECORD, 3, 0),)
    with pytest.raises(Corrupt) as caught:
        log.subtree(RECORD, 0, 8)
    assert caught.value.reason == "missing-row"


def test_transactions_are_found_by_the_hash_of_their_body(log: LedgerLog, world: Scenario) -> None:
    filled(log, world, appends=2)
    signed = SignedTransaction.decode(log.block(3).transactions[0])
    result = log.result_of(signed.hash())
    assert result is not None
    assert (result.height, result.time_ms) == (3, world.time_ms)
    assert [(leaf.record, leaf.index) for leaf in result.leaves] == [(RECORD, 1)]
    assert result.leaves[0].leaf == log.leaves(RECORD, 1, 1)[0].hash()
    assert log.transaction_height(signed.hash()) == 3
    assert log.transaction_height(seed("unknown")) is None


def test_many_blocks_in_one_append(log: LedgerLog, world: Scenario) -> None:
    blocks = [make_block(world, population(world))]
    blocks += [make_block(world, [an_append(world, f"a{n}")]) for n in range(7)]
    head = head_of(world, world.time_ms)
    log.append(blocks, head)
    assert log.height == 8
    assert log.head == head
    assert [log.block(height) for height in range(1, 9)] == [each.block for each in blocks]
    assert log.block_hash(8) == log.tip_hash == blocks[-1].block.hash()
    assert log.block_hash(9) is None
    assert log.verify_chain() == 8


def test_everything_is_there_after_reopening(tmp_path: Path, world: Scenario) -> None:
    log = filled(open_log(tmp_path, world), world)
    nodes, change = nodes_and_map(world)
    log.append([make_block(world, [*nodes, change])])
    head = head_of(world, world.time_ms + 5)
    log.keep_head(head)
    before = (log.height, log.time_ms, log.app_hash, log.tip, log.cluster_map())
    log.close()
    log.close()
    again = open_log(tmp_path, world)
    assert (again.height, again.time_ms, again.app_hash, again.tip, again.cluster_map()) == before
    assert again.head == head
    assert again.cluster_map() == again.snapshot().cluster_map() is not None
    assert again.verify_chain() == 7
    again.close()


def test_another_cluster_is_refused(tmp_path: Path, world: Scenario) -> None:
    open_log(tmp_path / "log", world).close()
    other = replace(make_genesis(), nonce=seed("other nonce"))
    with pytest.raises(Conflict) as caught:
        LedgerLog.open(tmp_path / "log", other)
    assert caught.value.reason == "other-cluster"
    foreign = rocksdict.Rdict(str(tmp_path / "rows"), rocksdict.Options(raw_mode=True))
    foreign[b"key"] = b"value"
    foreign.close()
    with pytest.raises(Conflict) as caught:
        LedgerLog.open(tmp_path / "rows", world.genesis)
    assert caught.value.reason == "other-cluster"
    with pytest.raises(Invalid):
        LedgerLog.open(tmp_path / "new", replace(world.genesis, threshold=9))


def test_a_folder_is_open_once(log: LedgerLog, world: Scenario) -> None:
    with pytest.raises(Conflict) as caught:
        open_log(log.path, world)
    assert caught.value.reason == "log-in-use"


def test_only_the_next_block_is_appended(log: LedgerLog, world: Scenario) -> None:
    first = make_block(world, population(world))
    second = make_block(world, [an_append(world, "a")])
    third = make_block(world, [an_append(world, "b")])
    log.append([])
    with pytest.raises(Conflict) as caught:
        log.append([second])
    assert caught.value.reason == "not-next"
    with pytest.raises(Conflict):
        log.append([first, third])
    assert log.height == 0
    assert list(log.scan(b"record/")) == []
    log.append([first])
    with pytest.raises(Conflict):
        log.append([first])
    other = Scenario()
    other.time_ms += 1
    make_block(other, population(other))
    with pytest.raises(Conflict):
        log.append([make_block(other, [an_append(other, "a")])])
    log.append([second, third])
    assert log.height == 3


def test_a_snapshot_stays_at_its_height(log: LedgerLog, world: Scenario) -> None:
    filled(log, world, appends=1)
    before = log.snapshot()
    record = before.record(RECORD)
    world.time_ms += 7
    log.append([make_block(world, [an_append(world, "later")])])
    assert (before.height, before.time_ms) == (2, world.time_ms - 7)
    assert before.record(RECORD) == record
    assert before.record(record_id("unknown")) is None
    assert log.record(RECORD) != record


def test_readers_never_see_a_height_without_its_facts(log: LedgerLog, world: Scenario) -> None:
    filled(log, world, appends=0)
    blocks = [make_block(world, [an_append(world, f"a{n}")]) for n in range(60)]
    wrong: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            height = log.height
            record = log.record(RECORD)
            if record is None or record.leaf_count < height - 1:
                wrong.append((height, 0 if record is None else record.leaf_count))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for block in blocks:
        log.append([block])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_heads_are_kept_when_newer(log: LedgerLog, world: Scenario) -> None:
    first = head_of(world, START_MS + 10)
    log.keep_head(first)
    log.keep_head(head_of(world, START_MS + 5))
    assert log.head == first
    filled(log, world, appends=0)
    higher = head_of(world, START_MS + 1)
    log.keep_head(higher)
    assert log.head == higher


def test_the_head_of_a_new_block_is_shown_at_once_and_written_later(
    tmp_path: Path, world: Scenario
) -> None:
    log = open_log(tmp_path, world)
    first = head_of(world, START_MS + 10)
    assert not log.show_head(first)  # there is none yet
    log.keep_head(first)
    filled(log, world, appends=0)
    shown = head_of(world, START_MS + 20)
    assert log.show_head(shown)
    assert log.head == shown
    assert log.show_head(first)  # older: nothing is left to do
    assert not log.show_head(replace(shown, time_ms=shown.time_ms + 1))  # a renewal
    assert not log.show_head(replace(shown, height=shown.height + 1))  # ahead
    assert log.head == shown
    log.close()
    log = open_log(tmp_path, world)
    assert log.head == shown
    # Without the closing, the next block writes it.
    log.append([make_block(world, [an_append(world, "a")])])
    assert log.show_head(later := head_of(world, START_MS + 30))
    log.append([make_block(world, [an_append(world, "b")])])
    log._database.raw.close()
    log = open_log(tmp_path, world)
    assert log.head == later
    log.close()


def test_a_head_is_fsynced_only_when_its_block_is_not_here(
    log: LedgerLog, world: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(log, world, appends=1)
    written: list[bool] = []
    write = log._write

    def noted(batch: Any, *, sync: bool = True) -> None:
        written.append(sync)
        write(batch, sync=sync)

    monkeypatch.setattr(log, "_write", noted)
    head = head_of(world, world.time_ms)
    for offset, higher in ((1, 0), (2, 0), (3, 5), (4, 5)):
        log.keep_head(replace(head, time_ms=head.time_ms + offset, height=head.height + higher))
    log.keep_head(head)
    assert written == [True, False, True, True]


def test_nobody_else_may_look_into_its_folder(tmp_path: Path, world: Scenario) -> None:
    log = open_log(tmp_path / "new", world)
    assert log.path.stat().st_mode & 0o077 == 0
    log.close()


def test_the_first_proof_of_a_fork_stays(tmp_path: Path, world: Scenario) -> None:
    log = open_log(tmp_path, world)
    assert log.fork() is None
    log.keep_fork(ForkProof(3, ours=b"a", theirs=b"b"))
    log.keep_fork(ForkProof(4, ours=b"c", theirs=b"d"))
    log.close()
    again = open_log(tmp_path, world)
    assert again.fork() == ForkProof(3, ours=b"a", theirs=b"b")
    again.close()


def flip(row: bytes) -> bytes:
    return row[:-1] + bytes((row[-1] ^ 1,))


Read = Callable[[LedgerLog, Scenario], object]

READS: dict[str, tuple[Callable[[Scenario], bytes], Read]] = {
    "state": (lambda _: b"s" + record_key(RECORD), lambda log, _: log.record(RECORD)),
    "block": (lambda _: block_row(2), lambda log, _: log.block(2)),
    "hash": (lambda _: block_hash_row(2), lambda log, _: log.block_hash(2)),
    "leaf": (lambda _: leaf_row(RECORD, 0), lambda log, _: log.leaves(RECORD, 0, 1)),
    "subtree": (lambda _: leaf_row(RECORD, 0), lambda log, _: log.subtree(RECORD, 0, 0)),
    "commitment": (
        lambda _: commitment_row(RECORD, seed("commitment a0")),
        lambda log, _: log.leaf_of(RECORD, seed("commitment a0")),
    ),
    "scan": (
        lambda world: b"s" + account_key(world.account("doc")),
        lambda log, _: list(log.scan(b"account/")),
    ),
    "tip": (lambda _: TIP_ROW, lambda log, _: log.snapshot()),
}


@pytest.mark.parametrize("damage", [flip, lambda _: b"", lambda row: row[:3]])
@pytest.mark.parametrize("name", READS)
def test_a_damaged_row_is_never_an_answer(
    tmp_path: Path, world: Scenario, name: str, damage: Callable[[bytes], bytes]
) -> None:
    filled(open_log(tmp_path, world), world).close()
    key, read = READS[name]
    edit(tmp_path, key(world), damage)
    with pytest.raises(Corrupt) as caught:
        read_reopened(tmp_path, world, read)
    assert caught.value.reason == "bad-row"


def read_reopened(folder: Path, world: Scenario, read: Read) -> object:
    log = open_log(folder, world)
    try:
        return read(log, world)
    finally:
        log.close()


def test_a_row_in_the_place_of_another_is_never_an_answer(tmp_path: Path, world: Scenario) -> None:
    filled(open_log(tmp_path, world), world).close()
    taken: list[bytes] = []
    pat, doc = (account_key(world.account(name)) for name in ("pat", "doc"))
    edit(tmp_path, b"s" + doc, lambda row: taken.append(row) or row)  # type: ignore[func-returns-value]
    edit(tmp_path, b"s" + pat, lambda _: taken[0])
    with pytest.raises(Corrupt):
        read_reopened(tmp_path, world, lambda log, _: log.account(world.account("pat")))


def test_a_sealed_row_of_another_shape_is_corrupt(tmp_path: Path, world: Scenario) -> None:
    filled(open_log(tmp_path, world), world).close()
    key = b"s" + record_key(RECORD)
    edit(tmp_path, key, lambda _: seal(key, b"\x80"))
    with pytest.raises(Corrupt) as caught:
        read_reopened(tmp_path, world, lambda log, _: log.record(RECORD))
    assert caught.value.reason == "bad-state"


def resealed(key: bytes, change: Callable[[bytes], bytes]) -> tuple[bytes, Any]:
    return key, lambda row: seal(key, change(unseal(key, row)))


GRANT_STATE = b"s" + grant_key(grant_id("forged"))
EXTRA_LEAF = leaf_row(RecordId(seed("nobody")[:16]), 0)
TAMPERINGS: dict[str, tuple[bytes, Callable[[bytes], bytes | None]]] = {
    "state changed": resealed(b"s" + record_key(RECORD), flip),
    "state added": (GRANT_STATE, lambda _: seal(GRANT_STATE, b"x")),
    "state removed": (b"s" + record_key(RECORD), lambda _: None),
    "leaf changed": resealed(leaf_row(RECORD, 2), flip),
    "leaf removed": (leaf_row(RECORD, 2), lambda _: None),
    "leaf added": (EXTRA_LEAF, lambda _: seal(EXTRA_LEAF, b"x")),
    "commitment removed": (commitment_row(RECORD, seed("commitment a1")), lambda _: None),
    "block removed": (block_row(3), lambda _: None),
    "block changed": resealed(block_row(3), flip),
    "hash changed": resealed(block_hash_row(3), flip),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_verification_finds_what_was_tampered_with(
    tmp_path: Path, world: Scenario, name: str
) -> None:
    filled(open_log(tmp_path, world), world).close()
    assert read_reopened(tmp_path, world, lambda log, _: log.verify_chain()) == 6
    key, change = TAMPERINGS[name]
    edit(tmp_path, key, change)
    with pytest.raises(Corrupt) as caught:
        read_reopened(tmp_path, world, lambda log, _: log.verify_chain())
    assert caught.value.reason == "bad-chain"


def test_verification_finds_a_log_cut_short(tmp_path: Path, world: Scenario) -> None:
    log = filled(open_log(tmp_path, world), world)
    header = log.block(5).header
    log.close()
    edit(tmp_path, TIP_ROW, lambda _: seal(TIP_ROW, header.encode()))
    with pytest.raises(Corrupt) as caught:
        read_reopened(tmp_path, world, lambda log, _: log.verify_chain())
    assert caught.value.reason == "bad-chain"


def test_verification_tells_how_far_it_is(log: LedgerLog, world: Scenario) -> None:
    heights: list[int] = []
    assert filled(log, world, appends=2).verify_chain(heights.append) == 3
    assert heights == [1, 2, 3]


class FailingDatabase:
    """Passes everything on, but writes fail as a full or dying disk makes them fail.

    With ``lands`` the write is on the disk all the same.
    """

    def __init__(self, database: Any, *, lands: bool = False) -> None:
        self._database = database
        self._lands = lands

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, *arguments: Any) -> None:
        if self._lands:
            self._database.write(*arguments)
        raise Exception("IO error: No space left on device")


def break_disk(log: LedgerLog, *, lands: bool = False) -> None:
    log._database.raw = FailingDatabase(log._database.raw, lands=lands)  # type: ignore[assignment]


def test_after_a_failed_write_nothing_more_is_written(log: LedgerLog, world: Scenario) -> None:
    filled(log, world, appends=1)
    database = log._database.raw
    break_disk(log)
    block = make_block(world, [an_append(world, "lost")])
    for _ in range(2):
        with pytest.raises(Exhausted) as caught:
            log.append([block])
        assert caught.value.reason == "disk-full"
        log._database.raw = database
    with pytest.raises(Exhausted):
        log.keep_head(head_of(world, world.time_ms))
    with pytest.raises(Exhausted):
        log.keep_fork(ForkProof(1, b"a", b"b"))
    assert log.height == 2
    assert log.record(RECORD) is not None


@pytest.mark.parametrize("lands", [False, True])
def test_a_log_goes_on_from_what_is_on_the_disk(
    log: LedgerLog, world: Scenario, lands: bool
) -> None:
    filled(log, world, appends=1)
    break_disk(log, lands=lands)
    block = make_block(world, [an_append(world, "doubtful")])
    with pytest.raises(Exhausted):
        log.append([block])
    assert log.height == 2
    log.recover()
    assert log.failure is None
    assert log.height == (3 if lands else 2)
    if not lands:
        log.append([block])
    assert log.tip_hash == block.block.header.hash()
    assert log.verify_chain() == 3


def test_a_full_disk_is_not_opened_again(log: LedgerLog, world: Scenario) -> None:
    filled(log, world, appends=1)
    break_disk(log)
    block = make_block(world, [an_append(world, "late")])
    with pytest.raises(Exhausted):
        log.append([block])
    room = log._database.free
    log._database.free = lambda _: RECOVERY_FREE_BYTES - 1
    with pytest.raises(Exhausted):
        log.recover()
    assert log.record(RECORD) is not None
    log._database.free = room
    log.recover()
    log.append([block])
    assert log.height == 3


def test_a_log_that_lost_blocks_is_not_taken(
    tmp_path: Path, log: LedgerLog, world: Scenario
) -> None:
    filled(log, world, appends=1)
    break_disk(log)
    with pytest.raises(Exhausted):
        log.append([make_block(world, [an_append(world, "late")])])
    empty = open_log(tmp_path / "empty", world)
    empty.close()
    opener = log._database.opener
    log._database.opener = lambda _: opener(tmp_path / "empty")
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            log.recover()
        assert caught.value.reason == "lost-blocks"


def test_a_closed_log_says_so(tmp_path: Path, world: Scenario) -> None:
    log = filled(open_log(tmp_path, world), world)
    log.close()
    for call in (lambda: log.record(RECORD), log.snapshot, lambda: list(log.scan(b""))):
        with pytest.raises(HcefsError):
            call()
    with pytest.raises(Internal):
        log.append([make_block(world, [an_append(world, "late")])])


def test_golden_layout_of_rows(tmp_path: Path, world: Scenario) -> None:
    """The keys on disk are a format: a change needs a migration."""
    log = filled(open_log(tmp_path, world), world, appends=2)
    log.keep_head(head_of(world, world.time_ms))
    signed = SignedTransaction.decode(log.block(2).transactions[0])
    log.close()
    database = rocksdict.Rdict(str(tmp_path), rocksdict.Options(raw_mode=True))
    keys = set(database.keys())
    database.close()
    expected = {
        b"mgenesis",
        b"mtip",
        b"mhead",
        b"b" + bytes(7) + b"\x03",
        b"x" + bytes(7) + b"\x03",
        b"l" + RECORD + bytes(8),
        b"c" + RECORD + seed("commitment a1"),
        b"n" + RECORD + b"\x01" + bytes(8),
        b"t" + signed.hash(),
        b"srecord/" + RECORD,
    }
    assert expected <= keys
    assert HEAD_ROW in keys
    assert result_row(signed.hash()) in keys


def test_leaf_events_and_rows_agree(log: LedgerLog, world: Scenario) -> None:
    log.append([make_block(world, population(world))])
    made = make_block(world, [an_append(world, "a", "x", "y")])
    log.append([made])
    events = [event for event in made.outcomes[0].events if isinstance(event, LeafAppended)]
    for event in events:
        assert log.leaf(RECORD, event.index) == (event.leaf, event.height)
        assert log.subtree(RECORD, 0, event.index) == leaf_hash(event.leaf.encode())
