"""The simulator's own parts: clock, lives, files, databases and network do what they model."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from hcefs.errors import Internal
from hcefs.testing.simulator.clock import VirtualLoop
from hcefs.testing.simulator.database import Batch, SimDatabase, Table
from hcefs.testing.simulator.files import Platter, SimDisk
from hcefs.testing.simulator.machine import Crash, Life, Machine, install
from hcefs.testing.simulator.network import Network, Port, SimDialer

FOLDER = Path("/d")
FILE = FOLDER / "f"


class Sync:
    sync = True


def run(loop: VirtualLoop, main: Coroutine[Any, Any, Any]) -> Any:
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def a_life(loop: VirtualLoop, name: str = "one") -> Life:
    return Life(Machine(loop, "seed", name))


# -- clock


def test_an_hour_costs_nothing_and_timers_come_in_order() -> None:
    loop, seen = VirtualLoop(), list[float]()

    async def main() -> None:
        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(loop.time())

        await asyncio.gather(wait(3600.0), wait(1.0), wait(60.0))

    run(loop, main())
    assert seen == [1.0, 60.0, 3600.0]


def test_waiting_for_nothing_is_an_error() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        await loop.create_future()

    with pytest.raises(Internal) as caught:
        run(loop, main())
    assert caught.value.reason == "simulation-stuck"


def test_the_dead_run_nothing_more() -> None:
    loop, seen = VirtualLoop(), list[str]()
    install(loop)
    life = a_life(loop)

    async def work() -> None:
        try:
            await life.runtime.sleep(10.0)
        finally:
            seen.append("finally")
            life.runtime.spawn(late(), name="late")
            await life.runtime.disk(seen.append, "disk")

    async def late() -> None:
        seen.append("late")

    async def main() -> None:
        life.start(work(), "work")
        await asyncio.sleep(1.0)
        life.end()
        await asyncio.sleep(100.0)

    run(loop, main())
    assert seen == ["finally"]


# -- files


def a_lone_life() -> Life:
    loop = VirtualLoop()
    loop.close()
    return a_life(loop)


def a_disk() -> tuple[Platter, SimDisk, Life]:
    life = a_lone_life()
    platter = Platter("seed", 1000)
    disk = SimDisk(platter, life)
    disk.make_folder(FOLDER)
    disk.sync_folder(Path("/"))
    return platter, disk, life


def write(disk: SimDisk, data: bytes) -> int:
    fd = disk.create(FILE)
    disk.write(fd, [memoryview(data)])
    return fd


def test_what_was_synchronised_survives_a_power_cut() -> None:
    platter, disk, _ = a_disk()
    disk.sync(write(disk, b"data"))
    disk.sync_folder(FOLDER)
    platter.cut_power()
    assert disk.read(disk.open(FILE), 10, 0) == b"data"


@pytest.mark.parametrize("forgotten", ["file", "folder"])
def test_what_was_not_is_lost_in_some_runs(forgotten: str) -> None:
    lost = 0
    for seed in range(40):
        platter, disk, _ = a_disk()
        platter.random.seed(seed)
        fd = write(disk, b"data")
        if forgotten != "file":
            disk.sync(fd)
        if forgotten != "folder":
            disk.sync_folder(FOLDER)
        platter.cut_power()
        lost += not disk.exists(FILE) or disk.read(disk.open(FILE), 10, 0) != b"data"
    assert 0 < lost < 40


def test_a_full_disk_and_a_dead_process_take_no_bytes() -> None:
    platter, disk, life = a_disk()
    platter.capacity_bytes = 2
    with pytest.raises(OSError, match="full") as caught:
        write(disk, b"data")
    assert caught.value.errno == errno.ENOSPC
    life.alive = False
    with pytest.raises(OSError, match="dead"):
        disk.names(FOLDER)


def test_power_can_go_in_the_middle() -> None:
    platter, disk, life = a_disk()
    platter.crash_after = 1
    with pytest.raises(Crash):
        write(disk, b"data")
    assert not life.alive


# -- databases


def batch(**rows: bytes | None) -> Batch:
    made = Batch()
    for key, value in rows.items():
        if value is None:
            made.delete(key.encode())
        else:
            made.put(key.encode(), value)
    return made


def test_a_synchronised_write_keeps_all_before_it() -> None:
    table = Table("seed")
    database = SimDatabase(table, a_lone_life())
    database.write(batch(a=b"1"))
    database.write(batch(b=b"2"), Sync())
    database.write(batch(a=None, c=b"3"))
    lost = set()
    for seed in range(20):
        copy = Table("x")
        copy.random.seed(seed)
        copy.rows, copy.order = dict(table.rows), list(table.order)
        copy.undo = [list(each) for each in table.undo]
        copy.cut_power()
        lost.add(tuple(sorted(copy.rows)))
    assert lost == {(b"a", b"b"), (b"b", b"c")}


def test_an_iterator_sees_the_rows_as_they_were() -> None:
    database = SimDatabase(Table("seed"), a_lone_life())
    database.write(batch(a=b"1", c=b"3"))
    cursor = database.iter()
    database.write(batch(b=b"2", a=None))
    cursor.seek(b"")
    seen = []
    while cursor.valid():
        seen.append((cursor.key(), cursor.value()))
        cursor.next()
    assert seen == [(b"a", b"1"), (b"c", b"3")]
    assert database.get([b"a", b"b"]) == [None, b"2"]


# -- network


async def echo(data: bytes, context: Any) -> bytes:
    await asyncio.sleep(0.1)
    return b"re: " + data


async def count_up(data: bytes, context: Any) -> None:
    for number in range(100):
        await context.write(bytes([number]))


def a_network(loop: VirtualLoop) -> tuple[Network, Life, Any]:
    install(loop)
    network = Network(loop, "seed", lambda line: None)
    server, client = a_life(loop, "server"), a_life(loop, "client")
    server.on_end.append(lambda: network.ended(server))
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count_up),
    }
    handlers = (grpc.method_handlers_generic_handler("t.T", methods),)
    network.listen("there:1", Port(server, handlers, b"", False))
    return network, server, SimDialer(network, client, None).to_server("there:1", [])


def test_calls_arrive_whole_and_in_order() -> None:
    loop = VirtualLoop()
    _, _, channel = a_network(loop)

    async def main() -> None:
        assert await channel.unary_unary("/t.T/Echo")(b"hello") == b"re: hello"
        found = [message async for message in channel.unary_stream("/t.T/Count")(b"")]
        assert found == [bytes([number]) for number in range(100)]

    run(loop, main())


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("dead", grpc.StatusCode.UNAVAILABLE),
        ("dies", grpc.StatusCode.UNAVAILABLE),
        ("closed", grpc.StatusCode.UNAVAILABLE),
        ("no answer", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("unknown", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_faults_have_the_status_that_grpc_gives_them(fault: str, code: grpc.StatusCode) -> None:
    loop = VirtualLoop()
    network, server, channel = a_network(loop)

    async def main() -> None:
        if fault == "dead":
            server.end()
        if fault == "closed":  # before anything connects
            network.link("client", "server").is_closed = True
        if fault == "no answer":
            await channel.unary_unary("/t.T/Echo")(b"connects")
            network.link("server", "client").is_closed = True
        if fault == "dies":
            loop.call_later(0.05, server.end)
        name = "None" if fault == "unknown" else "Echo"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/t.T/{name}")(b"", timeout=5.0)
        assert caught.value.code() is code

    run(loop, main())
