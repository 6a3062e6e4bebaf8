"""The page at `/`: what it loads, what it names, and, in a browser, what it shows."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from artifacts import write_artifact
from dicoms import dicom_file

pytest.importorskip("bentoml")
from serving import Running, running

PAGE = Path(__file__).parent.parent / "service" / "page"


def test_nothing_is_loaded_from_another_host() -> None:
    for path in PAGE.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text()), path.name


def test_every_element_the_script_uses_is_in_the_page() -> None:
    script, page = (PAGE / "app.js").read_text(), (PAGE / "index.html").read_text()
    used = set(re.findall(r'at\("([\w-]+)"\)', script))
    assert len(used) > 10
    assert used <= set(re.findall(r'id="([\w-]+)"', page))


def test_every_control_has_a_name_and_the_status_is_announced() -> None:
    page = (PAGE / "index.html").read_text()
    labelled = set(re.findall(r'<label[^>]*for="([\w-]+)"', page))
    for control in re.findall(r"<input[^>]*>", page):
        name = re.search(r'id="([\w-]+)"', control)
        assert name is not None
        inside = re.search(rf'<label[^>]*>\s*<input[^>]*id="{name[1]}"', page)
        assert name[1] in labelled or inside, control
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))
    assert 'aria-live="polite"' in page
    assert '<html lang="en">' in page


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    with running(folder, tmp_path_factory.mktemp("service")) as service:
        yield service


class Browser:
    """A tab of headless Chromium, spoken to in the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._calls = socket, 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.write_message(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.read_message())
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(json.dumps(message["params"]))
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return dict(message["result"])

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def text(self, element: str) -> str:
        return str(await self.evaluate(f"document.getElementById('{element}')?.textContent ?? ''"))

    async def until(self, element: str, beginning: str) -> str:
        """Wait for the element's text to begin so, and return it."""
        async with asyncio.timeout(30):
            while not (found := await self.text(element)).startswith(beginning):
                await asyncio.sleep(0.05)
        return found

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            code, text = {"ArrowRight": (39, ""), "Enter": (13, "\r")}[key]
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


@asynccontextmanager
async def browsing(url: str, profile: Path) -> AsyncIterator[Browser]:
    """A browser at `url`; its console is kept in `complaints`."""
    from tornado.websocket import websocket_connect

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium is not None, "the browser tests need chromium on the PATH"
    process = subprocess.Popen(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
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


async def photograph(tab: Browser, file: Path) -> None:
    """A screenshot, for a person to look at."""
    file.write_bytes(base64.b64decode((await tab.call("Page.captureScreenshot", format="png"))["data"]))


def pixels(area: str) -> int:
    return int(area.split(" ")[0].replace(",", ""))


@pytest.mark.browser
def test_a_sample_is_segmented_and_the_threshold_moves_the_mask_by_keyboard(service: Running, tmp_path: Path) -> None:
    answer = httpx.post(
        service.url + "/v1/segment?output=json",
        content=(PAGE / "sample2.jpg").read_bytes(),
        headers={"Content-Type": "image/jpeg"},
    ).json()

    async def scenario() -> None:
        async with browsing(service.url + "/#sample=2&disagreement", tmp_path) as tab:
            await tab.until("status", "Done in")
            # The browser cuts 8 bits of the probability, the server all of it.
            area = pixels(await tab.text("area"))
            assert area == pytest.approx(answer["classes"][0]["area"], rel=0.03)
            assert await tab.text("spread") == f"{answer['mean_disagreement']:.4f}"
            assert "448 × 448" in await tab.text("size")
            assert "engine" in await tab.text("time")
            assert await tab.evaluate("document.getElementById('key-row').checkVisibility()") is False
            await tab.evaluate("document.getElementById('threshold').focus()")
            for _ in range(5):
                await tab.press("ArrowRight")
            assert await tab.text("threshold-value") == "0.55"
            assert pixels(await tab.text("area")) < area
            assert "0.55" in await tab.evaluate("document.getElementById('canvas').getAttribute('aria-label')")
            if folder := os.environ.get("GAZESEG_SCREENSHOTS"):
                await photograph(tab, Path(folder) / "sample.png")
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_sample_can_be_chosen_by_keyboard(service: Running, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await tab.until("model", "lesion")  # the buttons work by then; "No image yet." stands there before
            await tab.evaluate("document.querySelector('[data-sample]').focus()")
            await tab.press("Enter")
            await tab.until("status", "Done in")
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_what_the_service_refuses_is_said(service: Running, tmp_path: Path) -> None:
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"this is no image")

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await tab.until("model", "lesion")  # the script of this page, not the blank one's
            root = (await tab.call("DOM.getDocument"))["root"]["nodeId"]
            node = (await tab.call("DOM.querySelector", nodeId=root, selector="#file"))["nodeId"]
            await tab.call("DOM.setFileInputFiles", nodeId=node, files=[str(junk)])
            await tab.until("status", "not an image")

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_dicom_slice_is_shown_though_the_browser_cannot_read_it(service: Running, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    slice_ = tmp_path / "slice.dcm"
    slice_.write_bytes(dicom_file(1, np.linspace(100, 4000, 64)[None].repeat(40, axis=0).astype(np.uint16)))

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await tab.until("model", "lesion")  # the script of this page, not the blank one's
            root = (await tab.call("DOM.getDocument"))["root"]["nodeId"]
            node = (await tab.call("DOM.querySelector", nodeId=root, selector="#file"))["nodeId"]
            await tab.call("DOM.setFileInputFiles", nodeId=node, files=[str(slice_)])
            await tab.until("status", "Done in")
            assert "64 × 40" in await tab.text("size")
            shown = "[...document.getElementById('canvas').getContext('2d').getImageData({x}, 20, 1, 1).data.slice(0, 3)]"
            dark, bright = [sum(await tab.evaluate(shown.format(x=x))) for x in (2, 60)]
            assert dark < bright
            if folder := os.environ.get("GAZESEG_SCREENSHOTS"):
                await photograph(tab, Path(folder) / "dicom.png")

    asyncio.run(scenario())


@pytest.mark.browser
def test_the_docs_show_every_route(service: Running, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url + "/docs", tmp_path) as tab:
            async with asyncio.timeout(30):
                while not await tab.evaluate("document.querySelectorAll('.opblock').length"):
                    await asyncio.sleep(0.05)
            shown = await tab.evaluate("[...document.querySelectorAll('[data-path]')].map(e => e.dataset.path)")
            assert set(httpx.get(service.url + "/openapi.json").json()["paths"]) <= set(shown)
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_service_with_keys_asks_for_one_and_takes_it(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")

    async def scenario(url: str) -> None:
        async with browsing(url + "/#sample=1", tmp_path / "profile") as tab:
            await tab.until("status", "send a valid key")
            assert await tab.evaluate("document.getElementById('key-row').checkVisibility()") is True
            await tab.evaluate("document.getElementById('key').value = 'secret'")
            await tab.evaluate("document.getElementById('key-row').requestSubmit()")
            await tab.until("status", "No image yet")
            await tab.evaluate("document.querySelector('[data-sample]').click()")
            await tab.until("status", "Done in")

    with running(tmp_path / "artifact", tmp_path, GAZESEG_API_KEYS="secret") as guarded:
        asyncio.run(scenario(guarded.url))
