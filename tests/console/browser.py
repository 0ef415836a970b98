"""A headless Chromium, driven over its DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

DEADLINE_SECONDS = 90.0


class Browser:
    """One page of it; ``events`` are all that it told so far."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command and its result."""
        self._number += 1
        number = self._number
        order = {"id": number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        await self._socket.send(json.dumps(order))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                said = json.loads(await self._socket.recv())
                if said.get("id") == number:
                    assert "error" not in said, said
                    found: dict[str, Any] = said["result"]
                    return found
                self.events.append(said)

    async def open(self) -> None:
        """Have a page of our own, and hear what happens in it."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def look(self, width: int, scheme: str) -> None:
        """How wide the page is, and which colours the reader wants."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    async def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await self.value(expression):
                await asyncio.sleep(0.1)

    async def visit(
        self, url: str, ready: str = "document.body !== null && document.body.dataset.ready === '1'"
    ) -> None:
        """Load a page and wait for the first snapshot in it."""
        await self.call("Page.navigate", url=url)
        await self.until(ready)

    async def press_tab(self) -> str:
        """Press Tab; what has the focus then."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                            windowsVirtualKeyCode=9)  # fmt: skip
        found = await self.value(
            "(a => a.id || a.dataset.key || a.className || a.tagName)(document.activeElement)"
        )
        return str(found)

    async def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """What the page threw, or the browser refused or warned of."""
        return [
            json.dumps(event["params"])[:500]
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or (event.get("method") == "Runtime.consoleAPICalled"
                and event["params"]["type"] in ("error", "warning"))
            or (event.get("method") == "Log.entryAdded"
                and event["params"]["entry"]["level"] in ("error", "warning"))
        ]  # fmt: skip

    def requested(self) -> set[str]:
        """Every address that the page asked."""
        return {
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        }

    def weight(self) -> int:
        """Bytes that came over the wire."""
        return sum(
            int(event["params"]["encodedDataLength"])
            for event in self.events
            if event.get("method") == "Network.loadingFinished"
        )


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own; it has ended at the end."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("these tests need Chromium (Debian package chromium)")
    process = await asyncio.create_subprocess_exec(
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        said = folder / "DevToolsActivePort"
        await _until(lambda: said.exists() and len(said.read_text().split()) >= 2)
        port, path = said.read_text().split()[:2]
        async with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as socket:
            browser = Browser(socket)
            await browser.open()
            yield browser
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)  # its children too
        await process.wait()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():
            await asyncio.sleep(0.05)
