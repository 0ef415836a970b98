"""Guardians: an account's keys, to be had back from some of several others.

Owns the capsule (an account's keys under a random key), the shares of that key, and both
forms of a share: sealed to one guardian, and opened by it.  Sharing is SLIP-39, Shamir's
scheme over GF(256), so that a share is also a list of words with a checksum.

Invariants: fewer shares than the threshold leave 224 of the key's 256 bits open (SLIP-39
spends 32 on a check of the result); a share is sealed for
exactly one capsule and one guardian, so that a share of another capsule never opens; what
was damaged is refused by the name of its guardian.

Not guaranteed: that the guardians do not come together without the account's consent; nor
that they are still there.  What guards are the keys of the moment: once keys change, make
new shares.  The random coefficients come from the library, which asks the system.
Source: SLIP-0039; docs/decisions/0035-keys-change.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import shamir_mnemonic
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hcefs.crypto.accounts import AccountKeys, decode_keys
from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.keys import HybridKey, open_envelope, seal_envelope
from hcefs.durable_files import write_private
from hcefs.encoding import Encoded
from hcefs.errors import Conflict, Corrupt, Invalid, NotFound
from hcefs.ids import AccountId, ClusterId, RecordId

GUARDIANS_MAX = 16
"""What SLIP-39 has numbers for."""

THRESHOLD_MIN = 2
"""One guardian alone would be a copy of the keys."""

GUARD_RANDOM_SIZE = 32 + 12
"""Random bytes that one capsule takes."""

CAPSULE_BYTES_MAX = 32 << 10
_KEY_SIZE = 32


@dataclass(frozen=True)
class RecoveryCapsule(Encoded):
    """An account file under a random key that the guardians share.

    AES-256-GCM; the associated data are these bytes with an empty ``ciphertext``.
    ``key_version`` is that of the keys within; ``guardians`` are in the order of shares.
    """

    KIND = "recovery-capsule"
    MAX_BYTES = CAPSULE_BYTES_MAX

    cluster: ClusterId
    account: AccountId
    key_version: int
    threshold: int
    guardians: tuple[AccountId, ...]
    nonce: bytes
    ciphertext: bytes

    def digest(self) -> bytes:
        """What a share is sealed for: BLAKE3 of the encoded capsule."""
        return blake3(self.encode()).digest()


@dataclass(frozen=True)
class GuardianShare(Encoded):
    """One guardian's share, sealed to it; the capsule comes with every share."""

    KIND = "guardian-share"
    MAX_BYTES = 2 * CAPSULE_BYTES_MAX

    capsule: RecoveryCapsule
    guardian: AccountId
    guardian_key_version: int
    envelope: Envelope

    def __repr__(self) -> str:
        return f"GuardianShare({self.capsule.account}, guardian={self.guardian})"


@dataclass(frozen=True)
class OpenedShare(Encoded):
    """One guardian's share as it gives it back: the words of SLIP-39, in English."""

    KIND = "opened-share"
    MAX_BYTES = 2 * CAPSULE_BYTES_MAX

    capsule: RecoveryCapsule
    guardian: AccountId
    words: str

    def __repr__(self) -> str:
        return f"OpenedShare({self.capsule.account}, guardian={self.guardian})"

    def save(self, path: Path) -> None:
        """Write the file, durably, with mode 0600.

        Raises:
            Conflict: the file exists.
        """
        write_private(path, self.encode())


@dataclass(frozen=True)
class Guardian:
    """Whom a share is for: the account and its receiving key on the ledger."""

    account: AccountId
    key_version: int
    receiving_key: bytes


def guard(
    keys: AccountKeys, guardians: Sequence[Guardian], threshold: int, randomness: bytes
) -> list[GuardianShare]:
    """One share for each guardian, any ``threshold`` of which give the keys back.

    Takes 44 random bytes.

    Raises:
        Invalid: ``bad-guardians``: too few or too many, the account itself, or one twice.
    """
    names = tuple(guardian.account for guardian in guardians)
    if (
        not THRESHOLD_MIN <= threshold <= len(names) <= GUARDIANS_MAX
        or len(set(names)) != len(names)
        or keys.account in names
    ):
        raise Invalid(
            f"name {THRESHOLD_MIN} to {GUARDIANS_MAX} different guardians, not the account itself, "
            f"and a threshold from {THRESHOLD_MIN} to their number",
            reason="bad-guardians",
        )
    if len(randomness) != GUARD_RANDOM_SIZE:
        raise Invalid(f"a capsule takes {GUARD_RANDOM_SIZE} random bytes", reason="bad-key")
    key, nonce = randomness[:_KEY_SIZE], randomness[_KEY_SIZE:]
    bare = RecoveryCapsule(
        cluster=keys.cluster,
        account=keys.account,
        key_version=keys.key_version,
        threshold=threshold,
        guardians=names,
        nonce=nonce,
        ciphertext=b"",
    )
    capsule = replace(bare, ciphertext=AESGCM(key).encrypt(nonce, keys.encode(), bare.encode()))
    words = shamir_mnemonic.generate_mnemonics(
        1, [(threshold, len(names))], key, iteration_exponent=0
    )[0]
    return [
        GuardianShare(
            capsule=capsule,
            guardian=guardian.account,
            guardian_key_version=guardian.key_version,
            envelope=seal_envelope(
                guardian.receiving_key, mine.encode(), _context(capsule, guardian.account)
            ),
        )
        for guardian, mine in zip(guardians, words, strict=True)
    ]


def open_share(
    share: GuardianShare, account: AccountId, keys: Mapping[int, HybridKey]
) -> OpenedShare:
    """What a guardian gives back; ``keys`` are its receiving keys by version.

    Raises:
        Invalid: ``not-the-guardian``: the share is another's.
        NotFound: ``no-key``: it is sealed to a key that is not at hand.
        Corrupt: ``damaged-share``.
    """
    if share.guardian != account:
        raise Invalid(
            f"this share is for {share.guardian}: open it as that account",
            reason="not-the-guardian",
        )
    key = keys.get(share.guardian_key_version)
    if key is None:
        raise NotFound(
            f"this share is sealed to version {share.guardian_key_version} of the guardian's keys, "
            "which its account file does not hold",
            reason="no-key",
        )
    try:
        words = open_envelope(key, share.envelope, _context(share.capsule, account)).decode("ascii")
    except (Corrupt, UnicodeDecodeError):
        raise _damaged(account) from None
    return OpenedShare(share.capsule, account, words)


def recover(shares: Sequence[OpenedShare]) -> AccountKeys:
    """The keys that the guardians give back together.

    Raises:
        Invalid: ``too-few-shares``.
        Conflict: ``other-capsule``: a share is of another capsule than the first.
        Corrupt: ``damaged-share`` names whose; ``damaged-capsule`` where all are whole.
    """
    if not shares:
        raise _too_few(0, THRESHOLD_MIN)
    capsule = shares[0].capsule
    digest = capsule.digest()
    whole: dict[AccountId, str] = {}
    for share in shares:
        if share.capsule.digest() != digest:
            raise Conflict(
                f"the share of {share.guardian} is of another capsule than the one of "
                f"{shares[0].guardian}: bring shares that were made together",
                reason="other-capsule",
            )
        if share.guardian not in capsule.guardians or not _is_whole(share, capsule):
            raise _damaged(share.guardian)
        whole[share.guardian] = share.words
    if len(whole) < max(capsule.threshold, THRESHOLD_MIN):
        raise _too_few(len(whole), capsule.threshold)
    try:
        # The scheme takes exactly as many as are needed.
        key = shamir_mnemonic.combine_mnemonics([*whole.values()][: capsule.threshold])
        secret = AESGCM(key).decrypt(
            capsule.nonce, capsule.ciphertext, replace(capsule, ciphertext=b"").encode()
        )
    except (shamir_mnemonic.MnemonicError, InvalidTag, ValueError):
        raise Corrupt(
            "the shares are whole, and do not open the capsule: bring other guardians' shares",
            reason="damaged-capsule",
        ) from None
    keys = decode_keys(secret)
    if (keys.cluster, keys.account) != (capsule.cluster, capsule.account):
        raise Corrupt("the capsule holds another account's keys", reason="damaged-capsule")
    return keys


def typed_share(capsule: RecoveryCapsule, words: str) -> OpenedShare:
    """A share whose words were written down; the capsule comes from any other share.

    Raises:
        Corrupt: ``damaged-share``: the words' checksum does not hold.
    """
    tidy = " ".join(words.lower().split())
    try:
        guardian = capsule.guardians[shamir_mnemonic.Share.from_mnemonic(tidy).index]
    except (shamir_mnemonic.MnemonicError, ValueError, IndexError):
        raise Corrupt(
            "the words of a share are damaged, or of another capsule: compare them with what the "
            "guardian gave",
            reason="damaged-share",
        ) from None
    return OpenedShare(capsule, guardian, tidy)


def load_share(path: Path) -> GuardianShare | OpenedShare:
    """Read either form of a share.

    Raises:
        NotFound: there is none.
        Corrupt: ``damaged-share``: the file is neither, or damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(GuardianShare.MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no share {path}", reason="unknown-share") from None
    for kind in (OpenedShare, GuardianShare):
        try:
            return kind.decode(data)
        except Invalid as error:
            if error.reason == "unknown-version":
                raise
    raise Corrupt(
        f"{path} is not a guardian's share, or is damaged: ask that guardian for it again",
        reason="damaged-share",
    )


def _is_whole(share: OpenedShare, capsule: RecoveryCapsule) -> bool:
    """Whether the words' own checksum holds, and they say what the capsule says."""
    try:
        words = shamir_mnemonic.Share.from_mnemonic(share.words)
    except (shamir_mnemonic.MnemonicError, ValueError):
        return False
    return bool(
        words.member_threshold == capsule.threshold
        and words.index == capsule.guardians.index(share.guardian)
        and words.group_count == 1
    )


def _context(capsule: RecoveryCapsule, guardian: AccountId) -> EnvelopeContext:
    return EnvelopeContext(
        "guardian",
        SUITE_XWING,
        capsule.cluster,
        RecordId.zero(),
        capsule.key_version,
        capsule.digest(),
        bytes(guardian),
    )


def _damaged(guardian: AccountId) -> Corrupt:
    return Corrupt(
        f"the share of {guardian} is damaged: ask that guardian for it again, or another one",
        reason="damaged-share",
    )


def _too_few(given: int, threshold: int) -> Invalid:
    return Invalid(
        f"{given} of the {threshold} shares that are needed are here: ask more guardians",
        reason="too-few-shares",
    )
