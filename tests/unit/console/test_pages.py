"""Routing, headers, names and caching of the console's pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pytest

from hcefs.console.pages import HEADERS, ConsoleSite, host_is_known, name_of, static_answer

NAMES = frozenset({"node-1.clinic.example"})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:7013",
        "10.1.2.3:80",
        "[::1]:7013",
        "[::1]",
        "localhost",
        "LOCALHOST:1",
        "node-1.clinic.example:7013",
        "Node-1.Clinic.Example.",
    ],
)
def test_own_names_are_known(host: str) -> None:
    assert host_is_known(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "rebound.example",
        "127.0.0.1.rebound.example",
        "localhost.rebound.example:80",
        "node-1.clinic.example.rebound.example",
        "node-1.clinic.example@rebound.example",
        "127.0.0.1:x",
        "[::1",
        "[::1]x",
        "[rebound.example]",
        "2130706433",
        "0x7f.1",
    ],
)
def test_other_names_are_not(host: str) -> None:
    assert not host_is_known(host, NAMES)


def test_the_host_of_an_address() -> None:
    assert name_of("node.example:7011") == "node.example"
    assert name_of("[::1]:7011") == "::1"


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def test_a_snapshot_is_made_once_a_second() -> None:
    clock, made = Clock(), list[int]()

    def state() -> Mapping[str, Any]:
        made.append(len(made))
        return {"made": len(made)}

    site = ConsoleSite(state, clock, lambda: NAMES)
    first = site("/console/state.json", "localhost")
    assert json.loads(first.data) == {"made": 1}
    clock.now += 0.9
    assert site("/console/state.json", "localhost").data == first.data
    clock.now += 0.2
    assert json.loads(site("/console/state.json", "localhost").data) == {"made": 2}


def test_a_refused_name_makes_no_snapshot() -> None:
    def never() -> Mapping[str, Any]:
        raise AssertionError("made")

    site = ConsoleSite(never, Clock(), lambda: NAMES)
    answer = site("/console/state.json", "rebound.example")
    assert answer.status == 421
    assert HEADERS.items() <= answer.headers.items()


@pytest.mark.parametrize("path", ["/console/app.css", "/console//", "/console/../x", "/consolex"])
def test_there_is_nothing_else(path: str) -> None:
    site = ConsoleSite(dict, Clock(), lambda: NAMES)
    assert site(path, "localhost").status == 404
    assert static_answer(path) is None


def test_the_page_is_small_and_takes_nothing_from_elsewhere() -> None:
    static = files("hcefs.console") / "static"
    texts = {each.name: each.read_text(encoding="utf-8") for each in static.iterdir()}
    assert sum(len(text.encode()) for text in texts.values()) <= 60 * 1024
    for name, text in texts.items():
        assert "https://" not in text, name
        assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0, name
    assert "style=" not in texts["console.html"]
    assert "onclick=" not in texts["console.html"]
    # What comes from the cluster gets into the page as text: nothing is ever parsed as markup.
    script = texts["app.js"]
    for markup in ("innerHTML =", "innerHTML=", "outerHTML", "insertAdjacentHTML", "eval("):
        assert markup not in script
