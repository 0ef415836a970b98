"""The manifest rows of packed payloads, from this node or from the first seat that has them.

A pack's profile is not known before its layout is: the own rows are tried first, then
the seats under each profile of the map, one of each at a time, and who may stand in for
them after all seats.  One call goes to a node for all payloads that it is asked for.

Invariants: rows of others prove themselves: the layout by its signature, each core by
the digest that a path or the opening leads to a commitment on this node's own replica.
Rows of this node were checked when they were stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hcefs.errors import Corrupt, HcefsError, Internal, NotFound, Unavailable
from hcefs.formats.manifest import Core
from hcefs.formats.pack import PackLayout, PackOpening, PackProof
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime, end_tasks
from hcefs.stripes.checks import Replica, check_layout
from hcefs.stripes.pack_checks import check_core
from hcefs.stripes.pack_holder import ANSWER_FULL
from hcefs.stripes.pack_shape import PackShape
from hcefs.transport.packs import BatchCall, PackPart, PackPeers, PackWanted
from hcefs.transport.peers import Call

CALL_SECONDS = 5.0
NEXT_SECONDS = 1.0
"""A seat that has not answered by then is waited for, but the next one is asked, too."""

LAYOUTS_MAX = 512
log = logging.getLogger(__name__)

Key = tuple[BlobBase, RecordId, int]
"""One packed payload: base, record, slot."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """The proved rows of one packed payload; ``wrapped`` empty when it was shredded."""

    key: Key
    part: PackPart
    shape: PackShape
    core: Core
    encoded: bytes
    wrapped: bytes
    proof: bytes

    @property
    def sealed_length(self) -> int:
        """Bytes of the sealed payload."""
        return self.shape.length_of(self.key[2])


class RowReader:
    """Finds rows.

    ``tables`` gives the seats of a base under each profile of the map, ``standing_in`` who
    may have what they lack.
    """

    def __init__(
        self,
        runtime: Runtime,
        peers: PackPeers,
        replica: Replica,
        me: AccountId,
        tables: Callable[[BlobBase], Sequence[Sequence[Seat]]],
        standing_in: Callable[[BlobBase], Sequence[Sequence[Node]]] = lambda _: (),
    ) -> None:
        self._standing_in = standing_in
        self._runtime = runtime
        self._peers = peers
        self._replica = replica
        self._me = me
        self._tables = tables
        self._layouts: OrderedDict[bytes, _KnownLayout] = OrderedDict()

    async def load(
        self, call: Call | BatchCall, keys: Sequence[Key], refused: Collection[bytes] = ()
    ) -> dict[Key, PackedRow | HcefsError]:
        """The rows of each payload, or why there are none.

        ``refused`` are layouts (canonical bytes) that proved useless before: any node
        may sign a layout, so a lying holder may have made one up.
        """
        search = _Search(keys)
        rounds = {base: self._order(base) for base in {key[0] for key in keys}}
        last = max(map(len, rounds.values()), default=0)
        running: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while search.left and (running or number < last):
                for node, wanted in self._round(rounds, number, search.left):
                    job = self._ask(call, node, wanted, search, refused)
                    running.add(self._runtime.spawn(job, name="rows"))
                number += 1
                running = await self._some(running, search, number < last)
        finally:
            await end_tasks(*running)
        return search.results()

    async def _some(
        self, running: set[asyncio.Task[None]], search: _Search, more: bool
    ) -> set[asyncio.Task[None]]:
        """Wait for a round; those that take too long go on while the next one is asked."""
        until = self._runtime.monotonic() + NEXT_SECONDS
        while running and search.left:
            patience = max(0.0, until - self._runtime.monotonic()) if more else None
            done, running = await asyncio.wait(
                running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
        return running

    def _order(self, base: BlobBase) -> list[list[Node]]:
        """Whom to ask for a pack: this node if it is a seat, then a seat of each profile."""
        tables = [[seat.node for seat in held] for held in self._tables(base)]
        rounds: list[list[Node]] = []
        seen: set[int] = set()
        for held in tables:
            for node in held:
                if node.account == self._me and node.node_id not in seen:
                    seen.add(node.node_id)
                    rounds.append([node])
        for asked in (tables, self._standing_in(base)):
            for position in range(max(map(len, asked), default=0)):
                turn = []
                for nodes in asked:
                    if position < len(nodes) and nodes[position].node_id not in seen:
                        seen.add(nodes[position].node_id)
                        turn.append(nodes[position])
                if turn:
                    rounds.append(turn)
        return rounds

    @staticmethod
    def _round(
        rounds: Mapping[BlobBase, list[list[Node]]], number: int, left: Iterable[Key]
    ) -> list[tuple[Node, list[PackWanted]]]:
        """What is asked of which node in one round."""
        slots: dict[tuple[BlobBase, RecordId], list[int]] = {}
        for base, record, slot in left:
            slots.setdefault((base, record), []).append(slot)
        asked: dict[int, tuple[Node, list[PackWanted]]] = {}
        for (base, record), own in slots.items():
            turns = rounds[base]
            for node in turns[number] if number < len(turns) else ():
                wanted = PackWanted(record, base, tuple(sorted(own)))
                asked.setdefault(node.node_id, (node, []))[1].append(wanted)
        return list(asked.values())

    async def _ask(
        self,
        call: Call | BatchCall,
        node: Node,
        wanted: Sequence[PackWanted],
        search: _Search,
        refused: Collection[bytes],
    ) -> None:
        """Ask one node, again for what did not fit its answer, and enter what it proves."""
        while wanted:
            parts: Sequence[PackPart | HcefsError]
            try:
                async with self._runtime.timeout(CALL_SECONDS):
                    parts = await self._peers.pack_peer(node).load_packed(call, wanted)
            except HcefsError as error:
                parts = [error] * len(wanted)
            except TimeoutError:
                parts = [Unavailable("the seat does not answer", reason="stalled")] * len(wanted)
            except Exception as error:  # noqa: BLE001 - one seat's fault fails no other
                parts = [Internal(f"loading rows failed: {type(error).__name__}")] * len(wanted)
            rest = []
            for position, (each, part) in enumerate(zip(wanted, parts, strict=True)):
                if isinstance(part, HcefsError) and part.reason == ANSWER_FULL and position:
                    rest.append(each)
                else:
                    self._enter(call, node, each, part, search, refused)
            wanted = rest

    def _enter(
        self,
        call: Call | BatchCall,
        node: Node,
        wanted: PackWanted,
        part: PackPart | HcefsError,
        search: _Search,
        refused: Collection[bytes],
    ) -> None:
        keys = [(wanted.base, wanted.record, slot) for slot in wanted.slots]
        try:
            if isinstance(part, HcefsError):
                raise part
            if part.layout in refused:
                raise Corrupt("the layout of this pack leads to nothing", reason="bad-layout")
            self._believe(wanted, part, node.account == self._me, search)
        except HcefsError as error:
            for key in keys:
                search.fail(key, error)
            if error.kind in ("corrupt", "invalid"):
                log.error(
                    "request %s: node %d has bad rows of pack %s: %s (%s)",
                    call.request,
                    node.node_id,
                    wanted.base,
                    error.kind,
                    error.reason,
                )

    def _believe(self, wanted: PackWanted, part: PackPart, own: bool, search: _Search) -> None:
        """Enter the rows of a part that prove themselves.

        Raises:
            HcefsError: the whole part is good for nothing.
        """
        known = self._layout(part.layout)
        layout, shape = known.layout, known.shape
        if layout.base != wanted.base:
            raise Corrupt("the layout is of another pack", reason="rows-disagree")
        bound = None if own else self._bound(wanted, part)
        asked = set(wanted.slots)
        for rows in part.payloads:
            key = (wanted.base, wanted.record, rows.slot)
            if rows.slot not in asked:
                continue
            blob = BlobId.of(wanted.base, rows.slot)
            try:
                if bound is not None and blake3_digest(rows.core) != bound(rows.slot, rows.proof):
                    raise Corrupt("a core differs from its digest", reason="rows-disagree")
                core = check_core(rows.core, wanted.record, blob, shape.length_of(rows.slot))
                if not (own or known.vouched):
                    check_layout(self._replica, layout, core.writer)
                    known.vouched = True
            except HcefsError as error:
                search.fail(key, error)
                continue
            search.enter(PackedRow(key, part, shape, core, rows.core, rows.wrapped, rows.proof))
        for slot, failure in part.failures:
            search.fail((wanted.base, wanted.record, slot), failure)

    def _bound(self, wanted: PackWanted, part: PackPart) -> Callable[[int, bytes], bytes]:
        """What gives the digest that a slot's core must have, by the part's opening or by paths.

        Raises:
            Corrupt, Invalid, NotFound: the opening proves nothing.
        """
        if part.opening:
            opening = PackOpening.decode(part.opening)
            opening.check()
            self._committed(wanted, opening.record, opening.base, opening.commitment())
            digests = {blob.slot: digest for blob, digest in opening.entries()}
            return lambda slot, _: digests.get(slot, b"")
        known: set[bytes] = set()

        def by_path(slot: int, encoded: bytes) -> bytes:
            proof = PackProof.decode(encoded)
            if proof.blob.slot != slot:
                raise Corrupt("a proof is of another payload", reason="rows-disagree")
            commitment = proof.commitment()
            if commitment not in known:
                self._committed(wanted, proof.record, proof.blob.base, commitment)
                known.add(commitment)
            return proof.core_digest

        return by_path

    def _committed(
        self, wanted: PackWanted, record: RecordId, base: BlobBase, commitment: bytes
    ) -> None:
        if (record, base) != (wanted.record, wanted.base):
            raise Corrupt("an opening is of another pack or record", reason="rows-disagree")
        if self._replica.leaf_index(record, commitment) is None:
            raise NotFound("this blob is not committed on the ledger", reason="not-committed")

    def _layout(self, encoded: bytes) -> _KnownLayout:
        """A layout and its shape, from those that were read last.

        Raises:
            Invalid: malformed.
        """
        known = self._layouts.get(encoded)
        if known is None:
            layout = PackLayout.decode(encoded)
            known = self._layouts[encoded] = _KnownLayout(layout, PackShape.of(layout))
            while len(self._layouts) > LAYOUTS_MAX:
                self._layouts.popitem(last=False)
        return known


@dataclass
class _KnownLayout:
    """A layout that was decoded; ``vouched`` once its signature was checked."""

    layout: PackLayout
    shape: PackShape
    vouched: bool = False


class _Search:
    """What was found so far."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.left: dict[Key, None] = dict.fromkeys(keys)
        self._rows: dict[Key, PackedRow] = {}
        self._shredded: dict[Key, PackedRow] = {}
        self._errors: dict[Key, list[HcefsError]] = {key: [] for key in keys}

    def enter(self, row: PackedRow) -> None:
        """Rows that proved themselves; without a key they are only the last resort."""
        if row.key not in self._errors:
            return
        if row.wrapped and row.part.envelope:
            self._rows.setdefault(row.key, row)
            self.left.pop(row.key, None)
        else:
            self._shredded.setdefault(row.key, row)

    def fail(self, key: Key, error: HcefsError) -> None:
        """Why a seat did not give rows."""
        if key in self._errors:
            self._errors[key].append(error)

    def results(self) -> dict[Key, PackedRow | HcefsError]:
        """The rows, or the failure that says most."""
        return {
            key: self._rows.get(key) or self._shredded.get(key) or _worst(errors)
            for key, errors in self._errors.items()
        }


def _worst(errors: Sequence[HcefsError]) -> HcefsError:
    """The failure that says most: a seat under another profile only says that it has nothing."""
    for kind in ("corrupt", "unavailable", "exhausted"):
        for error in errors:
            if error.kind == kind:
                return error
    for error in errors:
        if error.reason != "unknown-blob":
            return error
    return errors[0] if errors else NotFound("this blob is unknown", reason="unknown-blob")
