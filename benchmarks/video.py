"""Video: files against the engine's own ceiling, live sources and a stream by the clock, memory, and what smoothing does.

    python benchmarks/video.py --out benchmarks/results/video.json
    python benchmarks/video.py --only steady --phantom-artifact gazeseg-demo/artifact --clip clip.mp4

The clip is a phantom's, 640 x 480, H.264, made anew. Parts: `file` (frames a second of the whole command, as a share of the
engine alone in the same run, in turn, medians over rounds), `live` (25 and 60 frames a second, the newest wins: frames left
out, age of a frame when its mask is ready, and the age in the first and last third), `stream` (the same over a WebSocket to
a service of its own, JPEG frames, from before the JPEG is sent to the mask's labels), `memory` (peak of a process over a
short and a ten times longer clip), `steady` (flicker and Dice by the time constant: on the phantom clip by a demo's
artifact, flicker of `--clip`, and of still frames under noise and one-pixel shifts). A live file's frame counts from when
it is due; its decoding is done by then. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from gazeseg_serve.client import Client, StreamOptions
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.metrics import dice, flicker
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.training.gaze.phantom_clip import phantom_clip
from gazeseg_serve.video.frames import Frame, read_video
from gazeseg_serve.video.run import VideoOptions, segment_video
from gazeseg_serve.video.settings import RELEASE, SMOOTH_SECONDS, Steadiness
from gazeseg_serve.video.steady import FrameSegmenter
from gazeseg_serve.video.writing import Film

TIMES = (0.0, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2)
_TICK = Fraction(1, 60_000)


def pictures(frames: int, seed: int = 0) -> list[np.ndarray]:
    """A phantom clip of 640 x 480."""
    clip = phantom_clip(240, frames, np.random.default_rng(seed))
    return [cv2.resize(image, (640, 480), interpolation=cv2.INTER_CUBIC) for image, _ in clip]


def write_clip(path: Path, shown: list[np.ndarray], count: int, rate: float) -> Path:
    """`count` frames at `rate` a second: the pictures forwards, backwards and so on."""
    film, there_and_back = Film(path), itertools.cycle([*shown, *shown[::-1]])
    for number, picture in zip(range(count), there_and_back, strict=False):
        film.write(Frame(number, round(number / rate / _TICK), _TICK, picture), picture)
    film.close()
    return path


def ages(values: list[float]) -> dict[str, float]:
    """Milliseconds; and the medians of the first and the last third, which are equal where the delay does not grow."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    third = max(1, len(values) // 3)
    parts = {"p50": p50, "p95": p95, "p99": p99, "worst": max(values)}
    parts |= {"first_third": statistics.median(values[:third]), "last_third": statistics.median(values[-third:])}
    return {name: round(float(value), 2) for name, value in parts.items()}


def file_part(artifact: Path, scratch: Path, shown: list[np.ndarray], rounds: int) -> dict[str, Any]:
    clip = write_clip(scratch / "file.mp4", shown, 500, 25)
    predictor = Predictor.open(artifact, "cpu")
    prepared, found = predictor.prepare(shown[0]), {"engine": [], "masks": [], "masks_and_film": []}
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(200):
            predictor.run([prepared])
        found["engine"].append(200 / (time.perf_counter() - started))
        for name, film in (("masks", False), ("masks_and_film", True)):
            report = segment_video(str(clip), scratch / name, artifact, VideoOptions(film=film), "cpu")
            found[name].append(report["frames_per_second"])
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    shares = {f"{name}_share": round(medians[name] / medians["engine"], 3) for name in ("masks", "masks_and_film")}
    return {"frames": report["frames"], **medians, **shares}


def live_part(artifact: Path, scratch: Path, shown: list[np.ndarray], seconds: float) -> dict[str, Any]:
    found = {}
    for rate in (25, 60):
        clip = write_clip(scratch / f"live{rate}.mp4", shown, round(seconds * rate), rate)
        out = scratch / f"live{rate}"
        report = segment_video(str(clip), out, artifact, VideoOptions(live=True, film=False), "cpu")
        lines = [json.loads(line)["age_ms"] for line in (out / "masks.jsonl").read_text().splitlines()]
        found[str(rate)] = {"frames": report["frames"], "dropped": report["dropped"], "age_ms": ages(lines)}
    return found


def stream_part(artifact: Path, scratch: Path, shown: list[np.ndarray], seconds: float) -> dict[str, Any]:
    files = [cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for picture in shown]
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "gazeseg_serve", "serve", str(artifact), "--port", url.rsplit(":", 1)[1]]
    with (scratch / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as service:
        try:
            wait_until(lambda: httpx.get(url + "/readyz", timeout=5).status_code == 200)
            with Client(url) as client:
                list(client.stream(((0.0, file) for file in files[:50]), StreamOptions("every")))
                return {str(rate): paced(client, files, rate, round(seconds * rate)) for rate in (25, 60)}
        finally:
            service.terminate()


def wait_until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if ready():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the service did not become ready")


def paced(client: Client, files: list[bytes], rate: float, count: int) -> dict[str, Any]:
    begun = time.perf_counter()

    def frames() -> Iterator[tuple[float, bytes]]:
        for number, file in zip(range(count), itertools.cycle([*files, *files[::-1]]), strict=False):
            time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            yield number / rate, file

    answers = [(answer, time.perf_counter()) for answer in client.stream(frames(), StreamOptions("newest"))]
    masks = [1000 * (at - begun - answer.stamp) for answer, at in answers if answer.labels is not None]
    dropped = sum(answer.dropped for answer, _ in answers)
    return {"frames": len(masks), "dropped": dropped, "refused": count - len(masks) - dropped, "age_ms": ages(masks)}


def memory_part(artifact: Path, scratch: Path, shown: list[np.ndarray]) -> dict[str, Any]:
    clip, peaks = write_clip(scratch / "long.mp4", shown, 1500, 25), {}
    for frames in (150, 1500):
        code = "from pathlib import Path; from gazeseg_serve.video.run import *\n"
        code += f"segment_video({str(clip)!r}, Path({str(scratch / 'm')!r}), Path({str(artifact)!r}), "
        code += f"VideoOptions(frames={frames}), 'cpu')\n"
        # Not getrusage: its peak is handed down from the process that this one was forked from.
        code += "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks[f"peak_mib_{frames}"] = round(int(done.stdout) / 1024, 1)
    return peaks


def steady_part(artifact: Path, phantom_artifact: Path | None, clip: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    predictor = Predictor.open(artifact, "cpu")
    if phantom_artifact is not None:
        found["phantom"] = phantom_steadiness(Predictor.open(phantom_artifact, "cpu"))
    if clip is not None:
        frames = list(read_video(clip))
        outputs = [(predictor.run([predictor.prepare(f.pixels)]), f.seconds, f.pixels.shape[:2]) for f in frames]
        still = [shaken(predictor, frame.pixels) for frame in frames[:: max(1, len(frames) // 8)]]
        wanted = {str(seconds): Steadiness(seconds) for seconds in TIMES}
        for name, steadiness in {**wanted, "default": Steadiness(SMOOTH_SECONDS, RELEASE)}.items():
            rows = {"clip_flicker": flicker(masks_of(predictor, outputs, steadiness))}
            rows["still_flicker"] = float(np.mean([flicker(masks_of(predictor, one, steadiness)) for one in still]))
            found.setdefault("clip", {})[name] = {key: round(value, 4) for key, value in rows.items()}
    return found


def shaken(predictor: Predictor, image: np.ndarray) -> list[Any]:
    """Fifteen frames of a still image under noise of deviation 4 and shifts of a pixel."""
    rng, found = np.random.default_rng(0), []
    for number in range(15):
        moved = np.roll(image, tuple(rng.integers(-1, 2, 2)), (0, 1)) + rng.normal(0, 4, image.shape)
        noisy = np.rint(moved.clip(0, 255)).astype(np.uint8)
        found.append((predictor.run([predictor.prepare(noisy)]), number / 25, image.shape[:2]))
    return found


def masks_of(predictor: Predictor, outputs: list[Any], steadiness: Steadiness) -> list[np.ndarray]:
    segment = FrameSegmenter(predictor, steadiness)
    return [segment.steadied(*one).mask() for one in outputs]


def phantom_steadiness(predictor: Predictor) -> dict[str, Any]:
    """Means over five clips of 10 s: Dice where the lesion shows, flicker, that of the true masks, and the onset's delay."""
    found: dict[str, Any] = {str(seconds): [] for seconds in TIMES}
    for seed in range(5):
        clip = list(phantom_clip(96, 250, np.random.default_rng(100 + seed)))
        truth = [mask for _, mask in clip]
        outputs = [(predictor.run([predictor.prepare(image)]), i / 25, image.shape[:2]) for i, (image, _) in enumerate(clip)]
        whole = max(mask.sum() for mask in truth)
        onset = next(i for i, mask in enumerate(truth) if 2 * mask.sum() > whole)
        for seconds in TIMES:
            masks = masks_of(predictor, outputs, Steadiness(seconds))
            scores = [dice(mask, true) for mask, true in zip(masks, truth, strict=True)]
            late = next((i for i, score in enumerate(scores[onset:]) if score > 0.5), len(scores) - onset)
            seen = [score for score, true in zip(scores, truth, strict=True) if true.any()]
            found[str(seconds)].append((np.mean(seen), flicker(masks), flicker(truth), late))
    names = ("dice", "flicker", "true_flicker", "onset_frames")
    return {key: dict(zip(names, np.mean(rows, axis=0).round(4).tolist(), strict=True)) for key, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=None)
    parser.add_argument("--phantom-artifact", type=Path, default=None, help="of gazeseg-serve demo")
    parser.add_argument("--clip", type=Path, default=None, help="a real clip, for the flicker")
    parser.add_argument("--only", default="file,live,stream,memory,steady")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of each live source")
    parser.add_argument("--out", type=Path, default=None)
    wanted = parser.parse_args()
    artifact = default_artifact("cpu") if wanted.artifact is None else wanted.artifact
    shown, parts = pictures(250), wanted.only.split(",")
    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {"machine": platform.machine(), "cores": cores, "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "file": lambda: file_part(artifact, scratch, shown, wanted.rounds),
            "live": lambda: live_part(artifact, scratch, shown, wanted.seconds),
            "stream": lambda: stream_part(artifact, scratch, shown, wanted.seconds),
            "memory": lambda: memory_part(artifact, scratch, shown),
            "steady": lambda: steady_part(artifact, wanted.phantom_artifact, wanted.clip),
        }
        for part in parts:
            result[part] = work[part]()
            print(part, json.dumps(result[part]))
    if wanted.out is not None:
        wanted.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
