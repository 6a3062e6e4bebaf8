"""Masks as a DICOM Segmentation object that refers to the images it was made from; needs the `dicom` extra.

highdicom writes segmentations of frames that have a place in a patient. Endoscopy, ultrasound and photographs have none:
theirs are written with a made-up place that is taken out again, which leaves what A.51 of PS3.3 asks for, a frame a source
frame, pixel for pixel. Nothing of the patient goes through highdicom, which would log a name that it finds odd.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__
from .contract import Artifact
from .dicom import broken_errors, frame_count
from .dicom_place import Place
from .dicom_result import (
    MANUFACTURER,
    Frames,
    ResultOptions,
    coded,
    codes_of,
    derived_uid,
    description,
    in_order,
    instance_number,
    parameters,
    plain,
    result_uids,
)
from .dicom_series import check_series
from .dicom_source import source_header
from .dicom_text import made_at, patient_and_study
from .errors import UnsupportedImage, require

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

_SERIES_NUMBER = 100  # beyond those of a modality
_UNPLACED = "2.25.1"  # the frame of reference that unplaced frames have while they are written
_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"  # what highdicom is told that every frame is; the references are put right after


def segmentation(sources: Sequence[Dataset], masks: np.ndarray, artifact: Artifact, options: ResultOptions) -> bytes:
    """One binary DICOM SEG file of `masks` `(frames, H, W)` uint8 labels, read back before it is returned.

    sources: the datasets of one series, or their `source_header`s, in the masks' order; a multi-frame dataset stands for
    all its frames. Size, place, study and patient are taken from them, as far as they are valid. The same images in any
    order, model and options give the same bytes. Raises MalformedImage or UnsupportedImage, which name the attribute.
    """
    require("highdicom", "dicom")
    check_series(sources)
    try:
        frames, masks = in_order([source_header(source) for source in sources], masks)
        written = _written(frames, masks, artifact, options)
        file = io.BytesIO()
        written.save_as(file)
    except broken_errors() as error:
        raise UnsupportedImage(f"no segmentation object can be made for these DICOM files ({type(error).__name__})") from error
    _read_back(file.getvalue(), frames, masks)
    return file.getvalue()


def _written(frames: Frames, masks: np.ndarray, artifact: Artifact, options: ResultOptions) -> Segmentation:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian

    series_uid, instance_uid = result_uids("seg", frames.sources, artifact, options)
    first = frames.sources[0]
    day, clock = made_at(first)
    seg = hd.seg.Segmentation(
        source_images=_stand_ins(frames),
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(number, artifact, options) for number in range(1, len(artifact.input.classes) + 1)],
        series_instance_uid=series_uid,
        series_number=_SERIES_NUMBER,
        series_description=description("Segmentation", artifact, options),
        sop_instance_uid=instance_uid,
        instance_number=max(1, instance_number(first)) if len(frames.source) == 1 else 1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=artifact.id[:16],
        software_versions=__version__,
        device_serial_number=artifact.id[:16],
        content_label="SEGMENTATION",
        content_description=_remark(options),
        content_creator_name="gazeseg-serve^",
        content_date=day,
        content_time=clock,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=False,  # a frame without a mask says that it was looked at
    )
    _refer(seg, frames)
    _name_the_patient(seg, first)
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = derived_uid(f"dimensions|{instance_uid}")
    if frames.place is None:
        _take_out_the_place(seg, frames)
    for index in seg.DimensionIndexSequence:
        index.DimensionOrganizationUID = seg.DimensionOrganizationSequence[0].DimensionOrganizationUID
    _say_how_lossy(seg, frames.sources)
    return seg


def _stand_ins(frames: Frames) -> list[Dataset]:
    """A single-frame image a frame, with nothing in it but size and place; made up where there is none."""
    from pydicom import Dataset

    downwards = np.eye(1, 3, 2) * -np.arange(len(frames.source))[:, None]  # highdicom orders frames so that these keep theirs
    place = frames.place or Place(_UNPLACED, (1, 0, 0, 0, 1, 0), downwards, (1.0, 1.0), 1.0)
    made = []
    for number, position in enumerate(place.positions):
        image: Any = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = _MR_IMAGE, _stand_in_uid(number)
        image.StudyInstanceUID = str(frames.sources[0].StudyInstanceUID)
        image.SeriesInstanceUID = str(frames.sources[0].SeriesInstanceUID)
        image.PatientID = image.PatientName = image.PatientBirthDate = image.PatientSex = None
        image.AccessionNumber = image.StudyID = image.StudyDate = image.StudyTime = None
        image.Rows, image.Columns = int(frames.sources[0].Rows), int(frames.sources[0].Columns)
        image.FrameOfReferenceUID = place.frame_of_reference
        image.ImagePositionPatient = [_decimal(part) for part in position]
        image.ImageOrientationPatient = [_decimal(part) for part in place.orientation]
        image.PixelSpacing = [_decimal(part) for part in place.spacing]
        image.SliceThickness = _decimal(place.thickness)
        made.append(image)
    return made


def _refer(seg: Any, frames: Frames) -> None:
    """Put the true images where the stand-ins are named, and hold that the frames stand in our order, a segment a time."""
    from pydicom import Dataset

    for index, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        derivation = group.DerivationImageSequence[0]
        stand_in = derivation.SourceImageSequence[0]
        frame = index % len(frames.source)
        if stand_in.ReferencedSOPInstanceUID != _stand_in_uid(frame):
            raise UnsupportedImage("the frames cannot be put in order along their normal; send one frame a file")
        reference, kept = _instance(frames.sources[frames.source[frame]]), Dataset()
        number = frames.reference(frame)[2]
        if number is not None:
            reference.ReferencedFrameNumber = number
        reference.SpatialLocationsPreserved = "YES"
        reference.PurposeOfReferenceCodeSequence = stand_in.PurposeOfReferenceCodeSequence
        kept.SourceImageSequence, kept.DerivationCodeSequence = [reference], derivation.DerivationCodeSequence
        group.DerivationImageSequence = [kept]  # a new one: highdicom gives all segments of a frame the same
    seg.SourceImageSequence = [_instance(source) for source in frames.sources]
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [_instance(source) for source in frames.sources]


def _stand_in_uid(frame: int) -> str:
    return f"2.25.{frame + 2}"


def _instance(source: Dataset) -> Any:
    from pydicom import Dataset

    reference: Any = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return reference


def _name_the_patient(seg: Any, source: Dataset) -> None:
    for element in patient_and_study(source):
        seg[element.tag] = element
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        if keyword in seg:
            del seg[keyword]  # of highdicom and of the clock; the object says who made it as its equipment
    if "PositionReferenceIndicator" in source:
        seg.PositionReferenceIndicator = source.PositionReferenceIndicator


def _take_out_the_place(seg: Any, frames: Frames) -> None:
    """Leave each frame its source alone, and count the frames of a segment in their order in time."""
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "DimensionOrganizationType"):
        if keyword in seg:
            del seg[keyword]
    shared = seg.SharedFunctionalGroupsSequence[0]
    for keyword in ("PlaneOrientationSequence", "PlanePositionSequence", "PixelMeasuresSequence"):
        if keyword in shared:
            del shared[keyword]
    for index, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        if "PlanePositionSequence" in group:
            del group.PlanePositionSequence
        content = group.FrameContentSequence[0]
        content.TemporalPositionIndex = index % len(frames.source) + 1
        content.DimensionIndexValues = [index // len(frames.source) + 1, content.TemporalPositionIndex]
    frame_index = next(item for item in seg.DimensionIndexSequence if item.DimensionIndexPointer == 0x00200032)
    frame_index.DimensionIndexPointer, frame_index.FunctionalGroupPointer = 0x00209128, 0x00209111
    frame_index.DimensionDescriptionLabel = "Temporal Position Index"
    orientations = {tuple(source.get("PatientOrientation") or ()) for source in frames.sources}
    seg.PatientOrientation = list(orientations.pop()) if len(orientations) == 1 else []


def _say_how_lossy(seg: Any, sources: Sequence[Dataset]) -> None:
    lossy = [source for source in sources if source.LossyImageCompression == "01"]
    seg.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        values = [source.get(keyword) for source in lossy if source.get(keyword)]
        if values:
            setattr(seg, keyword, max(values) if keyword.endswith("Ratio") else values[0])


def _describe(number: int, artifact: Artifact, options: ResultOptions) -> SegmentDescription:
    import highdicom as hd
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    name, known = artifact.input.classes[number - 1], codes_of(artifact)[number - 1]
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=plain(name, 64) or f"class {number}",
        segmented_property_category=coded(known.category),
        segmented_property_type=coded(known.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"gazeseg-serve {artifact.strategy}",
            version=artifact.id[:16],
            family=codes.cid7162.ArtificialIntelligence,
            source=MANUFACTURER,
            parameters=parameters(options),
        ),
        anatomic_regions=[coded(known.region)] if known.region else None,
        display_color=CIELabColor.from_rgb(*artifact.colours[number - 1]),
    )


def _remark(options: ResultOptions) -> str:
    return "Forced outside the model's intended use" if options.forced else "Automatic; not checked by a person"


def _decimal(number: float) -> str:
    """As a decimal string of at most 16 characters (PS3.5, 6.2)."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(number))


def _read_back(content: bytes, frames: Frames, masks: np.ndarray) -> None:
    """Raise UnsupportedImage unless highdicom reads the file, and finds each source frame's own mask in it."""
    import highdicom as hd

    try:
        seg = hd.seg.segread(io.BytesIO(content))
        instances = [frames.reference(i)[1] for i in range(len(masks))]
        if len(frames.sources) == 1 and frame_count(frames.sources[0]) > 1:
            found = seg.get_pixels_by_source_frame(
                instances[0], list(frames.number), ignore_spatial_locations=True, combine_segments=True
            )
        else:
            found = seg.get_pixels_by_source_instance(instances, ignore_spatial_locations=True, combine_segments=True)
    except broken_errors() as error:
        raise UnsupportedImage(
            f"the segmentation object that was made cannot be read back ({type(error).__name__}); ask for png or json"
        ) from error
    if not np.array_equal(found, masks):
        raise UnsupportedImage("the segmentation object that was made holds other masks; ask for png or json")
