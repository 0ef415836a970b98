"""Promise 4: access leaves evidence first, and the patient can prove who touched a record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from hcefs.access.facts import Action
from hcefs.client.put_many import Payload
from hcefs.errors import Denied, Exhausted, HcefsError, Unavailable
from hcefs.evidence.receipt import Receipt, ReceiptKind, read_receipt
from hcefs.ids import RecordId
from hcefs.ledger.audit_file import AuditFile, check_audit
from hcefs.services.evidence import DENIALS_A_SECOND
from hcefs.store.interface import Table
from hcefs.wire.v1 import shard_pb2
from tests.services.requests import DATA, SHARDS, call_context, get, put, put_messages
from tests.services.rig import MARK, Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

ACCESS, RELEASE, CLOSING = ReceiptKind.ACCESS, ReceiptKind.RELEASE, ReceiptKind.CLOSING


def receipts(node: Running) -> list[Receipt]:
    """All receipts on a node's disk, in order."""
    return [read_receipt(data) for _, data in _rows(node)]


def _rows(node: Running) -> list[tuple[bytes, bytes]]:
    rows = node.process.stores.rows
    found: list[tuple[bytes, bytes]] = []
    after = b"r"
    while page := rows.scan(Table.RECEIPTS, b"r", after, 1000):
        after = page[-1][0]
        found += page
    return found


class Watch:
    """What receipts came since it began, without the closing ones of requests before it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._before = {node.number: receipts(node) for node in rig.nodes}
        self._old = {r.request for before in self._before.values() for r in before}

    def new(self, node: Running | None = None) -> list[Receipt]:
        nodes = self._rig.nodes if node is None else [node]
        found = [r for each in nodes for r in receipts(each)[len(self._before[each.number]) :]]
        return [r for r in found if r.receipt_kind is not CLOSING or r.request not in self._old]

    async def closing(self, access: Receipt) -> Receipt:
        """The closing receipt of one access, which nobody waits for; others may come before it."""

        def found() -> list[Receipt]:
            closings = of_kind(self.new(), CLOSING)
            return [each for each in closings if each.request == access.request]

        await self._rig.until(lambda: len(found()) > 0)
        (closing,) = found()
        return closing


def of_kind(found: Sequence[Receipt], kind: ReceiptKind) -> list[Receipt]:
    return [receipt for receipt in found if receipt.receipt_kind is kind]


async def test_a_get_leaves_an_access_and_the_releases_of_k_holders(rig: Rig) -> None:
    watch = Watch(rig)
    blob = rig.receipt.ref.blob
    stream = await rig.doctor.get(rig.record, blob, grant=rig.read_grant.grant)
    assert await stream.read() == rig.payload
    gets = [r for r in watch.new() if r.method == "get" and r.receipt_kind is not CLOSING]
    (access,) = of_kind(gets, ACCESS)
    releases = of_kind(gets, RELEASE)
    assert (access.presenter, access.holder) == (rig.doctor.account,) * 2
    assert (access.record, access.blobs) == (rig.record, (blob,))
    assert (access.grant, access.purpose) == (rig.read_grant.grant, "TREAT")
    assert (access.permitted, access.reason, access.action) == (True, "permitted", "read")
    assert {r.request for r in releases} == {access.request}
    assert {r.peer for r in releases} == {access.node}
    # The gateway is a holder itself; each other holder writes one receipt for all its calls.
    holders = Counter(r.node for r in releases)
    assert len(holders) >= 3
    assert set(holders.values()) == {1}
    closing = await watch.closing(access)
    assert (closing.method, closing.reason) == ("get", "ok")
    assert closing.size >= len(rig.payload)


async def test_every_way_of_asking_leaves_an_access_first(rig: Rig) -> None:
    watch = Watch(rig)
    doctor = rig.client(rig.keys_of(rig.doctor))  # knows no manifest and no key yet
    grant = rig.read_grant.grant
    blob = rig.receipt.ref.blob
    await doctor.stat(rig.record, blob, grant=grant)
    await doctor.list(rig.record, grant=grant)
    await (await doctor.get(rig.record, blob, start=9, length=3, grant=grant)).read()
    many = await rig.hospital.put_many(
        [Payload(rig.record, MARK)] * 3, grant=rig.append_grant.grant
    )
    await doctor.get_many([(rig.record, each.ref.blob) for each in many], grant=grant)
    await (await doctor.get(rig.record, blob, mode="direct", grant=grant)).read()
    seen = Counter(r.method for r in of_kind(watch.new(), ACCESS))
    for method in ("stat", "list", "boxes", "get", "put-many", "get-many", "direct-get"):
        assert seen[method], method
    (packed,) = {r.blobs for r in of_kind(watch.new(), ACCESS) if r.method == "get-many"}
    assert set(packed) == {each.ref.blob for each in many}
    (ranged,) = [r for r in of_kind(watch.new(), ACCESS) if r.range_length]
    assert (ranged.range_start, ranged.range_length, ranged.size) == (9, 3, 3)


async def test_a_put_leaves_receipts_at_all_holders(rig: Rig) -> None:
    watch, blob = Watch(rig), rig.new_blob()
    await put(rig, rig.nodes[0], put_messages(rig, rig.nodes[0], blob))
    about = [r for r in watch.new() if r.blobs == (blob,)]
    # The header's authorization and the trailer's are two decisions.
    assert [r.method for r in of_kind(about, ACCESS)] == ["put", "put"]
    assert {r.node for r in of_kind(about, RELEASE)} == {
        node.account for node in rig.nodes if node is not rig.nodes[0]
    }


async def test_a_denial_of_who_proved_itself_is_receipted(rig: Rig) -> None:
    watch = Watch(rig)
    with pytest.raises(Denied):
        await rig.doctor.stat(
            rig.record, rig.receipt.ref.blob, grant=rig.read_grant.grant, purpose="HRESCH"
        )
    (denied,) = [r for r in watch.new() if not r.permitted]
    assert (denied.reason, denied.presenter) == ("wrong-purpose", rig.doctor.account)
    assert (denied.receipt_kind, denied.purpose) == (ACCESS, "HRESCH")


async def test_who_did_not_prove_itself_leaves_no_receipt(rig: Rig) -> None:
    watch, node = Watch(rig), rig.nodes[0]
    authorization = rig.authorization(
        rig.doctor, "get", node, rig.read_grant, blob=rig.receipt.ref.blob
    )
    broken = bytearray(authorization.proof)
    broken[-1] ^= 1
    authorization.proof = bytes(broken)
    await rig.refused(get(rig, node, authorization=authorization), "unauthenticated", "bad-proof")
    assert watch.new(node) == []


async def test_denials_are_bounded_for_each_account(rig: Rig) -> None:
    """At a holder, whom a gateway may ask again and again with one proof."""
    gateway, holder, watch = rig.nodes[1], rig.nodes[2], Watch(rig)
    before = holder.process.metrics.value("denials_limited_total")
    blob = rig.receipt.ref.blob
    right = rig.authorization(rig.outsider, "stat", gateway, rig.read_grant, blob=blob)
    context = call_context(rig, gateway, "stat", blob=blob, authorization=right)
    request = shard_pb2.LoadManifestRequest(context=context)

    async def once() -> str:
        address = f"{SHARDS}/LoadManifest"
        try:
            await rig.unary(holder.config.peer_address, address, request, gateway.identity)
        except HcefsError as error:
            return error.reason
        return ""

    outcomes = Counter(await asyncio.gather(*(once() for _ in range(4 * DENIALS_A_SECOND))))
    assert set(outcomes) == {"not-the-grantee", "too-many-denials"}
    limited = holder.process.metrics.value("denials_limited_total") - before
    assert limited == outcomes["too-many-denials"] > 0
    own = [r for r in watch.new(holder) if r.presenter == rig.outsider.account]
    assert len(own) == outcomes["not-the-grantee"]
    assert {r.receipt_kind for r in own} == {RELEASE}


@contextmanager
def failing(node: Running, error: Callable[[], HcefsError]) -> Any:
    """The disk of a node takes no receipts for a while."""
    store = node.process.receipts.store
    whole = store.write

    def write(rows: Any) -> None:
        raise error()

    store.write = write  # type: ignore[method-assign]
    try:
        yield
    finally:
        store.write = whole  # type: ignore[method-assign]


@pytest.mark.parametrize("full", [True, False], ids=["full", "broken"])
async def test_without_a_receipt_nothing_is_served(rig: Rig, full: bool) -> None:
    node, blob = rig.nodes[2], rig.receipt.ref.blob

    def error() -> HcefsError:
        if full:
            return Exhausted("no space", reason="disk-full")
        return Unavailable("the disk failed", reason="disk-error")

    with failing(node, error):
        kind, reason = (
            ("exhausted", "receipt-disk-full") if full else ("unavailable", "receipt-failed")
        )
        caught = await rig.refused(get(rig, node), kind, reason)
        assert "nothing is served" in caught.message
        # A holder without receipts is one holder fewer: the others serve.
        stream = await rig.doctor.get(
            rig.record,
            blob,
            grant=rig.read_grant.grant,
            node=rig.nodes[0].config.client_address,
        )
        assert await stream.read() == rig.payload
    stream = await rig.doctor.get(
        rig.record, blob, grant=rig.read_grant.grant, node=node.config.client_address
    )
    assert await stream.read() == rig.payload
    assert [r.sequence for r in receipts(node)] == list(range(1, len(_rows(node)) + 1))


def _served(rig: Rig) -> Counter[str]:
    """Gets that the nodes have answered, by outcome; a degraded one is one that was served."""
    found: Counter[str] = Counter()
    for node in rig.nodes:
        for family in node.process.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "hcefs_gets_total":
                    outcome = sample.labels["outcome"]
                    found["ok" if outcome == "degraded" else outcome] += int(sample.value)
    return found


async def test_receipts_equal_accesses_under_load(rig: Rig) -> None:
    watch = Watch(rig)
    gets = 24

    async def once(number: int) -> None:
        stream = await rig.doctor.get(
            rig.record,
            rig.receipt.ref.blob,
            start=1000 * number,
            length=1000,
            grant=rig.read_grant.grant,
            node=rig.nodes[number % 6].config.client_address,
        )
        assert await stream.read() == rig.payload[1000 * number :][:1000]

    before = _served(rig)
    await asyncio.gather(*map(once, range(gets)))
    await rig.until(lambda: (_served(rig) - before)["ok"] >= gets)
    counted = _served(rig) - before
    found = [r for r in watch.new() if r.method == "get"]
    accesses = of_kind(found, ACCESS)
    # All are equal, but where a client on a busy machine had to ask again.
    assert gets <= counted["ok"] <= len(accesses) <= counted.total()
    assert len({r.request for r in accesses}) == len(accesses)
    assert {r.range_start for r in accesses} == {1000 * number for number in range(gets)}
    holders = Counter(r.request for r in of_kind(found, RELEASE))
    for access in accesses:
        # k = 4 shards are read, at most one of them from the gateway's own disk.
        assert holders[access.request] >= 3
    assert set(holders) == {r.request for r in accesses}
    await rig.until(lambda: {c.request for c in of_kind(watch.new(), CLOSING)} >= set(holders))


async def test_the_patient_proves_who_touched_a_record(rig: Rig) -> None:
    record = (await rig.patient.open_record()).record
    append = (await rig.give(rig.hospital, Action.APPEND, record=record)).grant
    blob = (await rig.hospital.put(record, DATA, grant=append)).ref.blob
    await (await rig.patient.get(record, blob, purpose="PATRQT")).read()
    with pytest.raises(Denied):
        await rig.hospital.stat(record, blob, grant=append)

    async def proved() -> bool:
        _, audit = await rig.patient.audit(record)
        old = [t for t in audit.touches if t.receipt.method != "audit"]
        return all(t.is_proved for t in old)

    async with asyncio.timeout(60):
        while not await proved():
            await rig.runtime.sleep(0.2)
    file, audit = await rig.patient.audit(record)
    assert audit.is_complete
    assert len(file.nodes) == len(rig.nodes)
    again = check_audit(AuditFile.decode(file.encode()))
    assert again == audit
    touched = Counter(
        (t.receipt.presenter, t.receipt.method)
        for t in audit.touches
        if t.receipt.receipt_kind is ACCESS and t.receipt.permitted
    )
    assert touched[rig.hospital.account, "put-many"] == 1
    assert touched[rig.patient.account, "get-many"] == 1
    denied = [t.receipt for t in audit.touches if not t.receipt.permitted]
    assert {(r.presenter, r.method, r.reason) for r in denied} == {
        (rig.hospital.account, "stat", "action-not-granted")
    }
    _lies_are_found(file)
    with pytest.raises(Denied):
        await rig.doctor.audit(record)


def _lies_are_found(file: AuditFile) -> None:
    at = next(i for i, node in enumerate(file.nodes) if node.proofs)
    node = file.nodes[at]
    proof = node.proofs[0]
    lie = replace(Receipt.decode(proof.receipt), presenter=node.node).encode()
    lies = [
        replace(node, proofs=(replace(proof, receipt=lie), *node.proofs[1:])),
        replace(node, anchors=node.anchors[1:]),
        replace(node, proofs=(*node.proofs, proof)),
        replace(node, problem="away"),
    ]
    for changed in lies:
        nodes = (*file.nodes[:at], changed, *file.nodes[at + 1 :])
        with pytest.raises(HcefsError):
            check_audit(replace(file, nodes=nodes))
    other = replace(file, record=RecordId(bytes(16)))
    with pytest.raises(HcefsError):
        check_audit(other)


async def test_a_node_without_an_answer_is_named(rig: Rig) -> None:
    node = rig.nodes[3]
    await node.process.stop()
    try:
        file, audit = await rig.patient.audit(rig.record)
    finally:
        await rig._restart(node, node.config, True)
    assert [each.node_id for each in audit.silent] == [node.number]
    assert not audit.is_complete
    assert check_audit(file) == audit


async def test_the_chain_goes_on_after_a_restart(rig: Rig) -> None:
    node = rig.nodes[4]
    before = receipts(node)[-1]
    async with rig.restarted(node):
        await rig.doctor.stat(
            rig.record,
            rig.receipt.ref.blob,
            grant=rig.read_grant.grant,
            node=node.config.client_address,
        )
        after = receipts(node)
    assert [r.sequence for r in after] == list(range(1, len(after) + 1))
    assert after[before.sequence - 1] == before
    assert len(after) > before.sequence


async def test_who_asks_for_proofs_does_not_wait_for_the_next_anchor(rig: Rig) -> None:
    """A node that would anchor in an hour anchors when the owner asks."""
    node = rig.nodes[3]
    slow = replace(rig.upkeep, anchor_s=3600.0)
    async with rig.restarted(node, upkeep=slow):
        anchorer = node.process.node.anchorer
        address = node.config.client_address
        await rig.doctor.stat(
            rig.record, rig.receipt.ref.blob, grant=rig.read_grant.grant, node=address
        )
        assert anchorer.unanchored() > 0
        before = rig.ledger.log.receipt_anchor(node.account)
        await rig.patient.audit(rig.record)

        def anchored() -> bool:
            return rig.ledger.log.receipt_anchor(node.account) != before

        await rig.until(anchored)
