"""The page of `compare`: one table, one plot of cost against quality, one recommendation."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gazeseg_serve.pictures import data_uri, page, table

from .candidate import Candidate, Comparison, pareto
from .settings import AllowedLoss

_HEADER = (
    "what",
    "held",
    "Dice",
    "loss [95 %]",
    "agree (worst 5 %)",
    "ms of 1 (p95)",
    "ms of 8 (p95)",
    "times",
    "MB, peak",
    "MB, file",
    "GFLOP",
)


def comparison_page(result: Comparison, limits: AllowedLoss) -> str:
    eager = result.candidates[0]
    rule = (
        f"loss of mean Dice at most {limits.max_dice_loss:g}"
        if limits.min_agreement is None
        else (f"loss of mean Dice at most {limits.max_dice_loss:g}, agreement at least {limits.min_agreement:g}")
    )
    body = (
        f"<p><strong>Take <code>{html.escape(result.recommended)}</code></strong>: {html.escape(result.reason)}.</p>"
        f"<p>On {html.escape(result.source)}; {rule}. Times are medians of the engine alone, on this machine; "
        "<em>times</em> is the ensemble's median at batch 1 over this one's. fp16 is for GPUs: a CPU converts it.</p>"
        + table(_HEADER, [table_row(c, eager) for c in result.candidates])
        + f'<img alt="time of one image against quality" src="{data_uri(pareto_plot(result.candidates))}">'
    )
    return page("Strategies and precisions compared", body)


def table_row(c: Candidate, eager: Candidate) -> tuple[object, ...]:
    """The cells of `_HEADER`; an empty one was not measured."""
    found = c.fidelity
    truth = None if found is None else found.truth
    dice, loss = (
        ("", "")
        if truth is None
        else (f"{truth.dice_graph:.4f}", f"{truth.dice_loss:+.4f} [{truth.dice_loss_low:+.4f}, {truth.dice_loss_high:+.4f}]")
    )
    agreement = "" if found is None else f"{found.agreement:.3f} ({found.agreement_worst:.3f})"
    times = [f"{1000 * t.median:.3g} ({1000 * t.p95:.3g})" for t in (c.timings[1], c.timings[8])]
    cells = (
        "yes" if c.held else "no",
        dice,
        loss,
        agreement,
        *times,
        f"{eager.timings[1].median / c.timings[1].median:.1f}",
        "" if c.peak_memory is None else f"{c.peak_memory / 1e6:.0f}",
        f"{c.file_bytes / 1e6:.2f}",
        f"{c.flops / 1e9:.2f}",
    )
    return (c.name, *(cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in cells))


def pareto_plot(candidates: Sequence[Candidate]) -> np.ndarray:
    """RGB `(H, W, 3)` uint8: one dot a candidate, hollow where the limits do not hold; the front as a line,
    with names. One far below all that hold would press those into a line, and is left to the table."""
    figure = Figure(figsize=(9, 4.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    held = [c.quality() for c in candidates if c.held]
    lowest = min(held) - max(0.02, 2 * (max(held) - min(held)))
    shown = [c for c in candidates if c.quality() >= lowest]
    for c in shown:
        x, y = 1000 * c.timings[1].median, c.quality()
        axes.scatter(x, y, s=36, color="#0077b6" if c.held else "none", edgecolors="#0077b6")
    front = [c for c in pareto(candidates) if c.quality() >= lowest]
    named = sorted({c.name: c for c in (candidates[0], *front)}.values(), key=lambda c: c.timings[1].median)
    for i, c in enumerate(named):  # names of all would lie upon one another, so would these at one height
        axes.annotate(
            c.name,
            (1000 * c.timings[1].median, c.quality()),
            textcoords="offset points",
            xytext=(5, (-12, 8, -24, 20)[i % 4]),
            fontsize=7,
        )
    if len(shown) < len(candidates):
        axes.set_title(f"{len(candidates) - len(shown)} of {len(candidates)} lie below this plot", fontsize=8, loc="left")
    axes.plot([1000 * c.timings[1].median for c in front], [c.quality() for c in front], color="#c1121f", lw=1, zorder=0)
    axes.set(xscale="log", xlabel="median ms of one image (log scale)", ylabel="mean Dice, or agreement without masks")
    axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
