"""Write ``alerts.test.yaml``, the cases for ``promtool test rules``; with ``--check``, compare.

A case is a healthy cluster of a ledger and three nodes in which something goes wrong and is
put right again: exactly the alerts that it names fire meanwhile, and none afterwards.

The file is committed, so that the rules can be tested without Python.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "alerts.test.yaml"
NODES = ("n1", "n2", "n3")
CLEARS_MINUTES = 30

HEALTHY: dict[str, str] = {
    "hcefs_blobs_by_margin{margin=below-k}": "0+0",
    "hcefs_blobs_by_margin{margin=0}": "0+0",
    "hcefs_blobs_by_margin{margin=1}": "0+0",
    "hcefs_blobs_by_margin{margin=2}": "1000+1",
    "hcefs_blobs_short": "0+0",
    "hcefs_repair_backlog{margin=1}": "0+0",
    "hcefs_repair_left_seconds": "-1+0",
    "hcefs_repaired_shards_total": "5+0",
    "hcefs_moving_seats": "0+0",
    "hcefs_rebalanced_bytes_total": "0+0",
    "hcefs_stand_ins_waiting": "0+0",
    "hcefs_scrub_oldest_unverified_seconds": "900000+0",
    "hcefs_scrub_cycle_seconds": "1209600+0",
    "hcefs_scrub_progress": "0.1+0.0001",
    "hcefs_corrupt_shards_total": "2+0",
    "hcefs_quarantined_shards": "2+0",
    "hcefs_disputed_shards_total": "0+0",
    "hcefs_disk_state{state=ok}": "1+0",
    "hcefs_disk_state{state=full}": "0+0",
    "hcefs_disk_state{state=failing}": "0+0",
    "hcefs_disk_free_bytes": "800000000000-1000000",
    "hcefs_disk_total_bytes": "1000000000000+0",
    "hcefs_disk_reserve_bytes": "1000000000+0",
    "hcefs_disk_call_seconds_bucket{call=sync,le=0.1}": "0+600",
    "hcefs_disk_call_seconds_bucket{call=sync,le=10.0}": "0+600",
    "hcefs_disk_call_seconds_bucket{call=sync,le=+Inf}": "0+600",
    "hcefs_restoring_rows": "0+0",
    "hcefs_requests_total{method=put,outcome=ok}": "0+600",
    "hcefs_requests_total{method=put,outcome=internal}": "0+0",
    "hcefs_puts_total{outcome=ok}": "0+600",
    "hcefs_puts_total{outcome=unavailable}": "0+1",
    "hcefs_gets_total{outcome=ok}": "0+6000",
    "hcefs_gets_total{outcome=denied}": "0+600",
    "hcefs_busy_total{limit=put}": "0+6",
    "hcefs_certificate_expiry_timestamp_seconds{certificate=own}": "40000000+0",
    "hcefs_certificate_expiry_timestamp_seconds{certificate=authority}": "300000000+0",
    "hcefs_tls_files_refused": "0+0",
    "hcefs_unreachable_nodes": "0+0",
    "hcefs_automatic_out_blocked": "0+0",
    "hcefs_cluster_map_warnings": "0+0",
    "hcefs_ledger_lease_age_seconds": "3+0",
    "hcefs_ledger_lease_max_seconds": "10+0",
    "hcefs_ledger_lag_blocks": "2+0",
    "hcefs_ledger_fork_proofs": "0+0",
    "hcefs_ledger_term": "1+0",
    "hcefs_denials_total{reason=no-grant}": "0+3",
    "hcefs_unauthenticated_total": "0+3",
    "hcefs_receipt_failures_total{reason=busy}": "0+5",
    "hcefs_receipt_failures_total{reason=disk-full}": "0+0",
    "hcefs_receipt_anchor_age_seconds": "45+0",
    "hcefs_receipts_forked": "0+0",
    "hcefs_emergency_overdue": "0+0",
    "hcefs_emergency_unjustified": "0+0",
    "hcefs_erasures_waiting": "0+0",
    "hcefs_backup_last_success_timestamp_seconds": "1000000000+0",
    "hcefs_serving": "1+0",
    "hcefs_clock_timestamp_seconds": "0+60",
    "hcefs_clock_skew_max_seconds": "5+0",
    "hcefs_build_info{version=1.0}": "1+0",
    "up": "1+0",
}
"""Of each node: a series, and its first number and step a minute."""

LEDGER = (
    "hcefs_serving",
    "hcefs_clock_timestamp_seconds",
    "hcefs_clock_skew_max_seconds",
    "hcefs_ledger_term",
    "hcefs_tls_files_refused",
    "hcefs_disk_free_bytes",
    "hcefs_disk_reserve_bytes",
    "hcefs_disk_total_bytes",
    "hcefs_build_info{version=1.0}",
    "up",
)
"""What the ledger shows of these."""


COMPANIONS = {
    "hcefs_blobs_by_margin": ("hcefs_blobs_short",),
    "hcefs_disk_free_bytes": ("hcefs_disk_reserve_bytes",),
    "hcefs_ledger_lease_age_seconds": ("hcefs_ledger_lease_max_seconds",),
    "hcefs_moving_seats": ("hcefs_rebalanced_bytes_total",),
    "hcefs_puts_total": ("hcefs_gets_total",),
    "hcefs_repair_backlog": ("hcefs_repaired_shards_total",),
    "hcefs_scrub_oldest_unverified_seconds": ("hcefs_scrub_cycle_seconds",),
}
"""What rules compare others with."""


@dataclass(frozen=True)
class Case:
    """What goes wrong for so many minutes, and which alerts that is to fire.

    ``wrong`` is by series, on ``where``; a step that says None is a series that goes away.
    ``clears`` is how many minutes afterwards everything is to be quiet; 0: not looked at.
    """

    name: str
    fires: tuple[str, ...]
    wrong: dict[str, str | None]
    minutes: int = 30
    where: tuple[str, ...] = ("n1",)
    clears: int = CLEARS_MINUTES


ALL = (*NODES, "ledger")
BUCKET = "hcefs_disk_call_seconds_bucket{call=sync,le=%s}"
EXPIRY = "hcefs_certificate_expiry_timestamp_seconds{certificate=%s}"

CASES = (
    Case("healthy", (), {}, 120),
    Case("one node down for a moment", (), {"up": "0+0"}, 4),
    Case("lost blobs", ("BlobsBelowK",), {"hcefs_blobs_by_margin{margin=below-k}": "3+0"}, 20),
    Case("lost for a moment", (), {"hcefs_blobs_by_margin{margin=below-k}": "3+0"}, 4),
    Case("the brink for a moment", (), {"hcefs_blobs_by_margin{margin=0}": "3+0"}, 10),
    Case("the brink", ("BlobsAtTheBrink",), {"hcefs_blobs_by_margin{margin=0}": "3+0"}),
    Case("short", ("BlobsShort",), {"hcefs_blobs_short": "7+0"}, 400),
    Case(
        "repair does its work",
        (),
        {"hcefs_repair_backlog{margin=1}": "400-1", "hcefs_repaired_shards_total": "5+1"},
        240,
    ),
    Case("repair stalls", ("RepairStalled",), {"hcefs_repair_backlog{margin=1}": "9+0"}, 240),
    Case("repair is slow", ("RepairSlow",), {"hcefs_repair_left_seconds": "100000+0"}, 90),
    Case("moves stall", ("MovesStalled",), {"hcefs_moving_seats": "9+0"}, 150),
    Case(
        "moves go on",
        (),
        {"hcefs_moving_seats": "400-1", "hcefs_rebalanced_bytes_total": "0+1000"},
        150,
    ),
    Case(
        "a node does not come back", ("StandInsWaiting",), {"hcefs_stand_ins_waiting": "4+0"}, 760
    ),
    Case("no scrub", ("ScrubBehind",), {"hcefs_scrub_oldest_unverified_seconds": "2600000+0"}, 90),
    Case("a bad disk", ("ShardsDamaged",), {"hcefs_corrupt_shards_total": "2+1"}, 30, clears=460),
    Case("quarantine", ("QuarantineGrows",), {"hcefs_quarantined_shards": "0+0.01"}, 1560),
    Case(
        "quarantine on a node of today",
        ("QuarantineGrows",),
        {"hcefs_quarantined_shards": "20+0"},
        120,
    ),
    Case("dispute", ("DisputedShards",), {"hcefs_disputed_shards_total": "0+1"}, 20, clears=90),
    Case("full", ("DiskFull",), {"hcefs_disk_state{state=full}": "1+0"}),
    Case(
        "full soon",
        ("DiskFullSoon",),
        {"hcefs_disk_free_bytes": "200000000000-100000000"},
        450,
        clears=420,
    ),
    Case(
        "the ledger's disk is full soon",
        ("DiskFullSoon",),
        {"hcefs_disk_free_bytes": "200000000000-100000000"},
        450,
        where=("ledger",),
        clears=420,
    ),
    Case("failing", ("DiskFailing",), {"hcefs_disk_state{state=failing}": "1+0"}),
    Case("slow", ("DiskSlow",), {BUCKET % "0.1": "0+500"}, clears=60),
    Case("restoring", ("Restoring",), {"hcefs_restoring_rows": "900-1"}, 400),
    Case("something else is scraped", ("Absent",), {"hcefs_serving": None}, where=NODES),
    Case("nobody scrapes", ("Absent",), {"hcefs_serving": None, "up": None}, where=("ledger",)),
    Case(
        "all nodes are down",
        ("NodeDown", "NodesDown"),
        {"up": "0+0", "hcefs_serving": None},
        where=NODES,
    ),
    Case("a node is down", ("NodeDown",), {"up": "0+0", "hcefs_serving": None}),
    Case(
        "two nodes are down",
        ("NodeDown", "NodesDown"),
        {"up": "0+0", "hcefs_serving": None},
        where=("n1", "n2"),
    ),
    Case("a node refuses", ("NotServing",), {"hcefs_serving": "0+0"}),
    Case(
        "two nodes refuse",
        ("NotServing", "NodesDown"),
        {"hcefs_serving": "0+0"},
        where=("n1", "n2"),
    ),
    Case("puts fail", ("RequestsFail",), {"hcefs_puts_total{outcome=unavailable}": "0+100"}),
    Case(
        "a bug",
        ("InternalErrors",),
        {"hcefs_requests_total{method=put,outcome=internal}": "0+1"},
        clears=60,
    ),
    Case(
        "the first bug of a process",
        ("InternalErrors",),
        {"hcefs_requests_total{method=get,outcome=internal}": "1+0"},
        14,
    ),
    Case("overload", ("Overloaded",), {"hcefs_busy_total{limit=put}": "0+200"}),
    Case(
        "a certificate ends in weeks",
        ("CertificateExpires",),
        {EXPIRY % "own": "2000000+0"},
        90,
    ),
    Case(
        "the authority ends tomorrow",
        ("CertificateExpires", "CertificateExpiresNow"),
        {EXPIRY % "authority": "90000+0"},
        90,
    ),
    Case(
        "new TLS files are wrong",
        ("CertificateRefused",),
        {"hcefs_tls_files_refused": "1+0"},
        where=("n1", "ledger"),
    ),
    Case("a clock is ahead", ("ClockSkew",), {"hcefs_clock_timestamp_seconds": "4+60"}),
    Case(
        "the clock of Prometheus is wrong",
        (),
        {"hcefs_clock_timestamp_seconds": "100+60"},
        where=ALL,
    ),
    Case("two versions", ("VersionsDiffer",), {"hcefs_build_info{version=1.1}": "1+0"}, 1500),
    Case("an upgrade takes an afternoon", (), {"hcefs_build_info{version=1.1}": "1+0"}, 300),
    Case("a peer is refused", ("VersionRefused",), {"hcefs_version_refused_total": "0+30"}),
    Case("rules are unknown", ("VersionRefused",), {"hcefs_outdated": "1+0"}),
    Case("the network", ("NodesUnreachable",), {"hcefs_unreachable_nodes": "1+0"}),
    Case("nobody may decide", ("AutomaticOutBlocked",), {"hcefs_automatic_out_blocked": "1+0"}),
    Case("too few zones", ("MapWarnings",), {"hcefs_cluster_map_warnings": "1+0"}, 90),
    Case(
        "the ledger is gone",
        ("LedgerDown",),
        {"up": "0+0", "hcefs_serving": None},
        where=("ledger",),
    ),
    Case(
        "the ledger is silent",
        ("LedgerDown", "LeaseOld", "NotServing", "NodesDown"),
        {"hcefs_serving": "0+0", "hcefs_ledger_lease_age_seconds": "30+60"},
        where=ALL,
    ),
    Case("an old lease", ("LeaseOld",), {"hcefs_ledger_lease_age_seconds": "9+0"}),
    Case("behind", ("LedgerLag",), {"hcefs_ledger_lag_blocks": "5000+0"}),
    Case("a fork", ("LedgerForked",), {"hcefs_ledger_fork_proofs": "1+0"}),
    Case(
        "an old term", ("TermsDiffer",), {"hcefs_ledger_term": "2+0"}, where=("n1", "n2", "ledger")
    ),
    Case(
        "a search",
        ("DenialsSpike",),
        {"hcefs_denials_total{reason=no-grant}": "0+600"},
        60,
        clears=60,
    ),
    Case("strangers", ("Strangers",), {"hcefs_unauthenticated_total": "0+600"}),
    Case(
        "no receipts",
        ("ReceiptsNotWritten",),
        {"hcefs_receipt_failures_total{reason=disk-full}": "0+60"},
    ),
    Case("not anchored", ("ReceiptsNotAnchored",), {"hcefs_receipt_anchor_age_seconds": "700+60"}),
    Case("set back", ("ReceiptsForked",), {"hcefs_receipts_forked": "1+0"}),
    Case("nobody reviewed", ("EmergencyOverdue",), {"hcefs_emergency_overdue": "1+0"}, where=NODES),
    Case(
        "unjustified",
        ("EmergencyUnjustified",),
        {"hcefs_emergency_unjustified": "1+0"},
        30,
        where=NODES,
    ),
    Case("not erased", ("ErasuresWaiting",), {"hcefs_erasures_waiting": "1+0"}, 150),
    Case(
        "no backup",
        ("BackupOld",),
        # The clock of a case begins at 0: this is more than two days before.
        {"hcefs_backup_last_success_timestamp_seconds": "-200000+0"},
        90,
        where=NODES,
    ),
)

COUNTERS = ("_total", "_bucket")
QUIET_MINUTES = 40
"""Before anything goes wrong.  Rules are evaluated every ten minutes, so all times are tens."""

TRAILS: dict[str, int] = {
    "one node down for a moment": 36,
    "lost for a moment": 36,
    "the first bug of a process": 46,
    "a search": 1500,
    "unjustified": 90,
    "quarantine": 0,
}
"""Cases with another quiet time before, in minutes."""


def page() -> str:
    """The whole file."""
    return _HEAD + "".join(_case(case) for case in CASES)


_HEAD = """\
# Written by generate.py in this folder: its table has the cases.
#
#   promtool test rules deploy/prometheus/tests/alerts.test.yaml
rule_files:
  - ../recording.yaml
  - ../alerts.yaml
evaluation_interval: 10m
group_eval_order:  # of groups that are not named here it is any
  - hcefs-recording
  - hcefs-durability
  - hcefs-disks
  - hcefs-processes
  - hcefs-map
  - hcefs-ledger
  - hcefs-access
tests:
"""


def _case(case: Case) -> str:
    quiet = TRAILS.get(case.name, QUIET_MINUTES)
    after = case.clears + 10
    # All of it in the first case; in others what is always there, and what goes wrong.
    touched = {_family(series) for series in case.wrong or HEALTHY}
    families = {_family(series) for series in LEDGER} | touched
    families |= {each for family in touched for each in COMPANIONS.get(family, ())}
    lines = [f"  - name: {case.name}", "    interval: 1m", "    input_series:"]
    for where in ALL:
        shown = {
            series: values
            for series, values in HEALTHY.items()
            if (series in LEDGER or where != "ledger") and (_family(series) in families)
        }
        wrong = case.wrong if where in case.where else {}
        for series in [*shown, *(each for each in wrong if each not in shown)]:
            healthy = shown.get(series)
            values = _values(series, healthy, quiet, after, case.minutes, wrong)
            lines += [f"      - series: '{_named(series, where)}'", f"        values: '{values}'"]
    lines.append("    promql_expr_test:")
    lines += _expected(quiet + case.minutes, case.fires)
    if case.fires and case.clears:
        lines += _expected(quiet + case.minutes + case.clears, ())
    return "\n".join(lines) + "\n"


def _values(
    series: str,
    healthy: str | None,
    quiet: int,
    after: int,
    minutes: int,
    wrong: dict[str, str | None],
) -> str:
    """Healthy, wrong, healthy: counters and clocks go on from where they are."""
    if series not in wrong:
        return f"{healthy}x{quiet + minutes + after}"
    bad = wrong[series]
    if healthy is None:
        return f"_x{quiet} {bad}x{minutes} stale"
    if bad is None:
        return f"{healthy}x{quiet} stale _x{minutes - 1} {healthy}x{after}"
    step = int(healthy.rpartition("+")[2]) if "+" in healthy and "." not in healthy else 0
    if series.startswith("hcefs_clock_timestamp"):
        first = int(bad.partition("+")[0])
        start, end = (quiet + 1) * step, (quiet + minutes + 2) * step
        return f"{healthy}x{quiet} {start + first}+{step}x{minutes} {end}+{step}x{after}"
    if _family(series).endswith(COUNTERS):
        base, pace = int(healthy.partition("+")[0]), int(bad.partition("+")[2])
        start = base + quiet * step
        end = start + pace * (minutes + 1)
        return f"{healthy}x{quiet} {start + pace}+{pace}x{minutes} {end}+{step}x{after}"
    return f"{healthy}x{quiet} {bad}x{minutes} {healthy}x{after}"


def _family(series: str) -> str:
    return series.partition("{")[0]


def _named(series: str, where: str) -> str:
    """The series with quotes, job and instance."""
    name, _, rest = series.partition("{")
    labels = [pair.split("=", 1) for pair in rest.rstrip("}").split(",") if pair]
    job = "hcefs-ledger" if where == "ledger" else "hcefs-node"
    labels += [["job", job], ["instance", where]]
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}"


def _expected(minutes: int, fires: tuple[str, ...]) -> list[str]:
    lines = [
        '      - expr: group by (alertname) (ALERTS{alertstate="firing"})',
        f"        eval_time: {minutes}m",
    ]
    if fires:
        lines.append("        exp_samples:")
    for name in fires:
        lines += [f"          - labels: '{{alertname=\"Hcefs{name}\"}}'", "            value: 1"]
    return lines


def main() -> None:
    """Write the file, or compare it."""
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            raise SystemExit(
                f"{PAGE.name} is stale; run: python deploy/prometheus/tests/generate.py"
            )
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
