"""The figures that placement is to reach.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from benchmarks.goals import NOT_MEASURED, Goal

KNOWN_DIGEST: Final = "d2df9bf71f35245bf281072c649b9a2e72d1b32f266aa86847ab59dab84cdc65"
"""Of ``benchmarks.placement.reference_digest``: the same on every platform, or the goal fails."""

Line = Mapping[str, Any]
_Pick = Callable[[Line], float | None]


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """The table of figures to reach."""
    lines = [line for line in found["lines"] if line["available"]]
    walks = found["walks"]

    def worst(rows: Sequence[Line], pick: _Pick) -> tuple[float | None, str]:
        values = [pick(row) for row in rows]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None, "a plan was not minimal"
        return (max(known), "") if known else (None, NOT_MEASURED)

    def at_most(name: str, bound: float, rows: Sequence[Line], pick: _Pick) -> Goal:
        return Goal(name, bound, False, *worst(rows, pick))

    even = [line for line in lines if line["seats_a_node"] >= 100]
    moving = [line for line in lines if line["moves"]]
    many = [line for line in lines if line["real_optimum"] >= 100]
    large = [line for line in lines if line["nodes"] == 200]
    adding = [line for line in lines if line["operation"].startswith("add")]
    same = float(found["digests"] == [KNOWN_DIGEST])
    wanted = [
        at_most("imbalance against feasible, >= 100 seats a node", 1.01, even, _of("imbalance")),
        at_most(
            "moves / minimum-cost optimum (proof: no negative circle)",
            1.0,
            moving,
            lambda row: row["moves"] / row["optimum"] if row["optimum"] else None,
        ),
        at_most(
            "moves / real-valued optimum of >= 100 seats",
            1.02,
            many,
            lambda row: row["moves"] / row["real_optimum"],
        ),
        at_most("seat moves / set moves", 1.0, moving, lambda row: row["moves"] / row["newcomers"]),
        at_most("cap violations", 0, lines, _of("cap_violations")),
        at_most("other nodes gaining when one is added", 0, adding, _of("others_gaining")),
        at_most("data-read imbalance with rotation", 1.01, even, _of("data_imbalance")),
        at_most(
            "plan at 200 nodes, P = 4096: CPU s",
            1.0,
            [line for line in large if line["partitions"] == 4096],
            _of("plan_s"),
        ),
        at_most("look-up: us", 3.0, found["look_ups"], lambda row: row["look_up_s"] * 1e6),
        at_most("map at 200 nodes: KiB, deflate", 64, large, _kib("map_compressed")),
        at_most(
            "map at 200 nodes in mid-plan: KiB, xz",
            64,
            large,
            _kib("map_compressed_moving"),
        ),
        at_most("100 random operations: imbalance", 1.01, walks, _of("imbalance")),
        at_most(
            "100 random operations: moves / real-valued optimum",
            1.02,
            walks,
            lambda row: row["moves"] / row["ideal"],
        ),
        Goal("same hash under every PYTHONHASHSEED and as recorded", 1, True, same),
    ]
    # What --nodes leaves out is no failure; what it names and was not measured is one.
    at_200 = 200 in found["nodes"]
    return [goal for goal in wanted if at_200 or "200 nodes" not in goal.name]


def _of(name: str) -> _Pick:
    return lambda row: float(row[name])


def _kib(name: str) -> _Pick:
    return lambda row: row[name] / 1024
