"""The commands of docs/operations/install.md, run as they stand there, on loopback.

Six loopback addresses are the machines.  What reaches a machine (``ssh``, ``rsync``) and
what starts a unit (``systemctl``) are shims; ``install.sh`` is only parsed.  The processes
are real, and run like the units say: without memory that is writable and executable.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcefs.cli.process import environment

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.xdist_group("cluster")]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations" / "install.md"
COMMANDS_MAX = 10
SECONDS = 90.0
UNITS = ROOT / "deploy" / "systemd"

HCEFS = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hcefs "$@"\n'
RSYNC = """#!/bin/sh
set -eu
for last; do :; done
machine=${last%%:*} path=${last#*:}
while [ $# -gt 1 ]; do source=$1; shift; done
case $source in ./) exit 0;; esac
mkdir -p "$SITE/$machine$path" && cp -a "$source." "$SITE/$machine$path"
"""
SSH = """#!/bin/sh
set -eu
machine=$1; shift
[ "$1" = sudo ] && shift
case $1 in
sh) exec sh -n "$SOURCE/${2#/tmp/hcefs/}";;
systemctl) exec "$PYTHON" "$SITE/systemctl.py" "$SITE/$machine" "$4";;
esac
exit 64
"""
SYSTEMCTL = """
import ctypes, os, pathlib, re, subprocess, sys
site, name = sys.argv[1:]
unit, _, instance = name.partition("@")
text = pathlib.Path(os.environ["UNITS"], unit + ("@" if instance else "") + ".service").read_text()
command = re.search("^ExecStart=(.*)$", text, re.MULTILINE)[1].replace("%i", instance).split()
assert "MemoryDenyWriteExecute=yes" in text
config = site + command[-1]
def restrict():
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE; refused before Linux 6.3
log = open(os.path.join(os.path.dirname(config), "log"), "ab")
process = subprocess.Popen(
    [sys.executable, "-m", "hcefs", *command[1:-1], config],
    stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=restrict, start_new_session=True,
)
with open(os.environ["SITE"] + "/pids", "a") as pids:
    print(process.pid, file=pids)
"""


def commands() -> list[str]:
    """The lines of the page's one ``sh`` block."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0]).strip().splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Where the machines' files are; what was started there ends with the test."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, text in (("hcefs", HCEFS), ("rsync", RSYNC), ("ssh", SSH)):
        (shims / name).write_text(text)
        (shims / name).chmod(0o755)
    (tmp_path / "systemctl.py").write_text(SYSTEMCTL)
    try:
        yield tmp_path
    finally:
        pids = tmp_path / "pids"
        for line in pids.read_text().split() if pids.exists() else ():
            try:
                os.killpg(int(line), signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_ten_commands_make_a_cluster_on_six_machines(site: Path) -> None:
    lines = commands()
    assert len(lines) <= COMMANDS_MAX
    # Addresses of this run's own: nobody else listens on these ports there.
    seed = os.urandom(2)
    machines = [f"127.{seed[0] % 200 + 20}.{seed[1]}.{10 + number}" for number in range(1, 7)]
    print("machines", machines)
    variables = environment() | {
        "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "MACHINES": " ".join(machines),
        "LEDGER": machines[0],
        "SITE": str(site),
        "SOURCE": str(ROOT),
        "UNITS": str(UNITS),
        "NO_COLOR": "1",
    }
    variables.pop("HCEFS_DIR", None)
    work = site / "operators"
    work.mkdir()

    def run(line: str) -> str:
        done = subprocess.run(  # noqa: S602 - the page's own lines
            line, shell=True, cwd=work, env=variables, timeout=SECONDS,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{_logs(site)}"
        return done.stdout

    for line in lines:
        shown = run(line)
    assert shown.count(" up ") == 7, shown
    found = json.loads(run("hcefs node list --json"))["nodes"]
    assert [node["address"].partition(":")[0] for node in found] == machines
    assert len({node["place"] for node in found}) == 6
    # It stores and serves, and each machine says so of itself.
    run("hcefs account create hospital --kind institution")
    run("hcefs account create anna --kind patient")
    record = json.loads(run("hcefs record open --as anna --json"))["record"]
    (work / "scan.bin").write_bytes(b"a scan" * 1000)
    blob = json.loads(run(f"hcefs put --as anna {record} scan.bin --json"))["blob"]
    run(f"hcefs get --as anna {record} {blob} -o back.bin")
    assert (work / "back.bin").read_bytes() == b"a scan" * 1000
    config = site / machines[3] / "var/lib/hcefs/node-4/config.toml"
    advice = json.loads(run(f"hcefs doctor --config {config} --json"))
    assert advice["result"] != "problem", advice
    # One more machine joins.
    seventh = f"{machines[0].rpartition('.')[0]}.17"
    run(f"hcefs node init --machine {seventh}")
    run(f"rsync hcefs-cluster/nodes/7/ {seventh}:/var/lib/hcefs/node-7/")
    run(f"ssh {seventh} sudo systemctl enable --now hcefs-node@7")
    (staged,) = json.loads(run("hcefs node add --json"))["staged"]
    assert seventh in staged, "its host is the machine"


def _logs(site: Path) -> str:
    return "\n".join(
        f"{path.parent.name}: {path.read_text(errors='replace')[-1500:]}"
        for path in sorted(site.glob("127*/var/lib/hcefs/*/log"))
    )
