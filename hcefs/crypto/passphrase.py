"""Secrets at rest under a passphrase.

Owns the cost of guessing one and the sealed form of an account file.  The key comes from
Argon2id (RFC 9106) with a salt and costs that stand in the file, so that costs can grow
without a new format; the secret is sealed with AES-256-GCM, and all that stands beside it
in the clear is bound as associated data.

Invariants: a key seals one secret under one nonce: salt and nonce are drawn anew whenever
a file is written; costs from a file are bounded before memory is taken for them.

Not guaranteed: anything against who guesses the passphrase, or watches it typed; Python
does not erase it from memory.  A wrong passphrase and a damaged file look alike.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from hcefs.encoding import Encoded
from hcefs.errors import Invalid, Unauthenticated
from hcefs.ids import AccountId, ClusterId

SALT_SIZE = 16
NONCE_SIZE = 12
SEALING_RANDOM_SIZE = SALT_SIZE + NONCE_SIZE
"""Random bytes that one sealing takes."""

SEALED_BYTES_MAX = 32 << 10
PASSPHRASE_CHARACTERS_MIN = 8
PASSPHRASE_BYTES_MAX = 1024

_KEY_SIZE = 32
_MEMORY_KIB_MAX = 1 << 20
_ITERATIONS_MAX = 64
_LANES_MAX = 16


@dataclass(frozen=True)
class Argon2Cost:
    """What one guess costs: memory in KiB, passes over it, lanes."""

    memory_kib: int
    iterations: int
    lanes: int


DEFAULT_COST = Argon2Cost(memory_kib=64 << 10, iterations=3, lanes=4)
"""RFC 9106, section 4, second recommended option; above OWASP's minimum of 19 MiB, 2, 1."""


@dataclass(frozen=True)
class SealedAccount(Encoded):
    """An account file under a passphrase; whose it is stands in the clear.

    The key is Argon2id of the passphrase (UTF-8 of its NFC) with these costs; the
    associated data are the bytes of this file with an empty ``ciphertext``.
    """

    KIND = "sealed-account"
    MAX_BYTES = SEALED_BYTES_MAX

    cluster: ClusterId
    account: AccountId
    memory_kib: int
    iterations: int
    lanes: int
    salt: bytes
    nonce: bytes
    ciphertext: bytes

    def check(self) -> None:
        """Check sizes and costs, before anything is computed from them.

        Raises:
            Invalid: ``bad-kdf``.
        """
        if (
            len(self.salt) != SALT_SIZE
            or len(self.nonce) != NONCE_SIZE
            or not 1 <= self.lanes <= _LANES_MAX
            or not 1 <= self.iterations <= _ITERATIONS_MAX
            or not 8 * self.lanes <= self.memory_kib <= _MEMORY_KIB_MAX
        ):
            raise Invalid(
                "the sealed account file names sizes or costs that this software does not use: "
                "take the file from a backup",
                reason="bad-kdf",
            )

    def opened(self, passphrase: str) -> bytes:
        """The secret; takes the time and memory that the costs say.

        Raises:
            Unauthenticated: ``wrong-passphrase``.
            Invalid: ``bad-kdf``, or ``bad-passphrase``: it is no text.
        """
        self.check()
        key = _key(passphrase, self)
        try:
            return AESGCM(key).decrypt(
                self.nonce, self.ciphertext, replace(self, ciphertext=b"").encode()
            )
        except InvalidTag:
            raise Unauthenticated(
                f"the passphrase does not open the keys of {self.account}: try again, or take the "
                "file from a backup if it was damaged",
                reason="wrong-passphrase",
            ) from None


def seal_account(
    secret: bytes,
    cluster: ClusterId,
    account: AccountId,
    passphrase: str,
    randomness: bytes,
    cost: Argon2Cost = DEFAULT_COST,
) -> SealedAccount:
    """Seal an account's secrets under a passphrase, with 28 random bytes.

    Raises:
        Invalid: ``weak-passphrase``, or another number of random bytes.
    """
    check_new_passphrase(passphrase)
    if len(randomness) != SEALING_RANDOM_SIZE:
        raise Invalid(f"sealing takes {SEALING_RANDOM_SIZE} random bytes", reason="bad-key")
    bare = SealedAccount(
        cluster=cluster,
        account=account,
        memory_kib=cost.memory_kib,
        iterations=cost.iterations,
        lanes=cost.lanes,
        salt=randomness[:SALT_SIZE],
        nonce=randomness[SALT_SIZE:],
        ciphertext=b"",
    )
    bare.check()
    sealed = AESGCM(_key(passphrase, bare)).encrypt(bare.nonce, secret, bare.encode())
    return replace(bare, ciphertext=sealed)


def check_new_passphrase(passphrase: str) -> None:
    """Check that a passphrase may be set.

    Raises:
        Invalid: ``weak-passphrase``, or ``bad-passphrase``: it is no text.
    """
    if (
        len(passphrase) < PASSPHRASE_CHARACTERS_MIN
        or len(_secret(passphrase)) > PASSPHRASE_BYTES_MAX
    ):
        raise Invalid(
            f"a passphrase has {PASSPHRASE_CHARACTERS_MIN} characters at least and "
            f"{PASSPHRASE_BYTES_MAX} bytes at most; several random words are a good one",
            reason="weak-passphrase",
        )


def _secret(passphrase: str) -> bytes:
    # One passphrase typed on two keyboards may be two strings; NFC makes them one.
    try:
        return unicodedata.normalize("NFC", passphrase).encode()
    except UnicodeEncodeError:
        problem = Invalid(
            "the passphrase is no text: it has characters that UTF-8 cannot express",
            reason="bad-passphrase",
        )
    # Outside of the handler: the error above carries the passphrase.
    raise problem


def _key(passphrase: str, sealed: SealedAccount) -> bytes:
    return Argon2id(
        salt=sealed.salt,
        length=_KEY_SIZE,
        iterations=sealed.iterations,
        lanes=sealed.lanes,
        memory_cost=sealed.memory_kib,
    ).derive(_secret(passphrase))
