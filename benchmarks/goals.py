"""The figures to reach, and whether a run reached them.  Pure.

A goal whose value could not be measured fails: it carries no value, and the
reason why.  Values are the best of a run's repeats (least CPU, highest rate):
noise can only make them worse.  The comparisons of two measurements, degraded
against healthy and four streams against one, are medians of pairs that were
measured next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

NOT_MEASURED: Final = "not measured"
_DIGITS: Final = 6


@dataclass(frozen=True)
class Goal:
    """One figure: what is wanted and what was found.

    ``at_least`` says which side of ``bound`` is good; ``value`` None means that
    nothing was found, for ``reason``.
    """

    name: str
    bound: float
    at_least: bool
    value: float | None
    reason: str = ""

    @property
    def text(self) -> str:
        """The goal as people read it."""
        return f"{'>=' if self.at_least else '<='} {self.bound:,g}"

    @property
    def passed(self) -> bool:
        """Whether the value reaches the bound."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def as_data(self) -> dict[str, Any]:
        """For JSON; ``reason`` only where there is no value."""
        value = None if self.value is None else round(self.value, _DIGITS)
        data = {"name": self.name, "goal": self.text, "value": value, "pass": self.passed}
        return data if self.value is not None else data | {"reason": self.reason or NOT_MEASURED}


def all_pass(goals: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every goal of a result passed; a result without goals did not."""
    outcomes = [bool(goal["pass"]) for goal in goals]
    return bool(outcomes) and all(outcomes)


def _at_least(name: str, bound: float, found: tuple[float | None, str]) -> Goal:
    return Goal(name, bound, True, *found)


def _at_most(name: str, bound: float, found: tuple[float | None, str]) -> Goal:
    return Goal(name, bound, False, *found)


# --- limits -------------------------------------------------------------------------

ERASURE_GB_S: Final = 8.0


def limits_goals(stages: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """The goals of ``hcefs bench limits``; ``stages`` as in its result."""
    goals = []
    for profile, stage in (("4+2", "erasure-4-2"), ("10+4", "erasure-10-4")):
        found = stages.get(stage)
        speed = (float(found["gb_s"]["best"]), "") if found else (None, NOT_MEASURED)
        goals.append(_at_least(f"erasure kernel {profile}, 1 MiB: GB/s", ERASURE_GB_S, speed))
        equal = (float(bool(found["equal_to_zfec"])), "") if found else (None, NOT_MEASURED)
        goals.append(_at_least(f"erasure kernel {profile}: byte-equal to zfec", 1, equal))
    return goals


# --- data ---------------------------------------------------------------------------

RATIO: Final = 0.80
FOUR_STREAMS: Final = 1.08
DEGRADED: Final = 0.85
MEMORY_MIB: Final = 64
OVERHEAD: Final = 1.51
VARIANTS: Final = (("gateway", "node"), ("direct", "client"))
"""Of the goals: a gateway that seals, and direct mode."""

CPU_PUT: Final = {"gateway": 6.2, "direct": 4.8}
CPU_GET: Final = {"gateway": 4.0, "direct": 2.5}
CPU_PUT_MIB: Final = 8.5
CPU_GET_MIB: Final = 6.0
MIB_SEALS: Final = {"pack": "in packs (the default)", "node": "the node seals"}
"""Both ways of a payload of 1 MiB are held to the figure."""


def cpu_goal(operation: str, mode: str, seal: str, size: int, concurrency: int) -> float | None:
    """The CPU-s/GB to reach in a measurement, if there is such a figure."""
    if operation not in ("put", "get"):
        return None
    if (mode, seal) in VARIANTS and (size, concurrency) == (64 * MIB, 1):
        return (CPU_PUT if operation == "put" else CPU_GET)[mode]
    if (mode, size, concurrency) == ("gateway", MIB, 16) and seal in MIB_SEALS:
        return CPU_PUT_MIB if operation == "put" else CPU_GET_MIB
    return None


class Cases:
    """The rows of a data result, looked up by what they measured."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def find(
        self, operation: str, mode: str, seal: str, size: int, concurrency: int
    ) -> Mapping[str, Any] | None:
        """The row of one measurement."""
        wanted = (operation, mode, seal, size, concurrency)
        names = ("operation", "mode", "seal", "size", "concurrency")
        for row in self._rows:
            if tuple(row[name] for name in names) == wanted:
                return row
        return None

    def value(
        self, key: Sequence[Any], pick: Callable[[Mapping[str, Any]], float | None]
    ) -> tuple[float | None, str]:
        """A value of one measurement, or why there is none."""
        row = self.find(*key)
        if row is None:
            return None, NOT_MEASURED
        if not row["available"]:
            return None, str(row["reason"])
        value = pick(row)
        return (None, NOT_MEASURED) if value is None else (float(value), "")

    def largest(
        self,
        wanted: Callable[[Mapping[str, Any]], bool],
        pick: Callable[[Mapping[str, Any]], float | None],
        *,
        all_of_them: bool,
    ) -> tuple[float | None, str]:
        """The largest value of the measurements that are wanted; perhaps none may be missing."""
        values = []
        for row in filter(wanted, self._rows):
            if not row["available"]:
                if all_of_them:
                    return None, str(row["reason"])
                continue
            value = pick(row)
            if value is None:
                return None, NOT_MEASURED
            values.append(float(value))
        return (max(values), "") if values else (None, NOT_MEASURED)


def _cpu(row: Mapping[str, Any]) -> float | None:
    return row["cpu_s_per_gb"]["best"] if row.get("cpu_s_per_gb") else None


def data_goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of ``hcefs bench data``; ``rows`` are the cases of its result."""
    cases = Cases(rows)
    goals = []
    for mode, seal in VARIANTS:
        for size, size_name in ((64 * MIB, "64 MiB"), (GIB, "1 GiB")):
            for operation in ("put", "get"):
                found = cases.value(
                    (operation, mode, seal, size, 1), lambda row: row["limit"]["ratio"]
                )
                name = f"{operation} {size_name}, {mode}: ratio to the limit"
                goals.append(_at_least(name, RATIO, found))
    for mode, seal in VARIANTS:
        one = cases.value(("put", mode, seal, 64 * MIB, 1), _cpu)
        goals.append(_at_most(f"put 64 MiB, {mode}: CPU-s/GB", CPU_PUT[mode], one))
        four = cases.value(
            ("put", mode, seal, 64 * MIB, 4), lambda row: row.get("cpu_against_one_stream")
        )
        name = f"put 64 MiB, {mode}: CPU of four streams / one"
        goals.append(_at_most(name, FOUR_STREAMS, four))
        found = cases.value(("get", mode, seal, 64 * MIB, 1), _cpu)
        goals.append(_at_most(f"get 64 MiB, {mode}: CPU-s/GB", CPU_GET[mode], found))
    for (seal, way), (operation, bound) in product(
        MIB_SEALS.items(), (("put", CPU_PUT_MIB), ("get", CPU_GET_MIB))
    ):
        found = cases.value((operation, "gateway", seal, MIB, 16), _cpu)
        name = f"{operation} 1 MiB, 16 in flight, gateway, {way}: CPU-s/GB"
        goals.append(_at_most(name, bound, found))
    found = cases.value(
        ("degraded", "gateway", "node", 64 * MIB, 1), lambda row: row["against_healthy"]
    )
    goals.append(_at_least("degraded get 64 MiB / healthy: throughput", DEGRADED, found))
    for operation in ("put", "get"):
        found = cases.largest(
            lambda row, operation=operation: (  # type: ignore[misc]
                row["operation"] == operation and row["size"] == GIB and row["concurrency"] == 1
            ),
            lambda row: row["memory_growth_mib"],
            all_of_them=True,
        )
        name = f"{operation} 1 GiB: memory growth of any process, MiB"
        goals.append(_at_most(name, MEMORY_MIB, found))
    found = cases.largest(
        lambda row: row["operation"] == "put" and row["size"] >= MIB,
        lambda row: row["disk"]["shards_per_byte"],
        all_of_them=False,
    )
    goals.append(_at_most("blobs >= 1 MiB, 4+2: shard bytes / bytes put", OVERHEAD, found))
    return goals


# --- slow ---------------------------------------------------------------------------

SLOW_NODE: Final = 1.5


def slow_goals(ratios: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """The goals of ``hcefs bench slow``; ``ratios`` as in its result, by mode."""
    goals = []
    for mode, found in ratios.items():
        value = (found["p99"], "") if "p99" in found else (None, str(found.get("reason", "")))
        name = f"get 1 MiB, {mode}: p99 with one node 10 times slower / healthy"
        goals.append(_at_most(name, SLOW_NODE, value))
    return goals


# --- repair -------------------------------------------------------------------------

REBUILD_MB_S: Final = 200
REBUILD_RATIO: Final = 0.6
REPAIRING_P99: Final = 2.0


def repair_goals(
    idle: Mapping[str, Any], ratio: float | None, clients: Sequence[Mapping[str, Any]]
) -> list[Goal]:
    """The goals of ``hcefs bench repair``; ``idle`` is the rebuild of an idle cluster."""
    goals = [
        _at_least("lost node, idle cluster: MB rebuilt/s", REBUILD_MB_S, (idle["mb_s"], "")),
        _at_least("lost node: decode + hop + write alone / CPU spent", REBUILD_RATIO, (ratio, "")),
    ]
    for row in clients:
        if row["operation"] in ("get", "put"):
            name = f"{row['operation']} of 64 KiB to 1 MiB: p99 while repairing / idle"
            goals.append(_at_most(name, REPAIRING_P99, (row["p99_ratio"], "no requests")))
    return goals


# --- durability ---------------------------------------------------------------------


def durability_goals(checks: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """That the simulation agrees with the closed form, within three half widths of 95 %."""
    goals = []
    for check in checks:
        away = abs(check["simulated"] - check["closed_form"])
        widths = away / check["half_width"] if check["half_width"] else None
        name = f"{check['profile']}: distance from the closed form, in half widths of 95 %"
        goals.append(_at_most(name, 3, (widths, "no history with a loss")))
    return goals


# --- small --------------------------------------------------------------------------

PUT_SINGLE: Final = 1_000
GET_SINGLE: Final = 1_500
PUT_MANY_ONE: Final = 10_000
PUT_MANY_DIFFERENT: Final = 3_000
GET_MANY: Final = 15_000
PACK_BYTES: Final = 4.0
AUTHORITY_MS: Final = 0.3

_SMALL: Final = (
    ("put-many-one", "PutMany 4 KiB, one record: payloads/s durable", PUT_MANY_ONE),
    (
        "put-many-different",
        "PutMany 4 KiB, all-different records: payloads/s durable",
        PUT_MANY_DIFFERENT,
    ),
    ("put", "single puts 4 KiB, 64 in flight: puts/s durable", PUT_SINGLE),
    ("get", "single gets 4 KiB, 64 in flight: gets/s", GET_SINGLE),
    ("get-many", "GetMany 4 KiB: payloads/s", GET_MANY),
)


def rate_goal(operation: str, size: int) -> float | None:
    """The payloads/s to reach with small payloads, if there is such a figure."""
    return next((rate for name, _, rate in _SMALL if (name, 4 * KIB) == (operation, size)), None)


def small_goals(rows: Sequence[Mapping[str, Any]], authority_ms: float | None) -> list[Goal]:
    """The goals of ``hcefs bench small``; ``authority_ms`` is CPU of one authorization."""

    def value(operation: str, pick: Callable[[Mapping[str, Any]], Any]) -> tuple[Any, str]:
        for row in rows:
            if (row["operation"], row["size"]) == (operation, 4 * KIB):
                return (pick(row), "") if row["available"] else (None, str(row["reason"]))
        return None, NOT_MEASURED

    goals = [
        _at_least(name, bound, value(operation, lambda row: row["ops_s"]["best"]))
        for operation, name, bound in _SMALL
    ]
    packed = value("put-many-one", lambda row: row["disk"]["all_per_byte"])
    goals.append(_at_most("4 KiB payloads in packs: bytes on disk / bytes put", PACK_BYTES, packed))
    name = "proof, token and rights of a repeated small get: CPU ms"
    goals.append(_at_most(name, AUTHORITY_MS, (authority_ms, NOT_MEASURED)))
    return goals


# --- revoke -------------------------------------------------------------------------

REVOKED_MS: Final = 1_000
CERTIFIED_SLACK_MS: Final = 2_000
"""Beyond the end of a lease and the next head: polling, and the certificate itself."""


def revoke_goals(rows: Sequence[Mapping[str, Any]], lease_s: float, renewal_s: float) -> list[Goal]:
    """The goals of ``hcefs bench revoke``.

    ``lease_s`` is when a node that was not heard counts, ``renewal_s`` the time between
    two heads of the ledger, one of which has to show it.
    """
    goals = []
    for row in rows:
        case = row["case"]
        for percent in ("p50", "p99"):
            found = row["denied_ms"]
            value = (None if found is None else found[percent], row.get("reason", NOT_MEASURED))
            goals.append(
                _at_most(f"{case}: {percent} ms from commit to denial by all that run",
                         REVOKED_MS, value)
            )  # fmt: skip
        proved = row["certified_ms"]
        value = (None if proved is None else proved["p99"], row.get("reason", NOT_MEASURED))
        bound = REVOKED_MS
        if case != "healthy":
            bound = round((lease_s + renewal_s) * 1000 + CERTIFIED_SLACK_MS)
        goals.append(_at_most(f"{case}: p99 ms from commit to the certificate", bound, value))
        if "cut off" in case:
            value = (row["hurt_refused_ms"], NOT_MEASURED)
            name = f"{case}: ms until it refuses everybody"
            goals.append(_at_most(name, round(lease_s * 1000), value))
    return goals


# --- scrape ---------------------------------------------------------------------------

SCRAPE_MS: Final = 50


def scrape_goals(row: Mapping[str, Any]) -> list[Goal]:
    """The goals of ``hcefs bench scrape``."""
    found = (float(row["busy_ms"]["p50"]), "")
    return [_at_most("a page of metrics of a busy node: p50 ms", SCRAPE_MS, found)]
