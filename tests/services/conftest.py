"""The running cluster, and the watch over what errors and logs show."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from hcefs.services import desk
from tests.services.rig import Rig

MAP_SECONDS = 0.3
"""The map never changes in this folder: nobody need wait long for a newer one."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One cluster for all tests of this folder."""
    made = Rig(tmp_path_factory.mktemp("services"))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture(autouse=True)
def nothing_is_shown(rig: Rig, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No token, key or plaintext in any log line or error of any test, and no fault of ours."""
    caplog.set_level(logging.DEBUG)
    yield
    faults = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not faults
    assert "unexpected" not in caplog.text, "a handler met what it does not expect"
    rig.secrets.check(caplog.text)
    for text in rig.secrets.shown:
        rig.secrets.check(text)
    rig.secrets.shown.clear()


@pytest.fixture(autouse=True)
def no_newer_map_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "MAP_SECONDS", MAP_SECONDS)
