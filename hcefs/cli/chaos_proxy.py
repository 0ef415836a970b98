"""A TCP relay between processes that can be cut, and can be left half open.

Network partitions without privileges: a node's peers, or a node and the ledger, talk
through a relay, and the relay stops relaying.  What it passes is TLS and stays so.

Invariant: every connection ends with :meth:`Relay.close`.

Not guaranteed: a partition in one direction only looks like one to whoever is behind the
relay; what a node itself opens to its peers goes through *their* relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum

from hcefs.runtime import Runtime, end_tasks

BUFFER_BYTES = 256 << 10


class Passing(enum.Enum):
    """What a relay does with bytes."""

    PASS = "passes"  # noqa: S105 - no password
    REFUSE = "refuses"
    """Connections are closed, old and new ones."""

    STALL = "stalls"
    """Connections stay and are taken, and nothing passes."""


class Relay:
    """Listens at one address and connects to another."""

    def __init__(self, runtime: Runtime, listen: str, target: str) -> None:
        self._runtime = runtime
        self._listen = _split(listen)
        self._target = _split(target)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address is taken.
        """
        host, port = self._listen
        self._server = await asyncio.start_server(self._accept, host, port)

    def set(self, passing: Passing) -> None:
        """Change what happens to bytes, from now on."""
        self._refusing = passing is Passing.REFUSE
        if passing is Passing.STALL:
            self._open.clear()
        else:
            self._open.set()
        if self._refusing:
            for task in list(self._tasks):
                task.cancel()

    async def close(self) -> None:
        """End every connection."""
        if self._server is not None:
            self._server.close()
        await end_tasks(*self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._refusing:
                return
            await self._open.wait()
            answers, upstream = await asyncio.open_connection(*self._target)
            there = self._runtime.spawn(self._pump(reader, upstream), name="relay")
            try:
                await self._pump(answers, writer)
            finally:
                await end_tasks(there)
        except (OSError, asyncio.CancelledError):
            # Cancelled by ``set`` or ``close``: the connection ends, and with it this task.
            pass
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()
            if task is not None:
                self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(BUFFER_BYTES):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
