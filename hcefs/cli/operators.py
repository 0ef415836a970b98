"""What the operators' verbs share: who signs, what is staged, which node is meant.

The stage is a file of the cluster's folder, replaced as a whole; it holds no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from hcefs.cli.bringup import THRESHOLD
from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.output import show
from hcefs.client.layout import LayoutClient
from hcefs.client.ledger import LedgerClient
from hcefs.durable_files import replace_file
from hcefs.errors import NotFound
from hcefs.ids import AccountId
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.staging import Change, Stage
from hcefs.runtime import SystemRuntime

STAGE_FILE = "staged-layout.json"
T = TypeVar("T")


@asynccontextmanager
async def operators_of(layout: ClusterFolder) -> AsyncIterator[LayoutClient]:
    """The operator threshold of a folder.

    Raises:
        NotFound, Invalid: their keys are not here.
    """
    keys = [layout.load_keys(name) for name in layout.operators(THRESHOLD)]
    runtime = SystemRuntime()
    try:
        async with LedgerClient(layout.load_connection(), keys[0], runtime) as client:
            yield LayoutClient(client, keys)
    finally:
        runtime.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a verb's work to its end."""
    return asyncio.run(work)


def load_stage(layout: ClusterFolder, current: ClusterMap) -> Stage:
    """What is staged; an empty stage on the map in force where nothing is.

    Raises:
        Invalid: ``bad-stage``.
    """
    try:
        text = (layout.root / STAGE_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return Stage.of(current)
    except UnicodeDecodeError:
        text = ""
    return Stage.decode(text)


def save_stage(layout: ClusterFolder, stage: Stage) -> None:
    """Keep a stage, whole or not at all."""
    replace_file(layout.root / STAGE_FILE, stage.encode().encode())


def forget_stage(layout: ClusterFolder) -> None:
    """Forget what is staged.  Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        (layout.root / STAGE_FILE).unlink()


async def stage(layout: ClusterFolder, operators: LayoutClient, change: Change) -> Stage:
    """Stage one change more, if all of them together can be meant.

    Changes that were staged on an older map are looked at anew on the one in force.

    Raises:
        HcefsError: what is wrong with it, and the cure; the stage stays as it was.
    """
    current = await operators.current()
    found = load_stage(layout, current).rebased(current).with_change(change)
    await operators.outlook(current, found.changes, weaker_caps=True)
    save_stage(layout, found)
    return found


def node_id_of(current: ClusterMap, text: str) -> int:
    """The node that somebody means: a number, a name such as node-3, or an account.

    Raises:
        NotFound: the map has none; it names those that it has.
    """
    wanted = text.removeprefix("node-")
    for node in current.nodes:
        if wanted == str(node.node_id) or text in (node.account.text, node.address):
            return node.node_id
    live = [str(n.node_id) for n in current.nodes if n.state is not NodeState.REMOVED]
    raise NotFound(
        f"the cluster map has no node {text[:80]!r}; it has {', '.join(live)}",
        reason="unknown-node",
    )


def folder_number(layout: ClusterFolder, account: AccountId) -> int | None:
    """The node of this folder that has an account, or None."""
    names = layout.known_names()
    name = names.get(account)
    for number in layout.node_numbers():
        if name == node_name(number):
            return number
    return None


def label(node: Node) -> str:
    """A node in a table: its number and where it stands."""
    rack = f"/{node.rack}" if node.rack else ""
    return f"{node.zone}{rack}/{node.host}"


def show_stage(staged: Stage, *, as_json: bool) -> None:
    """What is staged, and what comes next."""
    lines = [change.text() for change in staged.changes]

    def human(console: Console) -> None:
        for line in lines:
            console.print(Text(f"staged  {line}"))
        console.print(Text("nothing has moved; next: hcefs layout plan", style="dim"))

    show({"epoch": staged.epoch, "staged": lines}, as_json=as_json, human=human)
