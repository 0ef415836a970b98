"""One request through all nodes: the same ids in logs, spans and errors."""

from __future__ import annotations

import logging

import pytest

from hcefs import tracing
from hcefs.ids import RequestId
from hcefs.runtime import Runtime
from hcefs.wire.v1 import blob_pb2
from tests.services.requests import BLOBS
from tests.services.rig import MARK, Rig

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
