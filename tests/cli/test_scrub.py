"""What the verbs of the scrub show: nodes that answer, nodes that do not, and quarantines."""

from __future__ import annotations

import io

from rich.console import Console

from hcefs.cli import scrub
from hcefs.errors import Unavailable
from hcefs.wire.v1 import admin_pb2

NOW_MS = 1_800_000_000_000
ANSWER = admin_pb2.ScrubResponse(
    cycle=3,
    stage="shards 1f",
    progress_permille=125,
    shards=10,
    read_bytes=1 << 20,
    rows=7,
    damaged=1,
    disagreements=2,
    undecided=1,
    superfluous=5,
    oldest_verified_ms=NOW_MS - 3_600_000,
    disk_state="ok",
    warnings=["look here"],
    quarantined=[
        admin_pb2.QuarantinedShard(
            name="ab" * 16 + ".2.0", size=500, profile="ec-4-2", reason="damaged-piece",
            at_ms=NOW_MS - 1000,
        )
    ],
)  # fmt: skip


def shown(nodes: list[dict[str, object]]) -> str:
    out = io.StringIO()
    scrub._print_scrub(Console(file=out, width=160), nodes)
    return out.getvalue()


def test_a_node_and_its_quarantine() -> None:
    data = scrub._scrub_data("node-1", ANSWER, NOW_MS)
    assert data["oldest_unverified_ms"] == 3_600_000
    assert data["progress"] == 0.125
    assert data["quarantined"][0]["age_ms"] == 1000
    text = shown([data])
    for word in ("node-1", "shards 1f", "12%", "damaged-piece", "warning: node-1: look here"):
        assert word in text
    assert (data["disagreements"], data["undecided"], data["superfluous"]) == (2, 1, 5)
    assert "2 manifests differ between holders, 5 shards are superfluous" in text


def test_a_node_that_has_never_read_everything() -> None:
    data = scrub._scrub_data("node-1", admin_pb2.ScrubResponse(), NOW_MS)
    assert data["oldest_unverified_ms"] is None
    assert "never" in shown([data])


def test_a_node_that_does_not_answer() -> None:
    data = scrub._scrub_data("node-2", Unavailable("away", reason="unreachable"), NOW_MS)
    assert data == {"node": "node-2", "failure": "unavailable: unreachable"}
    assert "unavailable: unreachable" in shown([data])


def test_a_collection_says_why() -> None:
    answer = admin_pb2.CollectResponse(
        items=[
            admin_pb2.CollectItem(
                what="quarantined-shard", name="x", deleted=True, why="nobody knows it"
            ),
            admin_pb2.CollectItem(what="blob", name="y", deleted=False, why="kept for 5 s more"),
        ]
    )
    nodes = scrub._collections({"node-1": answer})
    for would, word in ((True, "would go"), (False, "deleted")):
        out = io.StringIO()
        scrub._print_collections(Console(file=out, width=160), nodes, would=would)
        assert word in out.getvalue()
        assert "nobody knows it" in out.getvalue()
        assert "kept for 5 s more" in out.getvalue()
