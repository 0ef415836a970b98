"""A client made from proto/ alone: bulk messages framed by hand are ordinary protobuf."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import dek_commitment, open_envelope, seal_envelope, seal_metadata
from hcefs.crypto.stream import SEGMENT_SIZE, open_segment, seal_segment, segment_secret
from hcefs.formats.manifest import CONTENT_TAG, Core, KeyRow, Metadata, Opening
from hcefs.ids import BlobId, GrantId, PutKey, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.transactions import Append, AppendEntry, sign_transaction
from hcefs.wire.v1 import blob_pb2
from tests.cluster.conftest import OpenClient
from tests.cluster.live import LiveCluster, some_bytes
from tests.cluster.plain import Caller, PlainLedger, PlainNode, PutHead

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

PART = 700_001
"""Plaintext of a message: not a segment's size, so that nodes must cut anew."""


def dek_context(caller: Caller, record: RecordId, blob: BlobId) -> EnvelopeContext:
    return EnvelopeContext(
        "dek", SUITE_XWING, caller.keys.cluster, record, 0, bytes(blob), bytes(record)
    )


def signed_metadata(caller: Caller, head: PutHead, data: bytes) -> bytes:
    """What only readers see, with the writer's signature over the content."""
    metadata = Metadata("text/plain", "by hand", (), blake3_digest(data), b"")
    message = metadata.message(head.blob, head.record)
    signature = caller.keys.signing_key.sign(CONTENT_TAG, message)
    return replace(metadata, content_signature=signature).encode()


async def append(
    cluster: LiveCluster, caller: Caller, head: PutHead, answer: blob_pb2.PutResponse
) -> int:
    """Sign and submit the entry of what a node has stored; the height of its block."""
    core = Core.decode(answer.core)
    opening = Opening(head.salt, head.record, head.blob, core.digest(), b"")
    entry = AppendEntry(
        head.record, core.generation, opening.commitment(), head.commit_by_ms, GrantId.zero()
    )
    keys = caller.keys
    signed = sign_transaction(
        Append((entry,), PutKey(cluster.runtime.random(16))),
        keys.cluster,
        [(keys.account, keys.key_version, keys.signing_key)],
    )
    async with PlainLedger(cluster.connection) as ledger:
        submitted = await ledger.submit(signed)
    assert [leaf.record_id for leaf in submitted.leaves] == [bytes(head.record)]
    return submitted.height


async def fetched_dek(
    caller: Caller, node: PlainNode, record: RecordId, blob: BlobId, height: int
) -> tuple[bytes, Core]:
    """The DEK out of the key row, which the owner of the record can open."""
    answer = await node.read(caller, "stat", record, blob, min_height=height)
    row, core = KeyRow.decode(answer.key_row), Core.decode(answer.core)
    key = caller.keys.record_key(record, row.generation)
    return open_envelope(key, row.envelope, dek_context(caller, record, blob)), core


@pytest.mark.parametrize("size", [0, 1, SEGMENT_SIZE, 2 * SEGMENT_SIZE + 12_345])
async def test_a_generated_client_puts_and_gets(
    cluster: LiveCluster, open_client: OpenClient, size: int
) -> None:
    patient = await open_client(cluster, "patient")
    caller = cluster.caller("patient")
    record, data = cluster.record, some_bytes(size, 90)
    assert (await patient.record(record)).generation == 0
    head = PutHead.draw(cluster.runtime, record)
    metadata = signed_metadata(caller, head, data)
    parts = [data[start : start + PART] for start in range(0, size, PART)]
    cluster_map = await patient.cluster_map()
    async with PlainNode(cluster_map.nodes[0], cluster.connection) as node:
        answer = await node.put(caller, head, parts, size, metadata=metadata)
        assert (answer.durable_shards, answer.total_shards, answer.degraded) == (6, 6, False)
        height = await append(cluster, caller, head, answer)
    async with PlainNode(cluster_map.nodes[1], cluster.connection) as other:
        dek, core = await fetched_dek(caller, other, record, head.blob, height)
        assert core.plaintext_length == size
        first, messages = await other.get(caller, record, head.blob, dek=dek)
        assert (first.plaintext_length, first.range_length) == (size, size)
        assert b"".join(messages) == data
        # A range, opened by the secrets of its segments and of no other.
        start, length = size // 3, size // 2
        if length:
            covering = range(start // SEGMENT_SIZE, (start + length - 1) // SEGMENT_SIZE + 1)
            secrets = blob_pb2.SegmentSecrets(
                first=covering.start,
                secrets=b"".join(segment_secret(dek, index) for index in covering),
            )
            _, messages = await other.get(
                caller, record, head.blob, start=start, length=length, secrets=secrets
            )
            assert b"".join(messages) == data[start : start + length]
        # Sealed: one segment a message, opened here.
        _, messages = await other.get(caller, record, head.blob, sealed=True)
        opened = [
            open_segment(
                segment_secret(dek, index),
                head.blob,
                record,
                index == len(messages) - 1,
                sealed,
            )
            for index, sealed in enumerate(messages)
        ]
        assert b"".join(opened) == data
    # What was put without the SDK, the SDK reads.
    stream = await patient.get(record, head.blob)
    assert await stream.read() == data
    assert stream.metadata is not None
    assert stream.metadata.name == "by hand"


async def test_a_generated_client_seals_and_opens_itself(
    cluster: LiveCluster, open_client: OpenClient
) -> None:
    """The nodes never see plaintext or key; the SDK and this client read each other's blobs."""
    patient = await open_client(cluster, "patient")
    caller = cluster.caller("patient")
    record, data = cluster.record, some_bytes(SEGMENT_SIZE + 99, 91)
    head = PutHead.draw(cluster.runtime, record)
    dek = cluster.runtime.random(32)
    generation = await patient.generation(record, 0)
    envelope = seal_envelope(
        generation.public_key, dek, dek_context(caller, record, head.blob)
    ).encode()
    sealed = [
        seal_segment(segment_secret(dek, 0), head.blob, record, False, data[:SEGMENT_SIZE]),
        seal_segment(segment_secret(dek, 1), head.blob, record, True, data[SEGMENT_SIZE:]),
    ]
    metadata = signed_metadata(caller, head, data)
    cluster_map = await patient.cluster_map()
    async with PlainNode(cluster_map.nodes[2], cluster.connection) as node:
        answer = await node.put(
            caller,
            head,
            sealed,
            len(data),
            client_seal=blob_pb2.ClientSeal(
                dek_commitment=dek_commitment(dek), sealed_dek=envelope
            ),
            sealed_metadata=seal_metadata(dek, head.blob, record, metadata),
        )
        height = await append(cluster, caller, head, answer)
        _, messages = await node.get(caller, record, head.blob, min_height=height, sealed=True)
        assert messages == sealed
        by_sdk = await patient.put(record, data, seal="client")
        dek, _ = await fetched_dek(caller, node, record, by_sdk.ref.blob, by_sdk.height)
        _, messages = await node.get(caller, record, by_sdk.ref.blob, dek=dek)
        assert b"".join(messages) == data
    for seal in ("node", "client"):
        stream = await patient.get(record, head.blob, seal=seal)
        assert await stream.read() == data
