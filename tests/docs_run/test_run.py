"""The pages' commands, executed in order: ``make docs-run``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs_run.execution import PATIENCE, Clusters, PageFailed, execute
from tests.docs_run.pages import Page, pages, read_page

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.xdist_group("cluster")]

READ = [read_page(path) for path in pages()]
BESIDES_SECONDS = 400 * PATIENCE
"""For starting and stopping clusters around a page."""


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    made = Clusters(tmp_path_factory.mktemp("clusters"))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.name,
            marks=pytest.mark.timeout(page.seconds * PATIENCE + BESIDES_SECONDS),
        )
        for page in READ
        if page.executed
    ],
)
def test_the_commands_of(page: Page, tmp_path: Path, clusters: Clusters) -> None:
    execute(page, tmp_path / "page", clusters)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\ntrue\nx=3\n```\ntext\n```sh\ntest $x = 3\nfalse\n```\n", ":10: exit code 1"),
        ("<!-- run: exit=4 -->\n```sh\ntrue\n```\n", ":5: exit code 0, expected 4"),
        ("```sh\ntrue | false | true   # fails\n```\n", ":4: exit code 1"),
        ("```sh\necho one\nfor i in 1 2; do\n  echo $i\ndone\nexit 7\n```\n", ":8: ran out of"),
        ("<!-- run: shows ^twe -->\n```sh\necho one\n```\n", ":5: shows nothing like"),
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```\n", "line 7, in <module>"),
    ],
)
def test_a_page_that_does_not_do_what_it_says_fails(
    text: str, said: str, tmp_path: Path, clusters: Clusters
) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- run: cluster=none -->\n#\n" + text)
    with pytest.raises(PageFailed) as failed:
        execute(read_page(path), tmp_path / "page", clusters)
    assert said in str(failed.value)


def test_a_page_that_does_what_it_says(tmp_path: Path, clusters: Clusters) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "<!-- run: cluster=none -->\n# Page\n"
        "<!-- run: shows ^b\\nc -->\n```sh\ncat <<END\nb\nEND\ncd /; (exit 4)   # exit code 4\n"
        "echo c\n```\n```\nfalse\n```\n<!-- run: no, because -->\n```sh\nfalse\n```\n"
        "```python\nprint('x')\n```\n"
        "```sh\nhcefs --help | grep -q hcefs\n```\n"
    )
    execute(read_page(path), tmp_path / "page", clusters)
