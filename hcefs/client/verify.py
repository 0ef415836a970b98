"""A keyless audit: every holder reads its shards, and the answers are compared.

A holder reads each shard from end to end, compares every piece with its digest, the digest
over them with the layout, the layout with the core, the core with the opening, and the
opening with the ledger.  Here the holders are compared with each other: all must have the
same layout, and each index must be whole somewhere that the map names.  What follows from
the answers is decided by pure functions.

Invariants: memory is that of the partitions audited at once; a node that does not answer
makes a blob *unreachable*, never *lost*; what no node says of itself is not taken for whole.

A blob of which no shard is left is in nobody's answer; what records name is looked for by
one of the seats of each of their partitions.

Not guaranteed: that a node which lies about what it read is found out (a read of the blob
finds it).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hcefs.client.layout import ASKED
from hcefs.client.ledger import LedgerClient
from hcefs.erasure.scheme import profile_named
from hcefs.errors import Corrupt, HcefsError, NotFound, Unavailable
from hcefs.ids import BlobBase
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.placement.ring import partition_of, seats
from hcefs.wire.v1 import admin_pb2

FULL, DEGRADED, DAMAGED, LOST, UNREACHABLE, PENDING = STATES = (
    "full", "degraded", "damaged", "lost", "unreachable", "pending",
)  # fmt: skip
"""A blob with all n; with fewer, and at least k; with a shard that is not what was written, or
with holders that disagree; with fewer than k; with fewer than k while a holder is away; and one
that waits for its append."""

PAGES_MAX = 1 << 16
SHARDS_MAX = 1 << 21

log = logging.getLogger(__name__)

Answers = Mapping[int, Sequence[admin_pb2.AuditedShard]]
"""By node, what it says of its shards."""


@dataclass(frozen=True)
class SeatVerdict:
    """One index of a blob: who should have it, and who has it."""

    index: int
    node_id: int
    state: str
    """``whole``, ``damaged``, ``missing``, or ``unreachable``."""

    reason: str = ""
    elsewhere: tuple[int, ...] = ()
    """Other nodes that have it whole: sources of moves, stand-ins, copies not deleted yet."""


@dataclass(frozen=True)
class BlobVerdict:
    """What is so of one blob or pack."""

    base: BlobBase
    profile: str
    state: str
    live: int
    seats: tuple[SeatVerdict, ...]
    problems: tuple[str, ...] = ()

    @property
    def margin(self) -> int:
        """Whole shards beyond k."""
        return self.live - profile_named(self.profile).k


@dataclass
class Tally:
    """The outcome of an audit so far."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    shards: int = 0
    nowhere: set[BlobBase] = field(default_factory=set)
    """What has been entered without any live shard."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with anything that was audited."""
        return not any(self.counts[state] for state in STATES if state not in (FULL, PENDING))

    def enter(self, verdicts: Iterable[BlobVerdict]) -> list[BlobVerdict]:
        """Count what came of a partition; all but what was entered before.

        Of a blob without shards its holders' rows may tell, and those of its record.
        """
        entered = []
        for verdict in verdicts:
            if not verdict.live and verdict.state != PENDING:
                if verdict.base in self.nowhere:
                    continue
                self.nowhere.add(verdict.base)
            self.counts[verdict.state] += 1
            entered.append(verdict)
        return entered


def judge(
    current: ClusterMap, profile: str, base: BlobBase, said: Answers, away: Iterable[int]
) -> BlobVerdict | None:
    """What follows from the answers about one base under a profile.

    ``None``: nothing of it belongs there any more: it lies under another profile.
    """
    code, silent = profile_named(profile), set(away)
    found = {
        node_id: [each for each in shards if each.base == base and each.profile == profile]
        for node_id, shards in said.items()
    }
    everything = [each for shards in found.values() for each in shards]
    if everything and all(each.layout_profile not in ("", profile) for each in everything):
        return None
    committed = any(each.committed for each in everything)
    layouts = Counter(
        bytes(each.layout_digest)
        for each in everything
        if each.layout_profile == profile and not each.problem
    )
    layout = max(sorted(layouts), key=lambda digest: layouts[digest], default=b"")
    problems = sorted({each.problem for each in everything if each.problem})
    if len(layouts) > 1:
        problems.append("layouts-disagree")
    whole: dict[int, set[int]] = {}
    for node_id, shards in found.items():
        for each in shards:
            known = each.layout_profile == profile and each.layout_digest == layout
            proves = known and not each.problem
            if each.state == admin_pb2.SHARD_STATE_WHOLE and proves:
                whole.setdefault(each.index, set()).add(node_id)
    verdicts = tuple(
        _seat(seat.index, seat.node.node_id, found, whole, silent)
        for seat in sorted(seats(current, profile, bytes(base)), key=lambda seat: seat.index)
    )
    live = len([index for index in whole if index < code.n])
    damaged = problems or any(verdict.state == "damaged" for verdict in verdicts)
    if live < code.k:
        state = UNREACHABLE if silent else LOST
    elif damaged:
        state = DAMAGED
    else:
        state = FULL if live >= code.n else DEGRADED
    if not committed and everything and not problems:
        state = PENDING
    return BlobVerdict(base, profile, state, live, verdicts, tuple(problems))


def _seat(
    index: int,
    node_id: int,
    found: Answers,
    whole: Mapping[int, set[int]],
    silent: set[int],
) -> SeatVerdict:
    elsewhere = tuple(sorted(whole.get(index, set()) - {node_id}))
    if node_id in whole.get(index, ()):
        return SeatVerdict(index, node_id, "whole", "", elsewhere)
    if node_id in silent:
        return SeatVerdict(index, node_id, "unreachable", "", elsewhere)
    own = [each for each in found.get(node_id, ()) if each.index == index]
    for each in own:
        if each.state == admin_pb2.SHARD_STATE_DAMAGED:
            return SeatVerdict(index, node_id, "damaged", each.reason, elsewhere)
        if each.state == admin_pb2.SHARD_STATE_WHOLE:
            # The bytes fit the node's own layout, which is not what the others have.
            return SeatVerdict(
                index, node_id, "damaged", each.problem or "layouts-disagree", elsewhere
            )
    return SeatVerdict(index, node_id, "missing", own[0].reason if own else "", elsewhere)


def _nowhere(current: ClusterMap, base: BlobBase, state: str) -> BlobVerdict:
    """The verdict on a blob of which nothing was found."""
    profile = current.default_profile
    row = sorted(seats(current, profile, bytes(base)), key=lambda seat: seat.index)
    verdicts = tuple(SeatVerdict(seat.index, seat.node.node_id, "missing") for seat in row)
    return BlobVerdict(base, profile, state, 0, verdicts, ("no-shard-found",))


class VerifyClient:
    """Asks the nodes, as one of the operators."""

    def __init__(self, client: LedgerClient) -> None:
        self._client = client

    def nodes(self, current: ClusterMap) -> list[Node]:
        """The nodes that may answer."""
        return [node for node in current.nodes if node.state in ASKED]

    # -- one blob

    async def explain(
        self, current: ClusterMap, base: BlobBase
    ) -> tuple[dict[int, admin_pb2.ExplainResponse], dict[int, str]]:
        """What every node has of a base, and why some do not answer."""
        said: dict[int, admin_pb2.ExplainResponse] = {}
        away: dict[int, str] = {}

        async def ask(node: Node) -> None:
            try:
                said[node.node_id] = await self._client.explain(node.address, base)
            except HcefsError as error:
                away[node.node_id] = error.reason

        await asyncio.gather(*(ask(node) for node in self.nodes(current)))
        return said, away

    def verdict(
        self,
        current: ClusterMap,
        base: BlobBase,
        said: Mapping[int, admin_pb2.ExplainResponse],
        away: Iterable[int],
    ) -> BlobVerdict:
        """What follows from the answers of all nodes.

        Raises:
            NotFound: nobody has anything of it.
        """
        answers = {node_id: list(answer.shards) for node_id, answer in said.items()}
        profiles = Counter(
            each.layout_profile or each.profile for shards in answers.values() for each in shards
        )
        known = {table.profile for table in current.tables}
        for profile, _ in sorted(profiles.items(), key=lambda item: (-item[1], item[0])):
            if profile not in known:
                continue
            row = {seat.node.node_id for seat in seats(current, profile, bytes(base))}
            found = judge(current, profile, base, answers, row & set(away))
            if found is not None:
                return found
        raise NotFound(
            "no node that answers has any shard of it: the id is wrong, it was deleted, or all "
            "of its shards are lost",
            reason="unknown-blob",
        )

    # -- everything

    async def partitions(
        self, current: ClusterMap, profile: str, first: int, count: int, tally: Tally
    ) -> list[BlobVerdict]:
        """Audit some partitions; what is so of each blob and pack in them."""
        table = current.table(profile)
        numbers = range(first, first + count)
        named = {node_id for number in numbers for node_id in table.node_rows[number]}
        seated = frozenset(named)
        named |= {move.source for move in table.moving if move.partition in numbers}
        said: dict[int, list[admin_pb2.AuditedShard]] = {}

        async def ask(node: Node) -> None:
            try:
                said[node.node_id] = await self._pages(node, profile, first, count)
            except HcefsError as error:
                log.info("node %d is not audited: %s", node.node_id, error.reason)

        asked = [node for node in self.nodes(current) if node.node_id in named]
        await asyncio.gather(*(ask(node) for node in asked))
        away = seated - set(said)
        by_base: dict[BlobBase, dict[int, list[admin_pb2.AuditedShard]]] = {}
        for node_id in sorted(said):
            for each in said[node_id]:
                tally.bytes += each.bytes
                tally.shards += 1
                base = BlobBase(each.base)
                if partition_of(bytes(base), table.bits) in numbers:
                    by_base.setdefault(base, {}).setdefault(node_id, []).append(each)
        verdicts = []
        for base in sorted(by_base):
            row = table.node_rows[partition_of(bytes(base), table.bits)]
            verdict = judge(current, profile, base, by_base[base], away & set(row))
            if verdict is not None:
                verdicts.append(verdict)
        if profile == current.default_profile:
            verdicts += await self._lost(current, numbers, sorted(said))
        return tally.enter(verdicts)

    async def _lost(
        self, current: ClusterMap, numbers: Iterable[int], heard: Sequence[int]
    ) -> list[BlobVerdict]:
        """What the records of some partitions name and nobody has.

        Raises:
            Unavailable: nobody answers for one of the partitions.
        """
        rows = current.table(current.default_profile).node_rows
        asked: dict[int, list[int]] = {}
        for number in numbers:
            first = next((node_id for node_id in rows[number] if node_id in heard), None)
            if first is None:
                raise Unavailable(
                    f"no seat of partition {number} answers: start its nodes, then go on",
                    reason="holders-away",
                )
            asked.setdefault(first, []).append(number)
        nodes = {node.node_id: node for node in current.nodes}
        found = []
        for node_id, partitions in asked.items():
            said = await self._client.find_lost(nodes[node_id].address, partitions)
            for state, bases in ((LOST, said.lost), (UNREACHABLE, said.unheard)):
                found += [_nowhere(current, BlobBase(base), state) for base in bases]
        return found

    async def _pages(
        self, node: Node, profile: str, first: int, count: int
    ) -> list[admin_pb2.AuditedShard]:
        found: list[admin_pb2.AuditedShard] = []
        after = b""
        for _ in range(PAGES_MAX):
            page = await self._client.verify(node.address, profile, first, count, after)
            found += page.shards
            if not page.next:
                return found
            if page.next <= after or len(found) > SHARDS_MAX:
                break
            after = page.next
        raise Corrupt("a node's audit does not go on, or does not end", reason="bad-page")
