"""The report page of an export: what was compared, what came out, the worst cases as pictures."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np

from gazeseg_serve.contract import Run
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.metrics import labels_of
from gazeseg_serve.pictures import BLUE, figure, heat, outline, page, table, tint

from .fidelity import Fidelity, judged
from .gate_images import GateImages
from .parity import Parity
from .settings import AllowedLoss, Tolerance

_WORST = 6
Runner = Callable[[np.ndarray], Outputs]


def exact_report(
    run: Run, strategy: str, parity: Parity, tolerance: Tolerance, gate: GateImages, graph: Runner, pictures: bool = True
) -> str:
    """HTML of an exact gate's figures and of the images on which most mask pixels changed."""
    body = (
        _said(run, strategy, "fp32", gate) + "<p>The graph must equal the PyTorch ensemble at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}.</p>" + _exact_table(parity, tolerance)
    )
    if pictures:
        worst = np.argsort(parity.flipped_by_image)[::-1][:_WORST]
        captions = [f"{gate.names[i]}: {100 * parity.flipped_by_image[i]:.4f} % flipped" for i in worst]
        body += "<h2>The images that changed most</h2>" + _rows(gate.images[worst], captions, graph, None)
    return page("Export report: the gate held", body)


def lossy_report(
    run: Run,
    strategy: str,
    precision: str,
    parity: Parity,
    fidelity: Fidelity,
    limits: AllowedLoss,
    gate: GateImages,
    graph: Runner,
    ensemble: Runner,
    pictures: bool = True,
) -> str:
    """HTML of a lossy gate's figures and of the images on which graph and ensemble agree least."""
    held = [(name, value, limit) for name, value, limit, _ in judged(fidelity, limits)]
    body = _said(run, strategy, precision, gate) + table(("with a limit", "measured", "limit"), held) + _figures(fidelity)
    body += "<h2>The fp32 graph against the networks it was made of</h2>" + _exact_table(parity, None)
    if pictures:
        worst = np.argsort(fidelity.agreement_by_image)[:_WORST]
        captions = [f"{gate.names[i]}: agreement {fidelity.agreement_by_image[i]:.4f}" for i in worst]
        body += "<h2>The images on which they agree least</h2><p>Yellow is the graph's mask, blue the ensemble's.</p>" + _rows(
            gate.images[worst], captions, graph, ensemble
        )
    return page("Export report: the gate held", body)


def _said(run: Run, strategy: str, precision: str, gate: GateImages) -> str:
    levels = ", ".join(f"{level.threshold:g}" for level in run.levels)
    return (
        f"<p>Strategy <code>{html.escape(strategy)}</code>, precision <code>{html.escape(precision)}</code>, of "
        f"{len(run.levels)} levels (thresholds {levels}), on {len(gate.images)} {html.escape(gate.source)}.</p>"
    )


def _exact_table(parity: Parity, tolerance: Tolerance | None) -> str:
    rows: list[tuple[object, ...]] = [
        ("max |difference| of the probability", parity.max_difference),
        ("max |difference| of the disagreement", parity.max_disagreement_difference),
        ("share of flipped mask pixels", parity.flipped),
    ]
    if tolerance is None:
        return table(("what", "measured"), rows)
    ends = (tolerance.max_difference, tolerance.max_difference, tolerance.flipped)
    return table(("what", "measured", "limit"), [(*row, end) for row, end in zip(rows, ends, strict=True)])


def _figures(found: Fidelity) -> str:
    rows: list[tuple[str, object]] = [
        ("agreement with the ensemble, mean Dice", found.agreement),
        ("agreement, worst 5 % of the images", found.agreement_worst),
        ("share of flipped mask pixels", found.flipped),
        ("bias of the foreground's area, relative", found.area_bias),
        ("max |difference| of the probability", found.max_difference),
        ("calibration shift of the probability", found.calibration_shift),
        ("mean |difference| of the disagreement", found.disagreement_error),
        ("correlation of the disagreement", found.disagreement_correlation),
    ]
    if found.truth is not None:
        t = found.truth
        rows += [
            (f"mean Dice of the ensemble on {t.images} true masks", t.dice_ensemble),
            ("of the graph", t.dice_graph),
            ("loss, 95 % interval from", t.dice_loss_low),
            ("to", t.dice_loss_high),
            ("calibration error of the ensemble", t.calibration_error_ensemble),
            ("of the graph", t.calibration_error_graph),
        ]
    return table(("what", "measured"), [row for row in rows if row[1] is not None])


def _rows(images: np.ndarray, captions: Sequence[str], graph: Runner, ensemble: Runner | None) -> str:
    rows = []
    for image, caption in zip(images, captions, strict=True):
        outputs = graph(image[None])
        shown = tint(image, labels_of(outputs.probability)[0])
        if ensemble is not None:
            shown = outline(shown, labels_of(ensemble(image[None]).probability)[0], BLUE)
        cells = [figure(image, caption), figure(shown, "masks" if ensemble is not None else "mask of the graph")]
        if outputs.disagreement is not None:
            cells.append(figure(heat(outputs.disagreement[0], 0.5), "disagreement, 0 to 0.5"))
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    return "".join(rows)
