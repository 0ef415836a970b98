"""Fixtures of the command line's tests: a prepared folder, and no cluster that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hcefs.cli.bringup import prepare
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.main import app
from hcefs.runtime import SystemRuntime

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Run ``hcefs`` with these arguments, in an empty folder."""
    monkeypatch.delenv("HCEFS_DIR", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERMINAL_WIDTH", "120")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> ClusterFolder:
    """The files of a cluster of three nodes that was never started; do not change it."""
    folder = ClusterFolder(tmp_path_factory.mktemp("cluster"))
    runtime = SystemRuntime()
    prepare(folder, list(range(20_001, 20_013)), runtime)
    runtime.close()
    return folder
