"""Build and run the serving image where there is no Docker engine: debootstrap, buildah, podman and runc, as root.

    apt-get install debootstrap buildah podman runc
    python deploy/container.py base                          Debian with Python, as an image of its own
    python deploy/container.py build                         the Dockerfile on it
    python deploy/container.py list                          what has been built
    python deploy/container.py measure --runs 5              its size and its time to ready, as JSON
    python deploy/container.py run --port 3000               serve from it until SIGTERM

A host that needs certificates or settings of its own to reach the package index lends them to the build, read-only:
`build --mount /etc/ssl/certs/ca-certificates.crt --mount /etc/pip.conf`. Images are kept as plain folders (vfs) under
`--store`, builds are isolated by chroot and containers share the host's network, so that this works inside another container.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE, IMAGE = "localhost/python-base", "localhost/gazeseg-serve:cpu"
# Podman's own default is more than a process without rights may ask for inside another container.
_FILES = 4096


@dataclass(frozen=True)
class Store:
    """The folder that holds the images."""

    folder: Path

    def command(self, tool: str) -> list[str]:
        places = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs"]
        podman = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        return [tool, *places, *(podman if tool == "podman" else [])]

    def podman(self, *arguments: str) -> str:
        """Run podman and return what it printed; its complaint ends the program where it fails."""
        done = subprocess.run([*self.command("podman"), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def size(self, image: str) -> int:
        """Bytes of all files of the image."""
        return int(self.podman("image", "inspect", "--format", "{{.Size}}", image))


def make_base(store: Store, name: str, suite: str, mirror: str) -> None:
    """Debian's smallest system with Python, imported as image `name`."""
    with tempfile.TemporaryDirectory(prefix="gazeseg-base-") as scratch:
        system, archive = Path(scratch, "system"), Path(scratch, "base.tar")
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3,python3-venv", suite, str(system), mirror], check=True
        )
        for cache in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(system / cache)
            (system / cache).mkdir()
        subprocess.run(["tar", "-C", str(system), "-cf", str(archive), "."], check=True)
        store.podman("import", str(archive), name)


def build(store: Store, base: str, tag: str, mounts: Sequence[str]) -> None:
    """The Dockerfile's target `cpu` on `base`; `mounts` are paths of the host, or SOURCE:TARGET, that the build may read."""
    pairs = [mount if ":" in mount else f"{mount}:{mount}" for mount in mounts]
    volumes = [part for pair in pairs for part in ("--volume", f"{pair}:ro")]
    # In Docker's own format: the other one has no place for a health check.
    subprocess.run(
        [
            *store.command("buildah"),
            "build",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--format",
            "docker",
            "--layers=false",
            "--pull-never",
            "--target",
            "cpu",
            "--build-arg",
            f"CPU_BASE={base}",
            *volumes,
            "--tag",
            tag,
            str(ROOT),
        ],
        check=True,
    )


@contextmanager
def running(store: Store, tag: str, port: int, models: Path | None = None) -> Iterator[str]:
    """A container of `tag` that listens on `port`, its artifact in `models` if given; its name. Removed at the end.

    One of that name that a killed caller has left is replaced.
    """
    name = f"gazeseg-{port}"
    volumes = ["--volume", f"{models}:/models:ro"] if models else []
    store.podman(
        "run",
        "--detach",
        "--replace",
        "--name",
        name,
        "--network",
        "host",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--ulimit",
        f"nofile={_FILES}:{_FILES}",
        "--ulimit",
        f"nproc={_FILES}:{_FILES}",
        "--no-healthcheck",
        *volumes,
        tag,
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    )
    try:
        yield name
    finally:
        store.podman("rm", "--force", "--time", "40", name)


def wait_until_ready(store: Store, name: str, port: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
        except OSError:  # nobody listens yet, or 503
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"not ready in {seconds:.0f} s: {store.podman('logs', name)}")


def measure(store: Store, base: str, tag: str, port: int, runs: int) -> dict[str, object]:
    """Sizes in MB (10^6 bytes), and seconds from `podman run` to the first 200 of /readyz."""
    ready = []
    for _ in range(runs):
        start = time.monotonic()
        with running(store, tag, port) as name:
            started = time.monotonic()
            wait_until_ready(store, name, port)
            end = time.monotonic()
        ready.append({"podman_s": round(started - start, 2), "service_s": round(end - started, 2)})
    image, below = store.size(tag) / 1e6, store.size(base) / 1e6
    return {
        "image_mb": round(image),
        "base_mb": round(below),
        "over_base_mb": round(image - below),
        "runs": ready,
        "median_s_to_ready": round(statistics.median(run["podman_s"] + run["service_s"] for run in ready), 2),
        "median_s_of_the_service": round(statistics.median(run["service_s"] for run in ready), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("base", "build", "list", "measure", "run"))
    parser.add_argument("--store", type=Path, default=ROOT / "build" / "containers", help="folder of the images")
    parser.add_argument("--base", default=BASE, help="image to build on (default: %(default)s)")
    parser.add_argument("--tag", default=IMAGE, help="name of the image (default: %(default)s)")
    parser.add_argument("--suite", default="bookworm", help="base: Debian's release (default: %(default)s)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="base: Debian's mirror")
    parser.add_argument("--mount", action="append", default=[], help="build: a path of the host to lend; may be repeated")
    parser.add_argument("--models", type=Path, help="run: artifact folder in place of the model of the package")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=5, help="measure: how many starts")
    options = parser.parse_args()
    for tool in ("debootstrap", "buildah", "podman", "runc"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing; install it with: apt-get install {tool}")
    store = Store(options.store.absolute())
    if options.step == "base":
        make_base(store, options.base, options.suite, options.mirror)
    elif options.step == "build":
        build(store, options.base, options.tag, options.mount)
    elif options.step == "list":
        print(store.podman("images", "--format", "{{.Repository}}:{{.Tag}}"))
    elif options.step == "measure":
        print(json.dumps(measure(store, options.base, options.tag, options.port, options.runs), indent=2))
    else:
        with running(store, options.tag, options.port, options.models) as name:
            subprocess.run([*store.command("podman"), "logs", "--follow", name])


if __name__ == "__main__":
    main()
