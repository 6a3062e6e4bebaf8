"""Headers that were broken at random: a valid object, or a refusal that says why; nothing else comes out."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")
import pydicom
from artifacts import write_artifact
from dicom_images import CINES, KINDS, cine, complaints, image

from gazeseg_serve.dicom import read_dataset
from gazeseg_serve.dicom_result import ResultOptions
from gazeseg_serve.dicom_seg import segmentation
from gazeseg_serve.dicom_sr import report
from gazeseg_serve.errors import ImageError
from gazeseg_serve.pixels import DEFAULT_LIMITS

_META, _PIXELS = 340, 24 * 40  # bytes of preamble and file meta information, and of the smallest image


def broken(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four changes in its header: a byte, a few letters, or something left out."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(_META, min(len(changed) - _PIXELS, 1400))
        kind, length = rng.random(), rng.randint(1, 4)
        if kind < 0.5:
            changed[place] = rng.randrange(256)
        elif kind < 0.75:
            changed[place : place + length] = bytes(rng.choice(b"0123456789.\\^=- \0") for _ in range(length))
        else:
            del changed[place : place + length]
    return bytes(changed)


def file_of(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_header_gives_a_valid_object_or_a_refusal(tmp_path: Path) -> None:
    artifact, rng = write_artifact(tmp_path / "artifact"), random.Random(14)
    seeds = [file_of(image(kind)) for kind in KINDS] + [file_of(cine(kind, 2)) for kind in CINES]
    made, refusals = 0, []
    for _ in range(80):
        try:
            dataset = read_dataset(broken(rng.choice(seeds), rng), DEFAULT_LIMITS)
            frames = int(dataset.get("NumberOfFrames") or 1)
            if frames * int(dataset.Rows) * int(dataset.Columns) > 200_000:
                continue
            masks = np.zeros((frames, int(dataset.Rows), int(dataset.Columns)), np.uint8)
            masks[:, : dataset.Rows // 2, : dataset.Columns // 2] = 1
            for content in (segmentation([dataset], masks, artifact, ResultOptions(0.5)),
                            report([dataset], masks, artifact, ResultOptions(0.5))):  # fmt: skip
                assert complaints(content, tmp_path) == []
            made += 1
        except ImageError as error:
            refusals.append(str(error))
    assert made > 10
    assert len(refusals) > 10
    assert not [text for text in refusals if "can be made" in text or "read back" in text], "a refusal that names nothing"
