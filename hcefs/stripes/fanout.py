"""Rows that live on all n seats of a partition: write to all, read from any.

Owns how many seats must agree: a write is acknowledged from k+1 durable copies
on (as for shards), those of stand-ins among them where seats are away; a manifest is
taken from the first seat whose rows prove themselves, and a seat that is slow is hedged
around; listings and boxes are the union over all seats that answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from hcefs.erasure.scheme import PROFILES, Profile
from hcefs.errors import Corrupt, HcefsError, NotFound, Unavailable
from hcefs.formats.manifest import Core, KeyRow, Layout, Opening
from hcefs.ids import AccountId, RecordId
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime, end_tasks, is_cancelled
from hcefs.stripes.checks import Replica, check_layout
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.reseat import MOVED, RESEATS_MAX, Reseat
from hcefs.stripes.standby import Standby, is_own_fault
from hcefs.transport.peers import Call, ManifestRows, Peer, Peers

SEAT_SECONDS = 5.0
T = TypeVar("T")
log = logging.getLogger(__name__)


async def _with(call: Call, action: Callable[[Peer, Call], Awaitable[None]], peer: Peer) -> None:
    await action(peer, call)


@dataclass(frozen=True)
class Manifest:
    """A blob's rows, checked against each other and against the ledger."""

    core: Core
    layout: Layout
    key_row: KeyRow | None
    opening: Opening
    rows: ManifestRows


class Fanout:
    """Calls all seats of a partition.

    Without a ``replica`` (a client in direct mode) it only stores.
    """

    def __init__(
        self,
        runtime: Runtime,
        peers: Peers,
        replica: Replica | None,
        reseat: Reseat | None = None,
        standby: Standby | None = None,
    ) -> None:
        self.reseat = reseat
        self.standby = standby
        self._runtime = runtime
        self._peers = peers
        self._replica = replica
        self._hedge = HedgeTimer()

    async def store(
        self,
        seats: Sequence[Seat],
        profile: Profile,
        call: Call,
        action: Callable[[Peer, Call], Awaitable[None]],
    ) -> int:
        """Run ``action`` on the peer of every seat of the call's record; how many succeeded.

        Raises:
            Unavailable: fewer than k+1 seats have it.
            HcefsError: a refusal that concerns the request itself.
        """
        errors = await self.complete(seats, call, set(), action)
        durable = len(seats) - len(errors)
        require_durable(durable, len(seats), profile, errors)
        return durable

    async def complete(
        self,
        seats: Sequence[Seat],
        call: Call,
        done: set[AccountId],
        action: Callable[[Peer, Call], Awaitable[None]],
    ) -> list[HcefsError]:
        """Run ``action`` on the peer of every seat whose node is not in ``done``.

        ``seats`` are of the call's record.  Nodes that succeed are added to ``done``; when a
        stand-in does, the node whose place it takes is added, too.  When the map moved
        meanwhile, the seats of the newer one take their place.  Returns the failures of
        the last round.
        """
        taken = {seat.node.account for seat in seats} | done
        for _ in range(RESEATS_MAX):
            left = [seat for seat in seats if seat.node.account not in done]
            results = await asyncio.gather(
                *(self._kept(seat, call, action, taken, done) for seat in left)
            )
            errors = [result for result in results if result is not None]
            if self.reseat is None or not any(error.reason in MOVED for error in errors):
                break
            try:
                epoch, seats = await self.reseat("", bytes(call.record), call.epoch)
            except HcefsError:
                break  # the failures say enough
            call = replace(call, epoch=epoch)
            taken |= {seat.node.account for seat in seats}
        return errors

    async def _kept(
        self,
        seat: Seat,
        call: Call,
        action: Callable[[Peer, Call], Awaitable[None]],
        taken: set[AccountId],
        done: set[AccountId],
    ) -> HcefsError | None:
        """Run ``action`` on a seat's peer, or on that of who stands in for it; why neither did."""
        standby, name = self.standby, bytes(call.record)
        failure: HcefsError | None = None
        tried = False
        at: Seat | None = seat
        if standby is not None and standby.is_away(seat.node):
            at = standby.seat("", name, seat, taken)
        while True:
            if at is None:
                if tried:
                    return failure
                at = seat  # it was passed over, and nobody else is left
            tried = tried or at is seat
            taken.add(at.node.account)
            asking = replace(call, stand_in=at.absent is not None)
            result = await self._one(at, partial(_with, asking, action))
            if not isinstance(result, HcefsError):
                if standby is not None:
                    standby.heard(at.node)
                done |= {at.node.account, seat.node.account}
                return None
            failure = result
            if standby is None or not is_own_fault(result):
                return result
            standby.note(at.node, result)
            at = standby.seat("", name, seat, taken)

    async def load(
        self,
        seats: Sequence[Seat],
        action: Callable[[Peer], Awaitable[T]],
        record: RecordId | None = None,
    ) -> list[T]:
        """Run ``action`` on every seat's peer; the answers of those that gave one.

        When one of them gives none, those that stand in for seats of ``record`` are asked
        as well: of the k + 1 copies of a row that were acknowledged one at least is at a
        seat, so where all seats answer nothing is missing.

        Raises:
            Unavailable: none did.
            HcefsError: all refused, and this is why.
        """
        results = await asyncio.gather(*(self._one(seat, action) for seat in seats))
        if record is not None and any(isinstance(each, HcefsError) for each in results):
            others = self.standing_in("", bytes(record))
            found = await asyncio.gather(*(self._one(seat, action) for seat in others))
            # What they do not answer, a seat may.
            results += [each for each in found if not isinstance(each, HcefsError)]
        errors = [result for result in results if isinstance(result, HcefsError)]
        answers = [result for result in results if not isinstance(result, HcefsError)]
        if not answers:
            for error in errors:
                if not error.retryable:
                    raise error
            raise Unavailable("no seat of this record answers; retry later", reason="no-seat")
        return answers

    def standing_in(self, profile: str, name: bytes) -> list[Seat]:
        """Who may have something in the place of a seat, as seats of no index."""
        nodes = self.standby.nodes(profile, name) if self.standby is not None else ()
        return [Seat(-1, -1, node) for node in nodes]

    async def _one(self, seat: Seat, action: Callable[[Peer], Awaitable[T]]) -> T | HcefsError:
        try:
            async with self._runtime.timeout(SEAT_SECONDS):
                return await action(self._peers.peer(seat.node))
        except HcefsError as error:
            return error
        except TimeoutError:
            return Unavailable("the seat does not answer", reason="stalled")
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            return Unavailable("the connection to the seat was closed", reason="cancelled")

    async def _in_turn(
        self, seats: Sequence[Seat], action: Callable[[Peer], Awaitable[T]]
    ) -> AsyncGenerator[tuple[Seat, T | HcefsError], None]:
        """Ask one seat after the other until the caller has enough; the answers as they come.

        A seat that takes longer than the hedge delay is not waited for alone: the next
        one is asked as well.
        """
        waiting = list(seats)
        asked: dict[asyncio.Task[T | HcefsError], Seat] = {}
        try:
            while waiting or asked:
                if waiting:
                    seat = waiting.pop(0)
                    task = self._runtime.spawn(self._timed(seat, action), name="seat")
                    asked[task] = seat
                done, _ = await asyncio.wait(
                    asked,
                    timeout=self._hedge.delay_seconds if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    yield asked.pop(task), task.result()
        finally:
            await end_tasks(*asked)

    async def _timed(self, seat: Seat, action: Callable[[Peer], Awaitable[T]]) -> T | HcefsError:
        """One call.  Its own time is entered, not that of the seats that were late before it:
        else the delay would grow by itself."""
        started = self._runtime.monotonic()
        result = await self._one(seat, action)
        if not isinstance(result, HcefsError):
            self._hedge.observe(self._runtime.monotonic() - started)
        return result

    async def manifest(
        self, seats: Sequence[Seat], call: Call, refused: Collection[bytes] = ()
    ) -> Manifest:
        """The manifest from the first seat that has an intact one, this node's own first.

        ``refused`` are layouts (canonical bytes) that proved useless before: any node
        may sign a layout, so a lying holder may have made one up.

        Raises:
            NotFound: no seat knows a committed blob of this id and record.
            Unavailable: seats that might know it do not answer.
            Corrupt: only damaged rows were found.
        """
        errors: list[HcefsError] = []
        shredded: Manifest | None = None
        answers = self._in_turn(seats, lambda peer: peer.load_manifest(call))
        async with aclosing(answers):
            async for seat, result in answers:
                if isinstance(result, HcefsError):
                    errors.append(result)
                    continue
                if result.layout in refused:
                    continue
                try:
                    manifest = self.checked(call, result)
                except HcefsError as bad:
                    log.error(
                        "request %s: node %d has a bad manifest of %s: %s",
                        call.request,
                        seat.node.node_id,
                        call.blob,
                        bad.reason,
                    )
                    errors.append(bad)
                    continue
                if manifest.key_row is not None:
                    return manifest
                shredded = manifest
        if shredded is not None:
            return shredded
        for kind in ("corrupt", "unavailable", "exhausted"):
            for error in errors:
                if error.kind == kind:
                    raise error
        raise errors[0] if errors else NotFound("this blob is unknown", reason="unknown-blob")

    def checked(self, call: Call, rows: ManifestRows) -> Manifest:
        """Check rows of another node against each other and against the own replica.

        Raises:
            Corrupt, NotFound: they do not prove themselves.
        """
        core, layout = Core.decode(rows.core), Layout.decode(rows.layout)
        opening = Opening.decode(rows.opening)
        key_row = KeyRow.decode(rows.key_row) if rows.key_row else None
        core.check()
        if self._replica is None:
            raise Unavailable("manifests are proved by a node's replica", reason="no-replica")
        check_layout(self._replica, layout, core.writer)
        if (
            core.blob != call.blob
            or core.record != call.record
            or opening.blob != core.blob
            or opening.record != core.record
            or opening.core_digest != core.digest()
            or layout.base != core.blob.base
            or layout.record != core.record
            or not layout_fits(core, layout)
            or (
                key_row is not None and (key_row.blob != core.blob or key_row.record != core.record)
            )
        ):
            raise Corrupt("the rows of a manifest do not fit together", reason="rows-disagree")
        if self._replica.leaf_index(core.record, opening.commitment()) is None:
            raise NotFound("this blob is not committed on the ledger", reason="not-committed")
        return Manifest(core, layout, key_row, opening, rows)


def require_durable(
    durable: int, total: int, profile: Profile, errors: Sequence[HcefsError]
) -> None:
    """Check that enough seats have a row.

    Raises:
        Unavailable: fewer than k+1 seats have it.
        HcefsError: a refusal that concerns the request itself.
    """
    if durable > profile.k:
        return
    for error in errors:
        if not error.retryable:
            raise error
    raise Unavailable(
        f"only {durable} of {total} seats are reachable and {profile.k + 1} are needed; "
        "retry later",
        reason="too-few-holders",
    )


def layout_fits(core: Core, layout: Layout) -> bool:
    """Whether the layout is of a profile that the core may lie under, and binds its data.

    The first layout has the k of the core.  A later one may have another: then its digests
    prove nothing by themselves, and the data must (it opens, or gives the core's digests).
    """
    profile = PROFILES.get(layout.profile)
    if profile is None or len(layout.shard_digests) != profile.n:
        return False
    if profile.k == core.k:
        return layout.shard_digests[: core.k] == core.data_digests
    return layout.version > 1
