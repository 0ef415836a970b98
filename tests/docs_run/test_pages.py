"""Every page, without a cluster: directives are well-formed, commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs_run.pages import ROOT, name, pages, read_page
from tests.docs_run.verbs import command_tree, commands_in, complaint

SHELL = ("", "sh", "bash", "console")
SHOWN = [*pages(), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
"""Every document but decisions and the changelog, which tell of what was."""
TREE = command_tree()


@pytest.mark.parametrize("path", pages(), ids=name)
def test_a_page_is_executed_or_says_why_not(path: Path) -> None:
    page = read_page(path)
    assert page.executed or page.argued, (
        f"{page.name} executes nothing: tag its fences sh, or say why with "
        "<!-- run: no, REASON --> (docs/DEVELOPMENT.md)"
    )


@pytest.mark.parametrize("path", SHOWN, ids=name)
def test_commands_that_are_shown_exist(path: Path) -> None:
    page = read_page(path)
    wrong = [
        f"{page.name}:{fence.line + line}: {said}"
        for fence in page.fences
        if fence.tag in SHELL
        for line, words in commands_in(fence.text)
        if (said := complaint(TREE, words))
    ]
    # In prose, code may be broken over two lines.
    for code in re.findall(r"`([^`]+)`", page.prose):
        wrong += [
            f"{page.name}: `{' '.join(code.split())}`: {said}"
            for _, words in commands_in(" ".join(code.split()))
            if (said := complaint(TREE, words))
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("grant give rec-1 --as alice --until=2h", ""),
        ("--passphrase-file FILE get rec-1", ""),
        ("COMMAND --help", ""),
        ("keys guard ...", ""),
        ("emergency review grt-... [--unjustified] [--note FILE]", ""),
        ("grant gives rec-1", "hcefs grant has no verb gives"),
        ("grant give rec-1 --for alice", "hcefs grant give has no option --for"),
        ("--verbose status", "hcefs has no option --verbose"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(words: str, said: str) -> None:
    assert complaint(TREE, words.split()) == said


def test_commands_are_found_where_a_shell_would() -> None:
    text = (
        "record=$(hcefs record open --as a | sed -n 1p)   # hcefs not this\n"
        "$ hcefs get r \\\n    b -o x && hcefs ls r\n"
        "python -m hcefs.thing; cd hcefs/cli\n"
    )
    assert [(line, words[:2]) for line, words in commands_in(text)] == [
        (0, ["record", "open"]),
        (0, ["not", "this"]),
        (1, ["get", "r"]),
        (2, ["ls", "r"]),
    ]


def page_of(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_directives_are_read(tmp_path: Path) -> None:
    page = read_page(
        page_of(
            tmp_path,
            "<!-- run: cluster=new -->\n<!-- run: seconds=300 -->\n# Page\n\n"
            "```sh\ntrue\n```\n"
            "<!-- run: exit=4 -->\n<!-- run: shows a.c -->\n```sh\nfalse\n```\n"
            "<!-- run: no, it needs root -->\n```sh\nreboot\n```\n"
            "```\nshown\n```\n",
        )
    )
    assert (page.cluster, page.seconds, page.argued) == ("new", 300.0, True)
    assert [fence.line for fence in page.fences] == [6, 11, 15, 18]
    assert [fence.text for fence in page.executed] == ["true", "false"]
    assert [(fence.code, fence.shows) for fence in page.executed] == [(0, ()), (4, ("a.c",))]
    assert page.fences[2].skipped == "it needs root"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- run: cluster=own -->\n# Page\n", "page.md:1: directive 'cluster=own' is unknown"),
        ("# P\n<!-- run: no -->\n```sh\n```\n", "page.md:2: directive 'no' is unknown"),
        ("# P\n<!-- run: exit=many -->\n```sh\n```\n", "page.md:2: directive 'exit=many'"),
        ("# P\n<!-- run: shows ( -->\n```sh\n```\n", "page.md:2: shows: "),
        ("# P\n<!-- run: exit=4 -->\n\n```sh\n```\n", "page.md:2: this directive is not directly"),
        ("# P\n<!-- run: exit=4 -->\n", "page.md:2: this directive is not directly"),
        ("# P\n<!-- run: exit=4 -->\n```\n```\n", "page.md:4: a directive before a fence"),
        ("# P\n<!-- run: exit=4 -->\n<!-- run: exit=5 -->\n```sh\n```\n", "stands twice"),
        ("# P\ntext <!-- run: exit=4 -->\n```sh\n```\n", "page.md:2: a directive stands on"),
        ("# P\n```sh\n", "page.md:2: this fence does not end"),
    ],
)
def test_a_wrong_directive_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"page\.md") as refused:
        read_page(page_of(tmp_path, text))
    assert said in str(refused.value)
