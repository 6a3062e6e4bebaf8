"""A Prediction as something to send or store: PNG, JSON with run lengths and polygons, probability, overlay, npz.

`render` is the front door; a DICOM SEG or SR needs its sources and is made by dicom_seg or dicom_sr. Everything is in the
image's own size, `(H, W)`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .contract import Artifact
from .errors import ConfigError, require
from .png import encode_map, encode_png
from .predictor import Prediction

FORMATS = ("png", "json", "probability", "overlay", "npz", "dicom-seg", "dicom-sr")
OF_DICOM = ("dicom-seg", "dicom-sr")  # which refer to DICOM images, and may be of a whole series
DISAGREEMENT_FORMATS = ("json", "overlay", "npz")
MEDIA_TYPES = {
    "png": "image/png",
    "json": "application/json",
    "probability": "image/png",
    "overlay": "image/png",
    "npz": "application/x-npz",
    "dicom-seg": "application/dicom",
    "dicom-sr": "application/dicom",
}
SUFFIXES = {
    "png": ".png",
    "json": ".json",
    "probability": ".png",
    "overlay": ".png",
    "npz": ".npz",
    "dicom-seg": ".dcm",
    "dicom-sr": ".dcm",
}


@dataclass(frozen=True)
class Rendered:
    """The bytes of an answer and their media type."""

    content: bytes
    media_type: str


def check(output: str, artifact: Artifact, disagreement: bool = False) -> None:
    """Raise ConfigError where `artifact` cannot give `output` (with the disagreement), before any work is done."""
    if output not in FORMATS:
        raise ConfigError(f"unknown output {output!r}; known: {', '.join(FORMATS)}")
    if output == "probability" and artifact.input.outputs > 1:
        raise ConfigError(
            f"a PNG holds the probability of one class, and this model has {len(artifact.input.classes)}; ask for npz"
        )
    if disagreement and not artifact.has_disagreement:
        raise ConfigError("this model gives no disagreement (it holds one network); leave disagreement out")
    if disagreement and output not in DISAGREEMENT_FORMATS:
        raise ConfigError(f"{output} has no place for the disagreement; ask for {', '.join(DISAGREEMENT_FORMATS)}")


def render(
    prediction: Prediction,
    artifact: Artifact,
    output: str,
    threshold: float,
    disagreement: bool = False,
    image: np.ndarray | None = None,
) -> Rendered:
    """Render `prediction` as `output`, one of FORMATS but OF_DICOM.

    image: `(H, W, 1 or 3)` uint8, needed by `overlay`. Raises ConfigError as `check` does.
    """
    check(output, artifact, disagreement)
    if output == "png":
        content = mask_png(prediction.mask(threshold), artifact.colours)
    elif output == "json":
        content = json.dumps(describe(prediction, artifact, threshold, disagreement)).encode()
    elif output == "probability":
        content = encode_map(prediction.full_probability()[0])
    elif output == "overlay":
        if image is None:
            raise ConfigError("an overlay needs the image")
        spread = prediction.full_disagreement() if disagreement else None
        content = encode_png(overlay(image, prediction.mask(threshold), artifact.colours, disagreement=spread))
    elif output == "npz":
        content = as_npz(prediction, threshold, disagreement)
    else:
        raise ConfigError(f"{output} refers to its DICOM sources; make it with dicom_seg.segmentation or dicom_sr.report")
    return Rendered(content, MEDIA_TYPES[output])


def mask_png(mask: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """PNG of labels `(H, W)` uint8: 1 bit (black, white) where the only labels are 0 and 1, else a palette.

    The palette's index is the label; label i has `colours[i - 1]`, the background is black.
    """
    if mask.max(initial=0) <= 1 and len(colours) <= 1:
        return encode_png(mask, bilevel=True)
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, *(channel for colour in colours for channel in colour)])
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a boolean mask `(H, W)`: `{"size": [H, W], "counts": "..."}`."""
    coco = require("pycocotools.mask", "serve")
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a boolean mask `(H, W)` as `[x, y, x, y, ...]`, one a connected part, through the pixels' centres.

    COCO's convention has the first pixel's centre at 0.5. Holes are left out and parts under three points are
    repeated up to three, so the run lengths are the exact shape and these are for drawing.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = [contour.reshape(-1, 2) + 0.5 for contour in contours]
    return [(np.tile(ring, (3, 1))[:3] if len(ring) < 3 else ring).ravel().tolist() for ring in rings]


def box(mask: np.ndarray) -> list[int] | None:
    """The bounding box `[x, y, width, height]` of a boolean mask `(H, W)` in pixels, None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def count_parts(mask: np.ndarray) -> int:
    """How many connected parts a boolean mask `(H, W)` has; pixels that touch at a corner are of one part."""
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1


def describe(prediction: Prediction, artifact: Artifact, threshold: float, disagreement: bool = False) -> dict[str, Any]:
    """The JSON answer: per class the area, box, run lengths and polygons; and the mean disagreement.

    The mean disagreement is over the whole image, and over the mask (None where the mask is empty). With
    `disagreement` the map itself comes too, as a 16-bit PNG in base64 (65535 is 1.0).
    """
    mask = prediction.mask(threshold)
    spread = prediction.full_disagreement()
    answer: dict[str, Any] = {
        "model": artifact.id,
        "size": list(prediction.size),
        "threshold": threshold,
        "presence": None if prediction.presence is None else round(prediction.presence, 6),
        "presence_threshold": prediction.presence_threshold,
        "unusual": None if prediction.unusual is None else bool(prediction.unusual),
        "unusual_because": list(prediction.unusual or ()),
        "classes": [
            _describe_class(mask == label, name, label, artifact.colours[label - 1])
            for label, name in enumerate(artifact.input.classes, start=1)
        ],
        "mean_disagreement": None if spread is None else round(float(spread.mean()), 6),
        "mean_disagreement_in_mask": None if spread is None or not mask.any() else round(float(spread[mask > 0].mean()), 6),
    }
    if disagreement and spread is not None:
        answer["disagreement_png"] = base64.b64encode(encode_map(spread)).decode("ascii")
    return answer


def _describe_class(mask: np.ndarray, name: str, label: int, colour: tuple[int, int, int]) -> dict[str, Any]:
    area = int(np.count_nonzero(mask))
    return {
        "name": name,
        "label": label,
        "colour": list(colour),
        "area": area,
        "area_share": area / mask.size,
        "box": box(mask),
        "rle": run_lengths(mask),
        "polygons": polygons(mask),
    }


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    colours: Sequence[tuple[int, int, int]],
    opacity: float = 0.4,
    disagreement: np.ndarray | None = None,
) -> np.ndarray:
    """Paint labels `(H, W)` over an image `(H, W, 1 or 3)` uint8, with their outlines; returns `(H, W, 3)` RGB uint8.

    disagreement: float32 `(H, W)` in [0, 0.5]; where given, it is added in red, full red at 0.5.
    """
    picture = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image.copy()
    for label in range(1, int(mask.max(initial=0)) + 1):
        part = mask == label
        colour = np.array(colours[(label - 1) % len(colours)], np.float32)
        picture[part] = np.rint((1 - opacity) * picture[part] + opacity * colour).astype(np.uint8)
        outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour.tolist(), max(1, round(max(mask.shape) / 400)))
    if disagreement is not None:
        weight = np.clip(disagreement * 2, 0, 1)[..., None]
        picture = np.rint(picture * (1 - weight) + np.array((255, 0, 0), np.float32) * weight).astype(np.uint8)
    return picture


def as_npz(prediction: Prediction, threshold: float, disagreement: bool) -> bytes:
    """A compressed npz: `mask` uint8 `(H, W)`, `probability` float32 `(K, H, W)`, `disagreement` float32 `(H, W)`."""
    arrays = {"mask": prediction.mask(threshold), "probability": prediction.full_probability().astype(np.float32)}
    spread = prediction.full_disagreement()
    if disagreement and spread is not None:
        arrays["disagreement"] = spread
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
