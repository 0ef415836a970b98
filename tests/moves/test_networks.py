"""Networks that fail in silence: half-open connections, and a node that the ledger cannot reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hcefs.errors import HcefsError
from tests.moves.moving import MovingRig
from tests.services.relay import Relay
from tests.services.requests import get
from tests.services.rig import Running

pytestmark = [pytest.mark.asyncio, pytest.mark.xdist_group("moves")]

PATIENCE_SECONDS = 15.0
"""What a client waits for at most while one node says nothing, on a machine of its own."""

SLOWER = 20
"""On a slow machine it waits longer, by so many times what it waits while all nodes answer."""

SIZES = [2_000, 3_000_000]
"""A pack, and a blob that streams."""


class RelayedRig(MovingRig):
    """Every node is reached through a relay, and reaches the ledger through another."""

    put_deadline_s = 5.0
    """Less than a client's patience: puts are to be acknowledged without the silent node."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.peers: dict[int, Relay] = {}
        self.ledgers: dict[int, Relay] = {}

    async def _start_node(self, number: int) -> None:
        direct = self.ledger_peer_address
        relay = self.ledgers[number] = Relay(direct)
        await relay.start()
        self.ledger_peer_address = relay.address
        try:
            await super()._start_node(number)
        finally:
            self.ledger_peer_address = direct
        relay = self.peers[number] = Relay(self.nodes[-1].config.peer_address)
        await relay.start()

    def reached_at(self, node: Running) -> str:
        return self.peers[node.number].address

    async def stop(self) -> None:
        await super().stop()
        for relay in (*self.peers.values(), *self.ledgers.values()):
            await relay.stop()


@pytest_asyncio.fixture
async def relayed(tmp_path: Path) -> AsyncIterator[RelayedRig]:
    made = RelayedRig(tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.mark.parametrize("silent", [True, False], ids=["half-open", "cut"])
async def test_a_node_behind_a_dead_connection_stops_nobody(
    relayed: RelayedRig, silent: bool
) -> None:
    began = relayed.runtime.monotonic()
    for size in SIZES:
        await relayed.fill(1, size)
    await relayed.read_all()  # every connection is made, and then one goes dead
    patience = PATIENCE_SECONDS + SLOWER * (relayed.runtime.monotonic() - began)
    relay = relayed.peers[4]
    if silent:
        relay.silence()
    else:
        relay.cut()
    async with asyncio.timeout(4 * patience):
        for size in SIZES:
            async with asyncio.timeout(patience):
                await relayed.fill(1, size)
        await relayed.read_all()
    relay.heal()
    for size in SIZES:
        await relayed.fill(1, size)
    await relayed.read_all()


async def test_a_node_that_the_ledger_cannot_reach_refuses_and_comes_back(
    relayed: RelayedRig,
) -> None:
    await relayed.fill(1, 3_000_000)
    relay, alone = relayed.ledgers[4], relayed.nodes[3]
    relay.silence()
    await relayed.patient.revoke(relayed.read_grant.grant)
    # The others passed on the head of the block with it: older facts than that serve nobody.
    await relayed.happens(lambda: not alone.process.able())
    view = alone.process.follower.view
    grant = view.grant(relayed.read_grant.grant)
    assert grant is not None
    assert not grant.revoked_height, "it knows nothing of the revocation, and must not act on that"
    await relayed.refused(get(relayed, alone), "unavailable", "stale-lease")
    relay.heal()
    await relayed.happens(alone.process.able)
    with pytest.raises(HcefsError) as denied:
        await get(relayed, alone)
    assert (denied.value.kind, denied.value.reason) == ("denied", "revoked")
