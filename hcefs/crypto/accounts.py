"""The secret half of an account, and the file that holds it.

The file is canonical CBOR with mode 0600; a file that others may read is refused.  It is
either the secrets themselves or, under a passphrase, :class:`SealedAccount`, which tells
without one whose it is.

Invariants: an account's id is derived from its *first* signing key, so it is kept once
keys change; what older keys received, or derived, is kept with them: boxes sealed to them
and generations of records stay open to their owner.

Not guaranteed: that a file without a passphrase is of no use to who copies the disk.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hcefs.crypto.keys import HybridKey, record_seed
from hcefs.crypto.passphrase import (
    DEFAULT_COST,
    SEALED_BYTES_MAX,
    Argon2Cost,
    SealedAccount,
    seal_account,
)
from hcefs.crypto.signing import SigningKey, account_id
from hcefs.durable_files import write_private
from hcefs.encoding import Encoded, decode_quickly
from hcefs.errors import Conflict, Invalid, NotFound
from hcefs.ids import AccountId, ClusterId, RecordId

SEED_SIZE = 32
KEYS_RANDOM_SIZE = 4 * SEED_SIZE
"""Random bytes that one set of keys takes."""

PAST_KEYS_MAX = 128
"""Sets of older keys that a file holds."""

FILE_BYTES_MAX = 16 << 10
"""Of a file without a passphrase; what seals it adds its own."""


@dataclass(frozen=True)
class AccountKeysV1(Encoded):
    """The first form of an account file, of keys that were never changed; it is read only."""

    KIND = "account-keys"
    MAX_BYTES = FILE_BYTES_MAX

    cluster: ClusterId
    key_version: int
    signing_seed: bytes
    token_seed: bytes
    receiving_seed: bytes
    record_master: bytes


@dataclass(frozen=True)
class PastSecrets(Encoded):
    """Of keys that were changed, what still opens something: boxes, and own records."""

    KIND = "past-secrets"

    key_version: int
    receiving_seed: bytes
    record_master: bytes

    def __repr__(self) -> str:
        return f"PastSecrets({self.key_version})"


@dataclass(frozen=True)
class AccountKeys(Encoded):
    """An account's seeds: for transactions, for tokens and proofs, for receiving
    secrets; and the master from which a patient derives the keys of records.

    The zero cluster stands for "no cluster yet": operators make keys before genesis.
    ``identity`` is the account's id once its keys have changed; zero before, when it
    follows from the signing key.  ``past`` is by ascending version.
    """

    KIND = "account-keys"
    VERSION = 2
    MAX_BYTES = FILE_BYTES_MAX

    cluster: ClusterId
    key_version: int
    signing_seed: bytes
    token_seed: bytes
    receiving_seed: bytes
    record_master: bytes
    identity: AccountId = field(default_factory=AccountId.zero)
    past: tuple[PastSecrets, ...] = ()

    @classmethod
    def generate(cls, cluster: ClusterId, randomness: bytes) -> AccountKeys:
        """New keys from 128 random bytes.

        Raises:
            Invalid: another number of bytes.
        """
        signing, token, receiving, master = _seeds(randomness)
        return cls(cluster, 1, signing, token, receiving, master)

    def renewed(self, randomness: bytes) -> AccountKeys:
        """The next version of this account's keys, from 128 random bytes.

        The master of its records is a new one too: whoever has the old one cannot derive
        the generations that come.

        Raises:
            Invalid: another number of bytes.
            Conflict: ``no-keys-left``.
        """
        if len(self.past) >= PAST_KEYS_MAX:
            raise Conflict(
                "the keys of this account were changed too often: make another account",
                reason="no-keys-left",
            )
        past = PastSecrets(self.key_version, self.receiving_seed, self.record_master)
        signing, token, receiving, master = _seeds(randomness)
        return AccountKeys(
            self.cluster,
            self.key_version + 1,
            signing,
            token,
            receiving,
            master,
            identity=self.account,
            past=(*self.past, past),
        )

    @functools.cached_property
    def signing_key(self) -> SigningKey:
        return SigningKey.from_seed(self.signing_seed)

    @functools.cached_property
    def token_key(self) -> SigningKey:
        return SigningKey.from_seed(self.token_seed)

    @property
    def receiving_key(self) -> HybridKey:
        return HybridKey.from_seed(self.receiving_seed)

    def past_receiving_keys(self) -> dict[int, HybridKey]:
        """The receiving keys that this account had before, by their version."""
        return {each.key_version: HybridKey.from_seed(each.receiving_seed) for each in self.past}

    @functools.cached_property
    def account(self) -> AccountId:
        """The account's id on the ledger."""
        return self.identity or account_id(self.cluster, self.signing_key.public_key)

    def record_key(self, record: RecordId, generation: int) -> HybridKey:
        """The key pair for a new generation of a record that this account owns."""
        return HybridKey.from_seed(record_seed(self.record_master, record, generation))

    def record_keys(self, record: RecordId, generation: int) -> Iterator[HybridKey]:
        """The key pairs that a generation of a record may have: newest master first."""
        yield self.record_key(record, generation)
        for each in reversed(self.past):
            yield HybridKey.from_seed(record_seed(each.record_master, record, generation))

    def __repr__(self) -> str:
        return f"AccountKeys({self.account})"

    def check(self) -> None:
        """Check the shape of what was read.

        Raises:
            Invalid: ``bad-key``.
        """
        seeds = [self.signing_seed, self.token_seed, self.receiving_seed, self.record_master]
        for each in self.past:
            seeds += [each.receiving_seed, each.record_master]
        versions = [each.key_version for each in self.past]
        if (
            any(len(seed) != SEED_SIZE for seed in seeds)
            or len(self.past) > PAST_KEYS_MAX
            or versions != sorted(set(versions))
            or any(not 1 <= version < self.key_version for version in versions)
            or (self.key_version > 1 and not self.identity)
        ):
            raise Invalid("these are not an account's keys", reason="bad-key")

    def save(
        self,
        path: Path,
        *,
        passphrase: str = "",
        randomness: bytes = b"",
        replace: bool = False,
        cost: Argon2Cost | None = None,
    ) -> None:
        """Write the file, whole or not at all, durably, with mode 0600.

        Under ``passphrase``, sealed with 28 bytes of ``randomness``; empty means plain.

        Raises:
            Conflict: the file exists and ``replace`` is false: keys are never overwritten
                by mistake.
            Invalid: ``weak-passphrase``.
        """
        data = self.encode()
        if passphrase:
            data = seal_account(
                data, self.cluster, self.account, passphrase, randomness, cost or DEFAULT_COST
            ).encode()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, data, replace=replace)


def decode_keys(data: bytes) -> AccountKeys:
    """The keys in the bytes of an account file that has no passphrase, of any version.

    Raises:
        Invalid: they are none.
    """
    first = decode_quickly(
        {(AccountKeysV1.KIND, AccountKeysV1.VERSION): AccountKeysV1},
        data,
        max_bytes=FILE_BYTES_MAX,
    )
    if first is not None:
        keys = AccountKeys(
            first.cluster,
            first.key_version,
            first.signing_seed,
            first.token_seed,
            first.receiving_seed,
            first.record_master,
        )
    else:
        keys = AccountKeys.decode(data)
    keys.check()
    return keys


def load_account(path: Path, passphrase: Callable[[AccountId], str] | None = None) -> AccountKeys:
    """Read an account file; ``passphrase`` is asked for one when the file needs it.

    Raises:
        NotFound: there is none.
        Invalid: others may read it, it is not an account file, or it needs a passphrase
            and nobody can be asked (``passphrase-needed``).
        Unauthenticated: ``wrong-passphrase``.
    """
    data = _read(path)
    sealed = _sealed(data)
    if sealed is not None:
        if passphrase is None:
            raise Invalid(
                f"{path} is under a passphrase: remove it with `hcefs keys passphrase --remove`, "
                "or use the file where one can be given",
                reason="passphrase-needed",
            )
        data = sealed.opened(passphrase(sealed.account))
    try:
        keys = decode_keys(data)
    except Invalid as error:
        if error.reason == "unknown-version":
            raise
        raise Invalid(f"{path} is not an account file", reason="bad-key") from None
    if sealed is not None and (sealed.cluster, sealed.account) != (keys.cluster, keys.account):
        raise Invalid(f"{path} holds the keys of another account than it says", reason="bad-key")
    return keys


def account_in(path: Path) -> AccountId:
    """Whose keys a file holds; needs no passphrase.

    Raises:
        NotFound, Invalid: as :func:`load_account`.
    """
    sealed = _sealed(_read(path))
    return load_account(path).account if sealed is None else sealed.account


def is_sealed(path: Path) -> bool:
    """Whether a file is under a passphrase.

    Raises:
        NotFound, Invalid: there is none, or others may read it.
    """
    return _sealed(_read(path)) is not None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(SEALED_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no account file {path}", reason="unknown-account") from None
    if mode & 0o077:
        raise Invalid(f"{path} can be read by others: chmod 600 {path}", reason="open-file")
    return data


def _sealed(data: bytes) -> SealedAccount | None:
    return decode_quickly(
        {(SealedAccount.KIND, SealedAccount.VERSION): SealedAccount},
        data,
        max_bytes=SEALED_BYTES_MAX,
    )


def _seeds(randomness: bytes) -> list[bytes]:
    if len(randomness) != KEYS_RANDOM_SIZE:
        raise Invalid("an account needs 128 random bytes", reason="bad-key")
    return [randomness[i : i + SEED_SIZE] for i in range(0, len(randomness), SEED_SIZE)]
