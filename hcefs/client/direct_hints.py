"""What a direct client tells holders about shards that were missing or damaged there.

In gateway mode the node that reads tells (:mod:`hcefs.upkeep.hints`); in direct mode nobody
but the client has seen it.  The holder looks for itself, so a hint is worth that look and
nothing else; the right to it is the right by which the client reads or writes the blob.

Invariants: nothing waits for a hint; no more are on their way than ``RUNNING_MAX``, and of
one shard one in ``AGAIN_SECONDS``.  Not guaranteed: delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from hcefs.errors import HcefsError
from hcefs.ids import BlobBase
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime, end_tasks
from hcefs.stripes.suspects import Suspect
from hcefs.transport.grpc_peers import GrpcPeer
from hcefs.transport.peers import Call

RUNNING_MAX = 16
TELL_SECONDS = 5.0
AGAIN_SECONDS = 30.0
TOLD_MAX = 4096

log = logging.getLogger(__name__)

_Told = tuple[Node, BlobBase, int, str]


class DirectHints:
    """Tells for one client.  For one event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._told: dict[_Told, float] = {}
        self._running: set[asyncio.Task[None]] = set()

    def of(self, call: Call, peer: Callable[[Node], GrpcPeer]) -> Suspect:
        """What a read or a put by some right is to tell; ``peer`` signs for each holder."""

        def suspect(node: Node, base: BlobBase, index: int, profile: str) -> None:
            if self._may_tell((node, base, index, profile)):
                telling = self._tell(peer(node), replace(call, profile=profile), index)
                task = self._runtime.spawn(telling, name="hint")
                self._running.add(task)
                task.add_done_callback(self._running.discard)

        return suspect

    def _may_tell(self, shard: _Told) -> bool:
        now = self._runtime.monotonic()
        # In the order in which they were told.
        while self._told and next(iter(self._told.values())) < now - AGAIN_SECONDS:
            del self._told[next(iter(self._told))]
        if shard in self._told or len(self._told) >= TOLD_MAX:
            return False
        if len(self._running) >= RUNNING_MAX:
            return False
        self._told[shard] = now
        return True

    async def _tell(self, peer: GrpcPeer, call: Call, index: int) -> None:
        with contextlib.suppress(TimeoutError):
            try:
                async with self._runtime.timeout(TELL_SECONDS):
                    await peer.hint(call, index)
            except HcefsError as error:
                log.debug("a holder takes no hint: %s (%s)", error.kind, error.reason)

    async def close(self) -> None:
        """Give up what is on its way."""
        running, self._running = self._running, set()
        await end_tasks(*running)
