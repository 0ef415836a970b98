"""Starting and stopping a node's process."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable

import pytest

from hcefs.errors import Unavailable
from hcefs.node.storage_process import StorageProcess
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


async def test_start_that_fails_is_undone(rig: Rig) -> None:
    """The metrics port is taken: the node says so, and gives its stores back."""
    node = rig.stranger
    await node.process.stop()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = StorageProcess(
            dataclasses.replace(node.config, metrics_address=address), node.runtime, rig.snapshots
        )
        with pytest.raises(Unavailable) as caught:
            await process.start()
        assert caught.value.reason == "address-in-use"
        await process.stop()
    node.process = StorageProcess(node.config, node.runtime, rig.snapshots)
    await node.process.start()
    await rig.until(lambda: node.process.follower.view.height >= rig.operators[0].height)


async def test_two_processes_on_one_disk(rig: Rig) -> None:
    with pytest.raises(Unavailable) as caught:
        StorageProcess(rig.nodes[0].config, rig.nodes[0].runtime, rig.snapshots)
    assert caught.value.reason == "store-locked"


async def test_restarted_node_has_what_it_had(rig: Rig) -> None:
    node, blob = rig.nodes[5], rig.receipt.ref.blob
    before = rig.kept(node, blob)
    assert before
    async with rig.restarted(node):
        assert rig.kept(node, blob) == before
        stream = await rig.doctor.get(
            rig.record, blob, grant=rig.read_grant.grant, node=node.config.client_address
        )
        assert await stream.read() == rig.payload


@pytest.mark.parametrize("shown", [str, bytes.hex, lambda secret: secret.decode("latin-1")])
async def test_the_watch_itself(rig: Rig, shown: Callable[[bytes], str]) -> None:
    """What every test here relies on: a part of a secret in a text is noticed."""
    keys = rig.keys_of(rig.doctor)
    with pytest.raises(AssertionError, match="a secret is shown"):
        rig.secrets.check(f"the key is {shown(keys.token_seed[:20])}")
    rig.secrets.check(f"the account is {keys.account}, of {rig.record}")
