"""Plots of gaze, thresholds and calibration, as RGB pictures `(H, W, 3)` uint8 for pages and files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def wander_plot(dispersion: np.ndarray, wander: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """One dot an image, step / spread against spread; the corner above both `limits` is marked as a webcam's."""
    figure = Figure(figsize=(6.6, 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    right, top = max(0.45, float(dispersion.max()) * 1.05), max(2.0, float(wander.max()) * 1.05)
    axes.add_patch(Rectangle(limits, right - limits[0], top - limits[1], color="#c1121f", alpha=0.15, lw=0))
    axes.text(0.99 * right, 0.97 * top, "wanders like a webcam tracker", color="#c1121f", ha="right", va="top")
    axes.scatter(dispersion, wander, s=12, color="#0077b6", alpha=0.6, linewidths=0)
    axes.set(xlim=(0, right), ylim=(0, top), xlabel="spread of the fixations, image sides", ylabel="step / spread")
    return _pixels(figure)


def grid_plot(titles: Sequence[str], grids: Sequence[np.ndarray], names: Sequence[str], columns: int = 2) -> np.ndarray:
    """Square tables `(T, T)` of numbers as heat maps with the numbers in them; NaN cells stay empty."""
    lines = -(-len(grids) // columns)
    figure = Figure(
        figsize=((0.42 * len(names) + 0.8) * columns, (0.36 * len(names) + 0.9) * lines), dpi=100, layout="constrained"
    )
    for i, (title, grid) in enumerate(zip(titles, grids, strict=True), start=1):
        axes = figure.add_subplot(lines, columns, i)
        axes.imshow(grid, cmap="viridis", aspect="auto")
        low, high = np.nanmin(grid), np.nanmax(grid)
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                dark = value < low + 0.6 * (high - low)
                axes.text(
                    column,
                    row,
                    f"{value:.3f}"[1:] if 0 <= value < 1 else f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title(title, fontsize=10)
    return _pixels(figure)


def line_plot(x: np.ndarray, lines: dict[str, np.ndarray], label: str, marks: Sequence[float] = ()) -> np.ndarray:
    """Curves over `x`, with vertical `marks`."""
    figure = Figure(figsize=(7.4, 3.8), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for name, y in lines.items():
        axes.plot(x, y, marker="o", markersize=3, label=name)
    for mark in marks:
        axes.axvline(mark, color="#888", linestyle=":")
    axes.set(xlabel=label, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _pixels(figure)


def reliability_plot(tables: dict[str, list[dict[str, float]]]) -> np.ndarray:
    """Share of foreground against mean probability, by bin; tables are `Reliability.rows()`, empty bins are left out."""
    figure = Figure(figsize=(4.2, 4.0), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="#888", linestyle=":")
    for name, rows in tables.items():
        filled = [row for row in rows if row["pixels"]]
        axes.plot(
            [row["probability"] for row in filled], [row["foreground"] for row in filled], marker="o", markersize=3, label=name
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of foreground", ylabel="share that is foreground")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _pixels(figure)


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
