"""Statements of operators on different machines: transactions that travel as files.

A statement is a ``signed-transaction`` with the signatures so far.  Whoever signs sees in
words what it does; only the ends and the admissions of accounts travel so.  Invariants: a
file is replaced whole or not at all, and read with a bound; two files are put together only
if they say the same.

Not guaranteed: that the ledger takes it; it is judged when it is submitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hcefs.access.facts import AccountKind
from hcefs.cli.cluster_files import ClusterFolder
from hcefs.cli.session import Names
from hcefs.crypto.accounts import AccountKeys
from hcefs.durable_files import replace_file
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ids import ClusterId
from hcefs.ledger.transactions import (
    DeactivateAccount,
    RegisterAccount,
    SignedTransaction,
    add_signature,
    decode_transaction,
)

Statement = RegisterAccount | DeactivateAccount


def load_statement(path: Path) -> tuple[SignedTransaction, Statement]:
    """A statement from its file: with its signatures, and what it says.

    Raises:
        NotFound: there is no such file.
        Invalid: it holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SignedTransaction.MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", reason="no-statement") from None
    signed = SignedTransaction.decode(data)
    said = decode_transaction(signed.body)
    if not isinstance(said, RegisterAccount | DeactivateAccount):
        raise Invalid(
            f"{path} holds a {said.KIND}, and only admissions and ends of accounts travel as "
            "files: do not sign it",
            reason="bad-statement",
        )
    said.check()
    return signed, said


def save_statement(path: Path, signed: SignedTransaction) -> None:
    """Write a statement, whole or not at all."""
    replace_file(path, signed.encode())


def signed_by(
    signed: SignedTransaction, cluster: ClusterId, signers: Sequence[AccountKeys]
) -> SignedTransaction:
    """The statement with the signatures of these as well; who has signed already does not again.

    Raises:
        Invalid: ``wrong-cluster``.
    """
    for keys in signers:
        if keys.cluster != cluster:
            raise Invalid("these keys are of another cluster", reason="wrong-cluster")
        if all(each.signer != keys.account for each in signed.signatures):
            signed = add_signature(
                signed, cluster, keys.account, keys.key_version, keys.signing_key
            )
    return signed


def combined(statements: Sequence[SignedTransaction]) -> SignedTransaction:
    """Copies of one statement that were signed apart, as one.

    Raises:
        Conflict: ``other-statement``: they do not say the same.
    """
    first = statements[0]
    signatures = {each.signer: each for each in first.signatures}
    for other in statements[1:]:
        if other.body != first.body:
            raise Conflict(
                "these files hold different statements: sign copies of one",
                reason="other-statement",
            )
        for each in other.signatures:
            signatures.setdefault(each.signer, each)
    return replace(first, signatures=tuple(signatures.values()))


def described(layout: ClusterFolder, said: Statement, cluster: ClusterId) -> str:
    """What a statement does, in words."""
    names = Names(layout)
    if isinstance(said, DeactivateAccount):
        return f"end account {names.of(said.account)} ({said.account.text}) for good"
    kind = AccountKind(said.account_kind).name.lower()
    account = said.account(cluster)
    return f"admit {kind} {names.of(account)} ({account.text})"
