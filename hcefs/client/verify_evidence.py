#!/usr/bin/env python3
"""Verifies an evidence bundle of HCE-FS without HCE-FS.

    pip install cryptography blake3
    python verify_evidence.py EVIDENCE.zip --cluster clu-0123...

One file, the standard library and two packages; it imports nothing of the system that made
the bundle, shares no code with it, talks to nobody, and needs no key.  It reads the formats
as docs/FORMATS.md of HCE-FS specifies them.  Exit code 0: everything holds; 1: something
does not, and the output says what; 2: this is no bundle.

What it proves is printed; so is what it cannot prove.  Trust begins with the cluster's id,
which names the genesis: get it from somebody other than the sender of the bundle.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

PART_MAX = 1 << 30
DEPTH_MAX = 16
SEGMENT = 1 << 20
STATEMENTS_NEEDED = 3
ANCHOR_DELAY_MS = 120_000
ACCESS = 1
NODE, OPERATOR, INSTITUTION = 5, 6, 3
KINDS = {1: "patient", 2: "practitioner", 3: "institution", 4: "device", 5: "node", 6: "operator"}
ACTIONS = ((1, "read"), (2, "append"), (4, "share"))
FIELD_P = 2**255 - 19


class Wrong(Exception):
    """Something in the bundle does not hold."""


# -- the encoding: deterministic CBOR of integers, bytes, text and arrays


def decode(data: bytes) -> Any:
    """The value of canonical bytes."""
    value, end = _item(data, 0, 0)
    if end != len(data) or encode(value) != data:
        raise Wrong("a part is not in its canonical encoding")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at >= len(data) or depth > DEPTH_MAX:
        raise Wrong("a part is cut or nested too deeply")
    major, low = data[at] >> 5, data[at] & 31
    at += 1
    if low < 24:
        number = low
    elif low < 28:
        size = 1 << (low - 24)
        if at + size > len(data):
            raise Wrong("a part is cut")
        number = int.from_bytes(data[at : at + size], "big")
        at += size
    else:
        raise Wrong("a part has an encoding that is not used here")
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        if at + number > len(data):
            raise Wrong("a part is cut")
        raw = data[at : at + number]
        try:
            return (raw if major == 2 else raw.decode()), at + number
        except UnicodeDecodeError:
            raise Wrong("a text is not UTF-8") from None
    if major == 4:
        if number > len(data):
            raise Wrong("a part is cut")
        items = []
        for _ in range(number):
            item, at = _item(data, at, depth + 1)
            items.append(item)
        return items, at
    raise Wrong("a part has a type that is not used here")


def encode(value: Any) -> bytes:
    """The canonical bytes of a value."""
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return _head(3, len(raw)) + raw
    return _head(4, len(value)) + b"".join(encode(item) for item in value)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for low, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | low]) + number.to_bytes(size, "big")
    raise Wrong("a number is too large")


def part(data: bytes, kind: str, fields: int) -> list[Any]:
    """The fields of a typed part, version 1."""
    value = decode(data)
    if not isinstance(value, list) or value[:2] != [kind, 1] or len(value) != fields + 2:
        raise Wrong(f"a part is not a {kind} of version 1: use a newer verifier")
    return value[2:]


# -- digests and signatures


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def leaf_hash(data: bytes) -> bytes:
    return digest(b"\x00" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    return digest(b"\x01" + left + right)


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1."""
    if not leaves:
        return digest(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(merkle_root(leaves[:split]), merkle_root(leaves[split:]))


def root_of_path(size: int, index: int, leaf: bytes, path: list[bytes]) -> bytes:
    """The root that a leaf and its audit path lead to (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise Wrong("a proof is of a leaf outside its tree")
    root, position, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            raise Wrong("a proof is too long")
        if position & 1 or position == last:
            root = node_hash(sibling, root)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise Wrong("a proof is too short")
    return root


def _small_order(key: bytes) -> bool:
    y = int.from_bytes(key[:-1] + bytes([key[-1] & 0x7F]), "little")
    eight = int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    )
    return y in (0, 1, FIELD_P - 1, eight, FIELD_P - eight, FIELD_P, FIELD_P + 1)


def signed_by(key: bytes, tag: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is that Ed25519 key's signature for that use."""
    if len(key) != 32 or _small_order(key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(
            signature, b"hcefs/v1/" + tag + b"\x00" + message
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def expand(key: bytes, info: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key)


# -- the bundle


@dataclass
class Key:
    """A public key of an account, and what the account is."""

    kind: int
    signing_key: bytes
    ended_height: int = 0
    ended_ms: int = 0

    def signs_at(self, height: int) -> bool:
        """Whether it was not yet changed for another one in the block of a height."""
        return not self.ended_height or height < self.ended_height


@dataclass
class Report:
    """What was found to hold, and what is wrong."""

    proved: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    rights: list[dict[str, Any]] = field(default_factory=list)
    accesses: list[dict[str, Any]] = field(default_factory=list)
    cluster: str = ""
    record: str = ""


class Bundle:
    """One bundle, verified step by step; each step raises :class:`Wrong`."""

    def __init__(self, data: bytes) -> None:
        fields = part(data, "evidence-bundle", 8)
        self.record, self.genesis_bytes = fields[:2]
        self.terms, self.transactions, self.leaves, self.entries, self.statements = fields[2:7]
        self.receipts = fields[7]
        self.report = Report()
        self.writers: list[tuple[int, int, bytes]] = []
        self.keys: dict[tuple[bytes, int], Key] = {}
        self.owner = b""
        self.appended: set[bytes] = set()
        self.anchored: dict[bytes, tuple[int, int]] = {}

    def verify(self, cluster: str, payloads: dict[str, zipfile.ZipInfo], archive: Any) -> None:
        """All steps."""
        self._genesis(cluster)
        self._terms()
        self._transactions()
        self._leaves()
        self._receipts()
        self._entries(payloads, archive)

    def _genesis(self, cluster: str) -> None:
        fields = part(self.genesis_bytes, "genesis", 8)
        name, _, operators, threshold, writer_key, _, self.skew_ms = fields[:7]
        self.cluster = digest(self.genesis_bytes)[:16]
        self.report.cluster = "clu-" + self.cluster.hex()
        self.report.record = "rec-" + self.record.hex()
        self.threshold = threshold
        if cluster and cluster != self.report.cluster:
            raise Wrong(f"the bundle is of {self.report.cluster}, not of {cluster}")
        self.writers.append((1, 1, writer_key))
        for signing_key, _, _ in operators:
            self.keys[self._account(signing_key), 1] = Key(OPERATOR, signing_key)
        said = "as you named it" if cluster else "NOT compared: give --cluster"
        self.report.proved.append(
            f"the genesis is that of cluster {self.report.cluster} ({name!r}), {said}"
        )

    def _account(self, signing_key: bytes) -> bytes:
        return digest(b"hcefs/v1/account\x00" + self.cluster + signing_key)[:16]

    def _terms(self) -> None:
        previous = digest(self.genesis_bytes)
        for data in self.terms:
            change, signatures = part(data, "signed-term-change", 2)
            cluster, term, before, height, _, writer_key = change[:6]
            encoded = encode(["term-change", 1, *change])
            if cluster != self.cluster or before != previous or term != self.writers[-1][0] + 1:
                raise Wrong(f"the statement of term {term} does not follow the one before")
            self._operators_signed(b"term-change", encoded, signatures, f"term {term}")
            self.writers.append((term, height + 1, writer_key))
            previous = digest(encoded)
        if self.terms:
            self.report.proved.append(
                f"{len(self.terms)} changes of the ledger's writer, each signed by the operators"
            )

    def _operators_signed(
        self, tag: bytes, message: bytes, signatures: list[Any], what: str
    ) -> None:
        signers = {
            signer
            for signer, version, signature in signatures
            if (key := self.keys.get((signer, version))) is not None
            and key.kind == OPERATOR
            and signed_by(key.signing_key, tag, message, signature)
        }
        if len(signers) < self.threshold:
            raise Wrong(f"{what}: signed by {len(signers)} operators, {self.threshold} must sign")

    def _writer_at(self, height: int) -> tuple[int, bytes]:
        term, _, key = [each for each in self.writers if each[1] <= height][-1]
        return term, key

    def _transactions(self) -> None:
        found = []
        for data in self.transactions:
            header, signature, transaction, index, count, path = part(data, "transaction-proof", 6)
            cluster, term, height, time_ms, _, root = header[:6]
            reigning, key = self._writer_at(height)
            if cluster != self.cluster or term != reigning:
                raise Wrong(f"block {height} is of another cluster or term")
            if not signed_by(key, b"block", encode(["block-header", 1, *header]), signature):
                raise Wrong(f"block {height} is not signed by the ledger's writer")
            if root_of_path(count, index, leaf_hash(transaction), path) != root:
                raise Wrong(f"a transaction is not in block {height}")
            found.append((height, index, time_ms, transaction))
        for height, _, time_ms, transaction in sorted(found):
            self._apply(height, time_ms, transaction)
        blocks = len({height for height, *_ in found})
        self.report.proved.append(
            f"{len(found)} transactions, each in one of {blocks} blocks that the ledger's writer "
            "signed, each signed by whom it had to be"
        )
        if not self.owner:
            raise Wrong("the bundle does not show how the record was opened")

    def _apply(self, height: int, time_ms: int, data: bytes) -> None:
        body, signatures = part(data, "signed-transaction", 2)
        value = decode(body)
        if not isinstance(value, list) or len(value) < 2:
            raise Wrong("a transaction is malformed")
        kind, rest = value[0], value[2:]
        if kind == "register-account":
            self._register(body, signatures, rest)
            return
        signers = self._signers(body, signatures, f"block {height}")
        if kind == "rotate-keys":
            self._rotate(rest, signers, height, time_ms)
        if kind == "open-record" and rest[0] == self.record:
            self.owner = rest[1]
            if self.owner not in signers:
                raise Wrong("the record was not opened by its owner")
        elif kind == "append":
            for record, _, commitment, _, _ in rest[0]:
                if record == self.record:
                    self.appended.add(commitment)
        elif kind == "give-grant" and rest[1] == self.record:
            self._give(rest, signers, height, time_ms)
        elif kind == "anchor-receipts":
            node, cut_ms = rest[0][0], rest[0][8]
            if set(signers) != {node} or signers[node].kind != NODE:
                raise Wrong("receipts were anchored by somebody else than their node")
            if not -self.skew_ms <= time_ms - cut_ms <= ANCHOR_DELAY_MS + self.skew_ms:
                raise Wrong(f"acc-{node.hex()} anchored receipts late: they may be back-dated")
            self.anchored[encode(rest[0])] = height, time_ms
        elif kind == "revoke-grant":
            for right in self.report.rights:
                if right["grant"] == "grt-" + rest[0].hex():
                    right["revoked_height"], right["revoked_ms"] = height, time_ms

    def _register(self, body: bytes, signatures: list[Any], fields: list[Any]) -> None:
        kind, signing_key = fields[:2]
        account = self._account(signing_key)
        fresh = {(account, 1): Key(kind, signing_key)}
        signers = self._signers(body, signatures, "a registration", fresh)
        if account not in signers:
            raise Wrong("an account was registered that did not sign it")
        others = [key for each, key in signers.items() if each != account]
        if kind in (NODE, OPERATOR, INSTITUTION):
            admitted = sum(key.kind == OPERATOR for key in others) >= self.threshold
        else:
            admitted = any(key.kind == INSTITUTION for key in others)
        if not admitted:
            raise Wrong(f"a {KINDS.get(kind, 'party')} was registered that nobody admitted")
        self.keys.update(fresh)

    def _rotate(
        self, fields: list[Any], signers: dict[bytes, Key], height: int, time_ms: int
    ) -> None:
        """An account changed its keys: what it signs from here on needs the new one."""
        account, version, signing_key, _, _, _, proof, _ = fields
        old = self.keys.get((account, version - 1))
        if old is None or signers != {account: old}:
            raise Wrong("keys of an account were changed by somebody else")
        message = self.cluster + encode(fields[:6])
        if not signed_by(signing_key, b"rotate-signing-key", message, proof):
            raise Wrong("keys of an account were changed for keys that it does not hold")
        old.ended_height, old.ended_ms = height, time_ms
        self.keys[account, version] = Key(old.kind, signing_key)

    def _signers(
        self, body: bytes, signatures: list[Any], what: str, more: dict[Any, Key] | None = None
    ) -> dict[bytes, Key]:
        signers = {}
        for signer, version, signature in signatures:
            key = (more or {}).get((signer, version)) or self.keys.get((signer, version))
            if key is None:
                raise Wrong(f"{what}: signed by acc-{signer.hex()}, whose key is not shown")
            if key.ended_height:
                raise Wrong(f"{what}: signed by acc-{signer.hex()} with a key that has ended")
            if not signed_by(key.signing_key, b"transaction", self.cluster + body, signature):
                raise Wrong(f"{what}: a signature of acc-{signer.hex()} is false")
            signers[signer] = key
        return signers

    def _give(self, rest: list[Any], signers: dict[bytes, Key], height: int, ms: int) -> None:
        grant, _, blob, start, length, grantee, actions, purposes, begins, ends, parent = rest
        if self.owner not in signers and not parent:
            raise Wrong(f"grant grt-{grant.hex()} was given by somebody who may not")
        self.report.rights.append(
            {
                "grant": "grt-" + grant.hex(),
                "by": "acc-" + next(iter(signers)).hex(),
                "to": "acc-" + grantee.hex(),
                "actions": [name for bit, name in ACTIONS if actions & bit],
                "purposes": purposes,
                "blob": "blob-" + blob[0].hex() if blob else "",
                "range": [start, length],
                "from_ms": begins,
                "until_ms": ends,
                "given_height": height,
                "given_ms": ms,
            }
        )

    def _leaves(self) -> None:
        peaks: list[tuple[int, bytes]] = []
        for data in self.leaves:
            part(data, "leaf", 4)
            size, root = 1, leaf_hash(data)
            while peaks and peaks[-1][0] == size:
                root = node_hash(peaks.pop()[1], root)
                size *= 2
            peaks.append((size, root))
        roots = [root for _, root in peaks]
        stated: dict[bytes, int] = {}
        for data in self.statements:
            fields = part(data, "record-statement", 12)
            cluster, node, version, record, owner, _, count, found, height, _, _, sign = fields
            key = self.keys.get((node, version))
            message = encode(["record-statement", 1, *fields[:-1], b""])
            if key is None or key.kind != NODE:
                raise Wrong(f"a statement is by acc-{node.hex()}, which is not shown to be a node")
            if not key.signs_at(height):
                raise Wrong(f"node acc-{node.hex()} stated with a key that had ended")
            if not signed_by(key.signing_key, b"record-statement", message, sign):
                raise Wrong(f"node acc-{node.hex()} did not sign its statement")
            if (cluster, record, owner) != (self.cluster, self.record, self.owner):
                raise Wrong("a statement is about another record")
            if count != len(self.leaves) or found != roots:
                raise Wrong(
                    f"node acc-{node.hex()} states {count} entries at block {height} with other "
                    "digests: entries were removed, added, changed or reordered"
                )
            stated[node] = height
        if len(stated) < STATEMENTS_NEEDED:
            raise Wrong(
                f"{len(stated)} nodes state what the record holds, {STATEMENTS_NEEDED} must"
            )
        self.report.proved.append(
            f"all {len(self.leaves)} entries of the record, in their order: {len(stated)} nodes "
            f"state the same, at block {min(stated.values())} or later"
        )

    def _receipts(self) -> None:
        """Who touched the record: receipts, each in a batch that its node anchored."""
        batches = set()
        for data in self.receipts:
            encoded, batch, path = part(data, "receipt-proof", 3)
            node, first, last, _, _, root, since_ms, until_ms, _ = batch
            receipt = part(encoded, "receipt", 23)
            kind, by, sequence, _, time_ms, _, request, _, presenter, _, grant = receipt[:11]
            record, blobs, _, _, purpose, action, method, permitted, reason = receipt[12:21]
            if (anchored := self.anchored.get(encode(batch))) is None:
                raise Wrong("a receipt is of a batch that nobody anchored")
            if by != node or record != self.record or not first <= sequence <= last:
                raise Wrong("a receipt is of another node, record or batch")
            count = last - first + 1
            if root_of_path(count, sequence - first, leaf_hash(encoded), path) != root:
                raise Wrong(f"receipt {sequence} of acc-{node.hex()} is not in its batch")
            if not since_ms <= time_ms <= until_ms:
                raise Wrong(f"receipt {sequence} of acc-{node.hex()} is dated outside its batch")
            batches.add(encode(batch))
            if kind == ACCESS:
                self.report.accesses.append(
                    {
                        "request": "req-" + request.hex(),
                        "time_ms": time_ms,
                        "by": "acc-" + presenter.hex(),
                        "grant": "grt-" + grant.hex() if any(grant) else "",
                        "purpose": purpose,
                        "action": action,
                        "method": method,
                        "blobs": ["blob-" + blob.hex() for blob in blobs],
                        "permitted": bool(permitted),
                        "reason": reason,
                        "node": "acc-" + node.hex(),
                        "anchored_height": anchored[0],
                    }
                )
        self.report.accesses.sort(key=lambda access: (access["time_ms"], access["request"]))
        if self.receipts:
            self.report.proved.append(
                f"{len(self.receipts)} receipts of accesses, in {len(batches)} batches that their "
                "nodes signed and anchored on the ledger soon after"
            )

    def _entries(self, payloads: dict[str, zipfile.ZipInfo], archive: Any) -> None:
        known: set[int] = set()
        contents = 0
        for index, opening, core_bytes, metadata, dek in self.entries:
            if not 0 <= index < len(self.leaves):
                raise Wrong("an entry has no leaf")
            commitment, signer, _, time_ms = part(self.leaves[index], "leaf", 4)
            core = part(core_bytes, "core", 11)
            blob, record, _, length, _, _, writer = core[:7]
            if record != self.record or writer != signer:
                raise Wrong(f"entry {index}: the blob's writer is not who signed the entry")
            if _commitment(opening, blob, digest(core_bytes)) != commitment:
                raise Wrong(f"entry {index}: the blob is not the one that the ledger binds")
            known.add(index)
            name = "blob-" + blob.hex()
            content = self._content(core, metadata, index, time_ms)
            if dek and (len(dek) != 32 or expand(dek, b"hcefs/v1/dek-com") != core[5]):
                raise Wrong(f"{name}: the key is not the one that the core names")
            if (info := payloads.pop(name, None)) is not None:
                self._payload(core, dek, archive, info, content)
                contents += 1
            self.report.entries.append(
                {
                    "entry": index,
                    "blob": name,
                    "writer": "acc-" + writer.hex(),
                    "time_ms": time_ms,
                    "bytes": length,
                    "content_digest": content.hex(),
                    "appended_by_transaction": commitment in self.appended,
                    "payload": "equal" if info is not None else "not in the bundle",
                }
            )
        if payloads:
            raise Wrong(f"the bundle has a payload that no entry binds: {sorted(payloads)[0]}")
        missing = len(self.leaves) - len(known)
        self.report.proved.append(
            f"{len(self.entries)} blobs, each bound by its entry"
            + (f"; of {missing} entries the blob is not shown" if missing else "")
        )
        if contents:
            self.report.proved.append(
                f"{contents} payloads, byte for byte what was sealed and bound by the entry"
            )

    def _content(self, core: list[Any], metadata: bytes, index: int, time_ms: int) -> bytes:
        """The digest of the plaintext that the writer signed, or nothing."""
        if not metadata:
            return b""
        fields = part(metadata, "metadata", 5)
        content, signature = fields[3:]
        if not signature:
            raise Wrong(f"entry {index}: its metadata is signed by nobody")
        blob, record, writer = core[0], core[1], core[6]
        unsigned = encode(["metadata", 1, *fields[:4], b""])
        message = blob + record + digest(unsigned)
        # A key that was changed before the entry came vouches for nothing any more.
        keys = [
            key
            for (account, _), key in self.keys.items()
            if account == writer and (not key.ended_height or time_ms <= key.ended_ms)
        ]
        if not any(signed_by(key.signing_key, b"content", message, signature) for key in keys):
            raise Wrong(f"entry {index}: the writer did not sign this content")
        return bytes(content)

    def _payload(
        self, core: list[Any], dek: bytes, archive: Any, info: zipfile.ZipInfo, content: bytes
    ) -> None:
        """Seal the payload again and compare with the digests that the core binds."""
        blob, record, _, length, segment_size, _, _, _, k, digests, _ = core
        name = "blob-" + blob.hex()
        if info.file_size != length or segment_size != SEGMENT:
            raise Wrong(f"{name}: the payload has another length")
        if not dek:
            raise Wrong(f"{name}: there is a payload, and no key to compare it with")
        plain = blake3()
        pieces: list[list[bytes]] = [[] for _ in range(k)]
        aad = (1).to_bytes(2, "big") + blob + record + SEGMENT.to_bytes(4, "big")
        segments = max(1, -(-length // SEGMENT))
        with archive.open(info) as source:
            for index in range(segments):
                data = source.read(SEGMENT)
                plain.update(data)
                secret = expand(dek, b"hcefs/v1/seg" + index.to_bytes(8, "big"))
                nonce = bytes(11) + bytes([index == segments - 1])
                cipher = AESGCM(expand(secret, b"hcefs/v1/key"))
                sealed = expand(secret, b"hcefs/v1/com") + cipher.encrypt(nonce, data, aad)
                if blob[-2:] != b"\x00\x00":
                    if [digest(sealed)] != digests:
                        raise Wrong(f"{name}: the payload is another one")
                    continue
                size = (len(sealed) + k - 1) // k
                size = (size + 63) // 64 * 64
                sealed = sealed.ljust(size * k, b"\x00")
                for each in range(k):
                    pieces[each].append(leaf_hash(digest(sealed[each * size : (each + 1) * size])))
        if pieces[0] and [merkle_root(each) for each in pieces] != digests:
            raise Wrong(f"{name}: the payload is another one")
        if content and plain.digest() != content:
            raise Wrong(f"{name}: the payload is not what its writer signed")


def _commitment(opening: bytes, blob: bytes, core_digest: bytes) -> bytes:
    """What the ledger's leaf holds for a blob with that core, by its opening or pack proof."""
    value = decode(opening)
    if isinstance(value, list) and value[:2] == ["opening", 1] and len(value) == 7:
        salt, record, bound, found, previous = value[2:]
        if len(salt) != 32 or len(record) != 16 or (bound, found) != (blob, core_digest):
            raise Wrong("an opening is of another blob")
        tag = b"hcefs/v1/commitment\x00"
        return digest(tag + salt + record + bound + found + previous)
    salt, record, bound, found, position, count, path = part(opening, "pack-proof", 7)
    if len(salt) != 32 or len(record) != 16 or (bound, found) != (blob, core_digest):
        raise Wrong("a proof of a packed blob is of another blob")
    root = root_of_path(count, position, leaf_hash(blob[-2:] + core_digest), path)
    tag = b"hcefs/v1/pack-commitment\x00"
    return digest(tag + salt + record + blob[:16] + count.to_bytes(2, "big") + root)


# -- the command


LIMITS = (
    "that no entry was added after the block that the nodes state",
    "that every right and every end of one is shown, nor every access",
    "that the writer of the ledger keeps no second history (nodes watch for that)",
    "who a pseudonymous account is, which whoever admitted it knows",
)


def verify_file(path: str, cluster: str = "") -> Report:
    """Verify a bundle; the report's ``wrong`` is empty when everything holds.

    Raises:
        Wrong: this is no bundle.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise Wrong(f"{path} is no evidence bundle: {error}") from None
    with archive:
        names = {info.filename: info for info in archive.infolist()}
        if len(names) != len(archive.infolist()) or "evidence.cbor" not in names:
            raise Wrong(f"{path} is no evidence bundle: it needs one evidence.cbor")
        if any(info.file_size > PART_MAX for info in names.values() if "/" not in info.filename):
            raise Wrong("a part of the bundle is too large")
        payloads = {
            name.removeprefix("payloads/"): info
            for name, info in names.items()
            if name.startswith("payloads/")
        }
        try:
            data = archive.read("evidence.cbor")
            bundle = Bundle(data)
        except (zipfile.BadZipFile, OSError, ValueError, TypeError) as error:
            raise Wrong(f"{path} is damaged: {error}") from None
        try:
            bundle.verify(cluster, payloads, archive)
        except Wrong as error:
            bundle.report.wrong.append(str(error))
        except (zipfile.BadZipFile, OSError, ValueError, TypeError, AttributeError, IndexError):
            # Shapes that no maker of bundles makes; which one does not matter.
            bundle.report.wrong.append("a part of the bundle is malformed")
        return bundle.report


def moment(time_ms: int) -> str:
    """A time as people read it; a number that is no time stays one."""
    try:
        found = datetime.fromisoformat("1970-01-01T00:00:00") + timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} ms"
    return f"{found:%Y-%m-%d %H:%M:%S} UTC"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", help="the bundle, a zip file")
    parser.add_argument("--cluster", default="", help="the id of the cluster that you expect")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    given = parser.parse_args(arguments)
    try:
        report = verify_file(given.bundle, given.cluster)
    except Wrong as error:
        print(f"NO BUNDLE  {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(report.__dict__ | {"not_proved": LIMITS}, indent=2))
        return 1 if report.wrong else 0
    print(f"record {report.record}")
    for line in report.proved:
        print(f"  PROVED  {line}")
    for entry in report.entries:
        print(
            f"    entry {entry['entry']}: {entry['blob']}, {entry['bytes']} bytes by "
            f"{entry['writer']}, payload {entry['payload']}"
        )
    for right in report.rights:
        ended = f", revoked at block {right['revoked_height']}" if "revoked_height" in right else ""
        print(
            f"    right {right['grant']}: {'+'.join(right['actions'])} to {right['to']} for "
            f"{'+'.join(right['purposes'])}, from block {right['given_height']}{ended}"
        )
    for access in report.accesses:
        print(
            f"    access {access['request']} at {moment(access['time_ms'])}: {access['method']} by "
            f"{access['by']} for {access['purpose']}, {access['reason']}"
        )
    for line in report.wrong:
        print(f"  WRONG   {line}")
    for line in LIMITS:
        print(f"  (not proved: {line})")
    print("REJECTED" if report.wrong else "everything holds")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
