"""How a command acts: as which account, by which grant.

The choice of a grant is a convenience; whether it permits the request is decided
by the nodes from the ledger, never here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from hcefs.access.facts import Action, Grant
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.options import action_names
from hcefs.client.client import Client
from hcefs.errors import Denied, NotFound
from hcefs.ids import AccountId, BlobId, GrantId, RecordId

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end."""
    return asyncio.run(coroutine)


@asynccontextmanager
async def client_of(layout: ClusterFolder, name: str) -> AsyncIterator[Client]:
    """A client for the account of that name.

    Raises:
        NotFound, Invalid: there is no such account, or no cluster.
    """
    keys = layout.load_keys(name)
    async with Client(layout.load_connection(), keys) as client:
        yield client


class Names:
    """Shows accounts by the names that this folder knows."""

    def __init__(self, layout: ClusterFolder) -> None:
        self._known = layout.known_names()

    def of(self, account: AccountId) -> str:
        """The account's name here, or its id."""
        return self._known.get(account, account.text)


def is_live(grant: Grant, now_ms: int) -> bool:
    """Whether a grant itself is in force; its parents are not looked at."""
    return not grant.revoked_height and grant.not_before_ms <= now_ms < grant.not_after_ms


def fits(
    grant: Grant, action: Action, purpose: str, blob: BlobId | None, start: int, length: int
) -> bool:
    """Whether a grant's scope covers a request; a request without a range takes what there is."""
    if not grant.actions & action or purpose not in grant.purposes:
        return False
    if grant.blob is not None and grant.blob != blob:
        return False
    if not grant.range_length or not (start or length):
        return True
    end = grant.range_start + grant.range_length
    return grant.range_start <= start and length > 0 and start + length <= end


def best_grant(grants: Iterable[Grant]) -> Grant | None:
    """The widest of some grants, and among equals the one that lasts longest."""
    return max(
        grants,
        key=lambda grant: (grant.blob is None, not grant.range_length, grant.not_after_ms),
        default=None,
    )


async def choose_grant(
    client: Client,
    named: str,
    record: RecordId,
    action: Action,
    purpose: str,
    *,
    blob: BlobId | None = None,
    start: int = 0,
    length: int = 0,
) -> GrantId | None:
    """The grant that is named; else None for the record's owner, else one that fits.

    An account that has only grants which do not fit uses the latest of them: the node
    then says what is wrong, and the attempt leaves its receipt.

    Raises:
        Invalid: the name is not a grant's id.
        Denied: ``no-such-grant``: this account has no grant on the record at all.
    """
    if named:
        return GrantId.parse(named)
    try:
        if (await client.record(record)).owner == client.account:
            return None
    except NotFound:
        pass  # unknown, or not for this account to know: its grants say more
    mine = [grant for grant in await client.grants() if grant.record == record]
    now = client.runtime.now_ms()
    chosen = best_grant(
        grant
        for grant in mine
        if is_live(grant, now) and fits(grant, action, purpose, blob, start, length)
    )
    if chosen is None and mine:
        chosen = max(mine, key=lambda grant: grant.height)
    if chosen is None:
        raise Denied(
            f"this account neither owns {record} nor has a grant on it: ask its owner for one to "
            f"{' or '.join(action_names(action))} for the purpose {purpose}",
            reason="no-such-grant",
        )
    return chosen.grant
