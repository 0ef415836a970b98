"""Who has which shards of a row: asked of everybody who may have some, none of them believed.

Two ways of asking.  A *list* names all that a partition holds; it is what a seat is
filled from and what an inventory goes by, so that it must be complete or fail.  A
*question* is about some shards by name; it tells the margin of what is in the queue.

Invariants: a list names only what lies in the partition that was asked for, and ends;
whether everybody was heard is part of the answer.

Not guaranteed: that what a node says it has is intact, or there at all: whoever loads it
compares it with the layout's digests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hcefs.errors import Corrupt, HcefsError, Unavailable
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.planner import LOST_STATES
from hcefs.placement.ring import partition_of, rotation_of
from hcefs.placement.stand_ins import stand_ins_of
from hcefs.placement.waves import REBUILD, SeatName, in_flight
from hcefs.transport.upkeep import (
    PARTITIONS_ASKED_MAX,
    Place,
    RecordDigest,
    ShardName,
    UpkeepPeers,
)

SHARDS_MAX = 1 << 20
"""Of one partition; more would be thousands of times what a partition should hold."""

PAGES_MAX = 1 << 13
"""Of one listing; a page may be empty and yet not be the last."""

ASKED_MAX = 1000
"""Shards of one question."""

AWAY = frozenset({"unreachable", "deadline", "stalled"})
"""Why nothing was heard of a node that is as good as gone.  Anything else is the answer of one
that is there and does not say what it has, or of one that comes or goes at this moment."""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Lists:
    """Who has which shards of the partition."""

    nodes: dict[int, Node] = field(default_factory=dict)
    held: dict[BlobBase, dict[int, set[int]]] = field(default_factory=dict)
    """Base -> index -> node ids."""

    complete: bool = True
    """Whether everybody who may have some was heard."""

    unsure: set[int] = field(default_factory=set)
    """The ids of nodes that are there and did not say what they have."""

    def enter(self, node: Node, shards: Iterable[ShardName]) -> None:
        """Note what a node has."""
        self.nodes[node.node_id] = node
        for shard in shards:
            held = self.held.setdefault(shard.base, {})
            held.setdefault(shard.index, set()).add(node.node_id)

    def live(self, base: BlobBase) -> set[int]:
        """The indexes of a base that somebody who was heard has."""
        return {index for index, ids in self.held.get(base, {}).items() if ids}


@dataclass
class Survey:
    """What others have of one partition: shards, and by node id the digests of records' rows."""

    lists: Lists
    records: dict[int, dict[RecordId, bytes]] = field(default_factory=dict)


class _Asks:
    """Lists of several partitions of one table, taken apart."""

    def __init__(self, peers: UpkeepPeers, epoch: int, profile: str, bits: int) -> None:
        self._peers = peers
        self._epoch = epoch
        self._profile = profile
        self._bits = bits

    async def shards(self, node: Node, rows: Sequence[int]) -> dict[int, list[ShardName]]:
        """What a node has of each of some rows."""
        found: dict[int, list[ShardName]] = {row: [] for row in rows}
        place, peer = Place(self._epoch, self._profile, rows[0]), self._peers.upkeep_peer(node)

        def take(page: Sequence[ShardName]) -> None:
            for shard in page:
                listed = found.get(partition_of(shard.base, self._bits))
                if listed is None:
                    raise _elsewhere()
                listed.append(shard)
                # What is left out would count as filled, so too much is no listing at all.
                if len(listed) > SHARDS_MAX:
                    raise _endless()

        await _every_page(lambda after: peer.list_shards(place, after, rows[1:]), take)
        return found

    async def records(self, node: Node, rows: Sequence[int]) -> dict[int, dict[RecordId, bytes]]:
        """The same of records, with the digests of their rows."""
        found: dict[int, dict[RecordId, bytes]] = {row: {} for row in rows}
        place, peer = Place(self._epoch, self._profile, rows[0]), self._peers.upkeep_peer(node)

        def take(page: Sequence[RecordDigest]) -> None:
            for each in page:
                listed = found.get(partition_of(each.record, self._bits))
                if listed is None:
                    raise _elsewhere()
                listed[each.record] = each.digest

        await _every_page(lambda after: peer.list_records(place, after, rows[1:]), take)
        return found


async def _every_page(
    ask: Callable[[bytes], Awaitable[tuple[Sequence[T], bytes]]],
    take: Callable[[Sequence[T]], None],
) -> None:
    """Take all pages of a listing.

    Raises:
        Corrupt: ``bad-page``: it does not go on, or does not end.
    """
    after = b""
    for _ in range(PAGES_MAX):
        page, following = await ask(after)
        take(page)
        if not following:
            return
        if following <= after:
            break
        after = following
    raise _endless()


class Surveyor:
    """Asks for one node."""

    def __init__(self, peers: UpkeepPeers, me: AccountId) -> None:
        self._peers = peers
        self._me = me

    def others(
        self, current: ClusterMap, row: Sequence[int], sources: Collection[int]
    ) -> list[Node]:
        """Who may have shards of the row: those that seats move from first, then the seats."""
        found = []
        for node_id in dict.fromkeys((*sources, *row)):
            node = current.node(node_id) if node_id != REBUILD else None
            if node is not None and node.account != self._me and node.state not in LOST_STATES:
                found.append(node)
        return found

    def stand_ins(self, current: ClusterMap, place: Place) -> list[Node]:
        """Who may keep shards of the row in the place of a seat that was away."""
        nodes = stand_ins_of(current, place.profile, place.partition)
        return [node for node in nodes if node.account != self._me]

    async def row(
        self,
        current: ClusterMap,
        name: SeatName,
        sources: Collection[int],
        fenced: Callable[[Node], bool],
    ) -> Lists:
        """The list of one seat's row alone, from everybody who may have some of it.

        Raises:
            Unavailable, Corrupt: as :meth:`lists`.
        """
        table = current.table(name.profile)
        place = Place(current.epoch, name.profile, name.partition)
        others = self.others(current, table.node_rows[name.partition], sources)
        return await self.lists(place, table.bits, others, fenced, self.stand_ins(current, place))

    async def lists(
        self,
        place: Place,
        bits: int,
        others: Sequence[Node],
        fenced: Callable[[Node], bool],
        stand_ins: Sequence[Node] = (),
    ) -> Lists:
        """All shards of a partition among ``2**bits``, as some nodes have them.

        Nothing waits for ``stand_ins``: what they keep they bring home by themselves
        (:mod:`.stand_in`).  But what only they have is not lost.

        Raises:
            Unavailable: a node that may still take puts under an older map does not answer.
            Corrupt: a listing does not end, or names what lies elsewhere.
        """
        lists, row = Lists(), place.partition
        asks = _Asks(self._peers, place.epoch, place.profile, bits)
        answers = await together(
            self.heard(node, partial(asks.shards, node, [row]), fenced, lists.unsure)
            for node in others
        )
        answers += await together(
            self.heard(node, partial(asks.shards, node, [row]), lambda _: True, lists.unsure)
            for node in stand_ins
        )
        for node, answer in zip([*others, *stand_ins], answers, strict=True):
            if answer is None:
                lists.complete = False
            else:
                lists.enter(node, answer[row])
        return lists

    async def records(
        self, place: Place, bits: int, nodes: Sequence[Node], fenced: Callable[[Node], bool]
    ) -> dict[int, dict[RecordId, bytes]]:
        """By node id, the records of a partition with the digests of their rows.

        Raises:
            Unavailable, Corrupt: as :meth:`lists`.
        """
        row, asks = place.partition, _Asks(self._peers, place.epoch, place.profile, bits)
        answers = await together(
            self.heard(node, partial(asks.records, node, [row]), fenced) for node in nodes
        )
        return {
            node.node_id: answer[row]
            for node, answer in zip(nodes, answers, strict=True)
            if answer is not None
        }

    async def heard(
        self,
        node: Node,
        asking: Callable[[], Awaitable[T]],
        fenced: Callable[[Node], bool],
        unsure: set[int] | None = None,
    ) -> T | None:
        """What a node answers; None when it is away for good.

        Into ``unsure`` goes its id when it is there and only does not say.
        """
        try:
            return await asking()
        except HcefsError as error:
            away = error.kind == "unavailable" and error.reason not in ("unsettled", "other-epoch")
            if not away or not fenced(node):
                raise Unavailable(
                    f"node {node.node_id} cannot be listed: {error.message}", reason=error.reason
                ) from None
            log.info(
                "node %d is away; a seat is filled without it (%s)", node.node_id, error.reason
            )
            if unsure is not None and error.reason not in AWAY:
                unsure.add(node.node_id)
            return None

    async def surveys(
        self,
        current: ClusterMap,
        sources: Mapping[SeatName, Collection[int]],
        fenced: Callable[[Node], bool],
    ) -> dict[SeatName, Survey]:
        """The lists of many seats of one profile, each node asked about all of its rows at once.

        ``sources`` are who the row of each seat is moving from, beside who has a seat there.
        At most ``PARTITIONS_ASKED_MAX`` are answered, the first ones by name.

        Raises:
            Unavailable: as :meth:`lists`, for all of them together: whoever wants to know
                which, asks for one.
            Corrupt: a listing does not end, or names what lies elsewhere.
        """
        names = sorted(sources)[:PARTITIONS_ASKED_MAX]
        if not names:
            return {}
        table = current.table(names[0].profile)
        seated: dict[int, dict[int, Node]] = {}
        standing: dict[int, dict[int, Node]] = {}
        for name in names:
            place = Place(current.epoch, name.profile, name.partition)
            for node in self.others(current, table.node_rows[name.partition], sources[name]):
                seated.setdefault(node.node_id, {})[name.partition] = node
            for node in self.stand_ins(current, place):
                standing.setdefault(node.node_id, {})[name.partition] = node
        asks = _Asks(self._peers, current.epoch, table.profile, table.bits)
        found = {name.partition: Survey(Lists()) for name in names}
        for asked, may_be_away in ((seated, fenced), (standing, lambda _: True)):
            jobs = [(next(iter(rows.values())), sorted(rows)) for _, rows in sorted(asked.items())]
            unsure: set[int] = set()
            answers = await together(
                self.heard(node, partial(asks.shards, node, rows), may_be_away, unsure)
                for node, rows in jobs
            )
            for (node, rows), answer in zip(jobs, answers, strict=True):
                for row in rows:
                    lists = found[row].lists
                    if answer is None:
                        lists.complete = False
                        lists.unsure |= unsure & {node.node_id}
                    else:
                        lists.enter(node, answer[row])
            if table.profile != current.default_profile:
                continue
            # Who gave a list has answered, so only a node that is fenced may fail now.
            jobs = [job for job, answer in zip(jobs, answers, strict=True) if answer is not None]
            held = await together(
                self.heard(node, partial(asks.records, node, rows), fenced) for node, rows in jobs
            )
            for (node, rows), digests in zip(jobs, held, strict=True):
                if digests is not None:
                    for row in rows:
                        found[row].records[node.node_id] = digests[row]
        return {name: found[name.partition] for name in names}

    async def asked(
        self, current: ClusterMap, place: Place, n: int, bases: Collection[BlobBase]
    ) -> Lists:
        """Which shards of some bases of a partition are where the map says.

        A node that does not answer has none for now; ``complete`` tells.
        """
        lists = Lists()
        row = current.table(place.profile).node_rows[place.partition]
        moving = in_flight(current)
        holders: list[tuple[Node, int]] = []
        for seat, node_id in enumerate(row):
            source = moving.get(SeatName(place.profile, place.partition, seat), REBUILD)
            for each in {node_id: None, source: None}:
                node = current.node(each)
                if node is None or node.account == self._me or node.state in LOST_STATES:
                    continue
                holders.append((node, seat))
        answers = await together(
            self._has(node, place, [_at(base, seat, n) for base in bases], lists.unsure)
            for node, seat in holders
        )
        for (node, _), answer in zip(holders, answers, strict=True):
            if answer is None:
                lists.complete = False
            else:
                lists.enter(node, answer)
        short = [base for base in bases if len(lists.live(base)) < current.table(place.profile).k]
        if short:
            await self._ask_stand_ins(current, place, n, short, lists)
        return lists

    async def missed(
        self, current: ClusterMap, place: Place, bases: Sequence[BlobBase]
    ) -> list[BlobBase]:
        """Those of some bases of a partition that one of its seats does not have.

        One seat that answers is enough to know of a blob that it is not lost.
        """
        table = current.table(place.profile)
        for seat, node_id in enumerate(table.node_rows[place.partition]):
            node = current.node(node_id)
            if node is None or node.account == self._me or node.state in LOST_STATES:
                continue
            held = await self._has(node, place, [_at(base, seat, table.n) for base in bases])
            if held is not None:
                here = {shard.base for shard in held}
                return [base for base in bases if base not in here]
        return list(bases)

    async def _ask_stand_ins(
        self,
        current: ClusterMap,
        place: Place,
        n: int,
        bases: Collection[BlobBase],
        lists: Lists,
    ) -> None:
        """Where the seats have too little, ask for what stood in for them."""
        nodes = self.stand_ins(current, place)
        shards = [ShardName(base, index) for base in bases for index in range(n)]
        answers = await together(self._has(node, place, shards, lists.unsure) for node in nodes)
        for node, answer in zip(nodes, answers, strict=True):
            if answer is None:
                lists.complete = False
            elif answer:
                lists.enter(node, answer)

    async def _has(
        self,
        node: Node,
        place: Place,
        shards: Sequence[ShardName],
        unsure: set[int] | None = None,
    ) -> list[ShardName] | None:
        peer = self._peers.upkeep_peer(node)
        found: list[ShardName] = []
        try:
            for first in range(0, len(shards), ASKED_MAX):
                asked = shards[first : first + ASKED_MAX]
                held = await peer.has_shards(place, asked)
                found += [shard for shard, here in zip(asked, held, strict=True) if here]
        except HcefsError as error:
            log.debug("node %d does not say what it has: %s", node.node_id, error.reason)
            if unsure is not None and error.reason not in AWAY:
                unsure.add(node.node_id)
            return None
        return found


def _at(base: BlobBase, seat: int, n: int) -> ShardName:
    return ShardName(base, (seat + rotation_of(base, n)) % n)


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once and to their end; the first failure is raised after that."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    found: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


def _elsewhere() -> Corrupt:
    return Corrupt("a listing names what lies in another partition", reason="wrong-partition")


def _endless() -> Corrupt:
    return Corrupt("a listing does not go on, or does not end", reason="bad-page")
