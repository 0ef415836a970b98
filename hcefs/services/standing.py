"""What a node serves at this moment by somebody's right, so that it ends with the right.

Every request that was admitted stands here with the rights that it rests on until its
handler has ended.  Rights are decided again when a block ends any (:meth:`Standing.sweep`)
and at least every ``PERMIT_MS``, which is how an expiry, and the end of the node's own
lease, are noticed.  A request whose right has ended is cut: its handler is cancelled, so
that it reads, opens and sends nothing more, whether or not its client takes what was sent.

Invariants: a request is cut for a decision of :mod:`hcefs.access.rights` or of the lease,
never for a guess; a request that was cut leaves only when its lanes and files are closed;
nothing runs here while nothing is served.

Not guaranteed: that bytes which gRPC has taken already, at most one message and what the
connection's window holds, do not arrive after the cut.

Source: docs/decisions/0033-revocation-certificates.md.  For one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any, Protocol

from hcefs import tracing
from hcefs.errors import HcefsError
from hcefs.ids import GrantId
from hcefs.runtime import Runtime, end_tasks

PERMIT_MS = 500
"""What is being served is decided again after each block that ends a right, and this often."""

log = logging.getLogger(__name__)


class Permission(Protocol):
    """A right that a request rests on."""

    @property
    def grants(self) -> Collection[GrantId]:
        """The grants that its tokens use; a zero id stands for an owner's own right."""

    def again(self) -> None:
        """Decide again, now.

        Raises:
            Denied, Unavailable: it has ended, or this node may not decide.
        """


class Served:
    """One request while its handler runs."""

    def __init__(self) -> None:
        self.permissions: list[Permission] = []
        self.ended: HcefsError | None = None
        """Why it was cut."""

        self.left = asyncio.Event()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._standing: Standing | None = None

    def stands(self, permission: Permission, standing: Standing) -> None:
        """Note a right that this request rests on from now on."""
        self.permissions.append(permission)
        self._standing = standing

    def cut(self, why: HcefsError) -> None:
        """End its handler with an error; a second time does nothing."""
        if self.ended is None and self._task is not None:
            self.ended = why
            self._task.cancel()

    def taken_back(self) -> bool:
        """Whether a cancellation of the handler was this cut alone, not also its caller's."""
        return self.ended is not None and self._task is not None and not self._task.uncancel()

    def leave(self) -> None:
        """The handler has ended and holds nothing any more."""
        if self._standing is not None:
            self._standing.forget(self)
        self.left.set()


SERVED: ContextVar[Served | None] = ContextVar("served", default=None)
"""The request that this task serves."""


class Standing:
    """The requests of one node that were admitted and have not ended."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._served: set[Served] = set()
        self._ticker: Any = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._served)

    def all(self) -> tuple[Served, ...]:
        """Every request that has not ended, those included that were cut and still close."""
        return tuple(self._served)

    def enter(self, permission: Permission) -> None:
        """Let the request of this task rest on a right; without a request, do nothing."""
        served = SERVED.get()
        if served is None or self._closed:
            return
        served.stands(permission, self)
        self._served.add(served)
        if self._ticker is None:
            self._ticker = self._runtime.spawn(self._tick(), name="standing-requests")

    def forget(self, served: Served) -> None:
        """A request has ended."""
        self._served.discard(served)

    def sweep(self) -> list[Served]:
        """Decide everything again, and cut what may not go on; what was cut just now.

        It neither blocks nor raises: the follower calls it with each block.
        """
        cut = []
        for served in list(self._served):
            if served.ended is not None:
                continue
            try:
                for permission in served.permissions:
                    permission.again()
            except HcefsError as error:
                served.cut(error)
                cut.append(served)
        if cut:
            log.info("%d requests were cut because their right has ended", len(cut))
        return cut

    async def _tick(self) -> None:
        tracing.detach()
        try:
            while self._served:
                await self._runtime.sleep(PERMIT_MS / 1000)
                self.sweep()
        finally:
            self._ticker = None

    async def close(self) -> None:
        """Stop deciding again; no request may begin any more."""
        self._closed = True
        await end_tasks(self._ticker)
