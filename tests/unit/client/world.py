"""Parties, a record with two generations and a put blob, for the tests of the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeVar, TypeVarTuple

from hcefs.access.facts import Account, AccountKind, Action, Generation, Grant
from hcefs.client.authorize import Right, Scope
from hcefs.client.keys import BlobKey, Receiver, Sealer, dek_context
from hcefs.client.streams import ReadPlan
from hcefs.crypto.accounts import AccountKeys
from hcefs.crypto.keys import dek_commitment, seal_envelope, seal_metadata
from hcefs.crypto.signing import SigningKey
from hcefs.crypto.stream import SEGMENT_SIZE, seal_segment, segment_secret
from hcefs.erasure.scheme import PROFILES, Geometry
from hcefs.formats.manifest import CONTENT_TAG, Core, KeyRow, Layout, Metadata, Opening
from hcefs.ids import AccountId, BlobId, ClusterId, GrantId, RecordId
from hcefs.integrity import blake3_digest

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CLUSTER = ClusterId(b"c" * 16)
RECORD = RecordId(b"r" * 16)
BLOB = BlobId.of(b"b" * 16)
GRANT = GrantId(b"g" * 16)
NODE = AccountId(b"node------------")
EC = PROFILES["ec-4-2"]


class FakeRuntime:
    """A clock that moves only by sleeping; randomness that never repeats."""

    def __init__(self) -> None:
        self.clock_ms = NOW_MS
        self.pauses: list[float] = []
        self._drawn = 0

    def now_ms(self) -> int:
        return self.clock_ms

    def monotonic(self) -> float:
        return self.clock_ms / 1000

    def random(self, size: int) -> bytes:
        self._drawn += 1
        return (blake3_digest(b"draw %d" % self._drawn) * (size // 32 + 1))[:size]

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock_ms += round(seconds * 1000)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        @contextlib.asynccontextmanager
        async def never() -> AsyncIterator[None]:
            yield

        return never()

    async def compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return function(*args)

    async def disk(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return function(*args)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        return asyncio.get_running_loop().create_task(coroutine, name=name)


def keys_of(name: str) -> AccountKeys:
    seeds = b"".join(blake3_digest(f"{name} {part}".encode()) for part in range(4))
    return AccountKeys.generate(CLUSTER, seeds)


OWNER = keys_of("owner")
DOCTOR = keys_of("doctor")
STRANGER = keys_of("stranger")


def account_of(keys: AccountKeys, kind: AccountKind = AccountKind.PRACTITIONER) -> Account:
    return Account(
        account=keys.account,
        kind=kind,
        key_version=keys.key_version,
        signing_key=keys.signing_key.public_key,
        token_key=keys.token_key.public_key,
        receiving_key=keys.receiving_key.public_key,
        spki=b"",
        admitted_by=AccountId.zero(),
        active=True,
        height=1,
    )


def generation(number: int, keys: AccountKeys = OWNER, made_as: int | None = None) -> Generation:
    key = keys.record_key(RECORD, number if made_as is None else made_as)
    return Generation(RECORD, number, key.public_key, number + 1, NOW_MS)


def grant(**changes: Any) -> Grant:
    fields: dict[str, Any] = {
        "grant": GRANT,
        "record": RECORD,
        "blob": None,
        "range_start": 0,
        "range_length": 0,
        "granter": OWNER.account,
        "grantee": DOCTOR.account,
        "actions": Action.READ | Action.SHARE,
        "purposes": ("TREAT",),
        "not_before_ms": NOW_MS,
        "not_after_ms": NOW_MS + HOUR_MS,
        "parent": None,
        "height": 5,
        "revoked_height": 0,
    }
    return Grant(**(fields | changes))


def sealer(keys: AccountKeys = OWNER) -> Sealer:
    return Sealer(CLUSTER, keys.account, keys.key_version, keys.signing_key)


def receiver(keys: AccountKeys = DOCTOR) -> Receiver:
    return Receiver(CLUSTER, keys.account, keys.key_version, keys.receiving_key)


class PutBlob:
    """A blob as a put leaves it: its rows, its sealed segments and what opens it."""

    def __init__(self, plaintext: bytes, *, blob: BlobId = BLOB, writer: AccountKeys = OWNER):
        self.plaintext = plaintext
        self.dek = blake3_digest(b"dek" + blob)
        digest = blake3_digest(plaintext)
        unsigned = Metadata("text/plain", "note", ("x",), digest, b"")
        signature = writer.signing_key.sign(CONTENT_TAG, unsigned.message(blob, RECORD))
        self.metadata = replace(unsigned, content_signature=signature)
        self.core = Core(
            blob=blob,
            record=RECORD,
            generation=0,
            plaintext_length=len(plaintext),
            segment_size=SEGMENT_SIZE,
            dek_commitment=dek_commitment(self.dek),
            writer=writer.account,
            commit_by_ms=NOW_MS + HOUR_MS,
            k=EC.k,
            data_digests=tuple(bytes([index]) * 32 for index in range(EC.k)),
            sealed_metadata=seal_metadata(self.dek, blob, RECORD, self.metadata.encode()),
        )
        digests = tuple(bytes([index]) * 32 for index in range(EC.n))
        self.layout = Layout(
            blob.base, RECORD, EC.name, digests, 0, 0, 1, NODE, 1, NOW_MS, b""
        ).signed(SigningKey.from_seed(bytes(32)))
        context = dek_context(CLUSTER, RECORD, 0, blob)
        public = OWNER.record_key(RECORD, 0).public_key
        self.key_row = KeyRow(blob, RECORD, 0, seal_envelope(public, self.dek, context))
        self.opening = Opening(b"s" * 32, RECORD, blob, self.core.digest(), b"")
        self.geometry = Geometry(len(plaintext), EC)
        self.sealed = [
            seal_segment(
                segment_secret(self.dek, index),
                blob,
                RECORD,
                index == self.geometry.segments - 1,
                plaintext[index * SEGMENT_SIZE : (index + 1) * SEGMENT_SIZE],
            )
            for index in range(self.geometry.segments)
        ]

    def plan(
        self,
        start: int = 0,
        length: int | None = None,
        *,
        client_opens: bool = False,
        key: BlobKey | None = None,
    ) -> ReadPlan:
        length = len(self.plaintext) - start if length is None else length
        return ReadPlan(
            scope=Scope(RECORD, self.core.blob, start, length),
            right=Right(GrantId.zero(), "TREAT"),
            core=self.core,
            geometry=self.geometry,
            key=key or BlobKey(dek=self.dek),
            client_opens=client_opens,
            node=None,
        )
