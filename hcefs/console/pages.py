"""Answers of the console over HTTP: its files, its snapshot, its headers.

Invariants: everything is read-only and served from the package; no path of a request
reaches a file system.  Each answer, refusals too, carries the same headers: scripts, styles
and requests only from here, no frames, no forms.  A ``Host`` that is neither an IP address nor
a name of this process is refused, so that no name that somebody points at this address
(DNS rebinding) lets a page elsewhere read the snapshot.

Source: https://www.w3.org/TR/CSP3/; docs/decisions/0039-console.md.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Callable, Collection, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from hcefs.metrics import SiteAnswer

PREFIX: Final = "/console"
STATE_PATH: Final = PREFIX + "/state.json"
CACHE_SECONDS = 1.0

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
)
_FILES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        PREFIX: ("console.html", "text/html; charset=utf-8"),
        PREFIX + "/": ("console.html", "text/html; charset=utf-8"),
        PREFIX + "/app.js": ("app.js", "text/javascript; charset=utf-8"),
        PREFIX + "/style.css": ("style.css", "text/css; charset=utf-8"),
        PREFIX + "/icon.svg": ("icon.svg", "image/svg+xml"),
    }
)


def host_is_known(host: str, names: Collection[str]) -> bool:
    """Whether a ``Host`` header is an IP address, localhost, or one of some names."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    name = name.lower().removesuffix(".")
    if name == "localhost" or (name and name in {each.lower() for each in names}):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def name_of(address: str) -> str:
    """The host of ``host:port``."""
    return address.rpartition(":")[0].strip("[]")


def answer(status: int, content_type: str, data: bytes) -> SiteAnswer:
    """An answer with the headers that all of them have."""
    return SiteAnswer(status, {"Content-Type": content_type, **HEADERS}, data)


def refusal(status: int, reason: str) -> SiteAnswer:
    """An answer in one line of text."""
    return answer(status, "text/plain; charset=utf-8", reason.encode() + b"\n")


def state_answer(state: Mapping[str, Any]) -> SiteAnswer:
    """A snapshot as JSON."""
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    return answer(200, "application/json", text.encode() + b"\n")


class ConsoleSite:
    """The console of one process; threads may ask it at once."""

    def __init__(
        self,
        state: Callable[[], Mapping[str, Any]],
        monotonic: Callable[[], float],
        names: Callable[[], Collection[str]],
    ) -> None:
        """``state`` makes a snapshot; ``names`` are those by which this process is reached."""
        self._state = state
        self._monotonic = monotonic
        self._names = names
        self._lock = threading.Lock()
        self._kept: tuple[float, SiteAnswer] | None = None

    def __call__(self, path: str, host: str) -> SiteAnswer:
        """The answer for a path."""
        if not host_is_known(host, self._names()):
            return refusal(421, "this process has no such name: ask for it by its IP address")
        if path == STATE_PATH:
            return self._snapshot()
        found = static_answer(path)
        return found if found is not None else refusal(404, f"there are {PREFIX}, {STATE_PATH}")

    def _snapshot(self) -> SiteAnswer:
        # Under the lock: however many look at once, a snapshot is made once a second.
        with self._lock:
            now = self._monotonic()
            if self._kept is None or not 0 <= now - self._kept[0] < CACHE_SECONDS:
                self._kept = (now, state_answer(self._state()))
            return self._kept[1]


def static_answer(path: str) -> SiteAnswer | None:
    """A file of the console, or None."""
    known = _FILES.get(path)
    if known is None:
        return None
    name, content_type = known
    data = (files("hcefs.console") / "static" / name).read_bytes()
    return answer(200, content_type, data)
