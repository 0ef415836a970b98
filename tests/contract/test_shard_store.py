"""The contract of ShardStore, over every implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hcefs.errors import Conflict, Corrupt, Exhausted, Invalid, NotFound, Unavailable
from hcefs.ids import BlobBase
from hcefs.store.files import GATHER_BYTES, FileShardStore
from hcefs.store.interface import ShardStore
from hcefs.store.memory import MemoryShardStore

BASE = BlobBase(bytes(range(16)))
OTHER = BlobBase(b"\xff" * 16)

Opener = Callable[[int], ShardStore]


@pytest.fixture(params=["files", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens a store with a reserve."""
    if request.param == "files":
        return lambda reserve: FileShardStore(tmp_path / "shards", reserve_bytes=reserve)
    return lambda reserve: MemoryShardStore(reserve_bytes=reserve)


@pytest.fixture
def store(opener: Opener) -> Iterator[ShardStore]:
    opened = opener(0)
    yield opened
    opened.close()


def save(store: ShardStore, base: BlobBase, index: int, data: bytes) -> None:
    writer = store.begin(base, index)
    writer.write(data)
    writer.finish(b"")


def load(store: ShardStore, base: BlobBase, index: int) -> bytes:
    reader = store.open(base, index)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


def test_a_finished_shard_reads_back(store: ShardStore) -> None:
    writer = store.begin(BASE, 3)
    writer.write(b"header")
    writer.write(bytearray(b"piece"))
    writer.write(memoryview(b"xpiecex")[1:6])
    writer.finish(b"footer")
    assert load(store, BASE, 3) == b"headerpiecepiecefooter"
    assert store.has(BASE, 3)


@pytest.mark.parametrize("size", [0, 1, GATHER_BYTES - 1, GATHER_BYTES, GATHER_BYTES + 1, 1 << 20])
@pytest.mark.parametrize("expected", [None, 0, 10, 2 << 20])
def test_every_size_with_every_hint(store: ShardStore, size: int, expected: int | None) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    writer = store.begin(BASE, 0, expected)
    writer.write(b"head")
    writer.write(data)
    writer.write(b"tail")
    writer.finish(b"foot")
    assert load(store, BASE, 0) == b"head" + data + b"tailfoot"
    assert store.usage().shard_bytes == size + 12


def test_the_buffer_may_be_reused_after_write(store: ShardStore) -> None:
    buffer = bytearray(b"first")
    writer = store.begin(BASE, 0)
    writer.write(buffer)
    buffer[:] = b"other"
    buffer.extend(b"!")  # nothing holds a view of it
    writer.write(buffer)
    writer.finish(b"")
    assert load(store, BASE, 0) == b"firstother!"


def test_a_multidimensional_buffer_is_written_flat(store: ShardStore) -> None:
    writer = store.begin(BASE, 0)
    writer.write(memoryview(b"abcdef").cast("B", (2, 3)))
    writer.finish(b"")
    assert load(store, BASE, 0) == b"abcdef"


def test_a_buffer_with_gaps_is_refused(store: ShardStore) -> None:
    writer = store.begin(BASE, 0)
    with pytest.raises(Invalid) as caught:
        writer.write(memoryview(b"abcdef")[::2])
    assert caught.value.reason == "bad-buffer"
    assert not store.has(BASE, 0)


def test_nothing_is_visible_before_finish(store: ShardStore) -> None:
    writer = store.begin(BASE, 0)
    writer.write(b"x" * (GATHER_BYTES * 2))
    assert not store.has(BASE, 0)
    assert list(store.inventory()) == []
    with pytest.raises(NotFound):
        store.open(BASE, 0)
    assert store.usage().shards == 0
    writer.abort()


def test_abort_leaves_nothing_and_may_be_repeated(store: ShardStore) -> None:
    writer = store.begin(BASE, 0)
    writer.write(b"data")
    writer.abort()
    writer.abort()
    for call in (writer.write, writer.finish):
        with pytest.raises(Invalid) as caught:
            call(b"more")
        assert caught.value.reason == "writer-closed"
    assert not store.has(BASE, 0)
    save(store, BASE, 0, b"again")


def test_abort_after_finish_keeps_the_shard(store: ShardStore) -> None:
    writer = store.begin(BASE, 0)
    writer.finish(b"footer")
    writer.abort()
    assert load(store, BASE, 0) == b"footer"
    with pytest.raises(Invalid):
        writer.finish(b"footer")


def test_an_existing_shard_is_never_begun_again(store: ShardStore) -> None:
    save(store, BASE, 0, b"first")
    with pytest.raises(Conflict) as caught:
        store.begin(BASE, 0)
    assert caught.value.reason == "shard-exists"
    assert load(store, BASE, 0) == b"first"


def test_of_two_writers_the_second_to_finish_gets_conflict(store: ShardStore) -> None:
    one, two = store.begin(BASE, 0), store.begin(BASE, 0)
    one.write(b"one")
    two.write(b"two")
    two.finish(b"")
    with pytest.raises(Conflict) as caught:
        one.finish(b"")
    assert caught.value.reason == "shard-exists"
    assert load(store, BASE, 0) == b"two"
    assert store.usage().shards == 1
    assert store.usage().shard_bytes == 3


def test_of_many_racing_writers_exactly_one_finishes(store: ShardStore) -> None:
    outcomes: list[bytes | None] = []
    start = threading.Barrier(8)

    def race(data: bytes) -> None:
        writer = store.begin(BASE, 0)
        writer.write(data)
        start.wait()
        try:
            writer.finish(b"")
        except Conflict:
            outcomes.append(None)
        else:
            outcomes.append(data)

    threads = [threading.Thread(target=race, args=(b"%d" % i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [data for data in outcomes if data is not None]
    assert len(outcomes) == 8
    assert winners == [load(store, BASE, 0)]


def test_reading_parts(store: ShardStore) -> None:
    save(store, BASE, 0, b"0123456789")
    reader = store.open(BASE, 0)
    assert reader.size == 10
    assert reader.read_at(2, 3) == b"234"
    assert reader.read_at(10, 0) == b""
    out = bytearray(b"........")
    reader.read_into(4, memoryview(out)[2:6])
    assert out == b"..4567.."
    reader.close()
    reader.close()
    with pytest.raises(Invalid):
        reader.read_at(0, 1)


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (11, 0), (5, 1 << 60)])
def test_reading_beyond_the_end_is_corrupt(store: ShardStore, offset: int, length: int) -> None:
    save(store, BASE, 0, b"0123456789")
    reader = store.open(BASE, 0)
    with pytest.raises(Corrupt) as caught:
        reader.read_at(offset, length)
    assert caught.value.reason == "truncated"
    with pytest.raises(Corrupt):
        reader.read_into(5, bytearray(6))
    reader.close()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_negative_ranges_are_invalid(store: ShardStore, offset: int, length: int) -> None:
    save(store, BASE, 0, b"0123456789")
    reader = store.open(BASE, 0)
    with pytest.raises(Invalid):
        reader.read_at(offset, length)
    reader.close()


def test_remove(store: ShardStore) -> None:
    save(store, BASE, 0, b"data")
    reader = store.open(BASE, 0)
    assert store.remove(BASE, 0)
    assert not store.remove(BASE, 0)
    assert not store.remove(OTHER, 0)
    assert not store.has(BASE, 0)
    assert reader.read_at(0, 4) == b"data"  # an open reader keeps what it has
    reader.close()
    assert store.usage().shard_bytes == 0
    save(store, BASE, 0, b"anew")


def test_quarantine_sets_aside_and_allows_a_rebuild(store: ShardStore) -> None:
    for _ in range(3):
        save(store, BASE, 0, b"bad")
        store.quarantine(BASE, 0)
        assert not store.has(BASE, 0)
        assert store.usage().shards == 0
    with pytest.raises(NotFound):
        store.quarantine(BASE, 0)
    with pytest.raises(NotFound):
        store.quarantine(OTHER, 0)
    save(store, BASE, 0, b"good")
    assert load(store, BASE, 0) == b"good"


def test_inventory_is_sorted_and_complete(store: ShardStore) -> None:
    names = [(BlobBase(bytes([b % 7]) * 15 + bytes([b])), i) for b in range(20) for i in (0, 2, 10)]
    for base, index in reversed(names):
        save(store, base, index, b"x")
    assert list(store.inventory()) == sorted(names)
    usage = store.usage()
    assert (usage.shards, usage.shard_bytes) == (60, 60)
    assert 0 < usage.free_bytes <= usage.total_bytes


def test_shards_of_one_base_are_apart(store: ShardStore) -> None:
    save(store, BASE, 1, b"one")
    save(store, BASE, 11, b"eleven")
    assert load(store, BASE, 1) == b"one"
    assert load(store, BASE, 11) == b"eleven"
    assert store.remove(BASE, 1)
    assert store.has(BASE, 11)


@pytest.mark.parametrize("index", [-1, 256])
def test_indexes_out_of_range_are_invalid(store: ShardStore, index: int) -> None:
    for call in (store.begin, store.open, store.has, store.remove, store.quarantine):
        with pytest.raises(Invalid) as caught:
            call(BASE, index)
        assert caught.value.reason == "bad-index"
    with pytest.raises(Invalid):
        store.begin(BASE, 0, -1)


def test_below_the_reserve_nothing_is_begun(opener: Opener) -> None:
    store = opener(1 << 60)
    with pytest.raises(Exhausted) as caught:
        store.begin(BASE, 0)
    assert caught.value.reason == "disk-full"
    assert list(store.inventory()) == []
    store.close()


def test_an_expected_size_beyond_the_disk_is_refused_at_begin(store: ShardStore) -> None:
    with pytest.raises(Exhausted) as caught:
        store.begin(BASE, 0, 1 << 60)
    assert caught.value.reason == "disk-full"


def test_close_ends_everything_and_may_be_repeated(store: ShardStore) -> None:
    save(store, BASE, 0, b"data")
    writer = store.begin(BASE, 1)
    store.close()
    store.close()
    with pytest.raises(Invalid):
        writer.write(b"late")
    for call in (store.begin, store.open, store.has, store.remove, store.quarantine):
        with pytest.raises(Unavailable) as caught:
            call(BASE, 0)
        assert caught.value.reason == "store-closed"
    with pytest.raises(Unavailable):
        store.usage()
    with pytest.raises(Unavailable):
        list(store.inventory())


def test_many_threads(store: ShardStore) -> None:
    def work(worker: int) -> None:
        for number in range(10):
            base = BlobBase(bytes([worker, number]) * 8)
            save(store, base, worker, bytes([worker]) * 100)
            assert load(store, base, worker) == bytes([worker]) * 100
            if number % 2:
                assert store.remove(base, worker)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert store.usage().shards == 30
    assert len(list(store.inventory())) == 30


# -- forms


def test_forms_of_one_shard_are_shards_of_their_own(opener: Opener) -> None:
    store = opener(0)
    save(store, BASE, 3, b"first")
    writer = store.begin(BASE, 3, None, "ec-10-4")
    writer.write(b"second")
    writer.finish(b"")
    assert load(store, BASE, 3) == b"first"
    assert not store.has(BASE, 3, "copy-3")
    with pytest.raises(Conflict):
        store.begin(BASE, 3, None, "ec-10-4")
    with pytest.raises(NotFound):
        store.open(BASE, 3, "copy-3")
    assert list(store.inventory()) == [(BASE, 3)]
    assert list(store.reformed()) == [(BASE, 3, "ec-10-4")]
    assert store.usage().shards == 2
    assert store.remove(BASE, 3)
    reader = store.open(BASE, 3, "ec-10-4")
    assert reader.read_at(0, reader.size) == b"second"
    reader.close()
    store.quarantine(BASE, 3, "ec-10-4")
    assert not store.has(BASE, 3, "ec-10-4")
    store.close()


@pytest.mark.parametrize("form", ["EC-4-2", "../x", "a.b", "x" * 17, "4-2", "a/b"])
def test_a_form_is_the_name_of_a_profile(store: ShardStore, form: str) -> None:
    with pytest.raises(Invalid) as caught:
        store.begin(BASE, 0, None, form)
    assert caught.value.reason == "bad-form"


def test_forms_are_found_after_a_restart(tmp_path: Path) -> None:
    """What has the first form keeps the file name that it always had."""
    store = FileShardStore(tmp_path)
    save(store, BASE, 3, b"first")
    writer = store.begin(BASE, 4, None, "copy-3")
    writer.finish(b"second")
    store.close()
    names = sorted(path.name for path in (tmp_path / "00").iterdir())
    assert names == [f"{BASE.hex()}.3", f"{BASE.hex()}.4.copy-3"]
    again = FileShardStore(tmp_path)
    assert again.usage().shards == 2
    assert list(again.reformed()) == [(BASE, 4, "copy-3")]
    again.close()


def test_what_was_set_aside_is_listed_and_can_be_discarded(store: ShardStore) -> None:
    for data in (b"first", b"second!"):
        save(store, BASE, 1, data)
        store.quarantine(BASE, 1)
    found = list(store.quarantined())
    assert [(each.base, each.index, each.form, each.size) for each in found] == [
        (BASE, 1, "", 5),
        (BASE, 1, "", 7),
    ]
    assert store.discard(found[0].name)
    assert not store.discard(found[0].name)
    assert list(store.quarantined()) == found[1:]


def test_pages_of_one_first_byte_go_on_behind_the_last(store: ShardStore) -> None:
    bases = [BlobBase(bytes([7]) + bytes([number]) * 15) for number in range(5)]
    for base in reversed(bases):
        save(store, base, 0, b"x")
    save(store, OTHER, 0, b"x")
    store.begin(bases[2], 1, None, "copy-3").finish(b"y")
    everything = sorted([*((base, 0, "") for base in bases), (bases[2], 1, "copy-3")])
    seen: list[tuple[BlobBase, int, str]] = []
    while page := store.page(7, seen[-1] if seen else None, 4):
        seen += page
    assert seen == everything
    assert store.page(8, None, 4) == []
