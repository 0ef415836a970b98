"""A real Prometheus with the shipped rules, for as long as a benchmark runs.

Owns its process and its folder; :meth:`Prometheus.close` ends both.  It listens on the
loopback interface only.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.alerts_rules import INTERVAL_SECONDS, Rule, faster, rules_of
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.errors import NotFound, Unavailable
from hcefs.runtime import SystemRuntime

RULES: Final = Path(__file__).resolve().parent.parent / "deploy" / "prometheus"
ANSWER_SECONDS: Final = 10.0
END_SECONDS: Final = 20.0
_LOG: Final = "prometheus.log"


def binary() -> str:
    """Where Prometheus is.

    Raises:
        NotFound: it is not installed.
    """
    found = shutil.which("prometheus")
    if found is None:
        raise NotFound(
            "Prometheus is not installed: install the Debian package `prometheus`",
            reason="no-prometheus",
        )
    return found


def shipped_rules() -> tuple[dict[str, str], dict[str, Rule]]:
    """The files of rules, made faster, and their alerts by name.

    Raises:
        NotFound: they are not beside this package, as they are in a checkout.
        Invalid: see :func:`.alerts_rules.rules_of`.
    """
    try:
        made = {
            name: faster((RULES / name).read_text("utf-8"))
            for name in ("recording.yaml", "alerts.yaml")
        }
    except FileNotFoundError:
        raise NotFound(
            "deploy/prometheus is not beside the benchmarks: run `hcefs bench alerts` in a "
            "checkout of the source",
            reason="no-rules",
        ) from None
    return made, rules_of(made["alerts.yaml"], made["recording.yaml"])


class Prometheus:
    """One server; :meth:`start` it before anything is asked."""

    def __init__(self, folder: Path, runtime: SystemRuntime, jobs: Mapping[str, Sequence[str]]):
        """``jobs`` are the addresses of each job's targets."""
        self._folder = folder
        self._runtime = runtime
        self._jobs = dict(jobs)
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""
        self.rules: dict[str, Rule] = {}

    @property
    def targets(self) -> int:
        """How many processes it is to reach."""
        return sum(map(len, self._jobs.values()))

    def start(self) -> None:
        """Write its files and start it.

        Raises:
            NotFound: it is not installed.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made, self.rules = shipped_rules()
        for name, text in made.items():
            (self._folder / name).write_text(text, "utf-8")
        self._configure(self._jobs)
        with reserved_ports(1, self._runtime.random) as (port,):
            self._address = f"{HOST}:{port}"
        with (self._folder / _LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binary(),
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._address}",
                    "--log.level=warn",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def also(self, job: str, target: str) -> None:
        """Scrape one process more from now on."""
        self._jobs[job] = [*self._jobs[job], target]
        self.forget(None)

    def forget(self, job: str | None) -> None:
        """Scrape everything but one job from now on; None: everything."""
        # With the whole job gone its series would stay for five minutes.
        self._configure({name: () if name == job else found for name, found in self._jobs.items()})
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def _configure(self, jobs: Mapping[str, Sequence[str]]) -> None:
        interval = f"{round(1000 * INTERVAL_SECONDS)}ms"
        config = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["recording.yaml", "alerts.yaml"],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": list(targets)}]}
                for name, targets in jobs.items()
            ],
        }
        # JSON is YAML.
        (self._folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")

    def close(self) -> None:
        """End it; safe twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_SECONDS)

    # -- questions

    async def ask(self, path: str, **parameters: str) -> Any:
        """What its HTTP interface answers.

        Raises:
            Unavailable: nothing, or nothing that is understood.
        """
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            return await self._runtime.disk(_fetch, url)
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable(
                f"Prometheus does not answer ({type(error).__name__}): see its log, {_LOG}",
                reason="no-prometheus",
            ) from None

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    async def reached(self) -> int:
        """How many targets it reached at its last scrapes."""
        return len((await self.ask("query", query="up == 1"))["result"])

    async def value(self, query: str) -> float:
        """The number of a query that has one; 0 without."""
        found = (await self.ask("query", query=query))["result"]
        return float(found[0]["value"][1]) if found else 0.0

    async def broken_rules(self) -> dict[str, str]:
        """Rules that cannot be evaluated, and why; those that never were are among them."""
        groups = (await self.ask("rules"))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if not rules:
            return {"all": "not loaded yet"}
        return {
            rule["name"]: rule.get("lastError", rule["health"])
            for rule in rules
            if rule["health"] != "ok"
        }


def _fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - loopback
        return json.load(answer)["data"]
