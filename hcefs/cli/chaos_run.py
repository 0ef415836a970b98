"""One chaos run: a cluster, clients, faults, and the full verification at the end.

Invariant: whatever happens, every check is either made or counted as a violation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcefs.cli.chaos_disks import audit
from hcefs.cli.chaos_faults import Faults
from hcefs.cli.chaos_load import Acknowledged, Clients, Load
from hcefs.cli.chaos_plan import Kind
from hcefs.cli.chaos_report import Check, Report, faults_came
from hcefs.cli.chaos_stage import Say, Stage
from hcefs.errors import HcefsError
from hcefs.formats.pack import packed_leaf
from hcefs.ledger.outcome import Leaf
from hcefs.runtime import SystemRuntime

NODES = 7
NODES_MIN = 7
"""One more than the widest profile in use, so that a drained node's seats have a place."""

NODES_MAX = 9
HEAL_SECONDS = 180.0
SHOWN_MAX = 10


@dataclass(frozen=True)
class Options:
    """What a run is to do; ``kinds`` are the faults that may come."""

    seed: int
    minutes: float
    nodes: int = NODES
    kinds: Collection[Kind] = tuple(Kind)
    heal_seconds: float = HEAL_SECONDS


async def perform(root: Path, options: Options, runtime: SystemRuntime, say: Say) -> Report:
    """Do a whole run in a new folder.

    Raises:
        HcefsError: the cluster did not even come up.
    """
    began = runtime.monotonic()
    stage = Stage(root, runtime, say)
    report = Report(options.seed, options.minutes, options.nodes, "")
    try:
        await stage.start(options.nodes, small_disk=Kind.FULL in options.kinds)
        report.full_by = stage.full_by
        clients = Clients(stage, options.seed)
        load = clients.load
        await clients.begin()
        faults = Faults(stage, load, options.seed, options.kinds, options.nodes)
        checks = []
        try:
            await faults.run(options.minutes * 60)
        finally:
            # In the order of how much is known: the load's own findings first.
            await clients.end()
            report.faults = dict(faults.counts)
        say("verifying everything")
        checks.append(faults_came(report.faults))
        checks.append(_answers(load))
        checks += await _verify(stage, clients, faults, options.heal_seconds)
        report.checks = checks
        report.load = load_data(load)
        report.cures = faults.cures
        report.timeline = [
            {
                "at": round(event.at, 1),
                "seconds": round(event.seconds, 1),
                "what": event.text,
                "outcome": event.outcome,
            }
            for event in faults.timeline
        ]
    finally:
        await stage.close()
    report.seconds = runtime.monotonic() - began
    return report


def load_data(load: Load) -> dict[str, object]:
    """The load's counts, as JSON can carry them."""
    return {
        "puts": load.puts,
        "degraded_puts": load.degraded,
        "bytes_put": load.bytes_put,
        "gets": load.gets,
        "ranges": load.ranges,
        "refused": dict(sorted(load.refused.items())),
    }


# --- the verification -----------------------------------------------------------------


def _answers(load: Load) -> Check:
    detail = f"{load.gets} gets and {load.ranges} ranges compared"
    return Check("no answer under faults was wrong", detail, tuple(load.wrong))


async def _verify(
    stage: Stage, clients: Clients, faults: Faults, heal_seconds: float
) -> list[Check]:
    load = clients.load
    checks = []
    lacks: tuple[str, ...]
    try:
        found = await faults.settle(heal_seconds)
        lacks = ("the map could not be read, or a plan did not end",) if found is None else ()
        lacks += _few([lack.text() for lack in found or ()])
    except HcefsError as error:
        lacks = (f"{error.kind}, {error.reason}: {error.message}",)
    checks.append(Check("every process serves again, every plan ends", "", tuple(faults.problems)))
    bases = {made.blob.base for made in load.blobs}
    whole = f"{len(bases)} sets of shards of {len(load.blobs)} blobs looked over on the disks"
    checks.append(Check("every shard is intact at its seat", whole, lacks))
    checks.append(await _heads(stage, load))
    checks.append(await _entries(stage, load))
    failures = await clients.read_back()
    read = f"{len(load.blobs)} blobs, {load.bytes_put} bytes"
    checks.append(Check("every acknowledged blob reads back", read, _few(failures)))
    checks.append(await _audit(stage, load))
    return checks


async def _heads(stage: Stage, load: Load) -> Check:
    name = "all replicas of the ledger have one head"
    try:
        height, digest = await stage.level()
    except HcefsError as error:
        return Check(name, "", (f"{error.reason}: {error.message}",))
    acknowledged = max((made.receipt.height for made in load.blobs), default=0)
    missing: tuple[str, ...] = ()
    if height < acknowledged:
        missing = (f"height {acknowledged} was acknowledged, and the ledger is at {height}",)
    return Check(name, f"height {height}, state {digest.hex()[:16]}", missing)


async def _entries(stage: Stage, load: Load) -> Check:
    """Every acknowledged append is where the receipt says."""
    name = "no acknowledged append is lost"
    problems = []
    try:
        for record in stage.records:
            count = (await stage.patient.record(record)).leaf_count
            leaves = await stage.patient.leaves(record, 0, count)
            for made in load.blobs:
                if made.record == record and not _is_at_its_place(made, leaves):
                    index = made.receipt.ref.leaf_index
                    problems.append(f"the entry of {made.blob} is not at position {index}")
    except HcefsError as error:
        problems.append(f"the ledger did not answer: {error.kind}, {error.reason}")
    return Check(name, f"{len(load.blobs)} receipts compared", _few(problems))


def _is_at_its_place(made: Acknowledged, leaves: Sequence[Leaf]) -> bool:
    index = made.receipt.ref.leaf_index
    if index >= len(leaves):
        return False
    leaf, slot = leaves[index].hash(), made.blob.slot
    return made.receipt.leaf == (packed_leaf(leaf, slot) if slot else leaf)


async def _audit(stage: Stage, load: Load) -> Check:
    """With every process stopped: shards against stripes and layouts."""
    name = "on disk, every shard is its stripe's and its layout's"
    try:
        current = await stage.current_map()
        await stage.runtime.disk(stage.processes.stop_all)
        numbers = set(stage.folder.node_numbers())
        folders = {
            node.node_id: stage.data(node.node_id)
            for node in current.nodes
            if node.node_id in numbers
        }
        bases = {made.blob.base for made in load.blobs}
        verified, problems = await stage.runtime.disk(audit, current, folders, bases)
    except HcefsError as error:
        return Check(name, "", (f"{error.kind}, {error.reason}: {error.message}",))
    return Check(name, f"{verified} shards verified", _few(problems))


def _few(problems: list[str]) -> tuple[str, ...]:
    """The first ones, and how many more."""
    more = len(problems) - SHOWN_MAX
    return tuple(problems[:SHOWN_MAX]) + ((f"and {more} more",) if more > 0 else ())
