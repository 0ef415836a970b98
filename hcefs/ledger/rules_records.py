"""The rules for records: opening one, and appending leaves to them.

Invariants: a record's leaves only grow, and the state keeps of them a count and
the peaks; an append is all or nothing over all its records; the writer's account
signs it.  Whether an account may append is decided by
:func:`hcefs.access.rights.decide` at the block's time; an append names no
purpose, so that any purpose of the grant will do.

An append that names an old generation is accepted for a short while after the
next one came, because the writer may have sealed before it could know.  A put
key is remembered until the latest ``commit_by`` of its append; after that the
append itself is refused, so that forgetting the key cannot bring a second leaf.
"""

from __future__ import annotations

from itertools import islice

from hcefs.access.facts import Account, AccountKind, Action, Generation, Record
from hcefs.access.rights import AccessRequest, decide
from hcefs.errors import Conflict, Corrupt, Denied, HcefsError, Invalid, NotFound
from hcefs.ids import GrantId, RecordId
from hcefs.integrity import leaf_hash, push_peak
from hcefs.ledger.outcome import (
    BlockContext,
    GenerationAdded,
    Leaf,
    LeafAppended,
    LeafResult,
    Outcome,
)
from hcefs.ledger.signers import only_signer, verified_signers
from hcefs.ledger.state import (
    PUT_EXPIRIES,
    Overlay,
    PutRow,
    StateView,
    generation_key,
    parse_put_expiry,
    put_expiry_key,
    put_row_key,
    record_key,
    records_of_key,
)
from hcefs.ledger.transactions import Append, AppendEntry, OpenRecord, SignedTransaction

OLD_GENERATION_MS = 60_000
"""How long after a generation came the one before it is still taken."""

COMMIT_BY_AHEAD_MS = 7 * 24 * 3_600_000
"""How far after the block's time ``commit_by`` may lie: bounds the memory of put keys."""

PUT_EXPIRIES_PER_BLOCK = 10_000
"""Put keys forgotten in one block at most; the rest follows in the next blocks."""

FIRST_GENERATION = 0
_OWNER_PURPOSE = "PATRQT"


def open_record(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: OpenRecord,
    context: BlockContext,
) -> Outcome:
    """Open a record for the patient who signs."""
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    if signer.account != transaction.owner:
        raise Denied("a record is opened by its owner's signature", reason="not-the-owner")
    if signer.kind != AccountKind.PATIENT:
        raise Denied("only patients own records", reason="not-a-patient")
    if view.record(transaction.record) is not None:
        raise Conflict(
            f"record {transaction.record} exists: draw another random id", reason="record-exists"
        )
    record = Record(
        record=transaction.record,
        owner=signer.account,
        generation=FIRST_GENERATION,
        leaf_count=0,
        peaks=(),
        height=context.height,
    )
    state.put(records_of_key(record.owner, record.record), b"")
    return Outcome((add_generation(state, record, transaction.public_key, context),))


def add_generation(
    state: Overlay, record: Record, public_key: bytes, context: BlockContext
) -> GenerationAdded:
    """Write a record together with the generation that it names as its current one."""
    generation = Generation(
        record=record.record,
        number=record.generation,
        public_key=public_key,
        height=context.height,
        time_ms=context.time_ms,
    )
    state.put_fact(record_key(record.record), record)
    state.put(generation_key(record.record, record.generation), generation.encode())
    return GenerationAdded(generation)


def append(
    state: Overlay,
    view: StateView,
    signed: SignedTransaction,
    transaction: Append,
    context: BlockContext,
) -> Outcome:
    """Append the leaves, or return those that the put key made before."""
    signer = only_signer(verified_signers(view, signed, context.genesis.cluster))
    row = view.put_row(signer.account, transaction.put_key)
    if row is not None:
        return _repeat(row, transaction)
    ranges = _permitted_ranges(view, signer, transaction, context)
    earliest_ms, latest_ms = context.time_ms, context.time_ms + COMMIT_BY_AHEAD_MS
    events: list[LeafAppended] = []
    results: list[LeafResult] = []
    for entry in transaction.entries:
        grown = ranges[entry.record]
        if entry.generation != grown.record.generation:
            _check_generation(view, grown.record, entry, context)
        if not earliest_ms <= entry.commit_by_ms <= latest_ms:
            raise _bad_commit_by(entry, earliest_ms)
        leaf = Leaf(entry.commitment, signer.account, entry.generation, context.time_ms)
        encoded = leaf.encode()
        digest = leaf_hash(encoded)
        index = grown.count
        completed = push_peak(index, grown.peaks, digest)
        grown.count += 1
        events.append(
            LeafAppended(entry.record, index, leaf, context.height, encoded, tuple(completed))
        )
        results.append(LeafResult(entry.record, index, digest))
    for grown in ranges.values():
        state.put_fact(record_key(grown.record.record), grown.grown())
    commit_by_ms = max(entry.commit_by_ms for entry in transaction.entries)
    row = PutRow(commit_by_ms, tuple(results))
    state.put(put_row_key(signer.account, transaction.put_key), row.encode())
    state.put(put_expiry_key(commit_by_ms, signer.account, transaction.put_key), b"")
    return Outcome(tuple(events), tuple(results))


class _Range:
    """A record's mountain range, which grows by the entries of one append."""

    __slots__ = ("count", "peaks", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.count = record.leaf_count
        self.peaks = list(record.peaks)

    def grown(self) -> Record:
        """The record as it is now."""
        was, peaks = self.record, tuple(self.peaks)
        # Not with dataclasses.replace: one append may have thousands of these.
        return Record(was.record, was.owner, was.generation, self.count, peaks, was.height)


def expire_put_keys(state: Overlay, time_ms: int) -> None:
    """Forget put keys whose ``commit_by`` is before the block's time, oldest first."""
    rows = islice(state.scan(PUT_EXPIRIES), PUT_EXPIRIES_PER_BLOCK)
    expired = []
    for key, _ in rows:
        commit_by_ms, account, put_key = parse_put_expiry(key)
        if commit_by_ms >= time_ms:
            break
        expired.append((key, put_row_key(account, put_key)))
    for expiry_key, row_key in expired:
        state.delete(expiry_key)
        state.delete(row_key)


def _repeat(row: PutRow, transaction: Append) -> Outcome:
    """The first leaves.

    Commitments may differ, because a writer draws a new blob for every attempt;
    the records may not, because then it is another put.
    """
    if [leaf.record for leaf in row.leaves] != [entry.record for entry in transaction.entries]:
        raise Conflict(
            "this put key was used for an append to other records: draw a new one",
            reason="put-key-reused",
        )
    return Outcome(leaves=row.leaves)


def _permitted_ranges(
    view: StateView, signer: Account, transaction: Append, context: BlockContext
) -> dict[RecordId, _Range]:
    """The ranges of the records named, once the right to append to each is certain."""
    ranges: dict[RecordId, _Range] = {}
    decided: set[tuple[RecordId, GrantId]] = set()
    for entry in transaction.entries:
        name = (entry.record, entry.grant)
        if name in decided:
            continue
        grant = view.grant(entry.grant) if entry.grant else None
        request = AccessRequest(
            action=Action.APPEND,
            record=entry.record,
            blob=None,
            range_start=0,
            range_length=0,
            purpose=grant.purposes[0] if grant else _OWNER_PURPOSE,
            presenter=signer.account,
            holder=signer.account,
            grant=entry.grant,
        )
        decide(view, request, context.time_ms).require()
        decided.add(name)
        ranges[entry.record] = _Range(required_record(view, entry.record))
    return ranges


def required_record(view: StateView, record: RecordId) -> Record:
    """The record.

    Raises:
        NotFound: ``unknown-record``.
    """
    found = view.record(record)
    if found is None:
        raise NotFound("the ledger knows no such record: check the id", reason="unknown-record")
    return found


def living_record(view: StateView, record: RecordId) -> Record:
    """The record, which is not erased.

    Raises:
        NotFound: ``unknown-record``.
        Conflict: ``erased``.
    """
    found = required_record(view, record)
    erasure = view.erasure(record)
    if erasure is not None:
        raise Conflict(
            f"this record was erased at height {erasure.height}: nothing comes to it any more",
            reason="erased",
        )
    return found


def _check_generation(
    view: StateView, record: Record, entry: AppendEntry, context: BlockContext
) -> None:
    """Whether a generation other than the current one may still be named."""
    if entry.generation > record.generation:
        raise Invalid("the record has no such generation yet", reason="unknown-generation")
    successor = view.generation(record.record, entry.generation + 1)
    if successor is None:
        raise Corrupt(
            "the ledger's state lacks a generation of a record: verify the log and rebuild it",
            reason="bad-state",
        )
    if context.time_ms > successor.time_ms + OLD_GENERATION_MS:
        raise Conflict(
            f"generation {entry.generation} of the record has been replaced: put again, sealed "
            f"to generation {record.generation}",
            reason="old-generation",
        )


def _bad_commit_by(entry: AppendEntry, time_ms: int) -> HcefsError:
    if entry.commit_by_ms < time_ms:
        return Conflict(
            "commit_by has passed and the blob may be collected: put it again",
            reason="commit-by-passed",
        )
    return Invalid(
        "commit_by may lie at most 7 days after the block's time", reason="commit-by-too-far"
    )
