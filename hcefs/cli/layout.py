"""``layout plan|apply|status|history|...``: what staged changes would do, and doing it.

Nothing moves before ``apply``, which takes the plan that ``plan`` has shown: it is refused
when the map has changed meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli import layout_report
from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.leaving import tidy
from hcefs.cli.operators import (
    forget_stage,
    load_stage,
    node_id_of,
    operators_of,
    run,
    save_stage,
    show_stage,
    stage,
)
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder, parse_until
from hcefs.cli.output import note, show, verb
from hcefs.client.layout import LayoutClient, estimate
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Conflict, Invalid
from hcefs.ledger.cluster_facts import Reprofile, UpkeepPolicy
from hcefs.ledger.transactions_map import SetUpkeepPolicy
from hcefs.placement.staging import Change, Stage, Verb
from hcefs.placement.waves import is_planned

app = typer.Typer(help="Where shards lie: plan changes, apply them, watch.", no_args_is_help=True)
safety = typer.Typer()

RATE_MIB = 16.0
WAIT_POLL_SECONDS = 1.0
HISTORY_PAGE = 256
SCALE = 1 << 20

RateOption = Annotated[
    float,
    typer.Option(
        "--rate", metavar="MIB", help="MiB a second and node, for the expected time [16]."
    ),
]
WeakerOption = Annotated[
    bool,
    typer.Option("--weaker-caps", help="Consent to more seats of a row in one zone, rack or host."),
]
ProfileArgument = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name.")]


# --- plan and apply ---------------------------------------------------------------


@app.command("plan")
@verb
def plan(
    rate: RateOption = RATE_MIB,
    weaker_caps: WeakerOption = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show what the staged changes would do, from the map in force now.  Nothing moves."""
    if not rate > 0:
        raise Invalid("the rate must be above 0 MiB a second", reason="bad-rate")
    layout = folder(directory)

    async def work() -> dict[str, Any]:
        async with operators_of(layout) as operators:
            return await planned(layout, operators, rate, weaker_caps=weaker_caps)

    data = run(work())
    show(data, as_json=as_json, human=lambda console: layout_report.print_plan(console, data))


async def planned(
    layout: ClusterFolder,
    operators: LayoutClient,
    rate: float = RATE_MIB,
    *,
    weaker_caps: bool = False,
) -> dict[str, Any]:
    """What the staged changes would do, from the map in force now; they are kept for it.

    Raises:
        HcefsError: what is wrong with them, and the cure.
    """
    current = await operators.current()
    staged = load_stage(layout, current)
    found = await operators.outlook(current, staged.changes, weaker_caps=weaker_caps)
    save_stage(layout, staged.rebased(current))
    statuses = await operators.statuses(current)
    takes = estimate(found, statuses, current, rate * SCALE)
    return layout_report.plan_data(current, staged.changes, found, takes, rate)


@app.command("apply")
@verb
def apply(
    expect: Annotated[
        str,
        typer.Option("--expect", metavar="DIGEST", help="Refuse any other plan than this one."),
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every seat has moved.")] = False,
    weaker_caps: WeakerOption = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Put the staged changes in force; seats begin to move."""
    layout = folder(directory)

    async def work() -> dict[str, Any]:
        async with operators_of(layout) as operators:
            return await apply_staged(
                layout, operators, expect, wait=wait, weaker_caps=weaker_caps, quiet=as_json
            )

    data = run(work())

    def human(console: Console) -> None:
        for line in data["applied"]:
            console.print(Text(f"applied  {line}"))
        for name in data["stopped"]:
            console.print(Text(f"stopped  {name}: it has left; its folder is kept"))
        for account in data["ended"]:
            console.print(Text(f"ended    {account}: nobody acts as that node any more"))
        for account in data["to_end"]:
            words = f"next: when its process is stopped: hcefs account end {account}"
            console.print(Text(words, style="dim"))
        state = "seats are moving" if data["moving"] else "nothing is left to move"
        console.print(Text(f"epoch {data['epoch']}: {state}", style="green"))
        if data["moving"]:
            console.print(Text("next: hcefs layout status", style="dim"))

    show(data, as_json=as_json, human=human)


async def apply_staged(
    layout: ClusterFolder,
    operators: LayoutClient,
    expect: str = "",
    *,
    wait: bool = False,
    weaker_caps: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Put the staged changes in force; ``expect`` is how the plan's digest must begin.

    Raises:
        Conflict: ``other-plan``: it is another one now; nothing was moved.
        HcefsError: what is wrong with it, and the cure.
    """
    current = await operators.current()
    staged = load_stage(layout, current)
    if staged.changes:
        staged.require_current(current)
    found = await operators.outlook(current, staged.changes, weaker_caps=weaker_caps)
    digest = found.successor.digest().hex()
    if expect and not digest.startswith(expect.lower()):
        raise Conflict(
            f"the plan is {digest[:16]} now, not {expect[:64]!r}: nothing was moved; look "
            "at it again with `hcefs layout plan`",
            reason="other-plan",
        )
    await operators.apply(current, found.successor)
    forget_stage(layout)
    gone = await tidy(layout, operators, found.successor, staged, quiet=quiet)
    if wait:
        await _wait(operators, quiet=quiet)
    after = await operators.current()
    return {
        "epoch": after.epoch,
        "digest": after.digest().hex(),
        "applied": [change.text() for change in staged.changes],
        "moves": found.plan.moves if found.plan is not None else 0,
        "moving": is_planned(after),
        "stopped": gone.stopped,
        "ended": [account.text for account in gone.ended],
        "to_end": [account.text for account in gone.to_end],
    }


async def _wait(operators: LayoutClient, *, quiet: bool) -> None:
    """Wait for the end of a plan; a line where the number of seats changes."""
    last = ""
    while is_planned(current := await operators.current()):
        progress = await operators.client.map_progress()
        table = max(current.tables, key=lambda table: table.waves)
        line = (
            f"wave {table.wave} of {table.waves}: {len(progress.arrived)} of "
            f"{progress.in_flight} seats"
        )
        if line != last:
            note(line, quiet=quiet)
            last = line
        await operators.client.runtime.sleep(WAIT_POLL_SECONDS)


@app.command("revert-staged")
@verb
def revert_staged(
    directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False
) -> None:
    """Forget the staged changes.  New nodes that were made for them keep running."""
    layout = folder(directory)

    async def work() -> tuple[list[str], list[str]]:
        async with operators_of(layout) as operators:
            current = await operators.current()
            try:
                changes = load_stage(layout, current).changes
            except Invalid:
                changes = ()  # damaged: nothing can be said of it, and it goes
            forget_stage(layout)
            idle = [node_name(change.new.node_id) for change in changes if change.new is not None]
            return [change.text() for change in changes], idle

    lines, idle = run(work())

    def human(console: Console) -> None:
        for line in lines or ["nothing was staged"]:
            console.print(Text(f"forgotten  {line}" if lines else line))
        for name in idle:
            console.print(
                Text(f"{name} runs and has no part in anything; `hcefs node add` takes it up"),
                style="yellow",
            )

    show({"forgotten": lines, "idle": idle}, as_json=as_json, human=human)


# --- status and history -----------------------------------------------------------


@app.command("status")
@verb
def status(directory: FolderOption = Path(DEFAULT_FOLDER), as_json: JsonOption = False) -> None:
    """Show the map in force: what moves, how far it is, who is away, what to worry about."""
    layout = folder(directory)

    async def work() -> dict[str, Any]:
        async with operators_of(layout) as operators:
            return await layout_report.status_data(layout, operators)

    data = run(work())
    show(data, as_json=as_json, human=lambda console: layout_report.print_status(console, data))


@app.command("history")
@verb
def history(
    last: Annotated[
        int, typer.Option("--last", metavar="N", help="Show the last N epochs [20].")
    ] = 20,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show how the last epochs began."""
    if not 1 <= last <= HISTORY_PAGE:
        raise Invalid(f"show 1 to {HISTORY_PAGE} epochs", reason="bad-count")
    layout = folder(directory)

    async def work() -> list[dict[str, Any]]:
        async with operators_of(layout) as operators:
            epoch = (await operators.current()).epoch
            changes = await operators.client.map_history(max(1, epoch - last + 1))
            return layout_report.history_data(layout, changes)

    rows = run(work())
    show(
        {"epochs": rows},
        as_json=as_json,
        human=lambda console: layout_report.print_history(console, rows),
    )


# --- profiles and policy ----------------------------------------------------------


@app.command("add-profile")
@verb
def add_profile(
    profile: ProfileArgument,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Stage a table for another profile, so that blobs may be put under it."""
    chosen = profile_named(profile)
    change = Change(Verb.ADD_PROFILE, profile=chosen.name, k=chosen.k, m=chosen.m)
    _stage(directory, change, as_json=as_json)


@app.command("split")
@verb
def split(
    profile: ProfileArgument,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Stage twice the partitions for a profile whose cluster has outgrown them; nothing moves."""
    _stage(directory, Change(Verb.SPLIT, profile=profile), as_json=as_json)


def _stage(directory: Path, change: Change, *, as_json: bool) -> None:
    layout = folder(directory)

    async def work() -> Stage:
        async with operators_of(layout) as operators:
            return await stage(layout, operators, change)

    show_stage(run(work()), as_json=as_json)


@app.command("automatic")
@verb
def automatic(
    after: Annotated[
        str,
        typer.Option("--after", metavar="TIME", help="How long most nodes must miss one: 15m."),
    ] = "",
    most: Annotated[
        int,
        typer.Option("--most", metavar="N", help="With more away, wait for a person [1]."),
    ] = 1,
    off: Annotated[bool, typer.Option("--off", help="Never without a person.")] = False,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Let the nodes give up one that stays away, by majority; without options, show."""
    if after and off:
        raise Invalid("either --after or --off", reason="bad-options")
    after_ms = parse_until(after, 0) if after else 0
    layout = folder(directory)

    async def work() -> UpkeepPolicy:
        async with operators_of(layout) as operators:
            policy = await operators.client.upkeep_policy()
            if not after and not off:
                return policy
            changed = replace(policy, number=policy.number + 1, out_after_ms=after_ms, out_max=most)
            return await _set_policy(operators, policy, changed)

    policy = run(work())
    data = layout_report.policy_data(policy)
    show(data, as_json=as_json, human=lambda console: layout_report.print_policy(console, data))


@app.command("reprofile")
@verb
def reprofile(
    source: Annotated[
        str, typer.Option("--from", metavar="PROFILE", help="Profile that blobs are to leave.")
    ] = "",
    to: Annotated[
        str, typer.Option("--to", metavar="PROFILE", help="Profile that they are to have.")
    ] = "",
    stop: Annotated[
        str, typer.Option("--stop", metavar="PROFILE", help="Leave what is under it where it is.")
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Have nodes re-code old blobs in the background, without keys; without options, show."""
    if bool(source) != bool(to) or (stop and source):
        raise Invalid("give --from and --to, or --stop", reason="bad-options")
    layout = folder(directory)

    async def work() -> UpkeepPolicy:
        async with operators_of(layout) as operators:
            policy = await operators.client.upkeep_policy()
            if not source and not stop:
                return policy
            kept = tuple(
                pair for pair in policy.reprofile if pair.from_profile not in (source, stop)
            )
            if source:
                kept = (*kept, Reprofile(profile_named(source).name, profile_named(to).name))
            changed = replace(policy, number=policy.number + 1, reprofile=kept)
            return await _set_policy(operators, policy, changed)

    policy = run(work())
    data = layout_report.policy_data(policy)
    show(data, as_json=as_json, human=lambda console: layout_report.print_policy(console, data))


async def _set_policy(
    operators: LayoutClient, policy: UpkeepPolicy, changed: UpkeepPolicy
) -> UpkeepPolicy:
    changed.check()
    await operators.submit(SetUpkeepPolicy(policy.number, changed))
    return await operators.client.upkeep_policy()


# --- safety -----------------------------------------------------------------------


def add_to(app: typer.Typer) -> None:
    """Register the questions before somebody touches a machine."""
    app.command("ok-to-stop")(ok_to_stop)
    app.command("safe-to-remove")(safe_to_remove)


NodeArgument = Annotated[
    str, typer.Argument(metavar="NODE", help="A node: its number, name or account.")
]


@verb
def ok_to_stop(
    node: NodeArgument,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """May this node be stopped for a while?  Exit code 0 for yes, 1 for no."""
    _answer(directory, node, stopping=True, as_json=as_json)


@verb
def safe_to_remove(
    node: NodeArgument,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """May this node be destroyed?  Exit code 0 for yes, 1 for no."""
    _answer(directory, node, stopping=False, as_json=as_json)


def _answer(directory: Path, text: str, *, stopping: bool, as_json: bool) -> None:
    layout = folder(directory)

    async def work() -> layout_report.Verdict:
        async with operators_of(layout) as operators:
            current = await operators.current()
            return await layout_report.verdict(
                operators, current, node_id_of(current, text), stopping=stopping
            )

    found = run(work())
    data = {"node": found.node_id, "yes": found.yes, "known": found.is_known, "why": found.reason}
    show(data, as_json=as_json, human=lambda console: layout_report.print_verdict(console, found))
    if not found.yes:
        raise typer.Exit(1)
