"""Snapshots: what they hold, who is believed, and logs that begin with one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcefs.errors import Corrupt, HcefsError, Invalid, NotFound
from hcefs.integrity import blake3_digest
from hcefs.ledger import snapshot
from hcefs.ledger.block import sign_block
from hcefs.ledger.log import AppliedBlock, LedgerLog
from hcefs.ledger.machine import replay
from hcefs.ledger.rows import leaf_row, part_row, seal
from hcefs.ledger.snapshot import (
    PART_BYTES,
    Joiner,
    SnapshotManifest,
    SnapshotOffer,
    SnapshotRule,
    cut,
)
from hcefs.ledger.snapshot_join import JOINING, Installer, Witness, join, judge
from hcefs.ledger.snapshot_maker import SnapshotMaker
from hcefs.ledger.transactions import Upgrade
from hcefs.runtime import SystemRuntime
from tests.unit.ledger.replicas import make_block, population
from tests.unit.ledger.scenario import Scenario, record_id

RULE = SnapshotRule(every=8, delay=2)
ROWS = st.dictionaries(
    st.binary(max_size=20).map(lambda rest: b"s" + rest), st.binary(max_size=90), min_size=1
)


class NoWaiting(SystemRuntime):
    """Real threads, no pauses."""

    async def sleep(self, seconds: float) -> None:
        return None


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    made = NoWaiting()
    yield made
    made.close()


def chain(world: Scenario, count: int = 12) -> list[AppliedBlock]:
    """Blocks with accounts, a record and leaves, version 3 in force from the fourth on."""
    made = [
        make_block(world, [world.sign(Upgrade(2, 2), "o1", "o2").encode()]),
        make_block(world, [world.sign(Upgrade(3, 4), "o1", "o2").encode()]),
        make_block(world, population(world)),
    ]
    while len(made) < count:
        name = f"e{len(made)}"
        append = world.sign(world.append(name, world.entry(name)), "pat").encode()
        made.append(make_block(world, [append]))
    return made


def naming(world: Scenario, block: AppliedBlock, root: bytes) -> AppliedBlock:
    """A block whose header names a root; the scenario goes on from it."""
    header = replace(block.block.header, snapshot_root=root)
    signed = sign_block(header, block.block.transactions, world.writer)
    world.header = header
    return replace(block, block=signed)


def opened(path: Path, world: Scenario) -> LedgerLog:
    return LedgerLog.open(path, world.genesis, snapshots=RULE)


async def made(log: LedgerLog, runtime: SystemRuntime) -> SnapshotManifest:
    assert await SnapshotMaker(log, runtime, _never).make()
    found = log.snapshots.made
    assert found is not None
    return found


def _never(error: Corrupt) -> None:
    raise AssertionError(error)


async def served(
    tmp_path: Path, world: Scenario, runtime: SystemRuntime
) -> tuple[LedgerLog, SnapshotOffer]:
    """A log of ten blocks whose tenth names the snapshot of the eighth."""
    log = opened(tmp_path / "server", world)
    log.append(chain(world, 9))
    assert (await made(log, runtime)).height == 8
    assert log.snapshots.root_to_name(9) == b""
    root = log.snapshots.root_to_name(10)
    last = world.sign(world.append("z", world.entry("z")), "pat").encode()
    log.append([naming(world, make_block(world, [last]), root)])
    assert log.snapshots.root_to_name(11) == b""
    offer = log.offer()
    assert offer is not None
    return log, offer


class Source:
    """Serves a log's snapshot, or what a test makes of it."""

    def __init__(self, log: LedgerLog, offer: SnapshotOffer | None, parts: list[bytes]) -> None:
        self.given = offer
        self.sent = parts

    async def offer(self) -> SnapshotOffer | None:
        return self.given

    async def parts(self, height: int) -> AsyncGenerator[bytes, None]:
        for part in self.sent:
            yield part


def parts_of(log: LedgerLog, offer: SnapshotOffer) -> list[bytes]:
    return [
        log.snapshots.part(offer.manifest.height, at) for at in range(len(offer.manifest.parts))
    ]


@given(ROWS, st.integers(16, 64))
def test_parts_follow_from_the_rows_alone(rows: dict[bytes, bytes], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "PART_BYTES", size)
        parts = list(cut(sorted(rows.items())))
        again = list(cut(sorted(dict(reversed(rows.items())).items())))
    assert parts == again
    assert all(len(part) == size for part in parts[:-1])
    joiner = Joiner()
    assert [row for part in parts for row in joiner.add(part)] == sorted(rows.items())
    joiner.finish()


def test_bytes_are_frozen() -> None:
    part = next(cut([(b"s1", b"one"), (b"t2", b"")]))
    assert part.hex() == "000000020000000373316f6e6500000002000000007432"
    manifest = SnapshotManifest(4096, len(part), (blake3_digest(part),))
    assert manifest.encode().hex() == FROZEN_MANIFEST
    assert manifest.root().hex() == FROZEN_ROOT


@pytest.mark.parametrize(
    "stream", ["0000000000000000", "00000001000000016200", "0000000173", "ffffffff00000000"]
)
def test_malformed_rows_are_refused(stream: str) -> None:
    def read() -> None:
        joiner = Joiner()
        joiner.add(bytes.fromhex(stream))
        joiner.finish()

    with pytest.raises(Invalid) as caught:
        read()
    assert caught.value.reason == "bad-snapshot"


async def test_replicas_agree_however_blocks_were_batched(
    tmp_path: Path, runtime: SystemRuntime
) -> None:
    world = Scenario()
    blocks = chain(world)
    whole, single = opened(tmp_path / "a", world), opened(tmp_path / "b", world)
    whole.append(blocks)
    for block in blocks[:5]:
        single.append([block])
    single.close()
    single = opened(tmp_path / "b", world)
    for block in blocks[5:]:
        single.append([block])
    first, second = await made(whole, runtime), await made(single, runtime)
    assert first == second
    assert first.height == 8
    whole.close()
    single.close()


async def test_a_log_begins_with_a_snapshot_and_goes_on(
    tmp_path: Path, runtime: SystemRuntime
) -> None:
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    path = tmp_path / "joined"
    source = Source(log, offer, parts_of(log, offer))
    assert await join(path, world.genesis, source, runtime) == 8
    new = opened(path, world)
    assert (new.height, new.base_height) == (8, 8)
    assert new.app_hash == log.block(8).header.app_hash
    assert new.block_hash(3) == log.block_hash(3)
    assert new.statement(3) == offer.base
    with pytest.raises(NotFound) as missing:
        new.block(8)
    assert missing.value.reason == "before-snapshot"
    assert new.verify_chain() == 8
    record = record_id("r")
    assert new.leaf_of(record, world.entry("e3").commitment) is not None
    assert new.subtree(record, 1, 0) == log.subtree(record, 1, 0)
    name = world.sign(world.opening("r", "pat"), "pat").hash()
    assert new.result_of(name) == log.result_of(name)
    for height in (9, 10):
        block = log.block(height)
        new.snapshots.check_named_root(block.header)
        overlay, outcomes = replay(new, block, world.genesis, new.tip)
        new.append([AppliedBlock(block, overlay.writes, tuple(outcomes))])
    assert list(new.scan(b"")) == list(log.scan(b""))
    assert new.verify_chain() == 10
    # A row that no block has made, of the state or of the snapshot, is found.
    for key in (part_row(8, 0), leaf_row(record, 0), b"saccount/x"):
        held = new._database.raw.get(key)
        new._database.raw.put(key, seal(key, b"another"))
        with pytest.raises(Corrupt):
            new.verify_chain()
        if held is None:
            new._database.raw.delete(key)
        else:
            new._database.raw.put(key, held)
    assert new.verify_chain() == 10
    assert new.offer() == log.offer()
    assert await join(path, world.genesis, source, runtime) == 0
    new.close()
    log.close()


@pytest.mark.parametrize("harm", ["flipped", "short", "missing", "doubled"])
async def test_harmed_parts_leave_nothing(
    tmp_path: Path, runtime: SystemRuntime, harm: str
) -> None:
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    parts = parts_of(log, offer)
    assert len(parts[0]) < PART_BYTES
    flipped = bytes([parts[0][0] ^ 1]) + parts[0][1:]
    sent = {"flipped": [flipped], "short": [parts[0][:-1]], "missing": [], "doubled": parts * 2}
    path = tmp_path / "joined"
    with pytest.raises(Invalid) as caught:
        await join(path, world.genesis, Source(log, offer, sent[harm]), runtime)
    assert caught.value.reason == "bad-snapshot"
    assert not path.exists()
    # What was left beside it is no hindrance.
    assert await join(path, world.genesis, Source(log, offer, parts), runtime) == 8
    log.close()


async def test_offers_that_the_writer_did_not_sign_are_refused(
    tmp_path: Path, runtime: SystemRuntime
) -> None:
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    manifest = offer.manifest
    forged = replace(offer.carrier.header, snapshot_root=bytes(32))
    for bad in (
        replace(offer, manifest=replace(manifest, parts=(bytes(32),))),
        replace(offer, manifest=replace(manifest, height=16)),
        replace(offer, manifest=replace(manifest, size=manifest.size - 1)),
        replace(offer, carrier=replace(offer.carrier, header=forged)),
        replace(offer, carrier=offer.base),
        replace(offer, base=offer.carrier),
        replace(offer, base=replace(offer.base, signature=bytes(64))),
    ):
        with pytest.raises(Invalid) as caught:
            bad.check(world.genesis)
        assert caught.value.reason == "bad-snapshot"
    offer.check(world.genesis)
    log.close()


@pytest.mark.parametrize("added", [False, True])
async def test_a_kill_before_the_rename_leaves_no_log(
    tmp_path: Path, runtime: SystemRuntime, added: bool
) -> None:
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    path = tmp_path / "joined"
    killed = Installer(path, world.genesis, offer)
    if added:
        killed.add(parts_of(log, offer)[0])
    killed.close()
    assert path.with_name(path.name + JOINING).exists()
    assert not path.exists()
    source = Source(log, offer, parts_of(log, offer))
    assert await join(path, world.genesis, source, runtime) == 8
    log.close()


async def test_another_root_is_noticed_whichever_comes_first(
    tmp_path: Path, runtime: SystemRuntime
) -> None:
    world = Scenario()
    log = opened(tmp_path / "log", world)
    log.append(chain(world, 9))
    lie = naming(world, make_block(world, []), bytes(32))
    log.append([lie])
    told: list[Corrupt] = []
    assert await SnapshotMaker(log, runtime, told.append).make()
    assert [error.reason for error in told] == ["bad-snapshot-root"]
    with pytest.raises(Corrupt):
        log.snapshots.check_named_root(lie.block.header)
    early = replace(lie.block.header, height=9)
    with pytest.raises(Corrupt):
        log.snapshots.check_named_root(early)
    assert log.offer() is None
    log.close()


async def test_parts_of_other_snapshots_are_swept(tmp_path: Path, runtime: SystemRuntime) -> None:
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    for height in (7, 9):
        log.snapshots.keep_part(height, 0, b"left over")
    log.snapshots.sweep_parts()
    for height in (7, 9):
        assert log._database.rows.row(part_row(height, 0)) is None
    assert parts_of(log, offer)
    log.close()


async def test_what_was_due_at_a_stop_is_made_at_the_start_or_left_out(
    tmp_path: Path, runtime: SystemRuntime
) -> None:
    world = Scenario()
    blocks = chain(world, 10)
    still, gone_on = opened(tmp_path / "still", world), opened(tmp_path / "gone", world)
    still.append(blocks[:8])
    gone_on.append(blocks[:9])
    still.close()
    gone_on.close()
    still, gone_on = opened(tmp_path / "still", world), opened(tmp_path / "gone", world)
    # The state of block 8 is still there, and gone.
    manifest = await made(still, runtime)
    assert manifest.height == 8
    assert not await SnapshotMaker(gone_on, runtime, _never).make()
    assert gone_on.snapshots.root_to_name(10) == b""
    # A writer that lacks it names none; a replica that lacks it takes what is named, and counts.
    world.header = blocks[8].block.header
    named = naming(world, blocks[9], manifest.root())
    for log, unchecked in ((still, 0), (gone_on, 1)):
        log.append(blocks[log.height : 9])
        log.snapshots.check_named_root(named.block.header)
        log.append([named])
        assert log.snapshots.roots_unchecked == unchecked
    assert still.offer() is not None
    assert gone_on.offer() is None
    still.close()
    gone_on.close()


class Told:
    """Nodes that answer with what a test says."""

    def __init__(self, answers: list[bytes], asked: list[Witness] | None = None) -> None:
        self.answers = answers
        self.asked = asked

    async def roots(self, height: int, witnesses: list[Witness]) -> list[bytes]:
        assert height == 8
        self.asked = witnesses
        return self.answers


@pytest.mark.parametrize(
    ("asked", "agree", "differ", "reason"),
    [
        (0, 0, 0, ""),
        (3, 0, 0, "snapshot-unconfirmed"),
        (3, 1, 0, ""),
        (3, 2, 1, ""),
        (3, 1, 1, "snapshot-disputed"),
        (3, 0, 1, "snapshot-disputed"),
    ],
)
def test_most_of_the_answers_decide(asked: int, agree: int, differ: int, reason: str) -> None:
    root, other = b"r" * 32, b"o" * 32
    answers = [root] * agree + [other] * differ
    if not reason:
        judge(root, asked, answers)
        return
    with pytest.raises(HcefsError) as caught:
        judge(root, asked, answers)
    assert caught.value.reason == reason


async def test_nodes_of_the_map_are_asked_before_the_log_is_put_in_place(
    tmp_path: Path, runtime: SystemRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Scenario()
    log, offer = await served(tmp_path, world, runtime)
    nodes = [Witness("a:1", b"a" * 32), Witness("b:1", b"b" * 32), Witness("c:1", b"c" * 32)]
    monkeypatch.setattr(Installer, "witnesses", lambda self, own: nodes)
    path = tmp_path / "joined"
    source = Source(log, offer, parts_of(log, offer))
    root, lie = offer.manifest.root(), bytes(32)
    for answers, reason in (
        ([lie, lie, root], "snapshot-disputed"),
        ([], "snapshot-unconfirmed"),
    ):
        with pytest.raises(HcefsError) as caught:
            await join(path, world.genesis, source, runtime, Told(answers))
        assert caught.value.reason == reason
        assert not path.exists()
        assert not path.with_name(path.name + JOINING).exists()
    told = Told([root, lie, root])
    assert await join(path, world.genesis, source, runtime, told) == 8
    assert told.asked == nodes
    log.close()


def test_version_2_names_no_snapshot() -> None:
    world = Scenario()
    block, _, _ = world.next_block([])
    header = replace(block.header, snapshot_root=bytes(32))
    with pytest.raises(Corrupt) as caught:
        replay(world.state, sign_block(header, (), world.writer), world.genesis, None)
    assert caught.value.reason == "bad-snapshot-root"


FROZEN_MANIFEST = (
    "8571736e617073686f742d6d616e69666573740119100017815820f70e526ec6961c54965f348391"
    "436021aa0ecbb7a682a338bb2cdb41003648d0"
)
FROZEN_ROOT = "15c1588787cac0715bfbe0e339923d00ee6d31ad344fd5e2e9197e9ff64be7d3"
