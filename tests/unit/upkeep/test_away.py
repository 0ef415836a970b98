"""Who is to be given up, from the reports alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hcefs.ids import AccountId
from hcefs.ledger.cluster_facts import MissedNode, ReportRow, UpkeepPolicy
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.upkeep.away import Verdict, agreed, is_cut_off, judge
from tests.unit.placement import maps

NOW_MS = 1_000_000
OUT_AFTER_MS = 60_000
POLICY = UpkeepPolicy(1, OUT_AFTER_MS, 1)
LONG, JUST, SHORT = NOW_MS - OUT_AFTER_MS - 1, NOW_MS - OUT_AFTER_MS, NOW_MS - OUT_AFTER_MS + 1
DIGEST = bytes(range(32))


@dataclasses.dataclass(frozen=True)
class _Account:
    active: bool = True


class View:
    """Reports of nodes: who misses whom since when."""

    def __init__(
        self,
        missed: dict[int, dict[int, int]],
        endorse: tuple[int, ...] = (),
        inactive: tuple[int, ...] = (),
        epoch: int = 1,
    ) -> None:
        self._inactive = {maps.account(number) for number in inactive}
        self._rows = {
            number: ReportRow(
                number,
                1,
                epoch,
                tuple(MissedNode(*pair) for pair in sorted(missed.get(number, {}).items())),
                DIGEST if number in endorse else b"",
            )
            for number in {*missed, *endorse}
        }

    def report(self, node_id: int) -> ReportRow | None:
        return self._rows.get(node_id)

    def account(self, account: AccountId) -> Any:
        return _Account(account not in self._inactive)


def judged(view: View, current: ClusterMap, policy: UpkeepPolicy = POLICY) -> Verdict:
    return judge(view, current, policy, NOW_MS)  # type: ignore[arg-type]


def all_miss(voters: range | tuple[int, ...], *nodes: int, since: int = LONG) -> Any:
    return {voter: {node: since for node in nodes if node != voter} for voter in voters}


@pytest.fixture(scope="module")
def seven() -> ClusterMap:
    return maps.small_map(7)


@pytest.mark.parametrize(
    ("since", "due"), [(LONG, {7}), (JUST, {7}), (SHORT, set()), (NOW_MS, set())]
)
def test_time(seven: ClusterMap, since: int, due: set[int]) -> None:
    assert judged(View(all_miss(range(1, 7), 7, since=since)), seven).due == due


@pytest.mark.parametrize(("voters", "due"), [(2, set()), (3, set()), (4, {7}), (6, {7})])
def test_more_than_half_of_the_others(seven: ClusterMap, voters: int, due: set[int]) -> None:
    assert judged(View(all_miss(range(1, voters + 1), 7)), seven).due == due


def test_a_few_do_not_become_a_majority_by_counting_the_others_out(seven: ClusterMap) -> None:
    """Three of seven miss the other four, without whom they would be all."""
    assert judged(View(all_miss(range(1, 4), 4, 5, 6, 7)), seven).due == set()
    assert judged(View(all_miss(range(1, 5), 5, 6, 7)), seven) == Verdict(frozenset({5, 6, 7}), 3)


def test_who_is_given_up_has_no_vote_on_others() -> None:
    """7 is missed by four of seven others, but one of these is to go itself."""
    missed = all_miss(range(1, 8), 8)
    for voter in (1, 2, 3):
        missed[voter][7] = LONG
    missed[8] = {7: LONG}
    assert judged(View(missed), maps.small_map(8)) == Verdict(frozenset({8}), 1)


def test_deactivated_nodes_have_no_vote(seven: ClusterMap) -> None:
    missed = all_miss(range(1, 5), 7)
    assert judged(View(missed), seven).due == {7}
    assert judged(View(missed, inactive=(4,)), seven).due == set()


def test_who_is_missed_for_a_short_time_counts_as_away(seven: ClusterMap) -> None:
    missed = all_miss(range(1, 6), 7)
    for voter in range(1, 6):
        missed[voter][6] = NOW_MS
    assert judged(View(missed), seven) == Verdict(frozenset({7}), 2)


def test_without_a_policy_nobody_is_due(seven: ClusterMap) -> None:
    off = dataclasses.replace(POLICY, out_after_ms=0)
    assert judged(View(all_miss(range(1, 7), 7)), seven, off).due == set()


@pytest.mark.parametrize(
    ("state", "due"),
    [(NodeState.DOWN, {7}), (NodeState.JOINING, {7}), (NodeState.OUT, set())],
)
def test_states(seven: ClusterMap, state: NodeState, due: set[int]) -> None:
    changed = dataclasses.replace(seven, nodes=maps.with_node(seven, 7, state=state))
    assert judged(View(all_miss(range(1, 7), 7)), changed).due == due


def test_agreed_by_more_than_half_of_the_voters(seven: ClusterMap) -> None:
    def found(*endorse: int, epoch: int = 1) -> tuple[int, ...]:
        view: Any = View({}, endorse=endorse, epoch=epoch)
        return agreed(view, seven, (7,), DIGEST)

    assert found(1, 2, 3) == ()
    assert found(1, 2, 3, 7) == ()
    assert found(5, 4, 3, 2) == (2, 3, 4, 5)
    assert found(5, 4, 3, 2, epoch=2) == ()


def test_cut_off_is_who_reaches_fewer_than_half(seven: ClusterMap) -> None:
    assert not is_cut_off(seven, 1, (2, 3, 4))
    assert is_cut_off(seven, 1, (2, 3, 4, 5))
    nodes = maps.with_node(seven, 5, state=NodeState.DOWN)
    marked = dataclasses.replace(seven, nodes=nodes)
    # 5 is expected to be away; of five others two are missing, and then three.
    assert not is_cut_off(marked, 1, (2, 3, 5))
    assert is_cut_off(marked, 1, (2, 3, 4))
