"""Makes a revocation certificate: asks every node for its word until it is complete.

Invariants: what is returned has been verified here as anybody else will verify it; a node
that cannot be heard is never counted before its lease has run out by the ledger's clock.

Not guaranteed: completeness within the time given; the certificate then says who is
missing.  Source: docs/decisions/0033-revocation-certificates.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hcefs.access.facts import Grant
from hcefs.client.proofs import ProofClient
from hcefs.errors import Conflict, Corrupt, HcefsError, Unavailable
from hcefs.evidence.revocation import (
    RevocationCertificate,
    RevocationStatement,
    SignedStatement,
    must_confirm,
    worst_gap,
)
from hcefs.ids import GrantId
from hcefs.ledger.block import SignedHead
from hcefs.ledger.genesis import Genesis
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.revocation_proof import Verdict, lapse_ms, verify_certificate
from hcefs.ledger.transactions import (
    GiveGrant,
    RegisterAccount,
    RevokeGrant,
    Transaction,
)
from hcefs.placement.cluster_map import ClusterMap, Node
from hcefs.runtime import end_tasks
from hcefs.wire.v1 import revocation_pb2

CONFIRM_SECONDS = 6.0
"""A node waits up to five for the block, and as long for what it cuts."""

AGAIN_SECONDS = 0.25
HEAD_SECONDS = 0.5
HEAD_SECONDS_MAX = 2.0
SPARE_SECONDS = 15.0
"""How long beyond the end of the leases a certificate is tried for, unless told otherwise."""

Progress = Callable[[int, str], None]
"""Told of a node's number and what is known of it: "confirmed", or why it is not heard."""


def unheard(node_id: int, state: str) -> None:
    """Progress that nobody wants to hear of."""


@dataclass(frozen=True)
class Certified:
    """A certificate and what it proves."""

    certificate: RevocationCertificate
    verdict: Verdict


class _Round:
    """What is known so far under one cluster map."""

    def __init__(self, cluster_map: ClusterMap, first: SignedHead) -> None:
        self.cluster_map = cluster_map
        self.statements: dict[int, bytes] = {}
        self.last = first
        self.over = False
        self.newer_map = False
        self.changed = asyncio.Event()

    @property
    def silent(self) -> frozenset[int]:
        """Nodes that have neither confirmed nor lapsed."""
        return frozenset() if self.over else must_confirm(self.cluster_map) - set(self.statements)

    @property
    def complete(self) -> bool:
        return bool(self.statements) and worst_gap(self.cluster_map, self.silent) is None


class CertificateClient(ProofClient):
    """The part of a client that gathers the word of nodes on a revocation."""

    async def certify(
        self,
        grant_id: GrantId,
        *,
        within_s: float | None = None,
        progress: Progress = unheard,
    ) -> Certified:
        """The certificate of a revocation, for the record's owner and who gave the grant.

        ``within_s`` None waits until every lease that has not been heard of is over, and
        a little longer.

        Raises:
            Conflict: ``not-revoked``: the ledger has not revoked the grant.
            Unavailable: ``no-confirmation``: no node answers in time.
            Denied: this account has no part in the grant.
        """
        grant = await self.grant(grant_id)
        if not grant.revoked_height:
            raise Conflict("this grant is not revoked: revoke it first", reason="not-revoked")
        genesis, first, (given, revoked), founding = await asyncio.gather(
            self.genesis(),
            self._head_from(grant.revoked_height),
            self._grant_proofs(grant_id),
            self._founding(),
        )
        if within_s is None:
            leases = lapse_ms(first, genesis) - self.runtime.now_ms()
            within_s = max(0, leases) / 1000 + genesis.lease_ms / 1000 + SPARE_SECONDS
        state = await self._rounds(grant, genesis, first, within_s, progress)
        statements = tuple(state.statements[each] for each in sorted(state.statements))
        made = RevocationCertificate(
            genesis=founding.genesis,
            terms=tuple(founding.terms),
            given=given,
            revoked=revoked,
            registrations=await self._registrations(statements),
            cluster_map=state.cluster_map.encode(),
            first_head=first.encode(),
            last_head=state.last.encode(),
            statements=statements,
        ).sealed()
        return Certified(made, await self.runtime.compute(verify_certificate, made))

    async def _head_from(self, height: int) -> SignedHead:
        """A head of a height, or of a later one.

        Raises:
            Unavailable: ``behind``: the ledger shows none.
        """
        head = await self.signed_head()
        if head.height < height:
            raise Unavailable("the ledger's head is older than the revocation", reason="behind")
        return head

    async def _rounds(
        self,
        grant: Grant,
        genesis: Genesis,
        first: SignedHead,
        within_s: float,
        progress: Progress,
    ) -> _Round:
        """Ask until it is complete, or the time is over; anew under each newer map."""
        until = self.runtime.monotonic() + within_s
        while True:
            state = _Round(await self.fresh_map(), first)
            tasks = [
                self.runtime.spawn(self._ask_node(node, grant, state, progress), name="certify")
                for node in state.cluster_map.nodes
                if node.node_id in must_confirm(state.cluster_map)
            ]
            tasks.append(
                self.runtime.spawn(self._watch(state, lapse_ms(first, genesis)), name="leases")
            )
            try:
                async with self.runtime.timeout(max(0.0, until - self.runtime.monotonic())):
                    while not state.complete and not state.newer_map:
                        state.changed.clear()
                        await state.changed.wait()
            except TimeoutError:
                if not state.statements:
                    raise Unavailable(
                        "no node confirms the revocation: see that nodes run and follow the "
                        "ledger, then ask for the certificate again",
                        reason="no-confirmation",
                    ) from None
                return state
            finally:
                await end_tasks(*tasks)
            if state.complete:
                return state

    async def _ask_node(self, node: Node, grant: Grant, state: _Round, progress: Progress) -> None:
        """Ask one node until it confirms under this map."""
        told = ""
        while True:
            try:
                data = await self._confirm(node, grant)
                said = SignedStatement.decode(data).statement
            except HcefsError as error:
                reason = error.reason
            else:
                if said.epoch == state.cluster_map.epoch:
                    state.statements[node.node_id] = data
                    progress(node.node_id, "confirmed")
                    state.changed.set()
                    return
                reason = "other-epoch"
                if said.epoch > state.cluster_map.epoch:
                    state.newer_map = True
                    state.changed.set()
            if reason != told:
                progress(node.node_id, reason)
                told = reason
            await self.runtime.sleep(AGAIN_SECONDS)

    async def _confirm(self, node: Node, grant: Grant) -> bytes:
        answer = await self._channels.unary(
            node.address,
            "/hcefs.v1.Revocations/ConfirmRevocation",
            revocation_pb2.ConfirmRevocationRequest(
                proof=self._authorizer.plain("confirm-revocation"),
                grant=bytes(grant.grant),
                height=grant.revoked_height,
            ),
            revocation_pb2.ConfirmRevocationResponse,
            CONFIRM_SECONDS,
        )
        return bytes(answer.statement)

    async def _watch(self, state: _Round, until_ms: int) -> None:
        """Wait for a head that shows that the leases of who is not heard are over."""
        while True:
            left = (until_ms - self.runtime.now_ms()) / 1000
            # In steps, because the clock may be set.
            await self.runtime.sleep(min(max(HEAD_SECONDS, left), HEAD_SECONDS_MAX))
            if self.runtime.now_ms() < until_ms:
                continue
            try:
                head = await self.signed_head()
            except HcefsError:
                continue
            if head.height >= state.last.height and head.time_ms >= state.last.time_ms:
                state.last = head
            if state.last.time_ms >= until_ms:
                state.over = True
                state.changed.set()
                return

    async def _grant_proofs(self, grant: GrantId) -> tuple[bytes, bytes]:
        """The proofs that a grant was given, and that it was revoked."""
        proofs = await self._proofs_of(grant=bytes(grant))
        return _first(GiveGrant, proofs), _first(RevokeGrant, proofs)

    async def _registration(self, statement: RevocationStatement) -> list[bytes]:
        """The proofs of a node's registration and of the changes of its keys, in order."""
        shown = await self._keys_shown(statement.node, statement.key_version)
        if 1 not in shown:
            raise _unproved(RegisterAccount)
        return [shown[version].encode() for version in sorted(shown)]

    async def _registrations(self, statements: Sequence[bytes]) -> tuple[bytes, ...]:
        said = [SignedStatement.decode(data).statement for data in statements]
        shown = await asyncio.gather(*(self._registration(each) for each in said))
        return tuple(proof for each in shown for proof in each)


def _first(kind: type[Transaction], proofs: Sequence[TransactionProof]) -> bytes:
    for proof in proofs:
        if isinstance(proof.unchecked(), kind):
            return proof.encode()
    raise _unproved(kind)


def _unproved(kind: type[Transaction]) -> Corrupt:
    return Corrupt(
        f"the ledger proves no {kind.KIND} of what it was asked for: check its address",
        reason="wrong-fact",
    )
