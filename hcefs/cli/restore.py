"""``restore``: a backup back onto empty disks: rows of nodes, the ledger, or small files.

Nothing is put over what is there.  The ledger comes back under a new term, signed by the
operators, because its old writer may have signed more than the backup has; nodes come back
marked as restoring, so that they look for what the backup has not.
Source: docs/decisions/0042-backups.md.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.backup import FileArgument, ReaderOption, reader_keys, wrong_cluster
from hcefs.cli.cluster_files import LEDGER, ClusterFolder, node_name
from hcefs.cli.ledger_recover import LOSS_WORDS
from hcefs.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from hcefs.cli.output import note, show, verb
from hcefs.cli.processes import Processes
from hcefs.cli.session import run
from hcefs.client.backup_file import BackupReader, opened, read_header
from hcefs.config import load_node_config
from hcefs.crypto.accounts import AccountKeys, account_in
from hcefs.durable_files import write_private
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.formats.backup import BackupContents, BackupHeader
from hcefs.runtime import SystemRuntime

LISTED_MAX = 1000
"""Of shards without rows; the rest is counted."""


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("restore")(restore)


@verb
def restore(
    file: FileArgument,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NODE", help="Rows of this node: its number here, or its folder."
        ),
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="The ledger of this folder, under a new term.")
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Genesis, connection file and configurations.")
    ] = False,
    force: Annotated[
        str,
        typer.Option(
            "--force", metavar="WORDS", help=f'With --ledger, accept a loss: "{LOSS_WORDS}".'
        ),
    ] = "",
    prepare: Annotated[
        Path | None,
        typer.Option(
            "--prepare",
            metavar="FILE",
            help="With --ledger: write the statement for other operators to sign.",
        ),
    ] = None,
    name: ReaderOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Bring back rows, the ledger or small files from a backup, onto empty disks only.

    Processes that are restored must not run.  Start them afterwards: nodes then compare
    what they have with each other and with the ledger, which says what was erased.
    """
    if bool(nodes) + ledger + files != 1:
        raise Invalid("say what to restore: --node, --ledger or --files", reason="bad-arguments")
    if force not in ("", LOSS_WORDS):
        raise Invalid(f'--force takes exactly the words "{LOSS_WORDS}"', reason="bad-words")
    layout = ClusterFolder(directory)
    header = read_header(file)
    if layout.exists() and layout.load_connection().cluster != header.cluster:
        raise wrong_cluster(header)
    keys = reader_keys(layout, name, header)
    if files:
        _restore_files(layout, file, keys, as_json=as_json)
    elif ledger:
        _restore_ledger(layout.require(), file, keys, force, prepare, as_json=as_json)
    else:
        # All are looked at before the first is touched.
        folders = [_node_folder(layout, each) for each in nodes or []]
        found = [_restore_node(folder, file, header, keys, as_json=as_json) for folder in folders]
        show({"nodes": found}, as_json=as_json, human=lambda console: _print_nodes(console, found))


# --- small files -------------------------------------------------------------------


def _restore_files(layout: ClusterFolder, file: Path, keys: AccountKeys, *, as_json: bool) -> None:
    """Write the files that are not there."""
    from hcefs.client.backup_check import Found, checked

    found = Found()
    with opened(file) as source:
        for _ in checked(BackupReader(source, keys), found):
            pass
    contents = found.contents
    written, kept = [], []
    for each in contents.files if contents is not None else ():
        relative = PurePosixPath(each.name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise Invalid("a file in this backup has a path outside", reason="bad-backup")
        path = layout.root / relative
        if path.exists():
            kept.append(each.name)
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, each.data)
        written.append(each.name)

    def human(console: Console) -> None:
        for what in written:
            console.print(Text(f"restored  {what}"))
        for what in kept:
            console.print(Text(f"kept      {what}: it is there", style="dim"))

    show({"restored": written, "kept": kept}, as_json=as_json, human=human)


# --- nodes -------------------------------------------------------------------------


def _node_folder(layout: ClusterFolder, text: str) -> Path:
    """The folder of a node with its configuration: by its number or name here, or by path.

    Raises:
        NotFound: there is none.
        Conflict: ``node-runs``.
    """
    number = text.removeprefix("node-")
    if number.isascii() and number.isdigit():
        folder = layout.node(int(number))
        if Processes(layout).alive(node_name(int(number))):
            raise Conflict(f"node {number} runs: stop it first", reason="node-runs")
    else:
        folder = Path(text).expanduser().resolve()
    if not (folder / "config.toml").is_file():
        raise NotFound(
            f"{folder} has no config.toml: name the folder of a node; its account's keys and "
            "configuration are not in a backup's rows",
            reason="no-config",
        )
    from hcefs.store.dump import require_empty

    require_empty(load_node_config(folder / "config.toml").data)
    return folder


def _restore_node(
    folder: Path, file: Path, header: BackupHeader, keys: AccountKeys, *, as_json: bool
) -> dict[str, Any]:
    from hcefs.client.backup_check import Found, checked
    from hcefs.formats.backup import BackupNode, BackupRows, RowSource
    from hcefs.ledger.genesis import Genesis
    from hcefs.store.dump import RestoredRows, table_of
    from hcefs.store.files import FileShardStore
    from hcefs.store.interface import KeyTable, Table
    from hcefs.stripes.backed_up import compare

    config = load_node_config(folder / "config.toml")
    if Genesis.decode(config.genesis.read_bytes()).cluster != header.cluster:
        raise wrong_cluster(header)
    account = account_in(config.account)
    note(f"restoring the rows of {account}", quiet=as_json)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (config.data / "shards").mkdir(mode=0o700, exist_ok=True)
    found = Found()
    # Its lock says that no process has this disk open.
    shards = FileShardStore(config.data / "shards")
    try:
        restored = RestoredRows(config.data)
        try:
            mine = False
            with opened(file) as source:
                for entry in checked(BackupReader(source, keys), found):
                    if isinstance(entry, BackupContents) and account not in entry.nodes:
                        raise NotFound(
                            f"this backup has no rows of {account}: start the node as it is, it "
                            "brings its rows back from the others",
                            reason="not-in-backup",
                        )
                    if isinstance(entry, BackupNode):
                        mine = entry.account == account
                    elif isinstance(entry, BackupRows) and mine:
                        kind = KeyTable if entry.source is RowSource.KEYS else Table
                        table = table_of(kind, entry.table)
                        restored.add(table, [(row.key, row.value) for row in entry.rows])
            report = compare(shards, restored.rows, LISTED_MAX)
            restored.finish()
        finally:
            restored.close()
    finally:
        shards.close()
    return {
        "account": account.text,
        "folder": str(folder),
        "rows": restored.counts["rows"],
        "keys": restored.counts["keys"],
        "shards": report.shards,
        "shards_without_rows": report.unnamed,
        "rows_without_shards": report.missing,
        "newer": [base.text for base in report.bases],
    }


def _print_nodes(console: Console, found: list[dict[str, Any]]) -> None:
    for each in found:
        console.print(
            Text(
                f"{each['account']}: {each['rows']} rows and {each['keys']} sealed keys are back; "
                f"{each['shards']} shards lie here",
                style="green",
            )
        )
        if each["shards_without_rows"]:
            console.print(
                Text(
                    f"  {each['shards_without_rows']} shards are newer than the backup: their keys "
                    "are not in it, and they can be read only if another node kept their rows",
                    style="yellow",
                )
            )
            for base in each["newer"]:
                console.print(Text(f"    {base}"))
        if each["rows_without_shards"]:
            console.print(
                Text(
                    f"  {each['rows_without_shards']} shards of the backup are not on this disk: "
                    "they were erased, moved or lost since, and are rebuilt where they are missed"
                )
            )
    console.print(Text("next    start the nodes, wait until none restores (`hcefs status`), then"))
    console.print(Text("        hcefs verify --all"))


# --- the ledger --------------------------------------------------------------------


def _restore_ledger(
    layout: ClusterFolder,
    file: Path,
    keys: AccountKeys,
    force: str,
    prepare: Path | None,
    *,
    as_json: bool,
) -> None:
    from hcefs.cli import ledger_recover
    from hcefs.cli.restore_ledger import propose_from_backup

    if Processes(layout).alive(LEDGER):
        raise Conflict("the ledger runs here: a ledger that runs is not lost", reason="ledger-runs")
    runtime = SystemRuntime()
    try:
        with layout.locked():
            found = run(propose_from_backup(layout, file, keys, runtime, forced=bool(force)))
            ledger_recover.show_proposal(found)
            signed = ledger_recover.signed_here(layout, found, prepare)
            if prepare is not None:
                show({"statement": str(prepare)}, as_json=as_json, human=lambda _: None)
                return
            config, told = run(ledger_recover.install_signed(layout, [], signed, runtime))
    finally:
        runtime.close()
    change = signed.change

    def human(console: Console) -> None:
        words = f"the ledger is back: term {change.term} begins after block {change.height}"
        console.print(Text(words, style="green"))
        console.print(Text(f"start it: hcefs up, or hcefs ledger start --config {config}"))
        console.print(
            Text("the old ledger must never run again: keep its disk and key off the network"),
            style="yellow",
        )

    facts = {"term": change.term, "height": change.height, "config": str(config), "nodes": told}
    show(facts, as_json=as_json, human=human)
