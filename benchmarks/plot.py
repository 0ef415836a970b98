"""Horizontal bars as SVG: one panel below the other, nothing but text and rectangles.

Each bar is the best of a run's repeats, a thin line its median, a diamond the limit
and a green line the figure to reach, where there is one.  Pure; needs no library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 960
LEFT: Final = 250
RIGHT: Final = 90
BAR_HEIGHT: Final = 16
BAR_STEP: Final = 24
TITLE_HEIGHT: Final = 84
PANEL_HEAD: Final = 40
PANEL_FOOT: Final = 38
TICKS_MAX: Final = 6
LETTER: Final = 7
LEGEND_GAP: Final = 20
GOAL_ROOM: Final = 48
"""Pixels between a bar and the figure to reach that the bar's own number needs."""

NONE: Final = "-"

_STYLE: Final = """
text { font-family: "DejaVu Sans", Helvetica, Arial, sans-serif; font-size: 12px; fill: #24303c }
.title { font-size: 20px; font-weight: bold } .sub { fill: #5b6875 }
.panel { font-size: 14px; font-weight: bold } .tick { fill: #5b6875; font-size: 11px }
.grid { stroke: #dde3e8; stroke-width: 1 } .bar { fill: #3f7fb5 }
.median { stroke: #24303c; stroke-width: 1.5 } .limit { fill: #d9822b }
.goal { stroke: #2f8f4e; stroke-width: 3 }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: its name, the best value; the limit, median and figure to reach if there are any."""

    name: str
    value: float
    limit: float | None = None
    median: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class Panel:
    """Bars on one axis."""

    title: str
    unit: str
    bars: Sequence[Bar]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.{digits + 3}f}"


def tick_step(largest: float) -> float:
    """The distance of round numbers, such that few cover the axis: 1, 2 or 5 times a power."""
    if largest <= 0:
        return 1.0
    rough = largest / TICKS_MAX
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def chart(
    title: str,
    subtitle: str,
    panels: Sequence[Panel],
    bars: str = "best",
    line: str = "median",
) -> str:
    """The drawing of some panels; ``bars`` and ``line`` say what a bar and a thin line are."""
    parts: list[str] = []
    top = TITLE_HEIGHT
    for panel in panels:
        parts += _panel(panel, top)
        top += _height(panel)
    if not panels:
        parts.append(_text(24, top + 16, "nothing was measured", "sub"))
        top += 40
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        f'viewBox="0 0 {WIDTH} {top}">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>',
        _text(24, 32, title, "title"),
        _text(24, 52, subtitle, "sub"),
        *_legend(panels, bars, line),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _legend(panels: Sequence[Panel], what: str, line: str) -> list[str]:
    bars = [bar for panel in panels for bar in panel.bars]
    if not bars:
        return []
    parts = ['<rect class="bar" x="24" y="62" width="22" height="10"/>', _text(52, 71, what)]
    x = 52 + LETTER * len(what) + LEGEND_GAP
    if any(bar.median is not None for bar in bars):
        parts += [_line("median", x, 60, 74), _text(x + 7, 71, line)]
        x += 7 + LETTER * len(line) + LEGEND_GAP
    if any(bar.goal is not None for bar in bars):
        parts += [_line("goal", x, 60, 74), _text(x + 8, 71, "to reach")]
        x += 8 + LETTER * len("to reach") + LEGEND_GAP
    if any(bar.limit is not None for bar in bars):
        text = "limit: the sum of the stages that the way cannot avoid"
        parts += [_diamond(x, 67), _text(x + 10, 71, text)]
    return parts


def _line(style: str, x: float, top: float, bottom: float) -> str:
    return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _height(panel: Panel) -> int:
    return PANEL_HEAD + BAR_STEP * len(panel.bars) + PANEL_FOOT


def _panel(panel: Panel, top: int) -> list[str]:
    values = [
        value
        for bar in panel.bars
        for value in (bar.value, bar.limit, bar.median, bar.goal)
        if value is not None
    ]
    step = tick_step(max(values, default=0.0))
    ticks = max(1, math.ceil(max(values, default=0.0) / step))
    scale = (WIDTH - LEFT - RIGHT) / (ticks * step)
    first = top + PANEL_HEAD
    bottom = first + BAR_STEP * len(panel.bars)
    parts = [_text(24, top + 24, panel.title, "panel")]
    for index in range(ticks + 1):
        x = LEFT + index * step * scale
        parts.append(_line("grid", x, first - 4, bottom))
        parts.append(_text(x, bottom + 14, number(index * step, 4), "tick", "middle"))
    parts.append(_text(WIDTH - 10, bottom + 14, panel.unit, "tick", "end"))
    for index, bar in enumerate(panel.bars):
        parts += _bar(bar, first + index * BAR_STEP, scale)
    return parts


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    middle = y + BAR_HEIGHT / 2
    length = max(1.0, bar.value * scale)
    parts = [
        _text(LEFT - 10, middle + 4, bar.name, "", "end"),
        f'<rect class="bar" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}"/>',
    ]
    ends = [length]
    if bar.median is not None:
        ends.append(bar.median * scale)
        parts.append(_line("median", LEFT + bar.median * scale, y - 2, y + BAR_HEIGHT + 2))
    if bar.goal is not None:
        x = bar.goal * scale
        parts.append(_line("goal", LEFT + x, y - 2, y + BAR_HEIGHT + 2))
        # The figure stands behind the bar, unless that is where the line is.
        if x - max(ends) < GOAL_ROOM:
            ends.append(x + 2)
    if bar.limit is not None:
        ends.append(bar.limit * scale + 6)
        parts.append(_diamond(LEFT + bar.limit * scale, middle))
    parts.append(_text(LEFT + max(ends) + 6, middle + 4, number(bar.value)))
    return parts


def _diamond(x: float, y: float) -> str:
    points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return f'<polygon class="limit" points="{points}"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    chosen = f' class="{style}"' if style else ""
    return f'<text{chosen} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
