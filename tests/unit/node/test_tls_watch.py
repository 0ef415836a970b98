"""TLS files that change: used when they are right, refused and said so when they are not."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcefs.config import TlsConfig
from hcefs.metrics import Metrics
from hcefs.node.process_gauges import certificate_gauges
from hcefs.node.tls_watch import TlsWatch
from hcefs.runtime import SystemRuntime
from hcefs.transport.tls import Identity, issue, new_authority, renew, spki_hash, validity
from hcefs.transport.tls_identity import CurrentIdentity

HOSTS = ["localhost", "127.0.0.1"]
AUTHORITY = new_authority("one")
LEAF = issue(*AUTHORITY, "node 1", HOSTS)
OTHER = issue(*AUTHORITY, "node 1", HOSTS)
NARROW = issue(*AUTHORITY, "node 1", ["localhost"])
GOOD = Identity(AUTHORITY[0], *LEAF)


class World:
    """A process's files, and what watches them."""

    def __init__(self, folder: Path, runtime: SystemRuntime) -> None:
        self.files = TlsConfig(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        self.write(GOOD)
        self.current = CurrentIdentity(GOOD)
        self.metrics = Metrics()
        self.registered = spki_hash(GOOD.certificate)
        self.watch = TlsWatch(
            runtime, self.files, self.current, self.metrics, lambda: self.registered
        )

    def write(self, identity: Identity) -> None:
        self.files.certificate.write_bytes(identity.certificate)
        self.files.key.write_bytes(identity.key)
        self.files.authority.write_bytes(identity.authority)

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            # As at SIGHUP: two changes may come within one tick of the file system's clock.
            self.watch.look_now()
            await self.watch.look()

    @property
    def refused(self) -> float:
        return self.metrics.value("tls_files_refused")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    runtime = SystemRuntime(compute_threads=1)
    yield World(tmp_path, runtime)
    runtime.close()


async def test_a_renewed_certificate_is_used(world: World) -> None:
    certificate_gauges(world.metrics, world.current)
    await world.look()
    assert world.current.version == 0
    made = renew(*AUTHORITY, LEAF[0], now_ms=validity(LEAF[0]).from_ms + 5_000_000)
    world.write(Identity(AUTHORITY[0], made, LEAF[1]))
    await world.look()
    assert world.current.used == (Identity(AUTHORITY[0], made, LEAF[1]), 1)
    assert world.refused == 0
    assert world.metrics.value("tls_files_changes_total") == 1
    shown = world.metrics.value("certificate_expiry_timestamp_seconds", certificate="own")
    assert shown == validity(made).until_ms / 1000
    await world.look(2)
    assert world.current.version == 1


async def test_what_is_wrong_is_refused_at_the_second_look(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = new_authority("another")
    bad = {
        "belong together": Identity(AUTHORITY[0], OTHER[0], LEAF[1]),
        "than the ledger names": Identity(AUTHORITY[0], *OTHER),
        "does not name": Identity(AUTHORITY[0], *NARROW),
        "not of the authority": Identity(stranger[0], *LEAF),
        "not an X.509": Identity(AUTHORITY[0], b"", LEAF[1]),
    }
    await world.look()
    for words, identity in bad.items():
        caplog.clear()
        world.write(identity)
        with caplog.at_level(logging.INFO):
            await world.look()
            assert world.refused == 0
            await world.look(2)
        errors = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
        assert len(errors) == 1
        assert words in errors[0]
        assert world.refused == 1
        assert world.current.used == (GOOD, 0)
        world.write(GOOD)
        await world.look()
        assert world.refused == 0


async def test_a_missing_file_is_refused(world: World) -> None:
    world.files.key.unlink()
    await world.look(2)
    assert world.refused == 1
    assert world.current.identity == GOOD
    world.files.key.write_bytes(LEAF[1])
    await world.look()
    assert world.refused == 0


async def test_files_replaced_one_after_the_other_are_not_mixed(world: World) -> None:
    """Between the two the pair does not fit: that is no fault, and never used."""
    world.registered = spki_hash(OTHER[0])
    world.files.certificate.write_bytes(OTHER[0])
    await world.look()
    assert world.refused == 0
    assert world.current.identity == GOOD
    world.files.key.write_bytes(OTHER[1])
    await world.look()
    assert world.current.identity == Identity(AUTHORITY[0], *OTHER)


async def test_another_key_waits_for_the_ledger(world: World) -> None:
    world.write(Identity(AUTHORITY[0], *OTHER))
    await world.look(2)
    assert world.refused == 1
    world.registered = spki_hash(OTHER[0])
    await world.watch.look()
    assert world.refused == 0
    assert world.current.identity == Identity(AUTHORITY[0], *OTHER)


async def test_a_node_that_is_not_registered_yet_keeps_its_key(world: World) -> None:
    world.registered = b""
    world.write(Identity(AUTHORITY[0], *OTHER))
    await world.look(2)
    assert world.refused == 1
    made = renew(*AUTHORITY, LEAF[0])
    world.write(Identity(AUTHORITY[0], made, LEAF[1]))
    await world.look()
    assert world.current.identity.certificate == made


async def test_it_looks_by_itself_and_when_told_and_ends(world: World) -> None:
    world.watch.start()
    try:
        made = renew(*AUTHORITY, LEAF[0])
        world.write(Identity(AUTHORITY[0], made, LEAF[1]))
        world.watch.look_now()
        async with asyncio.timeout(60):
            while world.current.version == 0:
                await asyncio.sleep(0.01)
        assert world.current.identity.certificate == made
        shutil.rmtree(world.files.key.parent)
        world.watch.look_now()
        async with asyncio.timeout(60):
            while not world.watch.refused:
                await asyncio.sleep(0.01)
    finally:
        await world.watch.stop()
    await world.watch.stop()
