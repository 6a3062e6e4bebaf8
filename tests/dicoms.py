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
