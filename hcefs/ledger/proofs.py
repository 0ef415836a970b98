"""Proofs of a fork: two signed statements that contradict each other, checkable by anyone.

Owns what such a proof must hold.  Needs the genesis and the statements of the terms, and
no ledger: whoever has them can check a proof that was exported years ago.
Not guaranteed: which of the two statements is the right one; operators settle that, by
the term that they begin.
Source: docs/decisions/0024-terms-and-recovery.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Corrupt, HcefsError, Invalid
from hcefs.integrity import blake3_digest
from hcefs.ledger.block import Block, SignedHead
from hcefs.ledger.genesis import FIRST_TERM, Genesis
from hcefs.ledger.rows import ForkProof
from hcefs.ledger.terms import SignedTermChange, Terms

Statement = SignedHead | Block | SignedTermChange | Genesis


@dataclass(frozen=True)
class CheckedFork:
    """What a proof proves: who signed two histories, at which height, under which term."""

    height: int
    term: int
    ours: str
    theirs: str


@dataclass(frozen=True)
class ForkEvidence(Encoded):
    """A proof with all that is needed to check it: an exported file."""

    KIND = "fork-evidence"
    MAX_BYTES = 8 << 20

    genesis: Genesis
    terms: tuple[SignedTermChange, ...]
    proof: ForkProof

    def check(self) -> CheckedFork:
        """Check it; whether the genesis is the right cluster's is for the reader to compare.

        Raises:
            Corrupt: ``no-fork``.
        """
        terms = Terms(self.genesis)
        try:
            for signed in self.terms:
                terms = terms.followed_by(signed)
        except Conflict as error:
            raise _no_fork(error.message) from error
        return check_proof(self.proof, terms)


def statement_of(data: bytes) -> Statement:
    """A statement out of a proof.

    Raises:
        Invalid: ``bad-proof``: it is none of the kinds that a proof may hold.
    """
    for kind in (SignedHead, Block, SignedTermChange, Genesis):
        try:
            return kind.decode(data)
        except Invalid:
            continue
    raise Invalid("a proof of a fork holds no signed statement", reason="bad-proof")


def term_of(statement: Statement) -> int:
    """The term under which a statement was made."""
    match statement:
        case SignedHead():
            return statement.term
        case Block():
            return statement.header.term
        case SignedTermChange():
            return statement.change.term
        case Genesis():
            return FIRST_TERM


def term_of_proof(proof: ForkProof) -> int:
    """The later term of the two statements: that whose writer contradicts what is known.

    Raises:
        Invalid: ``bad-proof``.
    """
    return max(term_of(statement_of(each)) for each in (proof.ours, proof.theirs))


def check_proof(proof: ForkProof, terms: Terms) -> CheckedFork:
    """Check that both statements are signed and cannot both be true.

    Signatures of operators on a statement of a term need the ledger's state and are not
    checked here.

    Raises:
        Corrupt: ``no-fork``: it proves nothing; the message says what is wrong with it.
    """
    try:
        ours, theirs = statement_of(proof.ours), statement_of(proof.theirs)
        for statement in (ours, theirs):
            _check_signature(statement, terms)
    except HcefsError as error:
        raise _no_fork(error.message) from error
    if isinstance(ours, SignedTermChange) != isinstance(theirs, SignedTermChange):
        raise _no_fork("one of them is of operators, the other of a writer")
    if isinstance(ours, SignedTermChange) and isinstance(theirs, SignedTermChange):
        if ours.change.term != theirs.change.term or ours.change == theirs.change:
            raise _no_fork("the operators' statements do not contradict each other")
    elif not _contradict(ours, theirs, proof.height):
        raise _no_fork("the two statements can both be true")
    return CheckedFork(proof.height, term_of_proof(proof), _named(ours), _named(theirs))


def _check_signature(statement: Statement, terms: Terms) -> None:
    key = terms.key_of(term_of(statement))
    if isinstance(statement, Genesis):
        if statement != terms.genesis:
            raise Invalid("the genesis in it is another cluster's", reason="bad-proof")
    elif isinstance(statement, SignedTermChange):
        statement.change.check()
    elif key is None:
        raise Invalid(
            f"nobody here knows who wrote in term {term_of(statement)}: give the statements of "
            "the terms as well",
            reason="bad-proof",
        )
    elif isinstance(statement, SignedHead):
        statement.check(key)
    else:
        statement.check_signature(key)


def _claims(statement: Statement, height: int) -> set[bytes]:
    """The hashes that a statement gives the block of a height; the app hash tells heads apart."""
    match statement:
        case SignedHead():
            return {statement.block_hash} if statement.height == height else set()
        case Block():
            header = statement.header
            if header.height == height:
                return {header.hash()}
            return {header.previous} if header.height == height + 1 else set()
        case Genesis():
            return {statement.digest} if height == 0 else set()
        case SignedTermChange():
            return set()


def _app_hash(statement: Statement, height: int) -> bytes | None:
    if isinstance(statement, SignedHead):
        return statement.app_hash
    if isinstance(statement, Block) and statement.header.height == height:
        return statement.header.app_hash
    return None


def _contradict(ours: Statement, theirs: Statement, height: int) -> bool:
    first, second = _claims(ours, height), _claims(theirs, height)
    if not first or not second:
        return False
    apps = (_app_hash(ours, height), _app_hash(theirs, height))
    lied = None not in apps and apps[0] != apps[1]
    return first != second or lied


def _named(statement: Statement) -> str:
    kind = {"signed-head": "head", "signed-term-change": "statement"}.get(
        statement.KIND, statement.KIND
    )
    return f"{kind} of term {term_of(statement)}, {blake3_digest(statement.encode()).hex()[:16]}"


def _no_fork(what: str) -> Corrupt:
    return Corrupt(f"this proves no fork: {what}", reason="no-fork")
