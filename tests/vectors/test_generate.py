"""The generator: what is frozen stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vectors import generate


@pytest.mark.parametrize("name", generate.generators())
def test_every_set_is_frozen_and_unchanged(name: str) -> None:
    assert generate.broken(generate.frozen(name), generate.made(name)) == []
    assert generate.frozen(name), f"{name}.json is missing: run python -m tests.vectors.generate"


def test_missing_files_are_written_and_new_entries_added(tmp_path: Path) -> None:
    assert generate.write("x", {"a": 1, "l": [1]}, tmp_path) == "written"
    assert generate.write("x", {"a": 1, "l": [1]}, tmp_path) == "unchanged"
    assert generate.write("x", {"a": 1, "l": [1, 2], "b": {}}, tmp_path) == "extended"
    assert generate.frozen("x", tmp_path) == {"a": 1, "l": [1, 2], "b": {}}


@pytest.mark.parametrize("new", [{"a": 2, "b": 3}, {"b": 3}, {"a": {"c": 1}, "b": 3}, {}])
def test_frozen_entries_are_kept_unless_forced(tmp_path: Path, new: dict[str, object]) -> None:
    generate.write("x", {"a": 1, "b": 3}, tmp_path)
    with pytest.raises(ValueError, match="/a"):
        generate.write("x", new, tmp_path)
    assert generate.frozen("x", tmp_path) == {"a": 1, "b": 3}
    assert generate.write("x", new, tmp_path, force=True) == "rewritten"
    assert generate.frozen("x", tmp_path) == new


def test_unknown_arguments_are_refused() -> None:
    assert generate.main(["--forced"]) == 2
