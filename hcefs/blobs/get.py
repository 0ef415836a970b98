"""Get: shards in, plaintext or sealed segments out, checked before a byte leaves.

With keys, each segment's commitment and AEAD tag come first, and digests are
computed only after a failure, to find and drop the damaged shard.  Without keys
(a sealed get) every piece is compared with its digest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from hcefs.crypto.keys import dek_commitment
from hcefs.crypto.stream import open_segment_pieces_into, segment_secret
from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Corrupt, Denied
from hcefs.ids import BlobId, RecordId
from hcefs.metrics import Metrics
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.fanout import Manifest
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.read import Stripe, StripeReader
from hcefs.stripes.stripe import join_sealed
from hcefs.transport.peers import Call, Peers

SECRET_SIZE = 32


@dataclass(frozen=True)
class Secrets:
    """What opens the segments of one get; lives inside the request."""

    dek: bytes = b""
    first: int = 0
    joined: bytes = b""

    def of(self, segment: int) -> bytes:
        """The secret of one segment.

        Raises:
            Denied: it was not handed over.
        """
        if self.dek:
            return segment_secret(self.dek, segment)
        offset = (segment - self.first) * SECRET_SIZE
        secret = self.joined[offset : offset + SECRET_SIZE] if offset >= 0 else b""
        if len(secret) != SECRET_SIZE:
            raise Denied(
                f"segment {segment} is in the range, but its secret was not sent",
                reason="missing-secret",
            )
        return secret

    def __repr__(self) -> str:
        return "Secrets(...)"


@dataclass(frozen=True)
class GetPlan:
    """One get: a checked manifest, a range, and what opens it (None: sealed)."""

    call: Call
    manifest: Manifest
    seats: tuple[Seat, ...]
    range_start: int
    range_length: int
    secrets: Secrets | None

    @property
    def geometry(self) -> Geometry:
        core, layout = self.manifest.core, self.manifest.layout
        return Geometry(core.plaintext_length, profile_named(layout.profile), core.segment_size)


class BlobReader:
    """Serves one get."""

    def __init__(
        self, runtime: Runtime, peers: Peers, metrics: Metrics, hedge: HedgeTimer, plan: GetPlan
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._plan = plan
        self._buffer = bytearray(plan.geometry.segment_size)
        self._reader = StripeReader(
            runtime,
            peers,
            plan.seats,
            plan.call,
            plan.manifest.layout,
            plan.geometry,
            metrics,
            hedge,
            verify=plan.secrets is None,
        )
        if (
            plan.secrets is not None
            and plan.secrets.dek
            and dek_commitment(plan.secrets.dek) != plan.manifest.core.dek_commitment
        ):
            raise Denied("this key does not belong to this blob", reason="wrong-key")

    @property
    def degraded(self) -> bool:
        """True once a shard was missing or damaged."""
        return self._reader.degraded

    async def messages(
        self, permitted: Callable[[], None]
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """The plaintext of the range, or its sealed segments, in order.

        A message is a view that is valid until the next one is asked for.

        ``permitted`` is called before each message and raises when the right
        has ended meanwhile.

        Raises:
            Corrupt, Unavailable: as :class:`StripeReader`.
        """
        plan, geometry = self._plan, self._plan.geometry
        covering = geometry.covering(plan.range_start, plan.range_length)
        end = plan.range_start + plan.range_length
        stripes = self._reader.stripes(covering.start, len(covering))
        try:
            async for stripe in stripes:
                out: bytes | memoryview
                if plan.secrets is None:
                    out = await self._runtime.compute(
                        join_sealed, stripe.data, stripe.sealed_length
                    )
                else:
                    out = await self._open(stripe, plan.secrets)
                    start = stripe.segment * geometry.segment_size
                    low = max(plan.range_start - start, 0)
                    high = min(end - start, len(out))
                    if low or high < len(out):
                        out = out[low:high]
                permitted()
                if out:
                    self._metrics.count("get_bytes_total", len(out))
                    yield out
        finally:
            await self._reader.close()

    async def _open(self, stripe: Stripe, secrets: Secrets) -> memoryview:
        secret = secrets.of(stripe.segment)
        core = self._plan.manifest.core
        last = stripe.segment == self._plan.geometry.segments - 1
        started = self._runtime.monotonic()
        try:
            return await self._opened(secret, core.blob, core.record, last, stripe)
        except Corrupt:
            # Damage or a wrong key: the digests tell which, and which shard.
            mended = await self._reader.recheck(stripe)
            return await self._opened(secret, core.blob, core.record, last, mended)
        finally:
            self._metrics.count("open_seconds_total", self._runtime.monotonic() - started)

    async def _opened(
        self, secret: bytes, blob: BlobId, record: RecordId, last: bool, stripe: Stripe
    ) -> memoryview:
        """The plaintext, in the get's one buffer: valid until the next segment."""
        length = await self._runtime.compute(
            open_segment_pieces_into,
            secret,
            blob,
            record,
            last,
            stripe.data,
            stripe.sealed_length,
            memoryview(self._buffer),
        )
        return memoryview(self._buffer)[:length]
