"""Made-up DICOM files."""

from __future__ import annotations

import io

import numpy as np


def dicom_file(instance: int, pixels: np.ndarray, series: str = "1.2.3.4", **attributes: object) -> bytes:
    """A 16-bit MR slice `(H, W)` uint16 as a DICOM file; `attributes` replace or add data elements."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"{series}.{instance}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
    dataset.FrameOfReferenceUID, dataset.Modality, dataset.InstanceNumber = "1.2.3.9", "MR", str(instance)
    dataset.PatientID, dataset.PatientName = "id-7", "Doe^Jane"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.StudyDate = dataset.StudyTime = ""
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 3.0 * instance], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 3.0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def enhanced_file(frames: np.ndarray) -> bytes:
    """An enhanced MR object of `frames` `(N, H, W)` uint16, 3 mm apart: each frame's place is in its functional groups."""
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedMRImageStorage

    dataset = pydicom.dcmread(io.BytesIO(dicom_file(1, frames[0])))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, name)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames, dataset.PixelData = len(frames), frames.astype("<u2").tobytes()

    def holding(**values: object) -> Sequence:
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return Sequence([item])

    shared = Dataset()
    shared.PixelMeasuresSequence = holding(PixelSpacing=[0.5, 0.5], SliceThickness=3.0, SpacingBetweenSlices=3.0)
    shared.PlaneOrientationSequence = holding(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for number in range(len(frames)):
        group = Dataset()
        group.PlanePositionSequence = holding(ImagePositionPatient=[0, 0, 3.0 * number])
        group.FrameContentSequence = holding(DimensionIndexValues=[number + 1], InStackPositionNumber=number + 1, StackID="1")
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def ramp(height: int = 40, width: int = 64, turned: bool = False) -> np.ndarray:
    """A slice that grows brighter to the right, or to the left."""
    values = np.linspace(100, 4000, width)[None].repeat(height, axis=0)
    return (values[:, ::-1] if turned else values).astype(np.uint16)
