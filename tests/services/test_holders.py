"""Holders trust no gateway: wrong digests, rows that disagree, wrong seats, wrong epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from hcefs.crypto.signing import SigningKey
from hcefs.errors import HcefsError, Invalid
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.ids import BlobId, RecordId
from hcefs.integrity import crc32c
from hcefs.ledger import follower
from hcefs.placement.cluster_map import Node
from hcefs.transport.framing import Frame, frame_data
from hcefs.transport.peers import Peer, Piece, ShardRows, ShardStart, ShardUpload
from hcefs.wire.v1 import shard_pb2
from tests.services.requests import (
    DATA,
    SHARDS,
    call_context,
    manifest_from,
    put,
    put_messages,
)
from tests.services.rig import HOUR_MS, LEASE_MS, MARK, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

Rows = Callable[[ShardRows], ShardRows]
Pieces = Callable[[Sequence[Piece]], Sequence[Piece]]


class Liar:
    """A gateway's way to one holder, on which rows or pieces are changed; notes the answers."""

    def __init__(self, peer: Peer, rows: Rows, pieces: Pieces, errors: list[HcefsError]) -> None:
        self._peer = peer
        self._rows = rows
        self._pieces = pieces
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)

    async def store(self, start: ShardStart) -> ShardUpload:
        return _LiarsUpload(await self._peer.store(start), self)

    async def store_whole(
        self, start: ShardStart, pieces: Sequence[Piece], rows: ShardRows
    ) -> bool:
        changed = self._pieces(pieces), self._rows(rows)
        return bool(await self.note(self._peer.store_whole(start, *changed)))

    async def note(self, step: Any) -> Any:
        try:
            return await step
        except HcefsError as error:
            self._errors.append(error)
            raise


class _LiarsUpload:
    def __init__(self, upload: ShardUpload, liar: Liar) -> None:
        self._upload = upload
        self._liar = liar

    async def send(self, pieces: Sequence[Piece]) -> None:
        await self._liar.note(self._upload.send(self._liar._pieces(pieces)))

    async def send_frame(self, frame: Frame) -> None:
        await self.send((frame.data,))

    async def finish(self, rows: ShardRows) -> bool:
        return bool(await self._liar.note(self._upload.finish(self._liar._rows(rows))))

    async def cancel(self) -> None:
        await self._upload.cancel()


@contextmanager
def lying(
    rig: Rig,
    gateway: Running,
    targets: Sequence[Running],
    *,
    rows: Rows = lambda rows: rows,
    pieces: Pieces = lambda pieces: pieces,
) -> Iterator[list[HcefsError]]:
    """Let a node's real peers lie to some holders; yields what those answered."""
    errors: list[HcefsError] = []
    honest = gateway.process.peers.peer
    accounts = {target.account for target in targets}

    def peer(node: Node) -> Peer:
        way = honest(node)
        return Liar(way, rows, pieces, errors) if node.account in accounts else way

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway.process.peers, "peer", peer)
        yield errors


def _core(change: dict[str, Any]) -> Rows:
    def rows(rows: ShardRows) -> ShardRows:
        core = dataclasses.replace(Core.decode(rows.core), **change)
        return dataclasses.replace(rows, core=core.encode())

    return rows


def _layout(change: dict[str, Any], key: SigningKey | None = None) -> Rows:
    def rows(rows: ShardRows) -> ShardRows:
        layout = dataclasses.replace(Layout.decode(rows.layout), **change)
        if key is not None:
            layout = layout.signed(key)
        return dataclasses.replace(rows, layout=layout.encode())

    return rows


def _opening(change: dict[str, Any]) -> Rows:
    def rows(rows: ShardRows) -> ShardRows:
        opening = dataclasses.replace(Opening.decode(rows.opening), **change)
        return dataclasses.replace(rows, opening=opening.encode())

    return rows


def _key_row(change: dict[str, Any]) -> Rows:
    def rows(rows: ShardRows) -> ShardRows:
        key_row = dataclasses.replace(KeyRow.decode(rows.key_row), **change)
        return dataclasses.replace(rows, key_row=key_row.encode())

    return rows


def _replaced(**fields: bytes) -> Rows:
    return lambda rows: dataclasses.replace(rows, **fields)


WRONG_BLOB = BlobId(bytes(16) + b"\x00\x00")
WRONG_RECORD = RecordId(bytes(15) + b"r")

WRONG_ROWS = [
    ("digests", _replaced(piece_digests=bytes(32)), "corrupt", "wrong-digest"),
    ("no digests", _replaced(piece_digests=b""), "corrupt", "wrong-length"),
    ("two digests", _replaced(piece_digests=bytes(64)), "corrupt", "wrong-length"),
    ("half a digest", _replaced(piece_digests=bytes(16)), "corrupt", "wrong-length"),
    ("core of another blob", _core({"blob": WRONG_BLOB}), "invalid", "rows-disagree"),
    ("core of another record", _core({"record": WRONG_RECORD}), "invalid", "rows-disagree"),
    ("core of another length", _core({"plaintext_length": 1}), "invalid", "rows-disagree"),
    ("core too long", _core({"plaintext_length": 1 << 60}), "invalid", "rows-disagree"),
    ("core negative", _core({"plaintext_length": -1}), "invalid", "bad-core"),
    ("core without digests", _core({"data_digests": ()}), "invalid", "bad-core"),
    ("core of another k", _core({"k": 1, "data_digests": (bytes(32),)}), "invalid",
     "rows-disagree"),
    ("core long expired", _core({"commit_by_ms": 1}), "invalid", "bad-commit-by"),
    ("core negative time", _core({"commit_by_ms": -1}), "invalid", "bad-commit-by"),
    ("core of other segments", _core({"segment_size": 1 << 16}), "invalid", "bad-core"),
    ("layout changed", _layout({"version": 2}), "unauthenticated", "bad-signature"),
    ("opening of another blob", _opening({"blob": WRONG_BLOB}), "invalid", "rows-disagree"),
    ("opening of another core", _opening({"core_digest": bytes(32)}), "invalid",
     "rows-disagree"),
    ("opening with a short salt", _opening({"salt": b"s"}), "invalid", "bad-opening"),
    ("key row of another blob", _key_row({"blob": WRONG_BLOB}), "invalid", "rows-disagree"),
    ("key row of a generation", _key_row({"generation": 7}), "invalid", "rows-disagree"),
    ("malformed core", _replaced(core=b"\xff"), "invalid", "malformed-encoding"),
    ("malformed layout", _replaced(layout=b"\xff"), "invalid", "malformed-encoding"),
    ("malformed key row", _replaced(key_row=b"\xff"), "invalid", "malformed-encoding"),
    ("malformed opening", _replaced(opening=b"\xff"), "invalid", "malformed-encoding"),
    ("no rows", _replaced(core=b"", layout=b"", key_row=b"", opening=b""), "invalid",
     "malformed-encoding"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "kind", "reason"),
    [case[1:] for case in WRONG_ROWS],
    ids=[case[0] for case in WRONG_ROWS],
)
async def test_rows_that_do_not_fit(rig: Rig, rows: Rows, kind: str, reason: str) -> None:
    """The holder that was lied to keeps nothing; the put is degraded by it, not failed."""
    gateway, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    with lying(rig, gateway, [holder], rows=rows) as errors:
        answer = await put(rig, gateway, put_messages(rig, gateway, blob))
    await _only_that_one_refused(rig, holder, blob, errors, kind, reason)
    assert (answer.durable_shards, answer.total_shards, answer.degraded) == (5, 6, True)


async def _only_that_one_refused(
    rig: Rig, holder: Running, blob: BlobId, errors: list[HcefsError], kind: str, reason: str
) -> None:
    assert [(error.kind, error.reason) for error in errors] == [(kind, reason)]
    rig.secrets.check(errors[0].message)
    await rig.until(lambda: not rig.temporaries(holder))
    index = rig.index_of(blob, holder)
    left = rig.kept(holder, blob)
    assert f"shard {index}" not in left
    # The record's listing is kept apart and honest; nothing else names the blob.
    assert set(left) <= {"row of INDEX", "row of META", "row of PENDING"}


async def test_layout_signed_by_somebody_else(rig: Rig) -> None:
    gateway, holder = rig.nodes[0], rig.nodes[2]
    stranger = rig.account_keys()
    doctor = rig.keys_of(rig.doctor)
    for keys in (stranger, doctor):
        blob = rig.new_blob()
        rows = _layout({"node": keys.account}, keys.signing_key)
        with lying(rig, gateway, [holder], rows=rows) as errors:
            await put(rig, gateway, put_messages(rig, gateway, blob))
        await _only_that_one_refused(rig, holder, blob, errors, "denied", "unknown-node")


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (lambda pieces: [bytes(pieces[0])[:-1]], "wrong-length"),
        (lambda pieces: [*pieces, b"more"], "wrong-length"),
        (lambda pieces: [], "wrong-length"),
    ],
    ids=["truncated", "extended", "empty"],
)
async def test_shard_of_a_wrong_length(rig: Rig, pieces: Pieces, reason: str) -> None:
    gateway, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    with lying(rig, gateway, [holder], pieces=pieces) as errors:
        await put(rig, gateway, put_messages(rig, gateway, blob))
    await _only_that_one_refused(rig, holder, blob, errors, "corrupt", reason)


async def test_every_holder_refuses(rig: Rig) -> None:
    """Then the put fails for the holders' reason, and no node keeps a shard."""
    gateway, blob = rig.nodes[0], rig.new_blob()
    rows = _replaced(piece_digests=bytes(32))
    with lying(rig, gateway, rig.nodes, rows=rows) as errors:
        call = put(rig, gateway, put_messages(rig, gateway, blob))
        await rig.refused(call, "corrupt", "wrong-digest")
    assert len(errors) == 6
    for node in rig.nodes:
        await rig.until(partial(rig.tidy, node))
        assert set(rig.kept(node, blob)) <= {"row of INDEX", "row of META", "row of PENDING"}


# -- raw calls by a node's identity


def store_header(rig: Rig, gateway: Running, blob: BlobId, **fields: Any) -> Any:
    """The first message of a shard, for the index that the target holds."""
    honest: dict[str, Any] = {
        "context": call_context(rig, gateway, "put", blob=blob),
        "profile": "ec-4-2",
        "segment_size": 1 << 20,
    }
    return shard_pb2.StoreRequest(header=shard_pb2.StoreHeader(**(honest | fields)))


async def store(rig: Rig, gateway: Running, holder: Running, messages: Sequence[Any]) -> bytes:
    return await rig.upload(
        holder.config.peer_address, f"{SHARDS}/Store", messages, gateway.identity
    )


async def test_stream_of_a_shard_in_disorder(rig: Rig) -> None:
    gateway, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    index = rig.index_of(blob, holder)
    finish = shard_pb2.StoreRequest(finish=shard_pb2.StoreFinish())
    data = frame_data(DATA, crc32c(DATA))

    def header() -> Any:
        return store_header(rig, gateway, blob, index=index)

    for messages, kind, reason in (
        ([], "invalid", "truncated"),
        ([finish], "invalid", "bad-message"),
        ([data], "invalid", "bad-message"),
        ([header()], "invalid", "truncated"),
        ([header(), data], "invalid", "truncated"),
        ([header(), header()], "invalid", "bad-message"),
        ([header(), finish], "invalid", "malformed-encoding"),
        ([header(), frame_data(DATA, crc32c(DATA) ^ 1)], "corrupt", "bad-checksum"),
        ([header(), frame_data(DATA)], "corrupt", "bad-checksum"),
    ):
        await rig.refused(store(rig, gateway, holder, messages), kind, reason)
        await rig.nothing_left(blob)


async def test_whole_shard_that_does_not_fit(rig: Rig) -> None:
    """In one message the same is refused as in a stream, and nothing is left."""
    gateway, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    index = rig.index_of(blob, holder)

    def whole(**fields: Any) -> Any:
        honest: dict[str, Any] = {
            "header": store_header(rig, gateway, blob, index=index).header,
            "data": DATA,
            "finish": shard_pb2.StoreFinish(),
            "crc32c": crc32c(DATA),
        }
        given = {name: value for name, value in (honest | fields).items() if value is not None}
        return rig.unary(
            holder.config.peer_address,
            f"{SHARDS}/StoreWhole",
            shard_pb2.StoreWholeRequest(**given),
            gateway.identity,
        )

    other = store_header(rig, gateway, blob, index=(index + 1) % 6).header
    for fields, kind, reason in (
        ({"header": None}, "invalid", "bad-message"),
        ({"finish": None}, "invalid", "bad-message"),
        ({"crc32c": crc32c(DATA) ^ 1}, "corrupt", "bad-checksum"),
        ({"data": b""}, "corrupt", "bad-checksum"),
        ({"header": other}, "conflict", "not-a-seat"),
        ({}, "invalid", "malformed-encoding"),
    ):
        await rig.refused(whole(**fields), kind, reason)
        await rig.nothing_left(blob)


async def test_not_a_seat(rig: Rig) -> None:
    gateway, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    wrong = (rig.index_of(blob, holder) + 1) % 6
    for index in (wrong, 6, 255, (1 << 32) - 1):
        call = store(rig, gateway, holder, [store_header(rig, gateway, blob, index=index)])
        await rig.refused(call, "conflict", "not-a-seat")
    seated = {seat.node.node_id for seat in rig.seats(blob.base, "copy-3")}
    for node in rig.nodes:
        if node.number not in seated and node is not gateway:
            header = store_header(rig, gateway, blob, index=0, profile="copy-3")
            await rig.refused(store(rig, gateway, node, [header]), "conflict", "not-a-seat")
    await rig.nothing_left(blob)


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"profile": "ec-1-1"}, "not-found", "unknown-profile"),
        ({"profile": ""}, "not-found", "unknown-profile"),
        ({"profile": "ec-8-3"}, "not-found", "unknown-profile"),
    ],
)
async def test_shard_of_an_unknown_profile(
    rig: Rig, fields: dict[str, Any], kind: str, reason: str
) -> None:
    gateway, holder, blob = rig.nodes[0], rig.nodes[2], rig.new_blob()
    call = store(rig, gateway, holder, [store_header(rig, gateway, blob, **fields)])
    await rig.refused(call, kind, reason)
    await rig.nothing_left(blob)


async def test_method_of_the_context(rig: Rig) -> None:
    """A proof for one method does not serve the calls of another."""
    gateway, holder = rig.nodes[0], rig.nodes[2]
    blob = rig.receipt.ref.blob
    for name, kind, method in (
        ("LoadManifest", shard_pb2.LoadManifestRequest, "put"),
        ("LoadManifest", shard_pb2.LoadManifestRequest, "delete"),
        ("LoadManifest", shard_pb2.LoadManifestRequest, "direct-get"),
        ("LoadManifest", shard_pb2.LoadManifestRequest, ""),
        ("StoreOpening", shard_pb2.StoreOpeningRequest, "get"),
        ("StoreBox", shard_pb2.StoreBoxRequest, "boxes"),
        ("LoadBoxes", shard_pb2.LoadBoxesRequest, "put-box"),
        ("LoadListing", shard_pb2.LoadListingRequest, "get"),
        ("Load", shard_pb2.LoadRequest, "stat"),
    ):
        context = call_context(rig, gateway, "get", blob=blob)
        context.method = method
        call = rig.download(
            holder.config.peer_address,
            f"{SHARDS}/{name}",
            kind(context=context),
            gateway.identity,
        )
        await rig.refused(call, "invalid", "wrong-method")


async def test_context_that_differs_from_the_proof(rig: Rig) -> None:
    gateway, holder = rig.nodes[0], rig.nodes[2]
    for fields in (
        {"method": "stat"},
        {"record_id": bytes(rig.other_record)},
        {"blob_id": bytes(rig.new_blob())},
        {"blob_id": b""},
        {"range_start": 1},
        {"range_length": 1},
    ):
        honest = call_context(rig, gateway, "get", blob=rig.receipt.ref.blob)
        for name, value in fields.items():
            setattr(honest, name, value)
        call = rig.unary(
            holder.config.peer_address,
            f"{SHARDS}/LoadManifest",
            shard_pb2.LoadManifestRequest(context=honest),
            gateway.identity,
        )
        await rig.refused(call, "denied", "proof-mismatch")


@pytest.mark.parametrize("epoch", [2, 7, (1 << 64) - 1])
async def test_epoch_mismatch(rig: Rig, epoch: int) -> None:
    call = manifest_from(rig, rig.nodes[0], rig.nodes[2], epoch=epoch)
    error = await rig.refused(call, "unavailable", "other-epoch")
    assert error.retryable


async def test_ids_of_wrong_sizes(rig: Rig) -> None:
    for fields in (
        {"record_id": b"r"},
        {"request_id": b""},
        {"blob_id": b"b"},
    ):
        honest = call_context(rig, rig.nodes[0], "get", blob=rig.receipt.ref.blob)
        for name, value in fields.items():
            setattr(honest, name, value)
        call = rig.unary(
            rig.nodes[2].config.peer_address,
            f"{SHARDS}/LoadManifest",
            shard_pb2.LoadManifestRequest(context=honest),
            rig.nodes[0].identity,
        )
        await rig.refused(call, "invalid", "bad-id")


@pytest.mark.parametrize("whole", [False, True], ids=["stream", "one message"])
async def test_pieces_outside_the_proven_range(rig: Rig, whole: bool) -> None:
    """A gateway with a proof for the first byte gets the first segment's pieces only."""
    gateway, holder = rig.nodes[0], rig.nodes[2]
    blob = rig.receipt.ref.blob
    index = rig.index_of(blob, holder)
    says = {"range_start": 0, "range_length": 1}

    def load(**fields: Any) -> Any:
        proof = rig.authorization(rig.doctor, "get", gateway, rig.read_grant, blob=blob, says=says)
        context = call_context(rig, gateway, "get", blob=blob, authorization=proof, range_length=1)
        request = shard_pb2.LoadRequest(context=context, **fields)
        address, key = holder.config.peer_address, gateway.identity
        if whole:
            return rig.unary(address, f"{SHARDS}/LoadPieces", request, key)
        return rig.download(address, f"{SHARDS}/Load", request, key)

    assert await load(index=index, first=0, count=1)
    for first, count in ((0, 2), (1, 1), (0, 0), (0, (1 << 64) - 1), ((1 << 64) - 1, 1)):
        call = load(index=index, first=first, count=count)
        await rig.refused(call, "denied", "wrong-range")
    for other in ((index + 1) % 6, 255):
        await rig.refused(load(index=other, first=0, count=1), "not-found", "no-such-shard")
    for impossible in (256, (1 << 32) - 1):
        call = load(index=impossible, first=0, count=1)
        with pytest.raises(HcefsError) as caught:
            await call
        assert caught.value.kind in ("invalid", "not-found")


async def test_opening_that_does_not_fit(rig: Rig) -> None:
    gateway, holder = rig.nodes[0], rig.nodes[2]
    commit_by = rig.runtime.now_ms() + HOUR_MS
    for change, time, kind, reason in (
        ({"blob": WRONG_BLOB}, commit_by, "invalid", "bad-opening"),
        ({"record": rig.other_record}, commit_by, "invalid", "bad-opening"),
        ({"salt": b"s"}, commit_by, "invalid", "bad-opening"),
        ({}, 1, "invalid", "bad-commit-by"),
        ({}, (1 << 64) - 1, "invalid", "bad-commit-by"),
    ):
        blob = rig.new_blob()
        honest = Opening(rig.runtime.random(32), rig.record, blob, bytes(32), b"")
        request = shard_pb2.StoreOpeningRequest(
            context=call_context(rig, gateway, "put", blob=blob),
            opening=dataclasses.replace(honest, **change).encode(),
            commit_by_ms=time,
        )
        call = rig.unary(
            holder.config.peer_address, f"{SHARDS}/StoreOpening", request, gateway.identity
        )
        await rig.refused(call, kind, reason)
        await rig.nothing_left(blob)


# -- nodes that may not answer


@pytest.mark.parametrize(
    ("offset_ms", "reason"), [(LEASE_MS + 1_500, "stale-lease"), (-9_000, "clock-skew")]
)
async def test_node_that_does_not_know_what_is_permitted(
    rig: Rig, offset_ms: int, reason: str
) -> None:
    """It refuses clients and gateways alike, and reports itself as not serving."""
    node = rig.nodes[4]
    node.runtime.offset_ms = offset_ms
    try:
        call = manifest_from(rig, rig.nodes[0], node)
        error = await rig.refused(call, "unavailable", reason)
        assert error.retryable
        blob = rig.new_blob()
        messages = put_messages(rig, node, blob)
        await rig.refused(put(rig, node, messages), "unavailable", reason)
        await rig.nothing_left(blob)
        assert not node.process.able()
        blob = rig.new_blob()
        answer = await put(rig, rig.nodes[0], put_messages(rig, rig.nodes[0], blob))
        assert answer.durable_shards == 5
    finally:
        node.runtime.offset_ms = 0
    await rig.until(node.process.able)
    assert (await manifest_from(rig, rig.nodes[0], node)).core


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers wait a tenth of a second for a height, not five."""
    monkeypatch.setattr(follower, "REQUIRE_TIMEOUT_S", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("height", [1_000_000, (1 << 64) - 1])
async def test_height_of_the_future(rig: Rig, height: int) -> None:
    call = manifest_from(rig, rig.nodes[0], rig.nodes[2], min_height=height)
    assert (await rig.refused(call, "unavailable", "behind")).retryable
    blob = rig.new_blob()
    messages = put_messages(rig, rig.nodes[0], blob, header={"min_height": height})
    await rig.refused(put(rig, rig.nodes[0], messages), "unavailable", "behind")
    await rig.nothing_left(blob)


async def test_node_that_the_map_does_not_name(rig: Rig) -> None:
    """Registered, active, with a valid certificate: still nobody."""
    stranger, holder = rig.stranger, rig.nodes[2]
    await rig.refused(manifest_from(rig, stranger, holder), "unauthenticated", "unknown-node")
    blob = rig.new_blob()
    header = store_header(rig, stranger, blob, index=rig.index_of(blob, holder))
    call = store(rig, stranger, holder, [header, frame_data(DATA, crc32c(DATA))])
    await rig.refused(call, "unauthenticated", "unknown-node")
    await rig.nothing_left(blob)


async def test_node_that_the_map_does_not_name_serves_nobody(rig: Rig) -> None:
    stranger = rig.stranger
    blob = rig.new_blob()
    messages = put_messages(rig, stranger, blob)
    await rig.refused(put(rig, stranger, messages), "unavailable", "not-in-map")
    await rig.refused(manifest_from(rig, rig.nodes[0], stranger), "unavailable", "not-in-map")
    assert rig.kept(stranger, blob) == []
    assert not stranger.process.able()


# -- direct mode: holders on the client port


async def test_direct_calls_are_of_their_own_methods(rig: Rig) -> None:
    """What a gateway was given does not serve on the client port, and the other way round."""
    node, other = rig.nodes[2], rig.nodes[3]
    blob = rig.receipt.ref.blob

    def load_manifest(address: str, method: str, named: Running, **kind: Any) -> Any:
        right = rig.authorization(rig.doctor, method, named, rig.read_grant, blob=blob)
        context = call_context(rig, named, "get", blob=blob, authorization=right)
        context.method = method
        request = shard_pb2.LoadManifestRequest(context=context)
        return rig.unary(address, f"{SHARDS}/LoadManifest", request, **kind)

    client_port, peer_port = node.config.client_address, node.config.peer_address
    assert await load_manifest(client_port, "direct-get", node)
    await rig.refused(load_manifest(client_port, "get", node), "invalid", "wrong-method")
    await rig.refused(load_manifest(client_port, "direct-get", other), "denied", "wrong-gateway")
    for method in ("direct-get", "direct-put"):
        call = load_manifest(peer_port, method, other, identity=other.identity)
        await rig.refused(call, "invalid", "wrong-method")


async def test_direct_mode_keeps_listings_and_boxes_to_nodes(rig: Rig) -> None:
    node = rig.nodes[2]
    for name, kind, method in (
        ("LoadListing", shard_pb2.LoadListingRequest, "list"),
        ("LoadBoxes", shard_pb2.LoadBoxesRequest, "boxes"),
        ("StoreBox", shard_pb2.StoreBoxRequest, "put-box"),
    ):
        right = rig.authorization(rig.doctor, method, node, rig.read_grant)
        context = call_context(rig, node, "list", authorization=right)
        for named in (method, f"direct-{method}"):
            context.method = named
            call = rig.download(
                node.config.client_address, f"{SHARDS}/{name}", kind(context=context)
            )
            await rig.refused(call, "invalid", "wrong-method")


async def test_a_direct_reader_tells_the_holder_what_it_has_met(rig: Rig) -> None:
    data = MARK + rig.runtime.random(400_000)
    receipt = await rig.hospital.put(
        rig.record, data, grant=rig.append_grant.grant, purpose="TREAT"
    )
    blob = receipt.ref.blob
    seat = next(s for s in rig.seats(bytes(blob.base)) if s.index == 1)
    holder = next(each for each in rig.nodes if each.number == seat.node.node_id)
    stores, metrics = holder.process.node.stores, holder.process.node.metrics
    stores.shards.remove(blob.base, 1)
    before = metrics.value("repair_hints_total", outcome="true")
    stream = await rig.doctor.get(
        rig.record, blob, grant=rig.read_grant.grant, purpose="TREAT", mode="direct"
    )
    assert await stream.read() == data
    await rig.until(lambda: metrics.value("repair_hints_total", outcome="true") > before)
    await rig.until(lambda: stores.shards.has(blob.base, 1))


async def test_a_direct_reader_with_an_old_map_reads_by_the_newer_one(rig: Rig) -> None:
    """Two holders have nothing, because two nodes changed places since; a third shard rots."""
    data = MARK + rig.runtime.random(400_000)
    receipt = await rig.hospital.put(
        rig.record, data, grant=rig.append_grant.grant, purpose="TREAT", seal="node"
    )
    blob = receipt.ref.blob
    places = {seat.index: seat.node for seat in rig.seats(bytes(blob.base))}
    rotten = next(each for each in rig.nodes if each.number == places[2].node_id)
    (path,) = rotten.config.data.rglob(f"{blob.base.hex()}*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    reader = rig.client(rig.keys_of(rig.doctor))
    current = await reader.cluster_map()
    swapped = {places[0].node_id: places[1], places[1].node_id: places[0]}
    old = dataclasses.replace(
        current,
        epoch=current.epoch - 1,
        nodes=tuple(
            dataclasses.replace(swapped.get(node.node_id, node), node_id=node.node_id)
            for node in current.nodes
        ),
    )
    reader._maps.put("", old)
    stream = await reader.get(
        rig.record, blob, grant=rig.read_grant.grant, purpose="TREAT", mode="direct"
    )
    assert await stream.read() == data
    assert (await reader.cluster_map()).epoch == current.epoch


async def test_a_named_node_that_joined_since_is_found(rig: Rig) -> None:
    """The map that a client remembers may be older than the node that its caller names."""
    reader = rig.client(rig.keys_of(rig.doctor))
    current = await reader.cluster_map()
    named = current.nodes[0]
    changed = dataclasses.replace(named, address="127.0.0.1:1")
    old = dataclasses.replace(current, epoch=current.epoch - 1, nodes=(changed, *current.nodes[1:]))
    reader._maps.put("", old)
    stream = await reader.get(
        rig.record,
        rig.receipt.ref.blob,
        grant=rig.read_grant.grant,
        purpose="TREAT",
        node=named.address,
    )
    assert await stream.read() == rig.payload
    assert (await reader.cluster_map()).epoch == current.epoch
    stream = await reader.get(
        rig.record,
        rig.receipt.ref.blob,
        grant=rig.read_grant.grant,
        purpose="TREAT",
        node="127.0.0.1:1",
    )
    with pytest.raises(Invalid, match="no serving node"):
        await stream.read()


async def test_hints_of_direct_clients_need_the_right_to_the_blob(rig: Rig) -> None:
    node, other, blob = rig.nodes[2], rig.nodes[3], rig.receipt.ref.blob

    def hint(address: str, named: Running, index: int = 0, **change: Any) -> Any:
        profile = change.pop("profile", "ec-4-2")
        right = rig.authorization(rig.doctor, "direct-get", named, rig.read_grant, blob=blob)
        context = call_context(rig, named, "get", blob=blob, authorization=right)
        context.method, context.profile = "direct-get", profile
        request = shard_pb2.HintShardRequest(context=context, index=index)
        return rig.unary(address, f"{SHARDS}/Hint", request, **change)

    port = node.config.client_address
    await hint(port, node)
    await rig.refused(hint(port, other), "denied", "wrong-gateway")
    await rig.refused(hint(port, node, 6), "invalid", "bad-index")
    await rig.refused(hint(port, node, profile="ec-1-1"), "invalid", "unknown-profile")
    # Nodes have their own way, on the peer port.
    peer_port = node.config.peer_address
    with pytest.raises(HcefsError):
        await hint(peer_port, other, identity=other.identity)
