"""``bench``: what the stages cost, what puts and gets cost, and whether the goals hold.

The benchmarks themselves are the package ``benchmarks`` beside this one; it is
imported only here, when a benchmark is asked for.

Invariants: a benchmark talks to the loopback interface only, works in a temporary
folder that is removed, and leaves no process behind; the exit code is 1 when a
goal fails.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.options import JsonOption, parse_size
from hcefs.cli.output import note, print_fields, print_table, show, verb
from hcefs.errors import Invalid, NotFound
from hcefs.runtime import SystemRuntime

FAILED = 1
TERMINATED = 128 + signal.SIGTERM
DEFAULT_SEED = 1

app = typer.Typer(help="Measure this machine and the data path.", no_args_is_help=True)

QuickOption = Annotated[
    bool, typer.Option("--quick", help="The whole in under 50 s, with fewer repeats.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Write JSON, tables and a plot to FOLDER."),
]
WorkOption = Annotated[
    Path | None,
    typer.Option("--work", metavar="DIR", help="Where the temporary folder is made."),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of random bytes.")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data", metavar="KIND", help="What is put: random, or ct, ecg, radiograph, cine."
    ),
]
Report = Callable[[str], None]
Result = dict[str, Any]


def _require_benchmarks() -> None:
    """Check that the package with the benchmarks can be imported.

    Raises:
        NotFound: it is not installed.
    """
    try:
        import benchmarks  # noqa: F401
    except ModuleNotFoundError:
        raise NotFound(
            "the package benchmarks is not installed: run `hcefs bench` in a checkout of the "
            "source, installed with `pip install -e .`",
            reason="no-benchmarks",
        ) from None


@app.command("limits")
@verb
def limits(
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    data: DataOption = "random",
    seed: SeedOption = DEFAULT_SEED,
    work: WorkOption = None,
) -> None:
    """What each stage costs by itself: sealing, digests, erasure code, a hop, a file."""
    _require_benchmarks()
    from benchmarks import limits as stages
    from benchmarks import machine
    from benchmarks.goals import limits_goals
    from benchmarks.payloads import Payloads

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        started = runtime.monotonic()
        effort = stages.QUICK if quick else stages.FULL
        pool = Payloads(data, seed, folder / "payloads").part(0, stages.POOL_BYTES)
        report("measuring each stage in turn")
        found = await stages.measure(folder / "limits", effort, pool, runtime)
        return {
            "benchmark": "limits",
            "quick": quick,
            "seconds": runtime.monotonic() - started,
            "environment": machine.environment(folder),
            "settings": {
                "data": data,
                "seed": seed,
                "repeats": effort.repeats,
                "volume_bytes": effort.volume,
            },
            "limits": found,
            "goals": [goal.as_data() for goal in limits_goals(found)],
        }

    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("data")
@verb
def data_(
    size: Annotated[
        str, typer.Option("--size", metavar="SIZES", help="4KiB,64KiB,1MiB,16MiB,64MiB,1GiB")
    ] = "",
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="NUMBERS", help="1,4,16")
    ] = "",
    mode: Annotated[str, typer.Option("--mode", metavar="MODES", help="gateway,direct")] = "",
    seal: Annotated[str, typer.Option("--seal", metavar="SEALS", help="node,client,pack")] = "",
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Times that everything is measured.")
    ] = 0,
    data: DataOption = "random",
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """Put, get, degraded get and ranged get on a temporary cluster of six nodes.

    Without --quick everything is measured, which takes the better part of an hour.
    """
    _require_benchmarks()
    from benchmarks import cases
    from benchmarks import data as paths

    groups, skipped = cases.choose(
        [parse_size(text) for text in _words(size)] or cases.SIZES,
        [_count(text) for text in _words(concurrency)] or cases.CONCURRENCIES,
        _words(mode) or cases.MODES,
        _words(seal) or cases.SEALS,
    )
    wanted: Sequence[Mapping[cases.Case, Sequence[str]]]
    wanted = [dict.fromkeys(group, cases.OPERATIONS) for group in groups]
    if quick and not (size or concurrency or mode or seal):
        wanted, skipped = cases.QUICK_GROUPS, []
    effort = cases.QUICK if quick else cases.FULL
    if rounds:
        effort = replace(effort, rounds=_count(str(rounds)))

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        options = paths.Options(
            work=folder,
            groups=wanted,
            skipped=skipped,
            effort=effort,
            data=data,
            seed=seed,
            one_cluster=quick,
            quick=quick,
        )
        return await paths.run(options, runtime, report)

    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("slow")
@verb
def slow(
    data: DataOption = "random",
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """What one node that runs a tenth of the time costs the gets of the others."""
    _require_benchmarks()
    from benchmarks import slow as reads

    measure = _with_effort(reads, data, seed, quick)
    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("repair")
@verb
def repair(
    data: DataOption = "random",
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """How fast a lost node is rebuilt, what that costs, and what its clients feel."""
    _require_benchmarks()
    from benchmarks import repair as rebuilds

    measure = _with_effort(rebuilds, data, seed, quick)
    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("scrape")
@verb
def scrape(
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """How long a scrape of a node's metrics takes while the node serves, and how many there are."""
    _require_benchmarks()
    from benchmarks import scrape as pages

    measure = _with_effort(pages, "random", seed, quick)
    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("alerts")
@verb
def alerts(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="FAULT", help="Do this fault; may be given again [all]."),
    ] = None,
    healthy_minutes: Annotated[
        float,
        typer.Option("--healthy-minutes", metavar="N", help="Watch so long without a fault."),
    ] = 0.0,
    faults: Annotated[
        bool, typer.Option("--faults/--no-faults", help="Whether faults are done at all.")
    ] = True,
    list_faults: Annotated[
        bool, typer.Option("--list", help="Say which faults there are, and do none.")
    ] = False,
    seed: SeedOption = DEFAULT_SEED,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """Whether Prometheus tells faults: each done to a cluster of six nodes, with the shipped rules.

    Each must raise its alerts in time, and no other, and be quiet when it is mended.  Needs
    Prometheus; all faults take some 20 minutes.
    """
    _require_benchmarks()
    from benchmarks import alerts as proving
    from benchmarks import alerts_tables
    from benchmarks.alerts_faults import chosen
    from benchmarks.alerts_prometheus import shipped_rules

    if list_faults:
        faults_listed, rules = chosen(tuple(only or ())), shipped_rules()[1]
        listed = alerts_tables.faults_table(
            [fault.watch(rules) for fault in faults_listed],
            {fault.name: fault.what for fault in faults_listed},
        )
        rows = [dict(zip(("fault", "what", "alerts"), row, strict=True)) for row in listed.rows]
        show(
            rows,
            as_json=as_json,
            human=lambda console: print_table(console, listed.columns, listed.rows),
        )
        return
    if not 0 <= healthy_minutes <= 24 * 60:
        raise Invalid("--healthy-minutes takes 0 to 1440", reason="bad-number")
    if not faults and not healthy_minutes:
        raise Invalid("--no-faults needs --healthy-minutes", reason="nothing-to-do")

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        options = proving.Options(folder, tuple(only or ()), healthy_minutes, faults, seed)
        return await proving.run(options, runtime, report)

    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("revoke")
@verb
def revoke(
    data: DataOption = "random",
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """How long a revocation takes to be in force on every node, and to be proved.

    With --quick it takes a minute and a half: leases are waited for.
    """
    _require_benchmarks()
    from benchmarks import revoke as revocations

    measure = _with_effort(revocations, data, seed, quick)
    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("scrub")
@verb
def scrub(
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="Bytes on the node [10GB; quick 256MiB].")
    ] = "",
    rate: Annotated[
        float, typer.Option("--rate", metavar="MIB", help="MiB a second of the scrub [128].")
    ] = 128.0,
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """When the scrub of a node finds a flipped byte, and what reading a byte costs."""
    _require_benchmarks()
    from benchmarks import scrub as scrubs

    if not rate > 0:
        raise Invalid("the rate must be above 0 MiB a second", reason="bad-rate")
    wanted = parse_size(size) if size else (256 << 20) if quick else 10_000_000_000

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        options = scrubs.Options(folder, wanted, rate * (1 << 20), seed, quick)
        return await scrubs.run(options, runtime, report)

    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("small")
@verb
def small(
    data: DataOption = "random",
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """Payloads of 1, 4 and 16 KiB: single puts and gets, and many in one call."""
    _require_benchmarks()
    from benchmarks import small as payloads

    measure = _with_effort(payloads, data, seed, quick)
    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("ledger")
@verb
def ledger(
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
    work: WorkOption = None,
) -> None:
    """Committing, following, deciding: transactions, entries, replay, size of the state."""
    _require_benchmarks()
    from benchmarks import ledger as chain

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        effort = chain.QUICK if quick else chain.FULL
        return await chain.run(folder, effort, runtime, report, quick=quick)

    _perform(measure, as_json=as_json, out=out, work=work)


@app.command("placement")
@verb
def placement_(
    nodes: Annotated[str, typer.Option("--nodes", metavar="NUMBERS", help="6,12,50,200")] = "",
    profile: Annotated[str, typer.Option("--profile", metavar="NAMES", help="ec-4-2,ec-10-4")] = "",
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Plans of node changes: balance, moves against the optimum, safety, time; no cluster.

    Without --quick it takes some minutes: clusters of up to 1,000 nodes are planned.
    """
    _require_benchmarks()
    from benchmarks import machine, placement

    counts = [_count(text) for text in _words(nodes)] or placement.NODES
    names = _words(profile) or placement.PROFILES
    placement.check_options(counts, names)

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        started = runtime.monotonic()
        found = placement.run(counts, names, quick=quick, say=report)
        return {
            "benchmark": "placement",
            "quick": quick,
            "seconds": runtime.monotonic() - started,
            "environment": machine.environment(folder),
            "settings": {
                "nodes": ",".join(map(str, counts)),
                "profiles": ",".join(names),
            },
            **found,
        }

    _perform(measure, as_json=as_json, out=out, work=None)


@app.command("durability")
@verb
def durability_(
    repair_result: Annotated[
        Path | None,
        typer.Option(
            "--repair", metavar="FILE.json", help="A result of `hcefs bench repair`: its pace."
        ),
    ] = None,
    cycles: Annotated[
        int,
        typer.Option("--cycles", metavar="N", help="Histories of each beginning; more narrow it."),
    ] = 0,
    seed: SeedOption = DEFAULT_SEED,
    quick: QuickOption = False,
    as_json: JsonOption = False,
    out: OutOption = None,
) -> None:
    """How likely a blob is lost in a year, by simulation on the real placement; no cluster.

    Without --quick it takes a minute or two of CPU.
    """
    _require_benchmarks()
    from benchmarks import durability, machine

    options = durability.Options(seed=seed)
    if quick:
        options = durability.Options(
            durability.QUICK_CYCLES, durability.QUICK_CELLS, seed, quick=True
        )
    if cycles:
        options = replace(options, cycles=_count(str(cycles)))
    if repair_result is not None:
        options = durability.with_measured_pace(options, repair_result.expanduser())

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        started = runtime.monotonic()
        found = durability.run(options, report)
        return {
            "benchmark": "durability",
            "quick": quick,
            "seconds": runtime.monotonic() - started,
            "environment": machine.environment(folder),
            "settings": {"cycles": options.cycles, "seed": seed, "pace": options.pace_from},
            **found,
        }

    _perform(measure, as_json=as_json, out=out, work=None)


# --- running ----------------------------------------------------------------------------

Measure = Callable[[Path, SystemRuntime, Report], Awaitable[Result]]


def _with_effort(benchmark: Any, data: str, seed: int, quick: bool) -> Measure:
    """A benchmark whose options are an effort, payloads and a seed."""

    async def measure(folder: Path, runtime: SystemRuntime, report: Report) -> Result:
        options = benchmark.Options(
            work=folder,
            effort=benchmark.QUICK if quick else benchmark.FULL,
            data=data,
            seed=seed,
            quick=quick,
        )
        found: Result = await benchmark.run(options, runtime, report)
        return found

    return measure


def _perform(measure: Measure, *, as_json: bool, out: Path | None, work: Path | None) -> None:
    """Run a benchmark, show and save its result; exit code 1 when a goal fails."""
    from benchmarks import report
    from benchmarks.goals import all_pass

    with _folder(work) as folder:
        result = _run(measure, folder, quiet=as_json)
    show(result, as_json=as_json, human=lambda console: _print(console, result))
    if out is not None:
        for path in report.save(result, out.expanduser()):
            note(f"wrote {path}", quiet=as_json)
    if not all_pass(result["goals"]):
        raise typer.Exit(FAILED)


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """A temporary folder, removed at the end."""
    if work is not None:
        work = work.expanduser()
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="hcefs-bench-", dir=work)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(measure: Measure, folder: Path, *, quiet: bool) -> Result:
    # The client warns of nodes that a benchmark has just killed.
    logging.getLogger("hcefs").addHandler(logging.NullHandler())
    runtime = SystemRuntime()

    async def main() -> Result:
        task = asyncio.current_task()
        if task is not None:
            # The processes are in sessions of their own: only an orderly end stops them.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await measure(folder, runtime, lambda text: note(text, quiet=quiet))

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise typer.Exit(TERMINATED) from None
    finally:
        runtime.close()


def _print(console: Console, result: Result) -> None:
    from benchmarks import report

    console.print(Text(f"hcefs bench {result['benchmark']}", style="bold"))
    print_fields(console, report.named(result))
    styles = {"PASS": "green", "FAIL": "red"}
    for table in report.tables(result):
        console.print()
        console.print(Text(table.title, style="bold"))
        rows = [
            [Text(row[0], style=styles[row[0]]) if row[0] in styles else row[0], *row[1:]]
            for row in table.rows
        ]
        print_table(console, table.columns, rows, right=table.right)
        for remark in table.remarks:
            console.print(Text(remark, style="dim"))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _count(text: str) -> int:
    """A positive number.

    Raises:
        Invalid: it is none.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1024:
        raise Invalid(f"{text[:40]!r} is no number from 1 to 1024", reason="bad-number")
    return int(text)
