"""The operators' server: who is let in, what a verb needs, what an error says."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from hcefs.cli.console import BODY_MAX, OperatorDesk, OperatorServer, Said
from hcefs.console.pages import HEADERS
from hcefs.errors import Conflict

TOKEN = "5e" * 32


class Desk:
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Mapping[str, Any]]] = []

    async def state(self) -> dict[str, Any]:
        return {"verbs": True}

    async def act(self, name: str, body: Mapping[str, Any]) -> Said:
        if name == "apply":
            raise Conflict("it is another plan now", reason="other-plan")
        self.done.append((name, body))
        return Said("done", "ab")


class Page:
    """What a browser would send, with everything right unless told otherwise."""

    def __init__(self, server: OperatorServer, desk: Desk) -> None:
        self.server = server
        self.desk = desk

    async def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, Any]:
        sent = {
            "Host": self.server.host,
            "Origin": f"http://{self.server.host}",
            "X-Hcefs-Token": TOKEN,
        }
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}

        def work() -> tuple[int, Any]:
            connection = http.client.HTTPConnection(self.server.host, timeout=60)
            try:
                connection.request(method, path, body or None, {k: v for k, v in sent.items() if v})
                answer = connection.getresponse()
                data = answer.read()
                assert HEADERS.items() <= dict(answer.getheaders()).items()
                is_json = answer.getheader("Content-Type") == "application/json"
                return answer.status, json.loads(data) if is_json else data
            finally:
                connection.close()

        return await asyncio.to_thread(work)


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    desk = Desk()
    with OperatorServer(cast(OperatorDesk, desk), TOKEN, 0) as server:
        yield Page(server, desk)


async def test_it_listens_on_the_loopback_interface_only(page: Page) -> None:
    assert page.server.host.startswith("127.0.0.1:")


async def test_with_the_token_there_are_state_and_verbs(page: Page) -> None:
    assert await page.ask("GET", "/console/state.json") == (200, {"verbs": True})
    told = await page.ask("POST", "/console/verbs/drain", b'{"node":"3"}')
    assert told == (200, {"said": "done", "digest": "ab"})
    assert page.desk.done == [("drain", {"node": "3"})]


@pytest.mark.parametrize("token", ["", "5e" * 31, "5f" + "5e" * 31, "5e" * 33])
async def test_without_it_there_is_neither(page: Page, token: str) -> None:
    for method, path in (("GET", "/console/state.json"), ("POST", "/console/verbs/repair-now")):
        status, said = await page.ask(method, path, X_Hcefs_Token=token)
        assert status == 403
        assert said["reason"] == "no-token"
        assert TOKEN not in json.dumps(said)
    assert page.desk.done == []


@pytest.mark.parametrize("origin", ["", "null", "http://rebound.example", "https://127.0.0.1"])
async def test_another_page_may_not_use_verbs(page: Page, origin: str) -> None:
    status, said = await page.ask("POST", "/console/verbs/repair-now", Origin=origin)
    assert (status, said["reason"]) == (403, "foreign-origin")
    assert page.desk.done == []


async def test_another_name_is_refused_before_anything(page: Page) -> None:
    for path in ("/console", "/console/state.json"):
        status, _ = await page.ask("GET", path, Host="rebound.example")
        assert status == 421
    status, _ = await page.ask("POST", "/console/verbs/repair-now", Host="rebound.example")
    assert status == 421
    assert page.desk.done == []


async def test_a_verb_is_never_a_get(page: Page) -> None:
    status, _ = await page.ask("GET", "/console/verbs/repair-now")
    assert status == 404
    assert page.desk.done == []


async def test_an_error_says_what_it_is(page: Page) -> None:
    status, said = await page.ask("POST", "/console/verbs/apply", b"{}")
    assert (status, said["reason"]) == (400, "other-plan")


@pytest.mark.parametrize("body", [b"[]", b"{", b'"x"', b"\xff"])
async def test_a_body_is_a_json_object(page: Page, body: bytes) -> None:
    status, said = await page.ask("POST", "/console/verbs/drain", body)
    assert (status, said["reason"]) == (400, "bad-body")
    assert page.desk.done == []


async def test_a_large_body_is_not_read(page: Page) -> None:
    status, _ = await page.ask("POST", "/console/verbs/drain", b" " * (BODY_MAX + 1))
    assert status == 413
    assert page.desk.done == []


async def test_a_fault_says_nothing_of_itself(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> dict[str, Any]:
        raise RuntimeError("secret")

    monkeypatch.setattr(page.desk, "state", broken)
    status, said = await page.ask("GET", "/console/state.json")
    assert (status, said["reason"]) == (500, "fault")
    assert "secret" not in said["said"]
