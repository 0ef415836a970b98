"""Errors survive the way over gRPC; what is not ours never shows its text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from hcefs.errors import (
    KINDS,
    Conflict,
    Corrupt,
    Denied,
    Exhausted,
    HcefsError,
    Internal,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hcefs.transport import status
from hcefs.transport.status import abort, from_rpc_error, to_status

REQUEST = bytes.fromhex("00112233445566778899aabbccddeeff")
SECRET = "s3cret-key-material"


def rpc_error(
    code: grpc.StatusCode, details: str = "", metadata: Sequence[tuple[str, str | bytes]] = ()
) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*metadata), details, None)


def over_the_wire(error: BaseException) -> HcefsError:
    sent = to_status(error, request_id=REQUEST)
    return from_rpc_error(rpc_error(sent.code, sent.details, sent.metadata))


def insecure_channel(port: int) -> Any:
    """Untyped: the stubs demand the serializers that gRPC leaves out for bytes."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


class Context:
    """A servicer context whose abort only remembers, or raises as gRPC's does."""

    def __init__(self, *, raises: bool = True) -> None:
        self.raises = raises
        self.aborted: tuple[Any, ...] = ()

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self.aborted = (code, details, tuple(trailing_metadata))
        if self.raises:
            raise grpc.aio.AbortError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("gone"), grpc.StatusCode.NOT_FOUND),
        (Corrupt("bad", reason="bad-footer"), grpc.StatusCode.DATA_LOSS),
        (Unavailable("later", reason="stale-lease"), grpc.StatusCode.UNAVAILABLE),
        (Denied("no", reason="expired"), grpc.StatusCode.PERMISSION_DENIED),
        (Unauthenticated("who", reason="bad-proof"), grpc.StatusCode.UNAUTHENTICATED),
        (Conflict("other", reason="forked"), grpc.StatusCode.ABORTED),
        (Conflict("there", reason="shard-exists"), grpc.StatusCode.ALREADY_EXISTS),
        (Invalid("shape", reason="bad-id"), grpc.StatusCode.INVALID_ARGUMENT),
        (Exhausted("full", retry_after_ms=250), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_errors_survive_the_way(error: HcefsError, code: grpc.StatusCode) -> None:
    assert to_status(error).code is code
    arrived = over_the_wire(error)
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.reason) == (error.message, error.reason)
    if isinstance(error, Exhausted):
        assert isinstance(arrived, Exhausted)
        assert arrived.retry_after_ms == error.retry_after_ms


def test_the_table_has_every_kind() -> None:
    for cls in KINDS.values():
        assert type(over_the_wire(cls("x"))) is cls


@pytest.mark.parametrize(
    "error", [KeyError(SECRET), Internal(SECRET), rpc_error(grpc.StatusCode.INTERNAL, SECRET)]
)
def test_text_that_is_not_ours_never_leaves(error: Exception) -> None:
    sent = to_status(error, request_id=REQUEST)
    assert sent.code is grpc.StatusCode.INTERNAL
    assert SECRET not in sent.details + str(sent.metadata)
    assert REQUEST.hex() in sent.details


def test_a_timeout_is_a_deadline() -> None:
    arrived = over_the_wire(TimeoutError(SECRET))
    assert isinstance(arrived, Unavailable)
    assert arrived.reason == "deadline"
    assert SECRET not in arrived.message


def test_a_subclass_travels_as_its_base() -> None:
    class VeryConflicting(Conflict):
        pass

    assert type(over_the_wire(VeryConflicting("x", reason="row-exists"))) is Conflict


def test_what_leaves_is_short_and_printable() -> None:
    sent = to_status(Invalid("a\r\nb" + "c" * 5000, reason="Not A Slug\n"))
    assert len(sent.details) <= status.MESSAGE_CHARACTERS_MAX
    assert sent.details.isprintable()
    assert dict(sent.metadata)[status.REASON_KEY] == "invalid"


def test_what_arrives_is_not_trusted() -> None:
    arrived = from_rpc_error(
        rpc_error(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "x\x1b[31m" + "y" * 5000,
            [
                (status.KIND_KEY, "exhausted"),
                (status.REASON_KEY, "../../label" * 99),
                (status.RETRY_AFTER_KEY, "999999999"),
                ("other-bin", b"\xff"),
            ],
        )
    )
    assert isinstance(arrived, Exhausted)
    assert arrived.reason == "exhausted"
    assert arrived.retry_after_ms == status.RETRY_AFTER_MS_MAX
    assert arrived.message.isprintable()
    assert len(arrived.message) <= status.MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize("delay", ["", "-5", "1e3", "1" * 50, "\u0663"])
def test_a_bad_delay_is_the_default(delay: str) -> None:
    metadata = [(status.KIND_KEY, "exhausted"), (status.RETRY_AFTER_KEY, delay)]
    arrived = from_rpc_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "", metadata))
    assert isinstance(arrived, Exhausted)
    assert arrived.retry_after_ms == 1_000


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
@pytest.mark.parametrize("kind", ["", "no-such-kind"])
def test_every_plain_code_is_a_typed_error(code: grpc.StatusCode, kind: str) -> None:
    arrived = from_rpc_error(rpc_error(code, "why", [(status.KIND_KEY, kind)] if kind else ()))
    assert isinstance(arrived, HcefsError)
    assert code.name in arrived.message


@pytest.mark.parametrize(
    ("code", "details", "cls", "reason"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Unavailable, "deadline"),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", Unavailable, "unreachable"),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", Invalid, "unimplemented"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", Exhausted, "busy"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (5 vs. 4)",
            Invalid,
            "message-too-large",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            "SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self signed",
            Denied,
            "wrong-certificate",
        ),
        (
            grpc.StatusCode.INTERNAL,
            "Received RST_STREAM with error code 2",
            Unavailable,
            "stream-reset",
        ),
        (grpc.StatusCode.INTERNAL, "boom", Internal, "internal"),
        (grpc.StatusCode.CANCELLED, "", Unavailable, "cancelled"),
    ],
)
def test_failures_of_grpc_itself(
    code: grpc.StatusCode, details: str, cls: type[HcefsError], reason: str
) -> None:
    arrived = from_rpc_error(rpc_error(code, details))
    assert type(arrived) is cls
    assert arrived.reason == reason


async def test_abort_sends_the_status() -> None:
    context = Context()
    with pytest.raises(grpc.aio.AbortError):
        await abort(context, Denied("no", reason="expired"))
    assert context.aborted == (
        grpc.StatusCode.PERMISSION_DENIED,
        "no",
        ((status.KIND_KEY, "denied"), (status.REASON_KEY, "expired")),
    )


async def test_abort_logs_the_unexpected_and_hides_it(caplog: pytest.LogCaptureFixture) -> None:
    context = Context()
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AbortError):
        await abort(context, KeyError(SECRET), request_id=REQUEST)
    assert context.aborted[0] is grpc.StatusCode.INTERNAL
    assert SECRET not in str(context.aborted)
    assert REQUEST.hex() in caplog.text
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


async def test_abort_never_returns() -> None:
    with pytest.raises(NotFound):
        await abort(Context(raises=False), NotFound("gone"))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), grpc.aio.AbortError()])
async def test_abort_lets_the_end_of_a_call_pass(error: BaseException) -> None:
    context = Context()
    with pytest.raises(type(error)):
        await abort(context, error)
    assert context.aborted == ()


async def test_over_a_real_connection() -> None:
    errors = [Exhausted("full: ä", reason="busy", retry_after_ms=77), KeyError(SECRET)]

    async def fail(request: bytes, context: Any) -> bytes:
        await abort(context, errors[len(request)], request_id=REQUEST)

    server = grpc.aio.server()
    handlers = {"Fail": grpc.unary_unary_rpc_method_handler(fail)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with insecure_channel(port) as channel:
        arrived = []
        for method, request in [("Fail", b""), ("Fail", b"1"), ("Gone", b"")]:
            with pytest.raises(AioRpcError) as caught:
                await channel.unary_unary(f"/t.T/{method}")(request, timeout=60)
            arrived.append(from_rpc_error(caught.value))
    await server.stop(None)
    async with insecure_channel(port) as channel:
        with pytest.raises(AioRpcError) as caught:
            await channel.unary_unary("/t.T/Fail")(b"", timeout=60)
        arrived.append(from_rpc_error(caught.value))
    busy, internal, unknown, down = arrived
    assert isinstance(busy, Exhausted)
    assert (busy.message, busy.reason, busy.retry_after_ms) == ("full: ä", "busy", 77)
    assert isinstance(internal, Internal)
    assert SECRET not in internal.message
    assert unknown.reason == "unimplemented"
    assert (type(down), down.reason) == (Unavailable, "unreachable")
