"""What ``repair status`` says of blobs: also when there are none, and when nobody knows yet."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from hcefs.cli import repair
from hcefs.placement.cluster_map import ClusterMap
from hcefs.wire.v1 import admin_pb2

NOW_MS = 1_800_000_000_000


class Map:
    epoch = 3


def answer(*, ended: bool, blobs: int = 0) -> admin_pb2.RepairStatusResponse:
    if not ended:
        return admin_pb2.RepairStatusResponse(epoch=3)
    live = [admin_pb2.LiveBlobs(profile="ec-4-2", live=6, blobs=blobs)] if blobs else []
    last = admin_pb2.Stock(began_ms=NOW_MS - 2000, ended_ms=NOW_MS - 1000, blobs=live)
    return admin_pb2.RepairStatusResponse(epoch=3, last=last, whole_ms=NOW_MS - 1000)


def shown(said: dict[int, admin_pb2.RepairStatusResponse]) -> tuple[dict[str, Any], str]:
    data = repair._status_data(cast(ClusterMap, Map()), said, {})
    out = io.StringIO()
    repair._print_status(Console(file=out, width=160), data, NOW_MS)
    return data, out.getvalue()


@pytest.mark.parametrize(
    ("said", "words", "done"),
    [
        ({1: answer(ended=True), 2: answer(ended=True)}, "there are none", True),
        ({1: answer(ended=True), 2: answer(ended=False)}, "have ended (1 of 2 nodes)", False),
        ({1: answer(ended=False), 2: answer(ended=False)}, "no pass has ended", False),
        ({1: answer(ended=True, blobs=4)}, "4 of ec-4-2 with 6", True),
        ({}, "no pass has ended", False),
    ],
    ids=["no-blobs", "some-ended", "none-ended", "blobs", "nobody-answers"],
)
def test_blobs_by_live_shards(
    said: dict[int, admin_pb2.RepairStatusResponse], words: str, done: bool
) -> None:
    data, text = shown(said)
    assert words in text
    assert data["done"] is done
