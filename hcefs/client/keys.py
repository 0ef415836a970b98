"""Keys: from what a reader has been given to the key of a blob.

Pure functions.  A reader of a record has a key box with one generation's private
key and reaches older generations through links; a reader of a blob or a range has
a box with exactly that.  Who sealed a box is checked by its signature, and every
record key by the public key on the ledger, so that a wrong or a planted key is
noticed before anything is opened with it.

Contexts of HPKE (what an envelope is for) are made here and nowhere else on the
client's side; :mod:`hcefs.blobs.put` makes that of a node-sealed DEK.
Source: docs/ARCHITECTURE.md, "Keys: who can read".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hcefs.access.facts import Account, Generation, Grant
from hcefs.blobs.pack import open_packed_key
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import (
    SECRET_SIZE,
    HybridKey,
    dek_commitment,
    open_envelope,
    seal_envelope,
)
from hcefs.crypto.signing import SigningKey
from hcefs.crypto.stream import segment_secret
from hcefs.errors import Corrupt, HcefsError, Invalid, NotFound
from hcefs.formats.keybox import KeyBox, KeyLink, RangeSecrets
from hcefs.formats.manifest import Core, KeyRow
from hcefs.formats.pack import PackedKey
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId

RANGE_SEGMENTS_MAX = 16 << 10
"""Segments of a range grant or a range request: 16 GiB of plaintext, 512 KiB of secrets."""

OWN_SEEDS_TRIED = 16


@dataclass(frozen=True)
class BlobKey:
    """What opens a blob: its DEK, or the secrets of some of its segments."""

    dek: bytes = b""
    ranged: RangeSecrets | None = None

    def __repr__(self) -> str:
        return "BlobKey(whole)" if self.dek else f"BlobKey({self.ranged!r})"

    def secrets_of(self, segments: range) -> RangeSecrets:
        """The secrets of exactly these segments.

        Raises:
            Denied: one of them was not given.
            Invalid: more than ``RANGE_SEGMENTS_MAX``.
        """
        if len(segments) > RANGE_SEGMENTS_MAX:
            raise Invalid(
                f"a range has at most {RANGE_SEGMENTS_MAX} segments: split it, or use the whole "
                "blob",
                reason="range-too-large",
            )
        if not self.dek:
            if self.ranged is None:
                raise _no_key()
            return self.ranged.of(segments)
        joined = b"".join(segment_secret(self.dek, index) for index in segments)
        return RangeSecrets(segments.start, joined)

    def sealed_form(self) -> bytes:
        """The bytes that go into a box or a bundle: the DEK, or encoded range secrets."""
        if self.dek:
            return self.dek
        if self.ranged is None:
            raise _no_key()
        return self.ranged.encode()


def blob_key(secret: bytes, *, ranged: bool, core: Core | None = None) -> BlobKey:
    """The inverse of :meth:`BlobKey.sealed_form`; a DEK is checked against the core.

    Raises:
        Corrupt: ``wrong-key``: not this blob's.
        Invalid: malformed range secrets.
    """
    if ranged:
        secrets = RangeSecrets.decode(secret)
        secrets.check()
        return BlobKey(ranged=secrets)
    if len(secret) != SECRET_SIZE or (
        core is not None and dek_commitment(secret) != core.dek_commitment
    ):
        raise _wrong_blob_key()
    return BlobKey(dek=secret)


def client_seals(seal: str) -> bool:
    """Read the choice of who seals or opens: True for the client, False for the node.

    Raises:
        Invalid: neither.
    """
    if seal not in ("node", "client"):
        raise Invalid('seal is "node" or "client"', reason="bad-seal-choice")
    return seal == "client"


def is_direct(mode: str) -> bool:
    """Read the choice of the way: True for the holders themselves, False for a gateway.

    Raises:
        Invalid: neither.
    """
    if mode not in ("gateway", "direct"):
        raise Invalid('mode is "gateway" or "direct"', reason="bad-mode-choice")
    return mode == "direct"


# -- contexts


def dek_context(
    cluster: ClusterId, record: RecordId, generation: int, blob: BlobId
) -> EnvelopeContext:
    """Of a DEK sealed to a record's public key."""
    return EnvelopeContext(
        "dek", SUITE_XWING, cluster, record, generation, bytes(blob), bytes(record)
    )


def box_context(cluster: ClusterId, box: KeyBox) -> EnvelopeContext:
    """Of the secret in a key box."""
    return EnvelopeContext(
        "box",
        box.envelope.suite,
        cluster,
        box.record,
        box.generation,
        bytes(box.grant),
        bytes(box.grantee),
    )


def link_context(cluster: ClusterId, record: RecordId, generation: int) -> EnvelopeContext:
    """Of the seed of ``generation``, sealed to the public key of the next one."""
    return EnvelopeContext("link", SUITE_XWING, cluster, record, generation, b"", bytes(record))


def bundle_context(
    cluster: ClusterId, record: RecordId, generation: int, blob: BlobId, to: AccountId
) -> EnvelopeContext:
    """Of the secret in a bundle."""
    return EnvelopeContext(
        "bundle", SUITE_XWING, cluster, record, generation, bytes(blob), bytes(to)
    )


# -- sealing


@dataclass(frozen=True)
class Sealer:
    """Who seals and signs boxes and links."""

    cluster: ClusterId
    account: AccountId
    key_version: int
    key: SigningKey

    def box(self, grant: Grant, grantee: Account, generation: int, secret: bytes) -> KeyBox:
        """The box of a grant.

        Raises:
            Invalid: the grantee's receiving key is malformed.
        """
        context = EnvelopeContext(
            "box",
            SUITE_XWING,
            self.cluster,
            grant.record,
            generation,
            bytes(grant.grant),
            bytes(grantee.account),
        )
        return KeyBox(
            record=grant.record,
            generation=generation,
            blob=grant.blob,
            grant=grant.grant,
            grantee=grantee.account,
            grantee_key_version=grantee.key_version,
            granter=self.account,
            granter_key_version=self.key_version,
            envelope=seal_envelope(grantee.receiving_key, secret, context),
            signature=b"",
        ).signed(self.key)

    def link(self, record: RecordId, generation: int, older: HybridKey, newer: bytes) -> KeyLink:
        """The key of ``generation`` sealed to the public key of the next one."""
        context = link_context(self.cluster, record, generation)
        return KeyLink(
            record=record,
            generation=generation,
            owner=self.account,
            owner_key_version=self.key_version,
            envelope=seal_envelope(newer, older.seed, context),
            signature=b"",
        ).signed(self.key)


# -- opening


@dataclass(frozen=True)
class Receiver:
    """Who opens boxes: the grantee, also with the keys that it had before.

    A box that was sealed to older keys stays good until its giver delivers it anew: who
    steals an old key gains nothing by it, because nodes serve boxes to the current keys
    alone.
    """

    cluster: ClusterId
    account: AccountId
    key_version: int
    key: HybridKey
    past: Mapping[int, HybridKey] = field(default_factory=dict)

    def key_of(self, key_version: int) -> HybridKey | None:
        """The receiving key of a version, if it is at hand."""
        return self.key if key_version == self.key_version else self.past.get(key_version)

    @property
    def keys(self) -> tuple[HybridKey, ...]:
        """All receiving keys, the current one first."""
        return (self.key, *(self.past[version] for version in sorted(self.past, reverse=True)))

    def fitting(self, boxes: Iterable[KeyBox], grant: Grant) -> list[KeyBox]:
        """The boxes of ``grant`` that are for keys of this account, oldest first."""
        fit = [
            box
            for box in boxes
            # That of an opening in an emergency lies under the naming.
            if box.grant in (grant.grant, grant.parent)
            and box.record == grant.record
            and box.blob == grant.blob
            and box.grantee == self.account
            and self.key_of(box.grantee_key_version) is not None
        ]
        return sorted(fit, key=lambda box: (box.generation, -box.grantee_key_version))

    def secret(self, box: KeyBox, granter: Account) -> bytes:
        """What is in a box, once its granter's signature is checked.

        ``granter`` is the account as of the box's key version.

        Raises:
            Corrupt, Unauthenticated: not that granter's, or damaged.
        """
        if (box.granter, box.granter_key_version) != (granter.account, granter.key_version):
            raise Corrupt("the key box names another granter", reason="wrong-granter")
        box.check(granter.signing_key)
        key = self.key_of(box.grantee_key_version)
        if key is None:
            raise Corrupt("the key box is sealed to another key", reason="old-key")
        return open_envelope(key, box.envelope, box_context(self.cluster, box))


def checked_key(seed: bytes, generation: Generation) -> HybridKey:
    """The key pair of a seed, which must be the ledger's for that generation.

    Raises:
        Corrupt: ``wrong-record-key``.
    """
    if len(seed) == SECRET_SIZE:
        key = HybridKey.from_seed(seed)
        if key.public_key == generation.public_key:
            return key
    raise Corrupt(
        f"the key that was given for generation {generation.number} of {generation.record} is "
        "not the one on the ledger: ask the granter to give it again",
        reason="wrong-record-key",
    )


def own_key(keys: AccountKeys, generation: Generation) -> HybridKey:
    """The owner's key pair of one generation.

    Two revocations at the same moment could register the key of one number under
    a later number; so earlier ones are tried as well, and the masters of older account
    keys after the current one.

    Raises:
        Corrupt: ``wrong-record-key``: this account did not make that generation.
    """
    number = generation.number
    for candidate in range(number, max(-1, number - OWN_SEEDS_TRIED), -1):
        for key in keys.record_keys(generation.record, candidate):
            if key.public_key == generation.public_key:
                return key
    raise Corrupt(
        f"generation {number} of {generation.record} was not made with this account's secrets: "
        "use the account file that opened the record",
        reason="wrong-record-key",
    )


def follow_links(
    cluster: ClusterId,
    start: tuple[int, HybridKey],
    links: Mapping[int, KeyLink],
    generations: Mapping[int, Generation],
    owners: Mapping[int, Account],
) -> dict[int, HybridKey]:
    """The keys of ``generations``, down from ``start`` through the owner's links.

    ``generations`` are the ledger's, from the oldest wanted up to that of ``start``;
    ``owners`` is the owner's account as of each version of its keys.

    Raises:
        NotFound: ``no-key-link``: the chain has a gap.
        Corrupt, Unauthenticated: a link is not the owner's, or leads to a key that
            is not the ledger's.
    """
    number, key = start
    found = {number: key}
    oldest = min(generations)
    while number > oldest:
        number -= 1
        link = links.get(number)
        if link is None:
            raise NotFound(
                f"the link to generation {number} of the record's key is missing: ask the "
                "record's owner to give the key again",
                reason="no-key-link",
            )
        owner = owners.get(link.owner_key_version)
        if owner is None or link.owner != owner.account:
            raise Corrupt("a key link is not by the record's owner", reason="wrong-owner")
        link.check(owner.signing_key)
        context = link_context(cluster, link.record, link.generation)
        key = checked_key(open_envelope(key, link.envelope, context), generations[number])
        found[number] = key
    return found


def open_key_row(cluster: ClusterId, key: HybridKey, row: KeyRow, core: Core) -> BlobKey:
    """The DEK of a blob from its key row.

    Raises:
        Corrupt: it does not open, or is not the one that the core commits to.
    """
    context = dek_context(cluster, core.record, row.generation, core.blob)
    return blob_key(open_envelope(key, row.envelope, context), ranged=False, core=core)


def open_packed_row(cluster: ClusterId, key: HybridKey, row: PackedKey, core: Core) -> BlobKey:
    """The DEK of a packed blob from its wrapped key.

    Raises:
        Corrupt: it does not open, or is not the one that the core commits to.
    """
    return blob_key(open_packed_key(cluster, key, row), ranged=False, core=core)


def decoded_rows(
    boxes: Iterable[bytes], links: Iterable[bytes], record: RecordId
) -> tuple[list[KeyBox], dict[int, list[KeyLink]]]:
    """Boxes, and links by generation, as nodes gave them; what cannot be read is left out."""
    found_boxes: list[KeyBox] = []
    found_links: dict[int, list[KeyLink]] = {}
    for data in boxes:
        try:
            found_boxes.append(KeyBox.decode(data))
        except HcefsError:
            continue
    for data in links:
        try:
            link = KeyLink.decode(data)
        except HcefsError:
            continue
        if link.record == record:
            found_links.setdefault(link.generation, []).append(link)
    return found_boxes, found_links


def genuine_links(
    links: Mapping[int, Iterable[KeyLink]], owners: Mapping[int, Account]
) -> dict[int, KeyLink]:
    """One link a generation: the first that the owner signed, by the key version it names."""
    found: dict[int, KeyLink] = {}
    for generation, candidates in links.items():
        for link in candidates:
            owner = owners.get(link.owner_key_version)
            if owner is None:
                continue
            try:
                link.check(owner.signing_key)
            except HcefsError:
                continue
            if link.owner == owner.account:
                found[generation] = link
                break
    return found


def _no_key() -> NotFound:
    return NotFound("there is no key for this blob here", reason="no-key")


def _wrong_blob_key() -> Corrupt:
    return Corrupt(
        "the key that was given is not this blob's: ask the granter to give it again",
        reason="wrong-key",
    )
