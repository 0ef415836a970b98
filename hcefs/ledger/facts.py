"""Facts of a log, remembered by the key of their row until a write changes it.

Invariant: what is remembered is what the database holds.  A write forgets its keys
after it is in the database and before its height is told; a reader keeps what it read
only if no write came since it began to read.  So an old fact is served to nobody who
has seen the height that changed it, and is kept by nobody.

Not guaranteed: that anything is remembered.  What is absent never is, because whoever
asks for ids that do not exist must not push out those that do; nor is what may be large.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from hcefs.access.emergency import EmergencyNaming, EmergencyPolicy
from hcefs.access.facts import Account, Generation, Grant, PastKeys, Record
from hcefs.encoding import Encoded
from hcefs.ledger.cluster_facts import (
    Arrivals,
    ProtocolSchedule,
    ReceiptAnchor,
    ReportRow,
    UpkeepPolicy,
)

FACTS_MAX = 8192
"""Most facts remembered; the one that was kept first makes room."""

_REMEMBERED = frozenset(
    (
        Account,
        Arrivals,
        EmergencyNaming,
        EmergencyPolicy,
        Generation,
        Grant,
        PastKeys,
        ProtocolSchedule,
        ReceiptAnchor,
        Record,
        ReportRow,
        UpkeepPolicy,
    )
)


class FactMemory:
    """The memory of one log.  Safe from any thread."""

    def __init__(self) -> None:
        self._facts: dict[bytes, Encoded] = {}
        self._changing = threading.Lock()
        self._writes = 0

    @property
    def writes(self) -> int:
        """A number that grows with each write; taken before a row is read, given to ``keep``."""
        return self._writes

    def get(self, key: bytes) -> Encoded | None:
        """The fact of a key, if it is remembered."""
        return self._facts.get(key)

    def keep(self, key: bytes, fact: Encoded, writes: int) -> None:
        """Remember what was read, unless something was written since ``writes``."""
        with self._changing:
            if writes == self._writes:
                self._put(key, fact)

    def change(self, facts: Mapping[bytes, Encoded | None]) -> None:
        """Take what was written: the new facts, None for what is to be read again."""
        with self._changing:
            self._writes += 1
            for key, fact in facts.items():
                # Taken out first, so that it is the youngest again.
                self._facts.pop(key, None)
                if fact is not None:
                    self._put(key, fact)

    def forget(self) -> None:
        """Forget everything: after a failed write nobody knows what the rows are."""
        with self._changing:
            self._writes += 1
            self._facts.clear()

    def _put(self, key: bytes, fact: Encoded) -> None:
        if type(fact) not in _REMEMBERED:
            return
        self._facts[key] = fact
        if len(self._facts) > FACTS_MAX:
            del self._facts[next(iter(self._facts))]
