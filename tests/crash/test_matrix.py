"""The real process is killed at every crash point, started again, and nothing is wrong.

Whole old or whole new; nothing acknowledged is lost; nothing is half visible; the space of
what stopped is had back.  The fast tier kills each point once; ``make crash`` at every hit
that the scenarios name.
"""

from __future__ import annotations

import pytest
from _pytest.mark.structures import ParameterSet

from hcefs.crashpoints import CrashPoint
from tests.crash.conftest import PreparedOf
from tests.crash.driver import ALL, points_of

NAMES = """
    shard/begun shard/data-written shard/synced shard/linked shard/folder-synced shard/unlinked
    quarantine/linked quarantine/unlinked
    erase/tombstones erase/flushed erase/compacted erase/reopened erase/checked
    blob/pending blob/shard blob/key-row blob/rows
    opening/pending opening/rows box/record box/kept
    pack/pending pack/shard pack/keys pack/rows
    collect/rows collect/keys collect/shards collect/settled
    adopt/pending adopt/shard adopt/keys adopt/rows
    rebalance/filled rebalance/reported
    retire/rows retire/keys retire/shards retire/names retire/index retire/boxes
    reprofile/begun reprofile/written reprofile/signed reprofile/staged reprofile/placed
    reprofile/entered
    relayout/stage-named relayout/stage-shard relayout/place-keys relayout/place-rows
    relayout/enter-layout relayout/drop-shards relayout/drop-named
    replaced/names replaced/shards replaced/mark
    migrate/page migrate/mark
    receipts/made receipts/written receipts/cut receipts/anchor-submitted receipts/anchor-noted
    ledger/block-signed ledger/block-written ledger/head-signed ledger/head-written
    follower/verified follower/written follower/told
    stand-in/offered stand-in/taken stand-in/deleted stand-in/unmarked
    stand-in/rows-deleted stand-in/record-unmarked
    scrub/noted scrub/set-aside scrub/told scrub/cursor
    quarantine/discarded quarantine/forgotten
    damage/entered damage/settled repair/restored
    restoring/draft restoring/marked restoring/set-aside restoring/empty restoring/unnamed
    restoring/row restoring/unmarked
    erasure/noted erasure/keys erasure/keys-gone erasure/marked erasure/rows erasure/shards
    erasure/names erasure/unmarked erasure/index erasure/purged erasure/done
    term/begun term/superseded
    snapshot/part-kept snapshot/made snapshot/part-written snapshot/built snapshot/renamed
"""
FROZEN = frozenset(NAMES.split())
"""What there is to reach.  A point that goes is a change that nobody kills any more: take it
from here only together with the change."""


def cases() -> list[ParameterSet]:
    found = []
    seen: set[CrashPoint] = set()
    for scenario in ALL:
        for point, hits in points_of(scenario).items():
            for hit in hits:
                marks = [] if point not in seen else [pytest.mark.long]
                seen.add(point)
                case = pytest.param(
                    scenario, f"{point.value}:{hit}", id=f"{scenario}-{point.value}:{hit}",
                    marks=marks,
                )  # fmt: skip
                found.append(case)
    return found


def test_no_crash_point_disappears() -> None:
    assert {point.value for point in CrashPoint} >= FROZEN
    assert len(FROZEN) >= 30


def test_every_crash_point_is_killed_somewhere() -> None:
    """A new point needs a scenario that passes it, and its name in the list above."""
    killed = {point.value for scenario in ALL for point in points_of(scenario)}
    assert killed == {point.value for point in CrashPoint} == FROZEN


@pytest.mark.parametrize(("scenario", "armed"), cases())
def test_a_death_at_a_crash_point(prepared: PreparedOf, scenario: str, armed: str) -> None:
    found = prepared(scenario).crash(armed)
    assert not found, f"HCEFS_CRASH_POINT={armed}, {scenario}: {found}"
