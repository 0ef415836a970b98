"""Golden vectors of ``hcefs.crypto`` and ``hcefs.integrity``, from fixed seeds.

``python -m tests.vectors.generate`` writes them to ``crypto.json``.  A difference is
a change of the format: it needs a new version, never a new file.

HPKE draws its own randomness, so its envelope was sealed once and is only opened.
"""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from hcefs import integrity
from hcefs.crypto.envelope import SUITE_XWING, EnvelopeContext
from hcefs.crypto.keys import (
    HybridKey,
    dek_commitment,
    hkdf_expand,
    record_seed,
    seal_metadata,
)
from hcefs.crypto.signing import RequestProof, SigningKey, account_id
from hcefs.crypto.stream import SEGMENT_SIZE, seal_segment, segment_secret
from hcefs.ids import AccountId, BlobId, ClusterId, RecordId

SEED = bytes(range(32))
XWING_DRAFT_SEED = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
DEK = bytes(range(100, 132))
OTHER_DEK = bytes(range(200, 232))
CLUSTER = ClusterId(bytes(range(16)))
RECORD = RecordId(bytes(range(32, 48)))
OTHER_RECORD = RecordId(bytes(range(48, 64)))
BLOB = BlobId(bytes(range(64, 82)))
OTHER_BLOB = BlobId(bytes(range(82, 100)))
GENERATION = 3

ENVELOPE_CIPHERTEXT = base64.b64decode(
    "m/ig/yarF+F2FpFD8wcf2Fs7m0CVjxsBW7KDKW+/Tstoy3dSXh2IvvGe7cOSP8nar65DlNAneFLkvLsTLnSeBGmQ"
    "UT+WXLse7vL8lF6+tItu/PiN3b8SbxCEt1U5F8WNtdIN8acGsG405lOp5GKgjrpNKQIYazXgduz9UVc0Zd1Y/7iI"
    "/HD2bjsZ0ayESUh9jBRdRpxhws7IqwXpz1R3tmN7XE78V2i9WFyNbRpoefHCPEZne5P543MQUp0SfnLFOndfC317"
    "TlkJd6R7N/kxIXqdGo29P8fCO3xvRVGR1O9JI6ZQBLBRcwnnOTLMlIkKIMR9RF4Q0Z8DSZ21k7lKgfRj2KgIYZ5D"
    "2Izl1nxomqaak6vj1zdlvFiuZpEW67Hkk4275xrDKLnLK2e6f970fBbstwZ3G87h0Vz6sTH/KnqOsr27b4ufV21C"
    "2bw99dUQGEj2XPHQ8FHlYFX5REkKzrT85odwY1Hi2zrx0ucW9xorU/9LTmMgovMta6UA5PwXEUneunCFJIBXvQ0+"
    "VusEzEs/Nh3PgtguWidXg8q0FqJoXwmmJ/8m6u5zl9O8jj+9FBNQwtgi5ExUBsEnXCYGB+YuuaQa2XnqEeXBus5C"
    "v7gI6UiEMv+FBvtR8G3IAGxDYsc9lkX0nazCvpPpMSqh/rWUjm0AhLh5LT/eJymQRCkpTq+FFZHaL2AECN0PjrOO"
    "yatUGJbJu1Sif6PwJEQVbuCIIym0uZsTUGgKKbmY5/yd1BMTnU0qX6st5ZSRq9iGnWUBza1q2dpN7LRlpp1Who8h"
    "9FUz5BabkWKkXOw7RpxZjr+lvQh4Cq6bDGLGRCZytpey7sCs+SVoapk0vS82o3YcwWZAyu7rQu0g+zsGCdcKUEpV"
    "dfTM3p7Rh4U73sHKr7yWoCXQdznUnuebAelW3v8WUVQFIJTTm0jlhdBM9sogL/P+t87W/Lt63MZrSFmJGf1uCqnj"
    "Ygars0c2J5C3r2P53fpm+gSjEkCDH21YS7Ua1+9rYpjgu+8zLkHHR4Hm8CJUPE21gyutYvbzHibKIERT7AK2KF6J"
    "Op9W4kD4jPhNnQVxdViiGWiXaWOQTv/NZ80ehmojB+ZhuNJuFZYK+rj75mrS4rztgPDYbDIxQeoIH6XDxsArSdaM"
    "ZxQLVoio0B0ZmU1HnmSrr8551XBsKQBuvxmyTU3pJGRMSaCLgapXaTREeQLABFsJ4YCuHHhfzQsAO8DbL1YMD8+s"
    "qM2OzqubtchOBuAUfOTG4JKKkzIUzZCoQjIgN2KJAKnyWcgKUUElwJXarQ/zeNLrXw9cdcZ/5LB94T00QVi96m/Q"
    "U0gtdlvptmishfL2Dot9v8i6yFD/lQ6dwLEGcM0lzbeRYUpOcd5ycbKHj56MQCt+gwACEtiClyPrSpZIavDuyNMH"
    "f821Mk+Vz23fzK4GQN3HlJOo8rWBphiyrC+qISieom7aJlZzUfJPEXsXz49eoy3ntdePo5nqTe70pOb+i288NMZV"
    "5IaNy3dLL2WsdAzGA85YqLJcB+Eg6AjHrIT0RVIljccIjMUBfwMz4EyRScF/4w=="
)


def pattern(length: int) -> bytes:
    """The plaintext of every vector: byte i is i mod 251."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def _signing() -> dict[str, object]:
    key = SigningKey.from_seed(SEED)
    proof = RequestProof(
        cluster=CLUSTER,
        token_hash=bytes(range(32)),
        method="get",
        record=RECORD,
        blob=BLOB,
        range_start=5,
        range_length=1 << 40,
        purpose="TREAT",
        gateway=AccountId(bytes(range(16, 32))),
        nonce=bytes(range(16)),
        time_ms=1_800_000_000_000,
        presenter=account_id(CLUSTER, key.public_key),
        key_version=2,
    )
    return {
        "seed": SEED.hex(),
        "public_key": key.public_key.hex(),
        "tag": "layout",
        "message": pattern(100).hex(),
        "signature": key.sign(b"layout", pattern(100)).hex(),
        "cluster": CLUSTER.hex(),
        "account": account_id(CLUSTER, key.public_key).hex(),
        "signed_proof": proof.signed(key).encode().hex(),
    }


def _keys() -> dict[str, object]:
    return {
        "dek": DEK.hex(),
        "hkdf_expand": {
            str(length): hkdf_expand(DEK, b"info", length).hex() for length in (16, 32, 80)
        },
        "dek_commitment": dek_commitment(DEK).hex(),
        "record_seeds": {
            str(generation): record_seed(SEED, RECORD, generation).hex()
            for generation in (0, 1, 1 << 40)
        },
        "xwing": [
            {"seed": seed.hex(), "public_key": HybridKey.from_seed(seed).public_key.hex()}
            for seed in (XWING_DRAFT_SEED, SEED)
        ],
        "metadata": {
            str(length): seal_metadata(DEK, BLOB, RECORD, pattern(length)).hex()
            for length in (0, 1, 100)
        },
    }


def envelope_context() -> EnvelopeContext:
    """What the frozen envelope was sealed for."""
    return EnvelopeContext(
        tag="dek",
        suite=SUITE_XWING,
        cluster=CLUSTER,
        record=RECORD,
        generation=GENERATION,
        subject=bytes(BLOB),
        recipient=bytes(RECORD),
    )


def _envelope() -> dict[str, object]:
    return {
        "seed": SEED.hex(),
        "info": envelope_context().encode().hex(),
        "ciphertext": ENVELOPE_CIPHERTEXT.hex(),
        "secret": DEK.hex(),
    }


def _segment(index: int, length: int, last: bool) -> dict[str, object]:
    secret = segment_secret(DEK, index)
    sealed = seal_segment(secret, BLOB, RECORD, last, pattern(length))
    vector: dict[str, object] = {
        "dek": DEK.hex(),
        "blob": BLOB.hex(),
        "record": RECORD.hex(),
        "index": index,
        "length": length,
        "last": last,
        "secret": secret.hex(),
        "sealed_blake3": integrity.blake3_digest(sealed).hex(),
    }
    return vector | ({"sealed": sealed.hex()} if length <= 1000 else {})


def _segments() -> list[dict[str, object]]:
    lengths = (0, 1, 15, 16, 17, 100, SEGMENT_SIZE - 1, SEGMENT_SIZE)
    return [
        *(_segment(0, length, True) for length in lengths),
        _segment(0, SEGMENT_SIZE, False),
        _segment((1 << 24) - 1, 100, True),
    ]


def _negative() -> list[dict[str, object]]:
    """Sealed segments with what they are wrongly opened as, and the reason of the refusal.

    ``full`` stands for the segment of 2**20 bytes sealed with that last flag.
    """
    right: dict[str, Any] = {
        "dek": DEK.hex(),
        "index": 0,
        "blob": BLOB.hex(),
        "record": RECORD.hex(),
        "last": True,
        "sealed": seal_segment(segment_secret(DEK, 0), BLOB, RECORD, True, pattern(100)).hex(),
    }
    sealed = str(right["sealed"])
    whole = {key: value for key, value in right.items() if key != "sealed"}
    first_bit = f"{int(sealed[:2], 16) ^ 1:02x}"
    last_bit = f"{int(sealed[-2:], 16) ^ 1:02x}"
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("truncated", "bad-seal", right | {"sealed": sealed[:-2]}),
        ("truncated", "bad-seal", right | {"sealed": sealed[: 2 * 48]}),
        ("truncated", "bad-seal", right | {"sealed": ""}),
        ("truncated at a segment's end", "bad-seal", whole | {"full": False}),
        ("reordered", "wrong-key", right | {"index": 1}),
        ("extended", "bad-seal", right | {"sealed": sealed + "00"}),
        ("extended behind the last segment", "bad-seal", whole | {"full": True, "last": False}),
        ("wrong key", "wrong-key", right | {"dek": OTHER_DEK.hex()}),
        ("wrong record", "bad-seal", right | {"record": OTHER_RECORD.hex()}),
        ("wrong blob", "bad-seal", right | {"blob": OTHER_BLOB.hex()}),
        ("changed commitment", "wrong-key", right | {"sealed": first_bit + sealed[2:]}),
        ("changed tag", "bad-seal", right | {"sealed": sealed[:-2] + last_bit}),
    ]
    return [{"failure": failure, "reason": reason, **case} for failure, reason, case in cases]


def _multiply(x: int, y: int) -> int:
    """The product in GCM's GF(2^128): NIST SP 800-38D algorithm 1."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = (y >> 1) ^ (0xE1 << 120 if y & 1 else 0)
    return product


def _inverse(x: int) -> int:
    result = 1 << 127  # the field's 1 in this bit order
    for _ in range(127):
        x = _multiply(x, x)
        result = _multiply(result, x)
    return result


def _ghash(subkey: int, aad: bytes, ciphertext: bytes) -> int:
    blocks = b"".join(part + bytes(-len(part) % 16) for part in (aad, ciphertext))
    blocks += (8 * len(aad)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    value = 0
    for start in range(0, len(blocks), 16):
        value = _multiply(value ^ int.from_bytes(blocks[start : start + 16], "big"), subkey)
    return value


def _two_keys() -> dict[str, object]:
    """One AES-GCM ciphertext and tag that two keys open: why segments commit to theirs.

    The last block of the ciphertext is solved for, so that both tags are equal.
    """
    secrets = [segment_secret(DEK, 0), segment_secret(OTHER_DEK, 0)]
    keys = [hkdf_expand(secret, b"hcefs/v1/key") for secret in secrets]
    nonce = bytes(11) + b"\x01"
    aad = b"\x00\x01" + BLOB + RECORD + SEGMENT_SIZE.to_bytes(4, "big")
    fixed = pattern(48)

    def encrypt_block(key: bytes, block: bytes) -> int:
        return int.from_bytes(Cipher(AES256(key), ECB()).encryptor().update(block), "big")  # noqa: S305 - one block

    subkeys = [encrypt_block(key, bytes(16)) for key in keys]
    masks = [encrypt_block(key, nonce + b"\x00\x00\x00\x01") for key in keys]
    tags = [
        _ghash(subkey, aad, fixed + bytes(16)) ^ mask
        for subkey, mask in zip(subkeys, masks, strict=True)
    ]
    # Only the block of lengths follows the free one, so it counts with the subkey's square.
    weight = _multiply(subkeys[0], subkeys[0]) ^ _multiply(subkeys[1], subkeys[1])
    free = _multiply(tags[0] ^ tags[1], _inverse(weight))
    ciphertext = fixed + free.to_bytes(16, "big")
    tag = (_ghash(subkeys[0], aad, ciphertext) ^ masks[0]).to_bytes(16, "big")
    return {
        "failure": "one ciphertext under two keys",
        "reason": "wrong-key",
        "blob": BLOB.hex(),
        "record": RECORD.hex(),
        "nonce": nonce.hex(),
        "aad": aad.hex(),
        "keys": [key.hex() for key in keys],
        "secrets": [secret.hex() for secret in secrets],
        "ciphertext_and_tag": (ciphertext + tag).hex(),
        "commitments": [hkdf_expand(secret, b"hcefs/v1/com").hex() for secret in secrets],
    }


def _integrity() -> dict[str, object]:
    leaves = [integrity.leaf_hash(bytes([index])) for index in range(17)]
    return {
        "blake3": {
            str(size): integrity.blake3_digest(pattern(size)).hex() for size in (0, 1, 5000)
        },
        "crc32c": {str(size): integrity.crc32c(pattern(size)) for size in (0, 1, 5000)},
        "roots": [integrity.merkle_root(leaves[:size]).hex() for size in range(len(leaves) + 1)],
        "range_proof_of_11_first_3_count_5": [
            value.hex() for value in integrity.range_proof(leaves[:11], 3, 5)
        ],
        "inclusion_proof_of_11_index_8": [
            value.hex() for value in integrity.inclusion_proof(leaves[:11], 8)
        ],
        "consistency_proof_of_11_old_6": [
            value.hex() for value in integrity.consistency_proof(leaves[:11], 6)
        ],
        "shard_digest_of_5": integrity.shard_digest(
            [integrity.blake3_digest(pattern(size)) for size in range(5)]
        ).hex(),
    }


def vectors() -> dict[str, object]:
    """Everything that ``crypto.json`` freezes."""
    return {
        "signing": _signing(),
        "keys": _keys(),
        "envelope": _envelope(),
        "segments": _segments(),
        "negative_segments": _negative(),
        "two_keys": _two_keys(),
        "integrity": _integrity(),
    }
