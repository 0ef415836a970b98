"""A fresh node begins with the ledger's snapshot, over real ports, and serves."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from functools import partial

import pytest

from hcefs.access.facts import Action
from hcefs.client.snapshots import GrpcSnapshotSource
from hcefs.errors import HcefsError
from hcefs.ledger.snapshot_join import join
from hcefs.ledger.snapshot_maker import LOOK_SECONDS
from hcefs.node.ledger_join import NodeWitnesses
from hcefs.transport.dial import TlsDialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS
from tests.services.rig import Rig, Running

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


def _made_at(rig: Rig, height: int) -> bool:
    made = rig.ledger.log.snapshots.made
    return made is not None and made.height >= height


def _witnessed(rig: Rig, height: int) -> bool:
    return all(node.process.follower.view.snapshots.height == height for node in rig.nodes[:6])


async def _all_have(rig: Rig, height: int) -> bool:
    """Whether all nodes make a snapshot of this height, and it stays the newest."""
    if rig.ledger.log.height - height >= rig.snapshots.every // 2 + rig.snapshots.delay:
        return False  # the next one is too near
    with contextlib.suppress(TimeoutError):
        # They look once a second; what a node has passed over it does not make any more.
        async with asyncio.timeout(2 * LOOK_SECONDS):
            await rig.until(partial(_witnessed, rig, height))
    return _witnessed(rig, height)


def _no_anchors(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in time, nor because a test before asked for proofs."""
    monkeypatch.setattr(node.process.node.anchorer, "_interval", math.inf)
    monkeypatch.setattr(node.process.node.anchorer, "_hastened", False)


async def test_a_fresh_node_joins_through_a_snapshot_and_follows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Anchors of receipts are blocks, too, and would bring the next snapshot at any moment.
    for each in (*rig.nodes, rig.stranger):
        _no_anchors(each, monkeypatch)
    log = rig.ledger.log
    # Blocks are made of transactions: enough of them for a snapshot, and for its name.
    for _ in range(4 * rig.snapshots.every):
        await rig.give(rig.doctor, Action.READ)
        if log.height % rig.snapshots.every == 0:
            await rig.until(partial(_made_at, rig, log.height))
        offer = log.offer()
        # An anchor that was on its way can bring the next one before all have made this one.
        if offer is not None and await _all_have(rig, offer.manifest.height):
            break
    else:
        raise AssertionError("no snapshot was made by all nodes")
    # The new node asks the others, of whom one lies: the rest are more.
    liar = rig.nodes[1].process.follower.view
    kept = liar.snapshots.made
    assert kept is not None
    liar.snapshots._made = replace(kept, parts=(bytes(32),))
    try:
        await rig._start_node(8)
    finally:
        liar.snapshots._made = kept
    node = rig.nodes.pop()
    _no_anchors(node, monkeypatch)
    try:
        replica = node.process.follower.view
        assert replica.base_height >= offer.manifest.height
        await rig.until(lambda: replica.height >= log.height and replica.height > 0)
        await rig.until(lambda: node.process.follower.status == "following")
        node.process.follower.require_fresh()
        assert replica.app_hash == log.app_hash
        leaves = log.leaves(rig.record, 0, 1)
        assert replica.leaves(rig.record, 0, 1) == leaves
        assert replica.leaf_index(rig.record, leaves[0].commitment) == 0
        # It follows on, block for block.
        await rig.give(rig.doctor, Action.READ)
        await rig.until(lambda: replica.height >= log.height)
        assert replica.app_hash == log.app_hash
        await _most_of_them_lie(rig, node)
    finally:
        await node.process.stop()


async def _most_of_them_lie(rig: Rig, node: Running) -> None:
    """The same join into another folder, when most nodes name another root."""
    views = [each.process.follower.view for each in rig.nodes[:6]]
    await rig.until(lambda: all(view.height == rig.ledger.log.height for view in views))
    truth = [view.snapshots.made for view in views]
    dialer = TlsDialer(rig.runtime, node.identity)
    channel = dialer.to_server(rig.ledger_peer_address, CHANNEL_OPTIONS)
    source = GrpcSnapshotSource(rig.runtime, channel, rig.snapshots)
    path = rig.folder / "disputed"
    genesis = rig.ledger.log.genesis
    try:
        for view, kept in zip(views[:4], truth, strict=False):
            assert kept is not None
            view.snapshots._made = replace(kept, parts=(bytes(32),))
        with pytest.raises(HcefsError) as caught:
            await join(path, genesis, source, rig.runtime, NodeWitnesses(rig.runtime, dialer))
        assert caught.value.reason == "snapshot-disputed"
        assert not path.exists()
    finally:
        for view, kept in zip(views, truth, strict=True):
            view.snapshots._made = kept
        await source.close()


async def test_snapshots_are_for_nodes(rig: Rig) -> None:
    stranger = TlsDialer(rig.runtime, rig.issue("nobody"))
    addresses = [rig.ledger_peer_address, rig.nodes[0].config.peer_address]
    for address in addresses:
        await _is_refused(rig, address, stranger)


async def _is_refused(rig: Rig, address: str, stranger: TlsDialer) -> None:
    channel = stranger.to_server(address, CHANNEL_OPTIONS)
    source = GrpcSnapshotSource(rig.runtime, channel, rig.snapshots)
    try:
        with pytest.raises(Exception, match="TLS key") as caught:
            await source.offer()
        assert getattr(caught.value, "reason", "") == "unknown-node"
    finally:
        await source.close()
