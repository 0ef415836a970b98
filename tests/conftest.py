"""Long checks run only where they are asked for: ``-m long`` (``make test-long``)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked long unless the marker expression names them."""
    if "long" in str(config.getoption("markexpr")):
        return
    asleep = [item for item in items if item.get_closest_marker("long")]
    if asleep:
        config.hook.pytest_deselected(items=asleep)
        items[:] = [item for item in items if item not in asleep]
