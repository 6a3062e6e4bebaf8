"""What DCMTK makes of a DICOM file: an independent reader, for tests and for the table in the docs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TOOLS = ("dcm2pnm", "dcmdjpeg", "dcmdjpls")


def is_installed() -> bool:
    return all(shutil.which(tool) for tool in TOOLS)


def render(data: bytes, frame: int = 0) -> np.ndarray | str:
    """`(H, W)` grey or `(H, W, 3)` RGB uint8 of one frame, or why there is none.

    DCMTK decompresses JPEG and JPEG-LS, applies the VOI LUT, else the first window, and makes RGB. Grey of more than 8 bit
    without either is given the window of its least and greatest value; where padding or other frames must not count,
    pydicom is asked for these. JPEG 2000, which DCMTK does not know, is decompressed by pydicom before.
    """
    import pydicom

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as name:
        warnings.simplefilter("ignore")
        folder = Path(name)
        try:
            plain = _decompressed(data, folder)
            view = _view(pydicom.dcmread(plain, force=True), frame)
        except (AttributeError, ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
            return f"{type(error).__name__}: {error}"
        return _run(["dcm2pnm", "-O", "+on", "+F", str(frame + 1), *view], plain, folder / "out.png")


def _run(command: list[str], source: Path, target: Path) -> np.ndarray | str:
    done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True)
    if not target.exists():
        return (done.stderr.strip().splitlines() or ["DCMTK wrote nothing"])[-1]
    image = cv2.imread(str(target), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decompressed(data: bytes, folder: Path) -> Path:
    import pydicom

    source, plain = folder / "source.dcm", folder / "plain.dcm"
    source.write_bytes(data)
    dataset = pydicom.dcmread(source, force=True, stop_before_pixels=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
    tool = "dcmdjpls" if syntax in pydicom.uid.JPEGLSTransferSyntaxes else "dcmdjpeg"
    if not syntax.is_encapsulated or syntax == pydicom.uid.RLELossless:
        return source
    if syntax in (*pydicom.uid.JPEGLSTransferSyntaxes, *pydicom.uid.JPEGTransferSyntaxes):
        done = subprocess.run([tool, str(source), str(plain)], capture_output=True, text=True)
        if not plain.exists():
            raise ValueError(done.stderr.strip().splitlines()[-1])
        return plain
    dataset = pydicom.dcmread(source)
    dataset.decompress(as_rgb=True)
    dataset.save_as(plain)
    return plain


def _view(dataset: Any, frame: int) -> list[str]:
    """The options of dcm2pnm that say how grey is shown."""
    from pydicom.pixels import apply_modality_lut

    if not str(dataset.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        return ["-W"]
    if "VOILUTSequence" in dataset:
        return ["+Wl", "1"]
    if dataset.get("WindowWidth") not in (None, ""):
        width = np.atleast_1d(np.asarray(dataset.WindowWidth, float))[0]
        if width >= 1 or (width > 0 and dataset.get("VOILUTFunction", "LINEAR") != "LINEAR"):
            return ["+Wi", "1"]
    if dataset.BitsStored == 8 and "ModalityLUTSequence" not in dataset:
        return ["-W"]
    if dataset.BitsStored < 8:
        low, high = 0.0, float(2**dataset.BitsStored - 1)
    elif int(dataset.get("NumberOfFrames") or 1) == 1 and "PixelPaddingValue" not in dataset:
        return ["+Wm"]
    else:
        pixels = dataset.pixel_array
        pixels = pixels[frame] if int(dataset.get("NumberOfFrames") or 1) > 1 else pixels
        kept = pixels[pixels != dataset.PixelPaddingValue] if "PixelPaddingValue" in dataset else pixels
        values = apply_modality_lut(kept, dataset)
        low, high = float(values.min()), float(values.max())
    return ["+Ww", str((low + high + 1) / 2), str(high - low + 1)]


def difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The greatest difference in grey levels. Raises ValueError where the shapes differ."""
    ours = ours[..., 0] if ours.ndim == 3 and ours.shape[2] == 1 else ours
    if ours.ndim == 3 and theirs.ndim == 2:
        theirs = np.repeat(theirs[..., None], 3, axis=2)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} against {theirs.shape}")
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())
