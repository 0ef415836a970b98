"""Spans to a collector: a real HTTP server decodes them; one that is away costs nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from hcefs import tracing
from hcefs.config import TraceConfig
from hcefs.errors import Invalid
from hcefs.ids import RequestId
from hcefs.metrics import Metrics
from hcefs.node.trace_export import QUEUE_SPANS_MAX, TraceExporter, exporter_of
from hcefs.runtime import SystemRuntime


@contextmanager
def collector(status: int = 200) -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a collector that answers so, and the bodies that it was sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/x-protobuf"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
