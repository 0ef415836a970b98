"""The channels between nodes, each pinned to one certificate, through every change of one.

Owns which channel leads to a node.  Three things make a channel anew, and none of them
ends a call that runs:

- the node's connection has ended (it was restarted, or the network broke): its certificate
  is fetched again before the next call, because it may have been renewed under the same
  key, and the old channel refuses the new one for ever;
- a channel that cannot connect: the same, in the background;
- this process uses other certificates than when the channel was made: in the background,
  and the old one serves until the new one is connected.

Source: docs/decisions/0005-two-ports-and-pinned-peers.md,
docs/decisions/0043-certificates-that-rotate.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.runtime import Runtime, end_tasks
from hcefs.transport.dial import Dialer
from hcefs.transport.grpc_peers import CHANNEL_OPTIONS, CONNECT_MS, STREAM_SECONDS
from hcefs.transport.peers import Heads
from hcefs.transport.retired import RetiredChannels

_READY = grpc.ChannelConnectivity.READY
_IDLE = grpc.ChannelConnectivity.IDLE
_FAILING = grpc.ChannelConnectivity.TRANSIENT_FAILURE

CONNECT_SECONDS = CONNECT_MS / 1000
POLL_SECONDS = 0.02
AGAIN_SECONDS = 1.0
"""After a channel with new certificates could not be made, before it is tried again."""


@dataclass(eq=False)
class _Pinned:
    """A channel, what it leads to, and the version of this process's own certificates.

    ``connected``: it has been, so that a channel without a connection has lost it.
    """

    address: str
    spki: bytes
    version: int
    channel: Any
    connected: bool = False


class Channels:
    """One pinned channel a node, made on first use and remade when its key changes."""

    def __init__(
        self,
        runtime: Runtime,
        dialer: Dialer,
        spki_of: Callable[[AccountId], bytes],
        heads: Heads,
    ) -> None:
        self._runtime = runtime
        self._dialer = dialer
        self._spki_of = spki_of
        self.heads = heads
        self._channels: dict[AccountId, _Pinned] = {}
        self._locks: dict[AccountId, asyncio.Lock] = {}
        self._renewing: dict[AccountId, asyncio.Task[None]] = {}
        self._retired = RetiredChannels(runtime, STREAM_SECONDS)

    async def get(self, account: AccountId, address: str) -> Any:
        """The channel to a node.

        Raises:
            Unavailable: it cannot be reached.
            Denied: its certificate is not the one on the ledger.
        """
        spki = self._spki_of(account)
        known = self._channels.get(account)
        if known is not None and (known.address, known.spki) == (address, spki):
            return await self._still(account, known)
        async with self._locks.setdefault(account, asyncio.Lock()):
            known = self._channels.get(account)
            if known is not None:
                if (known.address, known.spki) == (address, spki):
                    return known.channel
                await known.channel.close(None)
                del self._channels[account]
            made = await self._dial(address, spki)
            self._channels[account] = made
            return made.channel

    async def _dial(self, address: str, spki: bytes) -> _Pinned:
        version = self._dialer.version
        channel = await self._dialer.to_node(address, spki, CHANNEL_OPTIONS)
        return _Pinned(address, spki, version, channel)

    async def _still(self, account: AccountId, known: _Pinned) -> Any:
        """The channel to use where the ledger and the map still say what they said."""
        state = known.channel.get_state()
        if state is _READY:
            known.connected = True
        elif state is _IDLE and known.connected:
            return await self._pinned_again(account, known)
        if state is _FAILING or known.version != self._dialer.version:
            self._renew(account, known)
        return known.channel

    async def _pinned_again(self, account: AccountId, lost: _Pinned) -> Any:
        """Fetch the certificate of a node whose connection has ended, before it is called.

        One that cannot be reached keeps the old channel, which says so at once.
        """
        async with self._locks.setdefault(account, asyncio.Lock()):
            known = self._channels.get(account)
            if known is not lost:
                return (known or lost).channel
            if not lost.connected:
                return lost.channel  # another call has just tried
            lost.connected = False
            try:
                async with self._runtime.timeout(CONNECT_SECONDS):
                    made = await self._dial(lost.address, lost.spki)
            except (HcefsError, TimeoutError):
                return lost.channel
            if self._channels.get(account) is not lost:
                await made.channel.close(None)
                return lost.channel
            self._replace(account, lost, made)
            return made.channel

    def _replace(self, account: AccountId, old: _Pinned, new: _Pinned) -> None:
        """Calls that run on the old channel go on: its peer may be ending in good order."""
        self._channels[account] = new
        self._retired.add(old.channel)

    def _renew(self, account: AccountId, old: _Pinned) -> None:
        """Begin to make a channel anew; at most once at a time."""

        async def renew() -> None:
            try:
                if not await self._renewed(account, old) and old.version != self._dialer.version:
                    await self._runtime.sleep(AGAIN_SECONDS)
            finally:
                del self._renewing[account]

        if account not in self._renewing:
            self._renewing[account] = self._runtime.spawn(renew(), name="pin-again")

    async def _renewed(self, account: AccountId, old: _Pinned) -> bool:
        """Put a channel in the place of one that fails, or that shows old certificates."""
        try:
            made = await self._dial(old.address, old.spki)
        except HcefsError:
            return False  # it is still down, or another: the call that asked says so
        works = old.channel.get_state() is _READY
        try:
            # What works is not given up for what the node may refuse: it may not know yet
            # the authority of the new certificate.
            better = not works or (
                made.version != old.version and await self._connects(made.channel)
            )
        except BaseException:
            await made.channel.close(None)
            raise
        if self._channels.get(account) is not old or not better:
            await made.channel.close(None)
            return False
        if works:
            made.connected = True
            self._replace(account, old, made)
        else:
            self._channels[account] = made
            await old.channel.close(None)
        return True

    async def _connects(self, channel: Any) -> bool:
        """Whether a channel is up within the time of one attempt."""
        try:
            async with self._runtime.timeout(CONNECT_SECONDS):
                while channel.get_state(True) is not _READY:
                    await self._runtime.sleep(POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    async def drop(self, account: AccountId) -> None:
        """Forget a channel, so that the next call connects anew."""
        known = self._channels.pop(account, None)
        if known is not None:
            await known.channel.close(None)

    async def close(self) -> None:
        """Close all channels."""
        await end_tasks(*self._renewing.values())
        await self._retired.close()
        for account in list(self._channels):
            await self.drop(account)
