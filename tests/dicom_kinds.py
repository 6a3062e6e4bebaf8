"""DICOM files of every kind that the reader must know, made from known pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
RLE, JPEG, JPEG12 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS, JPEG_LOSSLESS_FIRST = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"
JPEG_LS, J2K, HTJ2K = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"


def image_file(
    frames: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    stored: int = 0,
    high: int = 0,
    syntax: str = EXPLICIT,
    planar: int = 0,
    vr: str = "",
    allocated: int = 0,
    encode: Callable[[np.ndarray], bytes] | None = None,
    without: tuple[str, ...] = (),
    **attributes: Any,
) -> bytes:
    """`(N, H, W)` or `(N, H, W, 3)` integers as a DICOM file; `attributes` replace or add data elements.

    stored, high: BitsStored and HighBit, by default all bits of the array's dtype. encode: makes one compressed frame of
    `(H, W[, 3])`. vr: of the pixel data, OB or OW. without: elements that are left out.
    """
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, SecondaryCaptureImageStorage

    allocated = allocated or 8 * frames.itemsize
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.4.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "1.2.3.4", "OT"
    dataset.PatientID, dataset.PatientName = "id-7", "Doe^Jane"
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if frames.ndim == 4 else 1), photometric
    dataset.BitsAllocated, dataset.BitsStored = allocated, stored or allocated
    dataset.HighBit, dataset.PixelRepresentation = high or (stored or allocated) - 1, int(frames.dtype.kind == "i")
    if frames.ndim == 4:
        dataset.PlanarConfiguration = planar
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    big = syntax == BIG
    if encode is not None or syntax == RLE:
        dataset.PixelData = encapsulate([(encode or rle)(frame) for frame in frames])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData, dataset["PixelData"].VR = native(frames, photometric, planar, allocated, big, vr)
    for name, value in attributes.items():
        if isinstance(value, pydicom.DataElement):
            dataset[name] = value
        else:
            setattr(dataset, name, value)
    for name in without:
        del dataset[name]
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=syntax == IMPLICIT, little_endian=not big, enforce_file_format=True)
    return file.getvalue()


def native(frames: np.ndarray, photometric: str, planar: int, allocated: int, big: bool, vr: str) -> tuple[bytes, str]:
    """The bytes of uncompressed pixel data and its VR."""
    if allocated == 1:
        return padded(np.packbits(frames.reshape(-1).astype(bool), bitorder="little").tobytes()), vr or "OB"
    if photometric == "YBR_FULL_422":
        halves = [frames[..., 0::2, 0], frames[..., 1::2, 0], frames[..., 0::2, 1], frames[..., 0::2, 2]]
        frames = np.stack(halves, axis=-1)
    elif planar:
        frames = frames.transpose(0, 3, 1, 2)
    vr = vr or ("OB" if allocated == 8 else "OW")
    data = padded(np.ascontiguousarray(frames.astype(frames.dtype.newbyteorder(">" if big else "<"))).tobytes())
    if big and vr == "OW" and allocated == 8:
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    return data, vr


def padded(data: bytes) -> bytes:
    return data + bytes(len(data) % 2)


def rle(frame: np.ndarray) -> bytes:
    """One frame by PS3.5 annex G, in literal runs and, where a row repeats itself, replicate runs."""
    planes = frame.reshape(*frame.shape[:2], -1)
    segments = []
    for sample in range(planes.shape[2]):
        words = np.ascontiguousarray(planes[..., sample].astype(planes.dtype.newbyteorder(">"))).view(np.uint8)
        for byte in range(planes.itemsize):
            rows = words.reshape(planes.shape[0], planes.shape[1], planes.itemsize)[..., byte]
            segments.append(padded(b"".join(map(_runs, rows))))
    offsets = [64]
    for segment in segments[:-1]:
        offsets.append(offsets[-1] + len(segment))
    return np.array([len(segments), *offsets, *[0] * (15 - len(offsets))], "<u4").tobytes() + b"".join(segments)


def _runs(row: np.ndarray) -> bytes:
    out = b""
    for start in range(0, len(row), 128):
        part = row[start : start + 128]
        same = len(part) > 1 and (part == part[0]).all()
        out += bytes([257 - len(part), part[0]]) if same else bytes([len(part) - 1]) + part.tobytes()
    return out


def lut_item(descriptor: tuple[int, int, int], data: bytes | list[int], vr: str, prefix: str = "LUT") -> Any:
    """An item of a VOI or modality LUT sequence; `vr` of its data, US or OW."""
    import pydicom

    item = pydicom.Dataset()
    item.add_new(f"{prefix}Descriptor", "US", list(descriptor))
    item.add_new(f"{prefix}Data", vr, data)
    if prefix == "LUT":
        item.ModalityLUTType = "US"
    return item
