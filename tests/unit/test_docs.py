"""The documents: links lead somewhere, lists are whole, and nothing stands twice after a merge."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md", *DOCS.rglob("*.md")]
)
SHORT = 60


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> list[str]:
    """The lines outside of code, by number."""
    lines, code = [], False
    for line in text.splitlines():
        fence = line.startswith("```")
        code = code != fence
        lines.append("" if code or fence else line)
    return lines


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a document, as the usual renderers make them."""
    titles = [
        line.lstrip("#").strip() for line in prose(path.read_text("utf-8")) if "#" in line[:1]
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose(path.read_text("utf-8")))):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), f"{name(path)} leads to {target}, which is not there"
        if anchor:
            assert anchor in anchors(found), f"{name(path)} leads to {target}: no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_nothing_stands_twice(path: Path) -> None:
    lines = prose(path.read_text("utf-8"))
    # Fields of formats are alike, and each table has its own.
    text = "\n".join(line for line in lines if not re.match(r"\| \d+ \|", line))
    paragraphs = Counter(each.strip() for each in re.split(r"\n\s*\n|\n(?=[-|] |\d+\. )", text))
    twice = [each for each, count in paragraphs.items() if count > 1 and len(each) > SHORT]
    assert not twice, f"{name(path)} says twice: {twice[0]!r}"


def test_every_decision_is_listed_once_and_in_order() -> None:
    listed = re.findall(
        r"^\| \[\d{4}\]\((\S+\.md)\)", (DOCS / "decisions/README.md").read_text(), re.M
    )
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))


def test_every_word_of_the_glossary_is_there_once_and_in_order() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (DOCS / "GLOSSARY.md").read_text("utf-8"), re.M)[1:]
    words = [word.strip() for row in rows for word in re.sub(r"\(.*?\)", "", row).split(",")]
    assert [word for word, count in Counter(words).items() if count > 1] == []
    firsts = [row.lower() for row in rows]
    assert firsts == sorted(firsts)


def test_the_limits_of_security_are_numbered_once_and_in_order() -> None:
    text = (DOCS / "SECURITY.md").read_text("utf-8")
    numbers = [int(each) for each in re.findall(r"^(\d+)\. \*\*", text, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
