"""Copies are taken when all of it proves itself; the order on the disk is the holder's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from hcefs.access.facts import Action, Grant, PastKeys
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.crypto.signing import SigningKey
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, NotFound, Unauthenticated
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.formats.pack import PackLayout
from hcefs.ids import AccountId, BlobBase, BlobId, GrantId, RecordId
from hcefs.placement.ring import seats
from hcefs.store.interface import KeyTable, Stores, Table
from hcefs.stripes.adopt import Adoptable, Adopter
from hcefs.stripes.checks import check_box, check_layout, check_link
from hcefs.stripes.exports import has_shard
from hcefs.stripes.pending import PENDING_BLOB, PENDING_PACK
from hcefs.stripes.placed import record_key
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS, LocalCluster
from hcefs.transport.upkeep import BlobRows, PackRows, RecordRows
from hcefs.upkeep.collect import Collector
from tests.unit.stripes.moving import spare_node
from tests.unit.upkeep.giving import ClockRuntime, GivingCluster

INDEX = 1
GRANT = GrantId(b"some-live-grant!")


@pytest.fixture
def world() -> Iterator[GivingCluster]:
    runtime = ClockRuntime()
    yield GivingCluster(runtime)
    runtime.close()


class Spare:
    """The node that is no seat of a base, and takes its shards over."""

    def __init__(self, world: GivingCluster, base: BlobBase, profile: str = "ec-4-2") -> None:
        cluster = world.cluster
        self.account = spare_node(cluster.map, base, profile).account
        self.stores: Stores = cluster.stores[self.account]
        self.adopter: Adopter = world.adopter(self.account)
        self.pending = cluster.holders[self.account].pending
        held = seats(cluster.map, profile, base)
        self.giver = world.exporter(held[0].node.account)
        self._world = world
        self._seats = held
        self._profile = profile

    def collector(self) -> Collector:
        cluster = self._world.cluster
        return Collector(
            cluster.runtime, self.stores, cluster.ledger, cluster.metrics, self.pending
        )

    async def pieces(self, base: BlobBase, index: int) -> list[bytes]:
        seat = next(seat for seat in self._seats if seat.index == index)
        download = await self._world.exporter(seat.node.account).load_shard(
            base, index, 0, self._profile
        )
        try:
            return [bytes(each) async for each in download.messages()]
        finally:
            await download.cancel()

    async def take(self, wanted: Adoptable, index: int = INDEX) -> None:
        """Copy one shard as whoever fills a seat does; of one piece."""
        copy = await self.adopter.begin(wanted, index)
        try:
            await copy.write(await self.pieces(wanted.base, index))
            await copy.finish()
        finally:
            await copy.abort()

    def left(self) -> list[str]:
        """Everything that is kept, by kind."""
        found = [f"shard {index}" for _, index in self.stores.shards.inventory()]
        tables = (Table.CORES, Table.LAYOUTS, Table.OPENINGS, Table.PLACED)
        found += [t.name for t in tables for _ in self.stores.rows.scan(t)]
        # Openings of the record's listing wait, too.
        waiting = [key[8:9] for key, _ in self.stores.rows.scan(Table.PENDING)]
        found += ["PENDING" for kind in waiting if kind in (PENDING_BLOB, PENDING_PACK)]
        keys = (KeyTable.KEY_ROWS, KeyTable.PACK_ENVELOPES)
        return found + [t.name for t in keys for _ in self.stores.keys.scan(t)]


async def put(cluster: LocalCluster, *, commit: bool = True) -> BlobId:
    blob = BlobId.of(cluster.runtime.random(16))
    session = cluster.session(cluster.plan(blob))
    await session.write(b"a short blob")
    await session.finish(12, b"", b"", cluster.call("put", blob))
    if commit:
        cluster.commit(blob)
    return blob


async def blob_rows(world: GivingCluster, blob: BlobId) -> tuple[Spare, BlobRows]:
    at = Spare(world, blob.base)
    rows = await at.giver.load_rows(blob.base, "ec-4-2")
    assert isinstance(rows, BlobRows)
    return at, rows


async def test_good_rows_and_pieces_are_kept(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    assert (wanted.committed, wanted.commit_by_ms) == (True, 0)
    await at.take(wanted)
    assert has_shard(at.stores, blob.base, INDEX)
    assert sorted(at.left()) == sorted(
        ["shard 1", "CORES", "LAYOUTS", "OPENINGS", "PLACED", "KEY_ROWS"]
    )


# -- refusals


def changed(world: GivingCluster, rows: BlobRows) -> dict[str, BlobRows]:
    """Rows of which one is wrong."""
    cluster = world.cluster
    core, layout = Core.decode(rows.core), Layout.decode(rows.layout)
    key_row, opening = KeyRow.decode(rows.key_row), Opening.decode(rows.opening)
    key = next(k for k in cluster.keys if k.account == layout.node).signing_key
    other = BlobId.of(b"another-blob-id!")

    def signed(**changes: object) -> bytes:
        return replace(layout, **changes).signed(key).encode()  # type: ignore[arg-type]

    return {
        "another core": replace(rows, core=replace(core, plaintext_length=13).encode()),
        "core of another blob": replace(rows, core=replace(core, blob=other).encode()),
        "opening of another blob": replace(rows, opening=replace(opening, blob=other).encode()),
        "another opening": replace(rows, opening=replace(opening, salt=bytes(32)).encode()),
        "layout of another blob": replace(rows, layout=signed(base=other.base)),
        "layout of another record": replace(rows, layout=signed(record=RecordId(b"x" * 16))),
        "layout of another profile": replace(rows, layout=signed(profile="copy-3")),
        "other data shards": replace(rows, layout=signed(shard_digests=(bytes(32),) * 6)),
        "signed by a stranger": replace(
            rows,
            layout=replace(layout, node=cluster.patient.account)
            .signed(cluster.patient.signing_key)
            .encode(),
        ),
        "signed by another": replace(
            rows, layout=layout.signed(cluster.patient.signing_key).encode()
        ),
        "key row of another blob": replace(rows, key_row=replace(key_row, blob=other).encode()),
        "no rows at all": BlobRows(b"", b"", b"", b""),
        "cut off": replace(rows, core=rows.core[:-1]),
    }


WRONG = [
    "another core", "core of another blob", "opening of another blob", "another opening",
    "layout of another blob", "layout of another record", "layout of another profile",
    "other data shards", "signed by a stranger", "signed by another", "key row of another blob",
    "no rows at all", "cut off",
]  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
async def test_rows_that_do_not_prove_themselves_are_refused(
    world: GivingCluster, what: str
) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wrong = changed(world, rows)
    assert list(wrong) == WRONG
    if what == "another opening":
        # It is well-formed: only the ledger tells that it is none, when no append can come.
        world.cluster.ledger.time_ms += 2 * HOUR_MS
    with pytest.raises(HcefsError) as caught:
        at.adopter.check(blob.base, wrong[what])
    assert not caught.value.retryable
    assert at.adopter.check(blob.base, rows)


async def test_rows_of_another_base_are_refused(world: GivingCluster) -> None:
    first, second = await put(world.cluster), await put(world.cluster)
    at, rows = await blob_rows(world, first)
    with pytest.raises(Corrupt) as caught:
        at.adopter.check(second.base, rows)
    assert caught.value.reason == "rows-disagree"


async def test_what_can_no_longer_be_committed_is_refused(world: GivingCluster) -> None:
    blob = await put(world.cluster, commit=False)
    at, rows = await blob_rows(world, blob)
    assert not at.adopter.check(blob.base, rows).committed
    world.cluster.ledger.time_ms = NOW_MS + HOUR_MS
    with pytest.raises(NotFound) as caught:
        at.adopter.check(blob.base, rows)
    assert caught.value.reason == "not-committed"
    world.cluster.commit(blob)
    assert at.adopter.check(blob.base, rows).committed


async def test_what_would_wait_for_ever_is_refused(world: GivingCluster) -> None:
    """A giver makes up a blob that no collector would ever come to."""
    cluster = world.cluster
    blob = await put(cluster, commit=False)
    at, rows = await blob_rows(world, blob)
    core = replace(Core.decode(rows.core), commit_by_ms=NOW_MS + 1000 * 24 * HOUR_MS)
    opening = replace(Opening.decode(rows.opening), core_digest=core.digest())
    made_up = replace(rows, core=core.encode(), opening=opening.encode())
    with pytest.raises(HcefsError) as caught:
        at.adopter.check(blob.base, made_up)
    assert caught.value.reason == "bad-commit-by"


async def test_other_pieces_are_refused_and_leave_nothing(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    copy = await at.adopter.begin(wanted, INDEX)
    await copy.write(await at.pieces(blob.base, 0))
    with pytest.raises(Corrupt) as caught:
        await copy.finish()
    await copy.abort()
    assert caught.value.reason == "wrong-digest"
    assert at.left() == []


async def test_other_rows_are_not_overwritten_and_no_file_is_left(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    at.stores.rows.put([(Table.CORES, bytes(blob.base), b"another core")])
    with pytest.raises(Conflict):
        await at.take(wanted)
    assert at.stores.rows.get(Table.CORES, bytes(blob.base)) == b"another core"
    assert at.left() == ["CORES"]


async def test_another_key_row_is_not_overwritten(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    at.stores.keys.put_new(KeyTable.KEY_ROWS, bytes(blob), b"another key")
    with pytest.raises(Conflict):
        await at.take(wanted)
    assert at.left() == ["KEY_ROWS"]


async def test_a_shard_that_is_there_is_not_begun_again(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    await at.take(wanted)
    with pytest.raises(Conflict):
        await at.adopter.begin(wanted, INDEX)
    await at.take(wanted, INDEX + 1)  # another one of the same base: the same rows
    assert has_shard(at.stores, blob.base, INDEX + 1)


async def test_a_shredded_key_stays_shredded(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    await at.take(at.adopter.check(blob.base, replace(rows, key_row=b"")))
    assert at.stores.keys.scan(KeyTable.KEY_ROWS) == []


# -- what waits, and what a stop leaves


async def test_a_pending_copy_is_collected_when_the_append_never_comes(
    world: GivingCluster,
) -> None:
    blob = await put(world.cluster, commit=False)
    at, rows = await blob_rows(world, blob)
    await at.take(at.adopter.check(blob.base, rows))
    assert "PENDING" in at.left()
    await at.collector().work()
    assert has_shard(at.stores, blob.base, INDEX)
    world.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await at.collector().work()
    assert at.left() == []


async def test_a_pending_copy_stays_when_the_append_comes(world: GivingCluster) -> None:
    blob = await put(world.cluster, commit=False)
    at, rows = await blob_rows(world, blob)
    await at.take(at.adopter.check(blob.base, rows))
    world.cluster.commit(blob)
    world.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await at.collector().work()
    assert has_shard(at.stores, blob.base, INDEX)
    assert "PENDING" not in at.left()
    assert "KEY_ROWS" in at.left()


async def test_a_pending_copy_that_a_stop_left_without_rows_is_collected(
    world: GivingCluster,
) -> None:
    """The file has its name, and the node was killed."""
    blob = await put(world.cluster, commit=False)
    at, rows = await blob_rows(world, blob)
    await stopped(at, at.adopter.check(blob.base, rows))
    assert sorted(at.left()) == ["PENDING", "shard 1"]
    world.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await at.collector().work()
    assert at.left() == []


class Killed(BaseException):
    """The process ends here."""


async def stopped(at: Spare, wanted: Adoptable) -> None:
    """Copy a shard, and stop between its file and its rows."""

    def killed(*_: object) -> None:
        raise Killed

    keep = at.adopter._keep
    at.adopter._keep = killed  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        await at.take(wanted)
    at.adopter._keep = keep  # type: ignore[method-assign]


async def test_a_stop_before_the_rows_is_finished_by_a_repeat(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    await stopped(at, wanted)
    assert at.left() == ["shard 1"]
    assert not await at.adopter.has(blob.base, INDEX, "ec-4-2")
    with pytest.raises(Conflict):
        await at.adopter.begin(wanted, INDEX)
    await at.adopter.publish_again(wanted, INDEX)
    assert await at.adopter.has(blob.base, INDEX, "ec-4-2")
    assert at.stores.keys.get(KeyTable.KEY_ROWS, bytes(blob)) == rows.key_row


async def test_a_repeat_takes_no_other_file_for_its_own(world: GivingCluster) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    await stopped(at, wanted)
    other = replace(wanted, shard_digests=(bytes(32),) * 6)
    assert not await at.adopter.publish_again(other, INDEX)
    assert at.left() == [], "its place is free"
    assert [each.base for each in at.stores.shards.quarantined()] == [blob.base]


async def test_a_repeat_sets_nothing_aside_that_rows_here_vouch_for(
    world: GivingCluster,
) -> None:
    blob = await put(world.cluster)
    at, rows = await blob_rows(world, blob)
    wanted = at.adopter.check(blob.base, rows)
    await stopped(at, wanted)
    assert await at.adopter.publish_again(wanted, INDEX)
    other = replace(wanted, shard_digests=(bytes(32),) * 6)
    with pytest.raises(Corrupt) as caught:
        await at.adopter.publish_again(other, INDEX)
    assert caught.value.reason == "wrong-digest"
    assert await at.adopter.has(blob.base, INDEX, "ec-4-2")


# -- packs


async def pack_rows(
    world: GivingCluster, profile: str, *, commit: bool = True
) -> tuple[Spare, BlobBase, PackRows]:
    pack = world.packs.seal([b"one payload", b"another", b"a third one"])
    await world.packs.put(pack, profile, commit=commit)
    at = Spare(world, pack.base, profile)
    rows = await at.giver.load_rows(pack.base, profile)
    assert isinstance(rows, PackRows)
    return at, pack.base, rows


def with_group(rows: PackRows, **changes: object) -> PackRows:
    (group,) = rows.groups
    return replace(rows, groups=(replace(group, **changes),))  # type: ignore[arg-type]


PACKS: dict[str, Callable[[PackRows], PackRows]] = {
    "damaged core": lambda rows: with_group(
        rows, cores=(rows.groups[0].cores[0][:-1] + b"\x00", *rows.groups[0].cores[1:])
    ),
    "cores in another order": lambda rows: with_group(
        rows, cores=tuple(reversed(rows.groups[0].cores))
    ),
    "a core too few": lambda rows: with_group(rows, cores=rows.groups[0].cores[:-1]),
    "a key too few": lambda rows: with_group(rows, wrapped_keys=rows.groups[0].wrapped_keys[:-40]),
    "tampered opening": lambda rows: with_group(
        rows, opening=rows.groups[0].opening[:-1] + bytes([rows.groups[0].opening[-1] ^ 1])
    ),
    "another record": lambda rows: with_group(rows, record=RecordId(b"another-record!!")),
    "no group": lambda rows: replace(rows, groups=()),
    "twice the group": lambda rows: replace(rows, groups=rows.groups * 2),
    "another layout": lambda rows: replace(
        rows, layout=replace(PackLayout.decode(rows.layout), version=2).encode()
    ),
}


@pytest.mark.parametrize("what", PACKS)
@pytest.mark.parametrize("profile", ["ec-4-2", "copy-3"])
async def test_rows_of_packs_that_do_not_prove_themselves(
    world: GivingCluster, what: str, profile: str
) -> None:
    at, base, rows = await pack_rows(world, profile)
    with pytest.raises(HcefsError) as caught:
        at.adopter.check(base, PACKS[what](rows))
    assert not caught.value.retryable
    assert at.adopter.check(base, rows).committed


@pytest.mark.parametrize("profile", ["ec-4-2", "copy-3"])
async def test_a_pack_is_kept_whole(world: GivingCluster, profile: str) -> None:
    at, base, rows = await pack_rows(world, profile)
    await at.take(at.adopter.check(base, rows))
    again = await world.exporter(at.account).load_rows(base, profile)
    assert isinstance(again, PackRows)
    assert replace(again, commit_by_ms=0) == replace(rows, commit_by_ms=0)
    assert has_shard(at.stores, base, INDEX)


async def test_shredded_payloads_of_a_pack_stay_shredded(world: GivingCluster) -> None:
    """Of one payload the key was deleted, of another pack everything that opens it."""
    at, base, rows = await pack_rows(world, "copy-3")
    wrapped = rows.groups[0].wrapped_keys
    await at.take(at.adopter.check(base, with_group(rows, wrapped_keys=bytes(40) + wrapped[40:])))
    kept = dict(at.stores.keys.scan(KeyTable.KEY_ROWS))
    assert sorted(kept.values()) == sorted([wrapped[40:80], wrapped[80:]])
    other, base, rows = await pack_rows(world, "copy-3")
    shredded = with_group(rows, wrapped_keys=bytes(120), envelope=b"")
    await other.take(other.adopter.check(base, shredded))
    assert not other.stores.keys.scan(KeyTable.PACK_ENVELOPES, bytes(base))
    assert not other.stores.keys.scan(KeyTable.KEY_ROWS, bytes(base))


async def test_a_pending_pack_is_collected_or_settled(world: GivingCluster) -> None:
    at, base, rows = await pack_rows(world, "copy-3", commit=False)
    assert rows.commit_by_ms == NOW_MS + HOUR_MS
    wanted = at.adopter.check(base, rows)
    await at.take(wanted)
    assert "PENDING" in at.left()
    with pytest.raises(HcefsError):
        at.adopter.check(base, replace(rows, commit_by_ms=NOW_MS))
    with pytest.raises(HcefsError):
        at.adopter.check(base, replace(rows, commit_by_ms=NOW_MS + 10_000 * HOUR_MS))
    world.cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    await at.collector().work()
    assert at.left() == []


# -- records


def grant(cluster: LocalCluster, **changes: object) -> Grant:
    live = Grant(
        GRANT, cluster.record, None, 0, 0, cluster.patient.account, cluster.writer.account,
        Action.READ, ("TREAT",), 0, NOW_MS + HOUR_MS, None, 1, 0,
    )  # fmt: skip
    return replace(live, **changes)  # type: ignore[arg-type]


def box(cluster: LocalCluster, **changes: object) -> bytes:
    honest = KeyBox(
        cluster.record, 0, None, GRANT, cluster.writer.account, 1, cluster.patient.account, 1,
        Envelope(SUITE_XWING, b"sealed"), b"",
    )  # fmt: skip
    value = replace(honest, **changes)  # type: ignore[arg-type]
    return value.signed(cluster.patient.signing_key).encode()


def taker(world: GivingCluster) -> tuple[Adopter, Stores]:
    account: AccountId = world.cluster.keys[0].account
    return world.adopter(account), world.cluster.stores[account]


async def test_a_box_of_a_live_grant_is_kept(world: GivingCluster) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    cluster.ledger.grants[GRANT] = grant(cluster)
    rows = RecordRows((), (box(cluster),), ())
    assert await adopter.keep_record(cluster.record, rows) == 0
    assert [value for _, value in stores.keys.scan(KeyTable.BOXES)] == [box(cluster)]
    assert stores.rows.get(Table.RECORDS, record_key(cluster.record)) is not None
    assert await adopter.keep_record(cluster.record, rows) == 0


@pytest.mark.parametrize(
    "changes",
    [{"revoked_height": 5}, {"not_after_ms": NOW_MS}, None],
    ids=["revoked", "expired", "unknown"],
)
async def test_boxes_of_dead_grants_do_not_come_back(
    world: GivingCluster, changes: dict[str, object] | None
) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    if changes is not None:
        cluster.ledger.grants[GRANT] = grant(cluster, **changes)
    rows = RecordRows((), (box(cluster),), ())
    assert await adopter.keep_record(cluster.record, rows) == 0, "dead, but nobody's fault"
    assert stores.keys.scan(KeyTable.BOXES) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"record": RecordId(b"another-record!!")},
        {"grantee": AccountId(bytes(16))},
        {"blob": BlobId.of(b"another-blob-id!")},
        {"granter_key_version": 2},
        {"signature": bytes(64)},
    ],
    ids=["record", "grantee", "blob", "key version", "signature"],
)
async def test_boxes_that_do_not_fit_their_grant_are_refused(
    world: GivingCluster, changes: dict[str, object]
) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    cluster.ledger.grants[GRANT] = grant(cluster)
    wrong = box(cluster, **changes)
    if "signature" in changes:
        wrong = KeyBox.decode(box(cluster)).signed(cluster.writer.signing_key).encode()
    good = RecordRows((), (wrong, b"no box", box(cluster)), ())
    assert await adopter.keep_record(cluster.record, good) == 2
    assert len(stores.keys.scan(KeyTable.BOXES)) == 1, "one bad row stops no other"


async def test_links_are_the_owners(world: GivingCluster) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    link = KeyLink(
        cluster.record, 0, cluster.patient.account, 1, Envelope(SUITE_XWING, b"sealed"), b""
    )
    mine = link.signed(cluster.patient.signing_key).encode()
    foreign = replace(link, owner=cluster.writer.account).signed(cluster.writer.signing_key)
    forged = link.signed(cluster.writer.signing_key)
    later = replace(link, generation=7).signed(cluster.patient.signing_key)
    elsewhere = replace(link, record=RecordId(b"y" * 16)).signed(cluster.patient.signing_key)
    wrong = [each.encode() for each in (foreign, forged, later, elsewhere)]
    assert await adopter.keep_record(cluster.record, RecordRows((), (), (*wrong, mine))) == 4
    assert [value for _, value in stores.keys.scan(KeyTable.LINKS)] == [mine]


def changed_keys(cluster: LocalCluster, account: AccountId) -> SigningKey:
    """The account has other keys from now on; returns its old signing key's successor."""
    fact = cluster.ledger.accounts[account]
    cluster.ledger.past[account, 1] = PastKeys(
        account, 1, fact.signing_key, fact.token_key, fact.receiving_key, 2, NOW_MS
    )
    new = SigningKey.from_seed(b"n" * 32)
    cluster.ledger.accounts[account] = replace(fact, key_version=2, signing_key=new.public_key)
    return new


async def test_what_old_keys_signed_is_kept_and_they_take_no_other_version(
    world: GivingCluster,
) -> None:
    """Copies move between nodes long after the account that signed them changed its keys."""
    cluster, (adopter, stores) = world.cluster, taker(world)
    cluster.ledger.grants[GRANT] = grant(cluster)
    owner = cluster.patient.account
    link = KeyLink(cluster.record, 0, owner, 1, Envelope(SUITE_XWING, b"sealed"), b"")
    old_box, old_link = box(cluster), link.signed(cluster.patient.signing_key)
    new = changed_keys(cluster, owner)
    posing_box = box(cluster, granter_key_version=2)
    unknown_box = box(cluster, granter_key_version=3)
    posing = replace(link, owner_key_version=2).signed(cluster.patient.signing_key).encode()
    wrong = RecordRows((), (posing_box, unknown_box), (posing,))
    assert await adopter.keep_record(cluster.record, wrong) == 3
    rows = RecordRows((), (old_box,), (old_link.encode(),))
    assert await adopter.keep_record(cluster.record, rows) == 0
    assert [value for _, value in stores.keys.scan(KeyTable.BOXES)] == [old_box]
    assert [value for _, value in stores.keys.scan(KeyTable.LINKS)] == [old_link.encode()]
    # What is uploaded by its maker is new, and asks for the current key.
    call = replace(cluster.call("put-box", None), presenter=owner, grant=GRANT)
    with pytest.raises(Denied) as refused:
        check_box(cluster.ledger, call, KeyBox.decode(old_box))
    assert refused.value.reason == "old-key"
    with pytest.raises(Denied) as refused:
        check_link(cluster.ledger, call, old_link)
    assert refused.value.reason == "old-key"
    check_link(cluster.ledger, call, replace(link, owner_key_version=2).signed(new))


async def test_layouts_that_old_keys_signed_stay_good(world: GivingCluster) -> None:
    cluster = world.cluster
    node = cluster.keys[0]
    layout = Layout(
        BlobBase(b"0123456789abcdef"), cluster.record, "ec-4-2", (b"d" * 32,) * 6, 0, 0, 1,
        node.account, 1, NOW_MS, b"",
    )  # fmt: skip
    layout = layout.signed(node.signing_key)
    check_layout(cluster.ledger, layout, cluster.writer.account)
    new = changed_keys(cluster, node.account)
    check_layout(cluster.ledger, layout, cluster.writer.account)
    check_layout(cluster.ledger, replace(layout, key_version=2).signed(new), cluster.writer.account)
    posing = replace(layout, key_version=2).signed(node.signing_key)
    with pytest.raises(Unauthenticated):
        check_layout(cluster.ledger, posing, cluster.writer.account)
    with pytest.raises(Denied):
        check_layout(
            cluster.ledger, replace(layout, key_version=3).signed(new), cluster.writer.account
        )


def opening_of(cluster: LocalCluster, salt: bytes = bytes(32)) -> Opening:
    return Opening(salt, cluster.record, BlobId.of(b"0123456789abcdef"), b"d" * 32, b"")


async def test_committed_openings_are_kept_and_never_replaced(world: GivingCluster) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    opening, other = opening_of(cluster), opening_of(cluster, b"s" * 32)
    for each in (opening, other):
        cluster.ledger.commit(each)
    rows = RecordRows(((opening.encode(), 0), (other.encode(), 0)), (), ())
    assert await adopter.keep_record(cluster.record, rows) == 1
    assert [value for _, value in stores.rows.scan(Table.INDEX)] == [opening.encode()]
    assert stores.rows.scan(Table.PENDING) == []


@pytest.mark.parametrize(
    ("until", "kept", "refused"),
    [(NOW_MS + HOUR_MS, 1, 0), (NOW_MS, 0, 0), (0, 0, 0), (NOW_MS + 10_000 * HOUR_MS, 0, 1)],
    ids=["waits", "too late", "settled", "for ever"],
)
async def test_openings_that_are_not_committed(
    world: GivingCluster, until: int, kept: int, refused: int
) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    rows = RecordRows(((opening_of(cluster).encode(), until),), (), ())
    assert await adopter.keep_record(cluster.record, rows) == refused
    assert len(stores.rows.scan(Table.INDEX)) == kept
    assert len(stores.rows.scan(Table.PENDING)) == kept
    cluster.ledger.time_ms = NOW_MS + HOUR_MS + 1
    account = cluster.keys[0].account
    pending = cluster.holders[account].pending
    await Collector(cluster.runtime, stores, cluster.ledger, cluster.metrics, pending).work()
    assert stores.rows.scan(Table.INDEX) == []
    assert stores.rows.scan(Table.PENDING) == []


async def test_openings_of_other_records_are_refused(world: GivingCluster) -> None:
    cluster, (adopter, stores) = world.cluster, taker(world)
    foreign = replace(opening_of(cluster), record=RecordId(b"another-record!!"))
    cluster.ledger.commit(foreign)
    rows = RecordRows(((foreign.encode(), 0), (b"nothing", 0)), (), ())
    assert await adopter.keep_record(cluster.record, rows) == 2
    assert stores.rows.scan(Table.INDEX) == []
