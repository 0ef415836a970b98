"""Each promise of docs/ARCHITECTURE.md, put to the test on real processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.access.facts import Action
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.client.client import Client
from hcefs.crypto.keys import hkdf_expand
from hcefs.crypto.stream import segment_secret
from hcefs.errors import (
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    Unavailable,
)
from hcefs.evidence.receipt import ReceiptKind
from hcefs.ids import BlobId, GrantId, PutKey, RecordId
from hcefs.integrity import blake3_digest, merkle_root, root_of_peaks, verify_consistency
from hcefs.ledger.transactions import (
    Append,
    AppendEntry,
    GiveGrant,
    RevokeGrant,
    Transaction,
    sign_transaction,
)
from tests.cluster.cases import CASES, Case
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import (
    HOUR_MS,
    NODES,
    LiveCluster,
    StepClient,
    folder_files,
    refused,
    some_bytes,
    until,
)
from tests.cluster.offline import Disclosed, check_disks, tamper_and_find
from tests.cluster.plain import READS, ByRight, PlainLedger, PlainNode, PutHead

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

MIB = 1 << 20
SIZES = (0, 1, MIB, 5 * MIB + 1)


async def read(client: Client, record: RecordId, blob: BlobId, grant: GrantId | None) -> bytes:
    stream = await client.get(record, blob, grant=grant)
    return await stream.read()


# -- 1


async def put_some(cluster: LiveCluster, hospital: Client) -> dict[BlobId, bytes]:
    """One blob of each size, every other one sealed by the client."""
    stored = {}
    for number, size in enumerate(SIZES):
        data = some_bytes(size, number)
        receipt = await hospital.put(
            cluster.record,
            data,
            grant=cluster.grants["hospital"],
            seal=("node", "client")[number % 2],
        )
        assert (receipt.durable_shards, receipt.total_shards, receipt.degraded) == (6, 6, False)
        stored[receipt.ref.blob] = data
    return stored


async def all_read(cluster: LiveCluster, doctor: Client, stored: dict[BlobId, bytes]) -> bool:
    """Read everything; other bytes are a failure, nodes that are not back yet are not."""
    for blob, data in stored.items():
        assert await read(doctor, cluster.record, blob, cluster.grants["doctor"]) == data
    return True


async def test_promise_1_acknowledged_means_durable(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    stored = await put_some(cluster, hospital)
    everyone = cluster.folder.process_names()
    assert cluster.alive() == everyone
    cluster.kill(*everyone)
    assert cluster.alive() == []
    await cluster.start(*everyone)
    await until(lambda: all_read(cluster, doctor, stored), "everything reads back")
    listing = await doctor.list(cluster.record, grant=cluster.grants["doctor"])
    assert listing.complete
    assert stored.keys() <= {entry.blob for entry in listing}
    for lost in ((1, 2), (3, 5), (6, 4)):
        names = [node_name(number) for number in lost]
        cluster.kill(*names)
        await until(lambda: all_read(cluster, doctor, stored), f"it reads without nodes {lost}")
        await cluster.start(*names)


async def test_promise_1_acknowledged_as_degraded_means_durable_too(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    data = some_bytes(2 * MIB + 7, 11)
    cluster.kill("node-5")
    receipt = await hospital.put(cluster.record, data, grant=cluster.grants["hospital"])
    assert (receipt.durable_shards, receipt.total_shards, receipt.degraded) == (5, 6, True)
    # d = 5 and k = 4: one more may be lost.
    cluster.kill("node-1")
    assert await read(doctor, cluster.record, receipt.ref.blob, cluster.grants["doctor"]) == data


async def test_promise_1_a_put_is_never_falsely_acknowledged(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    patient = await open_client(cluster, "patient")
    grant = cluster.grants["hospital"]
    before = await patient.record(cluster.record)
    survivor = cluster.node(await patient.cluster_map(), 1).address

    async def killing() -> AsyncIterator[bytes]:
        yield some_bytes(3 * MIB, 21)
        cluster.kill("node-2", "node-3")
        yield some_bytes(3 * MIB, 22)

    # gRPC may lose the node's status while the client is still sending.
    with refused(Unavailable, "too-few-holders", "stream-reset"):
        await hospital.put(cluster.record, killing(), grant=grant, node=survivor)
    for seal in ("node", "client"):
        with refused(Unavailable, "too-few-holders"):
            await hospital.put(
                cluster.record, some_bytes(9, 23), grant=grant, seal=seal, node=survivor
            )
    after = await patient.record(cluster.record)
    assert (after.leaf_count, after.peaks) == (before.leaf_count, before.peaks)
    listing = await patient.list(cluster.record, purpose="PATRQT")
    assert listing.complete
    assert len({entry.leaf_index for entry in listing}) == before.leaf_count
    await cluster.start("node-3")
    receipt = await until(
        lambda: hospital.put(cluster.record, some_bytes(9, 23), grant=grant, seal="node"),
        "a put with one back",
    )
    assert (receipt.durable_shards, receipt.degraded) == (5, True)


# -- 2

MARKER = "the-finding-that-nobody-else-may-see"


async def test_promise_2_nodes_hold_no_key_that_opens_payloads(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    stored: dict[BlobId, bytes] = {}
    present = {}
    for number, seal in enumerate(("node", "client")):
        data = some_bytes(MIB + 4096, 30 + number)
        receipt = await hospital.put(
            record, data, grant=grants["hospital"], name=MARKER, labels=(MARKER,), seal=seal
        )
        stored[receipt.ref.blob] = data
        present[f"core digest {number}"] = receipt.ref.core_digest
        if seal == "node":
            assert await read(doctor, record, receipt.ref.blob, grants["doctor"]) == data
            # The next blob is of the next generation, and the link between them is stored.
            await patient.revoke(grants["doctor"])
    for blob, data in stored.items():
        assert await read(patient, record, blob, None) == data  # the node opens: it has the DEK
    for index, path in cluster.shards(next(iter(stored)).base).items():
        present[f"shard {index}"] = path.read_bytes()[1024:1056]
    absent = await secrets_of(cluster, patient, record, stored)
    absent |= {f"metadata of {record}": MARKER.encode()}
    folders = [cluster.folder.node(number) for number in range(1, NODES + 1)]
    found = await asyncio.to_thread(search, folders, absent | present)
    assert found == present.keys(), "what must be absent, or what shows that the search works"
    # The ledger knows leaves: not even blob ids, digests of cores or sizes.
    unknown = {f"base of {blob}": bytes(blob.base) for blob in stored}
    unknown |= {name: value for name, value in present.items() if name.startswith("core")}
    ledger = await asyncio.to_thread(search, [cluster.folder.ledger], absent | unknown)
    assert ledger == set()


async def secrets_of(
    cluster: LiveCluster, patient: StepClient, record: RecordId, stored: dict[BlobId, bytes]
) -> dict[str, bytes]:
    """Every secret that leads to these payloads, and runs of the payloads themselves."""
    found = {}
    for name, keys in cluster.accounts.items():
        found[f"receiving seed of {name}"] = keys.receiving_seed
        found[f"record master of {name}"] = keys.record_master
        found[f"token seed of {name}"] = keys.token_seed
        found[f"signing seed of {name}"] = keys.signing_seed
    for generation in (0, 1):
        seed = cluster.accounts["patient"].record_key(record, generation).seed
        found[f"record key of generation {generation}"] = seed
    for blob, data in stored.items():
        dek = await patient.dek(record, blob)
        found[f"DEK of {blob}"] = dek
        for index in (0, 1):
            secret = segment_secret(dek, index)
            found[f"secret {index} of {blob}"] = secret
            found[f"key {index} of {blob}"] = hkdf_expand(secret, b"hcefs/v1/key")
        for offset in (0, 4096, MIB // 2, MIB - 16, MIB, len(data) - 32):
            found[f"plaintext of {blob} at {offset}"] = data[offset : offset + 32]
    found |= {f"{name}, in hex": value.hex().encode() for name, value in found.items()}
    assert len(set(found.values())) == len(found)
    return found


def search(folders: list[Path], runs: dict[str, bytes]) -> set[str]:
    """The names of the byte runs that occur in any file of these folders."""
    found: set[str] = set()
    for path in folder_files(folders):
        data = path.read_bytes()
        found |= {name for name, run in runs.items() if run in data}
    return found


# -- 3


@pytest.fixture
async def blob(cluster: LiveCluster, open_client: OpenClient) -> BlobId:
    """A blob in the record of the shared cluster."""
    hospital = await open_client(cluster, "hospital")
    receipt = await hospital.put(
        cluster.record, some_bytes(100, 40), grant=cluster.grants["hospital"]
    )
    return receipt.ref.blob


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_promise_3_no_access_without_a_permission_true_now(
    cluster: LiveCluster,
    open_client: OpenClient,
    blob: BlobId,
    case: Case,
) -> None:
    """Whoever asks any node by hand, with everything right but the permission."""
    patient = await open_client(cluster, "patient")
    who, right, kind, reason = await case(patient, cluster)
    await patient.record(cluster.record)
    height = patient.height  # the blob and the case are on the ledger there
    for number, method in enumerate(READS, 1):
        node = cluster.node(await patient.cluster_map(), number)
        async with PlainNode(node, cluster.connection) as plain:
            allowed = ByRight(cluster.grants["doctor"])
            answer = await plain.read(
                cluster.caller("doctor"), method, cluster.record, blob, allowed, height
            )
            assert answer, "the same request is answered where there is a permission"
            with refused(kind, reason):
                await plain.read(cluster.caller(who), method, cluster.record, blob, right, height)


async def test_promise_3_no_append_without_a_permission_true_now(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    patient = await open_client(cluster, "patient")
    before = await patient.record(cluster.record)
    node = cluster.node(await patient.cluster_map(), 1)
    attempts = {
        "stranger": (GrantId.zero(), "not-permitted", "not-the-owner"),
        "operator-1": (GrantId.zero(), "not-permitted", "not-the-owner"),
        "doctor": (cluster.grants["doctor"], "action-not-granted", "action-not-granted"),
    }
    for who, (grant, told, reason) in attempts.items():
        head = PutHead.draw(cluster.runtime, cluster.record)
        async with PlainNode(node, cluster.connection) as plain:
            with refused(Denied, told):
                await plain.put(cluster.caller(who), head, [b"x"], 1, ByRight(grant))
        entry = AppendEntry(cluster.record, 0, bytes(32), head.commit_by_ms, grant)
        generation = before.generation
        entry = replace(entry, generation=generation)
        client = await open_client(cluster, who)
        with refused(Denied, reason):
            await client.transact(Append((entry,), PutKey(cluster.runtime.random(16))))
    assert (await patient.record(cluster.record)).leaf_count == before.leaf_count


LEASE_MS = 3_000


async def test_promise_3_a_stale_lease_fails_closed(
    fresh_cluster: MakeCluster, open_client: OpenClient
) -> None:
    cluster = await fresh_cluster(lease_ms=LEASE_MS)
    hospital = await open_client(cluster, "hospital")
    doctor = cluster.caller("doctor")
    right = ByRight(cluster.grants["doctor"])
    receipt = await hospital.put(
        cluster.record, some_bytes(50, 50), grant=cluster.grants["hospital"]
    )
    blob = receipt.ref.blob
    cluster_map = await hospital.cluster_map()

    async def outcome(plain: PlainNode, method: str) -> str:
        try:
            await plain.read(doctor, method, cluster.record, blob, right)
        except Unavailable as error:
            return error.reason
        return "served"

    async def outcomes() -> set[str]:
        found = set()
        for node in cluster_map.nodes:
            async with PlainNode(node, cluster.connection) as plain:
                found |= {await outcome(plain, method) for method in READS}
                found.add("healthy" if await plain.serves() else "not serving")
        return found

    async def all_serve() -> bool:
        return await outcomes() == {"served", "healthy"}

    async def none_serves() -> bool:
        return await outcomes() == {"stale-lease", "not serving"}

    await until(all_serve, "every node serves")
    cluster.pause(LEDGER)
    await until(none_serves, "every node refuses once its lease has run out")
    head = PutHead.draw(cluster.runtime, cluster.record)
    async with PlainNode(cluster_map.nodes[0], cluster.connection) as plain:
        with refused(Unavailable, "stale-lease"):
            append = ByRight(cluster.grants["hospital"])
            await plain.put(cluster.caller("hospital"), head, [b"x"], 1, append)
    cluster.kill(LEDGER)
    assert await none_serves()
    await cluster.start(LEDGER)
    await until(all_serve, "every node serves again")


# -- 4


async def read_until_the_end(
    cluster: LiveCluster, doctor: Client, blob: BlobId, first: int, got: set[int]
) -> None:
    """Get one range after the other, each with a start of its own, until the cluster is gone."""
    for start in range(first, first + 1000, 7):
        stream = await doctor.get(
            cluster.record, blob, grant=cluster.grants["doctor"], start=start, length=64
        )
        await stream.read()
        got.add(start)


async def test_promise_4_access_leaves_evidence_first(
    mortal_cluster: LiveCluster, open_client: OpenClient
) -> None:
    """Whatever was received before every process is killed at once has its receipts after it."""
    cluster = mortal_cluster
    doctor = await open_client(cluster, "doctor")
    patient = await open_client(cluster, "patient")
    hospital = await open_client(cluster, "hospital")
    data = some_bytes(2 * MIB, 44)
    stored = await hospital.put(cluster.record, data, grant=cluster.grants["hospital"])
    blob = stored.ref.blob
    got: set[int] = set()
    readers = [
        asyncio.create_task(read_until_the_end(cluster, doctor, blob, first, got))
        for first in range(7)
    ]

    async def enough() -> bool:
        return len(got) >= 40

    await until(enough, "some ranges were received")
    everyone = cluster.folder.process_names()
    cluster.kill(*everyone)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await cluster.start(*everyone)

    async def complete() -> bool:
        _, audit = await patient.audit(cluster.record)
        return not audit.silent

    await until(complete, "every node answers with its receipts")
    _, audit = await patient.audit(cluster.record)
    assert audit.unexplained == ()
    about = [each.receipt for each in audit.touches if each.receipt.blobs == (blob,)]
    accesses = {r.range_start: r for r in about if r.receipt_kind is ReceiptKind.ACCESS}
    assert got <= accesses.keys()
    for start in got:
        access = accesses[start]
        assert (access.presenter, access.permitted) == (doctor.account, True)
        holders = {r.node for r in about if r.request == access.request and r.is_decision}
        # k = 4 shards were read, and the node that was called may hold one of them.
        assert len(holders) >= 4
    numbers = Counter((r.node, r.sequence) for r in about)
    assert max(numbers.values()) == 1


# -- 5


def states(paths: dict[int, Path]) -> dict[int, tuple[int, int, bytes]]:
    """What must never change about files: inode, time of modification, contents."""
    found = {}
    for index, path in paths.items():
        status = path.stat()
        found[index] = (status.st_ino, status.st_mtime_ns, blake3_digest(path.read_bytes()))
    return found


async def test_promise_5_nothing_is_overwritten(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    hospital = await open_client(cluster, "hospital")
    doctor = await open_client(cluster, "doctor")
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    first_data, second_data = some_bytes(MIB + 5, 60), some_bytes(MIB + 5, 61)
    first = await hospital.put(record, first_data, grant=grants["hospital"])
    blob = first.ref.blob
    before = states(cluster.shards(blob.base))
    assert sorted(before) == list(range(6))
    head = replace(PutHead.draw(cluster.runtime, record), blob=blob)
    append = ByRight(grants["hospital"])
    for node, data in zip(
        (await hospital.cluster_map()).nodes, (second_data, first_data, b"") * 2, strict=True
    ):
        async with PlainNode(node, cluster.connection) as plain:
            parts = [data[start : start + MIB] for start in range(0, len(data), MIB)]
            with refused(Conflict, "shard-exists"):
                await plain.put(cluster.caller("hospital"), head, parts, len(data), append)
    # A correction is another blob, and an entry that names the one it corrects.
    second = await hospital.put(record, second_data, grant=grants["hospital"], corrects=first.leaf)
    listing = await doctor.list(record, grant=grants["doctor"])
    assert listing.complete
    assert [entry.blob for entry in listing] == [blob, second.ref.blob]
    assert [entry.leaf for entry in listing] == [first.leaf, second.leaf]
    assert [entry.previous_leaf for entry in listing] == [b"", first.leaf]
    assert await read(doctor, record, blob, grants["doctor"]) == first_data
    assert await read(doctor, record, second.ref.blob, grants["doctor"]) == second_data
    assert states(cluster.shards(blob.base)) == before


async def test_promise_5_an_entry_stays_as_it_is(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    hospital = await open_client(cluster, "hospital")
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    end = cluster.runtime.now_ms() + HOUR_MS
    put_key = PutKey(cluster.runtime.random(16))

    def append(commitment: bytes, key: PutKey) -> Append:
        return Append((AppendEntry(record, 0, commitment, end, grants["hospital"]),), key)

    done = await hospital.transact(append(bytes(32), put_key))
    old = await patient.leaves(record, 0, 10)
    again = await hospital.transact(append(b"\x01" * 32, put_key))
    assert again.leaves == done.leaves
    assert await patient.leaves(record, 0, 10) == old
    other = PutKey(cluster.runtime.random(16))
    await hospital.transact(append(b"\x02" * 32, other))
    new = await patient.leaves(record, 0, 10)
    assert (len(old), len(new), new[:1]) == (1, 2, old)
    async with PlainLedger(cluster.connection) as ledger:
        proof = await ledger.consistency(cluster.caller("patient"), record, len(old))
    roots = [merkle_root([leaf.hash() for leaf in leaves]) for leaves in (old, new)]
    verify_consistency(1, roots[0], 2, roots[1], list(proof.path))
    forged = merkle_root([replace(old[0], time_ms=old[0].time_ms + 1).hash()])
    with pytest.raises(Corrupt):
        verify_consistency(1, forged, 2, roots[1], list(proof.path))


async def test_promise_5_operators_cannot_act_for_a_patient(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    operator = await open_client(cluster, "operator-1")
    hospital = await open_client(cluster, "hospital")
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    before = await patient.record(record)
    end = cluster.runtime.now_ms() + HOUR_MS
    entry = AppendEntry(record, 0, bytes(32), end, GrantId.zero())
    given = GiveGrant(
        grant=GrantId(cluster.runtime.random(16)),
        record=record,
        blob=None,
        range_start=0,
        range_length=0,
        grantee=operator.account,
        actions=Action.READ,
        purposes=("HOPERAT",),
        not_before_ms=0,
        not_after_ms=end,
        parent=None,
    )
    attempts: list[tuple[Transaction, str]] = [
        (Append((entry,), PutKey(cluster.runtime.random(16))), "not-the-owner"),
        (replace_grant(entry, grants["hospital"], cluster), "not-the-grantee"),
        (RevokeGrant(grants["doctor"], 0, b""), "not-the-granter"),
        (given, "not-the-owner"),
    ]
    for transaction, reason in attempts:
        with refused(Denied, reason):
            await operator.transact(transaction)
        # Nor do all of them together count as the patient.
        everyone = sign_transaction(
            transaction,
            cluster.connection.cluster,
            [
                (keys.account, keys.key_version, keys.signing_key)
                for name, keys in cluster.accounts.items()
                if name.startswith("operator-")
            ],
        )
        with refused(Invalid, "one-signature"):
            await operator.submit(everyone)
    with refused(Denied, "not-the-granter"):
        await hospital.transact(RevokeGrant(grants["doctor"], 0, b""))
    assert await patient.record(record) == before
    assert {grant.grant for grant in await patient.grants(record)} == set(grants.values())
    assert not any(grant.revoked_height for grant in await patient.grants(record))


def replace_grant(entry: AppendEntry, grant: GrantId, cluster: LiveCluster) -> Append:
    return Append((replace(entry, grant=grant),), PutKey(cluster.runtime.random(16)))


# -- 6


async def test_promise_6_verification_needs_no_keys(
    mortal_cluster: LiveCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    cluster = mortal_cluster
    hospital = await open_client(cluster, "hospital")
    patient = await open_client(cluster, "patient")
    record, grants = await cluster.open_record(patient)
    whole = []
    leaf = b""
    for number, size in enumerate(SIZES):
        receipt = await hospital.put(
            record,
            some_bytes(size, 70 + number),
            grant=grants["hospital"],
            corrects=leaf,
            seal="node",
        )
        leaf = receipt.leaf
        whole.append(receipt)
    packed = [(record, some_bytes(3_000 + number, number)) for number in range(40)]
    many = await hospital.put_many(packed, grant=grants["hospital"])
    level = await cluster.level()
    killed = await asyncio.to_thread(cluster.processes.stop_all)
    assert killed == [], "SIGTERM is enough"
    disclosed = await asyncio.to_thread(Disclosed.copy_of, cluster.folder, tmp_path / "copy")
    found = await asyncio.to_thread(check_disks, disclosed)
    for receipt in whole:
        shards = found[receipt.ref.blob.base]
        assert sorted(shards) == list(range(6))
        assert shards[0].footer.pieces == max(1, -(-receipt.core.plaintext_length // MIB))
    pack = found[many[0].ref.blob.base]
    assert {core.blob for core, _ in pack[0].payloads} == {each.ref.blob for each in many}
    chains = []
    for path in disclosed.ledgers:
        with disclosed.ledger(path) as log:
            height = await asyncio.to_thread(log.verify_chain)
            assert log.height == height >= level
            chains.append([log.block_hash(each) for each in range(height + 1)])
            fact = log.record(record)
            assert fact is not None
            hashes = [each.hash() for each in log.leaves(record, 0, len(whole))]
            assert hashes == [receipt.leaf for receipt in whole]
            hashes += [each.hash() for each in log.leaves(record, len(whole), 10)]
            assert len(hashes) == len(whole) + 1, "a pack adds one leaf to a record"
            assert merkle_root(hashes) == root_of_peaks(fact.peaks)
    # A node may have anchored receipts while the others were being stopped.
    whole_chain = max(chains, key=len)
    assert all(chain == whole_chain[: len(chain)] for chain in chains), "all have one chain"
    await asyncio.to_thread(tamper_and_find, disclosed, whole[-1].ref.blob.base, record)
