"""What a node does when a grant is revoked, and the word that it gives on it.

Owns the moment after a block: tokens that use a dead right are forgotten, requests that
rest on one are cut, and it is remembered how many, for who asks.  Invariants: a
statement is signed only when the block is applied, the grant is dead in the state, no
request under it or below it is left, and no verified token that uses one is kept.

Not guaranteed: the counts of a process that has restarted since; it served nothing and
remembered nothing before, so they begin at 0.

Source: docs/decisions/0033-revocation-certificates.md.  For one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from hcefs.access.facts import Grant, LedgerView
from hcefs.access.rights import CHAIN_DEPTH_MAX
from hcefs.access.token import TokenCache, Use
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Conflict, NotFound, Unavailable
from hcefs.evidence.revocation import RevocationStatement, SignedStatement
from hcefs.ids import ClusterId, GrantId
from hcefs.ledger.block import Block
from hcefs.ledger.follower import Follower
from hcefs.ledger.outcome import (
    AccountChanged,
    Event,
    GenerationAdded,
    GrantGiven,
    GrantRevoked,
    LeafAppended,
    MapChanged,
)
from hcefs.runtime import Runtime
from hcefs.services.standing import Served, Standing

REMEMBERED_MAX = 4096
"""Revocations whose counts are remembered."""

CUT_SECONDS = 5.0
"""How long to wait for requests that were cut; they close lanes and files."""

HARMLESS = (LeafAppended, GrantGiven, GenerationAdded, MapChanged)
"""What ends no right; whatever else happens is taken to end some."""


@dataclass
class _Ended:
    """What one revocation ended here."""

    tokens: int = 0
    cut: int = 0


class Revocations:
    """Follows the ledger's revocations for one node."""

    def __init__(
        self,
        runtime: Runtime,
        follower: Follower,
        standing: Standing,
        tokens: TokenCache,
        cluster: ClusterId,
        keys: AccountKeys,
    ) -> None:
        """``keys`` are those of the node's account, which signs its statements."""
        self._runtime = runtime
        self._follower = follower
        self._standing = standing
        self._tokens = tokens
        self._cluster = cluster
        self._keys = keys
        self._ended: OrderedDict[GrantId, _Ended] = OrderedDict()
        follower.subscribe(self.applied)

    def applied(self, block: Block, events: tuple[Event, ...]) -> None:
        """A block is in force: forget and cut what it ended."""
        ending = [event for event in events if not isinstance(event, HARMLESS)]
        if not ending:
            return
        revoked: list[tuple[GrantId, _Ended]] = []
        for event in ending:
            if isinstance(event, GrantRevoked):
                revoked.append((event.grant.grant, self._forget_tokens(event.grant.grant)))
            elif isinstance(event, AccountChanged):
                account = event.account.account
                self._tokens.forget(lambda use, account=account: use.account == account)  # type: ignore[misc]
        view = self._follower.view
        for served in self._standing.sweep():
            for grant, ended in revoked:
                if _rests_on(view, served, grant):
                    ended.cut += 1

    def _forget_tokens(self, grant: GrantId) -> _Ended:
        view = self._follower.view

        def concerned(use: Use) -> bool:
            return stands_under(view, use.grant, grant)

        ended = self._ended.setdefault(grant, _Ended())
        ended.tokens += self._tokens.forget(concerned)
        if len(self._ended) > REMEMBERED_MAX:
            self._ended.popitem(last=False)
        return ended

    async def confirm(self, wanted: GrantId, height: int) -> SignedStatement:
        """This node's word that a revocation is in force on it, once it is.

        Raises:
            Unavailable: ``behind``, or what ended this node's service; ``not-cut-yet``.
            Conflict: ``not-revoked``: not at that height.
            NotFound: ``no-map``: there is no map by which this node would count.
        """
        await self._follower.require(height)
        view = self._follower.view
        grant = view.grant(wanted)
        if grant is None or not grant.revoked_height or grant.revoked_height != height:
            raise Conflict(
                "the ledger did not revoke this grant at that height: ask it for the grant",
                reason="not-revoked",
            )
        await self._gone(view, grant)
        current = view.cluster_map()
        tip = view.tip
        if current is None or tip is None:
            raise NotFound("the ledger has no cluster map yet", reason="no-map")
        # After the wait: a token may have been looked at for a request that was refused.
        ended = self._forget_tokens(wanted)
        statement = RevocationStatement(
            cluster=self._cluster,
            node=self._keys.account,
            key_version=self._keys.key_version,
            grant=wanted,
            revoked_height=grant.revoked_height,
            applied_height=tip.height,
            applied_hash=tip.hash(),
            epoch=current.epoch,
            map_digest=current.digest(),
            streams_cut=ended.cut,
            tokens_dropped=ended.tokens,
            time_ms=self._runtime.now_ms(),
        )
        return statement.signed(self._keys.signing_key)

    async def _gone(self, view: LedgerView, grant: Grant) -> None:
        """Wait until nothing is served under the grant any more."""
        self._standing.sweep()
        try:
            async with self._runtime.timeout(CUT_SECONDS):
                for served in self._standing.all():
                    if _rests_on(view, served, grant.grant):
                        await served.left.wait()
        except TimeoutError:
            raise Unavailable(
                "a request under the revoked grant is cut and still closes its files: ask again",
                reason="not-cut-yet",
            ) from None


def stands_under(view: LedgerView, grant: GrantId, above: GrantId) -> bool:
    """Whether a grant is ``above`` or was given under it."""
    link: GrantId | None = grant
    for _ in range(CHAIN_DEPTH_MAX):
        if not link:
            return False
        if link == above:
            return True
        found = view.grant(link)
        link = None if found is None else found.parent
    return False


def _rests_on(view: LedgerView, served: Served, grant: GrantId) -> bool:
    return any(stands_under(view, used, grant) for used in _used(served))


def _used(served: Served) -> Iterable[GrantId]:
    for permission in served.permissions:
        yield from permission.grants
