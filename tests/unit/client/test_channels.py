"""Uploads that fail: the server's word counts, not the library's."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import grpc
import pytest

from hcefs.client.channels import Recent, Upload
from hcefs.errors import Denied, HcefsError, Unavailable
from hcefs.transport.status import KIND_KEY, REASON_KEY
from tests.unit.client.world import FakeRuntime


def failure(code: grpc.StatusCode, text: str, *trailing: tuple[str, str]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), text, debug_error_string=None
    )


SEND_FAILED = failure(grpc.StatusCode.INTERNAL, "Internal error from Core")
DENIED = failure(
    grpc.StatusCode.PERMISSION_DENIED, "no", (KIND_KEY, "denied"), (REASON_KEY, "revoked")
)
DOWN = failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")


class FakeCall:
    """A client-streaming call whose sends fail in one way and whose end is another."""

    def __init__(self, sending: BaseException | None, ending: BaseException | bytes) -> None:
        self.sending = sending
        self.ending = ending
        self.cancelled = False

    async def write(self, message: bytes) -> None:
        if self.sending is not None:
            raise self.sending

    async def done_writing(self) -> None:
        await self.write(b"")

    def __await__(self) -> Generator[Any, None, bytes]:
        async def end() -> bytes:
            if isinstance(self.ending, BaseException):
                raise self.ending
            return self.ending

        return end().__await__()

    def cancel(self) -> None:
        self.cancelled = True

    def add_done_callback(self, callback: object) -> None:
        """It is still running when it is made."""

    async def code(self) -> grpc.StatusCode:
        if isinstance(self.ending, grpc.aio.AioRpcError):
            return self.ending.code()
        return grpc.StatusCode.OK

    async def details(self) -> str | None:
        return self.ending.details() if isinstance(self.ending, grpc.aio.AioRpcError) else ""

    async def trailing_metadata(self) -> Any:
        if isinstance(self.ending, grpc.aio.AioRpcError):
            return self.ending.trailing_metadata()
        return grpc.aio.Metadata()


@pytest.mark.parametrize("sending", [asyncio.InvalidStateError(), SEND_FAILED, DENIED])
async def test_the_servers_status_is_what_is_raised(sending: BaseException) -> None:
    upload = Upload(FakeRuntime(), FakeCall(sending, DENIED))
    with pytest.raises(Denied) as caught:
        await upload.send(b"message")
    assert caught.value.reason == "revoked"


@pytest.mark.parametrize(
    ("sending", "ending"),
    [(SEND_FAILED, SEND_FAILED), (SEND_FAILED, DOWN), (DOWN, DOWN), (SEND_FAILED, b"late")],
)
async def test_a_broken_connection_may_be_retried(
    sending: BaseException, ending: BaseException | bytes
) -> None:
    upload = Upload(FakeRuntime(), FakeCall(sending, ending))
    with pytest.raises(Unavailable) as caught:
        await upload.finish(1.0)
    assert caught.value.retryable


async def test_an_answer() -> None:
    call = FakeCall(None, b"answer")
    upload = Upload(FakeRuntime(), call)
    await upload.send(b"message")
    assert await upload.finish(1.0) == b"answer"
    upload.cancel()
    assert call.cancelled


async def test_a_server_that_stalls() -> None:
    upload = Upload(FakeRuntime(), FakeCall(TimeoutError(), b""))
    with pytest.raises(HcefsError) as caught:
        await upload.send(b"message")
    assert caught.value.reason == "stalled"


def test_what_is_remembered_is_bounded_and_ages() -> None:
    runtime = FakeRuntime()
    recent: Recent[str, int] = Recent(runtime, 2, 10.0)
    recent.put("a", 1)
    runtime.clock_ms += 6_000
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
    runtime.clock_ms += 6_000
    assert (recent.get("a"), recent.get("c")) == (None, 3)
    recent.forget("c")
    assert recent.get("c") is None
