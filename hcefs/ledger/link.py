"""The way from a follower to the writer: what a link must do, and one inside a process.

Invariant: a link carries bytes and verifies nothing; the follower verifies all of it,
so that any relay may stand between.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from hcefs.ids import AccountId
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.terms import SignedTermChange
from hcefs.ledger.writer import LedgerWriter
from hcefs.runtime import Runtime, end_tasks


@dataclass(frozen=True)
class BlockBytes:
    """An encoded ``Block`` as it arrives."""

    data: bytes


@dataclass(frozen=True)
class HeadBytes:
    """An encoded ``SignedHead`` as it arrives."""

    data: bytes


@dataclass(frozen=True)
class TermBytes:
    """An encoded ``SignedTermChange`` as it arrives; it comes before the blocks of its term."""

    data: bytes


class LedgerLink(Protocol):
    """The way to the writer, or to whoever relays its blocks."""

    def follow(
        self, from_height: int, acknowledgements: AsyncIterator[int]
    ) -> AsyncGenerator[BlockBytes | HeadBytes | TermBytes, None]:
        """Blocks from ``from_height`` on in order, then new blocks and heads as they come.

        ``acknowledgements`` yields the persisted height, first the present one and
        then each time it has grown; the link sends them to the writer.  The link
        may end or raise at any time (``HcefsError`` or ``OSError``); the follower
        then calls it again after a pause.  Closing the iterator ends the call.
        """


class LocalLink:
    """The way to a writer in this process, for the follower of ``account``."""

    def __init__(self, writer: LedgerWriter, account: AccountId, runtime: Runtime) -> None:
        self._writer = writer
        self._account = account
        self._runtime = runtime

    async def follow(
        self, from_height: int, acknowledgements: AsyncIterator[int]
    ) -> AsyncGenerator[BlockBytes | HeadBytes | TermBytes, None]:
        """See :class:`LedgerLink`."""
        acknowledging = self._runtime.spawn(
            self._acknowledge(acknowledgements), name="ledger-acknowledgements"
        )
        try:
            async with contextlib.aclosing(
                self._writer.subscribe(from_height, self._account)
            ) as feed:
                async for item in feed:
                    yield _message(item)
        finally:
            await end_tasks(acknowledging)

    async def _acknowledge(self, heights: AsyncIterator[int]) -> None:
        async for height in heights:
            self._writer.acknowledge(self._account, height)


def _message(item: Block | SignedHead | SignedTermChange) -> BlockBytes | HeadBytes | TermBytes:
    match item:
        case Block():
            return BlockBytes(item.encode())
        case SignedHead():
            return HeadBytes(item.encode())
        case SignedTermChange():
            return TermBytes(item.encode())
