"""Steps 4 and 5 of the demo: nodes killed with -9, a shard damaged on the disk."""

from __future__ import annotations

from pathlib import Path

from hcefs.cli.cluster_files import node_name
from hcefs.cli.demo_pages import Page, fetch_page
from hcefs.cli.demo_report import Broken, Notes, bytes_text, require
from hcefs.cli.demo_stage import ENTRY, MEGABYTE, POLL_SECONDS, PURPOSE, Stage, Stored, refused
from hcefs.client.receipts import PutReceipt
from hcefs.errors import Unavailable
from hcefs.formats.shard import HEADER_SIZE

KILL_AFTER_BYTES = 8 * MEGABYTE
DATA_SHARDS = 4
DAMAGED_BYTES = 32
LOG_SECONDS = 5.0
READS_MAX = 5
RECONNECT_SECONDS = 15.0


# -- 4


async def kill_two(stage: Stage, notes: Notes) -> None:
    """Two of six nodes die during a read; reads go on, puts are never falsely acknowledged."""
    cine = stage.stored["cine"]
    victims = _holders_of_data(stage, cine)[:2]
    killed_at: list[int] = []

    async def meanwhile(length: int) -> None:
        if length >= KILL_AFTER_BYTES and not killed_at:
            killed_at.append(length)
            stage.say(f"kill -9 of {_names(victims)}; the doctor goes on reading")
            await stage.kill(*victims)

    before = await _entry_page(stage)
    seconds = await stage.read("doctor", cine, meanwhile=meanwhile)
    after = await _entry_page(stage)
    require(killed_at and killed_at[0] < cine.exhibit.bytes // 2, "the nodes were killed too late")
    reads = "hcefs_degraded_reads_total"
    require(after.value(reads) > before.value(reads), "the read did not become degraded")
    notes.check(
        f"{_names(victims)}, each with a data shard of the cine, were killed with -9 when "
        f"{bytes_text(killed_at[0])} of it had arrived; the rest came all the same, byte for byte, "
        "counted as a degraded read",
        killed=victims,
        killed_at_bytes=killed_at[0],
        read_seconds=round(seconds, 3),
    )
    for key in ("radiograph", "ecg", "sealed"):
        await stage.read("doctor", stage.stored[key])
    notes.check("further reads with two nodes down: three blobs, byte for byte", further_reads=3)
    await _refuse_put(stage, notes)
    await _degraded_put(stage, notes, victims[0])


def _holders_of_data(stage: Stage, stored: Stored) -> list[int]:
    """Nodes other than the entry node that hold a data shard, by its index."""
    holders = [stage.holder(stored.blob, index) for index in range(DATA_SHARDS)]
    return [node for node in holders if node != ENTRY]


def _names(nodes: list[int]) -> str:
    return " and ".join(node_name(node) for node in nodes)


async def _put_ecg(stage: Stage) -> PutReceipt:
    exhibit = stage.exhibits["ecg"]
    return await stage.clients["hospital"].put(
        stage.record,
        exhibit.path,
        grant=stage.grants["hospital"],
        content_type="application/dicom",
        name=exhibit.name,
        purpose=PURPOSE,
        node=stage.address(ENTRY),
    )


async def _entries(stage: Stage) -> int:
    stage.say("the doctor lists the record")
    listing = await stage.clients["doctor"].list(
        stage.record, grant=stage.grants["doctor"], purpose=PURPOSE
    )
    require(listing.complete, f"{listing.missing} entries of the listing are missing")
    return len(listing)


async def _refuse_put(stage: Stage, notes: Notes) -> None:
    """Four holders cannot make five shards durable: the put must fail, and leave nothing."""
    stage.say("the hospital tries to store with two nodes down")
    before = await _entries(stage)
    started = stage.runtime.monotonic()
    reason = await refused(_put_ecg(stage), "too-few-holders")
    seconds = stage.runtime.monotonic() - started
    after = await _entries(stage)
    require(after == before == len(stage.stored), f"the refused put left {after - before} entries")
    notes.check(
        f"a put with two of six nodes down was refused ({reason}) and left no entry",
        put_with_two_down=reason,
        refused_seconds=round(seconds, 3),
        entries=after,
    )


async def _put_when_reachable(stage: Stage) -> PutReceipt:
    """Put as soon as the entry node has connected to the returned one again.

    Until then it refuses, as it must: its connections wait up to two seconds
    between attempts.
    """
    deadline = stage.runtime.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            return await _put_ecg(stage)
        except Unavailable as error:
            if error.reason != "too-few-holders" or stage.runtime.monotonic() > deadline:
                raise
        await stage.runtime.sleep(POLL_SECONDS)


async def _degraded_put(stage: Stage, notes: Notes, node: int) -> None:
    """With one node back, five shards are enough, and the acknowledgement says so."""
    seconds = await stage.revive(node)
    stage.say("the hospital stores with one node down")
    receipt = await _put_when_reachable(stage)
    require(
        receipt.degraded and (receipt.durable_shards, receipt.total_shards) == (5, 6),
        f"the put was acknowledged with d={receipt.durable_shards} and "
        f"{'' if receipt.degraded else 'not '}as degraded",
    )
    stage.stored["degraded"] = stored = Stored(stage.exhibits["ecg"], receipt)
    await stage.read("doctor", stored)
    notes.check(
        f"{node_name(node)} returned in {seconds:.1f} s; the put was acknowledged as degraded "
        f"with d={receipt.durable_shards} of {receipt.total_shards}, and reads back",
        degraded_put={"durable": receipt.durable_shards, "total": receipt.total_shards},
        return_seconds=round(seconds, 3),
    )


# -- 5


async def damage_one(stage: Stage, notes: Notes) -> None:
    """Both nodes are back; a shard on a third is damaged; the read finds and names it."""
    returned = list(stage.down)
    killed = _holders_of_data(stage, stage.stored["cine"])[:2]
    for node in returned:
        await stage.revive(node)
    require(not stage.down, f"nodes {stage.down} are still down")
    notes.check(f"{_names(killed)} are back and serve", returned=killed)
    stored = stage.stored["radiograph"]
    index, node = next(
        (index, node)
        for index in range(DATA_SHARDS)
        if (node := stage.holder(stored.blob, index)) not in (ENTRY, *killed)
    )
    stage.say(f"flipping bytes of a shard of {node_name(node)}")
    path = stage.shard_path(stored.blob, index)
    offset = await stage.runtime.disk(flip_bytes, path)
    corrupt = await _read_until_noticed(stage, stored)
    line = await _log_line(stage, stored.blob.base.text)
    notes.check(
        f"{DAMAGED_BYTES} bytes of data shard {index} of {stored.exhibit.name} were flipped on "
        f"{node_name(node)}'s disk; the doctor still read it byte for byte",
        node=node,
        index=index,
        offset=offset,
        file=str(path.relative_to(stage.cluster.root)),
    )
    notes.check(
        f"the damage is named in {node_name(ENTRY)}'s log and counted in "
        f"hcefs_corrupt_shards_total ({corrupt:.0f})",
        log=line,
        corrupt_shards_total=corrupt,
    )


async def _read_until_noticed(stage: Stage, stored: Stored) -> float:
    """Read until the damage is counted; every read must be right, byte for byte.

    The first read finds it, unless the damaged shard's holder was slow in that
    very moment and a parity shard was taken in its place.
    """
    metric = "hcefs_corrupt_shards_total"
    before = (await _entry_page(stage)).value(metric)
    for _ in range(READS_MAX):
        await stage.read("doctor", stored)
        after = (await _entry_page(stage)).value(metric)
        if after > before:
            return after
    raise Broken(f"{READS_MAX} reads were right, but {metric} of the entry node did not grow")


def flip_bytes(path: Path) -> int:
    """Invert some bytes in the middle of a shard's pieces; returns their offset."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        offset = HEADER_SIZE + (size - HEADER_SIZE) // 2
        file.seek(offset)
        data = file.read(DAMAGED_BYTES)
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in data))
    return offset


async def _entry_page(stage: Stage) -> Page:
    return await stage.runtime.disk(fetch_page, stage.node_config(ENTRY).metrics_address)


async def _log_line(stage: Stage, base: str) -> str:
    """The line of the entry node's log that names a damaged blob, without its time."""
    path = stage.cluster.log_of(node_name(ENTRY))
    deadline = stage.runtime.monotonic() + LOG_SECONDS
    while True:
        text = (await stage.runtime.disk(path.read_bytes)).decode("utf-8", "replace")
        for line in text.splitlines():
            if base in line and "corrupt" in line:
                return line[line.index("request") :] if "request" in line else line
        require(
            stage.runtime.monotonic() < deadline,
            f"{node_name(ENTRY)}'s log does not name {base} as corrupt",
        )
        await stage.runtime.sleep(0.1)
