"""Operators at work on a live cluster: new nodes, plans, and an inventory of the disks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hcefs.cli.bringup import OPERATORS, THRESHOLD
from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.cli.new_node import PORTS_PER_PROCESS, Ports, make_node, map_node, register_node
from hcefs.cli.ports import HOST, reserved_ports
from hcefs.client.ledger import LedgerClient
from hcefs.config import UpkeepConfig, load_ledger_config, load_node_config, render_node_config
from hcefs.formats.shard import HEADER_SIZE, ShardHeader
from hcefs.ids import BlobBase
from hcefs.ledger.transactions import SetClusterMap, sign_transaction
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.planner import Plan, plan
from hcefs.placement.ring import seats
from hcefs.placement.waves import apply_plan, is_planned
from tests.cluster.live import LiveCluster, until
from tests.cluster.offline import Disclosed, ShardFile, check_disks

GRACE_SECONDS = 1.0
PLAN_SECONDS = 180.0


def short_grace(cluster: LiveCluster, number: int, grace_s: float) -> None:
    """Let a node delete what has moved soon; takes effect when it starts."""
    path = cluster.folder.config_of(node_name(number))
    config = load_node_config(path)
    upkeep = UpkeepConfig(rate_min_mib=64.0, rate_max_mib=512.0, grace_s=grace_s)
    text = render_node_config(replace(config, upkeep=upkeep), relative_to=path.parent)
    path.write_text(text, encoding="utf-8")


async def new_node(cluster: LiveCluster, number: int, operator: LedgerClient) -> Node:
    """Files, account and process of another node; as the map would name it."""
    layout, runtime = cluster.folder, cluster.runtime
    ledger = load_ledger_config(layout.config_of(LEDGER)).peer_address
    with reserved_ports(PORTS_PER_PROCESS, runtime.random) as ports:
        addresses = [f"{HOST}:{port}" for port in ports]
        make_node(layout, number, Ports(*addresses), cluster.connection.cluster, ledger, runtime)
        short_grace(cluster, number, GRACE_SECONDS)
        others = [layout.load_keys(name) for name in OPERATORS[1:THRESHOLD]]
        await register_node(layout, number, operator, others)
    cluster.processes.start_node(number)
    return replace(map_node(layout, number), state=NodeState.JOINING)


@dataclass
class Operators:
    """The operator threshold, with what it needs to plan."""

    cluster: LiveCluster
    client: LedgerClient
    planned: int = 0

    async def current(self) -> ClusterMap:
        """The map in force now."""
        self.client._maps.forget("")
        return await self.client.cluster_map()

    async def apply(self, change: Callable[[ClusterMap], Sequence[Node]]) -> Plan:
        """Plan a change from the map in force, and apply it."""
        current = await self.current()
        made = await asyncio.to_thread(plan, current, change(current))
        done = (await self.client.map_progress()).names
        successor = apply_plan(made, current, done)
        keys = [self.cluster.folder.load_keys(name) for name in OPERATORS[:THRESHOLD]]
        signed = sign_transaction(
            SetClusterMap(current.epoch, successor.encode()),
            self.client.connection.cluster,
            [(each.account, each.key_version, each.signing_key) for each in keys],
        )
        await self.client.submit(signed)
        self.planned += made.moves
        return made

    async def carried_out(self) -> ClusterMap:
        """Wait until no plan is in progress; the map then."""

        async def done() -> ClusterMap | None:
            found = await self.current()
            return None if is_planned(found) else found

        found = await until(done, "the plan is carried out", PLAN_SECONDS)
        assert found is not None
        return found

    async def made_whole(self) -> None:
        """Have every node repair at once what puts in mid-change left short, and wait for it."""
        addresses = [n.address for n in (await self.current()).nodes if n.state is NodeState.UP]
        for address in addresses:
            await self.client.repair_now(address)

        async def done() -> bool:
            said = [await self.client.repair_status(address) for address in addresses]
            return all(s.whole_ms and s.whole_ms == s.last.ended_ms and not s.backlog for s in said)

        await until(done, "every shard is where it belongs", PLAN_SECONDS)


def inventory(
    disclosed: Disclosed, current: ClusterMap, folders: dict[int, Path]
) -> tuple[list[str], dict[BlobBase, dict[int, ShardFile]]]:
    """Every shard on every disk, checked against manifest and ledger; and what a seat lacks.

    ``folders`` are the data folders of the nodes, by node id.
    """
    found = check_disks(disclosed)
    lacks = []
    for base, shards in sorted(found.items()):
        profile = next(iter(shards.values())).header.profile
        for seat in seats(current, profile, bytes(base)):
            path = folders[seat.node.node_id] / "shards"
            if not list(path.glob(f"??/{base.hex()}.{seat.index}")):
                lacks.append(f"{base} index {seat.index} is not on node {seat.node.node_id}")
    return lacks, found


def superfluous(current: ClusterMap, folders: dict[int, Path]) -> list[Path]:
    """Shard files on nodes that have no seat for them."""
    found = []
    for node_id, folder in folders.items():
        for path in folder.glob("shards/??/*"):
            try:
                with path.open("rb") as file:
                    header = ShardHeader.decode(file.read(HEADER_SIZE))
            except FileNotFoundError:
                continue  # deleted at this moment
            row = seats(current, header.profile, bytes(header.base))
            if not any(s.index == header.index and s.node.node_id == node_id for s in row):
                found.append(path)
    return found
