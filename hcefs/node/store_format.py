"""In which version of its format a node writes shards: the barrier of the ledger's protocol.

A shard stays where it is for years, and every node that may have to read it must know its
format.  So nodes write a newer one only when the ledger that they have applied says that all
of them are to know it: from ``PROTOCOL_BARRIER`` on version 2.

Invariant: before the first such shard is begun, the rows beside it say durably that the release
before must not open this folder.
Source: docs/decisions/0041-upgrades.md.
"""

from __future__ import annotations

import logging
import threading

from hcefs.formats.shard import VERSION_BOUND, VERSION_FIRST
from hcefs.ledger.block import PROTOCOL_BARRIER
from hcefs.ledger.state import StateView
from hcefs.store.interface import RowStore

log = logging.getLogger(__name__)


class ShardFormat:
    """The answer to ``shard_version`` of one node's store.  Thread-safe."""

    def __init__(self, ledger: StateView, rows: RowStore) -> None:
        self._ledger = ledger
        self._rows = rows
        self._lock = threading.Lock()
        self._raised = False

    def written(self) -> int:
        """The version that new shards have; blocks once, when it rises.

        Raises:
            HcefsError: the disk failed; nothing may be written in the newer version then.
        """
        if not self._raised:
            if not self._is_allowed():
                return VERSION_FIRST
            with self._lock:
                if not self._raised:
                    self._rows.raise_format()
                    log.info("new shards are written in version %d from here on", VERSION_BOUND)
                    self._raised = True
        return VERSION_BOUND

    def named(self) -> int:
        """The same for a report: it changes nothing."""
        return VERSION_BOUND if self._raised or self._is_allowed() else VERSION_FIRST

    def _is_allowed(self) -> bool:
        return self._ledger.protocol().at(self._ledger.height + 1) >= PROTOCOL_BARRIER
