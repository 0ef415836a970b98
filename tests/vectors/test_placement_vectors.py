from __future__ import annotations

import json
from typing import Any

import pytest

from hcefs.placement.cluster_map import ClusterMap
from tests.vectors.generate_placement import FROZEN, vectors


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FROZEN.read_text())
    return loaded


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return vectors()


def test_nothing_moved(frozen: dict[str, Any], made: dict[str, Any]) -> None:
    assert made.keys() == frozen.keys()
    for key in frozen:
        assert made[key] == frozen[key], key


def test_frozen_map_bytes_still_decode(frozen: dict[str, Any]) -> None:
    data = bytes.fromhex(frozen["map_of_three"])
    decoded = ClusterMap.decode(data)
    decoded.check()
    assert decoded.encode() == data
    assert [node.node_id for node in decoded.nodes] == [1, 2, 3]
