"""``hcefs bench durability``: how likely a cluster loses a blob in a year, as far as modelled.

The model is :mod:`benchmarks.durability_model`; here are its cells (profiles on clusters), its
cases (the assumptions as they are, and each of them worse) and its result.  The pace of a
rebuild comes from a result of ``hcefs bench repair``: what was measured under the load of
clients, not the best that an idle cluster does.

No probability is a goal to reach: the figures say what follows from the assumptions, with
intervals of the simulation.  What must hold is that the simulation agrees with the closed form
where that is exact.  The assumptions have no interval; that is what
the cases are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.durability_model import YEAR, Assumptions, Shape, Year, closed_form, simulate
from benchmarks.goals import durability_goals
from benchmarks.placement import make_map
from hcefs.errors import Invalid

CELLS: Final = (
    ("copy-3", 6),
    ("ec-4-2", 6),
    ("ec-4-2", 16),
    ("ec-8-3", 16),
    ("ec-10-4", 16),
    ("ec-4-2", 48),
)
QUICK_CELLS: Final = (("copy-3", 6), ("ec-4-2", 6), ("ec-4-2", 16))
CYCLES: Final = 60
QUICK_CYCLES: Final = 20

AS_ASSUMED: Final = "as assumed"
CASES: Final[Mapping[str, Callable[[Assumptions], Assumptions]]] = {
    AS_ASSUMED: lambda base: base,
    "repair 10 times slower": lambda base: replace(base, rebuild_bytes_s=base.rebuild_bytes_s / 10),
    "AFR 4 times higher": lambda base: replace(base, afr=base.afr * 4),
    "failures in clusters (10 times)": lambda base: replace(base, clustering=10.0),
    "zones lost 10 times as often": lambda base: replace(base, zone_losses=base.zone_losses * 10),
    "no scrub for 5 years": lambda base: replace(base, scrub_seconds=5 * YEAR),
    "found lost only after a day": lambda base: replace(base, detect_seconds=86_400.0),
}
CHECKS: Final = (
    (4, 2, 0.02, 86_400.0),
    (1, 2, 0.02, 86_400.0),
    (8, 3, 0.5, 0.02 * YEAR),
    (10, 4, 0.9, 0.04 * YEAR),
)
"""k, m, AFR, mean time of a repair.  With exponential repairs the weights of very rare losses
have a tail that no reasonable number of histories tames, so three and four losses at a time
are compared where they are less rare."""

CHECK_CYCLES: Final = 12_000
MODELLED_NOT: Final = (
    "software faults that write wrong bytes everywhere, and attackers",
    "nodes of one batch that fail together beyond the factor of the case",
    "lack of space for what is to be rebuilt after a zone is lost",
    "outages that take no data: they delay a rebuild only by the time of detection",
    "deletion and shredding that was wanted",
    "the keys: a blob whose key row or key box is lost is lost too; they lie on all n seats",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What to simulate; ``base`` has the measured pace of a rebuild."""

    cycles: int = CYCLES
    cells: Sequence[tuple[str, int]] = CELLS
    seed: int = 1
    base: Assumptions = field(default_factory=Assumptions)
    pace_from: str = "assumed: no result of `hcefs bench repair` was given"
    quick: bool = False


def with_measured_pace(options: Options, path: Path) -> Options:
    """The options with the pace that a result of ``hcefs bench repair`` found.

    Raises:
        NotFound: there is no such file (by way of OSError).
        Invalid: it is no such result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        pace = float(result["rebuilds"]["loaded"]["mb_s"]) * 1e6
    except (ValueError, KeyError, TypeError):
        raise Invalid(
            f"{path} is no result of `hcefs bench repair --json`", reason="bad-result"
        ) from None
    if not pace > 0:
        raise Invalid(f"{path} measured no pace of a rebuild", reason="bad-result")
    return replace(
        options,
        base=replace(options.base, rebuild_bytes_s=pace),
        pace_from=f"measured under load: {pace / 1e6:.0f} MB/s a destination ({path.name})",
    )


def shape_of(profile: str, nodes: int) -> Shape:
    """The rows that the real planner gives a profile on so many equal nodes."""
    first = make_map(nodes, profile)
    table = first.table(profile)
    numbers = {node.node_id: number for number, node in enumerate(first.nodes)}
    names = sorted({node.zone for node in first.nodes})
    return Shape(
        k=table.k,
        m=table.m,
        rows=tuple(tuple(numbers[node] for node in row) for row in table.node_rows),
        zones=tuple(names.index(node.zone) for node in first.nodes),
    )


def run(options: Options, say: Say) -> dict[str, Any]:
    """Simulate every cell in every case; the result as data."""
    rows = []
    for profile, nodes in options.cells:
        shape = shape_of(profile, nodes)
        for case, change in CASES.items():
            say(f"{profile} on {nodes} nodes: {case}")
            assumed = change(options.base)
            year = simulate(shape, assumed, options.cycles, options.seed)
            rows.append(row_of(profile, nodes, case, shape, assumed, year))
    checks = [check(*each, options.seed) for each in CHECKS]
    return {
        "assumptions": asdict(options.base) | {"damage": options.base.damage},
        "pace_from": options.pace_from,
        "not_modelled": list(MODELLED_NOT),
        "results": rows,
        "checks": checks,
        "goals": [goal.as_data() for goal in durability_goals(checks)],
    }


def row_of(
    profile: str, nodes: int, case: str, shape: Shape, assumed: Assumptions, year: Year
) -> dict[str, Any]:
    """One cell in one case."""
    by_stratum = {each.name: each.rate * YEAR * each.loss.mean for each in year.strata}
    return {
        "profile": profile,
        "nodes": nodes,
        "zones": len(set(shape.zones)),
        "partitions": len(shape.rows),
        "case": case,
        "rebuild_hours": rebuild_seconds(shape, assumed) / 3600,
        "loss": list(year.loss),
        "bytes": list(year.bytes),
        "share": year.share,
        "loss_by_beginning": by_stratum,
        "histories_with_loss": sum(each.loss.hits for each in year.strata),
    }


def rebuild_seconds(shape: Shape, assumed: Assumptions) -> float:
    """How long one lost node is rebuilt, once it is known to be lost."""
    return assumed.node_bytes / (assumed.rebuild_bytes_s * max(1, shape.nodes - 1))


def check(k: int, m: int, afr: float, repair_seconds: float, seed: int) -> dict[str, Any]:
    """The simulation beside the closed form, where the closed form's assumptions hold."""
    n = k + m
    shape = Shape(k, m, (tuple(range(n)),), tuple(range(n)))
    assumed = Assumptions(
        afr=afr,
        zone_losses=0.0,
        mistakes=0.0,
        damaged_shards=0.0,
        exponential_repair_seconds=repair_seconds,
    )
    loss = simulate(shape, assumed, CHECK_CYCLES, seed).strata[0].loss
    exact = closed_form(n, m, assumed.node_rate, 1 / repair_seconds)
    return {
        "profile": f"{k}+{m}",
        "afr": afr,
        "repair_hours": repair_seconds / 3600,
        "simulated": loss.mean,
        "half_width": loss.half_width,
        "histories_with_loss": loss.hits,
        "closed_form": exact,
        # Three half widths of 95 %: wrong once in hundreds of millions of seeds.
        "agrees": abs(loss.mean - exact) <= 3 * loss.half_width,
    }


def digits(probability: float) -> float:
    """Orders of magnitude below 1."""
    return -math.log10(probability) if probability > 0 else 0.0
