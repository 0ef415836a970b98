"""What of a PromQL expression can be held to a table of metrics without Prometheus.

Not a parser: it finds metrics with their selectors, and the labels of ``by``, ``on`` and
``without``.  promtool, where it is installed, checks the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from hcefs.cli.backup import METRICS
from hcefs.metrics import FAMILIES, PREFIX

SCRAPED = frozenset({"job", "instance", "cluster"})
"""Labels that the scrape gives to everything."""

_METRIC = re.compile(r"(?<![\w:$])([a-zA-Z_][\w:]*)\s*(\{[^}]*\})?")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")
_LABEL = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")


def known_metrics() -> dict[str, frozenset[str]]:
    """Every series that a process shows, with its labels and those of the scrape."""
    found: dict[str, frozenset[str]] = {
        "up": SCRAPED,
        "ALERTS": SCRAPED | {"alertname", "alertstate", "severity"},
    }
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        found[f"{PREFIX}process_{name}"] = SCRAPED
    for family in FAMILIES:
        labels = SCRAPED | set(family.labels)
        name = PREFIX + family.name
        if family.type == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found[f"{name}_sum"] = found[f"{name}_count"] = labels
        else:
            found[name] = labels
    # Of a file that node_exporter shows.
    found |= dict.fromkeys(METRICS, SCRAPED)
    return found


def complaints(expression: str, known: Mapping[str, Set[str]]) -> list[str]:
    """What the expression names and nobody shows."""
    wrong = []
    grouped = {
        label.strip()
        for labels in _GROUPING.findall(expression)
        for label in labels.split(",")
        if label.strip()
    }
    rest = _GROUPING.sub(" ", expression)
    seen: set[str] = set()
    for name, selector in _METRIC.findall(rest):
        if not (name.startswith((PREFIX, "hcefs:")) or name in ("up", "ALERTS")):
            continue
        if name not in known:
            wrong.append(f"no metric {name}")
            continue
        seen |= known[name]
        for label in _LABEL.findall(_STRING.sub('""', selector)):
            if label not in known[name]:
                wrong.append(f"{name} has no label {label}")
    wrong += [f"nothing here has the label {label}" for label in sorted(grouped - seen)]
    if not seen and not wrong:
        wrong.append("it names no metric")
    return wrong
