"""``backup``, ``backup verify``, ``backup info``: the cluster's rows and ledger in one file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.bringup import OPERATORS
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption, folder
from hcefs.cli.output import note, print_fields, show, size_text, time_text, verb
from hcefs.cli.session import run
from hcefs.client.backup_file import BackupReader, new_backup, opened, read_header
from hcefs.crypto.accounts import AccountKeys
from hcefs.durable_files import replace_file
from hcefs.errors import Denied, Invalid, NotFound, Unavailable
from hcefs.formats.backup import BackupContents, BackupFile, BackupHeader
from hcefs.ids import AccountId
from hcefs.runtime import SystemRuntime

if TYPE_CHECKING:
    # It loads the databases, which only these verbs need.
    from hcefs.client.backup import Taken

app = typer.Typer(
    help="Copy the cluster's rows and ledger into one file, sealed to operators.",
    invoke_without_command=True,
)

ReaderOption = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="NAME",
        help="Operator whose keys open it: a name here or a key file; by default one of here.",
    ),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]

FILE_BYTES_MAX = 1 << 20

METRICS = {
    "hcefs_backup_last_success_timestamp_seconds": "When the last backup ended well.",
    "hcefs_backup_bytes": "Size of the last backup.",
    "hcefs_backup_duration_seconds": "How long the last backup took.",
    "hcefs_backup_missing_nodes": "Nodes that the last backup was taken without.",
}
"""What --metrics-file writes: gauges, for the textfile collector of node_exporter."""


@app.callback()
@verb
def backup(
    context: typer.Context,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write; mode 0600.")
    ] = None,
    recipients: Annotated[
        list[str] | None,
        typer.Option(
            "--to", metavar="ACCOUNT", help="Operator who can open it; by default all founders."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    partial: Annotated[
        bool,
        typer.Option("--allow-missing", help="Go on without nodes that do not answer."),
    ] = False,
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            "--metrics-file", metavar="FILE", help="Write metrics for node_exporter here."
        ),
    ] = None,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Take a backup while the cluster serves: all rows, sealed keys and the ledger.

    Shards are not in it: they are where they are, n of each.  The file opens with the keys
    of the operators it is sealed to, and with nothing else.
    """
    if context.invoked_subcommand is not None:
        return
    if to is None:
        raise Invalid("say where the backup goes: --out FILE", reason="bad-arguments")
    layout = folder(directory)
    runtime = SystemRuntime()
    try:
        started_s, now_ms = runtime.monotonic(), runtime.now_ms()
        data = run(_take(layout, to, recipients or [], force, partial, runtime, quiet=as_json))
        took_s = runtime.monotonic() - started_s
        data |= {"seconds": round(took_s, 3), "time_ms": now_ms, "bytes": to.stat().st_size}
        if metrics_file is not None:
            _write_metrics(metrics_file, data)
    finally:
        runtime.close()

    def human(console: Console) -> None:
        print_fields(console, [("nodes", data["nodes"]), ("rows", data["rows"]),
                               ("ledger", f"{data['height']} blocks"),
                               ("bytes", size_text(data["bytes"])),
                               ("sealed to", f"{data['recipients']} operators")])  # fmt: skip
        for account in data["missing"]:
            console.print(Text(f"without {account}, which did not answer"), style="yellow")
        console.print(Text(f"next    hcefs backup verify {to}", style="green"))

    show(data, as_json=as_json, human=human)


async def _take(
    layout: ClusterFolder,
    path: Path,
    recipients: Sequence[str],
    force: bool,
    partial: bool,
    runtime: SystemRuntime,
    *,
    quiet: bool,
) -> dict[str, Any]:
    from hcefs.client.authorize import Authorizer
    from hcefs.client.backup import BackupTaker
    from hcefs.client.ledger import LedgerClient
    from hcefs.client.replicas import GrpcReplicas, operator_asker
    from hcefs.placement.cluster_map import NodeState
    from hcefs.transport.dial import AuthorityDialer
    from hcefs.transport.replica_calls import ReplicaCalls

    keys = _operators_here(layout)[0]
    connection, genesis = layout.load_connection(), layout.load_genesis()
    async with LedgerClient(connection, keys, runtime) as client:
        receiving = await _receiving_keys(layout, client, recipients)
        current = await client.fresh_map()
        over = (NodeState.OUT, NodeState.REMOVED)
        nodes = [node for node in current.nodes if node.state not in over]
        addresses = {node.account: node.address for node in nodes}
        away = []
        for node in nodes:
            try:
                async with runtime.timeout(10.0):
                    await client.status(node.address)
            except (Unavailable, TimeoutError):
                away.append(node.account)
    if away and not partial:
        raise Unavailable(
            f"{len(away)} of {len(nodes)} nodes do not answer ({', '.join(map(str, away))}): start "
            "them, or go on without them with --allow-missing; what they hold, the other holders "
            "of its rows have too",
            reason="nodes-away",
        )
    taken_from = tuple(node.account for node in nodes if node.account not in away)
    contents = BackupContents(
        genesis.encode(), current.epoch, taken_from, tuple(away), tuple(_small_files(layout))
    )
    calls = ReplicaCalls(runtime, AuthorityDialer(connection.authority))
    authorizer = Authorizer(connection.cluster, keys, runtime)
    taker = BackupTaker(
        runtime,
        calls,
        authorizer,
        GrpcReplicas(calls, operator_asker(authorizer)),
        lambda words: note(words, quiet=quiet),
    )
    try:
        with new_backup(
            path, connection.cluster, runtime.now_ms(), receiving, runtime.random, replace=force
        ) as writer:
            taken: Taken = await taker.take(
                writer, genesis, contents, addresses, [addresses[each] for each in taken_from]
            )
    finally:
        await calls.close()
    return {
        "file": str(path),
        "cluster": connection.cluster.text,
        "nodes": taken.nodes,
        "missing": [account.text for account in away],
        "rows": taken.rows,
        "height": taken.height,
        "recipients": len(receiving),
    }


async def _receiving_keys(
    layout: ClusterFolder, client: Any, recipients: Sequence[str]
) -> list[bytes]:
    """The receiving keys of those who are to open a backup, from the ledger."""
    from hcefs.access.facts import AccountKind

    if recipients:
        wanted = [layout.account_id(each) for each in recipients]
    else:
        founders = layout.load_genesis().operator_accounts()
        wanted = [each.account for each in founders]
    found = []
    for account in dict.fromkeys(wanted):
        known = await client.fresh_account(account)
        if known.kind is AccountKind.OPERATOR and known.active:
            found.append(known.receiving_key)
        elif recipients:
            raise Denied(
                f"{account} is no active operator: backups are sealed to operators only",
                reason="not-an-operator",
            )
    if not found:
        raise NotFound(
            "no founder is an operator any more: name recipients with --to", reason="no-recipient"
        )
    return list(dict.fromkeys(found))


def _small_files(layout: ClusterFolder) -> list[BackupFile]:
    """The files of a cluster's folder that say where it is and how it is set up; no secret."""
    paths = [layout.connection_file, layout.genesis_file, layout.authority]
    paths += [layout.config_of(name) for name in layout.process_names()]
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            if path.stat().st_size <= FILE_BYTES_MAX:
                found.append(BackupFile(str(path.relative_to(layout.root)), path.read_bytes()))
    return found


def _operators_here(layout: ClusterFolder, name: str = "") -> list[AccountKeys]:
    """The keys of the operators of a folder, or of one that is named.

    Raises:
        NotFound: there are none.
    """
    if name:
        return [layout.load_keys(name)]
    names = [each for each in OPERATORS if layout.account_file(each).exists()]
    if not names:
        raise NotFound(
            f"no operator's keys are in {layout.accounts}: name a key file with --as",
            reason="unknown-account",
        )
    return [layout.load_keys(each) for each in names]


def _write_metrics(path: Path, data: dict[str, Any]) -> None:
    """A file for node_exporter's textfile collector, whole or not at all."""
    values = (
        (data["time_ms"] + data["seconds"] * 1000) / 1000,
        data["bytes"],
        data["seconds"],
        len(data["missing"]),
    )
    lines = []
    for (name, text), value in zip(METRICS.items(), values, strict=True):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
    replace_file(path, ("\n".join(lines) + "\n").encode())


# --- reading ---------------------------------------------------------------------


def reader_keys(layout: ClusterFolder, name: str, header: BackupHeader) -> AccountKeys:
    """The keys, of one that is named or of the operators here, that open a backup.

    Raises:
        Denied: ``not-a-recipient``.
    """
    from hcefs.formats.backup import fingerprint

    sealed_to = {each.fingerprint for each in header.recipients}
    for keys in _operators_here(layout, name):
        held = (keys.receiving_key, *keys.past_receiving_keys().values())
        if any(fingerprint(each.public_key) in sealed_to for each in held):
            return keys
    raise Denied(
        f"this backup is sealed to {len(sealed_to)} other keys: open it as an operator whom it was "
        "made for, with --as",
        reason="not-a-recipient",
    )


@app.command("info")
@verb
def info(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show what anybody may read of a backup: cluster, time, and for how many it is sealed."""
    header = read_header(file)
    data = _header_data(file, header)

    def human(console: Console) -> None:
        print_fields(console, [("cluster", data["cluster"]),
                               ("taken", time_text(header.time_ms)),
                               ("bytes", size_text(data["bytes"]))])  # fmt: skip
        for each in data["recipients"]:
            console.print(Text(f"sealed to key {each}"))

    show(data, as_json=as_json, human=human)


def _header_data(file: Path, header: BackupHeader) -> dict[str, Any]:
    return {
        "cluster": header.cluster.text,
        "time_ms": header.time_ms,
        "bytes": file.stat().st_size,
        "recipients": [each.fingerprint.hex() for each in header.recipients],
    }


@app.command("verify")
@verb
def verify(
    file: FileArgument,
    name: ReaderOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Open a backup and check all of it, and replay its ledger; nothing is restored.

    Needs room for a copy of the ledger beside the file.
    """
    layout = ClusterFolder(directory)
    header = read_header(file)
    if layout.exists() and layout.load_connection().cluster != header.cluster:
        raise wrong_cluster(header)
    keys = reader_keys(layout, name, header)
    runtime = SystemRuntime()
    try:
        data = _header_data(file, header) | run(_verify(file, keys, runtime))
    finally:
        runtime.close()

    def human(console: Console) -> None:
        print_fields(console, [("cluster", data["cluster"]),
                               ("taken", time_text(header.time_ms)),
                               ("nodes", len(data["nodes"])),
                               ("rows", sum(data["nodes"].values())),
                               ("ledger", f"{data['height']} blocks"),
                               ("term", data["term"])])  # fmt: skip
        console.print(Text("this backup is whole", style="green"))

    show(data, as_json=as_json, human=human)


def wrong_cluster(header: BackupHeader) -> Invalid:
    """A backup of another cluster than the folder is of."""
    return Invalid(
        f"this backup is of cluster {header.cluster}, not of this one: use the right file, or the "
        "right folder with --dir",
        reason="wrong-cluster",
    )


async def _verify(file: Path, keys: AccountKeys, runtime: SystemRuntime) -> dict[str, Any]:
    from hcefs.client.backup_check import Found, checked, replayed

    found = Found()
    scratch = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    try:
        with opened(file) as source:
            entries = checked(BackupReader(source, keys), found)
            log = await replayed(scratch / "ledger", entries, found, runtime)
            try:
                facts = {"height": log.height, "term": log.terms.term}
            finally:
                await runtime.disk(log.close)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rows: dict[AccountId, int] = found.rows
    missing = found.contents.missing if found.contents is not None else ()
    return facts | {
        "nodes": {account.text: count for account, count in rows.items()},
        "missing": [account.text for account in missing],
    }
