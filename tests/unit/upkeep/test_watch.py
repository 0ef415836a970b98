"""Watchers over the real state machine in memory: who is reported, given up, or waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hcefs.access.facts import AccountKind
from hcefs.errors import Conflict, Denied, Exhausted, HcefsError, Invalid, Unavailable
from hcefs.ids import AccountId
from hcefs.ledger.cluster_facts import MapCause, ReportRow, UpkeepPolicy
from hcefs.ledger.rows import SubmitResult
from hcefs.ledger.state import StateView
from hcefs.ledger.transactions import SetClusterMap, Transaction, Upgrade
from hcefs.ledger.transactions_map import NodeReport, SetUpkeepPolicy
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import first_map
from hcefs.placement.waves import in_flight
from hcefs.runtime import SystemRuntime
from hcefs.transport.upkeep import Pulse
from hcefs.upkeep import watch
from hcefs.upkeep.watch import FAILURES, PINGS_AT_ONCE, ROUND_SECONDS, Watcher
from hcefs.upkeep.worker import Progress
from tests.unit.ledger.scenario import Scenario, seed

OUT_AFTER_MS = 60_000
ROUND = 2.5
"""Seconds; the longest that a node rests."""


class Clock(SystemRuntime):
    """Real threads, and time that passes only between rounds."""

    def __init__(self, world: Scenario) -> None:
        super().__init__(compute_threads=1)
        self.world = world
        self.elapsed = 0.0

    def now_ms(self) -> int:
        return self.world.time_ms

    def monotonic(self) -> float:
        return self.elapsed

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        assert seconds is not None
        return asyncio.timeout(0.01)

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds
        self.world.time_ms += round(seconds * 1000)


class Replica(StateView):
    """What every node knows: the state as it is."""

    def __init__(self, world: Scenario) -> None:
        super().__init__(world.state, 0, 0)
        self._world = world

    @property
    def height(self) -> int:
        return self._world.height


class Cluster:
    """Nodes of a map, each with its watcher, and the ledger that they submit to."""

    def __init__(self, nodes: int, protocol: int = 2) -> None:
        self.world = Scenario()
        self.clock = Clock(self.world)
        self.away: set[int] = set()
        self.answers: dict[tuple[int, int], HcefsError | None] = {}
        """(asker, asked) -> what the ping ends with, instead of an answer."""
        self.hanging: set[int] = set()
        self.cancelled: set[int] = set()
        self.stale: set[int] = set()
        self.unanswered: dict[int, HcefsError] = {}
        """What submissions of a node fail with."""
        self.results: dict[bytes, SubmitResult] = {}
        self.said: list[tuple[int, Transaction]] = []
        self.tried: list[tuple[int, Transaction]] = []
        self.open_pings = self.open_pings_max = self.pings = 0
        for number in range(1, nodes + 1):
            self.world.register(f"n{number}", AccountKind.NODE, "o1", "o2")
        for version in range(2, protocol + 1):
            self.world.submit(Upgrade(version, self.world.height + 2), "o1", "o2")
            self.world.commit([])
        first = first_map(
            [self._node(number) for number in range(1, nodes + 1)],
            [("copy-3", 1, 2)],
            seed("map"),
            "copy-3",
        )
        self.world.submit(SetClusterMap(0, first.encode()), "o1", "o2")
        self.replica = Replica(self.world)
        self.watchers: dict[int, Watcher] = {}
        self.metrics: dict[int, Metrics] = {}
        for number in range(1, nodes + 1):
            self.start(number)

    def _node(self, number: int) -> Node:
        return Node(
            number,
            self.world.account(f"n{number}"),
            f"10.0.0.{number}:7000",
            f"10.0.0.{number}:7001",
            "z",
            "",
            f"h{number}",
            100,
            NodeState.UP,
        )

    def start(self, number: int) -> None:
        """A node's watcher begins, for the first time or again."""
        self.metrics[number] = Metrics()

        def require_fresh() -> None:
            if number in self.stale:
                raise Unavailable("the lease of this node has run out", reason="stale-lease")

        async def submit(transaction: Transaction) -> SubmitResult:
            self.tried.append((number, transaction))
            if number in self.unanswered:
                raise self.unanswered[number]
            signed = self.world.sign(transaction, f"n{number}")
            # As the writer does: what was committed once is a repeat, whoever signs it.
            if signed.hash() not in self.results:
                self.world.submit_signed(signed)
                self.results[signed.hash()] = SubmitResult(
                    self.world.height, self.world.time_ms, ()
                )
            self.said.append((number, transaction))
            return self.results[signed.hash()]

        self.watchers[number] = Watcher(
            self.clock, self.replica, Pings(self, number), self.metrics[number],
            self.account(number), require_fresh, submit,
        )  # fmt: skip

    def account(self, number: int) -> AccountId:
        return self.world.account(f"n{number}")

    @property
    def map(self) -> ClusterMap:
        found = self.replica.cluster_map()
        assert found is not None
        return found

    def allow(self, out_max: int, out_after_ms: int = OUT_AFTER_MS) -> None:
        number = self.replica.policy().number
        policy = UpkeepPolicy(number + 1, out_after_ms, out_max)
        self.world.submit(SetUpkeepPolicy(number, policy), "o1", "o2")

    async def rounds(self, count: int) -> None:
        """Every node that runs looks around, some times."""
        for _ in range(count):
            self.clock.advance(ROUND)
            for number, watcher in self.watchers.items():
                if number not in self.away:
                    assert await watcher.work() is Progress.IDLE

    async def wait(self, milliseconds: int) -> None:
        await self.rounds(int(milliseconds / (ROUND * 1000)) + 1)

    def reports(self, number: int | None = None) -> list[NodeReport]:
        return [
            each
            for who, each in self.said
            if isinstance(each, NodeReport) and number in (None, who)
        ]

    def changes(self) -> list[int]:
        """Who has submitted maps."""
        return [who for who, each in self.said if isinstance(each, SetClusterMap)]

    def row(self, number: int) -> ReportRow:
        found = self.replica.report(number)
        assert found is not None
        return found

    def state(self, number: int) -> NodeState:
        node = self.map.node(number)
        assert node is not None
        return node.state

    def blocked(self, number: int) -> float:
        return self.metrics[number].value("automatic_out_blocked")


class Pings:
    """The network as one node sees it."""

    def __init__(self, cluster: Cluster, own: int) -> None:
        self._cluster = cluster
        self._own = own

    def upkeep_peer(self, node: Node) -> Any:
        return _Peer(self._cluster, self._own, node.node_id)


class _Peer:
    def __init__(self, cluster: Cluster, own: int, other: int) -> None:
        self._cluster, self._own, self._other = cluster, own, other

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        cluster = self._cluster
        cluster.pings += 1
        cluster.open_pings += 1
        cluster.open_pings_max = max(cluster.open_pings_max, cluster.open_pings)
        try:
            await asyncio.sleep(0)
            yield
        finally:
            cluster.open_pings -= 1

    async def ping(self, own: Pulse, seconds: float) -> Pulse:
        cluster, other = self._cluster, self._other
        assert (own.epoch, own.height) == (cluster.map.epoch, cluster.world.height)
        async with self._open():
            if other in cluster.cancelled:
                raise asyncio.CancelledError
            if other in cluster.hanging:
                await asyncio.Event().wait()
            if other in cluster.away:
                raise Unavailable("nobody answers there", reason="unreachable")
            if other in cluster.stale:
                raise Unavailable("the lease has run out", reason="stale-lease")
            problem = cluster.answers.get((self._own, other))
            if problem is not None:
                raise problem
        return own


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(6)
    yield made
    made.clock.close()


UNREACHABLE = Unavailable("nobody answers there", reason="unreachable")

# -- pings


async def test_nothing_is_said_while_everybody_is_there(cluster: Cluster) -> None:
    cluster.allow(1)
    await cluster.rounds(40)
    assert cluster.said == []
    assert cluster.watchers[1].warnings() == []
    assert cluster.metrics[1].value("unreachable_nodes") == 0


async def test_three_failures_in_a_row_make_a_node_unreachable(cluster: Cluster) -> None:
    assert FAILURES == 3
    cluster.away = {6}
    await cluster.rounds(2)
    assert cluster.watchers[1].unreachable() == ()
    cluster.away = set()
    await cluster.rounds(1)
    cluster.away = {6}
    await cluster.rounds(2)
    assert cluster.watchers[1].unreachable() == ()
    assert cluster.said == []
    await cluster.rounds(1)
    assert cluster.watchers[1].unreachable() == (6,)
    assert cluster.metrics[1].value("unreachable_nodes") == 1


async def test_one_answer_brings_a_node_back(cluster: Cluster) -> None:
    cluster.away = {6}
    await cluster.rounds(FAILURES)
    cluster.away = set()
    await cluster.rounds(1)
    assert cluster.watchers[1].unreachable() == ()
    await cluster.rounds(3)
    assert cluster.row(1).unreachable == ()


@pytest.mark.parametrize(
    ("problem", "missed"),
    [
        (UNREACHABLE, True),
        (Unavailable("the lease of that node has run out", reason="stale-lease"), True),
        (Exhausted("that node is busy", reason="busy"), False),
        (Invalid("that node does not know pings", reason="unimplemented"), False),
        (Denied("that node does not like this one"), False),
    ],
)
async def test_a_node_that_answers_is_there_unless_it_may_not_serve(
    cluster: Cluster, problem: HcefsError, missed: bool
) -> None:
    cluster.answers = {(1, 6): problem}
    await cluster.rounds(FAILURES)
    assert cluster.watchers[1].unreachable() == ((6,) if missed else ())


async def test_a_node_that_hangs_is_unreachable_and_holds_nobody_up(cluster: Cluster) -> None:
    cluster.hanging = {6}
    await cluster.rounds(FAILURES)
    assert cluster.watchers[1].unreachable() == (6,)


async def test_a_connection_that_is_closed_under_a_ping_counts_as_a_failure(
    cluster: Cluster,
) -> None:
    cluster.cancelled = {6}
    await cluster.rounds(FAILURES)
    assert cluster.watchers[1].unreachable() == (6,)


async def test_pings_are_bounded_in_number_and_rest_is_jittered() -> None:
    cluster = Cluster(60)
    rests = set()
    for _ in range(5):
        await cluster.watchers[1].work()
        rests.add(cluster.watchers[1].idle_seconds)
    assert cluster.pings == 5 * 59
    assert cluster.open_pings_max == PINGS_AT_ONCE
    assert len(rests) > 1
    mean = 59 / watch.PINGS_A_SECOND_MAX
    assert mean > ROUND_SECONDS
    assert all(0.75 * mean <= rest <= 1.25 * mean for rest in rests)
    cluster.clock.close()


async def test_who_has_left_is_not_asked(cluster: Cluster) -> None:
    current = cluster.map
    out = replace(
        current,
        epoch=2,
        previous=current.digest(),
        nodes=tuple(
            replace(node, state=NodeState.OUT) if node.node_id == 6 else node
            for node in current.nodes
        ),
    )
    cluster.replica.cluster_map = lambda: out  # type: ignore[method-assign]
    await cluster.watchers[1].work()
    assert cluster.pings == 4
    await cluster.watchers[6].work()
    assert cluster.pings == 4


# -- reports


async def test_a_change_is_reported_once(cluster: Cluster) -> None:
    cluster.away = {6}
    await cluster.rounds(30)
    for number in range(1, 6):
        assert [each.unreachable for each in cluster.reports(number)] == [(6,)]
    cluster.away = set()
    await cluster.rounds(30)
    for number in range(1, 6):
        assert [each.unreachable for each in cluster.reports(number)] == [(6,), ()]
        first, second = (each.number for each in cluster.reports(number))
        assert first < second == cluster.row(number).number
    # A body is committed once, whoever signs it.
    assert len({(each.node_id, each.number) for each in cluster.reports()}) == 10


async def test_a_restart_goes_on_with_number_and_time(cluster: Cluster) -> None:
    cluster.away = {6}
    await cluster.rounds(FAILURES)
    since = cluster.row(1).misses(6)
    assert since is not None
    number = cluster.row(1).number
    cluster.start(1)
    await cluster.rounds(2)
    assert cluster.row(1).misses(6) == since
    assert len(cluster.reports(1)) == 1
    cluster.away = {5, 6}
    await cluster.rounds(5)
    assert cluster.row(1).misses(6) == since
    assert cluster.row(1).number > number


async def test_reports_of_a_node_have_a_pause_between_them(cluster: Cluster) -> None:
    problem: HcefsError | None = UNREACHABLE
    for _ in range(20):
        cluster.answers = {(1, 6): problem}
        await cluster.rounds(FAILURES if problem else 1)
        problem = None if problem else UNREACHABLE
    passed = cluster.clock.elapsed
    assert 2 < len(cluster.reports(1)) <= passed / watch.REPORT_GAP_SECONDS + 1


async def test_a_failed_report_is_repeated_later_and_later(cluster: Cluster) -> None:
    tried = []
    error = Unavailable("the ledger cannot be reached", reason="unreachable")

    async def submit(transaction: Transaction) -> SubmitResult:
        tried.append((cluster.clock.elapsed, transaction))
        raise error

    cluster.watchers[1]._submit = submit
    cluster.answers = {(1, 6): UNREACHABLE}
    await cluster.rounds(60)
    gaps = [after - before for (before, _), (after, _) in pairwise(tried)]
    assert 4 <= len(tried) <= 10
    assert gaps[0] < gaps[2] < gaps[3]
    # One body, so that the ledger knows a repeat of what it has committed after all.
    assert len({transaction for _, transaction in tried}) == 1
    cluster.start(1)
    await cluster.rounds(FAILURES)
    assert len(cluster.reports(1)) == 1


async def test_what_was_committed_although_it_failed_is_not_said_again(cluster: Cluster) -> None:
    submit = cluster.watchers[1]._submit

    async def unheard(transaction: Transaction) -> SubmitResult:
        await submit(transaction)
        raise Unavailable("the answer was lost", reason="deadline")

    cluster.watchers[1]._submit = unheard
    cluster.answers = {(1, 6): UNREACHABLE}
    await cluster.rounds(20)
    assert len(cluster.reports(1)) == 1
    cluster.answers = {}
    await cluster.rounds(20)
    assert [each.unreachable for each in cluster.reports(1)] == [(6,), ()]


async def test_a_report_that_does_not_show_is_made_anew(cluster: Cluster) -> None:
    """The ledger said yes, and it is not there."""
    submit = cluster.watchers[1]._submit
    lost: list[NodeReport] = []

    async def swallowed(transaction: Transaction) -> SubmitResult:
        if not lost and isinstance(transaction, NodeReport):
            lost.append(transaction)
            return SubmitResult(cluster.world.height, cluster.world.time_ms, ())
        return await submit(transaction)

    cluster.watchers[1]._submit = swallowed
    cluster.answers = {(1, 6): UNREACHABLE}
    await cluster.rounds(10)
    assert lost
    [report] = cluster.reports(1)
    assert cluster.row(1).number == report.number


async def test_a_node_whose_lease_has_run_out_says_and_counts_nothing(cluster: Cluster) -> None:
    cluster.stale = {1}
    cluster.answers = {(1, 6): UNREACHABLE}
    await cluster.rounds(10)
    assert cluster.reports(1) == []
    assert cluster.watchers[1].unreachable() == ()
    # To the others it is away.
    assert cluster.row(2).misses(1) is not None
    cluster.stale = set()
    await cluster.rounds(FAILURES - 1)
    assert cluster.watchers[1].unreachable() == ()
    await cluster.rounds(1)
    assert cluster.watchers[1].unreachable() == (6,)


async def test_what_waited_to_be_said_waits_for_the_lease_too(cluster: Cluster) -> None:
    cluster.answers = {(1, 6): UNREACHABLE}
    cluster.unanswered = {1: Unavailable("the ledger cannot be reached", reason="unreachable")}
    await cluster.rounds(FAILURES)
    assert len(cluster.tried) == 1
    cluster.stale = {1}
    await cluster.rounds(20)
    assert [who for who, _ in cluster.tried if who == 1] == [1]
    cluster.stale, cluster.unanswered = set(), {}
    await cluster.rounds(3)
    assert [each.unreachable for each in cluster.reports(1)] == [(6,)]


async def test_nothing_more_is_said_until_the_replica_has_what_was_said(cluster: Cluster) -> None:
    submit = cluster.watchers[1]._submit

    async def ahead(transaction: Transaction) -> SubmitResult:
        return replace(await submit(transaction), height=cluster.world.height + 2)

    cluster.watchers[1]._submit = ahead
    cluster.answers = {(1, 6): UNREACHABLE}
    await cluster.rounds(FAILURES)
    cluster.answers = {}
    await cluster.rounds(10)
    assert len(cluster.reports(1)) == 1
    cluster.world.commit([])
    cluster.world.commit([])
    await cluster.rounds(1)
    assert len(cluster.reports(1)) == 2


async def test_a_node_that_reaches_fewer_than_half_says_nothing(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.allow(1)
    cluster.answers = {(1, other): UNREACHABLE for other in (4, 5, 6)}
    await cluster.rounds(10)
    assert cluster.reports(1) == []
    assert any("cut off" in text for text in cluster.watchers[1].warnings())
    assert cluster.blocked(1) == 1
    assert sum("cut off" in record.message for record in caplog.records) == 1
    cluster.answers = {(1, other): UNREACHABLE for other in (5, 6)}
    await cluster.rounds(2)
    assert [each.unreachable for each in cluster.reports(1)] == [(5, 6)]
    assert cluster.watchers[1].warnings() == []
    assert cluster.blocked(1) == 0


async def test_nothing_is_reported_before_the_ledger_knows_reports() -> None:
    cluster = Cluster(6, protocol=1)
    cluster.away = {6}
    await cluster.rounds(10)
    assert cluster.tried == []
    assert cluster.watchers[1].unreachable() == (6,)
    cluster.clock.close()


# -- giving up


async def test_a_node_that_stays_away_is_given_up(cluster: Cluster) -> None:
    cluster.allow(1)
    cluster.away = {6}
    await cluster.rounds(FAILURES)
    cluster.said.clear()
    await cluster.wait(OUT_AFTER_MS - 3_000 - int(ROUND * 1000))
    assert cluster.said == []
    assert cluster.map.epoch == 1
    await cluster.rounds(6)
    assert cluster.state(6) is NodeState.OUT
    assert cluster.map.epoch == 2
    assert in_flight(cluster.map)
    change = cluster.replica.map_change(2)
    assert change is not None
    assert change.cause is MapCause.AUTOMATIC
    assert change.signers == (cluster.account(1),)
    assert cluster.changes() == [1]
    # None was tried before the majority was there.
    assert [who for who, each in cluster.tried if isinstance(each, SetClusterMap)] == [1]
    # Whom the map gives up is missed no more, and the reports say so; then all is quiet.
    await cluster.rounds(10)
    assert all(cluster.row(number).unreachable == () for number in range(1, 6))
    said = len(cluster.said)
    await cluster.rounds(40)
    assert len(cluster.said) == said
    assert all(cluster.blocked(number) == 0 for number in range(1, 6))


async def test_without_a_policy_nodes_only_report(cluster: Cluster) -> None:
    cluster.away = {6}
    await cluster.wait(3 * OUT_AFTER_MS)
    assert cluster.map.epoch == 1
    assert cluster.row(1).misses(6) is not None
    assert cluster.row(1).endorses == b""
    assert cluster.blocked(1) == 0


async def test_a_node_that_comes_back_in_time_is_kept(cluster: Cluster) -> None:
    cluster.allow(1)
    cluster.away = {6}
    await cluster.wait(OUT_AFTER_MS - 10_000)
    cluster.away = set()
    await cluster.rounds(4)
    cluster.away = {6}
    await cluster.wait(OUT_AFTER_MS - 10_000)
    assert cluster.map.epoch == 1
    assert all(each.endorses == b"" for each in cluster.reports())


async def test_a_minority_moves_nothing(cluster: Cluster) -> None:
    cluster.allow(1)
    cluster.answers = {(asker, 6): UNREACHABLE for asker in (1, 2)}
    await cluster.wait(2 * OUT_AFTER_MS)
    assert cluster.map.epoch == 1
    assert cluster.row(1).endorses == b""
    # Four of the six are a majority, and the other one helps them.
    cluster.answers = {(asker, 6): UNREACHABLE for asker in (1, 2, 3, 4)}
    await cluster.wait(OUT_AFTER_MS + 20_000)
    assert cluster.state(6) is NodeState.OUT
    assert {who for who, each in cluster.said if isinstance(each, NodeReport) and each.endorses} > {
        1, 2, 3, 4,
    }  # fmt: skip


async def test_too_many_at_once_are_left_to_a_person(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.allow(1)
    cluster.away = {5, 6}
    await cluster.wait(3 * OUT_AFTER_MS)
    assert cluster.map.epoch == 1
    assert all(each.endorses == b"" for each in cluster.reports())
    for number in range(1, 5):
        assert cluster.blocked(number) == 1
        [warning] = cluster.watchers[number].warnings()
        assert warning.startswith("2 nodes are away at once, more than the 1 that the policy")
        assert "a person must decide" in warning
    assert sum("away at once" in record.message for record in caplog.records) == 4
    cluster.away = {6}
    await cluster.wait(20_000)
    assert cluster.blocked(1) == 0
    assert cluster.watchers[1].warnings() == []
    assert cluster.state(6) is NodeState.OUT
    assert cluster.state(5) is NodeState.UP


async def test_two_go_where_the_policy_allows_two(cluster: Cluster) -> None:
    cluster.allow(2)
    cluster.away = {1, 6}
    await cluster.wait(OUT_AFTER_MS + 20_000)
    assert (cluster.state(1), cluster.state(6)) == (NodeState.OUT, NodeState.OUT)
    assert cluster.map.epoch == 2
    # The lowest of those that are left has submitted it.
    assert cluster.changes() == [2]


async def test_what_cannot_be_planned_is_left_to_a_person() -> None:
    cluster = Cluster(3)
    cluster.allow(1)
    cluster.away = {3}
    await cluster.wait(2 * OUT_AFTER_MS)
    assert cluster.map.epoch == 1
    assert cluster.blocked(1) == 1
    [warning] = cluster.watchers[1].warnings()
    assert "(3) cannot be planned out" in warning
    assert "copy-3 needs 3 nodes" in warning
    assert "add" in warning  # the cure
    cluster.away = set()
    await cluster.rounds(5)
    assert cluster.blocked(1) == 0
    assert cluster.watchers[1].warnings() == []
    cluster.clock.close()


async def test_the_next_one_submits_when_the_first_cannot(cluster: Cluster) -> None:
    cluster.allow(1)
    cluster.away = {6}
    await cluster.wait(OUT_AFTER_MS + 5_000 - 7_500)
    endorsing = cluster.watchers[1]._submit

    async def only_reports(transaction: Transaction) -> SubmitResult:
        if isinstance(transaction, SetClusterMap):
            raise Unavailable("the ledger cannot be reached", reason="unreachable")
        return await endorsing(transaction)

    cluster.watchers[1]._submit = only_reports
    await cluster.rounds(8)
    assert cluster.changes() == [2]
    assert cluster.state(6) is NodeState.OUT


async def test_who_is_gone_has_no_turn(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node 1 endorses the map, and dies before it submits it."""
    monkeypatch.setattr(watch, "TURN_SECONDS", 1_000_000.0)
    cluster.allow(2)
    cluster.away = {6}
    submit = cluster.watchers[1]._submit

    async def only_reports(transaction: Transaction) -> SubmitResult:
        if isinstance(transaction, SetClusterMap):
            cluster.away.add(1)
            raise Unavailable("this node dies", reason="unreachable")
        return await submit(transaction)

    cluster.watchers[1]._submit = only_reports
    await cluster.wait(OUT_AFTER_MS + 30_000)
    assert cluster.away == {1, 6}
    assert cluster.changes() == [2]
    assert (cluster.state(1), cluster.state(6)) == (NodeState.UP, NodeState.OUT)


async def test_all_at_once_make_one_map(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five nodes submit the agreed map at the same moment."""
    monkeypatch.setattr(watch, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(watch, "RETRY_FIRST_SECONDS", 0.0)
    cluster.allow(1)
    cluster.away = {6}
    together, all_agree = asyncio.Barrier(5), asyncio.Event()
    for number in range(1, 6):
        cluster.start(number)
        submit = cluster.watchers[number]._submit
        cluster.watchers[number]._submit = _held(submit, together, all_agree)
    for _ in range(int(OUT_AFTER_MS / (ROUND * 1000)) + 8):
        cluster.clock.advance(ROUND)
        await asyncio.gather(*(cluster.watchers[number].work() for number in range(1, 6)))
        if sum(bool(each.endorses) for each in cluster.replica.reports()) == 5:
            all_agree.set()
    assert sorted(cluster.changes()) == [1, 2, 3, 4, 5]
    assert cluster.map.epoch == 2
    texts = [record.message for record in caplog.records if record.levelname != "DEBUG"]
    assert not [text for text in texts if "does not take" in text]


def _held(submit: Any, together: asyncio.Barrier, all_agree: asyncio.Event) -> Any:
    """Maps wait until all five nodes endorse, and then for each other."""

    async def held(transaction: Transaction) -> SubmitResult:
        if isinstance(transaction, SetClusterMap):
            if not all_agree.is_set():
                raise Conflict("not yet", reason="not-endorsed")
            await together.wait()
        found: SubmitResult = await submit(transaction)
        return found

    return held


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (Conflict("the map has moved on", reason="epoch-moved"), False),
        (Unavailable("the ledger cannot be reached", reason="unreachable"), True),
    ],
)
async def test_a_race_is_quiet_and_a_failure_is_not(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, error: HcefsError, shown: bool
) -> None:
    caplog.set_level("INFO")
    cluster.away = {6}
    cluster.unanswered = {1: error}
    await cluster.rounds(FAILURES)
    assert any("does not take" in record.message for record in caplog.records) is shown
    cluster.unanswered = {}
    await cluster.rounds(3)
    assert cluster.row(1).misses(6) is not None


async def test_who_is_missed_by_the_others_endorses_nothing(cluster: Cluster) -> None:
    """Node 6 reaches everybody, and nobody reaches it."""
    cluster.allow(1)
    cluster.answers = {(asker, 6): UNREACHABLE for asker in range(1, 6)}
    await cluster.wait(OUT_AFTER_MS + 20_000)
    assert cluster.state(6) is NodeState.OUT
    assert cluster.reports(6) == []
    await cluster.rounds(3)
    assert cluster.metrics[6].value("unreachable_nodes") == 0
