"""Packs as they travel between nodes: from the protocol's messages and to them.

Both sides use it: the servicers, and the peer that calls them.  What arrives is not
trusted: ids and slots are checked here, everything else where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hcefs.access.batch import BatchGroup
from hcefs.errors import Corrupt, HcefsError, Invalid
from hcefs.formats.pack import join_slots, split_slots
from hcefs.ids import BlobBase, RecordId
from hcefs.transport.packs import (
    BatchCall,
    ColumnsWanted,
    PackedRows,
    PackGroupRows,
    PackPart,
    PackWanted,
)
from hcefs.transport.peers import Piece
from hcefs.transport.status import KIND_KEY, REASON_KEY, error_of, to_status
from hcefs.wire.v1 import pack_pb2


def failure_of(error: HcefsError) -> pack_pb2.PackedFailure:
    """An error of one item, as it travels inside an answer."""
    status = to_status(error)
    metadata = dict(status.metadata)
    return pack_pb2.PackedFailure(
        kind=metadata[KIND_KEY], reason=metadata[REASON_KEY], message=status.details
    )


def error_in(failure: pack_pb2.PackedFailure) -> HcefsError:
    """The inverse of :func:`failure_of`."""
    return error_of(failure.kind, failure.reason, failure.message)


def batch_context(call: BatchCall, *, groups: bool = True) -> pack_pb2.BatchContext:
    """The call as it travels; without ``groups`` where the request's own are all of them."""
    return pack_pb2.BatchContext(
        authorization=pack_pb2.BatchAuthorization(tokens=call.tokens, proof=call.proof),
        method=call.method,
        groups=[group_message(group) for group in call.groups] if groups else (),
        min_height=call.min_height,
        epoch=call.epoch,
        request_id=bytes(call.request),
        stand_in=call.stand_in,
    )


def group_message(group: BatchGroup) -> pack_pb2.BatchGroup:
    """A group of a batch as it travels."""
    return pack_pb2.BatchGroup(
        token=group.token, record_id=bytes(group.record), blob_ids=group.blobs
    )


def batch_groups(messages: Iterable[Any]) -> tuple[BatchGroup, ...]:
    """The groups of a batch.

    Raises:
        Invalid: ``bad-id``.
    """
    return tuple(
        BatchGroup(each.token, RecordId(each.record_id), each.blob_ids) for each in messages
    )


def pack_group(message: Any) -> PackGroupRows:
    """What a pack holds of one record.

    Raises:
        Invalid: ``bad-id``.
    """
    return PackGroupRows(
        message.token,
        RecordId(message.record_id),
        message.slots,
        tuple(message.cores),
        message.wrapped_keys,
        message.envelope,
        message.opening,
    )


def pack_group_message(rows: PackGroupRows) -> pack_pb2.PackGroup:
    """The inverse of :func:`pack_group`."""
    return pack_pb2.PackGroup(
        token=rows.token,
        record_id=bytes(rows.record),
        slots=rows.slots,
        cores=rows.cores,
        wrapped_keys=rows.wrapped_keys,
        envelope=rows.envelope,
        opening=rows.opening,
    )


def pack_wanted(message: Any) -> PackWanted:
    """Payloads that are asked for.

    Raises:
        Invalid: ``bad-id``, ``bad-slots``.
    """
    return PackWanted(
        RecordId(message.record_id), BlobBase(message.base), tuple(split_slots(message.slots))
    )


def pack_wanted_message(wanted: PackWanted) -> pack_pb2.PackWanted:
    """The inverse of :func:`pack_wanted`."""
    return pack_pb2.PackWanted(
        record_id=bytes(wanted.record),
        base=bytes(wanted.base),
        slots=join_slots(list(wanted.slots)),
    )


def columns_wanted(message: Any) -> ColumnsWanted:
    """Columns that are asked for.

    Raises:
        Invalid: ``bad-id``, ``bad-slots``.
    """
    return ColumnsWanted(
        pack_wanted(message.payloads), message.index, message.column_of, message.profile
    )


def columns_wanted_message(wanted: ColumnsWanted) -> pack_pb2.ColumnsWanted:
    """The inverse of :func:`columns_wanted`."""
    return pack_pb2.ColumnsWanted(
        payloads=pack_wanted_message(wanted.payloads),
        index=wanted.index,
        column_of=wanted.column_of,
        profile=wanted.profile,
    )


def part_message(wanted: PackWanted, part: PackPart | HcefsError) -> pack_pb2.PackedPart:
    """The manifest rows of a part, or why there are none, from a holder."""
    if isinstance(part, HcefsError):
        return pack_pb2.PackedPart(
            record_id=bytes(wanted.record), base=bytes(wanted.base), failure=failure_of(part)
        )
    return pack_pb2.PackedPart(
        record_id=bytes(part.record),
        base=bytes(part.base),
        envelope=part.envelope,
        opening=part.opening,
        layout=part.layout,
        payloads=[
            *(
                pack_pb2.PackedPayload(
                    slot=rows.slot, core=rows.core, wrapped_key=rows.wrapped, proof=rows.proof
                )
                for rows in part.payloads
            ),
            *(
                pack_pb2.PackedPayload(slot=slot, failure=failure_of(error))
                for slot, error in part.failures
            ),
        ],
    )


def parts_of(wanted: Sequence[PackWanted], messages: Sequence[Any]) -> list[PackPart | HcefsError]:
    """A holder's answer: a part, or why not, for each that was wanted.

    Raises:
        Corrupt: ``bad-message``: it is not an answer to what was asked.
    """
    if len(messages) != len(wanted):
        raise _bad_answer()
    return [_part(each, message) for each, message in zip(wanted, messages, strict=True)]


def _part(wanted: PackWanted, message: Any) -> PackPart | HcefsError:
    if message.HasField("failure"):
        return error_in(message.failure)
    if (message.record_id, message.base) != (wanted.record, wanted.base):
        raise _bad_answer()
    served: list[PackedRows] = []
    failures: list[tuple[int, HcefsError]] = []
    for each in message.payloads:
        if each.HasField("failure"):
            failures.append((each.slot, error_in(each.failure)))
        else:
            served.append(PackedRows(each.slot, each.core, each.wrapped_key, each.proof))
    return PackPart(
        wanted.record,
        wanted.base,
        message.layout,
        message.envelope,
        message.opening,
        tuple(served),
        tuple(failures),
    )


def columns_message(columns: Piece | HcefsError) -> pack_pb2.Columns:
    """What a shard holds in some columns, or why there is nothing."""
    if isinstance(columns, HcefsError):
        return pack_pb2.Columns(failure=failure_of(columns))
    return pack_pb2.Columns(data=bytes(columns))


def columns_of(wanted: int, messages: Sequence[Any]) -> list[Piece | HcefsError]:
    """A holder's answer to ``wanted`` questions.

    Raises:
        Corrupt: ``bad-message``.
    """
    if len(messages) != wanted:
        raise _bad_answer()
    return [error_in(each.failure) if each.HasField("failure") else each.data for each in messages]


def _bad_answer() -> Corrupt:
    return Corrupt("the holder's answer is not to what was asked", reason="bad-message")


def batch_blobs(rows: Sequence[PackGroupRows], base: BlobBase) -> tuple[BatchGroup, ...]:
    """The groups of a batch that puts these rows.

    Raises:
        Invalid: ``bad-slots``: slots are not two bytes each.
    """
    groups = []
    for each in rows:
        if len(each.slots) % 2:
            raise Invalid("slots have two bytes each", reason="bad-slots")
        groups.append(BatchGroup(each.token, each.record, blob_ids(base, each.slots)))
    return tuple(groups)


def blob_ids(base: BlobBase, slots: bytes) -> bytes:
    """The ids of the blobs in these slots (u16 each, joined), joined."""
    return b"".join(base + slots[i : i + 2] for i in range(0, len(slots), 2))
