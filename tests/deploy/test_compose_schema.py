"""The compose file is one by the schema of the Compose Specification.

``compose-spec.json`` is github.com/compose-spec/compose-go v2.16.2, schema/compose-spec.json
(Apache License 2.0), unchanged.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

HERE = Path(__file__).parent
COMPOSE: dict[str, Any] = yaml.safe_load(
    (HERE.parents[1] / "deploy" / "docker" / "compose.yaml").read_text()
)
SCHEMA = jsonschema.Draft202012Validator(json.loads((HERE / "compose-spec.json").read_text()))


def test_the_specification_takes_it() -> None:
    assert [error.message for error in SCHEMA.iter_errors(COMPOSE)] == []


@pytest.mark.parametrize(("key", "value"), [("read_onli", True), ("cap_drop", "ALL")])
def test_the_specification_would_not_take_a_mistake(key: str, value: object) -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["ledger"][key] = value
    assert list(SCHEMA.iter_errors(wrong))
