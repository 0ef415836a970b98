"""Golden vectors of packs: their rows, what opens an entry, batches, and one whole pack.

The inputs are fixed bytes that mean nothing.  The whole pack is sealed with a fixed
``draw``, so that all of it is the same each time except the envelope: HPKE draws its
own randomness, so one was sealed once and is only opened.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from hcefs.access.batch import BatchGroup, batch_digest
from hcefs.blobs.pack import Draw, PackItem, SealedPack, pack_context, seal_pack
from hcefs.crypto.envelope import SUITE_XWING, Envelope
from hcefs.crypto.keys import HybridKey, wrap_key
from hcefs.crypto.signing import RequestProof, SigningKey
from hcefs.encoding import Encoded, dumps, loads
from hcefs.formats.pack import (
    PackedKey,
    PackEnvelope,
    PackLayout,
    PackOpening,
    entry_hash,
    join_lengths,
    join_slots,
)
from hcefs.ids import AccountId, BlobBase, BlobId, ClusterId, RecordId
from hcefs.integrity import blake3_digest

KEY = SigningKey.from_seed(bytes(range(32)))
BASE = BlobBase(bytes(range(0x10, 0x20)))
RECORD = RecordId(b"\x22" * 16)
OTHER_RECORD = RecordId(b"\x23" * 16)
CLUSTER = ClusterId(b"\xcc" * 16)
WRITER = AccountId(b"\x33" * 16)
NODE = AccountId(b"\x44" * 16)
TIME_MS = 1_800_000_000_000
SALT = bytes(range(32))
DIGESTS = tuple(blake3_digest(bytes([number])) for number in range(6))
ENVELOPE = Envelope(SUITE_XWING, bytes(number & 0xFF for number in range(1168)))
SLOTS = [1, 3, 4, 7, 9]

WRAPPING_KEY = bytes(range(32))
KEY_DATA = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
"""Of RFC 3394 section 4.6: 256 bits of key data with a 256-bit KEK."""

RECORD_SEED = bytes(range(64, 96))
GENERATION = 3
PLAINTEXTS = (b"", b"one", bytes(range(256)), b"of the other record")

# The wrapping secret of the first record of the whole pack, to the key of RECORD_SEED.
PACK_ENVELOPE_CIPHERTEXT = base64.b64decode(
    "gNQuhzRT5zaUYtHDDuhxTJh7HAg9qeRPRiTWXdXoMzKRe53GQDkg2iwqxboYNYMCyIn1UNdKNLypo3Xwm6SU12fO"
    "6Xgux5uiBnNuRvBMZZsJjV4ArJyV63RmRQfd5b5jHB0tHj5QFz75sT5mnuveO8w0p3G6GW0b0vKJYtQIWvqbLiKY"
    "loL6raiZ66tB0ZXYvQchvj7IrHvcZJlYFteYUzv+7M9exgDaq+MZceh2cDHSMnSzGh2k6041OHhTJPdqlqHTlV4R"
    "OlAuZmkGVvqKRdDBV16cV7KryjzErsj0iQboL8rfTLsI8BdgFkbd/djD3vidH7uOcW9FrswI4Gc22Wn6eNgQoYSF"
    "mEWN8Krnyv3Kv6dvTlHHda25SkZCr8QBcvdzMF/JKw6dCDj/mnINikKZRbrJNakQDWLhoxuLvaim6tcTOxtvf6rT"
    "oocvvp3QMCbXl38roOUQGCphIYUgbcgo/8zbfHlLJWkA2X7GdrOaVIAERAIGgmDSHHMbwkqyGl5wP0Jy0Hl41e69"
    "L8ecxq1lGdfCmhkne0Gymn6VZ7IdB6cRN1OKOV2leEwxBkix/c7G4Lbxtppmo1spP+dJEMyzuIgtXQMJR7yi7kMt"
    "VtyrVp09chIXrhuBqEnG9vWm5H7+IqzBslnFeVbiKiD+HpiaIGNXlivyXxE0FbuxWnoCNcpLHF3/tPfL0iies60b"
    "+82/cClfsbyTubpZgNnZkcxO8yMm9teKM5gyB3ljwr1ZiF17nhusMS5gyZBWx5vfJoxDgp9LsYbAIigeNkg2GTJc"
    "7wchiwUnsvQzdx5kgu4s0aq9J0duTyvPo6QNrMYTjqhYl4tc9KlNVKDbrsoewWT3f3FHFK4tKjH3mQLjrh3kzYZ8"
    "1Mh9Itzl2ZE5RB6gYTYa/3HkvdP+3t656XylMmX4Q1xuw32YfiiIuNT5vVIcLmowLGbi2fQuVT54M5yKrqP3IsbD"
    "ab7/sI/QYv4FM1TTmW70JaeB68bekGUIEgdyKsrST92mqmgLzULJoaGHB2KF+HhyhxP9rhmMfbiex0mLRhZOdK19"
    "Z/t5NhhbTknfQXUS1hSiV6v+zWvAYlKy9+YNXghbjCZoS/mwBCcpmfUzTY//cFmNSpSpQHbZb4GSkF69SAzMP7Ts"
    "VDvk7q+RmWvHGEgxf8MERPR9hBLqZAawsM/zYJYFr3t5TR2054RBHaSfdujyiflZeC6Tz1Iu3A/XR+/YxW9iDEfA"
    "vXAn4HjnQXUV5P7Yi6LyYg+h1wUQxOsjeABWV60rBrVwsX8llwhS2QSBXC50C6Zh+h2bX/YsnEPMLgojfU7U9/kj"
    "8JRieDAH9ih0GH4dLx/KL0pDLA5JpJNhvd8vwYXzH0U4PH62YhK6OAVFjT5pJIpMKQf2WbBLT5zB3JGbGQsEoqfB"
    "z4kqT2FcwkKhs1BQA0t7rPWg8yHOm0sveTzakzPbKWTvtfyMqLEVxFjLw84jtMVKvxnToo3uB8EX0EBV5uvbONUC"
    "seCeGODPP+x9uwqkhD4lfR9XxF5hv2ExKMVzNb7iOPJD0bY95NTtsrmDbgs8pQ=="
)


def fixed_draw(seed: bytes) -> Draw:
    """Draws from SHAKE256(seed), on and on."""
    taken = 0

    def draw(length: int) -> bytes:
        nonlocal taken
        taken += length
        return hashlib.shake_256(seed).digest(taken)[taken - length :]

    return draw


def record_key() -> HybridKey:
    """The key pair of the first record's generation."""
    return HybridKey.from_seed(RECORD_SEED)


def sealed_pack() -> SealedPack:
    """Three payloads of one record and one of another; the first has metadata."""
    other = HybridKey.from_seed(bytes(32)).public_key
    own = record_key().public_key
    items = [
        PackItem(RECORD, GENERATION, own, PLAINTEXTS[0], b"metadata"),
        PackItem(RECORD, GENERATION, own, PLAINTEXTS[1]),
        PackItem(OTHER_RECORD, 0, other, PLAINTEXTS[3]),
        PackItem(RECORD, GENERATION, own, PLAINTEXTS[2]),
    ]
    return seal_pack(CLUSTER, WRITER, TIME_MS, items, fixed_draw(b"hcefs pack"))


def opening() -> PackOpening:
    """Five payloads of one record, in slots with gaps."""
    digests = b"".join(blake3_digest(bytes([slot])) for slot in SLOTS)
    return PackOpening(SALT, RECORD, BASE, join_slots(SLOTS), digests)


def opening_of_one() -> PackOpening:
    """One payload in the last slot: a tree of one leaf."""
    return PackOpening(SALT, RECORD, BASE, join_slots([1024]), DIGESTS[0])


def samples() -> dict[str, Encoded]:
    """One value of each canonical type, and the odd cases of some."""
    lengths = join_lengths([48, 51, 67, 304])
    layout = PackLayout(BASE, "ec-4-2", lengths, DIGESTS, 1, NODE, 1, TIME_MS, b"")
    return {
        "pack-layout": layout.signed(KEY),
        "pack-layout-unsigned": layout,
        "pack-opening": opening(),
        "pack-opening-of-one": opening_of_one(),
        "pack-proof": opening().proof(4),
        "pack-proof-of-the-last": opening().proof(9),
        "pack-proof-of-one": opening_of_one().proof(1024),
        "pack-envelope": PackEnvelope(BASE, RECORD, GENERATION, ENVELOPE),
        "packed-key": PackedKey(
            BlobId.of(BASE, 4), RECORD, GENERATION, ENVELOPE, wrap_key(WRAPPING_KEY, KEY_DATA)
        ),
        "envelope-info": pack_context(CLUSTER, RECORD, GENERATION, BASE),
    }


def batch() -> tuple[list[bytes], list[BatchGroup]]:
    """Two tokens (any bytes will do) and three groups, one of them of two blobs."""
    tokens = [b"the first token", b"the second"]

    def blobs(*slots: int) -> bytes:
        return b"".join(BlobId.of(BASE, slot) for slot in slots)

    return tokens, [
        BatchGroup(0, RECORD, blobs(1, 4)),
        BatchGroup(1, RECORD, blobs(3)),
        BatchGroup(1, OTHER_RECORD, blobs(2)),
    ]


def _batch() -> dict[str, object]:
    tokens, groups = batch()
    digest = batch_digest(tokens, groups)
    proof = RequestProof(
        CLUSTER, digest, "get-many", RecordId.zero(), BlobId.zero(), 0, 0, "TREAT", NODE,
        bytes(range(16)), TIME_MS, WRITER, 2,
    )  # fmt: skip
    return {
        "tokens": [token.hex() for token in tokens],
        "groups": [
            {"token": group.token, "record": group.record.hex(), "blobs": group.blobs.hex()}
            for group in groups
        ],
        "digest": digest.hex(),
        "signed proof": proof.signed(KEY).encode().hex(),
    }


def _whole() -> dict[str, object]:
    pack = sealed_pack()
    return {
        "draw": b"hcefs pack".hex(),
        "base": pack.base.hex(),
        "lengths": list(pack.lengths),
        "body": pack.body.hex(),
        "groups": [
            {
                "record": group.record.hex(),
                "generation": group.generation,
                "slots": list(group.slots),
                "cores": [core.hex() for core in group.encoded],
                "wrapped keys": [wrapped.hex() for wrapped in group.wrapped],
                "opening": group.opening.encode().hex(),
                "commitment": group.opening.commitment().hex(),
            }
            for group in pack.groups
        ],
        "record seed": RECORD_SEED.hex(),
        "envelope of the first group": PACK_ENVELOPE_CIPHERTEXT.hex(),
        "plaintexts of the first group": [plaintext.hex() for plaintext in PLAINTEXTS[:3]],
    }


def _changed(name: str, position: int, value: Any) -> bytes:
    fields = loads(samples()[name].encode())
    fields[position] = value
    return dumps(fields)


def _negative() -> list[dict[str, str]]:
    """Bytes that must be refused, each with the class of failure."""
    layout, proof = samples()["pack-layout"].encode(), samples()["pack-proof"].encode()
    path = loads(proof)[8]
    cases: list[tuple[str, str, bytes, str, str]] = [
        ("layout: cut", "PackLayout", layout[:-1], "invalid", "malformed-encoding"),
        ("layout: a byte more", "PackLayout", layout + b"\x00", "invalid", "malformed-encoding"),
        ("layout: version 2", "PackLayout", _changed("pack-layout", 1, 2), "invalid",
         "unknown-version"),
        ("layout: of one blob", "PackLayout", _changed("pack-layout", 0, "layout"), "invalid",
         "malformed-encoding"),
        ("layout: no payload", "PackLayout", _changed("pack-layout", 4, b""), "invalid",
         "bad-layout"),
        ("layout: a payload too short", "PackLayout",
         _changed("pack-layout", 4, join_lengths([47])), "invalid", "bad-layout"),
        ("layout: lengths changed", "PackLayout",
         _changed("pack-layout", 4, join_lengths([51, 48, 67, 304])), "unauthenticated",
         "bad-signature"),
        ("layout: unknown profile", "PackLayout", _changed("pack-layout", 3, "ec-3-1"),
         "invalid", "unknown-profile"),
        ("layout: a digest missing", "PackLayout",
         _changed("pack-layout", 5, list(DIGESTS[:5])), "invalid", "bad-layout"),
        ("opening: slots descend", "PackOpening",
         _changed("pack-opening", 5, join_slots([1, 4, 3, 7, 9])), "invalid", "bad-slots"),
        ("opening: a slot twice", "PackOpening",
         _changed("pack-opening", 5, join_slots([1, 3, 3, 7, 9])), "invalid", "bad-slots"),
        ("opening: slot 0", "PackOpening",
         _changed("pack-opening", 5, join_slots([0, 3, 4, 7, 9])), "invalid", "bad-slots"),
        ("opening: a digest missing", "PackOpening", _changed("pack-opening", 6, bytes(128)),
         "invalid", "bad-opening"),
        ("opening: short salt", "PackOpening", _changed("pack-opening", 2, bytes(31)),
         "invalid", "bad-opening"),
        ("proof: of an unpacked blob", "PackProof",
         _changed("pack-proof", 4, bytes(BlobId.of(BASE, 0))), "corrupt", "bad-proof"),
        ("proof: behind the last", "PackProof", _changed("pack-proof", 6, 5), "corrupt",
         "bad-proof"),
        ("proof: too many", "PackProof", _changed("pack-proof", 7, 1025), "corrupt", "bad-proof"),
        ("proof: path cut", "PackProof", _changed("pack-proof", 8, path[:-1]), "corrupt",
         "bad-proof"),
        ("proof: path extended", "PackProof", _changed("pack-proof", 8, [*path, bytes(32)]),
         "corrupt", "bad-proof"),
        ("proof: negative position", "PackProof", _changed("pack-proof", 6, -1), "corrupt",
         "bad-proof"),
        ("key: wrapped key too short", "PackedKey", _changed("packed-key", 6, bytes(39)),
         "invalid", "bad-key-row"),
        ("key: a key row", "PackedKey", _changed("packed-key", 0, "key-row"), "invalid",
         "malformed-encoding"),
        ("envelope: short base", "PackEnvelope", _changed("pack-envelope", 2, bytes(15)),
         "invalid", "bad-id"),
    ]  # fmt: skip
    return [
        {"name": name, "type": kind, "bytes": data.hex(), "error": error, "reason": reason}
        for name, kind, data, error, reason in cases
    ]


def vectors() -> dict[str, Any]:
    """The vectors, made anew."""
    return {
        "canonical": {name: value.encode().hex() for name, value in samples().items()},
        "derived": {
            "signing key": KEY.public_key.hex(),
            "hash of slot 4": entry_hash(4, blake3_digest(b"\x04")).hex(),
            "root": opening().tree().root.hex(),
            "commitment": opening().commitment().hex(),
            "commitment of one": opening_of_one().commitment().hex(),
        },
        "key wrap": {
            "secret": WRAPPING_KEY.hex(),
            "key": KEY_DATA.hex(),
            "wrapped": wrap_key(WRAPPING_KEY, KEY_DATA).hex(),
        },
        "batch": _batch(),
        "pack": _whole(),
        "refused": _negative(),
    }
