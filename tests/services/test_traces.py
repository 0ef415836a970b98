"""One request through all nodes: the same ids in logs, spans and errors."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hcefs import tracing
from hcefs.access.facts import Action
from hcefs.config import TraceConfig
from hcefs.errors import Denied
from hcefs.ids import RequestId
from hcefs.node.logs import JsonFormatter
from hcefs.node.trace_export import exporter_of
from hcefs.runtime import Runtime
from hcefs.wire.v1 import blob_pb2
from tests.services.requests import BLOBS
from tests.services.rig import MARK, Rig
from tests.unit.node.collector import collector

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]


class Kept:
    """A recorder of everything that belongs to one trace."""

    def __init__(self, runtime: Runtime, trace: RequestId) -> None:
        self.runtime = runtime
        self._trace = trace
        self.spans: list[tracing.Span] = []

    def wants(self, trace: RequestId) -> bool:
        return trace == self._trace

    def record(self, span: tracing.Span) -> None:
        self.spans.append(span)


async def test_a_put_is_one_trace_from_the_client_to_all_holders(rig: Rig) -> None:
    token = tracing.begun(rig.runtime)
    context = tracing.current()
    assert context is not None
    kept = Kept(rig.runtime, context.trace)
    remove = tracing.install(kept)
    try:
        await rig.patient.put(rig.record, MARK * 20_000, seal="node")
        await rig.until(lambda: sum(each.kind == "server" for each in kept.spans) >= 8)
    finally:
        remove()
        tracing.ended(token)
    by_name: dict[str, list[tracing.Span]] = {}
    for span in kept.spans:
        by_name.setdefault(span.name, []).append(span)
    (put,) = by_name["serve put"]
    assert not any(put.parent), "the client began the trace, outside of any span"
    stores = by_name["serve store-shard"]
    assert len(stores) == 5, "all but what the gateway keeps itself"
    calls = by_name["call StoreWhole"]
    assert {each.parent for each in stores} <= {each.span for each in calls}
    assert {each.parent for each in calls} == {put.span}
    assert len(by_name["serve submit"]) == 1
    assert {each.outcome for each in kept.spans} == {"ok"}


async def test_a_refusal_names_the_request_that_the_log_has(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    address = rig.nodes[0].config.client_address
    request = blob_pb2.StatRequest(request_id=rig.new_request())
    call = rig.unary(address, f"{BLOBS}/Stat", request)
    error = await rig.refused(call, "invalid", "malformed-encoding")
    assert len(error.request) == 32
    lines = [each for each in caplog.records if each.name == "hcefs.requests"]
    assert [each.levelno for each in lines if "stat: invalid" in each.getMessage()] == [
        logging.INFO
    ]


SECONDS_MAX = 80.0
"""How long a slow machine may take for what comes by itself."""


def decoded_spans(bodies: list[bytes], trace: RequestId) -> list[Any]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return [
        span
        for body in tuple(bodies)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id == bytes(trace)
    ]


async def test_a_collector_gets_one_put_with_its_streams_to_the_holders(rig: Rig) -> None:
    metrics = rig.nodes[0].process.metrics
    token = tracing.begun(rig.runtime)
    context = tracing.current()
    assert context is not None
    with collector() as (endpoint, bodies):
        traces = exporter_of(rig.runtime, TraceConfig(endpoint, 1.0), metrics, "hcefs-node", "n")
        assert traces is not None
        traces.start()
        try:
            await rig.patient.put(rig.record, MARK * 400_000, seal="node")
            tracing.ended(token)
            until = rig.runtime.monotonic() + SECONDS_MAX
            needed = {"serve put", "call Store", "serve store-shard", "write receipts"}
            needed |= {"serve submit", "commit block"}
            while not needed <= {each.name for each in decoded_spans(bodies, context.trace)}:
                assert rig.runtime.monotonic() < until, "not all spans came"
                await asyncio.sleep(0.2)
        finally:
            await traces.stop()
        by_name: dict[str, list[Any]] = {}
        for span in decoded_spans(bodies, context.trace):
            by_name.setdefault(span.name, []).append(span)
    (put,) = by_name["serve put"]
    assert put.parent_span_id == b""
    calls = {each.span_id for each in by_name["call Store"]}
    assert {each.parent_span_id for each in by_name["call Store"]} == {put.span_id}
    assert {each.parent_span_id for each in by_name["serve store-shard"]} <= calls
    served = {
        each.span_id for name in by_name if name.startswith("serve") for each in by_name[name]
    }
    assert {each.parent_span_id for each in by_name["write receipts"]} <= served
    (submit,) = by_name["serve submit"]
    assert {each.parent_span_id for each in by_name["commit block"]} == {submit.span_id}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the processes of the rig would write with ``format = "json"`` at level debug."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("hcefs")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def in_base64(secret: bytes) -> set[str]:
    """The characters that a secret has in base64, wherever in a longer text it begins."""
    forms = set()
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        first = -(-shift * 8 // 6)
        whole = (shift + len(secret)) * 8 // 6
        part = text[first:whole].decode()
        forms |= {part, part.replace("+", "-").replace("/", "_")}
    return forms


async def test_lines_hold_no_secret_in_any_form(rig: Rig, lines: io.StringIO) -> None:
    name, label = "carcinoma-of-a-neighbour", "psychiatry-ward-nine"
    rig.secrets.add(name.encode(), label.encode(), MARK)
    # A record of its own: bundles of the shared one hold names and labels, and rightly so.
    record = (await rig.patient.open_record()).record
    append = (await rig.give(rig.hospital, Action.APPEND, record=record)).grant
    read = (await rig.give(rig.doctor, Action.READ, record=record)).grant
    receipt = await rig.hospital.put(
        record, MARK * 20, grant=append, name=name, labels=(label,), seal="node"
    )
    stream = await rig.doctor.get(record, receipt.core.blob, grant=read)
    assert await stream.read() == MARK * 20
    node, blob = rig.nodes[0], rig.receipt.ref.blob
    proof = rig.authorization(rig.doctor, "stat", node, rig.future_grant, blob=blob)
    request = blob_pb2.StatRequest(
        authorization=proof,
        record_id=bytes(rig.record),
        blob_id=bytes(blob),
        request_id=rig.new_request(),
    )
    with pytest.raises(Denied) as caught:
        await rig.unary(node.config.client_address, f"{BLOBS}/Stat", request)
    assert caught.value.request == request.request_id.hex()

    text = lines.getvalue()
    entries = [json.loads(line) for line in text.splitlines()]
    ended = [each for each in entries if each["logger"] == "hcefs.requests"]
    assert {"put", "get", "stat"} <= {each["method"] for each in ended}
    assert {each["peer"] for each in ended} == {"client", "node"}
    (refused,) = [each for each in ended if each.get("request") == caught.value.request]
    assert (refused["outcome"], refused["reason"]) == ("denied", caught.value.reason)
    rig.secrets.check(text)
    for window in rig.secrets.windows:
        assert not any(form in text for form in in_base64(window))
    for secret in (proof.token[-64:], bytes(proof.proof)[-64:]):
        assert secret.hex() not in text
        assert not any(form in text for form in in_base64(secret))
