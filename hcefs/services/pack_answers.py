"""The answers of ``GetMany``: payloads in parts, parts in messages of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hcefs.errors import Corrupt
from hcefs.stripes.pack_read import PackedPayload
from hcefs.transport.pack_messages import failure_of
from hcefs.wire.v1 import pack_pb2

ANSWER_BYTES = 900 << 10
"""Of one answer of ``GetMany``, unless a single payload has more."""


class Framer:
    """Makes answers of payloads: neighbours of one pack and record share a part."""

    def __init__(self) -> None:
        self._parts: list[pack_pb2.PackedPart] = []
        self._of: tuple[Any, ...] | None = None
        self._size = 0

    def take(self, payloads: Iterable[PackedPayload]) -> Iterable[bytes]:
        """Enter payloads; the answers that are full."""
        for payload in payloads:
            message = _payload_message(payload)
            size = len(payload.sealed) + 512
            if payload.row is not None and payload.error is None:
                size += len(payload.row.encoded) + len(payload.row.proof)
            if self._size and self._size + size > ANSWER_BYTES:
                yield from self.rest()
            self._enter(payload)
            self._parts[-1].payloads.append(message)
            self._size += size

    def _enter(self, payload: PackedPayload) -> None:
        row = payload.row if payload.error is None else None
        name = (*payload.key[:2], row.part.opening if row else None)
        if self._parts and self._of == name:
            return
        self._of = name
        part = pack_pb2.PackedPart(record_id=bytes(payload.key[1]), base=bytes(payload.key[0]))
        if row is not None:
            part.envelope = row.part.envelope
            part.opening = row.part.opening
            self._size += len(part.envelope) + len(part.opening)
        self._parts.append(part)

    def rest(self) -> Iterable[bytes]:
        """What was not given yet."""
        parts, self._parts, self._of, self._size = self._parts, [], None, 0
        if parts:
            yield pack_pb2.GetManyResponse(parts=parts).SerializeToString()


def _payload_message(payload: PackedPayload) -> pack_pb2.PackedPayload:
    slot = payload.key[2]
    if payload.error is not None or payload.row is None:
        error = payload.error or Corrupt("a payload without rows", reason="missing-row")
        return pack_pb2.PackedPayload(slot=slot, failure=failure_of(error))
    row = payload.row
    return pack_pb2.PackedPayload(
        slot=slot,
        core=row.encoded,
        wrapped_key=row.wrapped,
        proof=row.proof,
        sealed=payload.sealed,
    )
