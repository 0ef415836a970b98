"""Nodes and small maps for the tests of placement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hcefs.ids import AccountId
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState, Table
from hcefs.placement.planner import first_map

SEED = bytes(range(32))


def account(number: int) -> AccountId:
    return AccountId(number.to_bytes(16, "big"))


def node(node_id: int, zone: str = "z0", **changes: Any) -> Node:
    """A node of its own host and weight 100 unless told otherwise."""
    plain = Node(
        node_id=node_id,
        account=account(node_id),
        address=f"10.0.0.{node_id}:7000",
        peer_address=f"10.0.0.{node_id}:7001",
        zone=zone,
        rack="",
        host=f"h{node_id}",
        weight=100,
        state=NodeState.UP,
    )
    return dataclasses.replace(plain, **changes)


def nodes(count: int, zones: int = 3, weight: Callable[[int], int] | None = None) -> list[Node]:
    """``count`` nodes dealt to the zones in turn; weight by node id."""
    return [
        node(number, f"z{number % zones}", weight=100 if weight is None else weight(number))
        for number in range(1, count + 1)
    ]


def small_map(count: int = 6, zones: int = 3) -> ClusterMap:
    return first_map(nodes(count, zones), [("ec-4-2", 4, 2)], SEED, "ec-4-2")


def successor(old: ClusterMap, **changes: Any) -> ClusterMap:
    """The next epoch's map with these changes."""
    return dataclasses.replace(old, epoch=old.epoch + 1, previous=old.digest(), **changes)


def with_table(cluster_map: ClusterMap, **changes: Any) -> ClusterMap:
    """The map with its first table changed."""
    first, *others = cluster_map.tables
    changed: Table = dataclasses.replace(first, **changes)
    return dataclasses.replace(cluster_map, tables=(changed, *others))


def with_node(cluster_map: ClusterMap, node_id: int, **changes: Any) -> tuple[Node, ...]:
    """The map's nodes with one changed."""
    return tuple(
        dataclasses.replace(found, **changes) if found.node_id == node_id else found
        for found in cluster_map.nodes
    )
