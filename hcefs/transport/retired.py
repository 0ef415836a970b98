"""Channels that have been replaced, kept until the calls on them have ended.

A channel made with certificates that have since been replaced still serves the calls that
run on it.  gRPC has no question "does anything run on this channel", and closing one ends
its calls; so it is kept for as long as the longest call may take.  Nothing new is begun on
it, and gRPC does not connect it again once its connection ends.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hcefs.runtime import Runtime, end_tasks
from hcefs.transport.dial import Options, ServerDialer

RETIRED_MAX = 256
"""More than that are closed early, oldest first: somebody exchanges certificates in a loop."""


class RetiredChannels:
    """Closes what it is given after ``seconds``, and all of it when it is closed."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self._runtime = runtime
        self._seconds = seconds
        self._kept: dict[Any, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, channel: Any) -> None:
        """Begin no call on this channel any more."""
        self._kept[channel] = self._runtime.spawn(self._end(channel), name="retired-channel")
        if len(self._kept) > RETIRED_MAX:
            oldest = next(iter(self._kept))
            self._kept.pop(oldest).cancel()
            self._kept[oldest] = self._runtime.spawn(self._end(oldest, 0.0), name="retired-channel")

    async def _end(self, channel: Any, seconds: float | None = None) -> None:
        await self._runtime.sleep(self._seconds if seconds is None else seconds)
        # This task is left out before it ends what others may wait for.
        self._kept.pop(channel, None)
        await channel.close(None)

    async def close(self) -> None:
        """Close all of them now; calls on them end as cancelled."""
        kept, self._kept = self._kept, {}
        await end_tasks(*kept.values())
        for channel in kept:
            await channel.close(None)


class ServerChannels:
    """One channel for each address of servers; made anew when the certificates are others."""

    def __init__(
        self, runtime: Runtime, dialer: ServerDialer, options: Options, longest_seconds: float
    ) -> None:
        """``longest_seconds``: how long a call on a channel may take."""
        self._dialer = dialer
        self._options = options
        self._channels: dict[str, tuple[int, Any]] = {}
        self._retired = RetiredChannels(runtime, longest_seconds)

    def get(self, address: str) -> Any:
        """The channel to an address; connects when it is used."""
        version = self._dialer.version
        known = self._channels.get(address)
        if known is not None:
            if known[0] == version:
                return known[1]
            self._retired.add(known[1])
        channel = self._dialer.to_server(address, self._options)
        self._channels[address] = version, channel
        return channel

    async def close(self) -> None:
        """Close all channels; calls that run end as cancelled."""
        channels, self._channels = list(self._channels.values()), {}
        await self._retired.close()
        for _, channel in channels:
            await channel.close(None)
