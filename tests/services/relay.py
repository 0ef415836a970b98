"""A relay between two ends of TCP connections that can go silent or cut them.

Silence is what a half-open connection looks like: the kernel of the other side still
acknowledges what is sent, nobody answers, and nothing says so.
"""

from __future__ import annotations

import asyncio
import contextlib

PIECE_BYTES = 1 << 16


class Relay:
    """Listens on loopback for one address behind it."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refuses = False
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def silence(self) -> None:
        """From now on bytes are taken and go nowhere; new connections, too."""
        self._passing.clear()

    def cut(self) -> None:
        """End every connection, and every new one."""
        self.refuses = True
        for writer in self._writers:
            writer.close()

    def heal(self) -> None:
        """Connections that were silent end: what they held back is lost with them."""
        if not self._passing.is_set():
            for writer in self._writers:
                writer.close()
        self.refuses = False
        self._passing.set()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.close()
            return
        self._writers.add(writer)
        try:
            await self._passing.wait()
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        self._writers.add(back)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)
