"""Breaking the glass on real servers: nothing before, everything during, nothing after.

Rows of the ledger that other tests of this folder do not look at; the policy that is set
here stays.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from hcefs.access.emergency import (
    MINUTES_MAX,
    EmergencyNaming,
    EmergencyOpening,
    EmergencyPolicy,
    grant_of,
)
from hcefs.access.facts import AccountKind, Action
from hcefs.access.rights import AccessRequest, decide
from hcefs.access.token import Narrowing, mint
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.main import app
from hcefs.client.client import Client
from hcefs.client.receipts import PutReceipt
from hcefs.errors import HcefsError
from hcefs.formats.keybox import KeyBox
from hcefs.ids import GrantId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import Transaction, sign_transaction
from hcefs.ledger.transactions_emergency import ReviewEmergency, SetEmergencyPolicy
from hcefs.store.interface import KeyTable
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from hcefs.transport.tls import client_credentials
from hcefs.wire.v1 import blob_pb2
from tests.services.requests import BLOBS, get_request
from tests.services.rig import HOUR_MS, MARK, Rig, typed

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

POLICY = EmergencyPolicy(
    number=1, allowed=True, roles=("RESCUE",), reasons=("TRAUMA",), minutes_max=30, review_hours=1
)
WHY: dict[str, Any] = {"role": "RESCUE", "reason": "TRAUMA", "minutes": 10}


async def by_operators(rig: Rig, transaction: Transaction) -> None:
    signers = [(keys.account, 1, keys.signing_key) for keys in rig.operator_keys]
    await rig.operators[0].submit(sign_transaction(transaction, rig.cluster, signers))


async def set_policy(rig: Rig, **changes: Any) -> None:
    current = await rig.operators[0].emergency_policy()
    wanted = replace(POLICY, number=current.number + 1, **changes)
    await by_operators(rig, SetEmergencyPolicy(current.number, wanted))


@dataclass
class Ward:
    """A patient's record with a scan in it, and who is named for it: the hospital."""

    rig: Rig
    patient: Client
    rescuer: Client
    record: RecordId
    scan: PutReceipt
    payload: bytes
    naming: EmergencyNaming

    async def open(self, client: Client | None = None, **changes: Any) -> EmergencyOpening:
        return await (client or self.rescuer).open_emergency([self.record], **(WHY | changes))

    async def read(self, opening: GrantId, client: Client | None = None) -> bytes:
        reader = client or self.rescuer
        stream = await reader.get(
            self.record,
            self.scan.ref.blob,
            grant=grant_of(opening, self.record),
            purpose="BTG",
        )
        return await stream.read()

    async def boxes(
        self, client: Client, grant: GrantId, token: bytes = b"", purpose: str = "BTG"
    ) -> list[bytes]:
        """The raw question for key boxes, to a node that follows what ``client`` knows."""
        node = self.rig.nodes[0]
        keys = self.rig.keys_of(client)
        token = token or self.rig.token(keys, grant)
        fields = {"record": self.record, "gateway": node.account, "purpose": purpose}
        proof = self.rig.proof(keys, "boxes", token, **fields)
        request = blob_pb2.GetBoxesRequest(
            authorization=blob_pb2.Authorization(token=token, proof=proof),
            record_id=bytes(self.record),
            min_height=max(each.height for each in self.rig.clients),
            request_id=self.rig.new_request(),
        )
        (answer,) = await self.rig.download(
            node.config.client_address, "/hcefs.v1.Blobs/GetBoxes", request
        )
        return list(blob_pb2.GetBoxesResponse.FromString(answer).boxes)

    def kept(self) -> int:
        """On how many nodes a box of the naming lies."""
        prefix = bytes(self.record) + bytes(self.naming.naming)
        return sum(
            any(node.process.node.stores.keys.scan(KeyTable.BOXES, prefix, limit=1))
            for node in self.rig.nodes
        )


@pytest_asyncio.fixture(loop_scope="session")
async def ward(rig: Rig) -> AsyncIterator[Ward]:
    current = await rig.operators[0].emergency_policy()
    if replace(current, number=1) != POLICY:
        await set_policy(rig)
    rescuer = rig.client(rig.account_keys())
    await rig.hospital.admit(await rescuer.register(rig.keys_of(rescuer), AccountKind.PRACTITIONER))
    # As at the emergency desk of the hospital, whose key opens the box.
    rescuer.receive_for(rig.hospital_keys)
    record = (await rig.patient.open_record()).record
    payload = MARK + rig.runtime.random(3_000_000)
    scan = await rig.patient.put(record, payload, purpose="PATRQT")
    (naming,) = await rig.patient.name_emergency([record], [rig.hospital.account])
    yield Ward(rig, rig.patient, rescuer, record, scan, payload, naming)
    await rescuer.close()
    rig.clients.remove(rescuer)


async def denied(call: Any, reason: str) -> None:
    with pytest.raises(HcefsError) as caught:
        await call
    assert caught.value.reason == reason, caught.value.message


async def test_nothing_before_everything_during_nothing_after(ward: Ward) -> None:
    rig = ward.rig
    assert ward.kept() == 6
    (listed,) = [
        each for each in await ward.rescuer.namings(ward.patient.account)
        if each.record == ward.record
    ]  # fmt: skip
    assert listed == ward.naming
    # Before: neither the naming nor a made-up opening leads to the key, at any node.
    await denied(ward.boxes(ward.rescuer, ward.naming.naming), "not-permitted")
    guessed = grant_of(GrantId(rig.runtime.random(16)), ward.record)
    await denied(ward.boxes(ward.rescuer, guessed), "not-permitted")
    # During.
    opening = await ward.open(note_digest=rig.runtime.random(32))
    assert await ward.read(opening.opening) == ward.payload
    grant = grant_of(opening.opening, ward.record)
    boxes = [KeyBox.decode(data) for data in await ward.boxes(ward.rescuer, grant)]
    assert {box.grant for box in boxes} == {ward.naming.naming}
    assert (await ward.patient.emergencies())[-1] == opening
    # Not by others, not for other ends, not with another's token, not lent.
    await denied(ward.boxes(ward.rescuer, grant, purpose="TREAT"), "wrong-purpose")
    await denied(ward.boxes(rig.doctor, grant), "not-permitted")
    stolen = rig.token(rig.keys_of(ward.rescuer), grant)
    await denied(ward.boxes(rig.doctor, grant, token=stolen), "not-permitted")
    lent = mint(
        rig.keys_of(ward.rescuer).token_key,
        rig.cluster,
        ward.rescuer.account,
        grant,
        Narrowing(presenter=rig.doctor.account),
    )
    await denied(ward.boxes(rig.doctor, grant, token=lent), "not-permitted")
    await denied(
        ward.rescuer.give(
            ward.record,
            rig.doctor.account,
            Action.READ,
            ("BTG",),
            not_after_ms=opening.until_ms,
            parent=grant,
        ),
        "action-not-granted",
    )
    # After.
    await ward.rescuer.close_emergency(opening.opening)
    await denied(ward.read(opening.opening), "revoked")
    await denied(ward.boxes(ward.rescuer, grant), "revoked")


async def test_a_stream_is_cut_when_the_opening_is_closed(ward: Ward) -> None:
    rig, node, blob = ward.rig, ward.rig.nodes[1], ward.scan.ref.blob
    opening = await ward.open()
    grant = await ward.rescuer.grant(grant_of(opening.opening, ward.record))
    right = rig.authorization(
        ward.rescuer, "get", node, grant, blob=blob, record=ward.record, purpose="BTG"
    )
    asked = get_request(
        rig,
        node,
        authorization=right,
        blob_id=bytes(blob),
        record_id=bytes(ward.record),
        min_height=ward.rescuer.height,
    )
    # A window far below one message: the node cannot be done before the reader reads.
    window = [("grpc.http2.lookahead_bytes", 1 << 16), ("grpc.http2.bdp_probe", 0)]
    narrow: Any = grpc.aio.secure_channel(
        node.config.client_address,
        client_credentials(rig.authority),
        options=[*CHANNEL_OPTIONS, *window],
    )
    async with narrow as channel:
        call = channel.unary_stream(f"{BLOBS}/Get")(asked.SerializeToString())
        assert await call.read()
        closed = await ward.patient.close_emergency(opening.opening)
        await rig.until(lambda: node.process.follower.view.height >= closed.height)
        await rig.refused(typed(rest_of(call)), "denied", "revoked")


async def rest_of(call: Any) -> None:
    while isinstance(await call.read(), bytes):
        pass


async def test_time_ends_it(ward: Ward) -> None:
    opening = await ward.open(minutes=1)
    await ward.read(opening.opening)
    grant = grant_of(opening.opening, ward.record)
    now = await ward.rescuer.grant(grant)
    assert now.not_after_ms == opening.until_ms == opening.opened_ms + 60_000
    view = ward.rig.nodes[0].process.follower.view
    me = ward.rescuer.account
    request = AccessRequest(Action.READ, ward.record, None, 0, 0, "BTG", me, me, grant)
    assert decide(view, request, opening.until_ms - 1).permitted
    assert decide(view, request, opening.until_ms).reason == "expired"


async def test_a_refusal_wins_even_over_what_is_open(ward: Ward) -> None:
    opening = await ward.open()
    await ward.read(opening.opening)
    await ward.patient.refuse_emergency([ward.record])
    refused = {each.record for each in await ward.patient.emergency_refusals()}
    assert ward.record in refused
    grant = grant_of(opening.opening, ward.record)
    await denied(ward.boxes(ward.rescuer, grant), "emergency-refused")
    await denied(ward.open(), "emergency-refused")
    await ward.patient.refuse_emergency([ward.record], refuse=False)
    await ward.open()


async def test_who_is_not_named_opens_nothing(ward: Ward) -> None:
    rig = ward.rig
    stranger = rig.client(rig.account_keys())
    await rig.hospital.admit(await stranger.register(rig.keys_of(stranger), AccountKind.PATIENT))
    assert await stranger.namings(ward.patient.account) == []
    await denied(ward.open(stranger), "emergency-not-named")
    await ward.patient.end_namings([ward.naming.naming])
    await denied(ward.open(), "emergency-not-named")
    for node in rig.nodes:
        await node.process.follower.require(ward.patient.height)
        await node.process.node._collector.work()
    assert ward.kept() == 0, "the ledger is the tombstone of the boxes"


async def test_a_review_renews_the_keys_and_the_named_keep_up(ward: Ward) -> None:
    opening = await ward.open()
    await ward.rescuer.close_emergency(opening.opening)
    await denied(ward.rescuer.review_emergency(opening.opening, justified=True), "not-a-reviewer")
    metrics = ward.rig.nodes[1].process.node.metrics
    before = metrics.value("emergency_overdue")
    await ward.rig.until(lambda: metrics.value("emergency_unreviewed") > 0)
    runtime = ward.rig.nodes[1].runtime
    runtime.offset_ms += 2 * HOUR_MS  # beyond the review hours of the policy
    try:
        assert metrics.value("emergency_overdue") > before
    finally:
        runtime.offset_ms -= 2 * HOUR_MS
    assert opening.opening in {each.opening for each in await ward.rig.hospital.emergencies()}
    await ward.rig.hospital.review_emergency(opening.opening, justified=False)
    assert opening.opening not in {each.opening for each in await ward.rig.hospital.emergencies()}
    await by_operators(ward.rig, ReviewEmergency(opening.opening, True, b""))
    await ward.patient.renew_after(opening)
    await ward.patient.renew_after(opening)  # nothing is left to renew
    assert (await ward.patient.record(ward.record)).generation == 1
    # What is put under the new keys is read in the next emergency, and the past, too.
    later = await ward.patient.put(ward.record, MARK, purpose="PATRQT")
    again = await ward.open()
    stream = await ward.rescuer.get(
        ward.record,
        later.ref.blob,
        grant=grant_of(again.opening, ward.record),
        purpose="BTG",
    )
    assert await stream.read() == MARK
    assert await ward.read(again.opening) == ward.payload


async def test_the_command_line_from_naming_to_review(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, record = ward.rig, ward.record.text
    monkeypatch.setenv("HCEFS_DIR", str(folder_of(ward, tmp_path)))
    runner = CliRunner()

    async def hcefs(*arguments: str, fails: str = "") -> Any:
        result = await asyncio.to_thread(runner.invoke, app, [*arguments, "--json"])
        said = json.loads(result.output)
        assert (said.get("error", {}).get("reason", "?") if fails else "") == fails, said
        return said

    policy = await hcefs("emergency", "policy")
    assert policy["roles"] == ["RESCUE"]
    assert record in {
        each["record"] for each in await hcefs("emergency", "named", "--as", "patient")
    }
    why = ("--role", "RESCUE", "--reason", "TRAUMA")
    deliver_all = ("emergency", "deliver", "--as", "patient")
    note = tmp_path / "why.txt"
    note.write_text("found unresponsive")
    opened = await hcefs("emergency", "open", record, "--as", "rescuer", *why, "--note", str(note))
    # Nobody said how long: as long as the policy allows, which is less than an hour.
    assert opened["until_ms"] - opened["opened_ms"] == 60_000 * policy["minutes_max"]
    assert policy["minutes_max"] < MINUTES_MAX
    assert opened["note_digest"] == blake3_digest(b"found unresponsive").hex()
    file = tmp_path / "scan"
    read = ("get", record, ward.scan.ref.blob.text, "-o", str(file), "--as", "rescuer")
    under = ("--emergency", opened["opening"], "--desk", "hospital")
    await hcefs(*read, *under)
    assert file.read_bytes() == ward.payload
    await hcefs("emergency", "close", opened["opening"], "--as", "patient")
    await hcefs(*read, *under, fails="revoked")
    listed = await hcefs("emergency", "list", "--as", "patient")
    assert listed["openings"][-1]["state"] == "not reviewed"
    reviewed = await hcefs("emergency", "review", opened["opening"], "--as", "patient")
    assert reviewed["state"] == "justified"
    assert (await rig.patient.record(ward.record)).generation == 1
    await hcefs("emergency", "refuse", record, "--as", "patient")
    await hcefs("emergency", "open", record, "--as", "rescuer", *why, fails="emergency-refused")
    naming = ward.naming.naming.text
    again = await hcefs("emergency", "deliver", naming, "--as", "patient")
    assert [each["naming"] for each in again] == [naming]
    assert naming in {each["naming"] for each in await hcefs(*deliver_all)}
    await hcefs("emergency", "unname", naming, "--as", "patient")
    await hcefs("emergency", "deliver", naming, "--as", "patient", fails="no-such-naming")
    shown = await asyncio.to_thread(runner.invoke, app, ["emergency", "list", "--as", "patient"])
    assert "justified" in shown.output
    assert f"{record} is refused" in shown.output


def folder_of(ward: Ward, folder: Path) -> Path:
    """What the command line needs to know of the rig."""
    rig, layout = ward.rig, ClusterFolder(folder / "cluster")
    layout.accounts.mkdir(parents=True)
    layout.authority.parent.mkdir(parents=True, exist_ok=True)
    layout.authority.write_bytes(rig.authority)
    layout.genesis_file.write_bytes(rig.genesis.encode())
    known = {"hospital": rig.hospital, "patient": rig.patient, "rescuer": ward.rescuer}
    keys = {name: rig.keys_of(client) for name, client in known.items()}
    keys |= {f"operator-{number}": each for number, each in enumerate(rig.operator_keys, 1)}
    for name, each in keys.items():
        each.save(layout.account_file(name))
    nodes = [node.config.client_address for node in rig.nodes]
    layout.save_connection(rig.cluster, rig.ledger_address, nodes)
    return layout.root
