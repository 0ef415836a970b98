"""The doctor compares the certificate that a process shows with the one in its file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from hcefs.cli.doctor_findings import Finding, Level
from hcefs.cli.doctor_process import used_certificate
from hcefs.config import NodeConfig
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


async def test_a_file_that_is_newer_than_what_is_used(rig: Rig, tmp_path: Path) -> None:
    config = rig.nodes[0].config

    async def looked(config: NodeConfig) -> list[Finding]:
        # The doctor is a command: it has no event loop around it.
        return await asyncio.to_thread(lambda: list(used_certificate(config, "n", rig.runtime)))

    (found,) = await looked(config)
    assert found.level is Level.OK
    newer = tmp_path / "tls.crt"
    newer.write_bytes(rig.issue("node-1").certificate)
    (found,) = await looked(replace(config, tls=replace(config.tls, certificate=newer)))
    assert found.level is Level.PROBLEM
    assert "another certificate than its file holds" in found.what
    gone = replace(config.tls, certificate=tmp_path / "none")
    assert await looked(replace(config, tls=gone)) == []
