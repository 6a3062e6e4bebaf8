"""DICOM files of every kind that the reader must know, made from known pixels."""

from __future__ import annotations

import importlib
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


def palette(entries: np.ndarray, bits: int, first: int = 0, big: bool = False, wide: bool = False) -> dict[str, Any]:
    """The elements of a palette `(N, 3)`; `wide`: entries of 8 bit in a word each, as many write them."""
    import pydicom

    elements: dict[str, Any] = {}
    for i, name in enumerate(("Red", "Green", "Blue")):
        word = ">u2" if big else "<u2"
        if bits == 16 or wide:
            data = entries[:, i].astype(word).tobytes()
        else:
            data = np.frombuffer(padded(entries[:, i].astype(np.uint8).tobytes()), "<u2").astype(word).tobytes()
        keyword = f"{name}PaletteColorLookupTable"
        elements[f"{keyword}Descriptor"] = pydicom.DataElement(f"{keyword}Descriptor", "US", [len(entries), first, bits])
        elements[f"{keyword}Data"] = pydicom.DataElement(f"{keyword}Data", "OW", data)
    return elements


def windowed(centre: float, width: float, function: str = "LINEAR", **more: Any) -> dict[str, Any]:
    """The elements of a window on 12 bit."""
    return {"stored": 12, "WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function, **more}


def every_kind() -> dict[str, bytes]:
    """A small file of every kind of pixels that is read, by a name that says what it is."""
    import pydicom

    codecs: Any = importlib.import_module("imagecodecs")
    rng = np.random.default_rng(11)
    grey8, grey12, grey16 = (rng.integers(0, 1 << bits, (1, 16, 20)).astype(f"u{-(-bits // 8)}") for bits in (8, 12, 16))
    signed = rng.integers(-2000, 2000, (1, 16, 20)).astype(np.int16)
    rgb = rng.integers(0, 256, (1, 16, 20, 3), dtype=np.uint8)
    curve = [int(1023 * (i / 255) ** 2) for i in range(256)]
    smooth = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    colour = np.stack([smooth, smooth[::-1], 255 - smooth], 2)

    def jpeg(**options: Any) -> Callable[[np.ndarray], bytes]:
        return lambda frame: codecs.jpeg8_encode(frame, 90, **options)

    return {
        "8 bit": image_file(grey8),
        "8 bit, big endian words": image_file(grey8, syntax=BIG, vr="OW"),
        "8 bit inverted": image_file(grey8, "MONOCHROME1"),
        "12 bit": image_file(grey12, stored=12),
        "12 bit at the top": image_file(grey12 << 4, stored=12, high=15),
        "12 bit, RLE": image_file(grey12, stored=12, syntax=RLE),
        "16 bit, big endian": image_file(grey16, syntax=BIG),
        "signed": image_file(signed),
        "signed, implicit, inverted": image_file(signed, "MONOCHROME1", syntax=IMPLICIT),
        "rescaled": image_file(grey12, stored=12, RescaleSlope=2, RescaleIntercept=-1024),
        "rescaled downwards": image_file(grey12, stored=12, RescaleSlope=-1, RescaleIntercept=100),
        "window": image_file(grey12, **windowed(1000, 900)),
        "window of 1": image_file(grey12, **windowed(1000, 1)),
        "window of 2": image_file(grey12, **windowed(1000, 2)),
        "window of 0": image_file(grey12, **windowed(1000, 0)),
        "window and rescale": image_file(grey12, **windowed(40, 400, RescaleSlope=1, RescaleIntercept=-1024)),
        "window, inverted": image_file(grey12, "MONOCHROME1", **windowed(1000, 900)),
        "two windows": image_file(grey12, stored=12, WindowCenter=[300, 2000], WindowWidth=[200, 1000]),
        "exact window": image_file(grey12, **windowed(1000, 900, "LINEAR_EXACT")),
        "sigmoid": image_file(grey12, **windowed(1000, 900, "SIGMOID")),
        "VOI LUT": image_file(grey8, VOILUTSequence=pydicom.Sequence([lut_item((256, 0, 10), curve, "US")])),
        "VOI LUT, OW": image_file(
            grey8, VOILUTSequence=pydicom.Sequence([lut_item((256, 0, 10), np.array(curve, "<u2").tobytes(), "OW")])
        ),
        "modality LUT": image_file(grey8, ModalityLUTSequence=pydicom.Sequence([lut_item((256, 0, 10), curve, "US")])),
        "RGB": image_file(rgb, "RGB"),
        "RGB by plane": image_file(rgb, "RGB", planar=1),
        "RGB, big endian words": image_file(rgb, "RGB", syntax=BIG, vr="OW"),
        "RGB, RLE": image_file(rgb, "RGB", syntax=RLE),
        "RGB of 16 bit": image_file(rgb.astype(np.uint16) * 200, "RGB"),
        "YBR_FULL": image_file(rgb, "YBR_FULL"),
        "YBR_FULL by plane": image_file(rgb, "YBR_FULL", planar=1),
        "YBR_FULL, RLE": image_file(rgb, "YBR_FULL", syntax=RLE),
        "YBR_FULL_422": image_file(rgb, "YBR_FULL_422"),
        "palette of 8 bit": image_file(grey8, "PALETTE COLOR", **palette(rng.integers(0, 256, (256, 3)), 8)),
        "palette of 16 bit": image_file(grey8, "PALETTE COLOR", **palette(rng.integers(0, 65536, (256, 3)), 16)),
        "frames": image_file(np.concatenate([grey12, grey12[:, ::-1]]), stored=12),
        "JPEG": image_file(smooth[None], syntax=JPEG, encode=jpeg()),
        "JPEG of YCbCr": image_file(colour[None], "YBR_FULL_422", syntax=JPEG, encode=jpeg(subsampling="422")),
        "JPEG of YCbCr, whole": image_file(colour[None], "YBR_FULL", syntax=JPEG, encode=jpeg(subsampling="444")),
        "JPEG of RGB": image_file(colour[None], "RGB", syntax=JPEG, encode=jpeg(colorspace="RGB", outcolorspace="RGB")),
        "JPEG of 12 bit": image_file(
            smooth[None].astype(np.uint16) * 16, stored=12, syntax=JPEG12, encode=jpeg(bitspersample=12)
        ),
        "JPEG Lossless": image_file(
            grey12, stored=12, syntax=JPEG_LOSSLESS_FIRST, encode=jpeg(lossless=True, bitspersample=12)
        ),
        "JPEG-LS": image_file(grey12, stored=12, syntax=JPEG_LS, encode=codecs.jpegls_encode),
        "JPEG-LS of YBR_FULL": image_file(rgb, "YBR_FULL", syntax=JPEG_LS, encode=codecs.jpegls_encode),
        "JPEG 2000": image_file(
            grey8, syntax=J2K, encode=lambda frame: codecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0)
        ),
    }
