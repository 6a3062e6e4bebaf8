"""`quality.html`: the verdict, the figures behind it, and the most doubtful images with pictures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazeseg_serve import pictures
from gazeseg_serve.contract import COLOURS
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ImageError
from gazeseg_serve.png import read_map

from ..gaze.fixations import FixationTable
from ..gaze.readers import agreement_lines
from ..plots import wander_plot
from .folder import HEATMAPS, REFINED, map_files
from .levels import pseudo_mask_levels
from .settings import MaskSettings
from .verdict import BAD, DISPERSION, GOOD, WANDER, Verdict, dead_levels

Rows = Mapping[str, Mapping[str, float]]
_WORST = 12
_LISTED = 20
_SIDE = 170
_TRUTH = (255, 255, 255)
# Name, what it means, whether an unusual value is a reason to look at the image.
_FIGURES = (
    ("fixations", "fixations an image", True),
    ("gaze_seconds", "seconds of fixations an image", True),
    ("viewing_seconds", "seconds at the image, from the first fixation to the end of the last", True),
    ("in_image", "share of the fixations that are on the image", True),
    ("inside", "share of the fixations that are on the true mask", True),
    ("dispersion", "spread of the fixations, image sides", True),
    ("wander", "step from one fixation to the next / spread", True),
    ("entropy", "entropy of the heatmap, 0 a point, 1 flat", True),
    ("coverage", "share of the image with heat >= 0.5", True),
    ("nesting", "pixels in every level / pixels in any", True),
    ("crf_agreement", "Dice of heatmap and refined map at 0.5", True),
    ("dice_heatmap", "Dice of the heatmap at 0.5 with the true mask", False),
    ("dice_refined", "Dice of the refined map at 0.5 with the true mask", False),
)


@dataclass(frozen=True)
class Doubt:
    """Why an image stands high in the list of doubtful ones."""

    stem: str
    score: float
    reason: str


def doubtful(rows: Rows) -> list[Doubt]:
    """All images, the most doubtful first.

    With a true mask, by how poor the mean Dice of its levels is; else by the figure that is farthest from the median
    of all images, in robust standard deviations (1.4826 times the median absolute deviation).
    """
    names = [name for name, _, look in _FIGURES if look and all(name in row for row in rows.values())]
    values = np.array([[row[name] for name in names] for row in rows.values()])
    deviation = np.abs(values - np.median(values, axis=0))
    unit = 1.4826 * np.median(deviation, axis=0)
    z = np.where(unit > 0, deviation / np.where(unit > 0, unit, 1), 0)
    found = []
    for (stem, row), scores, line in zip(rows.items(), z, values, strict=True):
        worst = int(scores.argmax())
        side = "high" if line[worst] > np.median(values[:, worst]) else "low"
        reason = f"{names[worst]} {line[worst]:.3g} is {side}" if scores[worst] > 0 else "as all others"
        levels = [value for name, value in row.items() if name.startswith("dice_level_")]
        score = float(scores[worst])
        if levels:
            # Masks say more than any label-free figure, so an image with one is placed by it: 100 is all wrong.
            score, reason = 100 * (1 - float(np.mean(levels))), f"mean Dice of the levels {np.mean(levels):.2f}; {reason}"
        found.append(Doubt(stem, score, reason))
    return sorted(found, key=lambda doubt: (-doubt.score, doubt.stem))


def report(
    data: Dataset,
    out: Path,
    settings: MaskSettings,
    table: FixationTable,
    rows: Rows,
    skipped: Mapping[str, str],
    verdict: Verdict,
) -> str:
    """The page as HTML. `rows` are the quality figures by stem; maps are read from `out`."""
    body = [_banner(verdict), _scatter(rows), _figures(rows), _levels(list(rows.values()), settings)]
    worst = doubtful(rows)[:_WORST]
    legend = ", ".join(
        f"level {i} ({t:g}) {name}"
        for i, (t, name) in enumerate(
            zip(settings.thresholds, ("yellow", "blue", "red", "green", "violet"), strict=False), start=1
        )
    )
    legend += "; the true mask white" if data.masks else ""
    body.append(
        f"<h2>The most doubtful images, worst first</h2><p>Outlines: {legend}. "
        "Circles are fixations, larger for a longer look.</p>"
    )
    body += [_pictures(data, out, settings, table, doubt) for doubt in worst]
    body += [_negatives(data), _left_out(table, skipped), _source(table)]
    return pictures.page("Quality of the gaze", "\n".join(body))


def _banner(verdict: Verdict) -> str:
    colour = {GOOD: "#2a7f3f", BAD: "#c1121f"}.get(verdict.word, "#b36b00")
    sentence = {GOOD: "This gaze is good to train on.", BAD: "Do not train on this gaze."}.get(
        verdict.word, "Look before you train."
    )
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in (*verdict.reasons, *verdict.advice, verdict.unchecked) if text)
    return (
        f'<div style="background:{colour};color:#fff;padding:1rem 1.4rem;border-radius:8px">'
        f'<strong style="font-size:1.7rem">{sentence}</strong><ul style="margin:.4rem 0 0">{notes}</ul></div>'
    )


def _scatter(rows: Rows) -> str:
    plot = wander_plot(
        np.array([row["dispersion"] for row in rows.values()]),
        np.array([row["wander"] for row in rows.values()]),
        (DISPERSION, WANDER),
    )
    return (
        "<h2>Every image at a glance</h2><p>A reader goes from place to place, so steps are short beside the spread "
        "(0.8); noise jumps (1.25 where points are independent).</p>" + _image(plot, "Step against spread, one dot an image")
    )


def _image(picture: np.ndarray, text: str) -> str:
    return f'<img src="{pictures.data_uri(picture)}" alt="{text}" style="max-width:100%">'


def _figures(rows: Rows) -> str:
    lines = []
    for name, meaning, _ in _FIGURES:
        values = np.array([row[name] for row in rows.values() if name in row])
        if len(values):
            lines.append((name, meaning, float(values.mean()), *(float(v) for v in np.quantile(values, [0.05, 0.5, 0.95]))))
    return f"<h2>Figures over {len(rows)} images</h2>" + pictures.table(
        ("figure", "what it is", "mean", "5 %", "median", "95 %"), lines
    )


def _levels(rows: Sequence[Mapping[str, float]], settings: MaskSettings) -> str:
    lines = []
    for i, share in dead_levels(rows).items():
        scores = [row[f"dice_level_{i}"] for row in rows if f"dice_level_{i}" in row]
        lines.append(
            (
                i,
                settings.thresholds[i - 1],
                float(np.mean([row[f"area_level_{i}"] for row in rows])),
                f"{share:.1%}" + (" ALARM" if share > 0.05 else ""),
                float(np.mean(scores)) if scores else "no masks",
            )
        )
    return "<h2>Levels</h2>" + pictures.table(
        ("level", "threshold", "mean share of the image", "dead on", "mean Dice with the true mask"), lines
    )


def _negatives(data: Dataset) -> str:
    if not data.negatives:
        return ""
    return (
        f"<h2>Negatives</h2><p>negatives.txt lists {len(data.negatives)} images in which the reader found nothing: they have "
        "no map, and training takes them for background with <code>data.negatives</code>.</p>"
    )


def _left_out(table: FixationTable, skipped: Mapping[str, str]) -> str:
    if not table.reasons and not skipped:
        return "<h2>Left out</h2><p>Nothing: every row and every image is used.</p>"
    parts = ["<h2>Left out</h2>", pictures.table(("rows", "reason"), [(n, reason) for reason, n in table.reasons.items()])]
    if table.dropped:
        parts.append(
            pictures.table(
                ("file", "line", "image", "reason"), [(d.file, d.line, d.image, d.reason) for d in table.dropped[:_LISTED]]
            )
        )
        if len(table.dropped) > _LISTED:
            parts.append(f"<p>and {len(table.dropped) - _LISTED} more rows: see dropped.csv.</p>")
    if skipped:
        parts.append(pictures.table(("skipped image", "reason"), list(skipped.items())[:_LISTED]))
        if len(skipped) > _LISTED:
            parts.append(f"<p>and {len(skipped) - _LISTED} more images.</p>")
    return "".join(parts)


def _source(table: FixationTable) -> str:
    """What the gaze was recognised as, and how several readers agree."""
    told = (*table.notes, *agreement_lines(table.readers))
    return "<h2>Where the gaze comes from</h2><ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in told) + "</ul>"


def _pictures(data: Dataset, out: Path, settings: MaskSettings, table: FixationTable, doubt: Doubt) -> str:
    image, scan = data.image(doubt.stem), table.paths[doubt.stem]
    small = pictures.thumbnail(image, 2 * _SIDE)
    size = small.shape[:2]
    kinds = (HEATMAPS,) if settings.crf is None else (HEATMAPS, REFINED)
    maps = {kind: np.stack([read_map(file) for file in map_files(out, kind, doubt.stem, table.classes)]) for kind in kinds}
    final = maps[kinds[-1]]
    outlined = small
    for labels, colour in zip(
        pseudo_mask_levels(final[0] if len(final) == 1 else final, settings.thresholds, size), COLOURS, strict=False
    ):
        outlined = pictures.outline(outlined, labels, colour)
    try:
        truth = data.mask(doubt.stem, len(table.classes)) if doubt.stem in data.masks else None
    except ImageError:
        truth = None
    if truth is not None:
        outlined = pictures.outline(outlined, pictures.thumbnail(truth * np.uint8(255), 2 * _SIDE)[..., 0] > 127, _TRUTH)
    shown = [
        (pictures.draw_fixations(small, scan.x, scan.y, scan.duration), f"{len(scan)} fixations, {scan.gaze_ms / 1000:.1f} s"),
        *(
            (pictures.heat(values.max(axis=0)), {HEATMAPS: "heatmap", REFINED: "refined"}[kind])
            for kind, values in maps.items()
        ),
        (outlined, "levels"),
    ]
    figures = "".join(pictures.figure(picture, caption, _SIDE) for picture, caption in shown)
    return f"<p><strong>{html.escape(doubt.stem)}</strong>: {html.escape(doubt.reason)}</p><div class=row>{figures}</div>"
