"""Made-up DICOM images of every kind that gets a segmentation, and the two readers that judge what is made of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

_IMAGE = "1.2.840.10008.5.1.4.1.1."
# kind: (SOP class, Modality, samples a pixel, has a place in a patient)
KINDS: dict[str, tuple[str, str, int, bool]] = {
    "ct": (_IMAGE + "2", "CT", 1, True),
    "mr": (_IMAGE + "4", "MR", 1, True),
    "cr": (_IMAGE + "1", "CR", 1, False),
    "mammography": (_IMAGE + "1.2", "MG", 1, False),
    "endoscopy": (_IMAGE + "77.1.1", "ES", 3, False),
    "ultrasound": (_IMAGE + "6.1", "US", 1, False),
    "capture": (_IMAGE + "7", "OT", 3, False),
    "photograph": (_IMAGE + "77.1.4", "XC", 3, False),
}
CINES: dict[str, tuple[str, str, int]] = {
    "ultrasound cine": (_IMAGE + "3.1", "US", 1),
    "endoscopy video": (_IMAGE + "77.1.1.1", "ES", 3),
    "nuclear": (_IMAGE + "20", "NM", 1),
    "angiography": (_IMAGE + "12.1", "XA", 1),
    "multi-frame capture": (_IMAGE + "7.4", "OT", 3),
}
SIZE = (24, 40)


def image(kind: str, instance: int = 1, **attributes: object) -> Dataset:
    """A single-frame image of a kind of KINDS; `attributes` replace or add elements, None removes one."""
    sop_class, modality, samples, placed = KINDS[kind]
    made = _bare(sop_class, modality, samples, instance, 1)
    if placed:
        made.FrameOfReferenceUID = "1.2.3.9"
        made.ImagePositionPatient, made.ImageOrientationPatient = [5, 7, 3.0 * instance], [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness = [0.5, 0.25], 3.0
    return _with(made, attributes)


def cine(kind: str, frames: int, **attributes: object) -> Dataset:
    """A multi-frame image of a kind of CINES, whose frames have no place in a patient."""
    sop_class, modality, samples = CINES[kind]
    return _with(_bare(sop_class, modality, samples, 1, frames), {"NumberOfFrames": frames, **attributes})


def _bare(sop_class: str, modality: str, samples: int, instance: int, frames: int) -> Any:
    made: Any = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class, f"1.2.3.4.{instance}"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    made.Modality, made.InstanceNumber, made.SeriesNumber = modality, instance, 1
    made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = "id-7", "Doe^Jane", "19700131", "F"
    made.StudyDate, made.StudyTime, made.AccessionNumber, made.StudyID = "20240229", "101112", "A7", "S7"
    made.ReferringPhysicianName = "Ref^Doctor"
    made.Rows, made.Columns = SIZE
    made.SamplesPerPixel, made.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    levels = np.random.default_rng(instance).integers(0, 256, (frames, *SIZE, samples), np.uint8)
    made.PixelData = levels.tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = sop_class, made.SOPInstanceUID
    return made


def _with(made: Any, attributes: dict[str, object]) -> Dataset:
    for name, value in attributes.items():
        if value is None:
            if name in made:
                delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def masks(frames: int, classes: int = 1) -> np.ndarray:
    """`(frames, H, W)` labels, no two frames alike, and one of them empty where there are several."""
    found = np.zeros((frames, *SIZE), np.uint8)
    for number in range(frames):
        if frames > 1 and number == 1:
            continue
        for label in range(1, classes + 1):
            found[number, 2 * label : 4 + number % 8, label : 8 + 2 * number] = label
        found[number, -2:, -3:] = 1
    return found


def complaints(content: bytes, folder: Path) -> list[str]:
    """The errors that dciodvfy, of Debian's dicom3tools, finds in a DICOM file."""
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    path = folder / "object.dcm"
    path.write_bytes(content)
    done = subprocess.run([checker, "-new", str(path)], capture_output=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    assert any(line.strip() in ("Segmentation", "ComprehensiveSR") for line in lines), lines
    return [line for line in lines if line.startswith("Error")]
