"""docs/SECURITY.md: every test that it names exists, and every limit that it cites."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
DOCUMENT = (TESTS.parent / "docs" / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT)


def threats() -> list[list[str]]:
    """The lines of the table of threats: who, what, how it is held, test or limit."""
    section = DOCUMENT.split("## Threats, and the test that holds each")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_is_named_exists(file: str, test: str) -> None:
    found = [path for path in TESTS.rglob(file) if f"def {test}(" in path.read_text("utf-8")]
    assert found, f"docs/SECURITY.md names {file}::{test}, and there is no such test"


def test_every_threat_has_a_test_or_a_limit() -> None:
    rows = threats()
    assert len(rows) >= 20
    limits = {int(number) for number in re.findall(r"^(\d+)\. \*\*", DOCUMENT, re.MULTILINE)}
    for row in rows:
        assert len(row) == 4, row
        cited = {int(number) for number in re.findall(r"limit (\d+)", row[3])}
        assert "::" in row[3] or cited, row
        assert cited <= limits, row
