"""The systemd units: systemd itself reads them and judges how much they may do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
EXPOSURE_MAX = 1.5
"""Of 10, as systemd 252 counts; the network is most of what is left."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed here: the units are not checked",
)


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout


def runnable(unit: Path, folder: Path, change: tuple[str, str] = ("", "")) -> Path:
    """A copy whose program is one that is here, as systemd wants; of templates an instance."""
    text = unit.read_text().replace("/opt/hcefs/bin/hcefs", "/bin/true").replace(*change)
    made = folder / unit.name.replace("@.", "@1.")
    made.write_text(text)
    return made


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.name for unit in UNITS] == ["hcefs-ledger.service", "hcefs-node@.service"]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    code, said = analyze("verify", "--man=no", runnable(unit, tmp_path))
    assert (code, said) == (0, "")


@needs_systemd
def test_systemd_would_say_so(tmp_path: Path) -> None:
    wrong = runnable(UNITS[0], tmp_path, ("ProtectSystem=", "ProtectSistem="))
    assert "ProtectSistem" in analyze("verify", "--man=no", wrong)[1]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_may_do_little(unit: Path) -> None:
    threshold = f"--threshold={int(EXPOSURE_MAX * 10)}"
    code, said = analyze("security", "--offline=yes", "--no-pager", threshold, unit)
    assert code == 0, said
    level = re.search(r"exposure level for .*: ([0-9.]+)", said)
    assert level is not None
    assert float(level[1]) <= EXPOSURE_MAX


@needs_systemd
def test_a_unit_that_may_do_more_is_noticed(tmp_path: Path) -> None:
    lax = runnable(UNITS[0], tmp_path, ("CapabilityBoundingSet=\n", ""))
    threshold = f"--threshold={int(EXPOSURE_MAX * 10)}"
    assert analyze("security", "--offline=yes", "--no-pager", threshold, lax)[0] != 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_no_unit_may_lose(unit: Path) -> None:
    """Where systemd is missing, at least these lines are there."""
    lines = unit.read_text().splitlines()
    for line in (
        "User=hcefs", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict",
        "MemoryDenyWriteExecute=yes", "UMask=0077",
    ):  # fmt: skip
        assert line in lines
    (writes,) = (line for line in lines if line.startswith("ReadWritePaths="))
    (command,) = (line for line in lines if line.startswith("ExecStart="))
    assert command.endswith(writes.removeprefix("ReadWritePaths=") + "/config.toml")


def test_the_installer_is_a_shell_script() -> None:
    script = ROOT / "deploy" / "systemd" / "install.sh"
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=120)
