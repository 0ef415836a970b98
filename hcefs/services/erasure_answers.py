"""What a node answers about the erasure of a record: how far it is, and its signed word."""

from __future__ import annotations

from typing import Protocol

from hcefs.access.erasure_facts import Erasure
from hcefs.crypto.accounts import AccountKeys
from hcefs.errors import NotFound
from hcefs.evidence.erasure import ErasureStatement
from hcefs.formats.erasure import ErasureProgress, ErasureStage
from hcefs.ids import RecordId
from hcefs.wire.v1 import admin_pb2


class ErasedView(Protocol):
    """The ledger, as far as it concerns this."""

    @property
    def height(self) -> int:
        """The height that has been applied here."""

    def erasure(self, record: RecordId) -> Erasure | None:
        """That a record was erased, or None."""


class Progresses(Protocol):
    """What knows how far the erasures are on this node."""

    def progress(self, record: RecordId) -> ErasureProgress | None:
        """How far the erasure of a record is here; None before it began."""


class ErasureAnswers:
    """Answers for one node."""

    def __init__(self, view: ErasedView, eraser: Progresses, keys: AccountKeys) -> None:
        self._view = view
        self._eraser = eraser
        self._keys = keys

    def answer(self, record: RecordId) -> admin_pb2.StateErasureResponse:
        """The stage, and once nothing is left the node's signed statement.

        Raises:
            NotFound: ``not-erased``: the ledger here does not say that it was erased.
        """
        height = self._view.height
        erasure = self._view.erasure(record)
        if erasure is None:
            raise NotFound(
                f"the record is not erased at height {height}: erase it first, or ask a node "
                "that has applied the block",
                reason="not-erased",
            )
        known = self._eraser.progress(record)
        stage = ErasureStage.KEYS if known is None else known.stage
        statement = b""
        if known is not None and known.stage is ErasureStage.DONE:
            statement = self._statement(known, height).encode()
        return admin_pb2.StateErasureResponse(
            height=height, stage=stage.name.lower(), statement=statement
        )

    def _statement(self, known: ErasureProgress, height: int) -> ErasureStatement:
        keys = self._keys
        return ErasureStatement(
            cluster=keys.cluster,
            record=known.record,
            node=keys.account,
            key_version=keys.key_version,
            signing_key=keys.signing_key.public_key,
            erased_height=known.height,
            applied_height=height,
            boxes=known.boxes,
            links=known.links,
            key_rows=known.key_rows,
            openings=known.openings,
            shards=known.shards,
            left=0,
            done_ms=known.done_ms,
            signature=b"",
        ).signed(keys.signing_key)
