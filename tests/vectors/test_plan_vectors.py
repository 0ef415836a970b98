from __future__ import annotations

import json
from typing import Any

import pytest

from hcefs.placement.cluster_map import ClusterMap
from hcefs.placement.successor import check_planned
from tests.vectors.generate_plans import FROZEN, vectors


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FROZEN.read_text())
    return loaded


def test_every_plan_is_as_it_was(frozen: dict[str, Any]) -> None:
    made = json.loads(json.dumps(vectors()))
    assert made.keys() == frozen.keys()
    for key in frozen:
        assert made[key] == frozen[key], key


def test_a_map_in_mid_plan_still_decodes(frozen: dict[str, Any]) -> None:
    data = bytes.fromhex(frozen["map_in_mid_plan"])
    decoded = ClusterMap.decode(data)
    check_planned(decoded)
    assert decoded.encode() == data
    assert decoded.tables[0].moving
