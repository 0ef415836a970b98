"""``hcefs verify``: a keyless audit of one blob, or of everything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.operators import operators_of, run
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import note, print_fields, print_table, show, size_text, verb
from hcefs.client.layout import LayoutClient
from hcefs.client.verify import FULL, PENDING, STATES, BlobVerdict, Tally, VerifyClient
from hcefs.errors import Invalid
from hcefs.ids import BlobId
from hcefs.placement.cluster_map import ClusterMap

LISTED_MAX = 1000
"""Of what is not whole; the rest is counted."""

PARTITIONS_AT_ONCE = 16
NOTE_SECONDS = 2.0
"""Between two lines that say how far an audit is."""


def add_to(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("verify")(verify)


@verb
def verify(
    blob: Annotated[str, typer.Argument(metavar="[BLOB]", help="The id of one blob.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Audit all blobs and packs.")] = False,
    start: Annotated[
        str,
        typer.Option("--from", metavar="PROFILE:N", help="Begin an audit of all at a partition."),
    ] = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Have every holder read its shards, and compare the answers; no key is needed.

    Exit code 1 when anything is not whole.
    """
    if bool(blob) == everything:
        raise Invalid("name one blob, or say --all", reason="bad-arguments")
    layout = folder(directory)

    async def work() -> dict[str, Any]:
        async with operators_of(layout) as operators:
            current = await operators.current()
            if blob:
                return await _one(operators, current, BlobId.parse(blob))
            return await _all(operators, current, start, quiet=as_json)

    data = run(work())
    show(data, as_json=as_json, human=lambda console: _print(console, data))
    if not data["whole"]:
        raise typer.Exit(1)


async def _one(operators: LayoutClient, current: ClusterMap, blob: BlobId) -> dict[str, Any]:
    client, tally = VerifyClient(operators.client), Tally()
    said, away = await client.explain(current, blob.base)
    verdict = client.verdict(current, blob.base, said, away)
    tally.enter([verdict])
    for answer in said.values():
        tally.shards += len(answer.shards)
        tally.bytes += sum(each.bytes for each in answer.shards)
    return _data(current, tally, [verdict])


async def _all(
    operators: LayoutClient, current: ClusterMap, start: str, *, quiet: bool
) -> dict[str, Any]:
    client, tally = VerifyClient(operators.client), Tally()
    clock = operators.client.runtime.monotonic
    places = _places(current, start)
    bad: list[BlobVerdict] = []
    done, noted = 0, clock()
    for profile, first, count in _groups(places):
        try:
            verdicts = await client.partitions(current, profile, first, count, tally)
        except BaseException:
            note(f"to go on from here: hcefs verify --all --from {profile}:{first}")
            raise
        wrong = [each for each in verdicts if each.state not in (FULL, PENDING)]
        bad += wrong[: LISTED_MAX - len(bad)]
        done += count
        if clock() - noted < NOTE_SECONDS and done < len(places):
            continue
        noted = clock()
        note(
            f"{done} of {len(places)} partitions (up to {profile}:{first + count - 1}): "
            f"{_words(tally)}, {size_text(tally.bytes)} read",
            quiet=quiet,
        )
    return _data(current, tally, bad)


def _places(current: ClusterMap, start: str) -> list[tuple[str, int]]:
    """All partitions in a fixed order, from where an audit is to begin.

    Raises:
        Invalid: there is no such place.
    """
    places = [
        (table.profile, partition)
        for table in sorted(current.tables, key=lambda table: table.profile)
        for partition in range(table.partitions)
    ]
    if not start:
        return places
    profile, _, number = start.rpartition(":")
    wanted = (profile, int(number) if number.isascii() and number.isdigit() else -1)
    if wanted not in places:
        raise Invalid(
            f"{start[:80]!r} is no partition: write PROFILE:N, such as ec-4-2:17",
            reason="bad-partition",
        )
    return places[places.index(wanted) :]


def _groups(places: list[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Partitions in order, those of one profile some at a time: profile, first, count."""
    for profile, group in groupby(places, key=lambda place: place[0]):
        numbers = [partition for _, partition in group]
        for at in range(0, len(numbers), PARTITIONS_AT_ONCE):
            chosen = numbers[at : at + PARTITIONS_AT_ONCE]
            yield profile, chosen[0], len(chosen)


def _words(tally: Tally) -> str:
    found = [f"{tally.counts[state]} {state}" for state in STATES if tally.counts[state]]
    return ", ".join(found) or "nothing yet"


def blob_data(verdict: BlobVerdict) -> dict[str, Any]:
    """One blob, as data."""
    return {
        "base": verdict.base.text,
        "profile": verdict.profile,
        "state": verdict.state,
        "live": verdict.live,
        "margin": verdict.margin,
        "problems": list(verdict.problems),
        "shards": [
            {
                "index": seat.index,
                "node": seat.node_id,
                "state": seat.state,
                "reason": seat.reason,
                "elsewhere": list(seat.elsewhere),
            }
            for seat in verdict.seats
        ],
    }


def _data(current: ClusterMap, tally: Tally, listed: list[BlobVerdict]) -> dict[str, Any]:
    return {
        "epoch": current.epoch,
        "whole": tally.is_whole,
        "counts": {state: tally.counts[state] for state in STATES},
        "shards": tally.shards,
        "bytes": tally.bytes,
        "blobs": [blob_data(verdict) for verdict in listed],
    }


def print_shards(console: Console, blob: dict[str, Any]) -> None:
    """The seats of one blob."""
    rows = [
        [
            shard["index"], shard["node"], shard["state"], shard["reason"] or "-",
            ", ".join(map(str, shard["elsewhere"])) or "-",
        ]
        for shard in blob["shards"]
    ]  # fmt: skip
    columns = ("INDEX", "NODE", "STATE", "WHY", "ALSO AT")
    print_table(console, columns, rows, right=("INDEX", "NODE"))


def _print(console: Console, data: dict[str, Any]) -> None:
    for blob in data["blobs"]:
        line = f"{blob['base']}  {blob['profile']}  {blob['state']}  margin {blob['margin']}"
        if blob["problems"]:
            line += f"  ({', '.join(blob['problems'])})"
        console.print(Text(line, style="green" if blob["state"] == FULL else "red"))
        print_shards(console, blob)
    counts = {state: count for state, count in data["counts"].items() if count}
    print_fields(
        console,
        [
            ("blobs and packs", ", ".join(f"{n} {state}" for state, n in counts.items()) or "none"),
            ("shards read", f"{data['shards']} ({size_text(data['bytes'])})"),
            ("map", f"epoch {data['epoch']}"),
        ],
    )
    word = "everything is whole" if data["whole"] else "not everything is whole"
    console.print(Text(word, style="green" if data["whole"] else "red"))
