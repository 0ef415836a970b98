from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ids import AccountId
from hcefs.placement.cluster_map import (
    NODES_MAX,
    Caps,
    ClusterMap,
    Move,
    NodeState,
    check_successor,
    encode_rows,
)
from hcefs.placement.planner import first_map, first_table
from tests.unit.placement.maps import (
    SEED,
    account,
    node,
    nodes,
    small_map,
    successor,
    with_node,
    with_table,
)


@pytest.fixture(scope="module")
def cluster_map() -> ClusterMap:
    return small_map()


def test_encoding_round_trip(cluster_map: ClusterMap) -> None:
    again = ClusterMap.decode(cluster_map.encode())
    assert again == cluster_map
    assert again.digest() == cluster_map.digest()
    assert len(cluster_map.digest()) == 32


def test_a_plan_in_progress_has_its_bytes_from_the_start(cluster_map: ClusterMap) -> None:
    table = cluster_map.tables[0]
    planned = dataclasses.replace(
        table, target=table.rows, moving=(Move(1, 2, 3), Move(4, 5, 0)), wave=1, waves=2
    )
    nested: Encoded = dataclasses.replace(cluster_map, tables=(planned,))
    assert ClusterMap.decode(nested.encode()) == nested


def test_look_ups(cluster_map: ClusterMap) -> None:
    assert cluster_map.node(3) == cluster_map.nodes[2]
    assert cluster_map.node(99) is None
    assert cluster_map.node_of_account(account(3)) == cluster_map.nodes[2]
    assert cluster_map.node_of_account(account(99)) is None
    assert cluster_map.table("ec-4-2") is cluster_map.tables[0]
    with pytest.raises(NotFound, match="it has: ec-4-2") as error:
        cluster_map.table("ec-99-1")
    assert error.value.reason == "unknown-profile"


def test_a_removed_node_is_not_found_by_its_account(cluster_map: ClusterMap) -> None:
    gone = node(9, state=NodeState.REMOVED, account=account(3))
    both = dataclasses.replace(cluster_map, nodes=(*cluster_map.nodes, gone))
    both.check()
    assert both.node_of_account(account(3)) == cluster_map.nodes[2]
    assert both.node(9) == gone


def test_domains_nest() -> None:
    there = node(1, "z1", rack="r1", host="h1")
    assert there.domain("zone") == ("z1",)
    assert there.domain("rack") == ("z1", "r1")
    assert there.domain("host") == ("z1", "r1", "h1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 0}, "bad-epoch"),
        ({"epoch": 1 << 63}, "bad-epoch"),
        ({"epoch": 2}, "bad-previous"),
        ({"previous": bytes(32)}, "bad-previous"),
        ({"seed": b""}, "bad-seed"),
        ({"seed": bytes(65)}, "bad-seed"),
        ({"default_profile": "copy-3"}, "unknown-profile"),
        ({"nodes": tuple(node(number) for number in range(1, NODES_MAX + 2))}, "map-too-large"),
        ({"nodes": (*nodes(6), node(6, account=account(77)))}, "node-id-twice"),
        ({"nodes": (*nodes(6), node(7, account=account(6)))}, "account-twice"),
        ({"nodes": tuple(nodes(5))}, "unknown-node"),
        ({"nodes": (*nodes(5), node(6, state=NodeState.REMOVED))}, "removed-node"),
    ],
)
def test_check_refuses_a_bad_map(
    cluster_map: ClusterMap, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Invalid) as error:
        dataclasses.replace(cluster_map, **changes).check()
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node_id": 0}, "bad-node-id"),
        ({"node_id": 0x10000}, "bad-node-id"),
        ({"account": AccountId.zero()}, "bad-account"),
        ({"address": ""}, "bad-text"),
        ({"peer_address": "a" * 256}, "bad-text"),
        ({"zone": ""}, "bad-text"),
        ({"zone": "a zone"}, "bad-text"),
        ({"rack": "r\n"}, "bad-text"),
        ({"host": "h" * 65}, "bad-text"),
        ({"host": "h\N{CYRILLIC SMALL LETTER O}st"}, "bad-text"),
        ({"weight": -1}, "bad-weight"),
        ({"weight": (1 << 24) + 1}, "bad-weight"),
    ],
)
def test_check_refuses_a_bad_node(
    cluster_map: ClusterMap, changes: dict[str, Any], reason: str
) -> None:
    bad = dataclasses.replace(node(7), **changes)
    with pytest.raises(Invalid) as error:
        dataclasses.replace(cluster_map, nodes=(*cluster_map.nodes, bad)).check()
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"profile": ""}, "bad-text"),
        ({"k": 0}, "bad-profile"),
        ({"m": 0}, "bad-profile"),
        ({"k": 250, "m": 6}, "bad-profile"),
        ({"bits": 7}, "bad-table-size"),
        ({"bits": 19}, "bad-table-size"),
        ({"bits": 9}, "bad-table-size"),
        ({"rows": b""}, "bad-table-size"),
        ({"caps": Caps(0, 1, 1)}, "bad-caps"),
        ({"caps": Caps(2, 2, 7)}, "bad-caps"),
        ({"rows": encode_rows([[1, 2, 3, 4, 5, 5]] * 256)}, "node-twice"),
        ({"rows": encode_rows([[1, 2, 3, 4, 5, 7]] * 256)}, "unknown-node"),
        ({"rows": encode_rows([[1, 2, 3, 4, 5, 0]] * 256)}, "unknown-node"),
        ({"target": encode_rows([[1, 2, 3, 4, 5, 6]] * 256)}, "unsupported"),
        ({"moving": (Move(0, 0, 1),)}, "unsupported"),
        ({"wave": 1}, "unsupported"),
        ({"waves": 1}, "unsupported"),
    ],
)
def test_check_refuses_a_bad_table(
    cluster_map: ClusterMap, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Invalid) as error:
        with_table(cluster_map, **changes).check()
    assert error.value.reason == reason


def test_check_refuses_two_tables_of_one_profile(cluster_map: ClusterMap) -> None:
    twice = dataclasses.replace(cluster_map, tables=cluster_map.tables * 2)
    with pytest.raises(Invalid) as error:
        twice.check()
    assert error.value.reason == "table-twice"


def test_successors(cluster_map: ClusterMap) -> None:
    check_successor(None, cluster_map)
    second = successor(cluster_map, nodes=with_node(cluster_map, 2, state=NodeState.DOWN))
    check_successor(cluster_map, second)
    third = successor(second, nodes=(*second.nodes, node(7, state=NodeState.JOINING)))
    check_successor(second, third)
    table = first_table(nodes(6), "copy-3", 1, 2, SEED)
    check_successor(third, successor(third, tables=(*third.tables, table)))


def test_only_the_next_epoch_of_the_map_in_force_follows(cluster_map: ClusterMap) -> None:
    second = successor(cluster_map)
    for old, new, reason in [
        (None, second, "wrong-epoch"),
        (cluster_map, cluster_map, "wrong-epoch"),
        (second, second, "wrong-epoch"),
        (cluster_map, dataclasses.replace(second, epoch=3), "wrong-epoch"),
        (cluster_map, dataclasses.replace(second, previous=bytes(32)), "wrong-previous"),
    ]:
        with pytest.raises(Conflict) as error:
            check_successor(old, new)
        assert error.value.reason == reason


def test_ids_are_never_used_twice(cluster_map: ClusterMap) -> None:
    spare = node(7, state=NodeState.REMOVED)
    old = dataclasses.replace(cluster_map, nodes=(*cluster_map.nodes, spare))
    for changed, reason in [
        (cluster_map.nodes, "node-forgotten"),
        (with_node(old, 7, state=NodeState.UP), "node-id-reused"),
        (with_node(old, 7, account=account(8)), "node-id-reused"),
        (with_node(old, 1, account=account(8)), "node-id-reused"),
    ]:
        with pytest.raises(Invalid) as error:
            check_successor(old, successor(old, nodes=changed))
        assert error.value.reason == reason
    back = node(8, account=spare.account)
    check_successor(old, successor(old, nodes=(*old.nodes, back)))


def test_tables_are_neither_forgotten_nor_changed_without_a_plan(cluster_map: ClusterMap) -> None:
    table = cluster_map.tables[0]
    other = first_table(nodes(6), "copy-3", 1, 2, SEED)
    swapped = table.rows[2:4] + table.rows[:2] + table.rows[4:]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tables": (other,), "default_profile": "copy-3"}, "table-forgotten"),
        ({"tables": (dataclasses.replace(table, k=3, m=3),)}, "profile-changed"),
        ({"tables": (dataclasses.replace(table, rows=swapped),)}, "unplanned-move"),
    ]
    for changes, reason in cases:
        with pytest.raises(Invalid) as error:
            check_successor(cluster_map, successor(cluster_map, **changes))
        assert error.value.reason == reason


def test_a_malformed_successor_is_refused_for_what_it_is(cluster_map: ClusterMap) -> None:
    with pytest.raises(Invalid) as error:
        check_successor(cluster_map, successor(cluster_map, seed=b""))
    assert error.value.reason == "bad-seed"


def test_a_zone_safe_map_has_no_warnings(cluster_map: ClusterMap) -> None:
    assert cluster_map.warnings() == ()
    assert small_map(12, 4).warnings() == ()


@pytest.mark.parametrize(("zones", "worst"), [(1, 6), (2, 3)])
def test_not_zone_safe_is_said(zones: int, worst: int) -> None:
    (warning,) = small_map(6, zones).warnings()
    assert warning.startswith("NOT ZONE-SAFE: ec-4-2: ")
    assert f"can take {worst} of 6 shards" in warning


def test_degraded_host_and_rack_caps_are_said() -> None:
    shared = [
        node(number, f"z{number % 3}", rack=f"r{number % 3}{number % 2}", host="one")
        for number in range(1, 13)
    ]
    shared_map = first_map(shared, [("ec-4-2", 4, 2)], SEED, "ec-4-2")
    assert [warning.split(":")[0] for warning in shared_map.warnings()] == []
    halved = first_map(
        [
            dataclasses.replace(found, zone="z", rack="r", host=f"h{found.node_id % 3}")
            for found in shared
        ],
        [("ec-4-2", 4, 2)],
        SEED,
        "ec-4-2",
    )
    heads = [warning.split(":")[0] for warning in halved.warnings()]
    assert heads == ["NOT ZONE-SAFE", "HOST CAP DEGRADED"]
    assert halved.tables[0].caps == Caps(zone=6, rack=6, host=2)
    lone = first_map(
        [
            dataclasses.replace(
                found, zone="z", rack=f"r{found.node_id % 2}", host=f"h{found.node_id % 2}"
            )
            for found in shared
        ],
        [("ec-4-2", 4, 2)],
        SEED,
        "ec-4-2",
    )
    heads = [warning.split(":")[0] for warning in lone.warnings()]
    assert heads == ["NOT ZONE-SAFE", "NOT RACK-SAFE", "NOT HOST-SAFE"]


def test_labels_corrected_after_seating_show_as_broken_caps(cluster_map: ClusterMap) -> None:
    moved = successor(cluster_map, nodes=with_node(cluster_map, 1, zone="z2"))
    check_successor(cluster_map, moved)
    heads = [warning.split(":")[0] for warning in moved.warnings()]
    assert heads == ["NOT ZONE-SAFE", "CAPS BROKEN"]
    assert "256 of 256 partitions" in moved.warnings()[1]


def test_nodes_without_seats_and_lost_seats_are_said(cluster_map: ClusterMap) -> None:
    changed = successor(
        cluster_map,
        nodes=(*with_node(cluster_map, 2, state=NodeState.OUT), node(7, "z0"), node(8, "z1")),
    )
    changed.check()
    assert changed.warnings() == (
        "SEATS LOST: node 2 is out of the cluster but still seated; rebuild by a plan",
        "NO SEATS: nodes 7, 8 are in the map without a seat until a plan",
    )
