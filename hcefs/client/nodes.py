"""Which node to call, and what to do when one fails.

A call that may be repeated goes to up to ``ATTEMPTS`` nodes, each time with a
fresh proof that names that node.  Preferred are: nodes that have not just failed;
nodes that the connection file names; nodes that are up; nodes that hold a seat of
the blob or record concerned (they answer without a hop); among equals, chance
decides, so that clients spread over the cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from hcefs.client.authorize import Right, Scope
from hcefs.client.channels import Recent
from hcefs.client.connection import Connection
from hcefs.client.ledger import LedgerClient
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Denied, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.pack import TINY_PROFILE
from hcefs.ids import AccountId, RequestId
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.ring import seats
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.retry import retrying
from hcefs.wire.v1 import blob_pb2

ATTEMPTS = 4
NODE_SECONDS = 15.0
FAILED_SECONDS = 10.0
"""How long a node that failed is asked only when no other is left."""

NODES_KNOWN_MAX = 4096
SERVING = (NodeState.UP, NodeState.DRAINING, NodeState.JOINING, NodeState.DOWN)
"""States of nodes that answer, the likeliest first."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def seated_for(cluster_map: ClusterMap, base: bytes, packed: bool) -> dict[AccountId, int]:
    """Under how many profiles each node holds a seat of a base (or a record).

    A packed blob lies under the default profile or, in a tiny pack, under that of
    copies: its id does not tell which.
    """
    found: dict[AccountId, int] = {}
    profiles = (
        {cluster_map.default_profile, TINY_PROFILE} if packed else {cluster_map.default_profile}
    )
    for profile in profiles:
        try:
            row = seats(cluster_map, profile, bytes(base))
        except NotFound:
            continue
        for seat in row:
            found[seat.node.account] = found.get(seat.node.account, 0) + 1
    return found


def _serving(cluster_map: ClusterMap, name: str) -> Node | None:
    """The serving node of that address, account or number."""
    for known in cluster_map.nodes:
        names = (known.address, known.account.text, str(known.node_id))
        if name in names and known.state in SERVING:
            return known
    return None


class NodeClient(LedgerClient):
    """The part of a client that talks to nodes."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._failed: Recent[AccountId, bool] = Recent(
            self.runtime, NODES_KNOWN_MAX, FAILED_SECONDS
        )

    async def _candidates(self, node: str | None, scope: Scope) -> list[Node]:
        """Nodes to ask, best first; only ``node`` if it is named.

        Raises:
            Invalid: the map does not have that node.
            Unavailable: the map has no node that serves.
        """
        if node is not None:
            return [await self._named(node)]
        cluster_map = await self.cluster_map()
        serving = [known for known in cluster_map.nodes if known.state in SERVING]
        if not serving:
            raise Unavailable("no node of the cluster map serves: retry later", reason="no-node")
        base = scope.blob.base if scope.blob is not None else scope.record
        return self._ordered(serving, seated_for(cluster_map, base, scope.packed))

    async def _named(self, node: str) -> Node:
        known = await self.cluster_map()
        found = _serving(known, node)
        if found is None:
            # It may have joined since the map that is remembered.
            self._maps.forget("")
            try:
                found = _serving(await self.cluster_map(), node)
            except Unavailable:
                self._maps.put("", known)
        if found is None:
            raise Invalid(
                f"the cluster map has no serving node {node[:80]!r}: name one by its client "
                "address, account or number",
                reason="unknown-node",
            )
        return found

    def _ordered(self, nodes: Collection[Node], seated: Mapping[AccountId, int]) -> list[Node]:
        named = set(self.connection.nodes)

        def rank(node: Node) -> tuple[bool, bool, int, int, bytes]:
            return (
                self._failed.get(node.account) is not None,
                bool(named) and node.address not in named,
                SERVING.index(node.state),
                -seated.get(node.account, 0),
                self.runtime.random(4),
            )

        return sorted(nodes, key=rank)

    async def _target(self, node: str | None, scope: Scope, tried: Collection[AccountId]) -> Node:
        """The best node that was not tried in this call; the best of all when all were."""
        candidates = await self._candidates(node, scope)
        fresh = [known for known in candidates if known.account not in tried]
        return (fresh or candidates)[0]

    def _note(self, node: Node, error: HcefsError) -> HcefsError:
        """Learn from a node's failure; returns the error to raise."""
        if error.retryable:
            self._failed.put(node.account, True)
        if error.reason in ("wrong-gateway", "not-in-map", "unknown-node", "other-epoch"):
            # The map has changed: another account may serve at that address.
            self._maps.forget("")
            if isinstance(error, Denied):
                return Unavailable(error.message, reason=error.reason).of_request(error.request)
        return error

    async def _on_nodes(
        self,
        scope: Scope,
        node: str | None,
        operation: Callable[[Node], Awaitable[T]],
        tried: set[AccountId] | None = None,
    ) -> T:
        """Run an operation that may be repeated on one node after the other.

        Nodes in ``tried``, to which these are added, come last.
        """
        passed = set() if tried is None else tried

        async def once() -> T:
            target = await self._target(node, scope, passed)
            passed.add(target.account)
            try:
                return await operation(target)
            except HcefsError as error:
                raise self._note(target, error) from None

        return await retrying(self.runtime, ATTEMPTS, once, patience_s=self.connection.patience_s)

    async def _ask(
        self,
        name: str,
        method: str,
        scope: Scope,
        right: Right,
        node: str | None,
        make: Callable[[blob_pb2.Authorization], Message],
        answer: type[M],
        tried: set[AccountId] | None = None,
    ) -> M:
        """One unary call of the ``Blobs`` service, repeated on other nodes when one fails.

        ``tried`` is as for :meth:`_on_nodes`.
        """

        async def once(target: Node) -> M:
            authorization = self._authorizer.authorize(method, scope, right, target.account)
            return await self._channels.unary(
                target.address, f"/hcefs.v1.Blobs/{name}", make(authorization), answer, NODE_SECONDS
            )

        return await self._on_nodes(scope, node, once, tried)

    def _request_id(self) -> bytes:
        return bytes(RequestId(self.runtime.random(RequestId.SIZE)))
