"""A tab of headless Chromium, spoken to in the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

_KEYS = {"ArrowRight": (39, ""), "ArrowLeft": (37, ""), "Enter": (13, "\r"), "h": (72, "h"), "+": (187, "+"), "0": (48, "0")}


class Browser:
    """The tab; what its console complains of is kept in `complaints`."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._calls = socket, 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.write_message(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.read_message())
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                complaint = json.dumps(message["params"])
                if "Multiple readback operations" not in complaint:  # of `pixel`, not of the page
                    self.complaints.append(complaint)
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return dict(message["result"])

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def text(self, element: str) -> str:
        return str(await self.evaluate(f"document.getElementById('{element}')?.textContent ?? ''"))

    async def enabled(self, element: str) -> bool:
        return bool(await self.evaluate(f"!document.getElementById('{element}').disabled"))

    async def click(self, element: str) -> None:
        await self.evaluate(f"document.getElementById('{element}').click()")

    async def set(self, element: str, value: object) -> None:
        """Give an input a value, as a user's hand would."""
        await self.evaluate(
            f"{{ const input = document.getElementById('{element}'); input.value = {value!r}; "
            "input.dispatchEvent(new Event('input', { bubbles: true })); }"
        )

    async def until(self, element: str, beginning: str) -> str:
        """Wait for the element's text to begin so, and return it."""
        async with asyncio.timeout(30):
            while not (found := await self.text(element)).startswith(beginning):
                await asyncio.sleep(0.05)
        return found

    async def until_true(self, expression: str) -> None:
        async with asyncio.timeout(30):
            while not await self.evaluate(f"!!({expression})"):
                await asyncio.sleep(0.05)

    async def press(self, key: str, *kinds: str) -> None:
        code, text = _KEYS[key]
        for kind in kinds or ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    async def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        button = {} if kind in ("mouseMoved", "mouseWheel") else {"button": "left", "clickCount": 1}
        held = {"button": "left", "buttons": 1} if more.pop("held", False) else {}
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, **held, **more)

    async def choose(self, *files: Path) -> None:
        """Give the page these files, as its button does."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector="#file"))["nodeId"]
        await self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    async def size(self, width: int, height: int, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone
        )

    async def pixel(self, x: float, y: float) -> list[int]:
        """The canvas' red, green and blue at the point (x, y) of the image that it shows."""
        return list(await self.evaluate(_PIXEL.format(x=x, y=y)))

    async def pixels(self, points: Sequence[tuple[float, float]]) -> list[list[int]]:
        return [await self.pixel(x, y) for x, y in points]

    async def saved(self, element: str, folder: Path) -> Path:
        """Press a button that saves a file, and wait for it."""
        before = set(folder.iterdir())
        await self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        await self.click(element)
        async with asyncio.timeout(30):
            while not (new := set(folder.iterdir()) - before) or any(_begun(path) for path in new):
                await asyncio.sleep(0.05)
        return new.pop()

    async def photograph(self, name: str) -> None:
        """A screenshot into the folder GAZESEG_SCREENSHOTS, where there is one, for a person to look at."""
        if folder := os.environ.get("GAZESEG_SCREENSHOTS"):
            shot = await self.call("Page.captureScreenshot", format="png")
            (Path(folder) / name).write_bytes(base64.b64decode(shot["data"]))


def _begun(path: Path) -> bool:
    """Whether Chromium is still writing a file, which it does under another name beside an empty one."""
    return path.suffix == ".crdownload" or path.stat().st_size == 0


_PIXEL = """(() => {{
  const canvas = document.getElementById("canvas");
  const {{ scale, left, top }} = canvas.dataset;
  const dense = canvas.width / canvas.clientWidth;
  const at = (value, start) => Math.floor((Number(start) + value * scale) * dense);
  return [...canvas.getContext("2d").getImageData(at({x}, left), at({y}, top), 1, 1).data.slice(0, 3)];
}})()"""


@asynccontextmanager
async def browsing(url: str, profile: Path, *flags: str) -> AsyncIterator[Browser]:
    """A browser at `url`. flags: more of Chromium's own."""
    from tornado.websocket import websocket_connect

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium is not None, "the browser tests need chromium on the PATH"
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900",
               f"--user-data-dir={profile}", "--remote-debugging-port=0", *flags, "about:blank"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = profile / "DevToolsActivePort"
        async with asyncio.timeout(30):
            while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
                await asyncio.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        pages = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
        target = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
        socket = await websocket_connect(target, max_message_size=100 * 2**20)
        try:
            tab = Browser(socket)
            for domain in ("Log", "Runtime", "Page"):
                await tab.call(f"{domain}.enable")
            await tab.call("Page.navigate", url=url)
            yield tab
        finally:
            socket.close()
            while await socket.read_message() is not None:  # None: closed on both sides
                pass
    finally:
        process.kill()
        process.wait(10)
