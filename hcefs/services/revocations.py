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
from collections.abc import Collection
from dataclasses import dataclass

from hcefs.access.rights import CHAIN_DEPTH_MAX
from hcefs.access.token import TokenCache, Use
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import Conflict, NotFound, Unavailable
from hcefs.evidence.revocation import RevocationStatement, SignedStatement
from hcefs.ids import AccountId, ClusterId, GrantId
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

CHAINS_MAX = 8192
"""Grants whose chain up to the owner is remembered."""

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
        self._chains: dict[GrantId, tuple[GrantId, ...]] = {}
        follower.subscribe(self.applied)

    def applied(self, block: Block, events: tuple[Event, ...]) -> None:
        """A block is in force: forget and cut what it ended."""
        ending = [event for event in events if not isinstance(event, HARMLESS)]
        if not ending:
            return
        revoked = {event.grant.grant for event in ending if isinstance(event, GrantRevoked)}
        accounts = {event.account.account for event in ending if isinstance(event, AccountChanged)}
        self._forget_tokens(revoked, accounts)
        for served in self._standing.sweep():
            for grant in revoked.intersection(self._rests_on(served)):
                self._ended_by(grant).cut += 1

    def _forget_tokens(
        self, revoked: Collection[GrantId], accounts: Collection[AccountId] = ()
    ) -> None:
        """Forget what uses one of these grants, or one below it, or is of such an account.

        One pass over the tokens for all of a block.
        """

        def concerned(use: Use) -> bool:
            dead = [grant for grant in self._chain(use.grant) if grant in revoked]
            for grant in dead:
                self._ended_by(grant).tokens += 1
            return bool(dead) or use.account in accounts

        self._tokens.forget(concerned)

    def _ended_by(self, grant: GrantId) -> _Ended:
        ended = self._ended.setdefault(grant, _Ended())
        if len(self._ended) > REMEMBERED_MAX:
            self._ended.popitem(last=False)
        return ended

    def _chain(self, grant: GrantId) -> tuple[GrantId, ...]:
        """A grant and those that it was given under; that never changes."""
        known = self._chains.get(grant)
        if known is not None:
            return known
        chain: list[GrantId] = []
        link: GrantId | None = grant
        while link and len(chain) < CHAIN_DEPTH_MAX:
            chain.append(link)
            found = self._follower.view.grant(link)
            if found is None:
                return tuple(chain)  # it may still come
            link = found.parent
        if len(self._chains) >= CHAINS_MAX:
            self._chains.clear()
        self._chains[grant] = tuple(chain)
        return tuple(chain)

    def _rests_on(self, served: Served) -> set[GrantId]:
        """Every grant, with all above it, that a request rests on."""
        return {
            above
            for permission in served.permissions
            for used in permission.grants
            for above in self._chain(used)
        }

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
        await self._gone(wanted)
        current = view.cluster_map()
        tip = view.tip
        if current is None or tip is None:
            raise NotFound("the ledger has no cluster map yet", reason="no-map")
        # After the wait: a token may have been looked at for a request that was refused.
        self._forget_tokens({wanted})
        ended = self._ended_by(wanted)
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

    async def _gone(self, grant: GrantId) -> None:
        """Wait until nothing is served under the grant any more."""
        self._standing.sweep()
        try:
            async with self._runtime.timeout(CUT_SECONDS):
                for served in self._standing.all():
                    if grant in self._rests_on(served):
                        await served.left.wait()
        except TimeoutError:
            raise Unavailable(
                "a request under the revoked grant is cut and still closes its files: ask again",
                reason="not-cut-yet",
            ) from None
