"""``audit``: who touched a record, on all nodes, with proofs; and the check of such proofs.

``list`` and ``prove`` are for the record's owner.  ``verify`` needs a file and nothing else:
no account, no key, no network.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import DEFAULT_FOLDER, AsOption, FolderOption, JsonOption, folder
from hcefs.cli.output import (
    print_fields,
    print_table,
    show,
    size_text,
    time_text,
    verb,
)
from hcefs.cli.session import Names, client_of, run
from hcefs.client.audit import read_audit
from hcefs.client.audit_export import ExportedAudit, export_audit
from hcefs.durable_files import write_private
from hcefs.errors import Corrupt
from hcefs.evidence.receipt import Receipt, ReceiptKind
from hcefs.ids import AccountId, ClusterId, RecordId, RequestId
from hcefs.ledger.audit_file import Audit, AuditFile, Touch, check_audit

app = typer.Typer(help="Who touched a record, and the proof of it.", no_args_is_help=True)

RecordArgument = Annotated[str, typer.Argument(metavar="RECORD", help="Id (rec-...).")]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A file of `hcefs audit prove`.")
]
ClusterOption = Annotated[
    str,
    typer.Option("--cluster", help="The cluster's id (clu-...), if no folder of it is at hand."),
]


@app.command("list")
@verb
def list_(
    record: RecordArgument,
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Show who touched a record, by what every node knows; for its owner."""
    layout = folder(directory)
    file, audit = run(_ask(layout, account, RecordId.parse(record)))
    _show(file, audit, Names(layout), as_json)


@app.command("prove")
@verb
def prove(
    record: RecordArgument,
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the proof.")],
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Write who touched a record into a file that anyone can check, offline and without keys."""
    layout = folder(directory)
    file, audit = run(_ask(layout, account, RecordId.parse(record)))
    write_private(output, file.encode())

    def human(console: Console) -> None:
        console.print(Text(f"{output}: {len(audit.touches)} receipts of {len(file.nodes)} nodes"))
        _print_verdict(console, audit)

    show({"file": str(output), **_as_data(file, audit)}, as_json=as_json, human=human)


@app.command("export")
@verb
def export(
    record: RecordArgument,
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the events.")],
    account: AsOption,
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Write who touched a record as a FHIR R4 Bundle of AuditEvents (IHE BALP patterns)."""
    layout = folder(directory)
    found = run(_export(layout, account, RecordId.parse(record)))
    text = json.dumps(found.bundle, indent=1, sort_keys=True) + "\n"
    write_private(output, text.encode())
    entries = len(found.bundle["entry"])

    def human(console: Console) -> None:
        console.print(Text(f"{output}: {entries} AuditEvents"))
        if found.without_event:
            text = f"{found.without_event} receipts of ends and upkeep are no events of their own"
            console.print(Text(text))
        _print_verdict(console, found.audit)

    data = {"file": str(output), "events": entries, "complete": found.audit.is_complete}
    show(data, as_json=as_json, human=human)


async def _export(layout: ClusterFolder, account: str, record: RecordId) -> ExportedAudit:
    async with client_of(layout, account) as client:
        return await export_audit(client, record)


@app.command("verify")
@verb
def verify(
    path: FileArgument,
    cluster: ClusterOption = "",
    directory: FolderOption = Path(DEFAULT_FOLDER),
    as_json: JsonOption = False,
) -> None:
    """Check a file of `audit prove`: needs no account, no key and no network."""
    file = read_audit(path.read_bytes())
    layout = ClusterFolder(directory)
    known = _known_cluster(layout, cluster)
    if known is not None and file.genesis.cluster != known:
        raise Corrupt(
            f"the file is of {file.genesis.cluster}, not of {known}: it proves nothing here",
            reason="wrong-cluster",
        )
    audit = check_audit(file)
    if known is None and not as_json:
        note = f"compare the cluster id yourself: {file.genesis.cluster}"
        _show(file, audit, None, as_json, note)
        return
    _show(file, audit, Names(layout) if known is not None else None, as_json)


def _known_cluster(layout: ClusterFolder, named: str) -> ClusterId | None:
    """The cluster that the file must be of, when somebody said which."""
    if named:
        return ClusterId.parse(named)
    if layout.exists():
        return layout.load_connection().cluster
    return None


async def _ask(layout: ClusterFolder, account: str, record: RecordId) -> tuple[AuditFile, Audit]:
    async with client_of(layout, account) as client:
        return await client.audit(record)


# --- what people see ------------------------------------------------------------


@dataclass
class Visit:
    """All receipts of one request: what the client asked, and what the nodes did about it."""

    touches: list[Touch]

    @property
    def first(self) -> Receipt:
        """The access receipt; where it is missing, the first release."""
        return self._of(ReceiptKind.ACCESS) or self.touches[0].receipt

    def _of(self, kind: ReceiptKind) -> Receipt | None:
        return next((t.receipt for t in self.touches if t.receipt.receipt_kind is kind), None)

    @property
    def has_access(self) -> bool:
        """Whether the node that was called says so itself."""
        return self._of(ReceiptKind.ACCESS) is not None

    @property
    def holders(self) -> int:
        """How many other nodes released something."""
        nodes = {
            t.receipt.node for t in self.touches if t.receipt.receipt_kind is ReceiptKind.RELEASE
        }
        return len(nodes)

    @property
    def closing(self) -> Receipt | None:
        """How its stream ended, if that is known."""
        return self._of(ReceiptKind.CLOSING)

    @property
    def proof(self) -> str:
        """How much of it the ledger has."""
        proved = sum(touch.is_proved for touch in self.touches)
        if proved == len(self.touches):
            return "proved"
        return "partly" if proved else "not yet"


def visits(touches: Sequence[Touch]) -> list[Visit]:
    """Receipts by their request and method, in the order of the first of each."""
    found: dict[tuple[RequestId, str], list[Touch]] = defaultdict(list)
    for touch in touches:
        found[touch.receipt.request, touch.receipt.method].append(touch)
    return [Visit(each) for each in found.values()]


def _show(
    file: AuditFile, audit: Audit, names: Names | None, as_json: bool, note: str = ""
) -> None:
    numbers = {node.node: node.node_id for node in file.nodes}

    def human(console: Console) -> None:
        rows = [_row(visit, names, numbers) for visit in visits(audit.touches)]
        columns = ("WHEN", "WHO", "WHY", "WHAT", "DECISION", "SERVED", "AT", "HOLDERS", "PROOF")
        print_table(console, columns, rows, right=("SERVED", "HOLDERS"), empty="nobody touched it")
        console.print()
        facts = [
            ("record", audit.record),
            ("cluster", file.genesis.cluster),
            ("made", time_text(audit.made_ms)),
        ]
        print_fields(console, facts)
        _print_verdict(console, audit)
        if note:
            console.print(Text(note))

    show(_as_data(file, audit), as_json=as_json, human=human)


def _row(visit: Visit, names: Names | None, numbers: dict[AccountId, int]) -> list[object]:
    receipt, closing = visit.first, visit.closing
    who = names.of(receipt.presenter) if names is not None else receipt.presenter.text
    decision = Text("permitted", style="green")
    if not receipt.permitted:
        decision = Text(f"denied: {receipt.reason}", style="red")
    elif closing is not None and closing.reason != "ok":
        decision = Text(f"permitted, ended: {closing.reason}", style="yellow")
    at = f"node {numbers.get(receipt.node, '?')}" if visit.has_access else "access missing"
    proof = visit.proof
    return [
        time_text(receipt.time_ms),
        who,
        receipt.purpose or "-",
        _what(receipt),
        decision,
        size_text(closing.size) if closing is not None else "-",
        at,
        visit.holders,
        Text(proof, style="green" if proof == "proved" else "yellow"),
    ]


def _what(receipt: Receipt) -> str:
    if not receipt.blobs:
        return f"{receipt.method} record"
    what = f"{receipt.method} {receipt.blobs[0].hex()[:8]}"
    if len(receipt.blobs) > 1:
        what += f" and {len(receipt.blobs) - 1} more"
    if receipt.range_length or receipt.range_start:
        end = receipt.range_start + receipt.range_length if receipt.range_length else ""
        what += f" [{receipt.range_start}:{end}]"
    return what


def _print_verdict(console: Console, audit: Audit) -> None:
    proved = len(audit.touches) - audit.unproved
    console.print(Text(f"{proved} receipts are anchored on the ledger and proved"))
    if audit.unproved:
        text = f"{audit.unproved} receipts wait for their anchor: ask again in some seconds"
        console.print(Text(text, style="yellow"))
    for node in audit.silent:
        text = f"node {node.node_id} did not answer ({node.problem}): what it knows is missing here"
        console.print(Text(text, style="red"))
    for touch in audit.unexplained:
        text = (
            f"{touch.receipt.node} released to {touch.receipt.peer}, which has no receipt of "
            f"request {touch.receipt.request}: it hides an access, or has lost its disk"
        )
        console.print(Text(text, style="red"))
    if audit.is_complete:
        console.print(Text("every node answered, and nothing contradicts", style="green"))


# --- what programs see ------------------------------------------------------------


def _as_data(file: AuditFile, audit: Audit) -> dict[str, Any]:
    return {
        "cluster": file.genesis.cluster.text,
        "record": audit.record.text,
        "made_ms": audit.made_ms,
        "complete": audit.is_complete,
        "nodes": [
            {
                "node": node.node_id,
                "account": node.node.text,
                "answered": not node.problem,
                "problem": node.problem,
            }
            for node in file.nodes
        ],
        "receipts": [_receipt_data(touch) for touch in audit.touches],
        "unexplained": [touch.receipt.request.text for touch in audit.unexplained],
    }


def _receipt_data(touch: Touch) -> dict[str, Any]:
    receipt = touch.receipt
    return {
        "kind": receipt.receipt_kind.name.lower(),
        "node": receipt.node.text,
        "sequence": receipt.sequence,
        "time_ms": receipt.time_ms,
        "request": receipt.request.text,
        "presenter": receipt.presenter.text,
        "holder": receipt.holder.text,
        "grant": receipt.grant.text if receipt.grant else "",
        "purpose": receipt.purpose,
        "action": receipt.action,
        "method": receipt.method,
        "blobs": [blob.text for blob in receipt.blobs],
        "range": [receipt.range_start, receipt.range_length],
        "permitted": receipt.permitted,
        "reason": receipt.reason,
        "size": receipt.size,
        "peer": receipt.peer.text if receipt.peer else "",
        "ledger_height": receipt.height,
        "anchored_ms": touch.anchored_ms,
        "anchored_height": touch.height,
    }
