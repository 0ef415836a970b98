"""Get streams: what is asked for, what is accepted, and how they go on after a failure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest

from hcefs.access.facts import Account
from hcefs.client.keys import RANGE_SEGMENTS_MAX, BlobKey
from hcefs.client.streams import (
    FAILURES_MAX,
    RESUMES_MAX,
    BlobStream,
    ContentCheck,
    ReadPlan,
    check_header,
    plaintext,
    read_header,
    resumed,
)
from hcefs.crypto.stream import SEGMENT_SIZE, segment_secret
from hcefs.errors import Corrupt, Denied, HcefsError, Unavailable
from hcefs.transport.framing import frame_data
from hcefs.wire.v1 import blob_pb2
from tests.unit.client.world import DOCTOR, OWNER, FakeRuntime, PutBlob, account_of

TEXT = bytes(range(256)) * (4 * SEGMENT_SIZE // 256) + b"tail"
PUT = PutBlob(TEXT)
EMPTY = PutBlob(b"")


async def stream(items: Sequence[bytes | HcefsError]) -> AsyncGenerator[bytes, None]:
    for item in items:
        if isinstance(item, HcefsError):
            raise item
        yield item


async def collect(pieces: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([piece async for piece in pieces])


# -- requests


def test_a_whole_get_sends_the_dek() -> None:
    request = PUT.plan().request(0, len(TEXT))
    assert request.dek == PUT.dek
    assert (request.range_start, request.range_length) == (0, 0)


def test_a_range_sends_only_its_segments_secrets() -> None:
    plan = PUT.plan(SEGMENT_SIZE + 5, SEGMENT_SIZE)
    request = plan.request(plan.scope.range_start, plan.end)
    assert request.WhichOneof("opening") == "secrets"
    assert (request.range_start, request.range_length) == (SEGMENT_SIZE + 5, SEGMENT_SIZE)
    assert request.secrets.first == 1
    assert request.secrets.secrets == b"".join(segment_secret(PUT.dek, n) for n in (1, 2))


def test_what_is_left_of_a_whole_get_sends_secrets() -> None:
    request = PUT.plan().request(3 * SEGMENT_SIZE, len(TEXT))
    assert request.WhichOneof("opening") == "secrets"
    assert request.secrets.first == 3
    assert len(request.secrets.secrets) == 2 * 32


def test_a_sealed_get_sends_no_key() -> None:
    request = PUT.plan(client_opens=True).request(0, len(TEXT))
    assert request.sealed
    assert not request.dek
    assert not request.secrets.secrets


def test_a_range_beyond_the_given_secrets_is_refused_here() -> None:
    key = BlobKey(ranged=BlobKey(dek=PUT.dek).secrets_of(range(1, 2)))
    plan = PUT.plan(SEGMENT_SIZE, SEGMENT_SIZE + 1, key=key)
    with pytest.raises(Denied):
        plan.request(SEGMENT_SIZE, plan.end)


def test_long_ranges_are_asked_for_in_parts() -> None:
    whole = PUT.plan()
    assert whole.stop(0) == len(TEXT)
    assert PUT.plan(client_opens=True).stop(7) == len(TEXT)
    assert PUT.plan(1, 10).stop(1) == 11
    huge = PUT.plan(5, RANGE_SEGMENTS_MAX * SEGMENT_SIZE)
    assert huge.stop(5) == RANGE_SEGMENTS_MAX * SEGMENT_SIZE
    assert huge.stop(huge.stop(5)) == huge.end


# -- answers


def header(plan: ReadPlan, **changes: int) -> blob_pb2.GetHeader:
    first = plan.geometry.covering(plan.scope.range_start, plan.scope.range_length).start
    fields = {
        "plaintext_length": plan.core.plaintext_length,
        "range_start": plan.scope.range_start,
        "range_length": plan.scope.range_length,
        "first_segment": first,
        "segment_size": SEGMENT_SIZE,
    }
    return blob_pb2.GetHeader(**(fields | changes))


def test_a_header_must_agree_with_the_manifest() -> None:
    plan = PUT.plan(SEGMENT_SIZE, 10, client_opens=True)
    check_header(plan, SEGMENT_SIZE, plan.end, header(plan))
    for name in ("plaintext_length", "range_start", "range_length", "first_segment"):
        with pytest.raises(Corrupt):
            check_header(plan, SEGMENT_SIZE, plan.end, header(plan, **{name: 2}))


@pytest.mark.parametrize("messages", [[], [frame_data(b"data")], [b"\xff\xff"]])
async def test_an_answer_begins_with_its_header(messages: list[bytes]) -> None:
    with pytest.raises(Corrupt):
        await read_header(stream(messages))


async def test_the_header_is_read() -> None:
    first = blob_pb2.GetResponse(header=blob_pb2.GetHeader(plaintext_length=7))
    assert (await read_header(stream([first.SerializeToString()]))).plaintext_length == 7


def opened(plan: ReadPlan, messages: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
    framed = [frame_data(message) for message in messages]
    return plaintext(FakeRuntime(), plan, plan.scope.range_start, plan.end, stream(framed))


async def test_plaintext_is_passed_on() -> None:
    plan = PUT.plan(3, 6)
    assert await collect(opened(plan, [TEXT[3:5], TEXT[5:9]])) == TEXT[3:9]


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, len(TEXT)),
        (0, 1),
        (SEGMENT_SIZE - 1, 2),
        (SEGMENT_SIZE, SEGMENT_SIZE),
        (2 * SEGMENT_SIZE + 5, len(TEXT) - 2 * SEGMENT_SIZE - 5),
        (len(TEXT) - 1, 1),
        (len(TEXT), 0),
    ],
)
async def test_sealed_segments_are_opened_and_cut(start: int, length: int) -> None:
    plan = PUT.plan(start, length, client_opens=True)
    sealed = [PUT.sealed[n] for n in plan.geometry.covering(start, length)]
    assert await collect(opened(plan, sealed)) == TEXT[start : start + length]


async def test_an_empty_blob_is_one_empty_segment() -> None:
    plan = EMPTY.plan(client_opens=True)
    assert await collect(opened(plan, EMPTY.sealed)) == b""
    with pytest.raises(Unavailable):
        await collect(opened(plan, []))


async def test_too_little_is_retried_elsewhere_and_too_much_is_refused() -> None:
    with pytest.raises(Unavailable):
        await collect(opened(PUT.plan(3, 6), [TEXT[3:5]]))
    with pytest.raises(Corrupt):
        await collect(opened(PUT.plan(3, 6), [TEXT[3:10]]))
    plan = PUT.plan(client_opens=True)
    with pytest.raises(Unavailable):
        await collect(opened(plan, PUT.sealed[:-1]))
    with pytest.raises(Corrupt):
        await collect(opened(plan, [*PUT.sealed, PUT.sealed[-1]]))


@pytest.mark.parametrize(
    "sealed",
    [
        [PUT.sealed[1], PUT.sealed[0], *PUT.sealed[2:]],
        [PUT.sealed[0][:-1] + b"\x00", *PUT.sealed[1:]],
        [PutBlob(TEXT, blob=EMPTY.core.blob.of(b"o" * 16)).sealed[0], *PUT.sealed[1:]],
    ],
    ids=["reordered", "damaged", "of another blob"],
)
async def test_sealed_segments_that_do_not_open(sealed: list[bytes]) -> None:
    with pytest.raises(Corrupt):
        await collect(opened(PUT.plan(client_opens=True), sealed))


async def test_a_second_header_is_refused() -> None:
    second = blob_pb2.GetResponse(header=blob_pb2.GetHeader()).SerializeToString()
    with pytest.raises(Corrupt):
        await collect(plaintext(FakeRuntime(), PUT.plan(0, 1), 0, 1, stream([second])))


# -- going on after a failure


class Parts:
    """Streams that give so many bytes and then fail, one after the other."""

    def __init__(self, text: bytes, scripts: Sequence[tuple[int, HcefsError | None]]) -> None:
        self.text = text
        self.scripts = list(scripts)
        self.opened: list[tuple[int, int]] = []

    def __call__(self, offset: int, stop: int) -> AsyncGenerator[bytes, None]:
        self.opened.append((offset, stop))
        count, error = self.scripts.pop(0)
        data = [self.text[n : n + 1] for n in range(offset, min(offset + count, stop))]
        return stream([*data, *([error] if error else [])])


DOWN = Unavailable("down")


def small(text: bytes = b"0123456789", *, client_opens: bool = False) -> ReadPlan:
    return PutBlob(text).plan(client_opens=client_opens)


async def test_a_stream_goes_on_from_the_byte_reached() -> None:
    runtime, parts = (
        FakeRuntime(),
        Parts(b"0123456789", [(3, DOWN), (0, DOWN), (4, DOWN), (9, None)]),
    )
    assert await collect(resumed(runtime, small(), parts)) == b"0123456789"
    assert [offset for offset, _ in parts.opened] == [0, 3, 3, 7]
    assert len(runtime.pauses) == 3


async def test_failures_in_a_row_are_bounded() -> None:
    parts = Parts(b"0123456789", [(2, DOWN)] + [(0, DOWN)] * FAILURES_MAX)
    with pytest.raises(Unavailable):
        await collect(resumed(FakeRuntime(), small(), parts))
    assert len(parts.opened) == FAILURES_MAX


async def test_all_failures_together_are_bounded() -> None:
    text = bytes(RESUMES_MAX + 10)
    parts = Parts(text, [(1, DOWN)] * len(text))
    with pytest.raises(Unavailable):
        await collect(resumed(FakeRuntime(), small(text), parts))
    assert len(parts.opened) == RESUMES_MAX + 1


@pytest.mark.parametrize("error", [Denied("no"), Corrupt("bad")])
async def test_what_a_retry_cannot_mend_is_raised(error: HcefsError) -> None:
    parts = Parts(b"0123456789", [(3, error)])
    with pytest.raises(type(error)):
        await collect(resumed(FakeRuntime(), small(), parts))


async def test_a_damaged_relay_is_replaced_by_another_node() -> None:
    parts = Parts(b"0123456789", [(3, Corrupt("bad")), (9, None)])
    assert await collect(resumed(FakeRuntime(), small(client_opens=True), parts)) == b"0123456789"


async def test_nothing_is_believed_without_an_answer() -> None:
    parts = Parts(b"", [(0, DOWN), (0, None)])
    assert await collect(resumed(FakeRuntime(), small(b""), parts)) == b""
    assert len(parts.opened) == 2


# -- the writer's word


def signed_stream(text: bytes, check: ContentCheck | None) -> BlobStream:
    pieces = stream([text[:4], text[4:]])
    return BlobStream(
        PUT.core, PUT.metadata, 0, len(text), pieces, check=check, runtime=FakeRuntime()
    )


SMALL = PutBlob(b"what the writer wrote")


async def test_the_content_is_what_its_writer_signed() -> None:
    check = ContentCheck(SMALL.core, SMALL.metadata, account_of(OWNER))
    whole = signed_stream(SMALL.plaintext, check)
    assert not whole.signed
    assert await whole.read() == SMALL.plaintext
    assert whole.signed
    unsigned = signed_stream(SMALL.plaintext, None)
    assert await unsigned.read() == SMALL.plaintext
    assert not unsigned.signed


async def test_substituted_content_is_refused_at_the_end() -> None:
    check = ContentCheck(SMALL.core, SMALL.metadata, account_of(OWNER))
    substituted = signed_stream(b"what a gateway substituted", check)
    with pytest.raises(Corrupt) as caught:
        await substituted.read()
    assert caught.value.reason == "content-signature"
    assert not substituted.signed


async def test_a_signature_by_another_account_is_refused() -> None:
    forged = PutBlob(SMALL.plaintext, writer=DOCTOR)
    check = ContentCheck(SMALL.core, forged.metadata, account_of(OWNER))
    with pytest.raises(Corrupt):
        await signed_stream(SMALL.plaintext, check).read()
    check = ContentCheck(SMALL.core, forged.metadata, account_of(DOCTOR))
    with pytest.raises(Corrupt):
        await signed_stream(SMALL.plaintext, check).read()


async def test_the_writer_is_asked_for_as_of_then_only_when_its_key_does_not_fit() -> None:
    newer = account_of(OWNER.renewed(bytes(128)))
    asked: list[Account] = []

    def then(account: Account) -> Callable[[], Awaitable[Account]]:
        async def answer() -> Account:
            asked.append(account)
            return account

        return answer

    good = ContentCheck(SMALL.core, SMALL.metadata, account_of(OWNER), then(newer))
    assert await signed_stream(SMALL.plaintext, good).read() == SMALL.plaintext
    assert asked == []
    old = ContentCheck(SMALL.core, SMALL.metadata, newer, then(account_of(OWNER)))
    assert await signed_stream(SMALL.plaintext, old).read() == SMALL.plaintext
    assert len(asked) == 1
    # Signed with a key that was no longer the writer's when the entry came.
    late = ContentCheck(SMALL.core, SMALL.metadata, newer, then(newer))
    with pytest.raises(Corrupt) as caught:
        await signed_stream(SMALL.plaintext, late).read()
    assert caught.value.reason == "content-signature"
    other = ContentCheck(SMALL.core, SMALL.metadata, newer, then(account_of(OWNER)))
    with pytest.raises(Corrupt):
        await signed_stream(b"what a gateway substituted", other).read()


async def test_a_stream_that_is_left_early_is_closed() -> None:
    closed = []

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    async with BlobStream(
        PUT.core, None, 0, 9, endless(), check=None, runtime=FakeRuntime()
    ) as begun:
        async for _ in begun:
            break
    assert closed == [True]
