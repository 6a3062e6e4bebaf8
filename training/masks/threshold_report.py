"""What a threshold sweep writes: `thresholds.csv`, `pairs.csv`, and `thresholds.html` with its plots."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gazeseg_serve import pictures
from gazeseg_serve.csv_text import rows_csv
from gazeseg_serve.files import write_bytes, write_json, write_text
from gazeseg_serve.folders import Kind, refuse_foreign, refuse_overlap, schema_of, staged_folder
from gazeseg_serve.png import encode_png

from ..plots import grid_plot, line_plot
from .threshold_sweep import Recommendation, ThresholdSweep, as_dict, recommend, sweep_thresholds

THRESHOLDS_SCHEMA = "gazeseg-thresholds/1"
RESULT_FILE = "thresholds.json"
FILES = (RESULT_FILE, "thresholds.csv", "pairs.csv", "thresholds.png", "pairs.png", "thresholds.html")
PUBLISHED = {"Kvasir-SEG": (0.5, 0.3), "NCI-ISBI": (0.2, 0.4)}


def report_thresholds(
    masks: Path, data: Path | None, grid: Sequence[float], out: Path
) -> tuple[ThresholdSweep, Recommendation, list[str]]:
    """Sweep the thresholds of a masks folder and write the folder `out`; the sweep, two thresholds, the lines to read first.

    Raises what `sweep_thresholds` raises; ConfigError where `out` overlaps an input, ContractError where it holds something
    else.
    """
    refuse_overlap(out, masks, data)
    refuse_foreign(out, THRESHOLDS_FOLDER)
    sweep = sweep_thresholds(masks, data, grid)
    recommendation = recommend(sweep)
    return sweep, recommendation, write_sweep(out, sweep, recommendation)


def write_sweep(out: Path, sweep: ThresholdSweep, recommendation: Recommendation) -> list[str]:
    """Write the folder `out`, whole: tables, plots and page; returns the lines a person reads first."""
    with staged_folder(out, THRESHOLDS_FOLDER) as folder:
        write_json(folder / RESULT_FILE, {"schema": THRESHOLDS_SCHEMA} | as_dict(sweep, recommendation))
        return _write(folder, sweep, recommendation)


def _made(folder: Path) -> set[str] | None:
    return set(FILES) if schema_of(folder / RESULT_FILE) == THRESHOLDS_SCHEMA else None


THRESHOLDS_FOLDER = Kind(f"a folder of thresholds ({RESULT_FILE})", _made)


def _write(out: Path, sweep: ThresholdSweep, recommendation: Recommendation) -> list[str]:
    rows = sweep.rows()
    write_text(out / "thresholds.csv", _csv(list(rows[0]), [list(row.values()) for row in rows]))
    pairs = _pairs(sweep)
    write_text(out / "pairs.csv", _csv(["high", "low", "agreement", *(f"dice_{name}" for name in sweep.dice)], pairs))
    lines, table = _line_picture(rows, recommendation), _grid_picture(sweep)
    write_bytes(out / "thresholds.png", encode_png(lines))
    write_bytes(out / "pairs.png", encode_png(table))
    high, low = recommendation.thresholds
    facts = [
        f"recommended: --thresholds {high:g},{low:g}{'' if recommendation.maps == 'refined' else ' --no-crf'}",
        recommendation.reason,
    ]
    if sweep.dice:
        facts += [_published(sweep, name, pair) for name, pair in PUBLISHED.items() if set(pair) <= set(sweep.grid)]
    body = "".join(f"<p>{html.escape(fact)}</p>" for fact in facts)
    body += "".join(
        f'<img src="{pictures.data_uri(picture)}" alt="{text}" style="max-width:100%">'
        for picture, text in ((lines, "figures by threshold"), (table, "figures by pair of thresholds"))
    )
    body += pictures.table(list(rows[0]), [[round(value, 4) for value in row.values()] for row in rows])
    write_text(out / "thresholds.html", pictures.page("Thresholds", body))
    return facts


def _published(sweep: ThresholdSweep, name: str, pair: tuple[float, float]) -> str:
    i, j = (sweep.grid.index(t) for t in pair)
    scores = ", ".join(
        f"{maps} {values.mean(axis=1)[i]:.4f} and {values.mean(axis=1)[j]:.4f}" for maps, values in sweep.dice.items()
    )
    return f"the pair published for {name}, {pair[0]:g},{pair[1]:g}: mean Dice of the levels on the {scores}"


def _pairs(sweep: ThresholdSweep) -> list[list[float]]:
    dice = {name: sweep.pair_dice(name) for name in sweep.dice}
    return [
        [
            sweep.grid[i],
            sweep.grid[j],
            round(float(sweep.agreement[i, j]), 6),
            *(round(float(values[i, j]), 6) for values in dice.values()),
        ]
        for i in range(len(sweep.grid))
        for j in range(i)
    ]


def _csv(header: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    return rows_csv(header, [[round(value, 6) for value in row] for row in rows])


def _line_picture(rows: list[dict[str, float]], recommendation: Recommendation) -> np.ndarray:
    names = {
        "dice_heatmap": "Dice, heatmap",
        "dice_refined": "Dice, refined map",
        "area": "share of the image",
        "steady": "steadiness (moved by 0.1)",
        "crf_agreement": "heatmap against refined map",
    }
    lines = {text: np.array([row[name] for row in rows]) for name, text in names.items() if name in rows[0]}
    return line_plot(np.array([row["threshold"] for row in rows]), lines, "threshold", recommendation.thresholds)


def _grid_picture(sweep: ThresholdSweep) -> np.ndarray:
    lower = np.tri(len(sweep.grid), k=-1, dtype=bool)
    titles, grids = ["agreement of the two levels"], [np.where(lower, sweep.agreement, np.nan)]
    for name in sweep.dice:
        titles.append(f"mean Dice of the two levels, {name}")
        grids.append(np.where(lower, sweep.pair_dice(name), np.nan))
    return grid_plot(titles, grids, [f"{t:g}" for t in sweep.grid], columns=len(grids))
