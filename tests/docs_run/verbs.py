"""Whether the ``hcefs`` commands that a text shows exist, with the options they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from hcefs.cli.main import app

_START = re.compile(r"(?<![\w./-])(?<!-n )hcefs +(?=[a-z-])")
_END = re.compile(r", |[|;#`<>&]|\$\(|\)(?:\s|$|\")|\n")
_VERB = re.compile(r"[a-z][a-z-]*")
_OPTION = re.compile(r"--[a-z][a-z-]*|-[a-z]")
_HELP = ("-h", "--help")


def command_tree() -> Any:
    """The command line's tree, as Typer makes it."""
    return typer.main.get_command(app)


def commands_in(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each ``hcefs`` command in code: its line, from 0, and its words without ``hcefs``.

    Lines that end in a backslash are joined; a command ends where the shell's syntax, a
    comment or a backquote ends it.
    """
    joined = text.replace("\\\n", "  ")  # as long as before, so that offsets stay
    for found in _START.finditer(joined):
        rest = joined[found.end() :]
        end = _END.search(rest)
        words = rest[: end.start() if end else None].split()
        yield text.count("\n", 0, found.start()), words


def complaint(tree: Any, words: list[str]) -> str:
    """What is wrong with a command, or nothing."""
    command, said = tree, "hcefs"
    left = [word.strip("[]\"'").rstrip(",.:") for word in words]
    while left:
        word = left.pop(0)
        option = word.partition("=")[0]
        if _OPTION.fullmatch(option):
            taken = _takes_value(command, option)
            if taken is None:
                return f"{said} has no option {option}"
            if taken and "=" not in word and left:
                left.pop(0)
        elif hasattr(command, "commands"):
            if not _VERB.fullmatch(word):
                return ""  # "hcefs COMMAND --help"
            if word not in command.commands:
                return f"{said} has no verb {word}"
            command, said = command.commands[word], f"{said} {word}"
    return ""


def _takes_value(command: Any, option: str) -> bool | None:
    """Whether an option is followed by a value; None when there is none of that name."""
    if option in _HELP:
        return False
    for parameter in command.params:
        if option in (*parameter.opts, *parameter.secondary_opts):
            return not parameter.is_flag
    return None
