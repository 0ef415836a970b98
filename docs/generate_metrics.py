"""Write ``docs/METRICS.md`` from the table in ``hcefs.metrics``; with ``--check``, only compare.

The page is committed, so that it can be read without the code;
``tests/unit/test_metrics_doc.py`` fails when it is not current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hcefs.metrics import FAMILIES, LABEL_SETS_MAX, OTHER, PREFIX, SECONDS, SERIES_MAX, Family

PAGE = Path(__file__).resolve().parent / "METRICS.md"

_INTRODUCTION = f"""\
# Metrics

Generated from `hcefs.metrics.FAMILIES` by `docs/generate_metrics.py`; do not edit it.

Each storage node and the ledger serve this page of numbers as `/metrics` on the `metrics_address`
of their configuration: plain HTTP for Prometheus. It has no access control, so the port stays
inside the operator's network.

- Every process offers every family; one that does not concern it, or whose work does not exist yet
  (README, "What is not there yet"), stays at 0 or has no samples.
- Counters start at 0 with the process. A histogram is served as `_bucket`, `_sum` and `_count`;
  its bounds are {", ".join(f"{bound:g}" for bound in SECONDS)} seconds.
- No name and no label tells of a record, a blob, an account or a grant. A label value that does
  not look like a word of the program, or that would be one more than {LABEL_SETS_MAX} different
  ones of a family, is counted as `{OTHER}`.
- **Cardinality:** a process shows at most {SERIES_MAX:,} time series, if peers managed to fill
  every family with made-up words; a busy node shows some hundreds. `hcefs bench scrape` counts
  them, and measures how long a scrape takes while the node serves.
- The usual `{PREFIX}process_*` families (memory, processor time, open files, start time) come with
  them where the operating system tells.

| name | type | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _INTRODUCTION + "".join(_row(family) for family in FAMILIES)


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{PREFIX}{family.name}` | {family.type} | {labels} | {family.help} |\n"


def main() -> None:
    """Write the page, or compare it."""
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            raise SystemExit(
                "docs/METRICS.md is stale; run: .venv/bin/python docs/generate_metrics.py"
            )
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
