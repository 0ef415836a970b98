"""A new node's way to the ledger's snapshot, over gRPC with mutual TLS, before it follows.

Invariants: whatever goes wrong here, the node starts all the same and replays from the
first block, because a snapshot only saves time; and the other nodes that the snapshot
itself names are asked for their roots before it is put in place.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from hcefs.client.snapshots import GrpcSnapshotSource
from hcefs.errors import HcefsError
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.snapshot import SNAPSHOT_RULE, SnapshotRule
from hcefs.ledger.snapshot_join import Witness, join
from hcefs.runtime import Runtime
from hcefs.transport.dial import Dialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS

log = logging.getLogger(__name__)


class NodeWitnesses:
    """Asks nodes, each known by its TLS key, which root they made."""

    def __init__(self, runtime: Runtime, dialer: Dialer) -> None:
        self._runtime = runtime
        self._dialer = dialer

    async def roots(self, height: int, witnesses: list[Witness]) -> list[bytes]:
        """See :class:`hcefs.ledger.snapshot_join.Witnesses`."""

        async def ask(witness: Witness) -> bytes:
            try:
                channel = await self._dialer.to_node(witness.address, witness.spki, CHANNEL_OPTIONS)
                source = GrpcSnapshotSource(self._runtime, channel)
                try:
                    made, root = await source.made()
                finally:
                    await source.close()
            except HcefsError as error:
                log.debug("%s says nothing of its snapshot: %s", witness.address, error.message)
                return b""
            return root if made == height else b""

        found = await asyncio.gather(*(ask(witness) for witness in witnesses))
        return [root for root in found if root]


async def join_by_snapshot(
    runtime: Runtime,
    path: Path,
    genesis: Genesis,
    address: str,
    dialer: Dialer,
    own_spki: bytes,
    rule: SnapshotRule = SNAPSHOT_RULE,
) -> int:
    """Begin the log at ``path`` with the ledger's snapshot, if there is neither; its height."""
    channel = dialer.to_server(address, CHANNEL_OPTIONS)
    source = GrpcSnapshotSource(runtime, channel, rule)
    try:
        height = await join(
            path, genesis, source, runtime, NodeWitnesses(runtime, dialer), own_spki
        )
    except HcefsError as error:
        log.warning("this node replays the ledger from its first block: %s", error.message)
        return 0
    finally:
        await source.close()
    if height:
        log.info("this node's replica of the ledger begins with the snapshot of block %d", height)
    return height
