"""Pages of Markdown: their fences, and the directives that say how to execute them.

A directive is a comment, ``<!-- run: ... -->``.  At the top of a page, before its title,
it is about the page; directly before a fence, about that fence.  docs/DEVELOPMENT.md
lists them.  What is malformed raises ``ValueError`` with page and line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXECUTED = ("sh", "python")
CLUSTERS = ("shared", "new", "none")
PAGE_SECONDS = 120.0
"""That the commands of a page may take, unless it says otherwise."""
PAGE_SECONDS_MAX = 900.0

_FENCE = re.compile(r"^( *)(`{3,})([\w+-]*)\s*$")
_STRAY = re.compile(r"(?<!`)<!--\s*run\b")
_DIRECTIVE = re.compile(r"^\s*<!--\s*run:\s*(.*?)\s*-->\s*$")
_SAID = re.compile(r"#.*\bexit code (\d+)\b(?! (?:when|if|unless|where))")


def pages() -> list[Path]:
    """Whose fences are executed, in the order of running."""
    found = [ROOT / "README.md"]
    for folder in ("operations", "api"):
        found += sorted((ROOT / "docs" / folder).glob("*.md"))
    return found


def name(path: Path) -> str:
    """How a page is called in messages."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


@dataclass(frozen=True)
class Fence:
    """A code fence; ``line`` is that of its first line of code, from 1."""

    line: int
    tag: str
    text: str
    skipped: str = ""
    """Why it is not executed, of a fence that would be."""
    code: int = 0
    """The exit code that each of its commands must have."""
    shows: tuple[str, ...] = ()
    """Patterns that its output must match."""

    @property
    def executed(self) -> bool:
        return self.tag in EXECUTED and not self.skipped


@dataclass(frozen=True)
class Command:
    """What is given to the shell at once: a command, or a compound over several lines."""

    line: int
    text: str
    code: int

    @classmethod
    def of(cls, line: int, text: str, code: int) -> Command:
        """A comment ``# ... exit code N`` behind the command says what it must end with."""
        said = _SAID.search(text)
        return cls(line, text, int(said[1]) if said else code)


@dataclass(frozen=True)
class Page:
    """A page and what it says about itself."""

    path: Path
    fences: tuple[Fence, ...]
    prose: str
    cluster: str = "shared"
    seconds: float = PAGE_SECONDS
    skipped: str = ""

    @property
    def name(self) -> str:
        return name(self.path)

    @property
    def executed(self) -> tuple[Fence, ...]:
        return () if self.skipped else tuple(each for each in self.fences if each.executed)

    @property
    def argued(self) -> bool:
        """Whether the page says why something, or all of it, is not executed."""
        return bool(self.skipped) or any(each.skipped for each in self.fences)


@dataclass
class _Reader:
    path: Path
    fences: list[Fence] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    about_page: dict[str, str] = field(default_factory=dict)

    def wrong(self, line: int, what: str) -> ValueError:
        return ValueError(f"{name(self.path)}:{line}: {what}")

    def directive(self, line: int, text: str, *, page: bool) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if text.startswith("no,") and text[3:].strip():
            return "no", text[3:].strip()
        if text.startswith("shows ") and not page:
            try:
                re.compile(text[6:])
            except re.error as error:
                raise self.wrong(line, f"shows: {error}") from None
            return "shows", text[6:]
        if not page and equals and key == "exit" and value.isdigit() and int(value) < 256:
            return key, value
        if page and key == "cluster" and value in CLUSTERS:
            return key, value
        if page and key == "seconds" and value.isdigit() and 0 < int(value) <= PAGE_SECONDS_MAX:
            return key, value
        where = "at the top of a page" if page else "before a fence"
        raise self.wrong(line, f"directive {text!r} is unknown {where}")

    def fence(self, line: int, tag: str, lines: list[str], before: list[tuple[int, str]]) -> None:
        said = [self.directive(number, text, page=False) for number, text in before]
        if said and tag not in EXECUTED:
            raise self.wrong(line, "a directive before a fence that is not executed")
        single = {key: value for key, value in said if key != "shows"}
        if len(single) + sum(key == "shows" for key, _ in said) != len(said):
            raise self.wrong(line, "a directive stands twice")
        self.fences.append(
            Fence(
                line=line,
                tag=tag,
                text="\n".join(lines),
                skipped=single.get("no", ""),
                code=int(single.get("exit", 0)),
                shows=tuple(value for key, value in said if key == "shows"),
            )
        )


def read_page(path: Path) -> Page:
    """Parse a page.

    Raises:
        ValueError: a directive is unknown, malformed or where it is about nothing; a
            fence does not end.
    """
    reader = _Reader(path)
    pending: list[tuple[int, str]] = []
    top = True
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    for number, line in lines:
        directive = _DIRECTIVE.match(line)
        opening = _FENCE.match(line)
        if directive and top:
            key, value = reader.directive(number, directive[1], page=True)
            if key in reader.about_page:
                raise reader.wrong(number, f"{key} stands twice")
            reader.about_page[key] = value
        elif directive:
            pending.append((number, directive[1]))
        elif _STRAY.search(line):
            raise reader.wrong(number, "a directive stands on a line of its own")
        elif opening:
            body = []
            for _, inner in lines:
                if inner.strip() == opening[2]:
                    break
                body.append(inner.removeprefix(opening[1]))
            else:
                raise reader.wrong(number, "this fence does not end")
            reader.fence(number + 1, opening[3], body, pending)
            pending, top = [], False
        else:
            if pending:
                raise reader.wrong(pending[0][0], "this directive is not directly before a fence")
            top = top and not line.strip()
            reader.prose.append(line)
    if pending:
        raise reader.wrong(pending[0][0], "this directive is not directly before a fence")
    about = reader.about_page
    return Page(
        path=path,
        fences=tuple(reader.fences),
        prose="\n".join(reader.prose),
        cluster=about.get("cluster", "shared"),
        seconds=float(about.get("seconds", PAGE_SECONDS)),
        skipped=about.get("no", ""),
    )
