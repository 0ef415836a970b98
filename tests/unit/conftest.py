"""What unit tests of several packages share."""

from __future__ import annotations

import pytest

from hcefs.stripes import hedge


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No holder is slow here: a stall of this machine is not to be answered by others."""
    monkeypatch.setattr(hedge, "DELAY_SECONDS_FIRST", 60.0)
