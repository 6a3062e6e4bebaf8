"""Dataset folders of chest CT as DICOM with simulated gaze, one a level of noise: for a modality whose greys are a scale.

    python benchmarks/ct_slices.py $DATA/ct build/ct

`$DATA/ct` holds slices as 8-bit pictures in a lung window, `NAME_train.png` and `NAME_test.png`, and masks of infection; no
Hounsfield units are left in them. They are written back as CT in DICOM, black at -1250 and white at 250 HU (a lung window of
centre -500 and width 1500, which is an assumption), and get what such a file has outside any window: in every second slice
of each split, drawn with seed 0, a splinter of metal of 3071 HU, 4 pixels wide, at the rim, which pulls the slice's least and
greatest value apart. The test slices are the validation split. Writes OUT/eyelink and OUT/webcam; the last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from gazeseg_serve.dataset import image_files
from gazeseg_serve.files import write_bytes, write_text
from gazeseg_serve.imaging import read_image
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze.fixations import write_fixations
from gazeseg_serve.training.gaze.simulate import NOISE, simulate_gaze

BLACK, WHITE = -1250, 250  # Hounsfield units of the window that the pictures are taken to be in
METAL, SPLINTER = 3071, 4  # Hounsfield units, pixels
ROOT = "2.25.7340"


def ct_file(hounsfield: np.ndarray, number: int) -> bytes:
    """One slice `(H, W)` in Hounsfield units, -1250 or more, as a CT object without a window of its own."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, f"{ROOT}.{number}", "CT"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.InstanceNumber = ROOT, f"{ROOT}.0", str(number)
    dataset.PatientID = dataset.PatientName = ""
    dataset.Rows, dataset.Columns = hounsfield.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "0", "HU"
    dataset.PixelData = hounsfield.astype("<i2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def make(source: Path, out: Path, seed: int = 0) -> dict[str, int]:
    names = [path.stem for path in image_files(source / "images")]
    held_out = [name for name in names if name.endswith("_test")]
    marked: set[str] = set()
    for part in (held_out, [name for name in names if name not in held_out]):
        marked |= set(np.random.default_rng(seed).permutation(part)[::2].tolist())
    for level in NOISE:
        paths, sizes = {}, {}
        for i, name in enumerate(names):
            grey = read_image(source / "images" / f"{name}.png", channels=1)[..., 0]
            truth = (read_image(source / "masks" / f"{name}.png", channels=1)[..., 0] >= 128).astype(np.uint8)
            hounsfield = np.rint(BLACK + grey * ((WHITE - BLACK) / 255)).astype(int)
            if name in marked:
                hounsfield[:SPLINTER, :SPLINTER] = METAL
            write_bytes(out / level / "images" / f"{name}.dcm", ct_file(hounsfield, i + 1))
            write_bytes(out / level / "masks" / f"{name}.png", encode_png(truth))
            paths[name], sizes[name] = simulate_gaze(truth, np.random.default_rng((seed, i)), level), truth.shape
        write_fixations(out / level / "fixations.csv", paths, sizes)
        write_text(out / level / "splits" / "val.txt", "\n".join(held_out) + "\n")
    return {"slices": len(names), "val": len(held_out), "with_metal": len(marked)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    print(json.dumps(make(options.source, options.out)))


if __name__ == "__main__":
    main()
