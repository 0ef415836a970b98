"""The cluster map as operators change it: what a change would do, and doing it.

Facts come from the ledger (map, progress, policy, reports) and from the nodes (what they
hold, whether they answer); what follows from them is computed by :mod:`hcefs.placement`.
A change is one transaction by the operator threshold, compare-and-swap on the epoch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hcefs.client.ledger import LedgerClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Conflict, HcefsError, Unavailable
from hcefs.ids import AccountId
from hcefs.ledger.cluster_facts import MapProgress
from hcefs.ledger.transactions import (
    DeactivateAccount,
    SetClusterMap,
    Transaction,
    sign_transaction,
)
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.safety import HealthFacts, InventoryFacts
from hcefs.placement.staging import Change, Outlook, outlook
from hcefs.placement.waves import in_flight
from hcefs.wire.v1 import admin_pb2

STATUS_SECONDS = 5.0
PARTITIONS_A_CALL = 64
ASKED = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DOWN, NodeState.DRAINING})
"""States of nodes that may answer."""

Statuses = Mapping[int, admin_pb2.StatusResponse]


@dataclass(frozen=True)
class Estimate:
    """What a plan will take: bytes that move, and seconds at a pace for each node that gains."""

    moves: int
    bytes: int
    seconds: float


class LayoutClient:
    """Plans and applies changes as one of the operators, with the keys of the threshold."""

    def __init__(self, client: LedgerClient, operators: Sequence[AccountKeys]) -> None:
        self.client = client
        self._operators = operators

    async def current(self) -> ClusterMap:
        """The map in force now."""
        return await self.client.fresh_map()

    async def statuses(self, current: ClusterMap) -> dict[int, admin_pb2.StatusResponse]:
        """What each node says of itself; nodes that do not answer are left out."""
        nodes = [node for node in current.nodes if node.state in ASKED]
        answers = await asyncio.gather(*(self._status(node) for node in nodes))
        return {
            node.node_id: answer
            for node, answer in zip(nodes, answers, strict=True)
            if answer is not None
        }

    async def _status(self, node: Node) -> admin_pb2.StatusResponse | None:
        try:
            async with self.client.runtime.timeout(STATUS_SECONDS):
                return await self.client.status(node.address)
        except (HcefsError, TimeoutError):
            return None

    async def outlook(
        self, current: ClusterMap, staged: Sequence[Change], *, weaker_caps: bool = False
    ) -> Outlook:
        """What staged changes lead to, from the map in force and what has arrived.

        Raises:
            HcefsError: as :func:`hcefs.placement.staging.outlook`.
        """
        progress = await self.client.map_progress()
        done = progress.names if progress.epoch == current.epoch else frozenset()
        return await self.client.runtime.compute(
            lambda: outlook(current, staged, done, weaker_caps=weaker_caps)
        )

    async def apply(self, current: ClusterMap, successor: ClusterMap) -> None:
        """Put the next map in force.

        Raises:
            Conflict: ``epoch-moved``: another map came first; nothing was moved.
            HcefsError: why the ledger refuses it.
        """
        try:
            await self.submit(SetClusterMap(current.epoch, successor.encode()))
        except (Conflict, Unavailable):
            # The answer of an attempt that was committed may have been lost.
            history = await self.client.map_history(successor.epoch)
            if all(change.digest != successor.digest() for change in history[:1]):
                raise

    async def end_account(self, account: AccountId) -> None:
        """End the account of a node that has left.  A repeat does nothing."""
        try:
            await self.submit(DeactivateAccount(account))
        except Conflict as error:
            if error.reason != "already-inactive":
                raise

    async def submit(self, transaction: Transaction) -> None:
        """Have the ledger commit something that the operator threshold signs."""
        await self.client.submit(
            sign_transaction(
                transaction,
                self.client.connection.cluster,
                [(keys.account, keys.key_version, keys.signing_key) for keys in self._operators],
            )
        )

    # -- facts

    async def health(self, current: ClusterMap, statuses: Statuses) -> HealthFacts:
        """Who serves now; a node that does not answer was not heard of."""
        progress = await self.client.map_progress()
        healthy = {
            node_id: status.epoch == current.epoch and status.node_id == node_id
            for node_id, status in statuses.items()
        }
        # Who is known to be away is no node of which nothing was heard.
        healthy |= {node.node_id: False for node in current.nodes if node.state is NodeState.OUT}
        return HealthFacts(progress.epoch, healthy, progress.names)

    async def inventory(self, current: ClusterMap) -> InventoryFacts:
        """Which partitions all seats have whole, by what each node says it has."""
        nodes = [node for node in current.nodes if node.state in ASKED]
        found = await asyncio.gather(*(self._inventory(current, node) for node in nodes))
        said = {node.node_id: held for node, held in zip(nodes, found, strict=True)}
        complete = {
            table.profile: {
                partition
                for partition, row in enumerate(table.node_rows)
                if _is_complete(table.profile, partition, row, said)
            }
            for table in current.tables
        }
        copies = {
            node.node_id: held.elsewhere
            for node, held in zip(nodes, found, strict=True)
            if held is not None
        }
        return InventoryFacts(current.epoch, complete, copies)

    async def _inventory(self, current: ClusterMap, node: Node) -> _Held | None:
        held = _Held({}, 0)
        try:
            for table in current.tables:
                for first in range(0, table.partitions, PARTITIONS_A_CALL):
                    answer = await self.client.inventory(
                        node.address, table.profile, first, PARTITIONS_A_CALL
                    )
                    if answer.epoch != current.epoch:
                        return None
                    if not first:
                        held.elsewhere = answer.elsewhere
                    for each in answer.partitions:
                        held.partitions[table.profile, each.partition] = (
                            each.shards,
                            each.digest,
                        )
        except HcefsError:
            return None
        return held


@dataclass
class _Held:
    """What one node has: by profile and partition the number of shards and a digest."""

    partitions: dict[tuple[str, int], tuple[int, bytes]]
    elsewhere: int


def _is_complete(
    profile: str, partition: int, row: Sequence[int], said: Mapping[int, _Held | None]
) -> bool:
    """Whether all seats of a row have the same."""
    answers = set()
    for node_id in row:
        held = said.get(node_id)
        answers.add(held.partitions.get((profile, partition)) if held is not None else None)
    return len(answers) == 1 and None not in answers


def estimate(found: Outlook, statuses: Statuses, current: ClusterMap, rate: float) -> Estimate:
    """What a plan takes, by the bytes of an average seat; ``rate`` in bytes a second and node."""
    if found.plan is None:
        return Estimate(0, 0, 0.0)
    seats = sum(table.n * table.partitions for table in current.tables)
    held = sum(status.shard_bytes for status in statuses.values())
    rows = [row for table in current.tables for row in table.node_rows]
    seated = sum(node_id in statuses for row in rows for node_id in row)
    each = held / (seated or seats or 1)
    gains: Counter[int] = Counter()
    for table in found.plan.tables:
        for change in table.report.nodes:
            gains[change.node_id] += max(0, change.after - change.before)
    most = max(gains.values(), default=0)
    return Estimate(found.plan.moves, int(found.plan.moves * each), most * each / rate)


def left_of(current: ClusterMap, progress: MapProgress) -> dict[int, int]:
    """Seats in flight that have not arrived, by the node that they go to."""
    found: dict[int, int] = {}
    if progress.epoch != current.epoch:
        return found
    rows = {table.profile: table.node_rows for table in current.tables}
    for name in in_flight(current):
        if name not in progress.names:
            node_id = rows[name.profile][name.partition][name.seat]
            found[node_id] = found.get(node_id, 0) + 1
    return found
