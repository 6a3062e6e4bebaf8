"""The report page of an export: what was compared, what came out, the worst cases as pictures."""

from __future__ import annotations

import html
from collections.abc import Callable

import numpy as np

from gazeseg_serve.contract import Run
from gazeseg_serve.engine import Outputs
from gazeseg_serve.pictures import figure, heat, overlay, page, table

from .parity import Parity, Tolerance

_WORST = 6


def write_report(run: Run, strategy: str, parity: Parity, tolerance: Tolerance, source: str, images: np.ndarray,
                 run_graph: Callable[[np.ndarray], Outputs]) -> str:
    """HTML of the gate's figures and of the images on which most mask pixels changed."""
    rows = [
        ("max |difference| of the probability", parity.max_difference, tolerance.max_difference),
        ("max |difference| of the disagreement", parity.max_disagreement_difference, tolerance.max_difference),
        ("share of flipped mask pixels", parity.flipped, tolerance.flipped),
    ]
    worst = np.argsort(parity.flipped_by_image)[::-1][:_WORST]
    pictures = []
    for i in worst:
        outputs = run_graph(images[i:i + 1])
        mask = outputs.probability[0, 0] >= 0.5 if run.input.outputs == 1 else outputs.probability[0].argmax(axis=0)
        row = figure(images[i], f"image {i}, {100 * parity.flipped_by_image[i]:.4f} % flipped") + figure(
            overlay(images[i], mask), "mask of the graph")
        if outputs.disagreement is not None:
            row += figure(heat(outputs.disagreement[0], 0.5), "disagreement, 0 to 0.5")
        pictures.append(f'<div class="row">{row}</div>')
    levels = ", ".join(f"{level.threshold:g}" for level in run.levels)
    body = (f"<p>Strategy <code>{html.escape(strategy)}</code> of {len(run.levels)} levels (thresholds {levels}), "
            f"compared with the PyTorch ensemble on {parity.images} {html.escape(source)} at batch sizes "
            f"{', '.join(map(str, parity.batch_sizes))}.</p>"
            + table(("what", "measured", "limit"), rows)
            + "<h2>The images that changed most</h2>" + "".join(pictures))
    return page("Export report: the gate held", body)
