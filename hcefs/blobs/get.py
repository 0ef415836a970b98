"""Get: shards in, plaintext or sealed segments out, checked before a byte leaves.

With keys, each segment's commitment and AEAD tag come first, and digests are
computed only after a failure, to find and drop the damaged shard.  Without keys
(a sealed get) every piece is compared with its digest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from hcefs.crypto.keys import dek_commitment
from hcefs.crypto.stream import open_segment_pieces_into, segment_secret
from hcefs.erasure.scheme import Geometry, profile_named
from hcefs.errors import Corrupt, Denied
from hcefs.metrics import Metrics
from hcefs.placement.cluster_map import Node
from hcefs.placement.ring import Seat
from hcefs.runtime import Runtime
from hcefs.stripes.fanout import Manifest
from hcefs.stripes.hedge import HedgeTimer
from hcefs.stripes.read import Stripe, StripeReader
from hcefs.stripes.stripe import join_sealed_into
from hcefs.stripes.suspects import Suspect, nobody
from hcefs.transport.framing import Frame
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
    """One get: a checked manifest, a range, and what opens it (None: sealed).

    ``standing_in`` are nodes that may have what seats lack.
    """

    call: Call
    manifest: Manifest
    seats: tuple[Seat, ...]
    range_start: int
    range_length: int
    secrets: Secrets | None
    standing_in: tuple[Node, ...] = ()

    @property
    def geometry(self) -> Geometry:
        core, layout = self.manifest.core, self.manifest.layout
        return Geometry(core.plaintext_length, profile_named(layout.profile), core.segment_size)


@dataclass
class Opened:
    """What a worker thread made of some stripes: messages, up to the first that did not open."""

    messages: list[bytes] = field(default_factory=list)
    stripes: int = 0
    message_bytes: int = 0
    decode_seconds: float = 0.0
    open_seconds: float = 0.0
    failure: Corrupt | None = None


def _open_stripes(
    clock: Callable[[], float], plan: GetPlan, stripes: Sequence[Stripe], framed: bool
) -> Opened:
    """Some stripes in a worker thread: rebuild, open into the messages to the caller."""
    done, geometry = Opened(), plan.geometry
    for stripe in stripes:
        try:
            if plan.secrets is None:
                stripe.check()
            started = clock()
            data = stripe.data(geometry.profile)
            rebuilt = clock()
            frame = _open_stripe(plan, stripe, data, framed)
        except Corrupt as error:
            done.failure = error
            return done
        done.stripes += 1
        if len(frame.data):
            done.messages.append(frame.message)
            done.message_bytes += len(frame.data)
        if any(index not in stripe.pieces for index in range(geometry.profile.k)):
            done.decode_seconds += rebuilt - started
        done.open_seconds += clock() - rebuilt
    return done


def _open_stripe(plan: GetPlan, stripe: Stripe, data: list[memoryview], framed: bool) -> Frame:
    geometry, core = plan.geometry, plan.manifest.core
    if plan.secrets is None:
        frame = Frame(stripe.sealed_length, bare=not framed)
        join_sealed_into(data, frame.room)
        frame.close()
        return frame
    length = geometry.plaintext_of(stripe.segment)
    start = stripe.segment * geometry.segment_size
    low = min(max(plan.range_start - start, 0), length)
    high = max(min(plan.range_start + plan.range_length - start, length), low)
    frame = Frame(high - low, bare=not framed)
    whole = high - low == length
    room = frame.room if whole else memoryview(bytearray(length))
    open_segment_pieces_into(
        plan.secrets.of(stripe.segment),
        core.blob,
        core.record,
        stripe.segment == geometry.segments - 1,
        data,
        stripe.sealed_length,
        room,
    )
    if not whole:
        frame.room[:] = room[low:high]
    frame.close()
    return frame


class BlobReader:
    """Serves one get."""

    def __init__(
        self,
        runtime: Runtime,
        peers: Peers,
        metrics: Metrics,
        hedge: HedgeTimer,
        plan: GetPlan,
        *,
        framed: bool = False,
        suspect: Suspect = nobody,
    ) -> None:
        """``framed`` makes data messages of the protocol, otherwise they are plain bytes."""
        self._framed = framed
        self._runtime = runtime
        self._metrics = metrics
        self._plan = plan
        self._reader = StripeReader(
            runtime,
            peers,
            plan.seats,
            plan.call,
            plan.manifest.layout,
            plan.geometry,
            metrics,
            hedge,
            suspect,
            plan.standing_in,
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

    async def messages(self, permitted: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """The plaintext of the range, or its sealed segments, in order.

        ``permitted`` is called before each message and raises when the right
        has ended meanwhile.

        Raises:
            Corrupt, Unavailable: as :class:`StripeReader`.
        """
        plan = self._plan
        covering = plan.geometry.covering(plan.range_start, plan.range_length)
        batches = self._reader.stripes(covering.start, len(covering))
        try:
            async for stripes in batches:
                opened = await self._opened(stripes)
                for message in opened.messages:
                    permitted()
                    yield message
                if opened.failure is None:
                    continue
                if opened.failure.reason == "bad-padding":
                    raise opened.failure  # as it was written
                mended = await self._reader.recheck(stripes[opened.stripes])
                for stripe in (mended, *stripes[opened.stripes + 1 :]):
                    for message in await self._reopened(stripe):
                        permitted()
                        yield message
        finally:
            await self._reader.close()

    async def _reopened(self, stripe: Stripe) -> list[bytes]:
        """One stripe, after some of those that arrived with it proved damaged."""
        stripe = await self._reader.renewed(stripe)
        opened = await self._opened([stripe])
        if opened.failure is not None and opened.failure.reason != "bad-padding":
            # Damage or a wrong key: the digests tell which, and which shard.
            opened = await self._opened([await self._reader.recheck(stripe)])
        if opened.failure is not None:
            raise opened.failure
        return opened.messages

    async def _opened(self, stripes: Sequence[Stripe]) -> Opened:
        opened = await self._runtime.compute(
            _open_stripes, self._runtime.monotonic, self._plan, stripes, self._framed
        )
        self._metrics.count("get_bytes_total", opened.message_bytes)
        self._metrics.count("open_seconds_total", opened.open_seconds)
        if opened.decode_seconds:
            self._metrics.count("decode_seconds_total", opened.decode_seconds)
        return opened
