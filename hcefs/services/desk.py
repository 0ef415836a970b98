"""A node's front desk: is the node able to answer, who asks, may they, who holds what.

One object that all servicers of a node share, so that every request takes the
same path: lease and height first, then the map, then proof and token, then the
decision, then its receipt: whoever is handed a call has evidence of it on the disk.
Source: docs/ARCHITECTURE.md, "Rights" and "Evidence".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hcefs import tracing
from hcefs.access.facts import Action, LedgerView
from hcefs.access.verifier import Presented, Verifier, nobody
from hcefs.crypto.signing import SignedProof
from hcefs.erasure.scheme import Profile, profile_named
from hcefs.errors import (
    Conflict,
    Denied,
    HcefsError,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hcefs.ids import AccountId, BlobBase, BlobId, GrantId, RecordId, RequestId
from hcefs.ledger.follower import Follower
from hcefs.placement.cluster_map import ClusterMap, Node, NodeState
from hcefs.placement.ring import Seat, seats
from hcefs.placement.stand_ins import record_stand_ins, stand_ins
from hcefs.runtime import Runtime
from hcefs.services.evidence import Evidence, draft_of
from hcefs.services.rates import Rates
from hcefs.services.serving import CLOSING
from hcefs.services.standing import PERMIT_MS, Standing
from hcefs.services.strangers import at_its_time, told
from hcefs.stripes.fanout import Fanout, Manifest
from hcefs.stripes.reseat import other_epoch
from hcefs.transport.limit import Gate
from hcefs.transport.peers import Call
from hcefs.transport.tls import peer_spki
from hcefs.transport.versions import PeerVersions
from hcefs.versions import Versions

ACTIONS = {
    "put": Action.APPEND,
    "get": Action.READ,
    "stat": Action.READ,
    "list": Action.READ,
    "boxes": Action.READ,
    "audit": Action.READ,
    "put-box": Action.SHARE,
    "direct-put": Action.APPEND,
    "direct-get": Action.READ,
}
"""The right that each method needs."""

STORING = frozenset({"put", "put-box", "direct-put", "put-many"})
"""Methods that store, so that the map must be the one of the caller."""

MAP_SECONDS = 3.0
"""How long to wait for a map that another node has already."""

SERVING = frozenset({NodeState.JOINING, NodeState.UP, NodeState.DOWN, NodeState.DRAINING})
GIVING = SERVING | {NodeState.OUT}
"""States of nodes that may still give to others what they have."""

STRANGERS_MAX = 8


def blob_id(data: bytes) -> BlobId | None:
    """A blob id from the network; empty means none."""
    return BlobId(data) if data else None


@dataclass(frozen=True)
class Asked:
    """What a request says about itself, before anything is checked."""

    token: bytes
    proof: bytes
    method: str
    record: RecordId
    blob: BlobId | None
    range_start: int
    range_length: int
    min_height: int
    epoch: int
    request: RequestId


class Reaching(Protocol):
    """What decides whether a node can answer a request at all."""

    @property
    def proof(self) -> bytes:
        """The presenter's signed proof."""

    @property
    def min_height(self) -> int:
        """The ledger height that must have been applied."""

    @property
    def method(self) -> str:
        """The method that the proof names."""

    @property
    def epoch(self) -> int:
        """The epoch of the caller's map, or 0."""

    @property
    def request(self) -> RequestId:
        """The request's name in logs."""


class Permit:
    """The standing permission of one request: decides again while a stream runs.

    Called before each message, it decides at every new height and at least every
    ``PERMIT_MS``; :class:`Standing` decides whether or not messages come.
    """

    def __init__(
        self,
        desk: Desk,
        presented: Presented,
        action: Action,
        height: int,
        decided_ms: int,
        owner: bool = False,
    ) -> None:
        """``height`` and ``decided_ms`` are those of the decision that admitted it."""
        self._owner = owner
        self._desk = desk
        self._presented = presented
        self._action = action
        self._height = height
        self._decided_ms = decided_ms

    def __call__(self) -> None:
        """Raise when the right has ended or the lease has run out.

        Raises:
            Denied, Unavailable: why the stream must end.
        """
        now = self._desk.runtime.now_ms()
        height = self._desk.view.height
        if height == self._height and now - self._decided_ms < PERMIT_MS:
            return
        self.again()

    @property
    def grants(self) -> tuple[GrantId, ...]:
        """See :class:`hcefs.services.standing.Permission`."""
        return (self._presented.use.grant,)

    def again(self) -> None:
        """Decide now.

        Raises:
            Denied, Unavailable: why the stream must end.
        """
        now = self._desk.runtime.now_ms()
        height = self._desk.view.height
        self._desk.follower.require_fresh()
        if self._owner:
            self._desk.verifier.authorize_owner(self._presented, self._action, now)
        else:
            self._desk.verifier.authorize(self._presented, self._action, now)
        self._height, self._decided_ms = height, now


class Desk:
    """Shared by the servicers of one node."""

    def __init__(
        self,
        runtime: Runtime,
        follower: Follower,
        verifier: Verifier,
        fanout: Fanout,
        me: AccountId,
        rates: Rates,
        evidence: Evidence,
    ) -> None:
        self.runtime = runtime
        self.rates = rates
        self.follower = follower
        self.verifier = verifier
        self.fanout = fanout
        self.me = me
        self.versions: PeerVersions | None = None
        self.standing = Standing(runtime)
        self.evidence = evidence
        self._strangers = Gate("waiting strangers", STRANGERS_MAX, runtime)
        self._spki: dict[bytes, Node] = {}
        self._spki_epoch = 0
        self._spki_height = 0
        self.settled: Callable[[], None] = lambda: None
        """Raises ``Unavailable`` while this node has to catch up before it serves."""

    @property
    def view(self) -> LedgerView:
        """The node's replica of the ledger."""
        return self.follower.view

    def cluster_map(self, states: Collection[NodeState] = SERVING) -> ClusterMap:
        """The current map, in which this node has one of some states.

        Raises:
            Unavailable: there is none yet, it does not name this node, or this node has to
                catch up first.
        """
        self.settled()
        current = self.follower.view.cluster_map()
        if current is None:
            raise Unavailable(
                "the ledger has no cluster map yet; the operators set one", reason="no-map"
            )
        node = current.node_of_account(self.me)
        if node is None or node.state not in states:
            raise Unavailable(
                "the cluster map does not name this node; ask another one", reason="not-in-map"
            )
        return current

    async def admit(
        self, asked: Asked, *, gateway: AccountId, entry: bool, owner: bool = False
    ) -> tuple[Call, Permit]:
        """Take a request through the whole path; returns once its receipt is durable.

        ``entry`` is true at the node that the client called: it remembers nonces.

        Raises:
            Unavailable: stale lease, behind, not in the map, or no receipt can be written.
            Exhausted: the account asks too often, or its receipt does not fit on the disk.
            Denied, Unauthenticated, Invalid: why the request is refused.
        """
        current = await self.ready(asked)
        action = ACTIONS.get(asked.method)
        if action is None:
            raise Invalid("this method is unknown", reason="unknown-method")
        now, height = self.runtime.now_ms(), self.view.height
        began = self.runtime.monotonic()
        presented = self.verifier.present(
            asked.token,
            asked.proof,
            method=asked.method,
            record=asked.record,
            blob=asked.blob,
            range_start=asked.range_start,
            range_length=asked.range_length,
            gateway=gateway,
            now_ms=now,
            remember_nonce=entry,
            proven=self.rates.ask if entry else nobody,
        )
        permit = Permit(self, presented, action, height, now, owner)
        denial: Denied | None = None
        try:
            if owner:
                self.verifier.authorize_owner(presented, action, now)
            else:
                self.verifier.authorize(presented, action, now)
        except Denied as error:
            denial = error
        # Before anything is waited for: a block may come, or more of the same account.
        if denial is None:
            self.standing.enter(permit)
        elif entry:
            self.rates.denied(presented.proof.presenter)
        draft = draft_of(
            presented,
            action=action,
            request=asked.request,
            peer=None if entry else gateway,
            height=height,
            denial=denial,
        )
        await self.evidence.record(asked.proof, [draft])
        if denial is not None:
            raise await self._told(presented, denial, began) if entry else denial
        if entry:
            CLOSING.set(self.evidence.closing(draft))
        call = Call(
            asked.token,
            asked.proof,
            asked.method,
            asked.record,
            asked.blob,
            asked.range_start,
            asked.range_length,
            asked.min_height,
            current.epoch,
            asked.request,
            presented.proof.presenter,
            presented.use.grant,
        )
        return call, permit

    async def _told(self, presented: Presented, error: Denied, began: float) -> Denied:
        """What a client is told of a refusal, when it may be told."""
        answer = told(self.view, presented, error)
        if answer is not error:
            await at_its_time(self.runtime, began)
        return answer

    async def ready(self, asked: Reaching) -> ClusterMap:
        """Whether this node can answer a request at all; the map that it answers by.

        Raises:
            Unavailable, Exhausted, Unauthenticated: stale lease, behind, not in the map.
        """
        tracing.serves(asked.request)
        await self._reach(asked)
        self.follower.require_fresh()
        current = self.cluster_map()
        if asked.epoch > current.epoch:
            current = await self.newer_map(asked.epoch - 1)
        # What is stored under an older map might be missed by whoever takes a seat over.
        # Shards do not change, so whoever has one may give it under any map.
        if asked.method in STORING and asked.epoch not in (0, current.epoch):
            raise other_epoch(current.epoch, asked.epoch)
        return current

    async def newer_map(self, epoch: int, states: Collection[NodeState] = SERVING) -> ClusterMap:
        """The map of a later epoch, as soon as this node has it.

        Raises:
            Unavailable: ``other-epoch``: not in time.
        """
        until = self.runtime.monotonic() + MAP_SECONDS
        while (current := self.cluster_map(states)).epoch <= epoch:
            try:
                async with self.runtime.timeout(until - self.runtime.monotonic()):
                    await self.follower.require(self.view.height + 1)
            except (TimeoutError, Unavailable):
                raise other_epoch(current.epoch, epoch + 1) from None
        return current

    async def reseat(self, profile: str, name: bytes, epoch: int) -> tuple[int, tuple[Seat, ...]]:
        """See :data:`hcefs.stripes.reseat.Reseat`."""
        current = await self.newer_map(epoch)
        return current.epoch, seats(current, profile or current.default_profile, name)

    async def _reach(self, asked: Reaching) -> None:
        """Wait for the height that a request asks for, but not for everybody.

        Who is known here proves itself before the wait; who is not may have been
        registered by the very block that is missing, and waits in a small room.

        Raises:
            Unavailable, Exhausted, Unauthenticated: why not.
        """
        if asked.min_height <= self.view.height:
            return
        proof = SignedProof.decode(asked.proof)
        account = self.view.account(proof.proof.presenter)
        if account is not None:
            proof.check(account.token_key)
            await self.follower.require(asked.min_height)
            return
        async with self._strangers:
            await self.follower.require(asked.min_height)

    def peer_of(self, context: Any, states: Collection[NodeState] = SERVING) -> AccountId:
        """The node at the other end of a mutual TLS connection, which has one of some states.

        Raises:
            Unauthenticated: its key is not that of an active node in the map.
            Conflict: ``version-refused``: this node does not talk to its software.
        """
        account = self._node_of(context, states).account
        if self.versions is not None:
            self.versions.require(account)
        return account

    def hear_versions(self, context: Any, said: Versions) -> None:
        """Take in what a node says of its software.

        Raises:
            Unauthenticated: its key is not that of an active node in the map.
            Conflict: ``version-refused``: this node does not talk to its software.
        """
        node = self._node_of(context, SERVING)
        if self.versions is not None:
            self.versions.check(node.account, f"node {node.node_id}", said)

    def _node_of(self, context: Any, states: Collection[NodeState]) -> Node:
        """As :meth:`peer_of`, whatever its software."""
        current = self.follower.view.cluster_map()
        if current is None:
            raise Unavailable("the ledger has no cluster map yet", reason="no-map")
        spki = peer_spki(context)
        # A node may have changed its key since: at most one more look for each height.
        unseen = spki not in self._spki and self._spki_height != self.view.height
        if self._spki_epoch != current.epoch or unseen:
            self._spki = {}
            for node in current.nodes:
                account = self.view.account(node.account)
                if account is not None and node.state in GIVING:
                    self._spki[account.spki] = node
            self._spki_epoch, self._spki_height = current.epoch, self.view.height
        found = self._spki.get(spki) if spki else None
        if found is not None and found.state not in states:
            found = None
        account = self.view.account(found.account) if found is not None else None
        if found is None or account is None or not account.active or account.spki != spki:
            raise Unauthenticated(
                "the TLS key of the caller is not that of an active node in the map",
                reason="unknown-node",
            )
        return found

    def blob_seats(self, profile: str, blob: BlobId) -> tuple[Seat, ...]:
        """The seats of a blob's partition under one profile."""
        return seats(self.cluster_map(), profile, blob.base)

    def record_seats(self, record: RecordId) -> tuple[tuple[Seat, ...], Profile]:
        """The seats that keep a record's listing and boxes: always the default profile's."""
        current = self.cluster_map()
        profile = profile_named(current.default_profile)
        return seats(current, profile.name, bytes(record)), profile

    def is_record_seat(self, record: RecordId) -> bool:
        """Whether this node is a seat of the record's partition, by the current map."""
        return any(seat.node.account == self.me for seat in self.record_seats(record)[0])

    def require_holder(self, profile: str, base: BlobBase, index: int, stand_in: bool) -> None:
        """Check that this node holds a shard of that index, or may stand in for who does.

        Raises:
            Conflict: it does not, or may not: the caller's map is another one.
        """
        current = self.cluster_map()
        if stand_in:
            self._require_stand_in(stand_ins(current, profile, base))
            return
        held = seats(current, profile, base)
        self._require_seat(seat for seat in held if seat.index == index)

    def require_record_holder(self, record: RecordId, stand_in: bool) -> None:
        """Check that this node keeps rows of a record, or may stand in for who does.

        Raises:
            Conflict: as :meth:`require_holder`.
        """
        if stand_in:
            self._require_stand_in(record_stand_ins(self.cluster_map(), record))
        else:
            self._require_seat(self.record_seats(record)[0])

    def _require_seat(self, held: Iterable[Seat]) -> None:
        if not any(seat.node.account == self.me for seat in held):
            raise Conflict(
                "this node is not a seat of that partition; refresh the cluster map",
                reason="not-a-seat",
            )

    def _require_stand_in(self, nodes: Sequence[Node]) -> None:
        if not any(node.account == self.me for node in nodes):
            raise Conflict(
                "this node does not stand in for that partition; refresh the cluster map",
                reason="not-a-seat",
            )

    def stand_ins(self, profile: str, name: bytes) -> tuple[Node, ...]:
        """Who stands in for the seats of a base; for those of a record without a profile."""
        current = self.cluster_map()
        if not profile:
            return record_stand_ins(current, name)
        return stand_ins(current, profile, name)

    def stand_ins_of_any(self, base: BlobBase) -> list[tuple[Node, ...]]:
        """Who stands in for the seats of a base under each profile of the map."""
        current = self.cluster_map()
        return [stand_ins(current, table.profile, base) for table in current.tables]

    def seats_of_any(self, blob: BlobId) -> list[tuple[Seat, ...]]:
        """The blob's seats under each profile of the map, the default one first."""
        current = self.cluster_map()
        names = [current.default_profile]
        names += [table.profile for table in current.tables if table.profile not in names]
        return [seats(current, name, blob.base) for name in names]

    def own_first(self, held: Sequence[Seat]) -> list[Seat]:
        """The same seats with this node's own in front: it answers without a hop."""
        return sorted(held, key=lambda seat: (seat.node.account != self.me, seat.seat))

    def _asked_in_turn(self, blob: BlobId) -> Iterator[Sequence[Seat]]:
        """Whom to ask for a manifest: the seats, and where those have nothing, stand-ins."""
        for held in self.seats_of_any(blob):
            yield self.own_first(held)
        for table in self.cluster_map().tables:
            yield self.fanout.standing_in(table.profile, bytes(blob.base))

    async def manifest(
        self, call: Call, refused: Collection[bytes] = ()
    ) -> tuple[Manifest, tuple[Seat, ...]]:
        """The blob's manifest and the seats of the profile it lies under.

        Raises:
            NotFound, Unavailable, Corrupt: as :meth:`Fanout.manifest`.
        """
        if call.blob is None:
            raise Invalid("this method needs a blob id", reason="bad-id")
        # A seat that is down under one profile may have nothing to do with the blob.
        worst: HcefsError | None = None
        for held in self._asked_in_turn(call.blob):
            try:
                manifest = await self.fanout.manifest(held, call, refused)
            except HcefsError as error:
                unknown = isinstance(worst, NotFound) and not isinstance(error, NotFound)
                if worst is None or unknown:
                    worst = error
                continue
            return manifest, self.blob_seats(manifest.layout.profile, call.blob)
        raise worst or NotFound("this blob is unknown", reason="unknown-blob")
