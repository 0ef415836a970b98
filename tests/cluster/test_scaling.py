"""A cluster grows and shrinks under load: no failed read, nothing lost, moves as planned."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from hcefs.cli.cluster_files import LEDGER, node_name
from hcefs.erasure.scheme import profile_named
from hcefs.formats.shard import file_length
from hcefs.placement import changes
from hcefs.placement.cluster_map import NodeState
from tests.cluster.conftest import MakeCluster, OpenClient
from tests.cluster.live import until
from tests.cluster.load import clients_of
from tests.cluster.offline import Disclosed
from tests.cluster.scaling import (
    GRACE_SECONDS,
    Operators,
    inventory,
    new_node,
    short_grace,
    superfluous,
)

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

SEED = 20261125
DISK_USE_MAX = 1.02


async def test_a_cluster_changes_under_load(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    """6 -> 9 nodes, drain one, lose one for good, replace one, double a weight."""
    cluster = await fresh_cluster(lease_ms=3_000)
    for number in range(1, 7):
        short_grace(cluster, number, GRACE_SECONDS)
    cluster.kill(*(node_name(number) for number in range(1, 7)))
    await cluster.make_whole()
    operators = Operators(cluster, await open_client(cluster, "operator-1"))
    clients = clients_of(
        cluster, await open_client(cluster, "hospital"), await open_client(cluster, "doctor"), SEED
    )
    first = await operators.current()
    await clients.put_some(8)
    async with clients.running() as load:
        # 6 -> 9
        added = [await new_node(cluster, number, operators.client) for number in (7, 8, 9)]
        await operators.apply(lambda m: changes.add(m, added))
        grown = await operators.carried_out()
        assert sum(node.state is NodeState.UP for node in grown.nodes) == 9
        # drain, and take away
        await operators.apply(lambda m: changes.drain(m, 2))
        drained = await operators.carried_out()
        assert changes.seats_of(drained, 2) == 0
        await operators.apply(lambda m: changes.remove(m, 2))
        cluster.kill(node_name(2))
        # lose one for good
        cluster.kill(node_name(4))
        await operators.apply(lambda m: changes.mark_out(m, [4]))
        await operators.carried_out()
        # replace one
        other = await new_node(cluster, 10, operators.client)
        await operators.apply(lambda m: changes.replace_node(m, 1, other))
        replaced = await operators.carried_out()
        assert changes.seats_of(replaced, 1) == 0
        # double a weight
        await operators.apply(lambda m: changes.reweight(m, 7, 200))
        await operators.carried_out()
    print(f"seed {SEED}: {load}")
    assert load.failures == []
    final = await operators.current()
    history = await operators.client.map_history(first.epoch + 1)
    assert sum(change.moving for change in history) == operators.planned
    await clients.read_all()
    assert load.failures == []
    folders = {number: cluster.data(number) for number in (1, 3, 5, 6, 7, 8, 9, 10)}

    async def tidied() -> bool:
        return not await asyncio.to_thread(superfluous, final, folders)

    await until(tidied, "what has moved is deleted where it was")
    await operators.made_whole()  # puts that were acknowledged as degraded
    cluster.kill(*cluster.alive())
    disclosed = Disclosed.copy_of(cluster.folder, tmp_path / "copy", sorted(folders))
    lacks, found = inventory(disclosed, final, folders)
    assert lacks == []
    assert load.bases() <= set(found)
    ideal = 0
    for shards in found.values():
        some = next(iter(shards.values()))
        header, footer = some.header, some.footer
        ideal += profile_named(header.profile).n * file_length(
            header.geometry(footer.plaintext_length)
        )
    used = sum(
        path.stat().st_size for folder in folders.values() for path in folder.glob("shards/??/*")
    )
    print(f"disk use {used / ideal:.4f} of the ideal")
    assert used <= DISK_USE_MAX * ideal


async def test_moves_survive_kills(
    fresh_cluster: MakeCluster, open_client: OpenClient, tmp_path: Path
) -> None:
    """kill -9 of sources, destinations and the ledger in the middle of waves; all of it resumes."""
    cluster = await fresh_cluster(lease_ms=3_000)
    operators = Operators(cluster, await open_client(cluster, "operator-1"))
    clients = clients_of(
        cluster, await open_client(cluster, "hospital"), await open_client(cluster, "doctor"), SEED
    )
    await clients.put_some(40)
    added = await new_node(cluster, 7, operators.client)
    chance = random.Random(SEED)  # noqa: S311 - a test's choices, not a secret
    await operators.apply(lambda m: changes.add(m, [added]))
    epoch = (await operators.current()).epoch
    killed = []
    for round_ in range(8):
        progress = await operators.client.map_progress()
        if progress.epoch != epoch:
            break
        names = {node_name(7)} if round_ % 3 == 0 else {LEDGER} if round_ % 3 == 1 else set()
        names |= {node_name(chance.randint(1, 6))}
        cluster.kill(*names)
        killed += sorted(names)
        await cluster.start(*names)
    print(f"seed {SEED}: killed {', '.join(killed)}")
    assert killed
    final = await operators.carried_out()
    await clients.read_all()
    assert clients.load.failures == []
    folders = {number: cluster.data(number) for number in range(1, 8)}
    cluster.kill(*cluster.alive())
    disclosed = Disclosed.copy_of(cluster.folder, tmp_path / "copy")
    lacks, found = inventory(disclosed, final, folders)
    assert lacks == []
    assert clients.load.bases() <= set(found)
