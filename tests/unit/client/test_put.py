"""Puts: cutting sources, and what a node's answer must be before it is signed for."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcefs.client.authorize import Right
from hcefs.client.put import Attempt, PutOrder, check_order, check_stored
from hcefs.client.sources import Source, read_pieces, segments
from hcefs.crypto.stream import SEGMENT_SIZE
from hcefs.errors import Corrupt, Invalid
from hcefs.formats.manifest import Core, Layout
from hcefs.ids import BlobId, GrantId, RecordId
from hcefs.wire.v1 import blob_pb2
from tests.unit.client.world import (
    DOCTOR,
    OWNER,
    RECORD,
    FakeRuntime,
    PutBlob,
    generation,
)

LENGTHS = [0, 1, SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 2 * SEGMENT_SIZE]


async def cut(source: Source) -> list[tuple[bytes, bool]]:
    pieces = read_pieces(source, FakeRuntime())
    return [(bytes(segment), last) async for segment, last in segments(pieces)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["bytes", "view", "path", "file", "iterator"])
async def test_every_source_gives_full_segments_and_one_last(
    tmp_path: Path, kind: str, length: int
) -> None:
    data = bytes(range(251)) * (length // 251 + 1)
    data = data[:length]
    path = tmp_path / "source"
    path.write_bytes(data)

    async def odd_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_003):
            yield data[start : start + 100_003]
            yield b""

    sources: dict[str, Any] = {
        "bytes": data,
        "view": memoryview(data),
        "path": path,
        "file": io.BytesIO(data),
        "iterator": odd_pieces(),
    }
    found = await cut(sources[kind])
    assert b"".join(segment for segment, _ in found) == data
    assert all(len(segment) == SEGMENT_SIZE for segment, _ in found[:-1])
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True]
    assert len(found) == max(1, -(-length // SEGMENT_SIZE))


@pytest.mark.parametrize("source", [7, "text", io.StringIO("text"), Path("/nowhere/at/all")])
async def test_what_is_no_source(source: Any) -> None:
    with pytest.raises(Invalid) as caught:
        await cut(source)
    assert caught.value.reason == "bad-source"


def order(**changes: Any) -> PutOrder:
    fields: dict[str, Any] = {
        "record": RECORD,
        "right": Right(GrantId.zero(), "TREAT"),
        "content_type": "text/plain",
        "name": "note",
        "labels": (),
        "client_seals": False,
        "direct": False,
        "expected_length": 0,
        "profile": "",
        "previous_leaf": b"",
        "sign_content": True,
        "progress": None,
    }
    return PutOrder(**(fields | changes))


def test_what_is_refused_before_a_byte_is_sent() -> None:
    check_order(order(name="n" * 16_000, previous_leaf=bytes(32)))
    for changes in ({"name": "n" * 16_384}, {"previous_leaf": b"short"}):
        with pytest.raises(Invalid):
            check_order(order(**changes))


PUT = PutBlob(b"plaintext")


def attempt(**changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "blob": PUT.core.blob,
        "salt": PUT.opening.salt,
        "generation": generation(0),
        "commit_by_ms": PUT.core.commit_by_ms,
        "request_id": bytes(16),
        "dek": b"",
    }
    return Attempt(**(fields | changes))


def answer(core: Core = PUT.core, layout: Layout = PUT.layout) -> blob_pb2.PutResponse:
    return blob_pb2.PutResponse(
        core=core.encode(), layout=layout.encode(), durable_shards=6, total_shards=6
    )


def check(given: blob_pb2.PutResponse, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "order": order(),
        "attempt": attempt(),
        "writer": OWNER.account,
        "length": 9,
        "sealed_metadata": b"",
        "answer": given,
    }
    return check_stored(**(arguments | changes))


def test_an_answer_about_what_was_sent() -> None:
    stored = check(answer())
    assert stored.core == PUT.core
    assert stored.opening == PUT.opening
    assert (stored.durable_shards, stored.total_shards, stored.degraded) == (6, 6, False)
    check(answer(), order=order(profile="ec-4-2"))


@pytest.mark.parametrize(
    "changes",
    [
        {"blob": BlobId.of(b"x" * 16)},
        {"record": RecordId(b"x" * 16)},
        {"generation": 1},
        {"plaintext_length": 8},
        {"writer": DOCTOR.account},
        {"commit_by_ms": 1},
        {"data_digests": (bytes(32),) * 4},
        {"k": 3, "data_digests": PUT.core.data_digests[:3]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_answer_about_something_else_is_not_signed_for(changes: dict[str, Any]) -> None:
    with pytest.raises(Corrupt) as caught:
        check(answer(core=replace(PUT.core, **changes)))
    assert caught.value.reason == "wrong-core"


def test_another_layout_is_not_signed_for() -> None:
    for layout in (
        replace(PUT.layout, record=RecordId(b"x" * 16)),
        replace(PUT.layout, base=BlobId.of(b"x" * 16).base),
        replace(PUT.layout, profile="of-nobody"),
    ):
        with pytest.raises(Corrupt):
            check(answer(layout=layout))
    with pytest.raises(Corrupt):
        check(answer(), order=order(profile="copy-3"))


def test_a_sealing_client_knows_its_key_and_metadata_again() -> None:
    own = {"attempt": attempt(dek=PUT.dek), "sealed_metadata": PUT.core.sealed_metadata}
    check(answer(), **own)
    with pytest.raises(Corrupt):
        check(answer(), **(own | {"attempt": attempt(dek=bytes(32))}))
    with pytest.raises(Corrupt):
        check(answer(), **(own | {"sealed_metadata": b"other"}))


def test_the_data_key_of_an_attempt_is_not_printed() -> None:
    assert "dek" not in repr(attempt(dek=b"\xab" * 32))
