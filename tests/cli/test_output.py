"""Values, tables and errors as people see them."""

from __future__ import annotations

import io

import pytest
import typer
from rich.console import Console

from hcefs.cli import output
from hcefs.errors import KINDS, HcefsError, Internal, Invalid, NotFound


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_400, "100 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 20, "1.0 MiB"),
        (7_200_356, "6.9 MiB"),
        (104_465_556, "99.6 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_size_text(count: int, text: str) -> None:
    assert output.size_text(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (-5, "0.0 s"),
        (400, "0.4 s"),
        (12_345, "12 s"),
        (119_000, "119 s"),
        (120_000, "2 min"),
        (7_199_000, "120 min"),
        (7_200_000, "2 h"),
        (86_400_000, "24 h"),
        (7 * 86_400_000, "7 d"),
    ],
)
def test_duration_text(milliseconds: int, text: str) -> None:
    assert output.duration_text(milliseconds) == text


def test_times_are_in_utc() -> None:
    assert output.time_text(0) == "1970-01-01 00:00:00 UTC"
    assert output.time_text(253_402_300_800_000) == "far future"
    assert output.remaining_text(3_600_000 * 3, 0) == "in 3 h"
    assert output.remaining_text(0, 5_000) == "5.0 s ago"


def _printed(width: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, soft_wrap=True, highlight=False), file


def test_tables_are_aligned_and_never_cut_ids() -> None:
    console, file = _printed(width=20)
    identity = "blob-" + "ab" * 18
    output.print_table(
        console, ("BLOB", "SIZE", "NAME"), [[identity, "7 B", "ä"], ["x", "10 KiB", ""]],
        right=("SIZE",),
    )  # fmt: skip
    lines = file.getvalue().splitlines()
    assert lines[0] == "BLOB" + " " * 37 + "    SIZE  NAME"
    assert lines[1] == identity + "     7 B  ä"
    assert lines[2] == "x" + " " * 40 + "  10 KiB"


def test_an_empty_table_says_so() -> None:
    console, file = _printed(width=80)
    output.print_table(console, ("A",), [], empty="no grants")
    assert file.getvalue() == "no grants\n"


def test_fields_are_aligned_and_empty_ones_left_out() -> None:
    console, file = _printed(width=20)
    output.print_fields(console, [("a", 1), ("longer", "[red]x"), ("none", None), ("zero", 0)])
    assert file.getvalue() == "a       1\nlonger  [red]x\nzero    0\n"


def _fail_with(error: Exception) -> None:
    @output.verb
    def command(*, as_json: bool = False) -> None:
        raise error

    command()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("invalid", 2),
        ("not-found", 3),
        ("denied", 4),
        ("unauthenticated", 4),
        ("conflict", 5),
        ("unavailable", 6),
        ("exhausted", 6),
        ("corrupt", 7),
        ("internal", 1),
    ],
)
def test_exit_codes(kind: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error = KINDS[kind]("it is so:\n  do this", reason="some-reason")
    with pytest.raises(typer.Exit) as exit_info:
        _fail_with(error)
    assert exit_info.value.exit_code == code
    printed = capsys.readouterr()
    assert printed.err == "error: it is so: do this (some-reason)\n"
    assert printed.out == ""


def test_every_kind_of_error_has_a_code_of_its_own_or_is_internal() -> None:
    assert set(output.EXIT_CODES) == set(KINDS) - {Internal.kind}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), NotFound),
        (PermissionError(13, "Permission denied", "x"), Invalid),
        (OSError(28, "No space left on device", "x"), Internal),
    ],
)
def test_failures_of_the_system_are_one_line_too(
    error: OSError, kind: type[HcefsError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exit_info:
        _fail_with(error)
    assert exit_info.value.exit_code == output.EXIT_CODES.get(kind.kind, 1)
    assert capsys.readouterr().err.startswith("error: x: ")


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        _fail_with(ZeroDivisionError())


def test_no_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar("put x", 10, quiet=False) as progress:
        progress(5)
    printed = capsys.readouterr()
    assert printed.err == printed.out == ""
