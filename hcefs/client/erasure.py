"""The end of a record, as a client sees it: retention, holds, erasure, certificate.

Every change is one transaction.  This account signs it; where the operators' threshold is
needed, others co-sign what :meth:`ErasureClient.prepare` gives, and it is submitted as any
other.  Source: docs/decisions/0036-erasure-and-legal-hold.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from hcefs.access.erasure_facts import Erasure, Hold, Retention
from hcefs.access.facts import Action
from hcefs.client.erasure_check import check_certificate, shown_keys
from hcefs.client.ledger import Submitted
from hcefs.client.nodes import NodeClient
from hcefs.client.proofs import ProofClient
from hcefs.errors import Corrupt, Denied, HcefsError, Invalid, NotFound
from hcefs.evidence.erasure import (
    FIRST_KEYS,
    NO_CHANGES,
    ErasureCertificate,
    ErasureStatement,
)
from hcefs.formats.erasure import ErasureStage
from hcefs.ids import AccountId, GrantId, HoldId, RecordId
from hcefs.ledger.transactions import SignedTransaction, Transaction
from hcefs.ledger.transactions_erasure import EraseRecord, LiftHold, PlaceHold, SetRetention
from hcefs.placement.cluster_map import Node
from hcefs.wire.v1 import admin_pb2, ledger_pb2

ERASURE_SECONDS = 15.0
ASK_AGAIN_SECONDS = 1.0
UNKNOWN = "unknown"
"""The stage of a node that does not say."""


@dataclass(frozen=True)
class RecordEnd:
    """What the ledger knows about the end of a record."""

    retention: Retention | None
    holds: tuple[Hold, ...]
    erasure: Erasure | None

    @property
    def standing(self) -> tuple[Hold, ...]:
        """The holds that stand."""
        return tuple(hold for hold in self.holds if hold.stands)

    def obstacles(self, now_ms: int) -> tuple[str, ...]:
        """For what reasons an erasure would be refused now.

        ``no-retention`` counts for an owner only, and not while the record is empty.
        """
        found = ["erased"] if self.erasure is not None else []
        if self.standing:
            found.append("on-hold")
        if self.retention is None:
            found.append("no-retention")
        elif now_ms < self.retention.retain_until_ms:
            found.append("retained")
        return tuple(found)


@dataclass(frozen=True)
class ErasureState:
    """How far one node is: a stage, ``unknown`` if it does not answer, and why not.

    ``key_change`` proves the key of the statement, where it is not the account's first one.
    """

    node: Node
    stage: str
    statement: ErasureStatement | None
    problem: str = ""
    key_change: bytes = b""


class ErasureClient(NodeClient, ProofClient):
    """The part of a client that ends records."""

    def prepare(self, transaction: Transaction) -> SignedTransaction:
        """A transaction with this account's signature, for others to co-sign.

        Raises:
            Invalid: it is malformed.
        """
        return self._signed(transaction)

    async def set_retention(
        self,
        record: RecordId,
        retain_until_ms: int,
        jurisdiction: str,
        standing: GrantId | None = None,
    ) -> Submitted:
        """Set until when a record must be kept.

        Raises:
            Denied, Conflict: as the ledger's rules say.
        """
        made = SetRetention(record, retain_until_ms, jurisdiction, standing or GrantId.zero())
        return await self.submit(self.prepare(made))

    async def place_hold(
        self, record: RecordId, case_digest: bytes, standing: GrantId | None = None
    ) -> HoldId:
        """Place a legal hold; its id.

        Raises:
            Denied, Conflict: as the ledger's rules say.
        """
        hold = HoldId(self.runtime.random(HoldId.SIZE))
        made = PlaceHold(record, hold, case_digest, standing or GrantId.zero())
        await self.submit(self.prepare(made))
        return hold

    async def lift_hold(self, record: RecordId, hold: HoldId) -> Submitted:
        """Lift one hold.

        Raises:
            Denied, Conflict, NotFound: as the ledger's rules say.
        """
        return await self.submit(self.prepare(LiftHold(record, hold)))

    async def erase(self, record: RecordId) -> Submitted:
        """Erase a record that this account owns.  It cannot be undone.

        Nodes delete when they have applied the block; :meth:`erasure_certificate` shows it.

        Raises:
            Conflict: ``on-hold``, ``retained``, ``no-retention``, ``erased``.
            Denied: ``not-the-owner``.
        """
        return await self.submit(self.prepare(EraseRecord(record, b"")))

    async def record_end(self, record: RecordId) -> RecordEnd:
        """Retention, holds and erasure of a record.

        Raises:
            NotFound: not for this account to know.
        """
        facts = await self._query(
            lambda proof: ledger_pb2.QueryRequest(proof=proof, record_end=bytes(record)), record
        )
        retention: Retention | None = None
        erasure: Erasure | None = None
        holds: list[Hold] = []
        for data in facts:
            fact = _end_fact(data)
            if fact.record != record:
                raise _wrong_fact()
            if isinstance(fact, Hold):
                holds.append(fact)
            elif isinstance(fact, Erasure):
                erasure = fact
            else:
                retention = fact
        return RecordEnd(retention, tuple(holds), erasure)

    async def erasure(self, record: RecordId) -> Erasure | None:
        """That a record was erased, and at which height; None when it was not."""
        return (await self.record_end(record)).erasure

    # -- nodes

    async def erasure_states(self, record: RecordId) -> list[ErasureState]:
        """How far every node of the map is with the erasure of a record; all of them are asked."""
        current = await self.fresh_map()
        return list(
            await asyncio.gather(*(self._erasure_state(node, record) for node in current.nodes))
        )

    async def _erasure_state(self, node: Node, record: RecordId) -> ErasureState:
        request = admin_pb2.StateErasureRequest(
            proof=self._authorizer.plain("erasure", record), record_id=bytes(record)
        )
        try:
            async with self.runtime.timeout(ERASURE_SECONDS):
                answer = await self._channels.unary(
                    node.address,
                    "/hcefs.v1.Admin/StateErasure",
                    request,
                    admin_pb2.StateErasureResponse,
                    ERASURE_SECONDS,
                )
            statement = ErasureStatement.decode(answer.statement) if answer.statement else None
            if statement is not None and (statement.node, statement.record) != (
                node.account,
                record,
            ):
                raise _wrong_fact()
            change = b"" if statement is None else await self._checked(statement)
        except TimeoutError:
            return ErasureState(node, UNKNOWN, None, "no answer in time")
        except HcefsError as error:
            return ErasureState(node, UNKNOWN, None, f"{error.reason}: {error.message}")
        return ErasureState(node, answer.stage, statement, key_change=change)

    async def _checked(self, statement: ErasureStatement) -> bytes:
        """Check a statement; the proof of its key, where it is not the account's first one.

        Raises:
            Corrupt, Invalid, Unauthenticated: it is not the node's.
        """
        if statement.key_version == FIRST_KEYS:
            statement.check(NO_CHANGES)
            return b""
        proof = await self._key_change(statement.node, statement.key_version)
        statement.check(shown_keys((proof,), await self.terms()))
        return proof

    async def _key_change(self, account: AccountId, version: int) -> bytes:
        """The proof of the change that brought an account's keys of some version.

        Raises:
            Corrupt: ``wrong-key``: the ledger shows no such change.
        """
        change = (await self._keys_shown(account, version)).get(version)
        if change is None:
            raise Corrupt(
                f"a statement is signed with version {version} of the keys of {account}, which "
                "the ledger does not show",
                reason="wrong-key",
            )
        return change.encode()

    async def _erasing(self, record: RecordId) -> bytes:
        """The proof of the transaction that erased a record."""
        proofs = await self._proofs_of(erasure=bytes(record))
        if len(proofs) != 1:
            raise _wrong_fact()
        return proofs[0].encode()

    async def erasure_certificate(
        self,
        record: RecordId,
        *,
        wait_seconds: float = 0.0,
        watch: Callable[[list[ErasureState]], None] | None = None,
    ) -> ErasureCertificate:
        """Collect the certificate of an erasure; it may be incomplete, and says so itself.

        With ``wait_seconds`` nodes that are still deleting are asked again until then; nodes
        that do not answer are not waited for longer than that either.  ``watch`` is handed
        what they say each time.

        Raises:
            NotFound: ``not-erased``.
            Corrupt: the ledger's answers prove nothing.
        """
        erasure = await self.erasure(record)
        if erasure is None:
            raise NotFound("this record is not erased: erase it first", reason="not-erased")
        until = self.runtime.monotonic() + wait_seconds
        while True:
            states = await self.erasure_states(record)
            if watch is not None:
                watch(states)
            done = all(state.stage == ErasureStage.DONE.name.lower() for state in states)
            if done or self.runtime.monotonic() >= until:
                break
            await self.runtime.sleep(ASK_AGAIN_SECONDS)
        founding = await self._founding()
        certificate = ErasureCertificate(
            cluster=self.connection.cluster,
            record=record,
            genesis=founding.genesis,
            terms=tuple(founding.terms),
            proof=await self._erasing(record),
            cluster_map=await self.cluster_map(),
            statements=tuple(state.statement for state in states if state.statement is not None),
            openers=await self._openers(record),
            made_ms=self.runtime.now_ms(),
            key_changes=tuple(state.key_change for state in states if state.key_change),
        )
        check_certificate(certificate, self.connection.cluster)
        return certificate

    async def _openers(self, record: RecordId) -> tuple[AccountId, ...]:
        """Who could ever open something of a record, as far as this account may know."""
        try:
            grants = await self.grants(record)
            owner = (await self.record(record)).owner
        except (NotFound, Denied):
            return ()
        readers = {grant.grantee for grant in grants if grant.actions & Action.READ}
        return (owner, *sorted(readers - {owner}))


def _end_fact(data: bytes) -> Retention | Hold | Erasure:
    for kind in (Retention, Hold, Erasure):
        try:
            return kind.decode(data)
        except Invalid:
            continue
    raise _wrong_fact()


def _wrong_fact() -> Corrupt:
    return Corrupt("the answer is about something else than was asked", reason="wrong-fact")


def erased(erasure: Erasure) -> NotFound:
    """What whoever asks for something of an erased record is told."""
    return NotFound(
        f"record {erasure.record} was erased at height {erasure.height}: nothing of it is left",
        reason="erased",
    )
