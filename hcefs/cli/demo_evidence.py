"""Steps 8 and 9 of the demo: what the disks hold, what the ledger and the metrics say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.demo_data import Search, search_folders, telling_runs
from hcefs.cli.demo_pages import Page, fetch_page
from hcefs.cli.demo_report import Notes, bytes_text, require
from hcefs.cli.demo_stage import ENTRY, POLL_SECONDS, SERVING_SECONDS, Stage, Stored
from hcefs.cli.demo_wire import Wire
from hcefs.client.keys import open_key_row
from hcefs.client.stat import check_manifest
from hcefs.config import load_ledger_config
from hcefs.crypto.stream import segment_secret
from hcefs.formats.manifest import KeyRow
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.log import LedgerLog

Runs = list[tuple[str, bytes]]


# -- 8


async def search_disks(stage: Stage, notes: Notes) -> None:
    """Neither plaintext nor a key that opens payloads is in any file of any node."""
    stage.say("gathering what must not be on a disk")
    plaintext = await stage.runtime.disk(_plaintext_runs, stage)
    keys = _account_keys(stage) + await _payload_keys(stage)
    folders = [stage.cluster.ledger, *(stage.cluster.node(node) for node in stage.nodes)]
    stage.say(f"searching every file of every process for {len(plaintext) + len(keys)} byte runs")
    searched = await stage.runtime.disk(search_folders, folders, plaintext + keys)
    require(
        not searched.found,
        "found on a disk: " + ", ".join(f"{hit.name} in {hit.path}" for hit in searched.found[:5]),
    )
    await _prove_search(stage, notes, folders)
    notes.check(
        f"{searched.files} files with {bytes_text(searched.bytes)} in the folders of the ledger "
        f"and the six nodes hold none of {len(plaintext)} byte runs: the DICOM files' headers "
        "and pixels, and their names",
        files=searched.files,
        bytes=searched.bytes,
        plaintext_runs=len(plaintext),
    )
    notes.check(
        f"nor any of {len(keys)} keys: the accounts' seeds and record masters, the record's key "
        "of each generation, every blob's data key and its first segment's secret",
        keys=len(keys),
    )


def _plaintext_runs(stage: Stage) -> Runs:
    runs: Runs = []
    for exhibit in stage.exhibits.values():
        found = telling_runs(exhibit.path.read_bytes())
        require(len(found) >= 4, f"{exhibit.name} has too few runs that would tell")
        runs += [(f"plaintext of {exhibit.name}", run) for run in found]
        runs.append((f"the name {exhibit.name}", exhibit.name.encode()))
    return runs


def _account_keys(stage: Stage) -> Runs:
    """Every secret of every person; those that open payloads are among them."""
    runs: Runs = []
    for name, keys in stage.accounts.items():
        runs += [
            (f"receiving key of {name}", keys.receiving_seed),
            (f"record master of {name}", keys.record_master),
            (f"token key of {name}", keys.token_seed),
            (f"signing key of {name}", keys.signing_seed),
        ]
    owner = stage.accounts["patient"]
    runs += [
        (f"record key of generation {number}", owner.record_key(stage.record, number).seed)
        for number in (0, 1)
    ]
    return runs


async def _payload_keys(stage: Stage) -> Runs:
    """The data keys, which the patient can derive from the key rows."""
    owner = stage.accounts["patient"]
    node = stage.node(ENTRY)
    cluster = stage.connection.cluster
    runs: Runs = []
    async with Wire(stage) as wire:
        token = stage.clients["patient"].mint()
        for name, stored in stage.stored.items():
            authorization = wire.presenting(owner, token, node, "stat", stored.blob)
            answer = await wire.stat(authorization, node, stored.blob)
            manifest = check_manifest(stage.record, stored.blob, answer)
            row = manifest.key_row
            if not isinstance(row, KeyRow):
                require(False, f"{name} has no key row")
                continue
            key = owner.record_key(stage.record, row.generation)
            dek = open_key_row(cluster, key, row, manifest.core).dek
            runs += [
                (f"data key of {name}", dek),
                (f"secret of the first segment of {name}", segment_secret(dek, 0)),
            ]
    return runs


async def _prove_search(stage: Stage, notes: Notes, folders: list[Path]) -> None:
    """A search that finds nothing proves nothing unless it finds what is there."""
    stored: list[Stored] = list(stage.stored.values())
    control = [
        (f"shard {seat.index} of {each.exhibit.name}", _some_ciphertext(stage, each, seat.index))
        for each in stored[:2]
        for seat in stage.seats_of(each.blob)
    ]
    control += [("core digest in an opening", each.receipt.ref.core_digest) for each in stored]
    searched: Search = await stage.runtime.disk(search_folders, folders, control)
    found = {hit.name for hit in searched.found}
    missing = {name for name, _ in control} - found
    require(not missing, f"the search does not find what is there: {', '.join(sorted(missing))}")
    notes.facts["control_runs"] = len(control)


def _some_ciphertext(stage: Stage, stored: Stored, index: int) -> bytes:
    with stage.shard_path(stored.blob, index).open("rb") as file:
        file.seek(1024)
        return file.read(32)


# -- 9


async def show_evidence(stage: Stage, notes: Notes) -> None:
    """The chain verifies from genesis, all nodes agree, and the metrics tell the story."""
    height, app_hash = await _compare_states(stage)
    notes.check(
        f"the ledger and all six nodes report the same application hash at height {height}: "
        f"{app_hash[:16]}...",
        height=height,
        app_hash=app_hash,
    )
    await _tell_story(stage, notes)
    genesis = await stage.operator.genesis()
    stage.say("stopping the cluster, to verify each copy of the ledger from genesis")
    await stage.close()
    paths = {LEDGER: load_ledger_config(stage.cluster.config_of(LEDGER)).data}
    paths |= {node_name(node): stage.node_config(node).data / "ledger" for node in stage.nodes}
    for name, path in paths.items():
        stage.say(f"verifying the ledger of {name}")
        verified = await stage.runtime.disk(verify_copy, path, genesis)
        require(
            verified == (height, app_hash),
            f"the copy of {name} ends at height {verified[0]} with another state",
        )
    notes.check(
        f"all {len(paths)} copies of the ledger verify from genesis: {height} blocks, every "
        "signature, every hash, every row of the state",
        copies=len(paths),
        blocks=height,
    )


def verify_copy(path: Path, genesis: Genesis) -> tuple[int, str]:
    """Replay a copy of the ledger from genesis; its height and application hash.

    Raises:
        Corrupt: something differs.
    """
    log = LedgerLog.open(path, genesis)
    try:
        return log.verify_chain(), log.app_hash.hex()
    finally:
        log.close()


async def _compare_states(stage: Stage) -> tuple[int, str]:
    stage.say("comparing the ledger's state on every node")
    addresses = [stage.connection.ledger, *(stage.address(node) for node in stage.nodes)]
    deadline = stage.runtime.monotonic() + SERVING_SECONDS
    while True:
        found = {
            (status.height, status.app_hash.hex())
            for status in [await stage.operator.status(address) for address in addresses]
        }
        if len(found) == 1:
            return found.pop()
        require(stage.runtime.monotonic() < deadline, f"the nodes disagree: {sorted(found)}")
        await stage.runtime.sleep(POLL_SECONDS)


async def _tell_story(stage: Stage, notes: Notes) -> None:
    stage.say("reading the metrics of every node")
    pages = {
        node: await stage.runtime.disk(fetch_page, stage.node_config(node).metrics_address)
        for node in stage.nodes
    }
    entry = pages[ENTRY]
    puts, gets = _sums([entry], "puts_total"), _sums([entry], "gets_total")
    denials = {name: int(value) for name, value in sorted(_reasons(pages.values()).items())}
    for node, page in pages.items():
        require(page.value("hcefs_shards") > 0, f"node {node} shows no shards")
        require(page.value("hcefs_ledger_height") > 0, f"node {node} shows no ledger height")
        require(
            page.value("hcefs_denials_total", reason="revoked") >= 1,
            f"node {node} shows no denial for a revoked grant",
        )
        require(
            sum(page.by_label("hcefs_gets_total", "outcome").values()) >= 1,
            f"node {node} shows no gets",
        )
    for reason in ("not-the-owner", "token-check", "wrong-gateway", "expired", "revoked"):
        require(denials.get(reason), f"no node's metrics show a denial for {reason}")
    degraded = entry.value("hcefs_degraded_reads_total")
    corrupt = entry.value("hcefs_corrupt_shards_total")
    require(puts.get("ok", 0) >= 5 and puts.get("degraded", 0) >= 1, f"the puts are {puts}")
    require(gets.get("ok", 0) >= 5 and gets.get("degraded", 0) >= 1, f"the gets are {gets}")
    require(degraded >= 1 and corrupt >= 1, "degraded reads or corrupt shards are not counted")
    notes.check(
        f"{node_name(ENTRY)}'s /metrics: puts {_words(puts)}; gets {_words(gets)}; "
        f"degraded reads: {degraded:.0f}; corrupt shards: {corrupt:.0f}",
        puts=puts,
        gets=gets,
        degraded_reads=degraded,
        corrupt_shards=corrupt,
    )
    notes.check(f"denials by reason on all nodes: {_words(denials)}", denials=denials)
    notes.facts["nodes"] = {node_name(node): _node_facts(page) for node, page in pages.items()}


def _sums(pages: Iterable[Page], name: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for page in pages:
        for outcome, value in page.by_label(f"hcefs_{name}", "outcome").items():
            total[outcome] = total.get(outcome, 0) + int(value)
    return total


def _reasons(pages: Iterable[Page]) -> dict[str, float]:
    total: dict[str, float] = {}
    for page in pages:
        for reason, value in page.by_label("hcefs_denials_total", "reason").items():
            total[reason] = total.get(reason, 0) + value
    return total


def _node_facts(page: Page) -> dict[str, object]:
    return {
        "height": int(page.value("hcefs_ledger_height")),
        "shards": int(page.value("hcefs_shards")),
        "shard_bytes": int(page.value("hcefs_shard_bytes")),
        "puts": _sums([page], "puts_total"),
        "gets": _sums([page], "gets_total"),
        "denials": {name: int(value) for name, value in _reasons([page]).items()},
        "unauthenticated": int(page.value("hcefs_unauthenticated_total")),
        "degraded_reads": int(page.value("hcefs_degraded_reads_total")),
        "corrupt_shards": int(page.value("hcefs_corrupt_shards_total")),
    }


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
