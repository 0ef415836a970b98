"""Packed payloads as they were sealed: rows, columns, and the way around damage.

Each payload is compared with the digest in its core, which the ledger binds.  Where it
differs, the same columns are read from every shard; the combination of k shards whose
bytes give the digest tells which shards are damaged, and the others are read without
them.  So damage is found by what a request may read: a whole piece may not be.

Invariants: what is returned is what the writer sealed; a payload that fails takes no
other with it; at most ``BATCH_BYTES`` of sealed payloads are read at a time.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from hcefs.erasure.codec import codec_for
from hcefs.errors import Corrupt, HcefsError, NotFound, Unavailable
from hcefs.ids import AccountId, BlobBase, RecordId
from hcefs.integrity import Buffer, blake3_digest
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.pack_columns import ColumnJob, ColumnReader
from hcefs.stripes.pack_rows import Key, PackedRow, RowReader
from hcefs.stripes.suspects import Suspect, nobody
from hcefs.transport.packs import BatchCall, PackPeers, PackWanted
from hcefs.transport.peers import Call

UNIT_PAYLOADS = 512
"""Payloads whose rows are looked up together."""

BATCH_BYTES = 2 << 20
"""Sealed payloads that are read together: a peer's part of them fits one message."""

COMBINATIONS_MAX = 1024
"""Enough for each profile there is; a bound on what damage can cost."""

LAYOUTS_MAX = 3
"""Layouts that are tried for one pack: any node may sign one, so the first may be a lie."""

MISMATCH = "wrong-digest"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedPayload:
    """One payload of an answer: its rows and its sealed bytes, or why not."""

    key: Key
    row: PackedRow | None
    sealed: bytes
    error: HcefsError | None = None


class PackReader:
    """Reads packed payloads through this node.

    ``seats_of`` gives the seats of a base under a profile, ``stand_ins_of`` who may have
    what they lack.
    """

    def __init__(
        self,
        runtime: Runtime,
        peers: PackPeers,
        rows: RowReader,
        metrics: Metrics,
        hedge: HedgeTimer,
        me: AccountId,
        seats_of: Callable[[str, BlobBase], Sequence[Seat]],
        stand_ins_of: Callable[[str, BlobBase], Sequence[Node]] = lambda *_: (),
        suspect: Suspect = nobody,
    ) -> None:
        """``suspect`` is told of each shard that proves missing or damaged."""
        self._stand_ins_of = stand_ins_of
        self._suspect = suspect
        self._runtime = runtime
        self._rows = rows
        self._metrics = metrics
        self._columns = ColumnReader(runtime, peers, metrics, hedge, me, suspect)
        self._seats_of = seats_of

    async def row(self, call: Call, key: Key) -> PackedRow:
        """The rows of one payload; its key may be gone.

        Raises:
            NotFound, Unavailable, Corrupt: why there are none.
        """
        found = (await self._rows.load(call, [key]))[key]
        if isinstance(found, HcefsError):
            raise found
        return found

    async def read(
        self, call: Call | BatchCall, keys: Iterable[Key]
    ) -> AsyncGenerator[list[PackedPayload], None]:
        """The payloads, some at a time; those of one pack and record are neighbours."""
        ordered = sorted(keys)
        for first in range(0, len(ordered), UNIT_PAYLOADS):
            unit = self._unit(call, ordered[first : first + UNIT_PAYLOADS])
            async with aclosing(unit) as found:
                async for payloads in found:
                    yield payloads

    async def _unit(
        self, call: Call | BatchCall, keys: Sequence[Key]
    ) -> AsyncGenerator[list[PackedPayload], None]:
        """As :meth:`read`; payloads that one layout did not lead to are tried by another's."""
        left: Sequence[Key] = keys
        failures: dict[Key, PackedPayload] = {}
        refused: set[bytes] = set()
        for attempt in range(LAYOUTS_MAX):
            again: dict[Key, PackedPayload] = {}
            failed, served = _sorted_out(left, await self._rows.load(call, left, refused))
            if failed:
                yield [failures.get(each.key, each) for each in failed]
            for batch in _batches(served):
                payloads = await self._payloads(call, batch)
                if attempt + 1 < LAYOUTS_MAX:
                    again |= {each.key: each for each in payloads if _layout_may_lie(each)}
                    payloads = [each for each in payloads if each.key not in again]
                yield [failures.get(each.key, each) if each.error else each for each in payloads]
            refused |= {each.row.part.layout for each in again.values() if each.row}
            failures |= {key: each for key, each in again.items() if key not in failures}
            left = list(again)
            if not left:
                return

    async def _payloads(
        self, call: Call | BatchCall, rows: Sequence[PackedRow]
    ) -> list[PackedPayload]:
        sealed = await self._sealed(call, rows, {})
        await self._around_damage(call, rows, sealed)
        answers = []
        for row in rows:
            result = sealed[row.key]
            if isinstance(result, HcefsError):
                answers.append(PackedPayload(row.key, row, b"", result))
            else:
                answers.append(PackedPayload(row.key, row, result))
        return answers

    async def _sealed(
        self,
        call: Call | BatchCall,
        rows: Sequence[PackedRow],
        avoid: Mapping[BlobBase, frozenset[int]],
    ) -> dict[Key, bytes | HcefsError]:
        """Read and check payloads; the damaged shards of some packs are known."""
        results: dict[Key, bytes | HcefsError] = {}
        groups: list[tuple[Sequence[PackedRow], list[ColumnJob]]] = []
        for (base, _, _), own in _grouped(rows).items():
            try:
                jobs = self._jobs(own, avoid.get(base, frozenset()))
            except HcefsError as error:
                results.update((row.key, error) for row in own)
            else:
                groups.append((own, jobs))
        every = [job for _, jobs in groups for job in jobs]
        await self._columns.run(call, every)
        if any(job.is_degraded for job in every):
            self._metrics.count("degraded_reads_total")
        results.update(await self._runtime.compute(_assemble, groups))
        return results

    def _jobs(
        self, rows: Sequence[PackedRow], avoid: frozenset[int], *, every: bool = False
    ) -> list[ColumnJob]:
        """What is to be read for payloads of one record in one pack."""
        base, record, _ = rows[0].key
        shape = rows[0].shape
        held = {seat.index: seat for seat in self._seats_of(shape.profile.name, base)}
        slots: dict[int, list[int]] = {}
        for row in rows:
            for column in shape.columns_of(row.key[2]):
                slots.setdefault(column, []).append(row.key[2])
        others = self._stand_ins_of(shape.profile.name, base)
        return [
            ColumnJob(
                PackWanted(record, base, tuple(own)),
                column,
                shape,
                dict(held),
                avoid,
                every,
                standing_in=others,
            )
            for column, own in slots.items()
        ]

    async def _around_damage(
        self,
        call: Call | BatchCall,
        rows: Sequence[PackedRow],
        sealed: dict[Key, bytes | HcefsError],
    ) -> None:
        """Replace the payloads that differ from their digests, as far as undamaged shards do."""
        avoid: dict[BlobBase, frozenset[int]] = {}
        while True:
            bad = [row for row in rows if _differs(sealed[row.key])]
            known = dict(avoid)
            for base in {row.key[0] for row in bad}:
                first = next(row for row in bad if row.key[0] == base)
                damaged = await self._damaged(call, first) - avoid.get(base, frozenset())
                if damaged:
                    avoid[base] = avoid.get(base, frozenset()) | damaged
            again = [row for row in bad if avoid.get(row.key[0]) != known.get(row.key[0])]
            for row in bad:
                sealed[row.key] = Corrupt(
                    "no combination of this pack's shards gives what its writer sealed; run a "
                    "repair",
                    reason="too-few-shards",
                )
            if not again:
                return
            sealed.update(await self._sealed(call, again, avoid))

    async def _damaged(self, call: Call | BatchCall, row: PackedRow) -> frozenset[int]:
        """Which shards are damaged where a payload lies; empty when nothing fits its digest."""
        jobs = self._jobs([row], frozenset(), every=True)
        await self._columns.run(call, jobs)
        damaged = await self._runtime.compute(find_damaged, row, jobs)
        held, profile = jobs[0].seats, jobs[0].shape.profile.name
        for index in sorted(damaged):
            self._suspect(held[index].node, row.key[0], index, profile)
            self._metrics.count("corrupt_shards_total")
            log.error(
                "request %s: pack %s index %d on node %d is damaged",
                call.request,
                row.key[0],
                index,
                held[index].node.node_id,
            )
        return damaged


def find_damaged(row: PackedRow, jobs: Sequence[ColumnJob]) -> frozenset[int]:
    """The indexes whose columns differ from those of k shards that give the payload's digest.

    ``jobs`` are all columns of the payload, read from every shard that answers.
    """
    profile = row.shape.profile
    codec = codec_for(profile)
    have = sorted(set.intersection(*(set(job.found) for job in jobs)))
    trials = itertools.islice(itertools.combinations(have, profile.k), COMBINATIONS_MAX)
    for chosen in trials:
        true = [
            codec.rebuild({index: job.found[index] for index in chosen}, range(profile.n))
            for job in jobs
        ]
        sealed = b"".join(pieces[job.column] for pieces, job in zip(true, jobs, strict=True))
        if (blake3_digest(sealed),) == row.core.data_digests:
            return frozenset(
                index
                for pieces, job in zip(true, jobs, strict=True)
                for index, data in job.found.items()
                if data != pieces[index]
            )
    return frozenset()


def _sorted_out(
    keys: Sequence[Key], found: Mapping[Key, PackedRow | HcefsError]
) -> tuple[list[PackedPayload], list[PackedRow]]:
    """Payloads that cannot be served, and the rows of those that can."""
    failed: list[PackedPayload] = []
    served: list[PackedRow] = []
    for key in keys:
        row = found[key]
        if isinstance(row, HcefsError):
            failed.append(PackedPayload(key, None, b"", row))
        elif not row.wrapped:
            error = NotFound(
                "the key of this blob was deleted: nobody can open it any more", reason="shredded"
            )
            failed.append(PackedPayload(key, row, b"", error))
        else:
            served.append(row)
    return failed, served


def _batches(rows: Sequence[PackedRow]) -> Iterable[Sequence[PackedRow]]:
    batch: list[PackedRow] = []
    size = 0
    for row in rows:
        if batch and size + row.sealed_length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.sealed_length
    if batch:
        yield batch


def _grouped(
    rows: Sequence[PackedRow],
) -> dict[tuple[BlobBase, RecordId, bytes], list[PackedRow]]:
    """Rows by pack, record and layout."""
    groups: dict[tuple[BlobBase, RecordId, bytes], list[PackedRow]] = {}
    for row in rows:
        groups.setdefault((*row.key[:2], row.part.layout), []).append(row)
    return groups


def _assemble(
    groups: Sequence[tuple[Sequence[PackedRow], Sequence[ColumnJob]]],
) -> dict[Key, bytes | HcefsError]:
    """Put payloads together and compare them with their digests; in a worker thread."""
    results: dict[Key, bytes | HcefsError] = {}
    for rows, jobs in groups:
        parts: dict[int, list[Buffer]] = {row.key[2]: [] for row in rows}
        lost: dict[int, HcefsError] = {}
        for job in sorted(jobs, key=lambda job: job.column):
            slots = job.payloads.slots
            try:
                view = memoryview(job.data())
            except HcefsError as error:
                lost.update((slot, error) for slot in slots)
                continue
            start = 0
            for slot, length in zip(slots, job.shape.lengths_in(slots, job.column), strict=True):
                parts[slot].append(view[start : start + length])
                start += length
        for row in rows:
            results[row.key] = lost.get(row.key[2]) or _checked(row, parts[row.key[2]])
    return results


def _checked(row: PackedRow, parts: Sequence[Buffer]) -> bytes | HcefsError:
    sealed = b"".join(parts)
    if len(sealed) != row.sealed_length or (blake3_digest(sealed),) != row.core.data_digests:
        return Corrupt("a packed payload differs from its digest", reason=MISMATCH)
    return sealed


def _differs(result: bytes | HcefsError) -> bool:
    return isinstance(result, HcefsError) and result.reason == MISMATCH


def _layout_may_lie(payload: PackedPayload) -> bool:
    return isinstance(payload.error, (Corrupt, Unavailable))
