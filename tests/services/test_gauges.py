"""What a node shows of itself, beside the bounds that alarms compare it with."""

from __future__ import annotations

import pytest

from hcefs.erasure.scheme import DEFAULT_PROFILE
from hcefs.transport.tls import validity
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


async def test_a_node_shows_its_map_and_its_bounds(rig: Rig) -> None:
    node = rig.nodes[0]
    metrics, process = node.process.metrics, node.process
    current = process.follower.view.cluster_map()
    assert current is not None
    me = current.node_of_account(process.account)
    assert me is not None
    rows = current.table(DEFAULT_PROFILE).node_rows
    held = sum(row.count(me.node_id) for row in rows)
    assert held > 0
    assert metrics.value("seats", profile=DEFAULT_PROFILE) == held
    assert metrics.value("node_weight") == me.weight
    assert metrics.value("cluster_map_epoch") == current.epoch
    assert metrics.value("cluster_map_warnings") == len(current.warnings())
    up = sum(each.state.name == "UP" for each in current.nodes)
    assert metrics.value("cluster_map_nodes", state="up") == up
    assert metrics.value("serving") == process.able()
    assert metrics.value("ledger_lease_max_seconds") == rig.genesis.lease_ms / 1000
    assert metrics.value("clock_skew_max_seconds") == rig.genesis.skew_ms / 1000
    ahead = metrics.value("clock_timestamp_seconds") - node.runtime.now_ms() / 1000
    assert abs(ahead) < 60
    config = node.config
    assert metrics.value("disk_reserve_bytes") == config.limits.reserve_mib << 20
    assert metrics.value("scrub_cycle_seconds") == config.upkeep.scrub_cycle_s
    own = validity(config.tls.certificate.read_bytes()).until_ms / 1000
    assert metrics.value("certificate_expiry_timestamp_seconds", certificate="own") == own
    authority = validity(config.tls.authority.read_bytes()).until_ms / 1000
    name = "certificate_expiry_timestamp_seconds"
    assert metrics.value(name, certificate="authority") == authority
    assert metrics.value("receipts_forked") == 0


async def test_a_node_without_a_place_in_the_map(rig: Rig) -> None:
    metrics = rig.stranger.process.metrics
    assert metrics.value("node_weight") == 0
    assert metrics.value("seats", profile=DEFAULT_PROFILE) == 0
    assert metrics.value("serving") == 0
