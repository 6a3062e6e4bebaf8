"""Pictures for people, and self-contained HTML pages that hold them. Images are `(H, W, 3)` RGB uint8."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from .contract import COLOURS
from .pixels import resize_image
from .png import encode_png

YELLOW, BLUE = COLOURS[:2]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """`(H, W, 1 or 3)` or `(H, W)`, uint8 or float32 in [0, 1] -> `(H, W, 3)` uint8."""
    image = image if image.ndim == 3 else image[..., None]
    if image.dtype == np.float32:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def thumbnail(image: np.ndarray, side: int = 160) -> np.ndarray:
    """Scale so that the longer side is `side` pixels."""
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return resize_image(as_rgb(image), (height, width))


def heat(values: np.ndarray, top: float = 1.0) -> np.ndarray:
    """Colour a map `(H, W)` in [0, top], dark to bright (inferno)."""
    grey = np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def tint(image: np.ndarray, mask: np.ndarray, colour: Sequence[int] = YELLOW, opacity: float = 0.35) -> np.ndarray:
    """Tint the pixels where `mask` `(H, W)` is not 0, and draw their outline."""
    picture = as_rgb(image).copy()
    inside = np.asarray(mask, bool)
    picture[inside] = np.rint((1 - opacity) * picture[inside] + opacity * np.array(colour)).astype(np.uint8)
    return outline(picture, mask, colour)


def outline(image: np.ndarray, mask: np.ndarray, colour: Sequence[int] = YELLOW) -> np.ndarray:
    """Draw the rim of the pixels where `mask` `(H, W)` is not 0."""
    picture = as_rgb(image).copy()
    contours, _ = cv2.findContours(np.asarray(mask, bool).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    width = max(1, round(max(image.shape[:2]) / 160))
    cv2.drawContours(picture, contours, -1, tuple(int(c) for c in colour), width)
    return picture


def draw_fixations(image: np.ndarray, x: np.ndarray, y: np.ndarray, duration: np.ndarray) -> np.ndarray:
    """Draw fixations (x, y in [0, 1], duration in ms) as circles whose area grows with the duration."""
    picture = as_rgb(image).copy()
    height, width = picture.shape[:2]
    unit = max(height, width) / 40
    points = [(round(float(a) * width), round(float(b) * height)) for a, b in zip(x, y, strict=True)]
    for start, end in itertools.pairwise(points):
        cv2.line(picture, start, end, (255, 255, 255), 1, cv2.LINE_AA)
    for point, milliseconds in zip(points, duration, strict=True):
        radius = max(2, round(unit * float(np.sqrt(milliseconds / 300))))
        cv2.circle(picture, point, radius, BLUE, max(1, round(unit / 4)), cv2.LINE_AA)
    return picture


def data_uri(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def figure(image: np.ndarray, caption: str, side: int = 160) -> str:
    """HTML of one picture, scaled to `side` pixels, with its caption."""
    text = html.escape(caption)
    return f'<figure><img src="{data_uri(thumbnail(image, side))}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """HTML of a table; numbers are right-aligned."""

    def cell(value: object) -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        return f"<td{' class=n' if number else ''}>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; } 
  th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: .6rem 0 1.2rem; }
figure { margin: 0; } figcaption { font-size: .8rem; max-width: 12rem; } img { display: block; border-radius: 4px; }
pre, code { background: var(--soft); border-radius: 4px; padding: .1rem .3rem; } pre { padding: .8rem; overflow-x: auto; }
.bad { color: #c1121f; font-weight: 600; } .good { color: #2a7f3f; font-weight: 600; }
"""


def page(title: str, body: str) -> str:
    """One self-contained HTML document: no script, nothing loaded from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )
