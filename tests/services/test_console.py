"""The console of a storage node over HTTP: its page, its snapshot, its refusals."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

import pytest

from hcefs.console.pages import HEADERS
from tests.services.rig import Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("services")]

Answer = tuple[int, dict[str, str], bytes]


async def ask(rig: Rig, path: str, method: str = "GET", host: str = "") -> Answer:
    """One request to the first node's metrics port."""
    address = rig.nodes[0].process.health_address

    def work() -> Answer:
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request(method, path, headers={"Host": host} if host else {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    return await rig.nodes[0].runtime.disk(work)


async def state(rig: Rig) -> dict[str, Any]:
    status, _, data = await ask(rig, "/console/state.json")
    assert status == 200
    found: dict[str, Any] = json.loads(data)
    return found


def is_whole(shown: dict[str, Any]) -> bool:
    """Whether all nodes were heard, and told of a replica that has begun."""
    return shown["verdict"]["read"]["ok"] and all(
        node["answers"] and node["facts"] and node["facts"]["height"] for node in shown["nodes"]
    )


async def test_a_node_shows_what_all_nodes_tell(rig: Rig) -> None:
    async with asyncio.timeout(90):
        while not is_whole(shown := await state(rig)):
            await rig.runtime.sleep(0.1)
    assert shown["verdict"]["write"]["ok"]
    assert shown["verdict"]["spare_shards"]["ec-4-2"] == 2
    assert [node["id"] for node in shown["nodes"]] == [1, 2, 3, 4, 5, 6]
    for node in shown["nodes"]:
        assert node["facts"]["total_bytes"] > 0
    text = json.dumps(shown)
    for each in rig.nodes:
        assert each.process.account.text not in text
        assert each.config.client_address not in text


async def test_each_answer_has_the_headers(rig: Rig) -> None:
    paths = ("/console", "/console/", "/console/app.js", "/console/style.css")
    for path in (*paths, "/console/icon.svg", "/console/state.json", "/console/../metrics"):
        status, headers, data = await ask(rig, path)
        assert status == (404 if ".." in path else 200)
        assert data
        assert {name: headers[name] for name in HEADERS} == dict(HEADERS)


async def test_head_has_no_body_and_other_methods_are_refused(rig: Rig) -> None:
    status, headers, data = await ask(rig, "/console", "HEAD")
    assert (status, data) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    for method in ("POST", "PUT", "DELETE"):
        status, _, _ = await ask(rig, "/console", method)
        assert status == 501


async def test_a_foreign_name_is_refused(rig: Rig) -> None:
    for path in ("/console", "/console/state.json"):
        status, _, data = await ask(rig, path, host="rebound.example:80")
        assert status == 421
        assert b"cluster" not in data
