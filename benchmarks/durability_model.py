"""The Monte Carlo of data loss: nodes fail, rows are rebuilt, sometimes not in time.

A run is made of *cycles*: everything is whole, something is lost, and the cycle ends when
all of it has been rebuilt.  What is lost at the start is the stratum: one node, a whole zone,
or a node and another one by an operator's mistake.  Losing data within a cycle is rare, so
the failures that follow are drawn faster than they come and each history is weighted by how
much likelier it was made (failure biasing); the estimate stays unbiased, and its interval
comes from the weighted samples.  The year's probability follows from the rates of the strata.

A row is lost when more than m of its seats are lost at one time.  Rows are the real planner's
(:mod:`hcefs.placement`), so that which sets of nodes are fatal is not a guess.

Damaged sectors are not drawn one by one: whenever a row is rebuilt with j seats lost, the
expected number of its blobs of which m + 1 - j of the n - j other shards are damaged is added
(its probability by the union bound, so the result errs on the safe side).

Sources of the method: Goyal, Shahabuddin et al., "A unified framework for simulating
Markovian models of highly dependable systems" (failure biasing); Greenan, Plank and Wylie,
"Mean time to meaningless" (HotStorage 2010), for what to report instead of an MTTDL.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

YEAR: Final = 365.25 * 86_400.0
BIAS: Final = 1.0
"""Failures to expect in what is left of a cycle; without bias it is a tiny number."""

Z95: Final = 1.96
NODE: Final = "one node"
ZONE: Final = "a zone"
MISTAKE: Final = "a node and, by mistake, another"


@dataclass(frozen=True)
class Shape:
    """A profile on a cluster: its rows of node numbers from 0, and each node's zone."""

    k: int
    m: int
    rows: tuple[tuple[int, ...], ...]
    zones: tuple[int, ...]

    @property
    def n(self) -> int:
        return self.k + self.m

    @property
    def nodes(self) -> int:
        return len(self.zones)


@dataclass(frozen=True)
class Assumptions:
    """What is put in.  Rates are a year's; see docs/DURABILITY.md for where they come from.

    ``rebuild_bytes_s`` is the measured pace of one destination, ``clustering`` the factor by
    which failures are likelier while something is being rebuilt, ``damaged_shards`` the shards
    of a node that a year damages, ``scrub_seconds`` the time within which all of it is read.
    """

    node_bytes: float = 8e12
    shard_bytes: float = 4e6
    afr: float = 0.015
    clustering: float = 1.0
    detect_seconds: float = 900.0
    rebuild_bytes_s: float = 50e6
    zone_losses: float = 1e-3
    mistakes: float = 1e-2
    damaged_shards: float = 1.0
    scrub_seconds: float = 14 * 86_400.0
    exponential_repair_seconds: float = 0.0
    """Not 0: every node is repaired as one, after an exponential time.  For the closed form."""

    @property
    def node_rate(self) -> float:
        """Failures of a node in a second."""
        return -math.log1p(-self.afr) / YEAR

    @property
    def damage(self) -> float:
        """The probability that a shard is damaged at any moment and nobody knows."""
        shards = self.node_bytes / self.shard_bytes
        return min(1.0, self.damaged_shards / shards * (self.scrub_seconds / 2) / YEAR)


@dataclass
class Estimate:
    """A mean of weighted samples with its 95 % interval."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    hits: int = 0

    def add(self, value: float) -> None:
        """One sample."""
        self.count += 1
        self.total += value
        self.squares += value * value
        self.hits += value > 0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval."""
        if self.count < 2:
            return math.inf
        variance = max(0.0, self.squares - self.total * self.mean) / (self.count - 1)
        return Z95 * math.sqrt(variance / self.count)


@dataclass
class Stratum:
    """What cycles that begin alike came to; ``rate`` of them come in a second."""

    name: str
    rate: float
    loss: Estimate = field(default_factory=Estimate)
    lost_bytes: Estimate = field(default_factory=Estimate)


# --- one cycle --------------------------------------------------------------------------


class Cycle:
    """One history, from the first loss to the last rebuild."""

    def __init__(
        self,
        shape: Shape,
        assumed: Assumptions,
        seats: Sequence[Sequence[int]],
        beyond: Sequence[float],
        chance: random.Random,
    ) -> None:
        """``seats`` are the rows of each node, ``beyond`` is :func:`beyond_repair`."""
        self._beyond = beyond
        self._shape = shape
        self._assumed = assumed
        self._seats = seats
        self._chance = chance
        self._lost = [0] * len(shape.rows)
        self._gone: set[int] = set()
        """Rows that are beyond recovery."""

        self._down: dict[int, set[int]] = {}
        """Node -> its rows that are not rebuilt."""

        self._schedule: list[tuple[float, int, int]] = []
        """(time, row, node) of the rebuilds to come, latest first."""

        self._eligible: dict[int, float] = {}
        self._whole_at: dict[int, float] = {}
        """When each lost node's last seat is rebuilt."""

        self._now = 0.0
        self._weight = 1.0
        row_payload = assumed.node_bytes * shape.nodes * shape.k / shape.n / len(shape.rows)
        self._row_bytes = row_payload
        self._blob_bytes = assumed.shard_bytes * shape.k
        self.loss = 0.0
        self.bytes = 0.0

    def run(self, first: Sequence[int]) -> None:
        """Lose some nodes at once, then let it go on until all is rebuilt."""
        for node in first:
            self._fail(node)
        self._plan()
        rate = self._assumed.node_rate * self._assumed.clustering
        while self._schedule:
            up = self._shape.nodes - len(self._down)
            natural = rate * up
            remaining = self._schedule[0][0] - self._now
            biased = max(natural, BIAS / remaining) if remaining > 0 and up else natural
            after = self._chance.expovariate(biased) if biased else math.inf
            end = min(self._whole_at[node] for node in self._down)
            if self._now + after >= end:
                self._weight *= math.exp((biased - natural) * (end - self._now))
                self._rebuild_until(end)
                continue
            self._weight *= natural / biased * math.exp((biased - natural) * after)
            self._rebuild_until(self._now + after)
            alive = [node for node in range(self._shape.nodes) if node not in self._down]
            self._fail(self._chance.choice(alive))
            self._plan()

    def _fail(self, node: int) -> None:
        rows = set(self._seats[node])
        self._down[node] = rows
        self._eligible[node] = self._now + self._assumed.detect_seconds
        newly = 0
        for row in rows:
            self._lost[row] += 1
            if self._lost[row] > self._shape.m and row not in self._gone:
                self._gone.add(row)
                newly += 1
        if newly:
            self.loss = max(self.loss, self._weight)
            self.bytes += self._weight * newly * self._row_bytes

    def _plan(self) -> None:
        """When each lost seat is rebuilt, and so each node."""
        if self._assumed.exponential_repair_seconds:
            self._plan_exponential()
        else:
            self._plan_by_urgency()
        self._whole_at = {}
        for at, _, node in self._schedule:  # latest first
            self._whole_at.setdefault(node, at)

    def _plan_by_urgency(self) -> None:
        """The least margin first, at the pace of all nodes together."""
        assumed = self._assumed
        up = max(1, self._shape.nodes - len(self._down))
        pace = assumed.rebuild_bytes_s * up
        each = assumed.node_bytes * self._shape.nodes / (len(self._shape.rows) * self._shape.n)
        # By urgency; those that are found lost only later come in when they are.
        waiting = sorted(
            ((-self._lost[row], self._chance.random(), row, node)
             for node, rows in self._down.items() for row in rows),
        )  # fmt: skip
        at, found = self._now, []
        step = each / pace
        while waiting:
            ready = [seat for seat in waiting if self._eligible[seat[3]] <= at + 1e-9]
            later = [seat for seat in waiting if self._eligible[seat[3]] > at + 1e-9]
            until = min((self._eligible[seat[3]] for seat in later), default=math.inf)
            if not ready:
                at, waiting = until, later
                continue
            room = len(ready) if until == math.inf else int((until - at) / step)
            for done, seat in enumerate(ready[:room], 1):
                found.append((at + done * step, seat[2], seat[3]))
            waiting = sorted(ready[room:] + later)
            at = max(at + min(room, len(ready)) * step, until if later else at)
        self._schedule = sorted(found, reverse=True)

    def _plan_exponential(self) -> None:
        known = {node: at for at, _, node in self._schedule}
        for node in self._down:
            if node not in known:
                mean = self._assumed.exponential_repair_seconds
                known[node] = self._now + self._chance.expovariate(1 / mean)
        self._schedule = sorted(
            ((known[node], row, node) for node, rows in self._down.items() for row in rows),
            reverse=True,
        )

    def _rebuild_until(self, end: float) -> None:
        while self._schedule and self._schedule[-1][0] <= end:
            _, row, node = self._schedule.pop()
            self._count_damage(row)
            self._lost[row] -= 1
            rows = self._down[node]
            rows.discard(row)
            if not rows:
                del self._down[node], self._eligible[node]
        self._now = end

    def _count_damage(self, row: int) -> None:
        """Blobs of a row that cannot be rebuilt because other shards of them are damaged."""
        blobs = self._beyond[self._lost[row]]
        if not blobs or row in self._gone:
            return
        self.loss = min(max(self.loss, self._weight), self.loss + self._weight * min(1.0, blobs))
        self.bytes += self._weight * blobs * self._blob_bytes


def beyond_repair(shape: Shape, assumed: Assumptions) -> tuple[float, ...]:
    """By lost seats of a row: its blobs of which too many other shards are damaged."""
    row_bytes = assumed.node_bytes * shape.nodes * shape.k / shape.n / len(shape.rows)
    blobs = row_bytes / (assumed.shard_bytes * shape.k)
    found = []
    for lost in range(shape.n + 1):
        more = shape.m + 1 - lost
        chance = math.comb(shape.n - lost, more) * assumed.damage**more if more > 0 else 0.0
        found.append(blobs * min(1.0, chance))
    return tuple(found)


# --- the year ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Year:
    """What a year brings, with 95 % intervals: as (low, found, high)."""

    loss: tuple[float, float, float]
    bytes: tuple[float, float, float]
    share: float
    """Expected bytes lost in a year for each byte stored."""

    strata: tuple[Stratum, ...]


def simulate(shape: Shape, assumed: Assumptions, cycles: int, seed: int) -> Year:
    """Estimate a year; ``cycles`` of each stratum."""
    chance = random.Random(seed)
    seats: list[list[int]] = [[] for _ in range(shape.nodes)]
    for number, row in enumerate(shape.rows):
        for node in row:
            seats[node].append(number)
    beyond = beyond_repair(shape, assumed)
    zones = sorted(set(shape.zones))
    rate = assumed.node_rate * shape.nodes
    strata = [Stratum(NODE, rate * (1 - assumed.mistakes))]
    if assumed.zone_losses:
        strata.append(Stratum(ZONE, assumed.zone_losses * len(zones) / YEAR))
    if assumed.mistakes:
        strata.append(Stratum(MISTAKE, rate * assumed.mistakes))
    for stratum in strata:
        for number in range(cycles):
            cycle = Cycle(shape, assumed, seats, beyond, chance)
            cycle.run(_first(stratum.name, shape, zones, number, chance))
            stratum.loss.add(cycle.loss)
            stratum.lost_bytes.add(cycle.bytes)
    return _year(shape, assumed, strata)


def _first(
    name: str, shape: Shape, zones: Sequence[int], number: int, chance: random.Random
) -> list[int]:
    """Who is lost at the start: each zone and node in turn, so that none is missed by chance."""
    if name == ZONE:
        zone = zones[number % len(zones)]
        return [node for node, each in enumerate(shape.zones) if each == zone]
    node = number % shape.nodes
    if name == NODE:
        return [node]
    other = chance.randrange(shape.nodes - 1)
    return [node, other + (other >= node)]


def _year(shape: Shape, assumed: Assumptions, strata: Sequence[Stratum]) -> Year:
    quiet, quiet_bytes = damage_alone(shape, assumed)
    losses = quiet + sum(each.rate * YEAR * each.loss.mean for each in strata)
    width = math.sqrt(sum((each.rate * YEAR * each.loss.half_width) ** 2 for each in strata))
    lost = quiet_bytes + sum(each.rate * YEAR * each.lost_bytes.mean for each in strata)
    lost_width = math.sqrt(
        sum((each.rate * YEAR * each.lost_bytes.half_width) ** 2 for each in strata)
    )
    stored = assumed.node_bytes * shape.nodes * shape.k / shape.n
    return Year(
        loss=(_once(losses - width), _once(losses), _once(losses + width)),
        bytes=(max(0.0, lost - lost_width), lost, lost + lost_width),
        share=lost / stored,
        strata=tuple(strata),
    )


def _once(expected: float) -> float:
    """The probability of at least one of so many expected events."""
    return -math.expm1(-max(0.0, expected))


def damage_alone(shape: Shape, assumed: Assumptions) -> tuple[float, float]:
    """Blobs and bytes that a year loses to damaged shards while no node is lost."""
    damage = assumed.damage
    if not damage:
        return 0.0, 0.0
    shards = assumed.node_bytes / assumed.shard_bytes
    each = assumed.damaged_shards / shards  # of one shard, a year
    others = math.comb(shape.n - 1, shape.m) * damage**shape.m
    blobs = assumed.node_bytes * shape.nodes / shape.n / assumed.shard_bytes
    lost = blobs * shape.n * each * others
    return lost, lost * assumed.shard_bytes * shape.k


# --- the closed form --------------------------------------------------------------------


def closed_form(n: int, m: int, fail: float, repair: float) -> float:
    """The probability that a cycle ends in loss, for n nodes that hold every row together.

    The birth-death chain behind every MTTDL: j of n nodes lost, the next one fails at
    ``(n - j) * fail``, one comes back at ``j * repair``.
    """
    total, product = 1.0, 1.0
    for j in range(1, m + 1):
        product *= (j * repair) / ((n - j) * fail)
        total += product
    return 1.0 / total
