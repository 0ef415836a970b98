"""Whether everything can be read and written now, and after one node has stopped.

Counts, row by row, the seats whose nodes serve.  Reads need k of each row; puts need
k + 1, of which stand-ins may take those that seats cannot.

Invariants: pure functions of the map and of facts that the caller collected.  A yes never
rests on a node of which nothing was heard; where one of those decides, the answer is no
with ``is_known`` false.

Not guaranteed: anything about shards that are damaged without the caller knowing, about
the ledger's writer, or about disks that are full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from hcefs.placement.cluster_map import ClusterMap, Table
from hcefs.placement.stand_ins import stand_ins_of
from hcefs.placement.waves import REBUILD, SeatName


@dataclass(frozen=True)
class Answer:
    """Yes or no, why, and whether the facts sufficed for a conclusion."""

    yes: bool
    reason: str
    is_known: bool = True


@dataclass(frozen=True)
class HealthFacts:
    """What was found out about nodes during one epoch.

    ``healthy`` says for each node that was asked whether it serves; a node that is
    missing was not heard of.  ``done`` are seats in flight that have arrived.
    ``damaged`` are seats whose holder serves but lacks shards (its repair is queued).
    """

    epoch: int
    healthy: Mapping[int, bool]
    done: Collection[SeatName] = frozenset()
    damaged: Collection[SeatName] = frozenset()


@dataclass(frozen=True)
class RowCount:
    """How many shards of one partition serve: surely, and at most; who was not heard of."""

    profile: str
    partition: int
    least: int
    most: int
    silent: tuple[int, ...] = ()


def other_epoch(cluster_map: ClusterMap, epoch: int) -> Answer | None:
    """The answer to facts of another epoch than the map's."""
    if epoch == cluster_map.epoch:
        return None
    return Answer(
        False,
        f"the facts are of epoch {epoch}, the map of epoch {cluster_map.epoch}: collect them again",
        is_known=False,
    )


def row_counts(
    table: Table, facts: HealthFacts, *, without: int | None = None
) -> Iterator[RowCount]:
    """The counts of a table's rows; with ``without``, of those that its absence concerns."""
    sources = {move.partition: (move.seat, move.source) for move in table.moving}
    for partition, row in enumerate(table.node_rows):
        seat, source = sources.get(partition, (-1, REBUILD))
        if without is not None and without not in row and source != without:
            continue
        least = most = 0
        silent: list[int] = []
        for number, holder in enumerate(row):
            name = SeatName(table.profile, partition, number)
            arrived = number != seat or name in facts.done
            # Until a seat has arrived, its older shards are at the source only.
            keepers = [holder] if arrived else [holder, source]
            if name in facts.damaged or REBUILD in keepers:
                continue
            states = [False if k == without else facts.healthy.get(k) for k in keepers]
            least += all(state is True for state in states)
            most += all(state is not False for state in states)
            silent += [k for k, state in zip(keepers, states, strict=True) if state is None]
        yield RowCount(table.profile, partition, least, most, tuple(silent))


@dataclass(frozen=True)
class Availability:
    """What works, and the rows that have the fewest shards beyond what reads need.

    ``thinnest`` has one row for each profile, ``spare`` the smallest number of shards
    that serve beyond k; negative where something cannot be read.
    """

    reads: Answer
    writes: Answer
    thinnest: tuple[RowCount, ...] = ()
    spare: Mapping[str, int] = field(default_factory=dict)


def availability(
    cluster_map: ClusterMap, facts: HealthFacts, *, without: int | None = None
) -> Availability:
    """Whether every blob can be read and puts are acknowledged.

    ``without`` asks the same of the rows that a node is in, for the time that it is stopped.
    """
    other = other_epoch(cluster_map, facts.epoch)
    if other is not None:
        return Availability(other, other)
    reads, writes = _Verdict("reads"), _Verdict("writes")
    thinnest: list[RowCount] = []
    for table in cluster_map.tables:
        thin: RowCount | None = None
        for row in row_counts(table, facts, without=without):
            if thin is None or (row.least, row.most) < (thin.least, thin.most):
                thin = row
            reads.enter(row, table.k)
            writes.enter(_with_stand_ins(cluster_map, table, facts, row, without), table.k + 1)
        thinnest += [thin] if thin is not None else []
    k_of = {table.profile: table.k for table in cluster_map.tables}
    return Availability(
        reads.answer(),
        writes.answer(),
        tuple(thinnest),
        {row.profile: row.least - k_of[row.profile] for row in thinnest},
    )


def _with_stand_ins(
    cluster_map: ClusterMap, table: Table, facts: HealthFacts, row: RowCount, without: int | None
) -> RowCount:
    """The row with those that would take its shards of a put now."""
    if row.least > table.k:
        return row  # enough without; to order the stand-ins of every row costs time
    least, most, silent = row.least, row.most, list(row.silent)
    for node in stand_ins_of(cluster_map, table.profile, row.partition):
        state = False if node.node_id == without else facts.healthy.get(node.node_id)
        least += state is True
        most += state is not False
        silent += [node.node_id] if state is None else []
    return RowCount(row.profile, row.partition, least, most, tuple(silent))


class _Verdict:
    """One question asked of row after row: a certain no beats one that nobody can be sure of."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._no: Answer | None = None

    def enter(self, row: RowCount, needed: int) -> None:
        if row.least >= needed or (self._no is not None and self._no.is_known):
            return
        where = f"partition {row.partition} of {row.profile}"
        if row.most < needed:
            self._no = Answer(
                False,
                f"{where} has {row.most} shards that serve, and {self._what} need {needed}: bring "
                "nodes back, or wait until it is repaired",
            )
        elif self._no is None:
            self._no = Answer(
                False,
                f"{where} depends on node {row.silent[0]}, of which nothing was heard: no "
                "conclusion",
                is_known=False,
            )

    def answer(self) -> Answer:
        return self._no or Answer(True, f"every partition has the shards that {self._what} need")
