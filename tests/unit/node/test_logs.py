"""Log lines: their fields, their ids, and which requests get one."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from hcefs import tracing
from hcefs.config import LogConfig
from hcefs.ids import RequestId
from hcefs.node import logs
from hcefs.runtime import SystemRuntime

REQUEST = RequestId(b"r" * 16)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a process writes that :func:`configured` set up; afterwards logging is as it was."""
    root, requests = logging.getLogger(), logging.getLogger("hcefs.requests")
    before = (root.handlers[:], root.level, requests.level)
    filters = requests.filters[:]
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    requests.setLevel(before[2])
    requests.filters[:] = filters


def configured(stream: io.StringIO, config: LogConfig) -> None:
    """As :func:`hcefs.node.logs.configure`, but to a stream: pytest has standard error."""
    logs.configure(config)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)


def test_a_json_line_has_stable_fields(stream: io.StringIO) -> None:
    configured(stream, LogConfig(format="json"))
    token = tracing.begun(SystemRuntime())
    try:
        tracing.serves(REQUEST)
        trace = tracing.current()
        assert trace is not None
        logging.getLogger("hcefs.requests").info(
            "get: denied", extra={"facts": {"method": "get", "outcome": "denied", "bytes": 0}}
        )
    finally:
        tracing.ended(token)
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "logger": "hcefs.requests",
        "message": "get: denied",
        "request": REQUEST.hex(),
        "trace": trace.trace.hex(),
        "method": "get",
        "outcome": "denied",
        "bytes": 0,
    }


def test_a_line_outside_of_requests_has_no_ids(stream: io.StringIO) -> None:
    configured(stream, LogConfig(format="json"))
    logging.getLogger("hcefs.node").warning("a line\nof two")
    entry = json.loads(stream.getvalue())
    assert "request" not in entry
    assert "trace" not in entry
    assert stream.getvalue().count("\n") == 1


def test_a_human_line_ends_with_the_ids(stream: io.StringIO) -> None:
    configured(stream, LogConfig())
    token = tracing.begun(SystemRuntime())
    try:
        tracing.serves(REQUEST)
        logging.getLogger("hcefs.node").info("it works")
    finally:
        tracing.ended(token)
    line = stream.getvalue()
    assert f"it works request={REQUEST.hex()} trace=" in line


@pytest.mark.parametrize(
    ("wanted", "written"),
    [("none", []), ("failures", ["failed"]), ("all", ["failed", "went well"])],
)
def test_which_requests_get_a_line(wanted: str, written: list[str], stream: io.StringIO) -> None:
    configured(stream, LogConfig(level="warning", format="json", requests=wanted))
    requests = logging.getLogger("hcefs.requests")
    requests.info("failed")
    requests.debug("went well")
    logging.getLogger("hcefs.node").info("something else")
    lines = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert lines == written


def failed(created: float, level: int = logging.INFO) -> logging.LogRecord:
    fields = {"created": created, "levelno": level, "msg": "get: %s", "args": ("denied",)}
    return logging.makeLogRecord(fields | {"facts": {"method": "get"}})


def test_failures_have_a_rate_and_what_was_left_out_is_said() -> None:
    bounded = logs.Bounded()
    shown = [bounded.filter(failed(1.0)) for _ in range(logs.FAILURES_A_SECOND + 7)]
    assert shown == [True] * logs.FAILURES_A_SECOND + [False] * 7
    record = failed(2.0)
    assert bounded.filter(record)
    assert record.getMessage() == "get: denied; 7 lines before it were left out"
    assert record.__dict__["facts"] == {"method": "get", "left_out": 7}
    after = failed(2.5)
    assert bounded.filter(after)
    assert after.getMessage() == "get: denied"


def test_lines_of_all_requests_have_no_rate() -> None:
    bounded = logs.Bounded()
    count = logs.FAILURES_A_SECOND + 1
    assert all(bounded.filter(failed(1.0, logging.DEBUG)) for _ in range(count))


async def test_a_disk_thread_logs_under_the_request_that_it_works_for(
    stream: io.StringIO,
) -> None:
    configured(stream, LogConfig(format="json"))
    runtime = SystemRuntime()
    token = tracing.begun(runtime)
    try:
        tracing.serves(REQUEST)
        await runtime.disk(logging.getLogger("hcefs.store").warning, "a shard is damaged")
    finally:
        tracing.ended(token)
        runtime.close()
    assert json.loads(stream.getvalue())["request"] == REQUEST.hex()
