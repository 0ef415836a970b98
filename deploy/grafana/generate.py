"""Write ``hcefs.json``, the dashboard for Grafana; with ``--check``, only compare.

The table below is the dashboard: rows of panels, each with its unit and its queries.
``tests/unit/deploy`` holds every query to the metrics that there are.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "hcefs.json"
WIDTH = 24
HEIGHT = 7
SOURCE = {"type": "prometheus", "uid": "${source}"}
OF = 'cluster=~"$cluster"'
NODE = f'{OF},instance=~"$instance"'


@dataclass(frozen=True)
class Panel:
    """A title, a unit of Grafana's, and queries with their legends.

    ``alarm`` is a bound from which a number is red; a panel with one shows the last
    number, the others show time series.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    alarm: float | None = None
    below: bool = False
    """Whether the number is red *below* the bound."""

    width: int = 6
    stacked: bool = False


def stat(
    title: str, unit: str, query: str, alarm: float, *, below: bool = False, width: int = 4
) -> Panel:
    """One number that is green or red."""
    return Panel(title, unit, ((query, ""),), alarm, below, width)


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            stat("Blobs that cannot be read", "short",
                 f'sum(hcefs:blobs_by_margin:sum{{{OF},margin="below-k"}})', 1),
            stat("Blobs at the brink", "short",
                 f'sum(hcefs:blobs_by_margin:sum{{{OF},margin="0"}})', 1),
            stat("Blobs with lacking shards", "short", f"sum(hcefs:blobs_short:sum{{{OF}}})", 1),
            stat("Nodes that do not serve", "short",
                 f'count(up{{{OF},job="hcefs-node"}}) '
                 f'- sum(hcefs_serving{{{OF},job="hcefs-node"}})', 1),
            stat("Ledger writes", "short", f'min(hcefs_serving{{{OF},job="hcefs-ledger"}})', 1,
                 below=True),
            stat("Alerts", "short", 'count(ALERTS{alertstate="firing",alertname=~"Hcefs.*"}) '
                 "or vector(0)", 1),
        ),
    ),
    (
        "Durability",
        (
            Panel("Blobs by margin (live shards beyond k)", "short",
                  ((f"hcefs:blobs_by_margin:sum{{{OF}}}", "{{margin}}"),), width=8, stacked=True),
            Panel("Blobs by live shards", "short",
                  ((f"sum by (profile, n) (hcefs_blobs_by_live_shards{{{OF}}}) > 0",
                    "{{profile}}: {{n}}"),), width=8),
            Panel("Repair backlog by margin", "short",
                  ((f"hcefs:repair_backlog:sum{{{OF}}}", "{{margin}}"),), width=8, stacked=True),
            Panel("Repair pace", "Bps",
                  ((f"hcefs_repair_pace_bytes{{{NODE}}}", "{{instance}}"),)),
            Panel("Repair: time left (-1: unknown)", "s",
                  ((f"hcefs_repair_left_seconds{{{NODE}}}", "{{instance}}"),)),
            Panel("Since a pass found everything whole (-1: never)", "s",
                  ((f"hcefs_repair_whole_age_seconds{{{NODE}}}", "{{instance}}"),)),
            Panel("Repairs that failed", "ops",
                  ((f"sum by (reason) (rate(hcefs_repair_failures_total{{{NODE}}}[5m]))",
                    "{{reason}}"),)),
        ),
    ),
    (
        "Scrub and damage",
        (
            Panel("Scrub: oldest reading", "s",
                  ((f"hcefs_scrub_oldest_unverified_seconds{{{NODE}}}", "{{instance}}"),)),
            Panel("Scrub: progress of the cycle", "percentunit",
                  ((f"hcefs_scrub_progress{{{NODE}}}", "{{instance}}"),)),
            Panel("Scrub: time left", "s",
                  ((f"hcefs:scrub_left_seconds:max{{{OF}}}", "the last node"),)),
            Panel("Scrub: what it found", "short",
                  ((f"sum by (kind) (increase(hcefs_scrub_found_total{{{NODE}}}[1h]))",
                    "{{kind}}"),)),
            Panel("Damaged shards found", "short",
                  ((f"increase(hcefs_corrupt_shards_total{{{NODE}}}[1h])", "{{instance}}"),)),
            Panel("Quarantine", "short",
                  ((f"hcefs_quarantined_shards{{{NODE}}}", "{{instance}}"),)),
            Panel("Disk state", "short",
                  ((f'hcefs_disk_state{{{NODE},state!="ok"}}', "{{instance}} {{state}}"),)),
            Panel("Disk calls, p99", "s",
                  (("histogram_quantile(0.99, sum by (instance, call, le) "
                    f"(rate(hcefs_disk_call_seconds_bucket{{{NODE}}}[5m])))",
                    "{{instance}} {{call}}"),)),
        ),
    ),
    (
        "Capacity, seats and moves",
        (
            Panel("Disk used", "percentunit",
                  ((f"1 - hcefs_disk_free_bytes{{{NODE}}} / hcefs_disk_total_bytes{{{NODE}}}",
                    "{{instance}}"),)),
            Panel("Time until disks are full", "s",
                  ((f"hcefs:disk_full_seconds:left{{{NODE}}}", "{{instance}}"),)),
            Panel("Bytes of shards", "bytes",
                  ((f"hcefs_shard_bytes{{{NODE}}}", "{{instance}}"),), stacked=True),
            Panel("Nodes by state", "short",
                  ((f"max by (state) (hcefs_cluster_map_nodes{{{OF}}}) > 0", "{{state}}"),)),
            Panel("Seats by node", "short",
                  ((f"sum by (instance) (hcefs_seats{{{NODE}}})", "{{instance}}"),)),
            Panel("Seats for each unit of weight", "short",
                  ((f"sum by (instance) (hcefs_seats{{{NODE}}}) / "
                    f"sum by (instance) (hcefs_node_weight{{{NODE}}} > 0)", "{{instance}}"),)),
            Panel("Seats that move; shards to delete", "short",
                  ((f"hcefs_moving_seats{{{NODE}}}", "{{instance}} moving"),
                   (f"hcefs_retiring_shards{{{NODE}}}", "{{instance}} retiring"))),
            Panel("Rebalance: time left", "s",
                  ((f"hcefs:rebalance_left_seconds:max{{{OF}}}", "at the present pace"),)),
            Panel("Bytes moved", "Bps",
                  ((f"rate(hcefs_rebalanced_bytes_total{{{NODE}}}[5m])", "{{instance}}"),)),
            Panel("Upkeep may take", "Bps",
                  ((f"hcefs_upkeep_rate_bytes{{{NODE}}}", "{{instance}}"),)),
            Panel("Stand-ins that wait", "short",
                  ((f"hcefs_stand_ins_waiting{{{NODE}}}", "{{instance}}"),)),
            Panel("Epoch of the map", "short",
                  ((f"hcefs_cluster_map_epoch{{{OF}}}", "{{instance}}"),)),
        ),
    ),
    (
        "Throughput and latency",
        (
            Panel("Payload", "Bps",
                  ((f"hcefs:put_bytes:rate5m{{{OF}}}", "put"),
                   (f"hcefs:get_bytes:rate5m{{{OF}}}", "get")), width=8),
            Panel("Requests by method", "reqps",
                  ((f"sum by (method) (hcefs:requests:rate5m{{{OF}}})", "{{method}}"),), width=8),
            Panel("Requests that were not ok", "reqps",
                  ((f'sum by (outcome) (hcefs:requests:rate5m{{{OF},outcome!="ok"}})',
                    "{{outcome}}"),), width=8),
            Panel("Latency, p50", "s",
                  ((f"hcefs:request_seconds:p50_5m{{{OF}}}", "{{method}}"),)),
            Panel("Latency, p99", "s",
                  ((f"hcefs:request_seconds:p99_5m{{{OF}}}", "{{method}}"),)),
            Panel("Puts and gets that fail for the cluster's reasons", "percentunit",
                  ((f"hcefs:puts_failed:share5m{{{OF}}}", "puts"),
                   (f"hcefs:gets_failed:share5m{{{OF}}}", "gets"))),
            Panel("Degraded, hedged", "ops",
                  ((f"sum(rate(hcefs_degraded_puts_total{{{NODE}}}[5m]))", "degraded puts"),
                   (f"sum(rate(hcefs_degraded_reads_total{{{NODE}}}[5m]))", "degraded reads"),
                   (f"sum(rate(hcefs_hedged_loads_total{{{NODE}}}[5m]))", "hedged loads"))),
            Panel("Open streams", "short",
                  ((f"hcefs_open_streams{{{NODE}}}", "{{instance}}"),)),
            Panel("Memory of streams", "bytes",
                  ((f"hcefs_stream_memory_bytes{{{NODE}}}", "{{instance}}"),)),
            Panel("Turned away: busy", "reqps",
                  ((f"sum by (limit) (rate(hcefs_busy_total{{{NODE}}}[5m]))", "{{limit}}"),)),
            Panel("CPU of processes", "percentunit",
                  ((f"rate(hcefs_process_cpu_seconds_total{{{NODE}}}[5m])", "{{instance}}"),)),
        ),
    ),
    (
        "Access and evidence",
        (
            Panel("Denials by reason", "reqps",
                  ((f"sum by (reason) (rate(hcefs_denials_total{{{NODE}}}[5m]))", "{{reason}}"),)),
            Panel("Strangers, and accounts that ask too often", "reqps",
                  ((f"sum(rate(hcefs_unauthenticated_total{{{NODE}}}[5m]))", "strangers"),
                   (f"sum by (limit) (rate(hcefs_rate_limited_total{{{NODE}}}[5m]))",
                    "{{limit}}"))),
            Panel("Receipts", "ops",
                  ((f"sum by (kind, decision) (rate(hcefs_receipts_total{{{NODE}}}[5m]))",
                    "{{kind}} {{decision}}"),)),
            Panel("Receipts in one write", "short",
                  ((f"rate(hcefs_receipts_total{{{NODE}}}[5m]) / on (instance) group_left () "
                    f"(rate(hcefs_receipt_writes_total{{{NODE}}}[5m]) > 0)",
                    "{{instance}} {{kind}} {{decision}}"),)),
            Panel("Receipts that are not anchored", "short",
                  ((f"hcefs_receipts_unanchored{{{NODE}}}", "{{instance}}"),)),
            Panel("Age of the oldest of them", "s",
                  ((f"hcefs_receipt_anchor_age_seconds{{{NODE}}}", "{{instance}}"),)),
            Panel("Emergencies", "short",
                  ((f"max(hcefs_emergency_open{{{OF}}})", "open"),
                   (f"max(hcefs_emergency_unreviewed{{{OF}}})", "not reviewed"),
                   (f"max(hcefs_emergency_overdue{{{OF}}})", "overdue"))),
            Panel("Erased records that are still to be deleted", "short",
                  ((f"hcefs_erasures_waiting{{{NODE}}}", "{{instance}}"),)),
        ),
    ),
    (
        "Ledger, clocks and certificates",
        (
            Panel("Age of the lease", "s",
                  ((f"hcefs_ledger_lease_age_seconds{{{NODE}}}", "{{instance}}"),
                   (f"max(hcefs_ledger_lease_max_seconds{{{OF}}})", "refuses at"))),
            Panel("Height", "short", ((f"hcefs_ledger_height{{{OF}}}", "{{instance}}"),)),
            Panel("Blocks behind", "short",
                  ((f"hcefs_ledger_lag_blocks{{{NODE}}}", "{{instance}}"),)),
            Panel("Term; proofs of a fork", "short",
                  ((f"hcefs_ledger_term{{{OF}}}", "{{instance}} term"),
                   (f"hcefs_ledger_fork_proofs{{{OF}}} > 0", "{{instance}} proofs"))),
            Panel("Transactions by outcome", "ops",
                  ((f"sum by (outcome) (rate(hcefs_ledger_transactions_total{{{OF}}}[5m]))",
                    "{{outcome}}"),)),
            Panel("Commit, p99", "s",
                  (("histogram_quantile(0.99, sum by (le) "
                    f"(rate(hcefs_ledger_commit_seconds_bucket{{{OF}}}[5m])))", "p99"),)),
            Panel("Clocks, from the middle one", "s",
                  ((f"hcefs:clock_offset_seconds:median{{{OF}}}", "{{instance}}"),)),
            Panel("Certificates: time left", "s",
                  ((f"hcefs_certificate_expiry_timestamp_seconds{{{OF}}} - time()",
                    "{{instance}} {{certificate}}"),)),
        ),
    ),
)  # fmt: skip


def page() -> str:
    """The whole file."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(_placed({"type": "row", "title": title, "collapsed": False}, 0, y, WIDTH, 1))
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            height = 4 if panel.alarm is not None else HEIGHT
            panels.append(_placed(_panel(panel), x, y, panel.width, height))
            x += panel.width
        y += 4 if row[-1].alarm is not None else HEIGHT
    for number, each in enumerate(panels, 1):
        each["id"] = number
    dashboard = {
        "title": "HCE-FS",
        "uid": "hcefs",
        "schemaVersion": 38,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "tags": ["hcefs"],
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource",
                 "query": "prometheus"},
                _variable("cluster", "label_values(hcefs_serving, cluster)", ".*"),
                _variable("instance", f"label_values(hcefs_serving{{{OF}}}, instance)", ".+"),
            ]
        },
        "panels": panels,
    }  # fmt: skip
    return json.dumps(dashboard, indent=1) + "\n"


def _variable(name: str, query: str, every: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "allValue": every,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.alarm is None:
        defaults["min" if panel.unit != "s" else "decimals"] = 0 if panel.unit != "s" else 1
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    else:
        colours = ("red", "green") if panel.below else ("green", "red")
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [
                {"color": colours[0], "value": None},
                {"color": colours[1], "value": panel.alarm},
            ],
        }
    return {
        "type": "timeseries" if panel.alarm is None else "stat",
        "title": panel.title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend,
             "datasource": SOURCE}
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }  # fmt: skip


def main() -> None:
    """Write the file, or compare it."""
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            raise SystemExit(f"{PAGE.name} is stale; run: python deploy/grafana/generate.py")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
