"""docs/METRICS.md is what docs/generate_metrics.py makes of the table in the code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from hcefs.metrics import FAMILIES, PREFIX

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_current() -> None:
    page = runpy.run_path(str(DOCS / "generate_metrics.py"))["page"]()
    assert (DOCS / "METRICS.md").read_text("utf-8") == page, (
        "docs/METRICS.md is stale; run: .venv/bin/python docs/generate_metrics.py"
    )


def test_every_family_has_one_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (DOCS / "METRICS.md").read_text("utf-8"), re.M)
    assert rows == [(PREFIX + family.name, family.type) for family in FAMILIES]
