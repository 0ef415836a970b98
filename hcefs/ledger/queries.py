"""The ledger's answers: which facts an account may see.

Owns the rules of disclosure.  The ledger is pseudonymous, so who is linked to whom
is told to nobody else: an account sees itself, any active account by its exact id,
the cluster map, records that it owns or holds a live grant on, grants that it gave,
got, or that concern its record, requests for access that it made or is to answer, and
the leaf of a commitment that it can name.
Operators also see every account and what the ledger knows about the cluster itself;
nodes see everything, because they decide from it.

Invariants: what is unknown and what is not allowed get the same answer; every answer
is of one height; the work of one question is bounded (a proof reads a logarithmic
number of rows).  "Now" is the later of the last block's time and the newest head's.
Source: docs/ARCHITECTURE.md, "Identity and genesis"; RFC 6962 section 2.1 for proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hcefs.access.erasure_facts import Erasure, Hold, Retention
from hcefs.access.facts import Account, AccountKind, Generation, Grant, PastKeys, Record
from hcefs.errors import Invalid, NotFound
from hcefs.ids import AccountId, GrantId, RecordId
from hcefs.integrity import merkle_root, node_hash
from hcefs.ledger import inclusion
from hcefs.ledger.cluster_facts import (
    ArrivedSeat,
    MapChange,
    MapProgress,
    ProtocolStatus,
    ReportRow,
    UpkeepPolicy,
)
from hcefs.ledger.inclusion import TransactionProof
from hcefs.ledger.log import LEAVES_MAX, LedgerLog
from hcefs.ledger.outcome import Leaf
from hcefs.ledger.request_facts import AskedAccess
from hcefs.ledger.state import StateView
from hcefs.ledger.transactions import Transaction
from hcefs.placement.cluster_map import ClusterMap

MAP_CHANGES_MAX = 256
"""Most epochs that one answer about their history tells of."""
GRANT_DEPTH_MAX = 8
"""Longest chain of grants that are given under one another."""

Subtree = Callable[[int, int], bytes]
"""Root of the complete subtree (level, index): of leaves index << level and on."""


class Questions:
    """Answers questions of one log.  ``asker`` None is somebody without an account.

    Every method raises ``NotFound`` both for what does not exist and for what the
    asker may not see.
    """

    def __init__(self, log: LedgerLog) -> None:
        self._log = log

    def account(self, asker: Account | None, account: AccountId) -> Account:
        """The asker's own account, or any active one; nodes and operators see all."""
        if asker is None:
            raise _not_found()
        found = self._log.account(account)
        own = asker.account == account
        if found is None or not (own or _sees_accounts(asker) or (asker.active and found.active)):
            raise _not_found()
        return found

    def past_keys(self, asker: Account | None, account: AccountId, key_version: int) -> PastKeys:
        """Public keys that an account had; for every active account, of any.

        Who can name the account has something that it signed, and must be able to check
        it after the account's end as well.
        """
        if asker is None or not (asker.active or asker.account == account):
            raise _not_found()
        found = self._log.past_keys(account, key_version)
        if found is None:
            raise _not_found()
        return found

    def record(self, asker: Account | None, record: RecordId) -> Record:
        """A record that the asker owns or holds a live grant on."""
        return self._record(self._log.snapshot(), asker, record)

    def generation(self, asker: Account | None, record: RecordId, number: int) -> Generation:
        """One generation of such a record."""
        view = self._log.snapshot()
        self._record(view, asker, record)
        found = view.generation(record, number)
        if found is None:
            raise _not_found()
        return found

    def grant(self, asker: Account | None, grant: GrantId) -> Grant:
        """A grant, revoked or not, that the asker gave or got or that is on its record."""
        view = self._log.snapshot()
        found = view.grant(grant)
        if asker is None or not asker.active or found is None:
            raise _not_found()
        if asker.account not in (found.granter, found.grantee) and not _is_node(asker):
            record = view.record(found.record)
            if record is None or record.owner != asker.account:
                raise _not_found()
        return found

    def grants_on_record(self, asker: Account | None, record: RecordId) -> list[Grant]:
        """All grants on a record, revoked ones included; for its owner."""
        view = self._log.snapshot()
        found = view.record(record)
        if asker is None or not asker.active or found is None:
            raise _not_found()
        if found.owner != asker.account and not _is_node(asker):
            raise _not_found()
        return view.grants_on_record(record)

    def my_grants(self, asker: Account | None) -> list[Grant]:
        """All grants to the asker, revoked ones included."""
        account = _active(asker).account
        return self._log.snapshot().grants_to(account)

    def my_records(self, asker: Account | None) -> list[Record]:
        """All records that the asker owns."""
        account = _active(asker).account
        return self._log.snapshot().records_of(account)

    def my_requests(self, asker: Account | None) -> list[AskedAccess]:
        """Unexpired requests for access: those of the asker, and open ones to it, by height."""
        account = _active(asker).account
        view = self._log.snapshot()
        now_ms = self._now_ms(view)
        found = {each.ask: each for each in (*view.asks_by(account), *view.asks_to(account))}
        live = (each for each in found.values() if now_ms < each.expires_ms)
        return sorted(live, key=lambda each: (each.height, each.ask))

    def cluster_map(self, asker: Account | None) -> ClusterMap:
        """The cluster map in force; for every active account."""
        _active(asker)
        found = self._log.cluster_map()
        if found is None:
            raise _not_found()
        return found

    def operators(self, asker: Account | None) -> list[Account]:
        """The active operators, by id: few, for each took the threshold to admit."""
        _require_upkeep(asker)
        view = self._log.snapshot()
        found = (view.account(each) for each in sorted(view.operators(), key=bytes))
        return [each for each in found if each is not None]

    def map_progress(self, asker: Account | None) -> MapProgress:
        """The wave in force: how many seats are in flight, and those that have arrived."""
        _require_upkeep(asker)
        view = self._log.snapshot()
        arrivals = view.arrivals()
        seats = tuple(ArrivedSeat.of(name) for name in sorted(view.arrived()))
        return MapProgress(arrivals.epoch, arrivals.in_flight, seats)

    def upkeep_policy(self, asker: Account | None) -> UpkeepPolicy:
        """What nodes may do by themselves."""
        _require_upkeep(asker)
        return self._log.policy()

    def node_reports(self, asker: Account | None) -> list[ReportRow]:
        """What each node last reported, by ascending node id."""
        _require_upkeep(asker)
        return list(self._log.snapshot().reports())

    def map_history(self, asker: Account | None, from_epoch: int) -> list[MapChange]:
        """How epochs began, from one on; at most ``MAP_CHANGES_MAX``, none of version 1."""
        _require_upkeep(asker)
        return list(self._log.snapshot().map_changes(from_epoch, MAP_CHANGES_MAX))

    def protocol_version(self, asker: Account | None) -> ProtocolStatus:
        """The version of the rules that the next block follows, and the one after it."""
        _require_upkeep(asker)
        view = self._log.snapshot()
        schedule = view.protocol()
        step = schedule.scheduled(view.height + 1)
        return ProtocolStatus(
            height=view.height,
            version=schedule.at(view.height + 1),
            next_version=0 if step is None else step.version,
            next_height=0 if step is None else step.height,
        )

    def leaves(self, asker: Account | None, record: RecordId, first: int, count: int) -> list[Leaf]:
        """Leaves of a record from ``first`` on; at most ``count`` and ``LEAVES_MAX``.

        Raises:
            Invalid: ``bad-range``: a number is negative.
        """
        found = self._record(self._log.snapshot(), asker, record)
        if first < 0 or count < 0:
            raise Invalid("leaves are counted from 0: ask for a range", reason="bad-range")
        available = max(0, found.leaf_count - first)
        return self._log.leaves(record, first, min(count, available, LEAVES_MAX))

    def has_leaf(
        self,
        asker: Account | None,
        record: RecordId,
        commitment: bytes,
        signer: AccountId | None = None,
    ) -> Leaf | None:
        """The first leaf of a record with this commitment (by this signer), or None.

        For every active account: a commitment is salted, so only someone who was
        given the opening (by a node that permitted it) can name it.  Who reads by
        a lent capability has no grant of its own and still verifies what it got.
        """
        return self.has_leaves(asker, record, [(commitment, signer)])[0]

    def has_leaves(
        self,
        asker: Account | None,
        record: RecordId,
        asked: Sequence[tuple[bytes, AccountId | None]],
    ) -> list[Leaf | None]:
        """As :meth:`has_leaf`, for up to ``LEAVES_MAX`` pairs of commitment and signer.

        Raises:
            Invalid: ``bad-range``: more are asked.
        """
        if asker is None or not asker.active:
            raise _not_found()
        if len(asked) > LEAVES_MAX:
            raise Invalid(
                f"one question is about at most {LEAVES_MAX} commitments: split it",
                reason="bad-range",
            )
        found = [self._log.leaf_of(record, commitment, signer) for commitment, signer in asked]
        return [None if each is None else each[1] for each in found]

    def prove(
        self,
        asker: Account | None,
        record: RecordId,
        size: int,
        leaf_index: int | None,
        consistent_with: int | None,
    ) -> tuple[int, bytes, list[bytes]]:
        """Size, root and audit path of a record's tree of ``size`` leaves (0: all of them).

        The path proves the leaf at ``leaf_index`` or, instead, that the tree extends
        its first ``consistent_with`` leaves; :mod:`hcefs.integrity` checks both.

        Raises:
            Invalid: ``bad-range``: not exactly one claim, or numbers beyond the tree.
        """
        found = self._record(self._log.snapshot(), asker, record)
        size = size or found.leaf_count
        if not 0 <= size <= found.leaf_count:
            raise Invalid(
                f"the record has {found.leaf_count} leaves: ask for a tree of at most that size",
                reason="bad-range",
            )

        def subtree(level: int, index: int) -> bytes:
            return self._log.subtree(record, level, index)

        if leaf_index is not None and consistent_with is None:
            path = _inclusion_path(subtree, size, leaf_index)
        elif consistent_with is not None and leaf_index is None:
            path = _consistency_path(subtree, size, consistent_with)
        else:
            raise Invalid("ask for one leaf or for one earlier size", reason="bad-range")
        return size, _root(subtree, 0, size), path

    def account_proofs(self, asker: Account | None, account: AccountId) -> list[TransactionProof]:
        """How an account came to the ledger, and how its keys changed; nothing for the
        operators of the genesis.

        For every active account, because a signature proves nothing without the key.
        """
        found = self.account(asker, account)
        cluster = self._log.genesis.cluster
        if found.height == 0:
            return []
        heights = [found.height]
        for version in range(1, found.key_version):
            past = self._log.past_keys(account, version)
            if past is not None:
                heights.append(past.until_height)
        return [
            proof
            for height in dict.fromkeys(heights)
            for proof in self._proofs(
                height,
                lambda each: inclusion.is_about_account(each, cluster, account),
                account,
                inclusion.REGISTERS,
            )
        ]

    def grant_proofs(self, asker: Account | None, grant: GrantId) -> list[TransactionProof]:
        """How a grant was given and, if it was, revoked; for whom :meth:`grant` answers."""
        found = self.grant(asker, grant)
        heights = [found.height, *([found.revoked_height] if found.revoked_height else [])]
        return [
            proof
            for height in heights
            for proof in self._proofs(
                height,
                lambda each: inclusion.is_about_grant(each, grant, found.record),
                grant,
                inclusion.EMERGENCIES,
            )
        ]

    def record_proofs(self, asker: Account | None, record: RecordId) -> list[TransactionProof]:
        """How a record was opened; for whom :meth:`record` answers."""
        found = self.record(asker, record)
        return self._proofs(found.height, lambda each: inclusion.opens_record(each, record), record)

    def record_end(
        self, asker: Account | None, record: RecordId
    ) -> list[Retention | Hold | Erasure]:
        """How long a record must be kept, all holds on it, and its erasure.

        For whom :meth:`record` answers, operators, and the institution that admitted the
        record's owner or that has placed a hold.
        """
        view = self._log.snapshot()
        holds = view.holds(record)
        if not self._sees_end(view, asker, record, holds):
            self._record(view, asker, record)
        ends = (view.retention(record), *holds, view.erasure(record))
        return [each for each in ends if each is not None]

    @staticmethod
    def _sees_end(
        view: StateView, asker: Account | None, record: RecordId, holds: Sequence[Hold]
    ) -> bool:
        found = view.record(record)
        owner = view.account(found.owner) if found is not None else None
        if asker is None or not asker.active or owner is None:
            return False
        if asker.kind is AccountKind.INSTITUTION:
            return asker.account in (owner.admitted_by, *(hold.placed_by for hold in holds))
        return asker.kind is AccountKind.OPERATOR

    def erasure_proofs(self, asker: Account | None, record: RecordId) -> list[TransactionProof]:
        """How a record was erased; for whom :meth:`record_end` answers."""
        ends = self.record_end(asker, record)
        found = next((each for each in ends if isinstance(each, Erasure)), None)
        if found is None:
            raise _not_found()
        return self._proofs(found.height, lambda each: inclusion.erases(each, record), record)

    def leaf_proofs(
        self, asker: Account | None, record: RecordId, index: int
    ) -> list[TransactionProof]:
        """How a leaf was appended; for whom :meth:`record` answers.

        Empty when the same transaction appended to other records: it is not told of those.
        """
        self.record(asker, record)
        found = self._log.leaf(record, index)
        if found is None:
            raise _not_found()
        leaf, height = found
        commitment = leaf.commitment
        return self._proofs(
            height, lambda each: inclusion.appends(each, record, commitment), commitment
        )

    def _proofs(
        self, height: int, wanted: Callable[[Transaction], bool], *holding: bytes
    ) -> list[TransactionProof]:
        """Proofs of what is wanted of one block; its bytes hold one of ``holding``."""
        block = self._log.block(height)
        return [
            inclusion.prove_transaction(block, index)
            for index, each in inclusion.transactions_of(block, *holding)
            if wanted(each)
        ]

    def _record(self, view: StateView, asker: Account | None, record: RecordId) -> Record:
        found = view.record(record)
        if asker is None or not asker.active or found is None:
            raise _not_found()
        if found.owner == asker.account or _is_node(asker):
            return found
        now_ms = self._now_ms(view)
        for grant in view.grants_to(asker.account):
            if grant.record == record and _is_live(view, grant, now_ms):
                return found
        raise _not_found()

    def _now_ms(self, view: StateView) -> int:
        head = self._log.head
        return max(view.time_ms, head.time_ms if head is not None else 0)


def _active(asker: Account | None) -> Account:
    if asker is None or not asker.active:
        raise _not_found()
    return asker


def _is_node(asker: Account) -> bool:
    return asker.active and asker.kind is AccountKind.NODE


def _sees_accounts(asker: Account) -> bool:
    return asker.active and asker.kind in (AccountKind.NODE, AccountKind.OPERATOR)


def _require_upkeep(asker: Account | None) -> None:
    if asker is None or not _sees_accounts(asker):
        raise _not_found()


def _is_live(view: StateView, grant: Grant, now_ms: int) -> bool:
    """Whether a grant and all those that it was given under are in force."""
    link: Grant | None = grant
    for _ in range(GRANT_DEPTH_MAX + 1):
        if (
            link is None
            or link.revoked_height
            or not link.not_before_ms <= now_ms < link.not_after_ms
        ):
            return False
        if link.parent is None:
            return True
        naming = view.emergency_naming(link.parent)
        if naming is not None:  # an opening made it; whether it still permits, rights decide
            return not naming.ended_height
        link = view.grant(link.parent)
    return False


def _not_found() -> NotFound:
    return NotFound(
        "the ledger has no such thing that this account may see: check the id, and whether a "
        "grant is live",
        reason="not-found",
    )


def _split(size: int) -> int:
    """The largest power of two below ``size``: how many leaves are on the left."""
    return 1 << ((size - 1).bit_length() - 1)


def _root(subtree: Subtree, first: int, count: int) -> bytes:
    """Root over leaves ``first`` .. ``first + count``, where RFC 6962 would cut."""
    if count == 0:
        return merkle_root([])
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return subtree(level, first >> level)
    left = _split(count)
    return node_hash(_root(subtree, first, left), _root(subtree, first + left, count - left))


def _inclusion_path(subtree: Subtree, size: int, index: int) -> list[bytes]:
    if not 0 <= index < size:
        raise Invalid(f"leaf {index} is not in the tree of {size}", reason="bad-range")
    path: list[bytes] = []
    first = 0
    while size > 1:
        left = _split(size)
        if index < first + left:
            path.append(_root(subtree, first + left, size - left))
            size = left
        else:
            path.append(_root(subtree, first, left))
            first, size = first + left, size - left
    path.reverse()
    return path


def _consistency_path(subtree: Subtree, size: int, old: int) -> list[bytes]:
    if not 0 <= old <= size:
        raise Invalid(f"a tree of {size} leaves does not extend one of {old}", reason="bad-range")
    if old == 0:
        return []
    path: list[bytes] = []
    first, complete = 0, True
    while old < size:
        left = _split(size)
        if old <= left:
            path.append(_root(subtree, first + left, size - left))
            size = left
        else:
            path.append(_root(subtree, first, left))
            first, size, old = first + left, size - left, old - left
            complete = False
    # Who verifies knows the old root itself; it is left out when it is a whole subtree.
    if not complete:
        path.append(_root(subtree, first, size))
    path.reverse()
    return path
