"""Area and lesion count as a DICOM Structured Report: a Measurement Report, TID 1500 of PS3.16; needs the `dicom` extra.

The report refers to the Segmentation object that the same images, model and options give, whose UID follows from them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__
from .clinical import OWN_SCHEME, Code
from .contract import Artifact
from .dicom import broken_errors
from .dicom_place import find_spacing
from .dicom_result import (
    MANUFACTURER,
    Frames,
    ResultOptions,
    coded,
    codes_of,
    derived_uid,
    description,
    in_order,
    parameters,
    plain,
    result_uids,
)
from .dicom_series import check_series
from .dicom_source import source_header
from .dicom_text import made_at, patient_and_study
from .errors import UnsupportedImage, require
from .outputs import count_parts

if TYPE_CHECKING:
    from highdicom.sr import Measurement
    from pydicom import Dataset

_SERIES_NUMBER = 101  # after the segmentation's
_SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
_AREA = Code("42798000", "SCT", "Area")
_COUNT = Code("246206008", "SCT", "Number of lesions")
_PARTS = Code("PARTS", OWN_SCHEME, "Number of connected parts")
_SQUARE_MM = Code("mm2", "UCUM", "Square millimeter")
_PIXELS = Code("{pixels}", "UCUM", "pixels")
_NO_UNIT = Code("1", "UCUM", "no units")
_LESION = "49755003"  # Morphologically Abnormal Structure: its parts are counted as lesions


def report(sources: Sequence[Dataset], masks: np.ndarray, artifact: Artifact, options: ResultOptions) -> bytes:
    """One Comprehensive SR file of `masks` `(frames, H, W)` uint8 labels, read back before it is returned.

    Per class the number of lesions (connected parts, over all frames) and, frame by frame where the mask is not empty,
    the area: in mm2 where the image states its pixel spacing, else in pixels. sources: as `dicom_seg.segmentation`.
    Raises MalformedImage or UnsupportedImage.
    """
    hd = require("highdicom", "dicom")
    check_series(sources)
    try:
        frames, masks = in_order([source_header(source) for source in sources], masks)
        written = _written(frames, masks, artifact, options)
        file = io.BytesIO()
        written.save_as(file)
        file.seek(0)
        hd.sr.srread(file)
    except broken_errors() as error:
        raise UnsupportedImage(f"no report can be made for these DICOM files ({type(error).__name__})") from error
    return file.getvalue()


def _written(frames: Frames, masks: np.ndarray, artifact: Artifact, options: ResultOptions) -> Any:
    import highdicom as hd

    series_uid, instance_uid = result_uids("sr", frames.sources, artifact, options)
    first = frames.sources[0]
    day, clock = made_at(first)
    evidence = [
        _evidence(source, str(source.SeriesInstanceUID), str(source.SOPClassUID), str(source.SOPInstanceUID))
        for source in frames.sources
    ]
    seg_series, seg_instance = result_uids("seg", frames.sources, artifact, options)
    evidence.append(_evidence(first, seg_series, _SEG_CLASS, seg_instance))
    document = hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=_content(frames, masks, artifact, options, seg_instance)[0],
        series_instance_uid=series_uid,
        series_number=_SERIES_NUMBER,
        series_description=description("Measurements", artifact, options),
        sop_instance_uid=instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=artifact.id[:16],
        software_versions=__version__,
        device_serial_number=artifact.id[:16],
        content_date=day,
        content_time=clock,
        is_complete=True,
    )
    for element in patient_and_study(first):
        document[element.tag] = element
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        if keyword in document:
            del document[keyword]
    return document


def _evidence(source: Dataset, series: str, sop_class: str, instance: str) -> Dataset:
    """What highdicom looks at of an object that the report refers to, with nothing of the patient."""
    from pydicom import Dataset

    kept: Any = Dataset()
    kept.StudyInstanceUID, kept.SeriesInstanceUID = source.StudyInstanceUID, series
    kept.SOPClassUID, kept.SOPInstanceUID = sop_class, instance
    kept.PatientID = kept.PatientName = kept.PatientBirthDate = kept.PatientSex = None
    kept.AccessionNumber = kept.StudyID = kept.StudyDate = kept.StudyTime = None
    return kept


def _content(frames: Frames, masks: np.ndarray, artifact: Artifact, options: ResultOptions, seg: str) -> Any:
    import highdicom as hd
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid(f"device|{artifact.id}"),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=artifact.id[:16],
            serial_number=artifact.id[:16],
        ),
    )
    groups = [
        group
        for label in range(1, len(artifact.input.classes) + 1)
        for group in _of_class(frames, masks, label, artifact, options, seg)
    ]
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
    )


def _of_class(frames: Frames, masks: np.ndarray, label: int, artifact: Artifact, options: ResultOptions, seg: str) -> list[Any]:
    """The group of a class over all frames, and one a frame that has the class."""
    import highdicom as hd

    known, name = codes_of(artifact)[label - 1], plain(artifact.input.classes[label - 1], 40)
    algorithm = hd.sr.AlgorithmIdentification(
        name=f"gazeseg-serve {artifact.strategy}",
        version=artifact.id[:16],
        parameters=[f"{name}={setting}" for name, setting in parameters(options).items()],
    )
    common: dict[str, Any] = {
        "finding_type": coded(known.type),
        "finding_category": coded(known.category),
        "algorithm_id": algorithm,
        "finding_sites": [hd.sr.FindingSite(coded(known.region))] if known.region else None,
    }
    areas = [int(np.count_nonzero(mask == label)) for mask in masks]
    parts = sum(count_parts(mask == label) for mask, area in zip(masks, areas, strict=True) if area)
    counted = _COUNT if known.category.value == _LESION else _PARTS
    groups: list[Any] = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(name, f"{seg}|{label}"),
            measurements=[_measured(counted, parts, _NO_UNIT)],
            source_images=[
                hd.sr.SourceImageForMeasurementGroup(str(image.SOPClassUID), str(image.SOPInstanceUID))
                for image in frames.sources
            ],
            **common,
        )
    ]
    for index, area in enumerate(areas):
        if area:
            # The frame of the segmentation: all frames of the first class, then of the next.
            region = hd.sr.ReferencedSegmentationFrame(
                _SEG_CLASS,
                seg,
                (label - 1) * len(masks) + index + 1,
                label,
                _source(frames, index, hd.sr.SourceImageForSegmentation),
            )
            del region[0].ReferencedSOPSequence[0].ReferencedSegmentNumber  # the frame tells it; both are not allowed
            groups.append(
                hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                    tracking_identifier=_tracking(f"{name} {index + 1}", f"{seg}|{label}|{index}"),
                    referenced_segment=region,
                    measurements=[_area(frames, index, area)],
                    **common,
                )
            )
    return groups


def _tracking(name: str, seed: str) -> Any:
    import highdicom as hd

    return hd.sr.TrackingIdentifier(uid=derived_uid(f"tracking|{seed}"), identifier=name)


def _source(frames: Frames, index: int, kind: Any) -> Any:
    sop_class, instance, number = frames.reference(index)
    return kind(sop_class, instance, None if number is None else [number])


def _area(frames: Frames, index: int, pixels: int) -> Measurement:
    spacing = find_spacing(frames.sources[frames.source[index]])
    if spacing is None:
        return _measured(_AREA, pixels, _PIXELS)
    return _measured(_AREA, float(f"{pixels * spacing[0] * spacing[1]:.6g}"), _SQUARE_MM)


def _measured(what: Code, value: float, unit: Code) -> Measurement:
    import highdicom as hd

    return hd.sr.Measurement(name=coded(what), value=value, unit=coded(unit))
