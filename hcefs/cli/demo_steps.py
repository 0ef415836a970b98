"""Steps 1 to 3 of the demo: who takes part, what is stored, who may read it.

Each step is a function of the stage and its notes; it raises ``Broken`` or a
typed error when something does not hold.
"""

from __future__ import annotations

from hcefs.access.facts import AccountKind, Action
from hcefs.access.token import Narrowing
from hcefs.cli.bringup import OPERATORS
from hcefs.cli.demo_report import Notes, bytes_text, rate_text, require, speed_text
from hcefs.cli.demo_stage import (
    ENTRY,
    HOUR_MS,
    PURPOSE,
    Stage,
    Stored,
    refused,
)
from hcefs.cli.demo_wire import Wire
from hcefs.client.receipts import PutReceipt
from hcefs.ids import BlobId
from hcefs.wire.v1.blob_pb2 import Authorization

OTHER_PURPOSE = "HRESCH"
RANGE_BYTES = 3_000_001
"""Of the range from the middle of the cine: odd on purpose, over several segments."""

STAFF = ("doctor", "second-doctor", "assistant")


# -- 1


async def admit_everyone(stage: Stage, notes: Notes) -> None:
    """Genesis, admissions, a record, and the hospital's right to append to it."""
    started = stage.runtime.monotonic()
    await stage.raise_cluster()
    genesis = await stage.operator.genesis()
    nodes = [await stage.operator.fetch_account(node.account) for node in stage.map.nodes]
    require(
        len(nodes) == len(stage.nodes)
        and all(node.kind == AccountKind.NODE and node.active for node in nodes)
        and len({node.spki for node in nodes}) == len(nodes),
        "the ledger does not hold six active nodes, each with a TLS key of its own",
    )
    notes.check(
        f"genesis names {len(genesis.operators)} operators, {genesis.threshold} of whom must "
        "agree; they admitted six nodes, each with its TLS key",
        cluster=genesis.cluster.text,
        operators=len(genesis.operators),
        threshold=genesis.threshold,
        nodes=len(nodes),
        start_seconds=round(stage.runtime.monotonic() - started, 3),
    )
    await _admit_people(stage, notes)
    await _open_record(stage, notes)


async def _admit_people(stage: Stage, notes: Notes) -> None:
    stage.say("the operators admit a hospital, the hospital its staff and a patient")
    keys = stage.new_keys()
    first, second = (stage.clients[name] for name in OPERATORS[:2])
    registration = await first.register(keys, AccountKind.INSTITUTION)
    alone = await refused(first.admit(registration), "below-threshold")
    await second.admit(first.cosign(registration))
    hospital = stage.join("hospital", keys)
    for name in STAFF:
        keys = stage.new_keys()
        await hospital.admit(await hospital.register(keys, AccountKind.PRACTITIONER))
        stage.join(name, keys)
    keys = stage.new_keys()
    registration = await hospital.register(keys, AccountKind.PATIENT)
    unsigned = await refused(hospital.submit(registration), "no-institution")
    await hospital.admit(registration)
    stage.join("patient", keys)
    for name in ("hospital", *STAFF, "patient"):
        account = await stage.operator.fetch_account(stage.clients[name].account)
        require(account.active, f"the {name} is not active on the ledger")
    notes.check(
        "the operators admitted a hospital (one operator alone was refused); the hospital "
        "admitted two doctors and an assistant and co-signed a patient (the patient alone was "
        "refused)",
        one_operator=alone,
        patient_alone=unsigned,
        accounts={name: client.account.text for name, client in stage.clients.items()},
    )


async def _open_record(stage: Stage, notes: Notes) -> None:
    stage.say("the patient opens a record")
    patient, hospital = stage.clients["patient"], stage.clients["hospital"]
    opened = await patient.open_record()
    stage.record = opened.record
    now = stage.runtime.now_ms()
    grant = await patient.give(
        opened.record, hospital.account, Action.APPEND, (PURPOSE,), not_after_ms=now + 24 * HOUR_MS
    )
    stage.grants["hospital"] = grant.grant
    require(
        opened.owner == patient.account and grant.actions == Action.APPEND,
        "the record or the hospital's grant is not as it was asked for",
    )
    notes.check(
        "the patient opened a record and lets the hospital append to it for a day, not read it",
        record=opened.record.text,
        height=grant.height,
    )


# -- 2


async def store_everything(stage: Stage, notes: Notes) -> None:
    """Four files through one node, and one of them again, sealed before it leaves the client."""
    blobs: dict[str, object] = {}
    for key in stage.exhibits:
        blobs[key] = await _store(stage, notes, key, key, seal="node")
    blobs["sealed"] = await _store(stage, notes, "radiograph", "sealed", seal="client")
    nodes = {node for stored in stage.stored.values() for node in _shards_on_disk(stage, stored)}
    require(nodes == set(stage.nodes), f"only the nodes {sorted(nodes)} hold shards")
    shard_bytes = sum(
        stage.shard_path(stored.blob, seat.index).stat().st_size
        for stored in stage.stored.values()
        for seat in stage.seats_of(stored.blob)
    )
    plain_bytes = sum(stored.exhibit.bytes for stored in stage.stored.values())
    notes.check(
        "every blob has one shard on each of the six nodes, where the ring says; the shards take "
        f"{shard_bytes / plain_bytes:.2f} bytes for each byte stored",
        blobs=blobs,
        shard_bytes=shard_bytes,
        plaintext_bytes=plain_bytes,
    )


async def _store(stage: Stage, notes: Notes, key: str, name: str, seal: str) -> dict[str, object]:
    exhibit = stage.exhibits[key]
    started = stage.runtime.monotonic()

    def progress(sent: int) -> None:
        stage.say(f"{exhibit.name}: {bytes_text(sent)} of {bytes_text(exhibit.bytes)}")

    receipt = await stage.clients["hospital"].put(
        stage.record,
        exhibit.path,
        grant=stage.grants["hospital"],
        content_type="application/dicom",
        name=exhibit.name,
        purpose=PURPOSE,
        seal=seal,
        node=stage.address(ENTRY),
        progress=progress,
    )
    seconds = stage.runtime.monotonic() - started
    require_whole(receipt, exhibit.name)
    stage.stored[name] = Stored(exhibit, receipt)
    where = "sealed by the client" if seal == "client" else "sealed by the node"
    notes.check(
        f"{exhibit.title} {exhibit.name}, {bytes_text(exhibit.bytes)}, {where}: "
        f"{receipt.durable_shards} of {receipt.total_shards} shards durable, "
        f"{speed_text(exhibit.bytes, seconds)}"
    )
    return {
        "file": exhibit.name,
        "bytes": exhibit.bytes,
        "blob": receipt.ref.blob.text,
        "sealed_by": seal,
        "durable": receipt.durable_shards,
        "total": receipt.total_shards,
        "seconds": round(seconds, 3),
    }


def require_whole(receipt: PutReceipt, name: str) -> None:
    """A put with every node up must be acknowledged with all its shards."""
    require(
        receipt.durable_shards == receipt.total_shards == 6 and not receipt.degraded,
        f"{name} was acknowledged with {receipt.durable_shards} of {receipt.total_shards} shards",
    )


def _shards_on_disk(stage: Stage, stored: Stored) -> list[int]:
    """The nodes on whose disk a shard lies where the ring says."""
    return [
        seat.node.node_id
        for seat in stage.seats_of(stored.blob)
        if stage.shard_path(stored.blob, seat.index).is_file()
    ]


# -- 3


async def grant_and_read(stage: Stage, notes: Notes) -> None:
    """Denied without a grant; with one everything, byte for byte; a narrowed token one blob."""
    doctor, patient = stage.clients["doctor"], stage.clients["patient"]
    first = stage.stored["ct"]
    as_owner = await refused(stage.read("doctor", first), "not-permitted")
    async with Wire(stage) as wire:
        keys, node = stage.accounts["doctor"], stage.node(ENTRY)
        token = wire.own_token(keys, stage.grants["hospital"])
        authorization = wire.presenting(keys, token, node, "get", first.blob)
        borrowed = await refused(wire.get(authorization, node, first.blob), "not-permitted")
    notes.check(
        f"the doctor without a grant was denied ({as_owner}; with the hospital's: {borrowed})",
        denied={"without_grant": as_owner, "with_anothers_grant": borrowed},
    )
    until = stage.runtime.now_ms() + HOUR_MS
    grant = await patient.give(
        stage.record,
        doctor.account,
        Action.READ | Action.SHARE,
        (PURPOSE,),
        not_after_ms=until,
    )
    stage.grants["doctor"] = grant.grant
    other = await refused(
        doctor.get(stage.record, first.blob, grant=grant.grant, purpose=OTHER_PURPOSE),
        "wrong-purpose",
    )
    notes.check(
        f"the patient granted read and share for {PURPOSE} for an hour; for {OTHER_PURPOSE} the "
        f"doctor is still denied ({other})",
        grant=grant.grant.text,
        not_after_ms=until,
        other_purpose=other,
    )
    await _list(stage, notes)
    await _read_all(stage, notes)
    await _read_range(stage, notes)
    await _share_one(stage, notes)


async def _list(stage: Stage, notes: Notes) -> None:
    stage.say("the doctor lists the record")
    listing = await stage.clients["doctor"].list(
        stage.record, grant=stage.grants["doctor"], purpose=PURPOSE
    )
    entries = list(listing)
    require(listing.complete, f"{listing.missing} entries of the listing are missing")
    wanted = {stored.blob for stored in stage.stored.values()}
    require(
        {entry.blob for entry in entries} == wanted and len(entries) == len(wanted),
        f"the listing has {len(entries)} entries that are not the {len(wanted)} blobs stored",
    )
    notes.check(
        f"the doctor listed {len(entries)} entries, proved complete against the ledger's leaves",
        entries=len(entries),
    )


async def _read_all(stage: Stage, notes: Notes) -> None:
    total, seconds = 0, 0.0
    for stored in stage.stored.values():
        seconds += await stage.read("doctor", stored)
        total += stored.exhibit.bytes
    notes.check(
        f"the doctor read all {len(stage.stored)} blobs byte for byte (SHA-256), "
        f"{bytes_text(total)} at {rate_text(total, seconds)}",
        read_bytes=total,
        read_seconds=round(seconds, 3),
    )


async def _read_range(stage: Stage, notes: Notes) -> None:
    stored = stage.stored["cine"]
    start = stored.exhibit.bytes // 2 - RANGE_BYTES // 2
    started = stage.runtime.monotonic()
    stream = await stage.clients["doctor"].get(
        stage.record,
        stored.blob,
        grant=stage.grants["doctor"],
        start=start,
        length=RANGE_BYTES,
        purpose=PURPOSE,
        node=stage.address(ENTRY),
    )
    got = await stream.read()
    seconds = stage.runtime.monotonic() - started
    with stored.exhibit.path.open("rb") as file:
        file.seek(start)
        require(got == file.read(RANGE_BYTES), "the range from the middle of the cine differs")
    notes.check(
        f"bytes {start:,} to {start + RANGE_BYTES:,} of the cine are right, in {seconds:.2f} s",
        range_start=start,
        range_bytes=len(got),
    )


async def _share_one(stage: Stage, notes: Notes) -> None:
    """The doctor narrows the grant to one blob for the assistant, who has no grant."""
    stage.say("the doctor narrows a token for the assistant")
    doctor, assistant = stage.clients["doctor"], stage.clients["assistant"]
    shared, other = stage.stored["ecg"], stage.stored["ct"]
    narrowing = Narrowing(
        not_after_ms=stage.runtime.now_ms() + HOUR_MS // 2,
        actions=("read",),
        record=stage.record,
        blob=shared.blob,
        purposes=(PURPOSE,),
        presenter=assistant.account,
    )
    bundle = await doctor.bundle(
        stage.record,
        shared.blob,
        assistant.account,
        grant=stage.grants["doctor"],
        narrowing=narrowing,
    )
    stage.bundle = bundle
    stage.say("the assistant reads that one blob")
    await stage.compare(await assistant.get_bundle(bundle), shared.exhibit)
    node = stage.node(ENTRY)
    keys = stage.accounts["assistant"]
    async with Wire(stage) as wire:

        def presenting(method: str, blob: BlobId | None) -> Authorization:
            return wire.presenting(keys, bundle.token, node, method, blob)

        await wire.get(presenting("get", shared.blob), node, shared.blob)
        reasons = {
            "another_blob": await refused(
                wire.get(presenting("get", other.blob), node, other.blob), "token-check"
            ),
            "list": await refused(wire.list(presenting("list", None), node), "token-check"),
            "without_the_token": await refused(
                assistant.get(stage.record, shared.blob, purpose=PURPOSE), "not-permitted"
            ),
        }
    notes.check(
        f"a token narrowed to {shared.exhibit.name} lets the assistant read it, and nothing else "
        f"(another blob and the list: {reasons['list']})",
        assistant=reasons,
        token_bytes=len(bundle.token),
    )
