"""What every handler is wrapped in: gate, typed errors, counters, and silence about payloads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hcefs import tracing
from hcefs.errors import Denied, Exhausted, HcefsError, Invalid, Unauthenticated
from hcefs.ids import RequestId
from hcefs.metrics import Metrics
from hcefs.runtime import SystemRuntime
from hcefs.services.messages import decoded
from hcefs.services.serving import served, streamed
from hcefs.transport.limit import Gate
from hcefs.wire.v1 import blob_pb2

SECRET = "the-patient-has-a-name"


class Aborted(Exception):
    """What a context raises to end a call."""


class Context:
    """A gRPC context that notes what was written and how the call ended."""

    def __init__(self) -> None:
        self.ended: tuple[grpc.StatusCode, str, dict[str, str]] | None = None
        self.written: list[bytes] = []

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> tuple[Any, ...]:
        return ()

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        self.ended = (code, details, dict(metadata))
        raise Aborted

    async def write(self, data: bytes) -> None:
        self.written.append(data)


class Service:
    """A servicer whose methods do what the request says."""

    def __init__(self, limit: int = 2) -> None:
        self.runtime = SystemRuntime()
        self.metrics = Metrics()
        self.gate = Gate("calls", limit, self.runtime)
        self.closed = 0

    @served("stat")
    async def one(self, request: Any, context: Any) -> bytes:
        tracing.serves(RequestId(b"r" * 16))
        if isinstance(request, BaseException):
            raise request
        if isinstance(request, asyncio.Event):
            await request.wait()
        return b"answer"

    @streamed("list")
    async def many(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        tracing.serves(RequestId(b"r" * 16))
        try:
            yield b"first"
            if isinstance(request, BaseException):
                raise request
            if isinstance(request, asyncio.Event):
                await request.wait()
            yield b"second"
        finally:
            self.closed += 1

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"hcefs_{name}", labels) or 0.0


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["one", "many"])
def method(request: pytest.FixtureRequest, service: Service) -> Any:
    return getattr(service, request.param)


async def test_answers(service: Service) -> None:
    context = Context()
    assert await service.one(None, context) == b"answer"
    await service.many(None, context)
    assert context.written == [b"first", b"second"]
    assert service.gate.held == 0
    assert service.closed == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("wrong; do it right", reason="bad-range"), grpc.StatusCode.INVALID_ARGUMENT),
        (Denied("no; ask for a grant", reason="expired"), grpc.StatusCode.PERMISSION_DENIED),
        (
            Unauthenticated("who; register first", reason="bad-proof"),
            grpc.StatusCode.UNAUTHENTICATED,
        ),
        (Exhausted("full; later", reason="busy"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_typed_errors(
    service: Service, method: Any, error: HcefsError, code: grpc.StatusCode
) -> None:
    context = Context()
    with pytest.raises(Aborted):
        await method(error, context)
    assert context.ended is not None
    assert context.ended[:2] == (code, error.message)
    assert context.ended[2]["hcefs-reason"] == error.reason
    assert service.gate.held == 0


async def test_faults_of_ours_show_nothing(
    service: Service, method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the request id goes out; the log names type and place, not the text."""
    context = Context()
    with caplog.at_level(logging.DEBUG), pytest.raises(Aborted):
        await method(RuntimeError(SECRET), context)
    assert context.ended is not None
    code, details, metadata = context.ended
    assert code is grpc.StatusCode.INTERNAL
    assert metadata["hcefs-kind"] == "internal"
    assert (b"r" * 16).hex() in details
    assert SECRET not in details
    assert SECRET not in caplog.text
    assert "RuntimeError" in caplog.text
    assert "test_serving.py" in caplog.text


async def test_denials_and_strangers_are_counted(service: Service) -> None:
    for error in (
        Denied("no", reason="expired"),
        Denied("no", reason="expired"),
        Unauthenticated("who", reason="bad-proof"),
    ):
        with pytest.raises(Aborted):
            await service.one(error, Context())
    assert service.count("denials_total", reason="expired") == 2
    assert service.count("unauthenticated_total") == 1
    assert service.count("requests_total", method="stat", outcome="denied") == 2
    assert service.count("requests_total", method="stat", outcome="unauthenticated") == 1


async def test_one_too_many(service: Service) -> None:
    released = asyncio.Event()
    running = [asyncio.ensure_future(service.one(released, Context())) for _ in range(2)]
    while service.gate.held < 2:
        await asyncio.sleep(0)
    for call in (service.one, service.many):
        context = Context()
        with pytest.raises(Aborted):
            await call(None, context)
        assert context.ended is not None
        assert context.ended[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 500 <= int(context.ended[2]["hcefs-retry-after-ms"]) <= 1_500
    released.set()
    assert await asyncio.gather(*running) == [b"answer", b"answer"]
    assert service.gate.held == 0


async def test_cancelled_calls_leave_the_gate(service: Service, method: Any) -> None:
    context = Context()
    task = asyncio.create_task(method(asyncio.Event(), context))
    while not service.gate.held:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.gate.held == 0
    assert context.ended is None
    name = "stat" if method == service.one else "list"
    assert service.count("requests_total", method=name, outcome="cancelled") == 1


def test_decoded_names_the_message() -> None:
    with pytest.raises(Invalid, match="StatRequest") as caught:
        decoded(blob_pb2.StatRequest, b"\xff\xff")
    assert caught.value.reason == "malformed-message"
