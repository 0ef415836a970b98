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
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    requests.setLevel(before[2])


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
