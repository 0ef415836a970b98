"""What follows from what holders say of one blob."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import cast

import pytest

from hcefs.client.ledger import LedgerClient
from hcefs.client.verify import Tally, VerifyClient, judge
from hcefs.ids import BlobBase
from hcefs.placement.ring import seats
from hcefs.runtime import SystemRuntime
from hcefs.testing.local_cluster import LocalCluster
from hcefs.wire.v1 import admin_pb2

BASE = BlobBase(bytes(range(16)))
PROFILE = "ec-4-2"
LAYOUT = b"L" * 32
Shard = admin_pb2.AuditedShard
Change = Callable[[Shard], None]

RUNTIME = SystemRuntime()
MAP = LocalCluster(RUNTIME, 7).map
RUNTIME.close()
ROW = {seat.index: seat.node.node_id for seat in seats(MAP, PROFILE, bytes(BASE))}


def said(changes: dict[int, Change | None]) -> dict[int, list[Shard]]:
    """All holders with a whole shard, but for some: changed, or (None) without it."""
    answers: dict[int, list[Shard]] = {node.node_id: [] for node in MAP.nodes}
    for index, node_id in ROW.items():
        shard = Shard(
            base=bytes(BASE), index=index, profile=PROFILE, state=admin_pb2.SHARD_STATE_WHOLE,
            layout_profile=PROFILE, layout_version=1, layout_digest=LAYOUT, committed=True,
        )  # fmt: skip
        change = changes.get(index, as_it_is)
        if change is not None:
            change(shard)
            answers[node_id].append(shard)
    return answers


def as_it_is(_: Shard) -> None:
    """Nothing is wrong with it."""


def damaged(shard: Shard) -> None:
    shard.state, shard.reason = admin_pb2.SHARD_STATE_DAMAGED, "damaged-piece"


def other_layout(shard: Shard) -> None:
    shard.layout_digest = b"O" * 32


def pending(shard: Shard) -> None:
    shard.committed = False


def bad_rows(shard: Shard) -> None:
    shard.problem = "rows-disagree"


def former(shard: Shard) -> None:
    shard.layout_profile = "ec-8-3"


@pytest.mark.parametrize(
    ("changes", "away", "state", "live"),
    [
        ({}, (), "full", 6),
        ({0: None}, (), "degraded", 5),
        ({0: None, 5: None}, (), "degraded", 4),
        ({0: None, 5: None, 3: None}, (), "lost", 3),
        ({0: None, 5: None, 3: None}, (3,), "unreachable", 3),
        ({0: damaged}, (), "damaged", 5),
        ({0: damaged, 1: damaged, 2: damaged}, (), "lost", 3),
        ({0: other_layout}, (), "damaged", 5),
        ({4: bad_rows}, (), "damaged", 5),
        (dict.fromkeys(range(6), pending), (), "pending", 6),
        ({**dict.fromkeys(range(6), pending), 2: None}, (), "pending", 5),
        (dict.fromkeys(range(5), pending), (), "full", 6),
    ],
)
def test_states(
    changes: dict[int, Change | None], away: tuple[int, ...], state: str, live: int
) -> None:
    verdict = judge(MAP, PROFILE, BASE, said(changes), [ROW[index] for index in away])
    assert verdict is not None
    assert (verdict.state, verdict.live, verdict.margin) == (state, live, live - 4)
    tally = Tally()
    tally.enter([verdict])
    assert tally.is_whole == (state in ("full", "pending"))


def test_seats_say_who_lacks_what() -> None:
    answers = said({0: None, 1: damaged})
    spare = next(node.node_id for node in MAP.nodes if node.node_id not in ROW.values())
    copy = said({})[ROW[0]][0]
    answers[spare].append(copy)
    verdict = judge(MAP, PROFILE, BASE, answers, [])
    assert verdict is not None
    zero, one = verdict.seats[:2]
    assert (zero.state, zero.elsewhere) == ("missing", (spare,))
    assert (one.state, one.reason) == ("damaged", "damaged-piece")
    assert verdict.live == 5


def test_shards_of_a_former_layout_are_no_blob() -> None:
    assert judge(MAP, PROFILE, BASE, said(dict.fromkeys(range(6), former)), []) is None


def test_no_answer_of_one_node_makes_less_whole_more() -> None:
    """Whatever one holder says of its own shard, the others count as before."""
    for change, index in itertools.product((damaged, other_layout, bad_rows, former, None), ROW):
        verdict = judge(MAP, PROFILE, BASE, said({index: change, (index + 1) % 6: None}), [])
        assert verdict is not None
        assert verdict.live == 4
        assert verdict.state != "full"


class Answering:
    """Nodes without any shard, the first of which knows of a blob by its record."""

    def __init__(self, lost: list[bytes], unheard: list[bytes]) -> None:
        self.answer = admin_pb2.FindLostResponse(lost=lost, unheard=unheard)
        self.asked: dict[int, int] = {}

    async def verify(self, address: str, *_: object) -> admin_pb2.VerifyResponse:
        return admin_pb2.VerifyResponse()

    async def find_lost(self, address: str, partitions: list[int]) -> admin_pb2.FindLostResponse:
        for partition in partitions:
            self.asked[partition] = self.asked.get(partition, 0) + 1
        return self.answer


async def test_what_only_a_record_names_is_lost_and_entered_once() -> None:
    other = BlobBase(bytes(16))
    answering = Answering([bytes(BASE)], [bytes(other)])
    client, tally = VerifyClient(cast(LedgerClient, answering)), Tally()
    found = await client.partitions(MAP, PROFILE, 0, 4, tally)
    found += await client.partitions(MAP, PROFILE, 4, 4, tally)
    assert {each.base: (each.state, each.live) for each in found} == {
        BASE: ("lost", 0),
        other: ("unreachable", 0),
    }
    assert len(found) == 2
    assert not tally.is_whole
    assert answering.asked == dict.fromkeys(range(8), 1)
