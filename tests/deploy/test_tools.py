"""The tools that check deploy/: elsewhere a missing one skips tests, here it is a failure."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.long

TOOLS = {
    "systemd-analyze": "the units: Debian package systemd",
    "promtool": "the rules, the configuration and the cases of alerts: Debian package prometheus",
    "sh": "the installer of the units",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_is_here(tool: str) -> None:
    assert shutil.which(tool), f"{tool} is not installed; it checks {TOOLS[tool]}"
