"""What is left to do when nodes have left the cluster: processes, folders, accounts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

from hcefs.cli.cluster_files import ClusterFolder, node_name
from hcefs.cli.operators import folder_number
from hcefs.cli.output import note
from hcefs.cli.place import load_place
from hcefs.cli.processes import Processes
from hcefs.client.layout import LayoutClient
from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.placement.cluster_map import ClusterMap, NodeState
from hcefs.placement.staging import Stage, Verb


@dataclass
class Gone:
    """What became of the nodes that have left."""

    stopped: list[str] = field(default_factory=list)
    ended: list[AccountId] = field(default_factory=list)
    to_end: list[AccountId] = field(default_factory=list)
    """Accounts that a person ends: their processes run elsewhere, and may still anchor receipts."""


async def tidy(
    layout: ClusterFolder,
    operators: LayoutClient,
    successor: ClusterMap,
    staged: Stage,
    *,
    quiet: bool,
) -> Gone:
    """Stop the processes of nodes that have left, set their folders aside, end their accounts,
    and name the others in the connection file."""
    gone = Gone()
    for change in staged.changes:
        node = successor.node(change.node_id)
        if change.verb is not Verb.REMOVE or node is None or node.state is not NodeState.REMOVED:
            continue
        number = folder_number(layout, node.account)
        if number is None:
            gone.to_end.append(node.account)
            continue
        name, is_here = node_name(number), load_place(layout.node(number)) is None
        note(f"stopping {name}", quiet=quiet)
        Processes(layout).stop([name])
        shutil.move(layout.node(number), layout.node(number).with_name(f"{number}.removed"))
        gone.stopped.append(name)
        if is_here and await _ended(operators, node.account, quiet=quiet):
            gone.ended.append(node.account)
        else:
            gone.to_end.append(node.account)
    # Where clients begin, and whom `hcefs ledger recover` asks: those that the map has now.
    connection = layout.load_connection()
    over = (NodeState.REMOVED, NodeState.OUT)
    left = [node.address for node in successor.nodes if node.state not in over]
    if set(left) != set(connection.nodes):
        layout.save_connection(connection.cluster, connection.ledger, left)
    return gone


async def _ended(operators: LayoutClient, account: AccountId, *, quiet: bool) -> bool:
    """End a node's account; the map is in force whatever comes of it."""
    try:
        await operators.end_account(account)
    except HcefsError as error:
        note(f"the account of the node could not be ended: {error.message}", quiet=quiet)
        return False
    return True
