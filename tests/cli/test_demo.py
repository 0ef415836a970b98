"""The demo: finding its data, judging and showing its steps, its exit code, and a whole run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from hcefs.cli import demo, demo_data
from hcefs.cli.demo_data import (
    RUN_BYTES,
    RUN_DISTINCT_MIN,
    Exhibit,
    find_exhibits,
    package_folder,
    search_folders,
    sha256_of_file,
    telling_runs,
)
from hcefs.cli.demo_faults import flip_bytes
from hcefs.cli.demo_pages import fetch_page, parse_page
from hcefs.cli.demo_report import (
    NOT_RUN,
    Broken,
    Notes,
    Report,
    StepResult,
    bytes_text,
    rate_text,
    require,
    speed_text,
)
from hcefs.cli.demo_stage import Stage, refused
from hcefs.errors import Corrupt, Denied, NotFound
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime

RUN_SECONDS = 240


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    made = SystemRuntime()
    yield made
    made.close()


# --- the data ---------------------------------------------------------------------


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path | None]:
    """Two packages with one file each, one of them zipped."""
    plain, zipped = tmp_path / "plain", tmp_path / "zipped"
    (plain / "data").mkdir(parents=True)
    (plain / "data" / "CT.dcm").write_bytes(b"c" * 100)
    zipped.mkdir()
    with zipfile.ZipFile(zipped / "CINE.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/CINE.dcm", b"u" * 5000)
    monkeypatch.setattr(
        demo_data,
        "SOURCES",
        (
            demo_data._Source("ct", "CT slice", "plain", "data/CT.dcm", 100),
            demo_data._Source("cine", "cine", "zipped", "CINE.zip", 5000),
        ),
    )
    return {"plain": plain, "zipped": zipped}.get


def test_exhibits_are_found_and_unpacked(
    tmp_path: Path, packages: Callable[[str], Path | None]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ct, cine = find_exhibits(out, packages)
    assert (ct.key, ct.name, ct.bytes) == ("ct", "CT.dcm", 100)
    assert cine.path == out / "CINE.dcm"
    assert cine.path.read_bytes() == b"u" * 5000
    assert cine.sha256 == sha256_of_file(cine.path)
    assert ct.sha256 != cine.sha256


@pytest.mark.parametrize("missing", ["plain", "zipped"])
def test_a_missing_package_says_what_to_install(
    tmp_path: Path, packages: Callable[[str], Path | None], missing: str
) -> None:
    with pytest.raises(NotFound, match=r"pip install 'hcefs\[demo\]'") as caught:
        find_exhibits(tmp_path, lambda name: None if name == missing else packages(name))
    assert caught.value.reason == "no-demo-data"
    assert not (tmp_path / "CINE.dcm").exists()


def test_a_missing_file_says_what_to_install(
    tmp_path: Path, packages: Callable[[str], Path | None]
) -> None:
    (tmp_path / "plain" / "data" / "CT.dcm").unlink()
    with pytest.raises(NotFound, match=r"CT\.dcm"):
        find_exhibits(tmp_path, packages)


def test_another_file_of_the_same_name_is_refused(
    tmp_path: Path, packages: Callable[[str], Path | None]
) -> None:
    (tmp_path / "plain" / "data" / "CT.dcm").write_bytes(b"c" * 99)
    with pytest.raises(Corrupt) as caught:
        find_exhibits(tmp_path, packages)
    assert caught.value.reason == "demo-data"


def test_packages_are_located_without_importing_them() -> None:
    folder = package_folder("hcefs")
    assert folder is not None
    assert (folder / "cli" / "demo.py").is_file()
    assert package_folder("hcefs_is_not_installed_under_this_name") is None


# --- what must not be on a disk -----------------------------------------------------


def test_telling_runs_skip_what_could_be_anywhere() -> None:
    black = bytes(10_000)
    pixels = bytes((i * 37 + i // 251) % 256 for i in range(10_000))
    assert telling_runs(black) == []
    runs = telling_runs(black + pixels + black)
    assert runs
    for run in runs:
        assert len(run) == RUN_BYTES
        assert len(set(run)) >= RUN_DISTINCT_MIN
        assert run in black + pixels + black


def test_telling_runs_include_the_headers_uid() -> None:
    uid = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    assert uid[:RUN_BYTES] in telling_runs(bytes(132) + uid + bytes(500))


def test_the_search_finds_runs_in_any_file_at_any_offset(tmp_path: Path) -> None:
    secret, other = bytes(range(32)), bytes(range(100, 132))
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "empty").touch()
    (tmp_path / "a" / "clean").write_bytes(other[:-1] * 500)
    (tmp_path / "a" / "b" / "leak").write_bytes(b"x" * 70_001 + secret)
    (tmp_path / "outside").write_bytes(other)
    searched = search_folders([tmp_path / "a"], [("secret", secret), ("other", other)])
    assert searched.files == 3
    assert searched.bytes == 31 * 500 + 70_001 + 32
    assert [(hit.name, hit.path.name) for hit in searched.found] == [("secret", "leak")]


def test_flipping_bytes_changes_the_middle_of_the_pieces_only(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    before = bytes(range(256)) * 40
    path.write_bytes(before)
    offset = flip_bytes(path)
    after = path.read_bytes()
    assert len(after) == len(before)
    changed = [i for i in range(len(before)) if before[i] != after[i]]
    assert changed == list(range(offset, offset + 32))
    assert changed[0] > len(before) // 4


# --- metrics pages ------------------------------------------------------------------


def test_a_processs_page_is_read() -> None:
    metrics = Metrics()
    metrics.count("denials_total", 2, reason="revoked")
    metrics.count("denials_total", reason="token-check")
    metrics.count("corrupt_shards_total")
    with metrics.serve("127.0.0.1:0") as server:
        page = fetch_page(server.address)
    assert page.value("hcefs_denials_total") == 3
    assert page.value("hcefs_denials_total", reason="revoked") == 2
    assert page.by_label("hcefs_denials_total", "reason") == {"revoked": 2, "token-check": 1}
    assert page.value("hcefs_corrupt_shards_total") == 1
    assert page.value("hcefs_no_such_metric") == 0


def test_what_is_no_page_is_refused() -> None:
    with pytest.raises(ValueError):
        parse_page("<html>")


# --- judging ------------------------------------------------------------------------


def test_require_and_notes() -> None:
    notes = Notes()
    require(1, "never said")
    with pytest.raises(Broken, match="two shards"):
        require([], "two shards are missing")
    notes.check("first", d=6, n=6)
    notes.check("second", reason="expired")
    assert notes.detail() == {
        "checked": ["first", "second"],
        "d": 6,
        "n": 6,
        "reason": "expired",
    }


async def test_refused_wants_the_right_refusal() -> None:
    async def denied() -> None:
        raise Denied("not permitted", reason="revoked")

    async def let_through() -> int:
        return 1

    assert await refused(denied(), "expired", "revoked") == "revoked"
    with pytest.raises(Broken, match="another reason"):
        await refused(denied(), "expired")
    with pytest.raises(Broken, match="let through"):
        await refused(let_through(), "expired")


def test_a_report_holds_only_if_every_step_did() -> None:
    good, bad = StepResult("a", True, 1.0), StepResult("b", False, 1.0)
    assert (Report((good, good), 2.0).ok, Report((good, good), 2.0).exit_code) == (True, 0)
    assert (Report((good, bad), 2.0).ok, Report((good, bad), 2.0).exit_code) == (False, 1)
    assert not Report((), 0.0).ok


def test_a_report_as_data() -> None:
    step = StepResult("a", True, 1.23456, {"checked": ["x"], "d": 6})
    assert Report((step,), 2.0).as_data() == {
        "ok": True,
        "steps": [
            {"name": "a", "ok": True, "seconds": 1.235, "detail": {"checked": ["x"], "d": 6}}
        ],
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (39_206, "39.2 kB"),
        (291_088, "291 kB"),
        (7_200_356, "7.2 MB"),
        (104_465_556, "104 MB"),
        (1_500_000_000, "1.50 GB"),
    ],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_a_speed_for_people() -> None:
    assert speed_text(104_000_000, 2.0) == "52.0 MB/s"
    assert speed_text(39_206, 0.0456) == "in 46 ms"
    assert rate_text(104_000_000, 2.0) == "52.0 MB/s"
    assert rate_text(1, 0.0) == "at once"


# --- performing ---------------------------------------------------------------------


def a_stage(tmp_path: Path, runtime: SystemRuntime) -> Stage:
    return Stage(tmp_path, runtime, lambda text: None, ())


async def holds(stage: Stage, notes: Notes) -> None:
    notes.check("it held", number=1)


async def breaks(stage: Stage, notes: Notes) -> None:
    notes.check("so far so good")
    raise Broken("the second byte differs")


async def is_denied(stage: Stage, notes: Notes) -> None:
    raise Denied("not permitted", reason="revoked")


async def has_a_fault(stage: Stage, notes: Notes) -> None:
    raise KeyError("shard")


class Recorder(demo.Silent):
    """What a display is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def begins(self, number: int, name: str) -> None:
        self.heard.append((f"begins {name}", number))

    def ended(self, number: int, result: StepResult) -> None:
        self.heard.append((f"ended {result.name} {result.ok}", number))


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (breaks, "the second byte differs"),
        (is_denied, "not permitted (denied, revoked)"),
        (has_a_fault, "KeyError: 'shard'"),
    ],
)
async def test_a_failing_step_ends_the_run(
    tmp_path: Path,
    runtime: SystemRuntime,
    failing: Callable[[Stage, Notes], Awaitable[None]],
    words: str,
) -> None:
    display = Recorder()
    steps = (("one", holds), ("two", failing), ("three", holds))
    report = await demo.perform(a_stage(tmp_path, runtime), steps, display, runtime)
    assert not report.ok
    assert [step.ok for step in report.steps] == [True, False, False]
    assert report.steps[0].detail == {"checked": ["it held"], "number": 1}
    assert report.steps[1].failure == words
    assert report.steps[2] == StepResult.not_run("three")
    assert display.heard == [
        ("begins one", 1),
        ("ended one True", 1),
        ("begins two", 2),
        ("ended two False", 2),
        ("ended three False", 3),
    ]
    json.dumps(report.as_data())


# --- showing ------------------------------------------------------------------------


def shown(*results: StepResult) -> str:
    text = io.StringIO()
    to = Console(file=text, width=60, highlight=False)
    for number, result in enumerate(results, 1):
        demo.print_step(to, number, result)
    demo.print_summary(to, Report(results, 12.34))
    return text.getvalue()


def test_steps_are_shown_with_what_they_checked() -> None:
    text = shown(
        StepResult("Genesis", True, 4.25, {"checked": ["six nodes [admitted]"], "d": 6}),
        StepResult("Storing", True, 0.5, {"checked": []}),
    )
    assert text.splitlines() == [
        "\u2713 1  Genesis  4.2 s",
        "     - six nodes [admitted]",
        "",
        "\u2713 2  Storing  0.5 s",
        "",
        "All 2 steps held, in 12.3 s.",
    ]


def test_a_failure_is_shown_with_its_reason_and_place() -> None:
    text = shown(
        StepResult("A", False, 1.0, {"checked": ["x"], "failed": "it broke", "where": "demo.py:1"}),
        StepResult.not_run("B"),
    )
    assert "\u2717 1  A  1.0 s" in text
    assert "     - it broke [demo.py:1]" in text
    assert "- 2  B: not run" in text
    assert NOT_RUN not in text
    assert text.endswith("0 of 2 steps held, in 12.3 s.\n")


# --- the verb -----------------------------------------------------------------------


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    """The verb with two quick steps, the second of which fails."""
    file = tmp_path / "CT.dcm"
    file.write_bytes(b"c")
    exhibit = Exhibit("ct", "CT slice", file, 1, sha256_of_file(file))
    monkeypatch.setattr(demo, "find_exhibits", lambda folder: (exhibit,))
    monkeypatch.setattr(demo, "STEPS", (("one", holds), ("two", breaks)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = typer.Typer()
    made.callback()(lambda: None)
    demo.add_to(made)
    return made


def test_a_failing_step_is_the_exit_code(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "the second byte differs" in result.stdout
    assert "1 of 2 steps held" in result.stdout
    assert not list(tmp_path.glob("hcefs-demo-*"))


def test_json_is_one_document(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["ok"] is False
    assert [(step["name"], step["ok"]) for step in data["steps"]] == [("one", True), ("two", False)]
    assert data["steps"][1]["detail"]["failed"] == "the second byte differs"


def test_success_is_exit_code_0(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEPS", (("one", holds),))
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"] is True


def test_missing_data_is_one_clear_error(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def find(folder: Path) -> Any:
        return find_exhibits(folder, lambda package: None)

    monkeypatch.setattr(demo, "find_exhibits", find)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 3
    assert "pip install 'hcefs[demo]'" in result.stderr
    assert not list(tmp_path.glob("hcefs-demo-*"))


def test_a_kept_folder_stays_and_must_be_new(app: typer.Typer, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert CliRunner().invoke(app, ["demo", "--keep", str(kept)]).exit_code == 1
    assert (kept / "data").is_dir()
    again = CliRunner().invoke(app, ["demo", "--keep", str(kept)])
    assert again.exit_code == 5
    assert "not empty" in again.stderr


# --- the whole ----------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.xdist_group("cluster")
@pytest.mark.timeout(RUN_SECONDS + 60)
def test_the_whole_demo_holds(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hcefs", "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    try:
        out, err = process.communicate(timeout=RUN_SECONDS)
    finally:
        # Told to end, it stops the cluster's processes; killed, it could not.
        process.terminate()
        process.wait(60)
    data = json.loads(out)
    failures = [step["detail"].get("failed") for step in data["steps"] if not step["ok"]]
    assert (data["ok"], process.returncode) == (True, 0), (failures, err[-2000:])
    assert [step["name"] for step in data["steps"]] == [name for name, _ in demo.STEPS]
    assert len(data["steps"]) == 11
    details = [step["detail"] for step in data["steps"]]
    assert all(detail["checked"] for detail in details)
    assert details[1]["blobs"]["cine"]["bytes"] == 104_465_556
    assert {blob["durable"] for blob in details[1]["blobs"].values()} == {6}
    assert details[3]["put_with_two_down"] == "too-few-holders"
    assert details[3]["degraded_put"] == {"durable": 5, "total": 6}
    assert len(details[5]["denial_ms"]) == 6
    assert details[6]["before"] == "not-permitted"
    assert details[6]["after"] == "revoked"
    assert details[7]["proved"] > 0
    assert details[7]["denials"] > 0
    assert (details[8]["before"], details[8]["held"]) == ("retained", "on-hold")
    assert details[8]["nodes"] == 6
    assert details[9]["keys"] > 0
    assert details[10]["copies"] == 7
    assert not list(tmp_path.iterdir()), "the temporary folder was left behind"
