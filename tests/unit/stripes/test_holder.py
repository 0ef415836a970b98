"""A holder keeps only what agrees with itself, its signatures and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hcefs.access.facts import Action, Grant
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.erasure.scheme import SEGMENT_SIZE, profile_named
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound
from hcefs.formats.keybox import KeyBox, KeyLink
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.ids import AccountId, BlobId, GrantId, RecordId
from hcefs.integrity import blake3_digest, shard_digest
from hcefs.runtime import SystemRuntime
from hcefs.store.interface import KeyTable, Table
from hcefs.testing.local_cluster import HOUR_MS, NOW_MS, LocalCluster
from hcefs.transport.peers import ShardRows, ShardStart

PIECE = bytes(range(64))
DIGESTS = tuple(shard_digest([blake3_digest(PIECE)]) for _ in range(6))
BLOB = BlobId.of(b"0123456789abcdef")
GRANT = GrantId(b"some-live-grant!")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    runtime = SystemRuntime()
    yield LocalCluster(runtime)
    runtime.close()


def core(cluster: LocalCluster) -> Core:
    return Core(
        BLOB, cluster.record, 0, 100, SEGMENT_SIZE, bytes(32), cluster.writer.account,
        NOW_MS + HOUR_MS, 4, DIGESTS[:4], b"",
    )  # fmt: skip


def layout(cluster: LocalCluster) -> Layout:
    return Layout(
        BLOB.base, cluster.record, "ec-4-2", DIGESTS, 0, 0, 1, cluster.keys[0].account, 1,
        NOW_MS, b"",
    )  # fmt: skip


def key_row(cluster: LocalCluster) -> KeyRow:
    return KeyRow(BLOB, cluster.record, 0, Envelope(SUITE_XWING, b"sealed"))


def opening(cluster: LocalCluster, of: Core) -> Opening:
    return Opening(bytes(32), cluster.record, BLOB, of.digest(), b"")


def rows(
    cluster: LocalCluster,
    *,
    of_core: Core | None = None,
    of_layout: Layout | None = None,
    of_key_row: KeyRow | None = None,
    of_opening: Opening | None = None,
    signer: int = 0,
    digests: bytes = blake3_digest(PIECE),
) -> ShardRows:
    of_core = of_core or core(cluster)
    signed = (of_layout or layout(cluster)).signed(cluster.keys[signer].signing_key)
    return ShardRows(
        of_core.encode(),
        signed.encode(),
        (of_key_row or key_row(cluster)).encode(),
        (of_opening or opening(cluster, of_core)).encode(),
        digests,
    )


async def store(cluster: LocalCluster, sent: ShardRows, pieces: list[bytes] | None = None) -> None:
    holder = cluster.holders[cluster.keys[0].account]
    upload = await holder.store(ShardStart(cluster.call("put", BLOB), 0, "ec-4-2", SEGMENT_SIZE))
    try:
        await upload.send(pieces if pieces is not None else [PIECE])
        await upload.finish(sent)
    finally:
        await upload.cancel()


async def test_a_good_shard_is_kept(cluster: LocalCluster) -> None:
    await store(cluster, rows(cluster))
    stores = cluster.stores[cluster.keys[0].account]
    assert list(stores.shards.inventory()) == [(BLOB.base, 0)]
    assert stores.rows.get(Table.CORES, bytes(BLOB.base)) == core(cluster).encode()
    assert stores.keys.get(KeyTable.KEY_ROWS, bytes(BLOB)) == key_row(cluster).encode()


def broken(cluster: LocalCluster) -> dict[str, tuple[ShardRows, list[bytes] | None]]:
    good, plan = core(cluster), layout(cluster)
    other = BlobId.of(b"another-blob-id!")
    return {
        "rows-disagree other blob": (
            rows(cluster, of_core=replace(good, blob=other)),
            None,
        ),
        "rows-disagree other record": (
            rows(cluster, of_layout=replace(plan, record=RecordId(b"x" * 16))),
            None,
        ),
        "rows-disagree other core in the opening": (
            rows(cluster, of_opening=opening(cluster, replace(good, plaintext_length=1))),
            None,
        ),
        "rows-disagree other generation": (
            rows(cluster, of_key_row=replace(key_row(cluster), generation=1)),
            None,
        ),
        "rows-disagree other data digests": (
            rows(cluster, of_core=replace(good, data_digests=(bytes(32),) * 4)),
            None,
        ),
        "bad-core too few digests": (
            rows(cluster, of_core=replace(good, data_digests=DIGESTS[:3])),
            None,
        ),
        "wrong-writer someone else": (
            rows(cluster, of_core=replace(good, writer=cluster.patient.account)),
            None,
        ),
        "bad-commit-by in the past": (
            rows(cluster, of_core=replace(good, commit_by_ms=NOW_MS)),
            None,
        ),
        "bad-commit-by far away": (
            rows(cluster, of_core=replace(good, commit_by_ms=NOW_MS + 1000 * HOUR_MS)),
            None,
        ),
        "bad-signature of another node": (rows(cluster, signer=1), None),
        "unknown-node": (
            rows(cluster, of_layout=replace(plan, node=AccountId(b"nobody----------"))),
            None,
        ),
        "unsupported packed": (rows(cluster, of_layout=replace(plan, pack_length=9)), None),
        "wrong-digest": (rows(cluster, digests=bytes(32)), None),
        "wrong-length extended": (rows(cluster), [PIECE, PIECE]),
        "wrong-length truncated": (rows(cluster), [PIECE[:-1]]),
        "wrong-length digests": (rows(cluster, digests=blake3_digest(PIECE) * 2), None),
        "malformed-encoding": (replace(rows(cluster), core=b"\xff\x00"), None),
    }


@pytest.mark.parametrize("case", range(17))
async def test_what_does_not_agree_leaves_nothing(cluster: LocalCluster, case: int) -> None:
    name, (sent, pieces) = list(broken(cluster).items())[case]
    with pytest.raises(HcefsError) as caught:
        await store(cluster, sent, pieces)
    assert caught.value.reason == name.split()[0]
    stores = cluster.stores[cluster.keys[0].account]
    assert list(stores.shards.inventory()) == []
    assert stores.rows.scan(Table.CORES) == []
    assert stores.keys.scan(KeyTable.KEY_ROWS) == []


def test_every_broken_case_runs(cluster: LocalCluster) -> None:
    assert len(broken(cluster)) == 17


async def test_the_same_shard_again_is_a_conflict_and_changes_nothing(
    cluster: LocalCluster,
) -> None:
    await store(cluster, rows(cluster))
    with pytest.raises(Conflict) as caught:
        await store(cluster, rows(cluster))
    assert caught.value.reason == "shard-exists"


async def test_pieces_outside_the_proven_range_are_refused(cluster: LocalCluster) -> None:
    blob = BlobId.of(b"a-long-blob-here")
    plan = cluster.plan(blob)
    session = cluster.session(plan)
    await session.write(bytes(3 * SEGMENT_SIZE))
    done = await session.finish(3 * SEGMENT_SIZE, b"", b"", plan.call)
    cluster.ledger.commit(Opening(plan.salt, plan.record, blob, done.core.digest(), b""))
    seat = cluster.seats(blob.base)[0]
    holder = cluster.holders[seat.node.account]
    call = cluster.call("get", blob, start=SEGMENT_SIZE, length=10)
    download = await holder.load(call, seat.index, 1, 1)
    await download.cancel()
    for first, count in ((0, 1), (1, 2), (2, 1), (1, 0)):
        with pytest.raises(Denied) as caught:
            await holder.load(call, seat.index, first, count)
        assert caught.value.reason == "wrong-range"


async def test_a_record_that_is_not_the_blobs_learns_nothing(cluster: LocalCluster) -> None:
    await store(cluster, rows(cluster))
    cluster.ledger.commit(opening(cluster, core(cluster)))
    holder = cluster.holders[cluster.keys[0].account]
    call = replace(cluster.call("stat", BLOB), record=RecordId(b"another-record!!"))
    with pytest.raises(NotFound) as caught:
        await holder.load_manifest(call)
    assert caught.value.reason == "unknown-blob"


async def test_damage_in_a_footer_is_corrupt(cluster: LocalCluster) -> None:
    await store(cluster, rows(cluster))
    cluster.ledger.commit(opening(cluster, core(cluster)))
    account = cluster.keys[0].account
    shards = cluster.stores[account].shards
    damaged = bytearray(shards._shards[BLOB.base, 0])  # type: ignore[attr-defined]
    damaged[-40] ^= 1
    shards._shards[BLOB.base, 0] = bytes(damaged)  # type: ignore[attr-defined]
    with pytest.raises(Corrupt):
        await cluster.holders[account].load(cluster.call("get", BLOB), 0, 0, 1)


# -- boxes and links


def live_grant(cluster: LocalCluster) -> None:
    cluster.ledger.grants[GRANT] = Grant(
        GRANT, cluster.record, None, 0, 0, cluster.patient.account, cluster.writer.account,
        Action.READ, ("TREAT",), 0, NOW_MS + HOUR_MS, None, 1, 0,
    )  # fmt: skip


def box(cluster: LocalCluster) -> KeyBox:
    return KeyBox(
        cluster.record, 0, None, GRANT, cluster.writer.account, 1, cluster.patient.account, 1,
        Envelope(SUITE_XWING, b"sealed"), b"",
    )  # fmt: skip


async def keep_box(cluster: LocalCluster, value: KeyBox) -> None:
    call = replace(cluster.call("put-box", None), presenter=cluster.patient.account, grant=GRANT)
    signed = value.signed(cluster.patient.signing_key)
    await cluster.holders[cluster.keys[0].account].store_box(call, signed.encode(), b"")


async def test_boxes_are_kept_by_grant_and_write_once(cluster: LocalCluster) -> None:
    live_grant(cluster)
    await keep_box(cluster, box(cluster))
    await keep_box(cluster, box(cluster))
    call = replace(cluster.call("boxes", None), grant=GRANT)
    holder = cluster.holders[cluster.keys[0].account]
    boxes, links = await holder.load_boxes(call)
    assert [KeyBox.decode(value).grant for value in boxes] == [GRANT]
    assert links == []
    with pytest.raises(Conflict):
        await keep_box(cluster, replace(box(cluster), envelope=Envelope(1, b"other")))
    other = replace(call, grant=GrantId(b"another-grant---"))
    assert await holder.load_boxes(other) == ([], [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"grant": GrantId(b"an-unknown-grant")}, "grant-not-live"),
        ({"grantee": AccountId(b"someone-else----")}, "box-disagrees"),
        ({"blob": BLOB}, "box-disagrees"),
        ({"generation": 2}, "unknown-generation"),
        ({"granter_key_version": 2}, "old-key"),
    ],
)
async def test_a_box_that_does_not_fit_is_refused(
    cluster: LocalCluster, changes: dict[str, object], reason: str
) -> None:
    live_grant(cluster)
    with pytest.raises(HcefsError) as caught:
        await keep_box(cluster, replace(box(cluster), **changes))  # type: ignore[arg-type]
    assert caught.value.reason == reason


async def test_no_box_for_a_revoked_grant(cluster: LocalCluster) -> None:
    live_grant(cluster)
    cluster.ledger.grants[GRANT] = replace(cluster.ledger.grants[GRANT], revoked_height=3)
    with pytest.raises(Denied) as caught:
        await keep_box(cluster, box(cluster))
    assert caught.value.reason == "grant-not-live"


async def test_links_are_the_owners(cluster: LocalCluster) -> None:
    holder = cluster.holders[cluster.keys[0].account]
    link = KeyLink(
        cluster.record, 0, cluster.patient.account, 1, Envelope(SUITE_XWING, b"link"), b""
    )
    call = replace(cluster.call("put-box", None), presenter=cluster.patient.account)
    signed = link.signed(cluster.patient.signing_key).encode()
    await holder.store_box(call, b"", signed)
    _, links = await holder.load_boxes(replace(call, grant=GRANT))
    assert links == [signed]
    forged = link.signed(cluster.writer.signing_key).encode()
    with pytest.raises(HcefsError) as caught:
        await holder.store_box(call, b"", forged)
    assert caught.value.reason == "bad-signature"
    with pytest.raises(Denied):
        await holder.store_box(cluster.call("put-box", None), b"", signed)
    future = replace(link, generation=1).signed(cluster.patient.signing_key).encode()
    with pytest.raises(Conflict):
        await holder.store_box(call, b"", future)


async def test_an_index_outside_the_profile_is_refused(cluster: LocalCluster) -> None:
    holder = cluster.holders[cluster.keys[0].account]
    for index in (-1, profile_named("ec-4-2").n):
        start = ShardStart(cluster.call("put", BLOB), index, "ec-4-2", SEGMENT_SIZE)
        with pytest.raises(Invalid):
            await holder.store(start)
