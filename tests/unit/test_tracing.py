"""Trace contexts: what travels, what is not believed, and how spans hang together."""

from __future__ import annotations

import pytest

from hcefs import tracing
from hcefs.errors import Denied
from hcefs.ids import RequestId
from hcefs.runtime import Runtime, SystemRuntime

TRACE = RequestId(bytes(range(1, 17)))
GIVEN = f"00-{TRACE.hex()}-00000000000000aa-01"


class Kept:
    """A recorder that keeps what it is given."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.spans: list[tracing.Span] = []

    def wants(self, trace: RequestId) -> bool:
        return trace == TRACE

    def record(self, span: tracing.Span) -> None:
        self.spans.append(span)


@pytest.fixture
def runtime() -> SystemRuntime:
    return SystemRuntime()


def test_what_is_sent_is_understood() -> None:
    context = tracing.Context(TRACE, b"12345678")
    assert tracing.parse(context.traceparent()) == context


def test_a_later_version_may_say_more() -> None:
    assert tracing.parse(f"cc-{TRACE.hex()}-00000000000000aa-01-more") is not None


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"00",
        "",
        GIVEN.upper(),
        GIVEN + "-more",
        GIVEN[:-1],
        " " + GIVEN,
        "ff" + GIVEN[2:],
        f"00-{'0' * 32}-00000000000000aa-01",
        f"00-{TRACE.hex()}-{'0' * 16}-01",
        GIVEN.replace("a", "\u00e4"),
        f"cc-{TRACE.hex()}-00000000000000aa-01-" + "x" * 100,
        GIVEN + "\n",
    ],
)
def test_what_is_ill_formed_counts_as_none(value: object, runtime: SystemRuntime) -> None:
    assert tracing.parse(value) is None
    token = tracing.received(runtime, [(tracing.TRACEPARENT, value)])
    try:
        context = tracing.current()
        assert context is not None
        assert context.trace
        assert context.trace != TRACE
    finally:
        tracing.ended(token)


def test_a_call_is_served_in_its_trace_under_its_own_request(runtime: SystemRuntime) -> None:
    token = tracing.received(runtime, [("other", "x"), (tracing.TRACEPARENT, GIVEN)])
    try:
        assert tracing.request_id() == TRACE
        tracing.serves(RequestId(b"r" * 16))
        assert tracing.request_id() == RequestId(b"r" * 16)
        assert tracing.metadata() == [(tracing.TRACEPARENT, GIVEN[:-1] + "0")]
    finally:
        tracing.ended(token)
    assert tracing.metadata() == []
    assert not tracing.request_id()


def test_spans_are_children_of_what_they_run_in(runtime: SystemRuntime) -> None:
    kept = Kept(runtime)
    remove = tracing.install(kept)
    token = tracing.received(runtime, [(tracing.TRACEPARENT, GIVEN)])
    try:
        with tracing.span("outer", "server") as outer:
            outer.attributes["bytes"] = 3
            with pytest.raises(Denied), tracing.span("inner", "client"):
                raise Denied("no")
    finally:
        tracing.ended(token)
        remove()
    inner, outside = kept.spans
    assert (inner.name, inner.outcome, inner.parent) == ("inner", "denied", outside.span)
    assert (outside.name, outside.outcome, outside.attributes) == ("outer", "ok", {"bytes": 3})
    assert outside.parent.hex() == "00000000000000aa"
    assert {each.trace for each in kept.spans} == {TRACE}
    assert outside.began_ns <= inner.began_ns + 1_000_000


def test_a_trace_that_is_not_among_the_recorded_leaves_nothing(runtime: SystemRuntime) -> None:
    kept = Kept(runtime)
    remove = tracing.install(kept)
    token = tracing.begun(runtime)
    try:
        with tracing.span("work", "internal"):
            pass
    finally:
        tracing.ended(token)
        remove()
    assert kept.spans == []


def test_a_streaming_call_is_a_span_of_its_own(runtime: SystemRuntime) -> None:
    kept = Kept(runtime)
    remove = tracing.install(kept)
    token = tracing.received(runtime, [(tracing.TRACEPARENT, GIVEN)])
    try:
        carried, done = tracing.stream("call Store")
        other, _ = tracing.stream("call Store")
        assert done is not None
        done("ok")
        done("failed")  # it has ended already
    finally:
        tracing.ended(token)
        remove()
    (span,) = kept.spans
    assert (span.name, span.kind, span.outcome) == ("call Store", "client", "ok")
    assert span.parent.hex() == "00000000000000aa"
    assert carried == [(tracing.TRACEPARENT, f"00-{TRACE.hex()}-{span.span.hex()}-00")]
    assert other != carried


def test_a_streaming_call_that_nobody_records_carries_the_trace(runtime: SystemRuntime) -> None:
    token = tracing.received(runtime, [(tracing.TRACEPARENT, GIVEN)])
    try:
        assert tracing.stream("call Store") == (tracing.metadata(), None)
        tracing.detach()
        assert tracing.stream("call Store") == ([], None)
    finally:
        tracing.ended(token)
