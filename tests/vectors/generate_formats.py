"""Golden vectors of the stored formats: rows of the manifest, key rows, shard file.

The inputs are fixed bytes that mean nothing; signatures are Ed25519, which is
deterministic, by the key of the seed 00 01 .. 1f.
"""

from __future__ import annotations

import struct
from typing import Any

from hcefs.crypto.envelope import SUITE_XWING, Envelope, EnvelopeContext
from hcefs.crypto.signing import SigningKey
from hcefs.encoding import Encoded, dumps, loads
from hcefs.formats.keybox import KeyBox, KeyLink, RangeSecrets
from hcefs.formats.manifest import BlobRef, Core, KeyRow, Layout, Metadata, Opening
from hcefs.formats.shard import ShardFooter, ShardHeader
from hcefs.formats.stand_in import StandInMark
from hcefs.ids import AccountId, BlobBase, BlobId, ClusterId, GrantId, RecordId
from hcefs.integrity import blake3_digest, crc32c, leaf_hash, merkle_root

KEY = SigningKey.from_seed(bytes(range(32)))
BASE = BlobBase(bytes(range(0x10, 0x20)))
BLOB = BlobId.of(BASE)
RECORD = RecordId(b"\x22" * 16)
CLUSTER = ClusterId(b"\xcc" * 16)
WRITER = AccountId(b"\x33" * 16)
NODE = AccountId(b"\x44" * 16)
GRANT = GrantId(b"\x55" * 16)
GRANTEE = AccountId(b"\x66" * 16)
TIME_MS = 1_800_000_000_000
DIGESTS = tuple(blake3_digest(bytes([number])) for number in range(6))
ENVELOPE = Envelope(SUITE_XWING, bytes(number & 0xFF for number in range(1168)))


def samples() -> dict[str, Encoded]:
    """One value of each canonical type, and the odd cases of some."""
    core = Core(
        blob=BLOB,
        record=RECORD,
        generation=3,
        plaintext_length=2_500_000,
        segment_size=1 << 20,
        dek_commitment=b"\x77" * 32,
        writer=WRITER,
        commit_by_ms=TIME_MS,
        k=4,
        data_digests=DIGESTS[:4],
        sealed_metadata=b"\x88" * 80,
    )
    opening = Opening(bytes(range(32)), RECORD, BLOB, core.digest(), b"")
    box = KeyBox(RECORD, 3, None, GRANT, GRANTEE, 1, WRITER, 2, ENVELOPE, b"")
    return {
        "core": core,
        "layout": Layout(BASE, RECORD, "ec-4-2", DIGESTS, 0, 0, 1, NODE, 1, TIME_MS, b"").signed(
            KEY
        ),
        "key-row": KeyRow(BLOB, RECORD, 3, ENVELOPE),
        "opening": opening,
        "opening-of-a-correction": Opening(
            bytes(range(32)), RECORD, BLOB, core.digest(), b"\x99" * 32
        ),
        "metadata": Metadata(
            "application/dicom", "ECG Größe", ("cardiology",), DIGESTS[0], bytes(64)
        ),
        "metadata-empty": Metadata("", "", (), b"", b""),
        "blob-ref": BlobRef(RECORD, BLOB, core.digest(), 7),
        "envelope": ENVELOPE,
        "envelope-info": EnvelopeContext(
            "dek", SUITE_XWING, CLUSTER, RECORD, 3, bytes(BLOB), bytes(RECORD)
        ),
        "key-box": box.signed(KEY),
        "key-box-of-a-blob": KeyBox(
            RECORD, 3, BLOB, GRANT, GRANTEE, 1, WRITER, 2, ENVELOPE, b""
        ).signed(KEY),
        "range-secrets": RangeSecrets(5, bytes(range(64))),
        "stand-in": StandInMark(7, TIME_MS),
        "key-link": KeyLink(RECORD, 3, WRITER, 2, ENVELOPE, b"").signed(KEY),
    }


def shard_samples() -> tuple[ShardHeader, ShardFooter]:
    """Header and footer of one shard file."""
    header = ShardHeader(BASE, 5, "ec-4-2", 4, 2, 1 << 20)
    return header, ShardFooter.of(2_500_000, b"".join(DIGESTS[:3]))


def _derived() -> dict[str, str]:
    values = samples()
    core, opening, corrected, metadata = (
        values["core"], values["opening"], values["opening-of-a-correction"], values["metadata"],
    )  # fmt: skip
    if not (
        isinstance(core, Core)
        and isinstance(opening, Opening)
        and isinstance(corrected, Opening)
        and isinstance(metadata, Metadata)
    ):
        raise TypeError("the samples are of other types")
    return {
        "core digest": core.digest().hex(),
        "commitment": opening.commitment().hex(),
        "commitment of a correction": corrected.commitment().hex(),
        "content message": metadata.message(BLOB, RECORD).hex(),
        "signing key": KEY.public_key.hex(),
    }


def _changed(name: str, position: int, value: Any) -> bytes:
    fields = loads(samples()[name].encode())
    fields[position] = value
    return dumps(fields)


def _negative() -> list[dict[str, str]]:
    """Bytes that must be refused, each with the class of failure."""
    header, footer = shard_samples()
    head, foot = header.encode(), footer.encode()
    core = samples()["core"].encode()
    swapped = foot[32:64] + foot[:32] + foot[64:]
    swapped = swapped[:-12] + struct.pack(">I", crc32c(swapped[:-12])) + swapped[-8:]
    future = head[:8] + b"\x00\x03" + head[10:-4]
    cases: list[tuple[str, str, bytes, str, str]] = [
        ("core: cut", "Core", core[:-1], "invalid", "malformed-encoding"),
        ("core: a byte more", "Core", core + b"\x00", "invalid", "malformed-encoding"),
        ("core: version 2", "Core", _changed("core", 1, 2), "invalid", "unknown-version"),
        ("core: another kind", "Layout", core, "invalid", "malformed-encoding"),
        ("core: short blob id", "Core", _changed("core", 2, bytes(17)), "invalid", "bad-id"),
        ("core: text for a number", "Core", _changed("core", 4, "3"), "invalid",
         "malformed-encoding"),
        ("key box: two blobs", "KeyBox", _changed("key-box", 4, [bytes(18), bytes(18)]),
         "invalid", "malformed-encoding"),
        ("opening: longer integer form", "Opening",
         b"\x98\x07" + samples()["opening"].encode()[1:], "invalid", "malformed-encoding"),
        ("metadata: a map", "Metadata", b"\xa0", "invalid", "malformed-encoding"),
        ("header: empty", "ShardHeader", b"", "corrupt", "bad-header"),
        ("header: wrong checksum", "ShardHeader", head[:-1] + bytes([head[-1] ^ 1]),
         "corrupt", "bad-header"),
        ("header: version 3", "ShardHeader", future + struct.pack(">I", crc32c(future)),
         "corrupt", "unknown-version"),
        ("footer: cut in front", "ShardFooter", foot[1:], "corrupt", "bad-footer"),
        ("footer: cut behind", "ShardFooter", foot[:-1], "corrupt", "bad-footer"),
        ("footer: wrong checksum", "ShardFooter", bytes([foot[0] ^ 1]) + foot[1:],
         "corrupt", "bad-footer"),
        ("footer: digests swapped", "ShardFooter", swapped, "corrupt", "bad-footer"),
    ]  # fmt: skip
    return [
        {"name": name, "type": kind, "bytes": data.hex(), "error": error, "reason": reason}
        for name, kind, data, error, reason in cases
    ]


def vectors() -> dict[str, Any]:
    """The vectors, made anew."""
    header, footer = shard_samples()
    leaves = [leaf_hash(bytes([number])) for number in range(7)]
    return {
        "canonical": {name: value.encode().hex() for name, value in samples().items()},
        "derived": _derived(),
        "shard": {
            "header": header.encode().hex(),
            "footer": footer.encode().hex(),
            "shard digest": footer.shard_digest.hex(),
        },
        "merkle roots of the leaves 00, 01, ..": [
            merkle_root(leaves[:size]).hex() for size in range(8)
        ],
        "refused": _negative(),
    }
