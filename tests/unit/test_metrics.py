"""Metrics: one table, bounded labels, and a page that closes cleanly."""

from __future__ import annotations

import gc
import http.client
import logging
import math
import re
import socket
import threading

import prometheus_client
import pytest

from hcefs import metrics as module
from hcefs.errors import Invalid, Unavailable
from hcefs.metrics import FAMILIES, LABEL_SETS_MAX, Body, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def fetch(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_the_table_follows_the_naming_rules() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        assert family.help.endswith(".")
        assert (family.type == "counter") == family.name.endswith("_total")
        assert bool(family.buckets) == (family.type == "histogram")
        assert not {"record", "blob", "account", "grant"} & set(family.labels)


def test_counters_gauges_and_histograms(metrics: Metrics) -> None:
    assert metrics.value("puts_total", outcome="ok") == 0
    metrics.count("puts_total", outcome="ok")
    metrics.count("puts_total", 2, outcome="ok")
    metrics.count("puts_total", outcome="failed")
    assert metrics.value("puts_total", outcome="ok") == 3
    metrics.count("put_bytes_total", 1 << 40)
    assert metrics.value("put_bytes_total") == 1 << 40
    metrics.set("shards", 7)
    metrics.set("shards", 5)
    assert metrics.value("shards") == 5
    metrics.observe("request_seconds", 0.2, method="get")
    metrics.observe("request_seconds", 0.3, method="get")
    assert metrics.value("request_seconds", method="get") == 2


def test_every_family_can_be_used(metrics: Metrics) -> None:
    for family in FAMILIES:
        labels = dict.fromkeys(family.labels, "word")
        if family.type == "counter":
            metrics.count(family.name, 1, **labels)
        elif family.type == "gauge":
            metrics.set(family.name, 1, **labels)
        else:
            metrics.observe(family.name, 1, **labels)
        assert metrics.value(family.name, **labels) == 1


def test_mistakes_are_loud(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.count("no_such_total")
    with pytest.raises(KeyError):
        metrics.value("no_such_total")
    with pytest.raises(ValueError, match="is a counter"):
        metrics.set("puts_total", 1, outcome="ok")
    with pytest.raises(ValueError, match="takes the labels"):
        metrics.count("puts_total")
    with pytest.raises(ValueError, match="takes the labels"):
        metrics.count("puts_total", outcome="ok", record="rec-1")
    with pytest.raises(ValueError, match="non-negative"):
        metrics.count("put_bytes_total", -1)


def test_registries_are_separate(metrics: Metrics) -> None:
    metrics.count("puts_total", outcome="ok")
    assert Metrics().value("puts_total", outcome="ok") == 0
    assert b"hcefs_" not in prometheus_client.generate_latest()


@pytest.mark.parametrize("value", ["", "a b", "x" * 65, 'a"b', "a\nb", "é", "-x"])
def test_label_values_that_are_no_words_are_other(metrics: Metrics, value: str) -> None:
    metrics.count("denials_total", reason=value)
    assert metrics.value("denials_total", reason="other") == 1
    assert metrics.value("denials_total", reason=value) == 0


def test_label_sets_are_bounded(metrics: Metrics) -> None:
    for number in range(LABEL_SETS_MAX + 50):
        metrics.count("denials_total", reason=f"reason-{number}")
    assert metrics.value("denials_total", reason="other") == 50
    metrics.count("denials_total", reason="reason-0")
    assert metrics.value("denials_total", reason="reason-0") == 2


def test_a_gauge_may_be_a_function(metrics: Metrics) -> None:
    held = [3]
    metrics.set("open_streams", lambda: held[0])
    assert metrics.value("open_streams") == 3
    held[0] = 4
    assert metrics.value("open_streams") == 4


def test_a_broken_gauge_does_not_take_the_page_down(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> float:
        raise OSError("the disk is gone")

    metrics.set("disk_free_bytes", broken)
    with caplog.at_level(logging.WARNING):
        assert math.isnan(metrics.value("disk_free_bytes"))
    assert "disk_free_bytes" in caplog.text


def test_the_page(metrics: Metrics) -> None:
    metrics.count("requests_total", method="put", outcome="ok")
    metrics.set("build_info", 1, version="0.1.0")
    with metrics.serve("127.0.0.1:0") as server:
        assert server.address == f"127.0.0.1:{server.port}"
        status, page = fetch(server.port)
        assert status == 200
        assert 'hcefs_requests_total{method="put",outcome="ok"} 1.0' in page
        assert 'hcefs_build_info{version="0.1.0"} 1.0' in page
        assert "hcefs_process_cpu_seconds_total" in page
        for line in page.splitlines():
            assert line.startswith(("hcefs_", "# HELP hcefs_", "# TYPE hcefs_")), line
        assert fetch(server.port, "/metrics?x=1")[0] == 200
        assert fetch(server.port, "/")[0] == 404
        assert fetch(server.port, "/metrics", "POST")[0] == 501


def test_closing_frees_the_port_and_ends_the_threads(metrics: Metrics) -> None:
    before = set(threading.enumerate())
    server = metrics.serve("127.0.0.1:0")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as idle:
        idle.sendall(b"GET /metr")  # a client that stalls
        assert fetch(server.port)[0] == 200
        server.close()
        server.close()
        assert idle.recv(1) == b""
    assert set(threading.enumerate()) <= before
    with metrics.serve(f"127.0.0.1:{server.port}") as again:
        assert fetch(again.port)[0] == 200
    gc.collect()  # an unclosed socket would warn here, and warnings are errors


def test_connections_are_bounded(metrics: Metrics) -> None:
    with metrics.serve("127.0.0.1:0") as server:
        idle = [
            socket.create_connection(("127.0.0.1", server.port), timeout=60)
            for _ in range(module.CONNECTIONS_MAX)
        ]
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as further:
            assert further.recv(1) == b""
        for connection in idle:
            connection.close()


def test_ipv6_is_bracketed(metrics: Metrics) -> None:
    try:
        server = metrics.serve("[::1]:0")
    except Unavailable:
        with pytest.raises(OSError), socket.socket(socket.AF_INET6) as probe:  # no IPv6 here
            probe.bind(("::1", 0))
        return
    with server:
        assert server.address == f"[::1]:{server.port}"


@pytest.mark.parametrize("address", ["", "host", ":1", "h:x", "h:65536", "h:" + "9" * 5000])
def test_addresses_are_checked(metrics: Metrics, address: str) -> None:
    with pytest.raises(Invalid):
        metrics.serve(address)


def test_a_port_in_use_is_named(metrics: Metrics) -> None:
    with metrics.serve("127.0.0.1:0") as server, pytest.raises(Unavailable) as caught:
        metrics.serve(server.address)
    assert caught.value.reason == "address-in-use"
    assert server.address in caught.value.message


def test_other_pages(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Body:
        raise RuntimeError("no")

    pages = {"/health/live": lambda: Body(503, b'{"ok":false}'), "/health/ready": broken}
    with metrics.serve("127.0.0.1:0", pages) as server:
        assert fetch(server.port, "/health/live?x=1") == (503, '{"ok":false}')
        status, text = fetch(server.port, "/health/ready")
        assert status == 500
        assert '"ok":false' in text
        status, text = fetch(server.port, "/health")
        assert status == 404
        assert "/health/live" in text
        assert fetch(server.port)[0] == 200
    assert "/health/ready cannot be made" in caplog.text
