"""Spans to an OpenTelemetry collector: OTLP over HTTP, an option of a process.

Owns a bounded queue and one task that sends what is in it, a batch at a time.  Only the
messages are the project's that defines them (package ``opentelemetry-proto``): its exporter
keeps a thread that goes on repeating while the process wants to end.

Invariants: recording never waits; what the queue has no room for, and what the collector does
not take at the first attempt, is dropped and counted.  :meth:`TraceExporter.stop` takes at
most ``STOP_SECONDS``.  Of what the collector answers only the status is read.

Source: OpenTelemetry Protocol 1.x, OTLP/HTTP; docs/decisions/0040-request-ids-and-traces.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import logging
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from hcefs import __version__, tracing
from hcefs.config import TraceConfig
from hcefs.errors import Invalid
from hcefs.ids import RequestId
from hcefs.metrics import Metrics
from hcefs.runtime import Runtime

QUEUE_SPANS_MAX: Final = 4096
BATCH_SPANS: Final = 512
BATCH_SECONDS: Final = 1.0
SEND_SECONDS: Final = 0.8
STOP_SECONDS: Final = 0.8
"""A process that stops does not wait longer, nor for a thread that still sends."""

_KINDS: Final = {"internal": 1, "server": 2, "client": 3}
_OK, _ERROR = 1, 2
log = logging.getLogger(__name__)


class TraceExporter:
    """Takes spans of this process and sends them; implements :class:`hcefs.tracing.Recorder`.

    ``service`` and ``instance`` name the process: which kind, and its address.

    Raises:
        Invalid: ``no-otel``: the package of the messages is not installed.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: TraceConfig,
        metrics: Metrics,
        service: str,
        instance: str,
        post: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.runtime = runtime
        self._endpoint = config.endpoint
        # A trace id is random, so its last eight bytes decide alike on all nodes.
        self._below = int(config.sample_ratio * (1 << 64))
        self._metrics = metrics
        self._names = {
            "service.name": service,
            "service.instance.id": instance,
            "service.version": __version__,
        }
        self._queue: deque[tracing.Span] = deque()
        self._post = post if post is not None else _post
        self._messages = _messages()
        self._failed = False
        self._uninstall: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def wants(self, trace: RequestId) -> bool:
        """See :class:`hcefs.tracing.Recorder`."""
        return int.from_bytes(trace[8:]) < self._below

    def record(self, span: tracing.Span) -> None:
        """See :class:`hcefs.tracing.Recorder`."""
        if len(self._queue) >= QUEUE_SPANS_MAX:
            self._metrics.count("trace_spans_total", outcome="dropped")
        else:
            self._queue.append(span)

    def start(self) -> None:
        """Take spans from now on."""
        self._uninstall = tracing.install(self)
        self._task = self.runtime.spawn(self._run(), name="traces")

    async def stop(self) -> None:
        """Take no more spans, and send once what is there."""
        if self._uninstall is not None:
            self._uninstall()
            self._uninstall = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        with contextlib.suppress(TimeoutError):
            async with self.runtime.timeout(STOP_SECONDS):
                await self._send()

    async def _run(self) -> None:
        while True:
            await self.runtime.sleep(BATCH_SECONDS)
            while self._queue:
                await self._send()

    async def _send(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
        if not batch:
            return
        data = self._encoded(batch)
        try:
            await self.runtime.disk(self._post, self._endpoint, data)
        except OSError as error:
            self._metrics.count("trace_spans_total", len(batch), outcome="dropped")
            if not self._failed:  # once, not with each batch
                log.warning("the collector of traces takes nothing: %s", type(error).__name__)
            self._failed = True
        else:
            self._failed = False
            self._metrics.count("trace_spans_total", len(batch), outcome="sent")

    def _encoded(self, spans: Sequence[tracing.Span]) -> bytes:
        service, trace, common, resource = self._messages

        def attribute(key: str, value: str | int) -> Any:
            kind = {"int_value": value} if isinstance(value, int) else {"string_value": value}
            return common.KeyValue(key=key, value=common.AnyValue(**kind))

        sent = [
            trace.Span(
                trace_id=bytes(each.trace),
                span_id=each.span,
                parent_span_id=each.parent if any(each.parent) else b"",
                name=each.name,
                kind=_KINDS[each.kind],
                start_time_unix_nano=each.began_ns,
                end_time_unix_nano=each.ended_ns,
                attributes=[
                    attribute("hcefs.outcome", each.outcome),
                    *(attribute(f"hcefs.{key}", value) for key, value in each.attributes.items()),
                ],
                status=trace.Status(code=_OK if each.outcome == "ok" else _ERROR),
            )
            for each in spans
        ]
        about = resource.Resource(attributes=[attribute(*each) for each in self._names.items()])
        scope = trace.ScopeSpans(scope=common.InstrumentationScope(name="hcefs"), spans=sent)
        request = service.ExportTraceServiceRequest(
            resource_spans=[trace.ResourceSpans(resource=about, scope_spans=[scope])]
        )
        return bytes(request.SerializeToString())


def exporter_of(
    runtime: Runtime, config: TraceConfig, metrics: Metrics, service: str, instance: str
) -> TraceExporter | None:
    """The exporter that the configuration asks for, if it asks for one.

    Raises:
        Invalid: ``no-otel``.
    """
    if not config.endpoint:
        return None
    return TraceExporter(runtime, config, metrics, service, instance)


def _messages() -> tuple[Any, Any, Any, Any]:
    try:
        return (
            importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2"),
            importlib.import_module("opentelemetry.proto.trace.v1.trace_pb2"),
            importlib.import_module("opentelemetry.proto.common.v1.common_pb2"),
            importlib.import_module("opentelemetry.proto.resource.v1.resource_pb2"),
        )
    except ImportError:
        raise Invalid(
            "trace.endpoint is set, but what sends traces is not installed: "
            'pip install "hcefs[otel]", or leave trace.endpoint empty',
            reason="no-otel",
        ) from None


def _post(endpoint: str, data: bytes) -> None:
    """One request; OSError says why the collector did not take it."""
    request = urllib.request.Request(  # noqa: S310 - the configuration allows http and https only
        endpoint, data, {"Content-Type": "application/x-protobuf"}, method="POST"
    )
    try:
        with _OPENER.open(request, timeout=SEND_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"status {error.code}") from None
    except (http.client.HTTPException, ValueError, OverflowError) as error:
        raise OSError(type(error).__name__) from None


class _NowhereElse(urllib.request.HTTPRedirectHandler):
    """A collector that sends us on to another address takes nothing."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NowhereElse())
"""Straight to the collector: what the environment says of proxies is not for this."""
