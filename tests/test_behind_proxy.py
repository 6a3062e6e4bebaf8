"""Under a path prefix, behind a real nginx with the location that deploy/ ships: the page, its samples, /docs, the client."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from artifacts import write_artifact
from browser import browsing

pytest.importorskip("bentoml")
from serving import PIXELS, encoded, running, serve, wait_until_ready

from gazeseg_serve.client import Client
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.service.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "service" / "page"


def test_the_page_names_nothing_from_the_root() -> None:
    for path in PAGE.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            assert not re.findall(r"""(?:href|src|sample)=["']/|["'`(]/(?:v1|page|docs|openapi|metrics)""", path.read_text()), (
                path.name
            )


def test_a_prefix_that_is_passed_on_whole_is_taken_off(folder: Path) -> None:
    with serve(Settings(artifact=folder, root_path="/ward/gaze", api_keys=("k",))) as client:
        wait_until_ready(client)
        for prefix in ("", "/ward/gaze"):
            assert client.get(prefix + "/livez").status_code == 200
            assert client.get(prefix + "/").status_code == 200
            assert client.get(prefix + "/v1/model").status_code == 401  # keys are asked for behind the prefix, too
            answer = client.post(prefix + "/v1/segment", files={"image": encoded()}, headers={"X-API-Key": "k"})
            assert answer.status_code == 200
        bare = client.get("/ward/gaze", follow_redirects=False)
        assert (bare.status_code, bare.headers["location"]) == (308, "/ward/gaze/")
        assert client.get("/ward/gazette").status_code == 404
        assert "/ward" not in client.get("/metrics").text  # routes are patterns


@pytest.mark.parametrize("wrong", ["gaze", "/gaze/", "/", "/a b", "/a//b", "//other.example", "/a?b"])
def test_a_prefix_that_cannot_be_one_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAZESEG_ROOT_PATH", wrong)
    with pytest.raises(ConfigError, match="root_path"):
        load_settings()


def _listens(port: int) -> bool:
    with socket.socket() as plug:
        return plug.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(scratch: Path, service_port: int) -> Iterator[str]:
    """nginx on a loopback port: `/gaze/` as deploy/nginx ships it, `/whole/` passed on as it is; all else is 404."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shipped = (ROOT / "deploy/nginx/gazeseg.conf").read_text().replace("127.0.0.1:3000", f"127.0.0.1:{service_port}")
    whole = re.sub(rf"(:{service_port})/\S*;", r"\1;", shipped.replace("/gaze/", "/whole/"))
    assert whole.count(f"127.0.0.1:{service_port};") == shipped.count("proxy_pass http") == 2
    stores = "".join(f"{kind}_temp_path {scratch / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = scratch / "nginx.conf"
    config.write_text(
        # Started by root it would take another user, who may not write where pytest lets us.
        f"{'user root;' if os.geteuid() == 0 else ''}\ndaemon off;\nerror_log stderr;\npid {scratch / 'nginx.pid'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{stores}"
        f"server {{\nlisten 127.0.0.1:{port};\nlocation / {{ return 404; }}\n{shipped}\n{whole}\n}}\n}}\n"
    )
    with (scratch / "nginx.log").open("w") as log:
        process = subprocess.Popen(["nginx", "-p", str(scratch), "-c", str(config)], stderr=log)
    try:
        end = time.monotonic() + 20
        while not _listens(port):
            assert process.poll() is None, (scratch / "nginx.log").read_text()
            assert time.monotonic() < end
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.browser
def test_behind_nginx_everything_works_under_a_prefix(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    write_artifact(tmp_path / "artifact")

    async def look(url: str, profile: Path) -> None:
        async with browsing(url + "/#sample=1", profile) as tab:
            await tab.until("status", "Done in")
            assert await tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert await tab.evaluate("document.querySelector('nav a').href") == url + "/docs"
            assert not tab.complaints
        async with browsing(url + "/docs", profile.with_suffix(".docs")) as tab:
            await tab.until_true("document.querySelectorAll('.opblock').length")
            # "Try it out" of GET /v1/models, as a reader does it.
            row = "document.querySelector('.opblock:has([data-path=\"/v1/models\"])')"
            await tab.evaluate(row + ".querySelector('button').click()")
            for button in (".try-out__btn", ".execute"):
                await tab.until_true(f"{row}.querySelector('{button}')")
                await tab.evaluate(f"{row}.querySelector('{button}').click()")
            await tab.until_true(row + ".querySelector('.live-responses-table .response .response-col_status')")
            asked = await tab.evaluate(row + ".querySelector('.request-url').textContent")
            assert url + "/v1/models" in asked
            assert (
                await tab.evaluate(row + ".querySelector('.live-responses-table .response .response-col_status').textContent")
            ) == "200"
            assert not tab.complaints

    with running(tmp_path / "artifact", tmp_path, GAZESEG_ROOT_PATH="/whole") as service, nginx(tmp_path, service.port) as url:
        assert httpx.get(url + "/v1/model").status_code == 404  # nothing answers outside the prefixes
        for prefix in ("/gaze", "/whole"):
            bare = httpx.get(url + prefix, follow_redirects=True)
            assert (bare.status_code, str(bare.url)) == (200, url + prefix + "/")
            with Client(url + prefix) as client:
                labels = client.segment(PIXELS).labels
                assert labels.shape == PIXELS.shape[:2]
                streamed = list(client.stream([(0.0, PIXELS), (0.1, PIXELS)]))
                assert all((answer.labels == labels).all() for answer in streamed if answer.labels is not None)
                assert streamed[-1].labels is not None
            large = httpx.post(url + prefix + "/v1/segment", content=bytes(2**21), headers={"Content-Type": "image/png"})
            assert (large.status_code, large.json()["code"]) == (415, "unsupported-image")  # nginx let two megabytes pass
            asyncio.run(look(url + prefix, tmp_path / prefix.strip("/")))
