"""The secret half of an account, and the file that holds it.

The file is canonical CBOR with mode 0600; a file that others may read is
refused.  Encryption at rest under a passphrase is not part of this version;
``docs/SECURITY.md`` says so.
"""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hcefs.crypto.keys import HybridKey, record_seed
from hcefs.crypto.signing import SigningKey, account_id
from hcefs.durable_files import write_private
from hcefs.encoding import Encoded
from hcefs.errors import Invalid, NotFound
from hcefs.ids import AccountId, ClusterId, RecordId

SEED_SIZE = 32
FILE_BYTES_MAX = 4096


@dataclass(frozen=True)
class AccountKeys(Encoded):
    """An account's seeds: for transactions, for tokens and proofs, for receiving
    secrets; and the master from which a patient derives the keys of records.

    The zero cluster stands for "no cluster yet": operators make keys before genesis.
    """

    KIND = "account-keys"
    MAX_BYTES = FILE_BYTES_MAX

    cluster: ClusterId
    key_version: int
    signing_seed: bytes
    token_seed: bytes
    receiving_seed: bytes
    record_master: bytes

    @classmethod
    def generate(cls, cluster: ClusterId, randomness: bytes) -> AccountKeys:
        """New keys from 128 random bytes.

        Raises:
            Invalid: another number of bytes.
        """
        if len(randomness) != 4 * SEED_SIZE:
            raise Invalid("an account needs 128 random bytes", reason="bad-key")
        seeds = [randomness[i : i + SEED_SIZE] for i in range(0, len(randomness), SEED_SIZE)]
        return cls(cluster, 1, *seeds)

    @functools.cached_property
    def signing_key(self) -> SigningKey:
        return SigningKey.from_seed(self.signing_seed)

    @functools.cached_property
    def token_key(self) -> SigningKey:
        return SigningKey.from_seed(self.token_seed)

    @property
    def receiving_key(self) -> HybridKey:
        return HybridKey.from_seed(self.receiving_seed)

    @functools.cached_property
    def account(self) -> AccountId:
        """The account's id on the ledger."""
        return account_id(self.cluster, self.signing_key.public_key)

    def record_key(self, record: RecordId, generation: int) -> HybridKey:
        """The key pair of one generation of a record that this account owns."""
        return HybridKey.from_seed(record_seed(self.record_master, record, generation))

    def __repr__(self) -> str:
        return f"AccountKeys({self.account})"

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all, durably, with mode 0600.

        Raises:
            Conflict: the file exists; keys are never overwritten.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, self.encode())


def load_account(path: Path) -> AccountKeys:
    """Read an account file.

    Raises:
        NotFound: there is none.
        Invalid: others may read it, or it is not an account file.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no account file {path}", reason="unknown-account") from None
    if mode & 0o077:
        raise Invalid(f"{path} can be read by others: chmod 600 {path}", reason="open-file")
    keys = AccountKeys.decode(data)
    if any(
        len(seed) != SEED_SIZE
        for seed in (keys.signing_seed, keys.token_seed, keys.receiving_seed, keys.record_master)
    ):
        raise Invalid(f"{path} is not an account file", reason="bad-key")
    return keys
