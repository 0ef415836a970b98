"""Many packed payloads in one get: asked for together, proved and opened here.

A node returns sealed payloads with their cores; this client proves each against the
ledger (by the pack's opening or a path of its tree), compares the ciphertext with the
digest in the core, and opens it.  So a node learns no key and cannot pass off
anything.  One question to the ledger serves all payloads of a record in a pack, and is
not repeated.

Invariants: what is returned is what the writer sealed; a payload that fails takes no
other with it.  Memory: the payloads of the call, and the answers of
``CALLS_AT_ONCE`` requests.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from hcefs.access.batch import BatchGroup
from hcefs.blobs.pack import check_sealed, open_pack_secret, open_packed
from hcefs.client.authorize import Right, Scope
from hcefs.client.channels import Recent
from hcefs.client.connection import Connection
from hcefs.client.direct import DirectClient
from hcefs.client.nodes import ATTEMPTS, seated_for
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import unwrap_key
from hcefs.errors import Corrupt, HcefsError, Invalid, NotFound, Unavailable
from hcefs.formats.manifest import Core
from hcefs.formats.pack import PAYLOADS_MAX, PackEnvelope, PackOpening, PackProof
from hcefs.ids import AccountId, BlobBase, BlobId, RecordId
from hcefs.integrity import blake3_digest
from hcefs.ledger.outcome import Leaf
from hcefs.placement.cluster_map import Node
from hcefs.runtime import Runtime
from hcefs.transport.dial import ServerDialer
from hcefs.transport.retry import retrying
from hcefs.transport.status import error_of
from hcefs.wire.v1 import pack_pb2

BLOBS_A_CALL = 1024
CALLS_AT_ONCE = 2
SECRETS_KNOWN_MAX = 4096
"""Wrapping secrets of (pack, record) that are kept after the first use."""


OPENINGS_KNOWN_MAX = 16
"""Openings of packs that are kept decoded: some 200 KB each."""


@dataclass(frozen=True)
class Wanted:
    """One packed blob and the right by which it is read."""

    record: RecordId
    blob: BlobId
    right: Right


@dataclass(frozen=True)
class Packed:
    """One packed payload, proved and opened."""

    core: Core
    plaintext: bytes = field(repr=False)
    dek: bytes = field(repr=False)


Answer = Packed | HcefsError


@dataclass(frozen=True)
class _Part:
    """Payloads of one record in one pack as a node gave them, decoded but not believed."""

    record: RecordId
    base: BlobBase
    envelope: PackEnvelope | None
    cores: Mapping[BlobId, tuple[Core, pack_pb2.PackedPayload]]
    commitments: Mapping[BlobId, bytes]
    failures: Mapping[BlobId, HcefsError]


@dataclass(frozen=True)
class _Opened:
    """A pack's opening, decoded: an answer repeats it in each of its messages."""

    data: bytes
    digests: Mapping[BlobId, bytes]
    commitment: bytes


def decode_opening(data: bytes, record: RecordId, base: BlobBase) -> _Opened:
    """Read a pack's opening.

    Raises:
        Corrupt: ``rows-disagree``: of another record or pack.
        Invalid: malformed.
    """
    opening = PackOpening.decode(data)
    opening.check()
    if (opening.record, opening.base) != (record, base):
        raise _rows_disagree()
    return _Opened(data, dict(opening.entries()), opening.commitment())


def decode_part(
    part: pack_pb2.PackedPart, wanted: Iterable[BlobId], opened: _Opened | None
) -> _Part:
    """Read one part of an answer; a payload that proves nothing becomes a failure.

    ``opened`` is the part's opening, where it has one.

    Raises:
        Corrupt, Invalid: the part itself is malformed.
    """
    record, base = RecordId(part.record_id), BlobBase(part.base)
    envelope = PackEnvelope.decode(part.envelope) if part.envelope else None
    if envelope is not None and (envelope.record, envelope.base) != (record, base):
        raise _rows_disagree()
    digests: Mapping[BlobId, bytes] = opened.digests if opened else {}
    commitment = opened.commitment if opened else b""
    known = wanted if isinstance(wanted, Mapping) else set(wanted)
    cores: dict[BlobId, tuple[Core, pack_pb2.PackedPayload]] = {}
    commitments: dict[BlobId, bytes] = {}
    failures: dict[BlobId, HcefsError] = {}
    for payload in part.payloads:
        if not 1 <= payload.slot <= PAYLOADS_MAX:
            raise _rows_disagree()
        blob = BlobId(base + payload.slot.to_bytes(2, "big"))
        if blob not in known:
            continue
        if payload.HasField("failure"):
            failure = payload.failure
            failures[blob] = error_of(failure.kind, failure.reason, failure.message)
            continue
        try:
            if payload.proof:
                proof = PackProof.decode(payload.proof)
                if (proof.record, proof.blob) != (record, blob):
                    raise _rows_disagree()
                digest, bound = proof.core_digest, proof.commitment()
            else:
                digest, bound = digests.get(blob, b""), commitment
            core = _checked_core(record, blob, payload.core, digest)
        except (Corrupt, Invalid) as error:
            failures[blob] = error
            continue
        cores[blob], commitments[blob] = (core, payload), bound
    return _Part(record, base, envelope, cores, commitments, failures)


def _checked_core(record: RecordId, blob: BlobId, data: bytes, digest: bytes) -> Core:
    if blake3_digest(data) != digest:
        raise _rows_disagree()
    core = Core.decode(data)
    core.check()
    if (core.record, core.blob) != (record, blob):
        raise _rows_disagree()
    return core


def open_part(
    part: _Part, leaves: Mapping[bytes, Leaf | None], deks: Mapping[BlobId, bytes] | bytes
) -> dict[BlobId, Answer]:
    """Check and open the payloads of a part; runs on a compute thread.

    ``deks`` are the blobs' own keys, or the secret that wraps those of the pack.  A key
    needs no comparison with the core's commitment: the segment commits to it, and the
    ledger to the segment.
    """
    opened: dict[BlobId, Answer] = dict(part.failures)
    for blob, (core, payload) in part.cores.items():
        try:
            check_leaf(core, part.commitments[blob], leaves.get(part.commitments[blob]))
            check_sealed(core, payload.sealed)
            if isinstance(deks, bytes):
                if not payload.wrapped_key:
                    raise _shredded()
                dek = unwrap_key(deks, payload.wrapped_key)
            else:
                dek = deks[blob]
            opened[blob] = Packed(core, open_packed(dek, core, payload.sealed), dek)
        except HcefsError as error:
            opened[blob] = error
    return opened


def check_leaf(core: Core, commitment: bytes, leaf: Leaf | None) -> None:
    """Check that the ledger binds a packed core, by its writer's signature.

    Raises:
        NotFound: ``not-committed``.
        Corrupt: ``wrong-signer``, ``wrong-leaf``.
    """
    if leaf is None:
        raise NotFound("the ledger has no entry for this blob", reason="not-committed")
    if leaf.signer != core.writer:
        raise Corrupt(
            "the blob's entry was signed by another account than its writer: do not trust it",
            reason="wrong-signer",
        )
    if leaf.commitment != commitment or leaf.generation != core.generation:
        raise Corrupt("the blob's entry is not that of its core", reason="wrong-leaf")


class PackGetClient(DirectClient):
    """The part of a client that gets packed payloads."""

    def __init__(
        self,
        connection: Connection,
        keys: AccountKeys,
        runtime: Runtime | None = None,
        dialer: ServerDialer | None = None,
    ) -> None:
        super().__init__(connection, keys, runtime, dialer)
        self._pack_secrets: Recent[tuple[BlobBase, RecordId], bytes] = Recent(
            self.runtime, SECRETS_KNOWN_MAX
        )
        self._pack_openings: Recent[tuple[RecordId, BlobBase], _Opened] = Recent(
            self.runtime, OPENINGS_KNOWN_MAX
        )

    async def _packed(
        self, wanted: Sequence[Wanted], purpose: str, node: str | None
    ) -> list[Answer]:
        """The payloads, each or why not, in order; all by rights for one purpose."""
        answers: dict[Wanted, Answer] = {}
        gate = asyncio.Semaphore(CALLS_AT_ONCE)

        async def one(call: Sequence[Wanted], first: Node | None) -> None:
            async with gate:
                answers.update(await self._packed_call(call, purpose, node, first))

        calls = []
        for first, own in await self._by_node(list(dict.fromkeys(wanted)), node):
            calls += [
                one(own[start : start + BLOBS_A_CALL], first)
                for start in range(0, len(own), BLOBS_A_CALL)
            ]
        await asyncio.gather(*calls)
        return [answers[each] for each in wanted]

    async def _by_node(
        self, wanted: Sequence[Wanted], node: str | None
    ) -> list[tuple[Node | None, list[Wanted]]]:
        """What to ask of which node: few nodes, each a holder of what it is asked for."""
        bases: dict[BlobBase, list[Wanted]] = {}
        for each in wanted:
            bases.setdefault(each.blob.base, []).append(each)
        if node is not None or len(bases) < 2:
            return [(None, list(wanted))]
        cluster_map = await self.cluster_map()
        chosen: list[tuple[Node | None, list[Wanted]]] = []
        while bases:
            seated: Counter[AccountId] = Counter()
            for base in bases:
                seated.update(seated_for(cluster_map, base, True))
            candidates = await self._candidates(None, Scope(wanted[0].record))
            best = max(candidates, key=lambda each: self._worth(each, seated))
            own = [base for base in bases if best.account in seated_for(cluster_map, base, True)]
            if not own or self._failed.get(best.account):
                own = list(bases)
            chosen.append((best, [each for base in own for each in bases.pop(base)]))
        return chosen

    def _worth(self, node: Node, seated: Mapping[AccountId, int]) -> tuple[bool, int]:
        return self._failed.get(node.account) is None, seated.get(node.account, 0)

    async def _packed_call(
        self, wanted: Sequence[Wanted], purpose: str, node: str | None, first: Node | None
    ) -> dict[Wanted, Answer]:
        """As :meth:`_packed`; what fails in a way that a retry can mend is asked elsewhere."""
        answers: dict[Wanted, Answer] = {}
        tried: set[AccountId] = set()

        async def once() -> None:
            left = [each for each in wanted if each not in answers or _again(answers[each])]
            target = first
            if target is None or tried:
                target = await self._target(node, Scope(left[0].record, left[0].blob), tried)
            tried.add(target.account)
            try:
                answers.update(await self._ask_packed(left, purpose, target))
            except HcefsError as error:
                raise self._note(target, error) from None
            for each in left:
                answer = answers[each]
                if _again(answer) and isinstance(answer, HcefsError):
                    raise Unavailable(answer.message, reason=answer.reason)

        try:
            await retrying(self.runtime, ATTEMPTS, once)
        except HcefsError as error:
            for each in wanted:
                answers.setdefault(each, error)
        return answers

    async def _ask_packed(
        self, wanted: Sequence[Wanted], purpose: str, target: Node
    ) -> dict[Wanted, Answer]:
        """One request to one node."""
        tokens: dict[bytes, int] = {}
        blobs: dict[tuple[int, RecordId], list[Wanted]] = {}
        for each in wanted:
            number = tokens.setdefault(self._authorizer.token_of(each.right), len(tokens))
            blobs.setdefault((number, each.record), []).append(each)
        groups = [
            BatchGroup(number, record, b"".join(bytes(each.blob) for each in own))
            for (number, record), own in blobs.items()
        ]
        request = pack_pb2.GetManyRequest(
            authorization=self._authorizer.authorize_batch(
                "get-many", list(tokens), groups, purpose, target.account
            ),
            groups=[
                pack_pb2.BatchGroup(
                    token=group.token, record_id=bytes(group.record), blob_ids=group.blobs
                )
                for group in groups
            ],
            min_height=self.height,
            request_id=self._request_id(),
        )
        of_record: dict[RecordId, dict[BlobId, Wanted]] = {}
        for each in wanted:
            of_record.setdefault(each.record, {})[each.blob] = each
        answers: dict[Wanted, Answer] = {}
        stream = self._channels.answers(
            target.address, "/hcefs.v1.Blobs/GetMany", request.SerializeToString()
        )
        async with aclosing(stream):
            async for data in stream:
                for part in _parts(data):
                    asked = of_record.get(RecordId(part.record_id), {})
                    answers.update(await self._take_part(part, asked))
        for each in wanted:
            answers.setdefault(
                each, Unavailable("the node's answer lacks a payload: retry", reason="truncated")
            )
        return answers

    async def _take_part(
        self, data: pack_pb2.PackedPart, asked: Mapping[BlobId, Wanted]
    ) -> dict[Wanted, Answer]:
        part = await self.runtime.compute(decode_part, data, asked, await self._opened(data))
        if not part.cores:
            return {asked[blob]: error for blob, error in part.failures.items()}
        leaves: dict[bytes, Leaf | None] = {}
        for blob, (core, _) in part.cores.items():
            commitment = part.commitments[blob]
            if commitment not in leaves:
                leaves[commitment] = await self._known_leaf(part.record, commitment, core.writer)
        found: dict[Wanted, Answer] = {}
        by_right: dict[Right, list[BlobId]] = {}
        for blob in part.cores:
            by_right.setdefault(asked[blob].right, []).append(blob)
        for right, blobs in by_right.items():
            own = _Part(
                part.record,
                part.base,
                part.envelope,
                {blob: part.cores[blob] for blob in blobs},
                part.commitments,
                {},
            )
            try:
                deks = await self._keys_of_part(own, right)
            except HcefsError as error:
                found.update((asked[blob], error) for blob in blobs)
                continue
            opened = await self.runtime.compute(open_part, own, leaves, deks)
            found.update((asked[blob], answer) for blob, answer in opened.items())
        found.update((asked[blob], error) for blob, error in part.failures.items())
        return found

    async def _opened(self, part: pack_pb2.PackedPart) -> _Opened | None:
        """A part's opening, decoded unless the same one was just before."""
        if not part.opening:
            return None
        record, base = RecordId(part.record_id), BlobBase(part.base)
        known = self._pack_openings.get((record, base))
        if known is not None and known.data == part.opening:
            return known
        opened = await self.runtime.compute(decode_opening, part.opening, record, base)
        return self._pack_openings.put((record, base), opened)

    async def _keys_of_part(self, part: _Part, right: Right) -> Mapping[BlobId, bytes] | bytes:
        """The secret that wraps the keys of a part, or the one key that was granted.

        Raises:
            NotFound: ``shredded``, ``no-key-box``, ``no-key-link``.
            Corrupt: the envelope does not open.
        """
        grant = None if right.owner else await self._known_grant(right.grant)
        if grant is not None and grant.blob is not None:
            core, _ = part.cores[grant.blob]
            key = await self._granted_blob_key(grant, core, right)
            return {grant.blob: key.dek}
        known = self._pack_secrets.get((part.base, part.record))
        if known is not None:
            return known
        if part.envelope is None:
            raise _shredded()
        key_pair = await self._record_key(part.record, part.envelope.generation, grant, right)
        secret = await self.runtime.compute(
            open_pack_secret, self.connection.cluster, key_pair, part.envelope
        )
        return self._pack_secrets.put((part.base, part.record), secret)


def _again(answer: Answer) -> bool:
    # A node may have lied, or have a damaged row that another one has whole.
    return isinstance(answer, HcefsError) and (answer.retryable or isinstance(answer, Corrupt))


def _parts(data: bytes) -> Sequence[pack_pb2.PackedPart]:
    try:
        return pack_pb2.GetManyResponse.FromString(data).parts
    except DecodeError:
        raise Corrupt("the node's answer is malformed", reason="bad-message") from None


def _rows_disagree() -> Corrupt:
    return Corrupt(
        "the rows of a packed payload do not fit together: ask another node",
        reason="rows-disagree",
    )


def _shredded() -> NotFound:
    return NotFound(
        "the key of this blob was deleted: nobody can open it any more", reason="shredded"
    )
