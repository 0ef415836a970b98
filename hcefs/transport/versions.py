"""Versions on the wire, and what a process remembers of those of others.

Invariant: who was refused stays refused until it says something else of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hcefs.errors import HcefsError
from hcefs.ids import AccountId
from hcefs.metrics import Metrics
from hcefs.versions import OWN, RELEASE_BEFORE, Versions, require_talk, said
from hcefs.wire.v1 import versions_pb2


def versions_message(versions: Versions = OWN) -> versions_pb2.Versions:
    """As they go over the wire."""
    return versions_pb2.Versions(
        software=versions.software,
        protocol_oldest=versions.protocols.oldest,
        protocol_newest=versions.protocols.newest,
        shard_oldest=versions.shards.oldest,
        shard_newest=versions.shards.newest,
    )


def versions_in(message: Any) -> Versions:
    """What the sender of a message with a field ``versions`` says of itself."""
    if not message.HasField("versions"):
        return RELEASE_BEFORE
    found = message.versions
    return said(
        found.software,
        (found.protocol_oldest, found.protocol_newest),
        (found.shard_oldest, found.shard_newest),
    )


class PeerVersions:
    """Which of the others this process talks to.  Use it from one event loop."""

    def __init__(
        self, metrics: Metrics, protocol: Callable[[], int], *, mine: Versions = OWN
    ) -> None:
        """``protocol`` is the one that the ledger follows now, as this process knows it."""
        self._metrics = metrics
        self._protocol = protocol
        self._mine = mine
        self._refused: dict[AccountId, HcefsError] = {}

    def check(self, account: AccountId, who: str, theirs: Versions) -> None:
        """Take in what somebody says of itself.

        Raises:
            Conflict: ``version-refused``: this process does not talk to it.
        """
        try:
            require_talk(who, theirs, self._protocol(), self._mine)
        except HcefsError as error:
            self._refused[account] = error
            self._metrics.count("version_refused_total", what="peer")
            raise
        self._refused.pop(account, None)

    def require(self, account: AccountId) -> None:
        """Refuse who was refused by what it last said.

        Raises:
            Conflict: ``version-refused``.
        """
        refused = self._refused.get(account)
        if refused is not None:
            raise type(refused)(refused.message, reason=refused.reason)

    def keep(self, accounts: frozenset[AccountId]) -> None:
        """Forget all but these."""
        for account in self._refused.keys() - accounts:
            del self._refused[account]

    def warnings(self) -> list[str]:
        """Why others are refused."""
        return sorted(error.message for error in self._refused.values())
