"""Make docs/pictures/ from the program itself: the strip of a demo, and the page in Chromium, moving.

gazeseg-serve demo --out build/demo && python docs/make_pictures.py build/demo
"""

from __future__ import annotations

import asyncio
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
SIZE = (1180, 760)
STEPS = ("threshold", (0.5, 0.3, 0.15, 0.3, 0.5, 0.7, 0.85, 0.7)), ("opacity", (0.45, 0.2, 0.0, 0.45))


async def photograph(url: str) -> list[Image.Image]:
    """The page with a sample, then with its threshold and opacity moved."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import Browser, browsing

    async def shot(tab: Browser) -> Image.Image:
        import base64

        taken = await tab.call("Page.captureScreenshot", format="png")
        return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")

    with tempfile.TemporaryDirectory() as profile:
        async with browsing(f"{url}/#sample=2", Path(profile)) as tab:
            await tab.size(*SIZE)
            ready = "document.getElementById('area')?.textContent && !document.getElementById('download').disabled"
            await tab.until_true(ready)
            frames = [await shot(tab)]
            for name, values in STEPS:
                for value in values:
                    await tab.set(name, str(value))
                    await tab.until_true(ready)
                    await asyncio.sleep(0.3)  # the page waits that long for a hand that moves on
                    await tab.until_true(ready)
                    frames.append(await shot(tab))
            return frames


def main(demo: Path) -> None:
    shutil.copy(demo / "strip.png", PICTURES / "strip.png")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    service = subprocess.Popen([sys.executable, "-m", "gazeseg_serve", "serve", "--port", str(port)])
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        frames = asyncio.run(photograph(url))
    finally:
        service.terminate()
        service.wait(60)
    small = [frame.resize((SIZE[0] * 2 // 3, SIZE[1] * 2 // 3)).quantize(96) for frame in frames]
    small[0].save(PICTURES / "page.gif", save_all=True, append_images=small[1:], duration=600, loop=0, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
