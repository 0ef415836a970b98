"""Spans to a collector: a real HTTP server decodes them; one that is away costs nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from hcefs import tracing
from hcefs.config import TraceConfig, _endpoint
from hcefs.errors import Invalid
from hcefs.ids import RequestId
from hcefs.metrics import Metrics
from hcefs.node.trace_export import QUEUE_SPANS_MAX, TraceExporter, exporter_of
from hcefs.runtime import SystemRuntime
from tests.unit.node.collector import collector


def exporter(
    runtime: SystemRuntime, endpoint: str, metrics: Metrics, ratio: float = 1.0
) -> TraceExporter:
    made = exporter_of(runtime, TraceConfig(endpoint, ratio), metrics, "hcefs-node", "n1:7011")
    assert made is not None
    return made


def work(runtime: SystemRuntime, times: int = 1) -> RequestId:
    token = tracing.begun(runtime)
    context = tracing.current()
    assert context is not None
    try:
        for _ in range(times):
            with tracing.span("serve put", "server") as span:
                span.attributes["bytes"] = 7
                with tracing.span("call StoreWhole", "client") as call:
                    call.outcome = "unavailable"
    finally:
        tracing.ended(token)
    return context.trace


async def test_a_collector_gets_what_ran() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    runtime, metrics = SystemRuntime(), Metrics()
    with collector() as (endpoint, bodies):
        traces = exporter(runtime, endpoint, metrics)
        traces.start()
        trace = work(runtime)
        await traces.stop()
    runtime.close()
    request = ExportTraceServiceRequest.FromString(b"".join(bodies))
    (resource,) = request.resource_spans
    names = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert names["service.name"] == "hcefs-node"
    call, put = resource.scope_spans[0].spans
    assert (put.name, put.kind, put.status.code) == ("serve put", 2, 1)
    assert (call.name, call.kind, call.status.code) == ("call StoreWhole", 3, 2)
    assert call.parent_span_id == put.span_id
    assert {put.trace_id, call.trace_id} == {bytes(trace)}
    assert put.parent_span_id == b""
    assert put.start_time_unix_nano <= put.end_time_unix_nano
    found = {each.key: each.value for each in put.attributes}
    assert found["hcefs.bytes"].int_value == 7
    assert metrics.value("trace_spans_total", outcome="sent") == 2


@pytest.mark.parametrize("status", [400, 503])
async def test_what_a_collector_refuses_is_dropped_and_counted(status: int) -> None:
    runtime, metrics = SystemRuntime(), Metrics()
    with collector(status) as (endpoint, bodies):
        traces = exporter(runtime, endpoint, metrics)
        traces.start()
        work(runtime)
        await traces.stop()
    runtime.close()
    assert len(bodies) == 1
    assert metrics.value("trace_spans_total", outcome="dropped") == 2


async def test_a_collector_that_sends_on_to_another_address_takes_nothing() -> None:
    runtime, metrics = SystemRuntime(), Metrics()
    with collector() as (other, asked), collector(307, other) as (endpoint, bodies):
        traces = exporter(runtime, endpoint, metrics)
        traces.start()
        work(runtime)
        await traces.stop()
        assert asked == []
    runtime.close()
    assert len(bodies) == 1
    assert metrics.value("trace_spans_total", outcome="dropped") == 2


async def test_a_collector_that_never_answers_does_not_hold_up_the_end() -> None:
    runtime, metrics = SystemRuntime(), Metrics()
    release, posts, done = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def post(endpoint: str, data: bytes) -> None:
        posts.release()
        release.wait(60)
        done.release()

    config = TraceConfig("http://127.0.0.1:1/", 1.0)
    traces = TraceExporter(runtime, config, metrics, "n", "n", post)
    traces.start()
    work(runtime)
    await traces.stop()
    assert not release.is_set(), "it ended while what sends still waited"
    release.set()
    assert posts.acquire(timeout=60)
    assert await asyncio.to_thread(done.acquire, timeout=60)
    runtime.close()


@pytest.mark.parametrize(
    "value",
    [
        "collector:4318",
        "ftp://collector/",
        "http://",
        "http://user:word@collector/v1/traces",
        "http://collector/v1/traces?key=word",
        "http://collector:99999/v1/traces",
        "http://collector:0/v1/traces",
        "http://[collector/v1/traces",
        4318,
    ],
)
def test_what_is_no_endpoint(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        _endpoint(value, Path())


async def test_a_collector_that_is_away_costs_nothing() -> None:
    with collector() as (endpoint, _):
        pass  # and now nobody listens there
    runtime, metrics = SystemRuntime(), Metrics()
    traces = exporter(runtime, endpoint, metrics)
    traces.start()
    work(runtime)
    await traces.stop()
    work(runtime)  # after its end it takes no more
    await traces.stop()
    runtime.close()
    assert metrics.value("trace_spans_total", outcome="dropped") == 2


async def test_the_queue_is_bounded() -> None:
    runtime, metrics = SystemRuntime(), Metrics()
    release = threading.Event()

    def post(endpoint: str, data: bytes) -> None:
        release.wait(60)

    traces = TraceExporter(
        runtime, TraceConfig("http://127.0.0.1:1/", 1.0), metrics, "n", "n", post
    )
    remove = tracing.install(traces)
    work(runtime, QUEUE_SPANS_MAX // 2 + 5)
    remove()
    assert metrics.value("trace_spans_total", outcome="dropped") == 10
    release.set()
    await asyncio.sleep(0)
    runtime.close()


async def test_the_share_is_decided_by_the_trace_alone() -> None:
    runtime, metrics = SystemRuntime(), Metrics()
    half = exporter(runtime, "http://127.0.0.1:1/", metrics, 0.5)
    none = exporter(runtime, "http://127.0.0.1:1/", metrics, 0.0)
    low = RequestId(b"\xff" * 8 + b"\x7f" * 8)
    high = RequestId(b"\x00" * 8 + b"\x80" * 8)
    assert half.wants(low)
    assert not half.wants(high)
    assert not none.wants(low)
    runtime.close()


def test_no_endpoint_no_exporter() -> None:
    assert exporter_of(SystemRuntime(), TraceConfig(), Metrics(), "n", "n") is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.trace.v1.trace_pb2", None)
    with pytest.raises(Invalid, match=r"hcefs\[otel\]"):
        exporter_of(SystemRuntime(), TraceConfig("http://h/"), Metrics(), "n", "n")
