"""Terms: which key writes the ledger from which block on, by the word of the operators.

Owns the statement that ends the reign of one writer and begins that of the next, the
chain of these statements, and who must have signed them.  Invariants:

* A statement names the last block that counts of the terms before it, so there is one
  history: block ``height`` and all before it stand; whatever an older writer signed
  beyond it is void.
* Statements form a chain from the genesis: each names the digest of the one before,
  its term is the next number, and its height is no lower.  Two different statements of
  one term are two histories that operators signed, and nobody follows either.
* The signatures are checked against the state at ``height``, which every replica that
  stands there has; who was deactivated by then has no word.

Not guaranteed: that no acknowledged block is beyond ``height``.  Whoever makes the
statement asks the followers (:mod:`hcefs.ledger.recovery`); ``reached`` and ``nodes``
say how many answered, so that everyone can see what it rests on.
Source: docs/decisions/0024-terms-and-recovery.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from hcefs.access.facts import Account, AccountKind
from hcefs.crypto.signing import PUBLIC_KEY_SIZE, SigningKey, verify
from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Denied, HcefsError, Invalid, Unauthenticated
from hcefs.ids import AccountId, ClusterId
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import HASH_SIZE
from hcefs.ledger.genesis import FIRST_TERM, OPERATORS_MAX, TIME_MS_MAX, Genesis
from hcefs.ledger.transactions import Signature

TERM_TAG = b"term-change"
TERMS_MAX = 1024
"""More recoveries than any cluster will see; a bound on what is read and sent."""
HEIGHT_MAX = 1 << 63


@dataclass(frozen=True)
class TermChange(Encoded):
    """From the block after ``height`` on, ``writer_key`` writes, under ``term``.

    ``block_hash`` is that of block ``height`` (0: the genesis's digest); ``previous`` the
    digest of the statement before, or the genesis's.  ``reached`` of ``nodes`` followers
    said what they hold when the statement was made.
    """

    KIND = "term-change"
    MAX_BYTES = 1024

    cluster: ClusterId
    term: int
    previous: bytes
    height: int
    block_hash: bytes
    writer_key: bytes
    time_ms: int
    reached: int
    nodes: int

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the canonical bytes: what the next statement names, whoever signed."""
        return blake3_digest(self.encode())

    def check(self) -> None:
        """Check ranges and sizes.

        Raises:
            Invalid: ``bad-term-change``.
        """
        if (
            not FIRST_TERM < self.term <= FIRST_TERM + TERMS_MAX
            or not 0 <= self.height < HEIGHT_MAX
            or not 0 < self.time_ms <= TIME_MS_MAX
            or len(self.previous) != HASH_SIZE
            or len(self.block_hash) != HASH_SIZE
            or len(self.writer_key) != PUBLIC_KEY_SIZE
            or not 0 <= self.reached <= self.nodes < 1 << 32
        ):
            raise Invalid(
                "term change: a number or hash is out of range: make the statement again",
                reason="bad-term-change",
            )


class Accounts(Protocol):
    """Whoever knows accounts: the state of a ledger, or the genesis."""

    def account(self, account: AccountId) -> Account | None:
        """One account, or None."""


@dataclass(frozen=True)
class _Founders:
    """The operators of a genesis."""

    accounts: Mapping[AccountId, Account]

    def account(self, account: AccountId) -> Account | None:
        return self.accounts.get(account)


@dataclass(frozen=True)
class SignedTermChange(Encoded):
    """A statement and the operators' signatures; several sets of them may say the same."""

    KIND = "signed-term-change"
    MAX_BYTES = 64 << 10

    change: TermChange
    signatures: tuple[Signature, ...]

    def signed(self, account: AccountId, key_version: int, key: SigningKey) -> SignedTermChange:
        """This statement with one operator's signature more; a repeat replaces the first."""
        mine = Signature(account, key_version, key.sign(TERM_TAG, self.change.encode()))
        others = (each for each in self.signatures if each.signer != account)
        return replace(self, signatures=_sorted((*others, mine)))

    def combined(self, other: SignedTermChange) -> SignedTermChange:
        """The statement with the signatures of both.

        Raises:
            Conflict: ``other-statement``: they are not of the same statement.
        """
        if other.change != self.change:
            raise Conflict(
                "these files hold different statements: all operators must sign the same one",
                reason="other-statement",
            )
        found = {each.signer: each for each in (*other.signatures, *self.signatures)}
        return replace(self, signatures=_sorted(found.values()))

    def check(self, view: Accounts, genesis: Genesis) -> None:
        """Check the shape, and that the operator threshold signed, by the state of ``view``.

        Raises:
            Invalid: ``bad-term-change``, ``wrong-cluster`` or ``duplicate-signer``.
            Unauthenticated: ``unknown-signer``, ``wrong-key-version`` or ``bad-signature``.
            Denied: ``unexpected-signer`` or ``below-threshold``.
        """
        self.change.check()
        if self.change.cluster != genesis.cluster:
            raise Invalid("this statement is of another cluster", reason="wrong-cluster")
        signers = {each.signer for each in self.signatures}
        if len(signers) != len(self.signatures) or len(signers) > OPERATORS_MAX:
            raise Invalid("an operator has signed twice", reason="duplicate-signer")
        message = self.change.encode()
        for each in self.signatures:
            operator = _operator(view, each)
            verify(operator.signing_key, TERM_TAG, message, each.signature)
        if len(signers) < genesis.threshold:
            raise Denied(
                f"{len(signers)} operators signed this statement, {genesis.threshold} are needed: "
                "have more of them sign it (`hcefs ledger sign`)",
                reason="below-threshold",
            )


def _sorted(signatures: Iterable[Signature]) -> tuple[Signature, ...]:
    return tuple(sorted(signatures, key=lambda each: bytes(each.signer)))


def _operator(view: Accounts, signature: Signature) -> Account:
    operator = view.account(signature.signer)
    if operator is None:
        raise Unauthenticated(
            f"signer {signature.signer} is not on the ledger", reason="unknown-signer"
        )
    if operator.kind is not AccountKind.OPERATOR or not operator.active:
        raise Denied(
            f"{signature.signer} is no active operator: only operators begin a term",
            reason="unexpected-signer",
        )
    if operator.key_version != signature.key_version:
        raise Unauthenticated(
            f"signer {signature.signer} signed with another key version than its current one",
            reason="wrong-key-version",
        )
    return operator


@dataclass(frozen=True)
class Terms:
    """The statements of a chain in order; without any, the genesis's writer reigns."""

    genesis: Genesis
    changes: tuple[SignedTermChange, ...] = ()

    @property
    def term(self) -> int:
        """The term in force."""
        return self.changes[-1].change.term if self.changes else FIRST_TERM

    @property
    def begin(self) -> int:
        """The height at which the term in force began: its first block is the next."""
        return self.changes[-1].change.height if self.changes else 0

    @property
    def writer_key(self) -> bytes:
        """Who writes now."""
        return self.changes[-1].change.writer_key if self.changes else self.genesis.writer_key

    @property
    def digest(self) -> bytes:
        """What the next statement must name as its predecessor."""
        return self.changes[-1].change.digest if self.changes else self.genesis.digest

    def key_of(self, term: int) -> bytes | None:
        """The writer's key of a term, or None for one that has not begun."""
        if term == FIRST_TERM:
            return self.genesis.writer_key
        at = term - FIRST_TERM - 1
        return self.changes[at].change.writer_key if 0 <= at < len(self.changes) else None

    def end_of(self, term: int) -> int | None:
        """The last height at which a term's word counts; None while it reigns."""
        at = term - FIRST_TERM
        # Heights never fall, so the next statement is the one that says least far.
        return self.changes[at].change.height if 0 <= at < len(self.changes) else None

    def term_at(self, height: int) -> int:
        """The term of the block of a height."""
        for signed in reversed(self.changes):
            if signed.change.height < height:
                return signed.change.term
        return FIRST_TERM

    def key_at(self, height: int) -> bytes:
        """The key that signed the block of a height."""
        return self.key_of(self.term_at(height)) or self.genesis.writer_key

    def statement(self, term: int) -> SignedTermChange | None:
        """The statement that began a term, or None."""
        at = term - FIRST_TERM - 1
        return self.changes[at] if 0 <= at < len(self.changes) else None

    def followed_by(self, signed: SignedTermChange) -> Terms:
        """These terms with the next statement, whose signatures the caller has checked.

        Raises:
            Conflict: ``wrong-term``: it is not the successor of the last one.
        """
        change = signed.change
        if (
            change.term != self.term + 1
            or change.previous != self.digest
            or change.height < self.begin
        ):
            raise Conflict(
                f"the statement of term {change.term} does not follow term {self.term} here: "
                "give the earlier statements first",
                reason="wrong-term",
            )
        return replace(self, changes=(*self.changes, signed))


def founders_terms(genesis: Genesis, statements: Iterable[bytes]) -> Terms:
    """The terms that encoded statements make, for who has the genesis and no ledger.

    Only founding operators can be known without the ledger's state: a statement that too
    few of them signed ends the chain.
    """
    founders = _Founders({each.account: each for each in genesis.operator_accounts()})
    terms = Terms(genesis)
    for data in statements:
        try:
            signed = SignedTermChange.decode(data)
            known = tuple(each for each in signed.signatures if founders.account(each.signer))
            replace(signed, signatures=known).check(founders, genesis)
            terms = terms.followed_by(signed)
        except HcefsError:
            break
    return terms


def is_signed_by_operators(signed: SignedTermChange, view: Accounts, genesis: Genesis) -> bool:
    """Whether a statement is the operators' by what ``view`` knows."""
    try:
        signed.check(view, genesis)
    except HcefsError:
        return False
    return True
