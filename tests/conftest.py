"""Long checks run only where they are asked for: ``-m long`` (``make test-long``)."""

from __future__ import annotations

import os

import pytest

# Before gRPC is imported: tests fail handshakes on purpose, and its core would tell of each.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked long unless the marker expression names them."""
    if "long" in str(config.getoption("markexpr")):
        return
    asleep = [item for item in items if item.get_closest_marker("long")]
    if asleep:
        config.hook.pytest_deselected(items=asleep)
        items[:] = [item for item in items if item not in asleep]
