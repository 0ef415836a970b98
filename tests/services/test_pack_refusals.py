"""Bad packs and batches over real servers: each is refused with its kind and reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hcefs.access.batch import BatchGroup, batch_digest
from hcefs.blobs.pack import SealedPack
from hcefs.config import LimitsConfig
from hcefs.crypto.signing import PROOF_WINDOW_MS
from hcefs.errors import HcefsError
from hcefs.formats.pack import join_lengths, join_slots
from hcefs.ids import AccountId, BlobId, RecordId
from hcefs.integrity import crc32c
from hcefs.transport.framing import frame_data
from hcefs.transport.pack_messages import error_in
from hcefs.wire.v1 import pack_pb2, shard_pb2
from tests.services.packs import (
    PutMany,
    batch_authorization,
    batch_context,
    get_many,
    group_messages_of,
    groups_of,
    payloads_of,
    put_many,
    receive,
    scope_of,
    sealed_pack,
    send,
    store_pack,
    to_holder,
    wanted,
)
from tests.services.requests import BLOBS, SHARDS, call_context
from tests.services.rig import HOUR_MS, MARK, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

NO_PROTOBUF = b"\xff\xff\xff" + MARK


@dataclass
class Bad:
    """An honest put that a case makes wrong."""

    rig: Rig
    node: Running
    pack: SealedPack
    put: PutMany
    messages: list[Any]

    def authorized(self, **fields: Any) -> pack_pb2.BatchAuthorization:
        return batch_authorization(
            self.rig, self.rig.hospital, "put-many", self.node, self.rig.append_grant,
            scope_of(self.pack), **fields,
        )  # fmt: skip

    def header(self, **fields: Any) -> None:
        for name, value in fields.items():
            if name == "authorization":
                self.put.header.authorization.CopyFrom(value)
            else:
                setattr(self.put.header, name, value)
        self.messages = self.put.messages()

    def group(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self.put.groups[0], name, value)
        self.messages = self.put.messages()


def _bad(rig: Rig, count: int = 2) -> Bad:
    node, pack = rig.nodes[0], sealed_pack(rig, [MARK] * count)
    put = put_many(rig, node, pack)
    return Bad(rig, node, pack, put, put.messages())


def _stranger(bad: Bad) -> None:
    keys = bad.rig.account_keys()
    token = bad.rig.token(keys, bad.rig.append_grant.grant)
    digest = batch_digest([token], scope_of(bad.pack))
    proof = bad.rig.proof(keys, "put-many", token_hash=digest, gateway=bad.node.account)
    bad.header(authorization=pack_pb2.BatchAuthorization(tokens=[token], proof=proof))


def _without_right(bad: Bad) -> None:
    bad.header(
        authorization=batch_authorization(
            bad.rig, bad.rig.doctor, "put-many", bad.node, bad.rig.read_grant, scope_of(bad.pack)
        ),
        writer=bytes(bad.rig.doctor.account),
    )


def _other_record(bad: Bad) -> None:
    """A token and grant for one record, a pack of another."""
    bad.pack = sealed_pack(bad.rig, [MARK], bad.rig.other_record)
    bad.put = put_many(bad.rig, bad.node, bad.pack)
    bad.messages = bad.put.messages()


def _narrowed(bad: Bad) -> None:
    token = bad.rig.token(
        bad.rig.hospital_keys, bad.rig.append_grant.grant, record=bad.rig.other_record
    )
    bad.header(authorization=bad.authorized(token=token))


def _other_groups(bad: Bad) -> None:
    """The proof is of other payloads than those that follow."""
    other = sealed_pack(bad.rig, [MARK] * 2)
    bad.header(
        authorization=batch_authorization(
            bad.rig, bad.rig.hospital, "put-many", bad.node, bad.rig.append_grant, scope_of(other)
        )
    )


def _many_groups(bad: Bad) -> None:
    bad.put.groups.append(bad.put.groups[0])
    bad.messages = bad.put.messages()


def _no_groups(bad: Bad) -> None:
    del bad.messages[1]


def _empty_groups(bad: Bad) -> None:
    bad.messages[1] = pack_pb2.PutManyRequest(groups=pack_pb2.PackGroups())


def _rows_too_large(bad: Bad) -> None:
    group = pack_pb2.PackGroup()
    group.CopyFrom(bad.put.groups[0])
    del group.cores[:]
    group.cores.extend([bytes(900_000)])
    message = pack_pb2.PutManyRequest(groups=pack_pb2.PackGroups(groups=[group]))
    bad.header(groups=5, lengths=join_lengths([100] * 5))
    bad.messages[1:] = [message] * 5


def _short(bad: Bad) -> None:
    bad.messages.pop()


def _long(bad: Bad) -> None:
    bad.messages.append(frame_data(b"more"))


def _two_headers(bad: Bad) -> None:
    bad.messages.insert(1, bad.messages[0])


def _late_groups(bad: Bad) -> None:
    bad.messages.insert(3, bad.messages[1])


def _header_twice(bad: Bad) -> None:
    bad.messages = [bad.messages[1], *bad.messages]


def _data_first(bad: Bad) -> None:
    bad.messages = [frame_data(MARK)]


def _tampered(**fields: Any) -> Callable[[Bad], None]:
    return lambda bad: bad.group(**fields)


def _header(**fields: Any) -> Callable[[Bad], None]:
    return lambda bad: bad.header(**fields)


def _proof(**fields: Any) -> Callable[[Bad], None]:
    return lambda bad: bad.header(authorization=bad.authorized(**fields))


def _expired(bad: Bad) -> None:
    late = bad.rig.runtime.now_ms() - PROOF_WINDOW_MS - 1000
    bad.header(authorization=bad.authorized(time_ms=late))


def _wrong_gateway(bad: Bad) -> None:
    bad.header(authorization=bad.authorized(says={"gateway": bad.rig.nodes[1].account}))


def _messages(*messages: Any) -> Callable[[Bad], None]:
    def change(bad: Bad) -> None:
        bad.messages = list(messages)

    return change


@pytest.mark.parametrize(
    ("wrong", "kind", "reason"),
    [
        (_messages(), "invalid", "truncated"),
        (_messages(NO_PROTOBUF), "invalid", "malformed-message"),
        (_messages(b""), "invalid", "malformed-message"),
        (_data_first, "invalid", "bad-message"),
        (_header_twice, "invalid", "bad-message"),
        (_header(base=b"short"), "invalid", "bad-id"),
        (_header(writer=b"short"), "invalid", "bad-id"),
        (_header(request_id=b"short"), "invalid", "bad-id"),
        (_header(writer=bytes(16)), "denied", "wrong-writer"),
        (_header(lengths=b""), "invalid", "bad-layout"),
        (_header(lengths=join_lengths([100] * 1025)), "invalid", "bad-layout"),
        (_header(lengths=join_lengths([47, 100])), "invalid", "bad-layout"),
        (_header(lengths=join_lengths([1_048_625])), "invalid", "bad-layout"),
        (_header(lengths=join_lengths([900_000] * 5)), "invalid", "bad-layout"),
        (_header(lengths=join_lengths([262_000] * 5), profile="copy-3"), "invalid", "too-large"),
        (_header(profile="nonsense"), "invalid", "unknown-profile"),
        (_header(profile="ec-10-4"), "not-found", "unknown-profile"),
        (_header(groups=0), "invalid", "bad-message"),
        (_header(groups=3), "invalid", "bad-message"),
        (_header(commit_by_ms=1), "invalid", "bad-commit-by"),
        (_header(epoch=7), "unavailable", "other-epoch"),
        (_stranger, "unauthenticated", "unknown-account"),
        (_wrong_gateway, "denied", "wrong-gateway"),
        (_expired, "denied", "proof-expired"),
        (_proof(record=RecordId(bytes(15) + b"r")), "denied", "proof-mismatch"),
        (_other_groups, "denied", "proof-mismatch"),
        (_without_right, "denied", "action-not-granted"),
        (_other_record, "denied", "not-permitted"),
        (_narrowed, "denied", "token-check"),
        (_no_groups, "invalid", "bad-message"),
        (_empty_groups, "invalid", "too-large"),
        (_many_groups, "invalid", "too-large"),
        (_rows_too_large, "invalid", "too-large"),
        (_two_headers, "invalid", "bad-message"),
        (_late_groups, "invalid", "bad-message"),
        (_short, "invalid", "truncated"),
        (_long, "invalid", "wrong-length"),
        (_tampered(record_id=b"short"), "invalid", "bad-id"),
        (_tampered(slots=b"\x00"), "invalid", "bad-slots"),
        (_tampered(slots=join_slots([1, 3])), "denied", "proof-mismatch"),
        (_tampered(token=5), "invalid", "bad-batch"),
        (_tampered(envelope=NO_PROTOBUF), "invalid", "malformed-encoding"),
        (_tampered(opening=NO_PROTOBUF), "invalid", "malformed-encoding"),
        (_tampered(wrapped_keys=bytes(79)), "invalid", "rows-disagree"),
    ],
)
async def test_bad_puts(rig: Rig, wrong: Callable[[Bad], None], kind: str, reason: str) -> None:
    bad = _bad(rig)
    wrong(bad)
    await rig.refused(send(rig, bad.node, bad.messages), kind, reason)
    await rig.nothing_left(BlobId.of(bad.pack.base, 1))


async def test_a_put_cannot_be_replayed(rig: Rig) -> None:
    bad = _bad(rig)
    await send(rig, bad.node, bad.messages)
    await rig.refused(send(rig, bad.node, bad.messages), "denied", "replayed-proof")
    again = put_many(rig, bad.node, bad.pack).messages()
    error = await rig.refused(send(rig, bad.node, again), "conflict", "shard-exists")
    assert "never used twice" in error.message


async def test_strangers_send_no_megabytes(rig: Rig) -> None:
    """Who is not known is refused by the header; nothing further is read or held."""
    bad = _bad(rig)
    _stranger(bad)
    held = rig.nodes[0].process.node._memory.held
    error = await rig.refused(send(rig, bad.node, bad.messages[:1]), "unauthenticated",
                              "unknown-account")  # fmt: skip
    assert error
    assert rig.nodes[0].process.node._memory.held == held


async def test_no_memory_for_a_pack(rig: Rig) -> None:
    node = rig.nodes[5]
    async with rig.restarted(node, limits=LimitsConfig(put_deadline_s=5.0, memory_mib=16)):
        payload = bytes(250_000)
        pack = sealed_pack(rig, [payload] * 15)
        with pytest.raises(HcefsError) as caught:
            await send(rig, node, put_many(rig, node, pack).messages())
        assert (caught.value.kind, caught.value.reason) == ("invalid", "too-large")


# -- get


async def _some(rig: Rig, count: int = 3) -> list[BatchGroup]:
    receipts = await rig.hospital.put_many(payloads_of(rig, count), grant=rig.append_grant.grant)
    rig.height = max(rig.height, rig.hospital.height)
    return groups_of(receipts)


def _get_cases() -> list[tuple[str, dict[str, Any], str, str]]:
    return [
        (
            "wrong-gateway",
            {"says": {"gateway": AccountId(bytes(15) + b"g")}},
            "denied",
            "wrong-gateway",
        ),
        ("digest", {"token_hash": bytes(32)}, "denied", "proof-mismatch"),
        ("blob", {"blob": BlobId(bytes(17) + b"b")}, "denied", "proof-mismatch"),
        ("expired", {"time_ms": 1_600_000_000_000}, "denied", "proof-expired"),
        ("version", {"key_version": 9}, "unauthenticated", "old-key"),
        ("purpose", {"purpose": "HRESCH"}, "denied", "wrong-purpose"),
    ]


@pytest.mark.parametrize(
    ("fields", "kind", "reason"), [case[1:] for case in _get_cases()],
    ids=[case[0] for case in _get_cases()],
)  # fmt: skip
async def test_bad_proofs_of_gets(rig: Rig, fields: dict[str, Any], kind: str, reason: str) -> None:
    groups, node = await _some(rig), rig.nodes[0]
    wrong = batch_authorization(rig, rig.doctor, "get-many", node, rig.read_grant, groups, **fields)
    await rig.refused(receive(rig, node, get_many(rig, node, groups, authorization=wrong)),
                      kind, reason)  # fmt: skip


async def test_bad_gets(rig: Rig) -> None:
    groups, node = await _some(rig), rig.nodes[0]
    (group,) = groups

    async def refused(kind: str, reason: str, **fields: Any) -> None:
        request = get_many(rig, node, groups)
        honest = fields.pop("groups", list(request.groups))
        del request.groups[:]
        request.groups.extend(honest)
        if authorization := fields.pop("authorization", None):
            request.authorization.CopyFrom(authorization)
        for name, value in fields.items():
            setattr(request, name, value)
        await rig.refused(receive(rig, node, request), kind, reason)

    await refused("invalid", "bad-batch", groups=[])
    await refused("invalid", "bad-batch", groups=group_messages_of([BatchGroup(1, *_rest(group))]))
    cut = BatchGroup(0, group.record, group.blobs[:-1])
    await refused("invalid", "bad-batch", groups=group_messages_of([cut]))
    many = BatchGroup(0, group.record, group.blobs[:18] * 4097)
    await refused("invalid", "bad-batch", groups=group_messages_of([many]))
    short = pack_pb2.BatchGroup(record_id=b"short", blob_ids=group.blobs)
    await refused("invalid", "bad-id", groups=[short])
    less = BatchGroup(0, group.record, group.blobs[:-18])
    await refused("denied", "proof-mismatch", groups=group_messages_of([less]))
    await refused("unavailable", "other-epoch", epoch=9)
    appending = batch_authorization(rig, rig.hospital, "get-many", node, rig.append_grant, groups)
    await refused("denied", "action-not-granted", authorization=appending)
    putting = batch_authorization(rig, rig.doctor, "put-many", node, rig.read_grant, groups)
    await refused("denied", "proof-mismatch", authorization=putting)
    request = get_many(rig, node, groups)
    assert await receive(rig, node, request)
    await rig.refused(receive(rig, node, request), "denied", "replayed-proof")
    call = rig.download(node.config.client_address, f"{BLOBS}/GetMany", NO_PROTOBUF)
    await rig.refused(call, "invalid", "malformed-message")


def _rest(group: BatchGroup) -> tuple[RecordId, bytes]:
    return group.record, group.blobs


async def test_a_payload_is_of_the_record_that_is_named(rig: Rig) -> None:
    """Who may read one record names a payload of another under it."""
    await rig.patient.put_many([(rig.other_record, MARK)], purpose="PATRQT")
    (receipt,) = await rig.patient.put_many([(rig.other_record, MARK)], purpose="PATRQT")
    rig.height = max(rig.height, rig.patient.height)
    node = rig.nodes[0]
    disguised = [BatchGroup(0, rig.record, bytes(receipt.ref.blob))]
    found = await receive(rig, node, get_many(rig, node, disguised))
    assert [each.failure.reason for each in found.values()] == ["unknown-blob"]


# -- holders


def _index_of(rig: Rig, pack: SealedPack, holder: Running) -> int:
    for seat in rig.seats(bytes(pack.base), "copy-3"):
        if seat.node.account == holder.account:
            return seat.index
    raise LookupError(holder.number)


def _seated(rig: Rig, pack: SealedPack, gateway: Running) -> Running:
    """A holder of the pack that is not its gateway."""
    accounts = {seat.node.account for seat in rig.seats(bytes(pack.base), "copy-3")}
    return next(node for node in rig.nodes if node.account in accounts and node is not gateway)


async def test_an_honest_shard_is_stored(rig: Rig) -> None:
    gateway, pack = rig.nodes[0], sealed_pack(rig, [MARK])
    holder = _seated(rig, pack, gateway)
    request = store_pack(rig, gateway, pack, _index_of(rig, pack, holder))
    await to_holder(rig, gateway, holder, "StorePack", request)
    assert rig.kept(holder, BlobId.of(pack.base, 1))
    call = to_holder(rig, gateway, holder, "StorePack", request)
    await rig.refused(call, "conflict", "shard-exists")


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"crc32c": 1}, "corrupt", "bad-checksum"),
        ({"piece": b"short", "crc32c": crc32c(b"short")}, "corrupt", "wrong-length"),
        ({"piece_digest": bytes(32)}, "corrupt", "wrong-digest"),
        ({"index": 3}, "conflict", "not-a-seat"),
        ({"base": bytes(16)}, "denied", "proof-mismatch"),
        ({"base": b"short"}, "invalid", "bad-id"),
        ({"layout": NO_PROTOBUF}, "invalid", "malformed-encoding"),
        ({"groups": []}, "invalid", "bad-batch"),
        ({"commit_by_ms": 1}, "invalid", "bad-commit-by"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
async def test_bad_shards(rig: Rig, fields: dict[str, Any], kind: str, reason: str) -> None:
    gateway, pack = rig.nodes[0], sealed_pack(rig, [MARK, MARK])
    holder = _seated(rig, pack, gateway)
    index = _index_of(rig, pack, holder)
    if "index" in fields:
        fields, index = {}, (index + 1) % 3
    request = store_pack(rig, gateway, pack, index, **fields)
    await rig.refused(to_holder(rig, gateway, holder, "StorePack", request), kind, reason)
    await rig.nothing_left(BlobId.of(pack.base, 1))


async def test_shards_from_and_to_the_wrong_node(rig: Rig) -> None:
    gateway, pack = rig.nodes[0], sealed_pack(rig, [MARK])
    holder = _seated(rig, pack, gateway)
    other = next(node for node in rig.nodes if node not in (gateway, holder))
    request = store_pack(rig, gateway, pack, _index_of(rig, pack, holder))
    stolen = to_holder(rig, other, holder, "StorePack", request)
    await rig.refused(stolen, "denied", "wrong-gateway")
    accounts = {seat.node.account for seat in rig.seats(bytes(pack.base), "copy-3")}
    unseated = next(node for node in rig.nodes if node.account not in accounts)
    call = to_holder(rig, gateway, unseated, "StorePack", request)
    await rig.refused(call, "conflict", "not-a-seat")
    call = to_holder(rig, rig.stranger, holder, "StorePack", request)
    await rig.refused(call, "unauthenticated", "unknown-node")
    method = batch_context(rig, gateway, "get-many", scope_of(pack), named=False)
    wrong = store_pack(rig, gateway, pack, 0, context=method)
    await rig.refused(
        to_holder(rig, gateway, holder, "StorePack", wrong), "invalid", "wrong-method"
    )
    await rig.nothing_left(BlobId.of(pack.base, 1))


async def test_openings_of_others_are_not_stored(rig: Rig) -> None:
    gateway, holder, pack = rig.nodes[0], rig.nodes[1], sealed_pack(rig, [MARK])
    other = sealed_pack(rig, [MARK])

    def request(*openings: bytes) -> shard_pb2.StoreOpeningsRequest:
        return shard_pb2.StoreOpeningsRequest(
            context=batch_context(rig, gateway, "put-many", scope_of(pack)),
            openings=openings,
            commit_by_ms=rig.runtime.now_ms() + HOUR_MS,
        )

    for opening, reason in (
        (other.groups[0].opening.encode(), "bad-opening"),
        (NO_PROTOBUF, "malformed-encoding"),
    ):
        call = to_holder(rig, gateway, holder, "StoreOpenings", request(opening))
        await rig.refused(call, "invalid", reason)
    await rig.nothing_left(BlobId.of(other.base, 1))
    good = request(pack.groups[0].opening.encode())
    await to_holder(rig, gateway, holder, "StoreOpenings", good)
    assert rig.kept(holder, BlobId.of(pack.base, 1)) == ["row of PENDING", "row of INDEX",
                                                         "row of META"]  # fmt: skip


async def test_columns_are_those_that_were_asked_for(rig: Rig) -> None:
    groups = await _some(rig, 4)
    gateway = rig.nodes[0]
    base = next(groups[0].ids()).base
    seat = next(
        seat for seat in rig.seats(bytes(base), "copy-3") if seat.node.account != gateway.account
    )
    holder = rig.nodes[seat.node.node_id - 1]
    asked = [BatchGroup(0, groups[0].record, groups[0].blobs[:36])]

    async def columns(*slots: int, **fields: Any) -> pack_pb2.Columns:
        own = {"index": seat.index, "column_of": 0} | fields
        request = shard_pb2.LoadColumnsRequest(
            batch=batch_context(rig, gateway, "get-many", asked),
            wanted=[pack_pb2.ColumnsWanted(payloads=wanted(groups, *slots), **own)],
        )
        answer = await to_holder(rig, gateway, holder, "LoadColumns", request)
        (found,) = shard_pb2.LoadColumnsResponse.FromString(answer).columns
        return found

    assert len((await columns(1, 2)).data) == 2 * (len(MARK) + 400 + 48)
    for found, reason in (
        (await columns(1, 3), "wrong-blob"),
        (await columns(9), "wrong-blob"),
        (await columns(1, index=5), "bad-index"),
        (await columns(1, column_of=1), "bad-index"),
        (await columns(1, index=(seat.index + 1) % 3), "no-such-shard"),
    ):
        assert found.data == b""
        assert error_in(found.failure).reason == reason


async def test_bad_loads_from_holders(rig: Rig) -> None:
    groups = await _some(rig)
    gateway, holder = rig.nodes[0], rig.nodes[1]
    blob = next(groups[0].ids())
    good = [wanted(groups, 1)]

    async def refused(name: str, request: Any, kind: str, reason: str) -> None:
        await rig.refused(to_holder(rig, gateway, holder, name, request), kind, reason)

    cases: tuple[tuple[str, Any, Any], ...] = (
        ("LoadPacked", shard_pb2.LoadPackedRequest, good),
        (
            "LoadColumns",
            shard_pb2.LoadColumnsRequest,
            [pack_pb2.ColumnsWanted(payloads=good[0], index=0)],
        ),
    )
    for name, kind, what in cases:
        context = batch_context(rig, gateway, "get-many", groups)
        await refused(name, kind(wanted=what), "invalid", "wrong-method")
        tampered = batch_context(rig, gateway, "get-many", groups)
        tampered.groups[0].blob_ids = tampered.groups[0].blob_ids[:18]
        await refused(name, kind(batch=tampered, wanted=what), "denied", "proof-mismatch")
        putting = batch_context(rig, gateway, "put-many", groups)
        await refused(name, kind(batch=putting, wanted=what), "invalid", "wrong-method")
        listing = call_context(rig, gateway, "list")
        await refused(name, kind(call=listing, wanted=what), "invalid", "wrong-method")
        stolen = batch_context(rig, rig.nodes[2], "get-many", groups)
        await refused(name, kind(batch=stolen, wanted=what), "denied", "wrong-gateway")
        many = what * 4097
        await refused(name, kind(batch=context, wanted=many), "invalid", "too-large")
        await refused(name, NO_PROTOBUF, "invalid", "malformed-message")
    stat = call_context(rig, gateway, "stat", blob=blob)
    columns = shard_pb2.LoadColumnsRequest(
        call=stat, wanted=[pack_pb2.ColumnsWanted(payloads=good[0], index=0)]
    )
    await refused("LoadColumns", columns, "invalid", "wrong-method")
    packed = shard_pb2.LoadPackedRequest(call=stat, wanted=good)
    answer = await to_holder(rig, gateway, holder, "LoadPacked", packed)
    assert shard_pb2.LoadPackedResponse.FromString(answer).parts


async def test_holders_serve_no_packs_to_clients(rig: Rig) -> None:
    for name in ("StorePack", "StoreOpenings", "LoadPacked", "LoadColumns"):
        call = rig.unary(rig.nodes[0].config.client_address, f"{SHARDS}/{name}", b"")
        await rig.refused(call, "invalid", "unimplemented")
