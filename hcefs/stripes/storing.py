"""Nothing of an erased record is stored here, however long ago its store began.

A holder decides from the ledger at its own height, and stores a moment later; the block that
erases the record may come in between.  So whoever stores enters here first, looks then
(:func:`require_living`), and leaves when it is durable; the eraser, which has seen the
erasure on the ledger, waits for those who entered before it (:meth:`Storing.barrier`) and
looks for rows after that.

Invariant: of a store and an erasure, either the store is refused, or the eraser finds what it
stored.  **The ledger is the tombstone**: a node that was away refuses from the moment at
which it has applied the block, and nobody has to tell it.

Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

from hcefs.access.erasure_facts import Erasure
from hcefs.errors import NotFound
from hcefs.ids import RecordId

ERASED = "erased"


class Tombs(Protocol):
    """What tells that a record was erased."""

    def erasure(self, record: RecordId) -> Erasure | None:
        """That a record was erased, or None."""


def require_living(view: Tombs, record: RecordId) -> None:
    """Check that a record is not erased.

    Raises:
        NotFound: ``erased``.
    """
    erasure = view.erasure(record)
    if erasure is not None:
        raise NotFound(
            f"the record was erased at height {erasure.height}: nothing of it is kept or given",
            reason=ERASED,
        )


class Storing:
    """Who is storing rows of records on one node now.  Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: set[int] = set()
        self._next = 0

    @contextlib.contextmanager
    def of(self, view: Tombs, records: Iterable[RecordId]) -> Iterator[None]:
        """Store something of these records: from the look at the ledger to the last write.

        Keep it short, within one job of a disk thread: the eraser waits for it.

        Raises:
            NotFound: ``erased``: one of them is.
        """
        with self._condition:
            ticket, self._next = self._next, self._next + 1
            self._inside.add(ticket)
        try:
            for record in records:
                require_living(view, record)
            yield
        finally:
            with self._condition:
                self._inside.discard(ticket)
                self._condition.notify_all()

    def barrier(self) -> None:
        """Wait until everybody who is storing now has ended.  For a disk thread."""
        with self._condition:
            before = set(self._inside)
            self._condition.wait_for(lambda: not before & self._inside)
