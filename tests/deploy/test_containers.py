"""The image and the compose file: that they agree with each other and with the program.

Not shown here: that the image builds.  That needs a container engine and a registry.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from hcefs.cli.machines import LEDGER_PORT, NODE_PORT
from hcefs.cli.main import app
from hcefs.node.health import READY_PATH

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = [f"node-{number}" for number in range(1, 7)]


def test_the_image_is_small_and_nobodys() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert all(":" in stage and not stage.endswith(":latest") for stage in stages)
    last = DOCKERFILE.rpartition("FROM ")[2]
    assert "pip install" not in last
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "--constraint requirements.lock" in DOCKERFILE


def test_what_the_image_copies_is_let_in() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied: set[str] = set()
    for match in re.finditer(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied |= set(match[1].split()[:-1])
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_ledger_six_nodes_and_prometheus() -> None:
    assert set(SERVICES) == {"init", "ledger", *NODES, "found", "prometheus"}
    for name in ("ledger", *NODES):
        service = SERVICES[name]
        assert service["command"][:2] == ["ledger" if name == "ledger" else "node", "start"]
        port = (LEDGER_PORT if name == "ledger" else NODE_PORT) + 2
        assert f"http://localhost:{port}{READY_PATH}" in service["healthcheck"]["test"][-1]
        assert service["volumes"] == [f"{name}:/var/lib/hcefs"]
        assert "user" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_a_service(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    named = {each.partition(":")[0] for each in service["volumes"]} - {"./prometheus.yaml"}
    assert named <= set(COMPOSE["volumes"])


def test_the_verbs_exist() -> None:
    lines = SERVICES["init"]["command"][0]
    used = {tuple(match) for match in re.findall(r"hcefs (\w+) (init)", lines)}
    assert used == {("ca", "init"), ("ledger", "init"), ("node", "init")}
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for group, verb in used | {("ledger", "start"), ("node", "start")}:
        assert verb in commands[group].commands
    assert SERVICES["found"]["command"][0] in commands


def test_prometheus_scrapes_every_process() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    targets = [
        target
        for job in configuration["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    ]
    assert targets == [
        f"ledger:{LEDGER_PORT + 2}", *(f"{name}:{NODE_PORT + 2}" for name in NODES)
    ]  # fmt: skip
