"""Heatmaps: the separable form against a dense 2-D Gaussian filter of the same sigma on the same canvas.

    python benchmarks/heatmap.py [--sigma 70] [--fixations 27] [--rounds 5]

Three ways give the same canvas: this project's (`separable`); scipy's `gaussian_filter` over the canvas, two 1-D passes
(`two passes`); and one convolution with the 2-D kernel, the dense filter (`dense`: by OpenCV's filter2D, which
transforms large kernels by FFT). All three use one thread. Median times of one run and their ratios; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from gazeseg_serve.training.masks.heatmap import accumulate, canvas_pixels, gaussian_operator
from gazeseg_serve.training.masks.settings import CANVAS


def impulses(x: np.ndarray, y: np.ndarray, duration: np.ndarray) -> np.ndarray:
    canvas = np.zeros((CANVAS, CANVAS))
    np.add.at(canvas, (canvas_pixels(y), canvas_pixels(x)), duration)
    return canvas


def dense(canvas: np.ndarray, sigma: float) -> np.ndarray:
    radius = int(4 * sigma + 0.5)
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    line /= line.sum()
    return cv2.filter2D(canvas, -1, np.outer(line, line), borderType=cv2.BORDER_REFLECT)


def median_time(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigma", type=float, default=70.0)
    parser.add_argument("--fixations", type=int, default=27)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    x, y, duration = rng.random(options.fixations), rng.random(options.fixations), rng.uniform(50, 900, options.fixations)
    sigma = options.sigma
    start = time.perf_counter()
    gaussian_operator(sigma)  # once for all images
    setup = time.perf_counter() - start
    ways = {
        "separable": lambda: accumulate(x, y, duration, sigma),
        "two passes": lambda: gaussian_filter(impulses(x, y, duration), sigma, mode="reflect", truncate=4.0),
        "dense": lambda: dense(impulses(x, y, duration), sigma),
    }
    results = {name: work() for name, work in ways.items()}
    differences = {
        name: float(np.abs(result - results["separable"]).max() / results["separable"].max())
        for name, result in results.items()
    }
    rounds = {"separable": 20 * options.rounds, "two passes": options.rounds, "dense": options.rounds}
    seconds = {name: median_time(work, rounds[name]) for name, work in ways.items()}
    for name, value in seconds.items():
        print(
            f"{name:11} {1000 * value:9.2f} ms   {value / seconds['separable']:6.1f} x   "
            f"max difference {differences[name]:.1e} of the peak"
        )
    print(
        json.dumps(
            {
                "sigma": sigma,
                "fixations": options.fixations,
                "setup_s": setup,
                "seconds": seconds,
                "ratio_dense": seconds["dense"] / seconds["separable"],
                "ratio_two_passes": seconds["two passes"] / seconds["separable"],
                "differences": differences,
            }
        )
    )


if __name__ == "__main__":
    main()
