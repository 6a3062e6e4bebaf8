"""The Segmentation of every kind of image: what an independent reader and a validator make of it."""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")
import highdicom as hd
import pydicom
from artifacts import write_artifact
from dicom_images import CINES, KINDS, SIZE, cine, complaints, image, masks
from pydicom.sequence import Sequence

from gazeseg_serve.clinical import ClassCodes, Code, known_codes
from gazeseg_serve.contract import Artifact
from gazeseg_serve.dicom_result import ResultOptions
from gazeseg_serve.dicom_seg import segmentation
from gazeseg_serve.errors import ImageError, MalformedImage, UnsupportedImage

WISH = ResultOptions(0.5)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("two"), classes=("lesion", "Wand é\\x"))


def read(content: bytes) -> Any:
    return hd.seg.segread(io.BytesIO(content))


def by_source(seg: Any, uids: list[str]) -> np.ndarray:
    return np.asarray(seg.get_pixels_by_source_instance(uids, ignore_spatial_locations=True, combine_segments=True))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_get_one_valid_segmentation(kind: str, count: int, two: Artifact, tmp_path: Path) -> None:
    sources, wanted = [image(kind, i) for i in range(1, count + 1)], masks(count, classes=2)
    order = random.Random(1).sample(range(count), count)
    content = segmentation([sources[i] for i in order], wanted[order], two, WISH)
    assert complaints(content, tmp_path) == []
    seg = read(content)
    np.testing.assert_array_equal(by_source(seg, [str(source.SOPInstanceUID) for source in sources]), wanted)
    assert seg.NumberOfFrames == 2 * count
    assert ("FrameOfReferenceUID" in seg) == KINDS[kind][3]
    assert (seg.StudyInstanceUID, seg.PatientID, str(seg.PatientName)) == ("1.2.3", "id-7", "Doe^Jane")
    referenced = {item.ReferencedSOPClassUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {KINDS[kind][0]}


@pytest.mark.parametrize("kind", CINES)
def test_frames_without_a_place_are_counted_in_their_order(kind: str, two: Artifact, tmp_path: Path) -> None:
    content = segmentation([cine(kind, 3)], masks(3, classes=2), two, WISH)
    assert complaints(content, tmp_path) == []
    seg = read(content)
    found = seg.get_pixels_by_source_frame("1.2.3.4.1", [1, 2, 3], ignore_spatial_locations=True, combine_segments=True)
    np.testing.assert_array_equal(found, masks(3, classes=2))
    for group in seg.PerFrameFunctionalGroupsSequence:
        assert "PlanePositionSequence" not in group
        content_of = group.FrameContentSequence[0]
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert content_of.TemporalPositionIndex == reference.ReferencedFrameNumber
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert list(content_of.DimensionIndexValues) == [segment, reference.ReferencedFrameNumber]


def enhanced(frames: int, **per_frame: object) -> pydicom.Dataset:
    """A multi-frame MR image whose place is in its functional groups, orientation and spacing a frame."""
    made: Any = image("mr", ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None)
    made.SOPClassUID, made.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.4.1", frames
    groups = []
    for number in range(frames):
        group, position, orientation, measures = (pydicom.Dataset() for _ in range(4))
        position.ImagePositionPatient = [0, 0, 4.0 * number]
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 4.0
        for item, name in itertools.product((position, orientation, measures), per_frame):
            if name in item:
                setattr(item, name, per_frame[name])
        group.PlanePositionSequence, group.PlaneOrientationSequence = Sequence([position]), Sequence([orientation])
        group.PixelMeasuresSequence = Sequence([measures])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return made


@pytest.mark.parametrize(
    ("per_frame", "placed"),
    [
        ({}, True),
        ({"ImagePositionPatient": [0, 0, 0]}, False),  # a beating heart
        ({"PixelSpacing": [0, 0]}, False),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, False),
    ],
)
def test_functional_groups_place_the_frames_or_do_not(
    per_frame: dict[str, object], placed: bool, artifact: Artifact, tmp_path: Path
) -> None:
    content = segmentation([enhanced(3, **per_frame)], masks(3), artifact, WISH)
    assert complaints(content, tmp_path) == []
    seg = read(content)
    assert ("FrameOfReferenceUID" in seg) == placed
    found = seg.get_pixels_by_source_frame("1.2.3.4.1", [1, 2, 3], ignore_spatial_locations=True, combine_segments=True)
    np.testing.assert_array_equal(found, masks(3))


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [0.6, 0.8, 0, 0.8, -0.6, 0]])
def test_the_place_of_every_mask_is_its_slices_own(orientation: list[float], artifact: Artifact) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    places = {f"1.2.3.4.{i}": [round(float(part), 6) for part in np.array([1, 2, 3]) + 2.5 * i * normal] for i in range(1, 6)}
    sources = [
        image("ct", i, ImageOrientationPatient=orientation, ImagePositionPatient=places[f"1.2.3.4.{i}"]) for i in range(1, 6)
    ]
    seg = read(segmentation(sources, masks(5), artifact, WISH))
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, places[source], atol=1e-5)
    shared = seg.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(shared.PlaneOrientationSequence[0].ImageOrientationPatient, orientation, atol=1e-6)
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, [0.5, 0.25])


ODD = {
    "sex of an older system": {"PatientSex": "U"},
    "birth date anonymised": {"PatientBirthDate": "ANON"},
    "birth date of no calendar": {"PatientBirthDate": "19700231"},
    "dates of ACR-NEMA": {"StudyDate": "1994.05.27", "StudyTime": "14:04:38.5"},
    "time of no clock": {"StudyTime": "250000"},
    "number too long": {"AccessionNumber": "A" * 40},
    "name of five groups": {"PatientName": "a=b=c=d=e"},
    "nothing of the study": {"StudyDate": None, "StudyTime": None, "StudyID": None, "AccessionNumber": None},
    "nothing of the patient": {"PatientID": None, "PatientName": None, "PatientBirthDate": None, "PatientSex": None},
    "age and weight": {"PatientAge": "54", "PatientWeight": "0"},
    "thickness empty": {"SliceThickness": ""},
    "thickness zero": {"SliceThickness": 0},
    "frame of reference empty": {"FrameOfReferenceUID": ""},
    "no position": {"ImagePositionPatient": None},
    "identity removed": {"PatientIdentityRemoved": "YES"},
    "instance number of words": {"InstanceNumber": None},
    "lossy without more": {"LossyImageCompression": "01"},
    "directions in letters": {"PatientOrientation": ["L", "P"]},
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # that the values are odd is the point
@pytest.mark.parametrize("kind", ["mr", "cr"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_values_never_keep_a_valid_segmentation_from_being_made(
    odd: str, kind: str, artifact: Artifact, tmp_path: Path
) -> None:
    content = segmentation([image(kind, **ODD[odd])], masks(1), artifact, WISH)
    assert complaints(content, tmp_path) == []
    np.testing.assert_array_equal(by_source(read(content), ["1.2.3.4.1"]), masks(1))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("value", ["", "Doe^Jane", "1.2.03", "1." * 40 + "1", None])
def test_an_image_that_cannot_be_referred_to_is_refused_by_the_attribute(
    keyword: str, value: str | None, artifact: Artifact
) -> None:
    with pytest.raises(MalformedImage, match=keyword) as caught:
        segmentation([image("mr", **{keyword: value})], masks(1), artifact, WISH)
    assert "Doe" not in str(caught.value)


def test_frames_beyond_a_single_frame_class_are_refused(artifact: Artifact) -> None:
    with pytest.raises(UnsupportedImage, match="NumberOfFrames"):
        segmentation([image("capture", NumberOfFrames=2)], masks(2), artifact, WISH)


def test_what_does_not_belong_together_is_refused(artifact: Artifact) -> None:
    def refused(*sources: pydicom.Dataset) -> str:
        with pytest.raises(ImageError) as caught:
            segmentation(sources, masks(len(sources)), artifact, WISH)
        return str(caught.value)

    assert "SeriesInstanceUID" in refused(image("mr", 1), image("mr", 2, SeriesInstanceUID="1.2.3.5"))
    assert "Rows" in refused(image("mr", 1), image("mr", 2, Rows=12))
    assert "one slice" in refused(image("mr", 1), image("mr", 1))
    assert "many frames" in refused(image("mr", 1), cine("ultrasound cine", 2))


def test_the_same_images_model_and_wish_give_the_same_bytes(artifact: Artifact, two: Artifact) -> None:
    sources = [image("endoscopy", i) for i in (1, 2, 3)]
    content = segmentation(sources, masks(3), artifact, WISH)
    assert segmentation(sources[::-1], masks(3)[::-1], artifact, WISH) == content
    uid = read(content).SOPInstanceUID
    others = [
        segmentation(sources[:2], masks(3)[:2], artifact, WISH),
        segmentation(sources, masks(3), two, WISH),
        segmentation(sources, masks(3), artifact, ResultOptions(0.4)),
        segmentation(sources, masks(3), artifact, ResultOptions(0.5, presence=0.3)),
        segmentation(sources, masks(3), artifact, ResultOptions(0.5, ("x",))),
    ]
    uids = {uid, *(read(other).SOPInstanceUID for other in others)}
    assert len(uids) == 6
    assert all(str(found).startswith("2.25.") and len(found) <= 64 for found in uids)


def test_the_segmentations_of_a_series_are_of_one_series(artifact: Artifact) -> None:
    made = [read(segmentation([image("endoscopy", i)], masks(1), artifact, WISH)) for i in (1, 2)]
    assert made[0].SeriesInstanceUID == made[1].SeriesInstanceUID
    assert made[0].SOPInstanceUID != made[1].SOPInstanceUID
    assert [seg.InstanceNumber for seg in made] == [1, 2]
    elsewhere = read(segmentation([image("endoscopy", 1, SeriesInstanceUID="1.2.3.5")], masks(1), artifact, WISH))
    assert elsewhere.SeriesInstanceUID != made[0].SeriesInstanceUID


def test_a_series_identity_stays_when_a_slice_comes_late(artifact: Artifact) -> None:
    options = ResultOptions(0.5, identity="series")
    made = [read(segmentation([image("ct", i) for i in range(1, n + 1)], masks(n), artifact, options)) for n in (2, 3)]
    assert made[0].SOPInstanceUID == made[1].SOPInstanceUID
    assert [seg.NumberOfFrames for seg in made] == [2, 3]


def test_segments_say_what_they_are_and_how_they_were_made(artifact: Artifact, two: Artifact) -> None:
    codes = ClassCodes(
        Code("49755003", "SCT", "Morphologically Abnormal Structure"),
        Code("68496003", "SCT", "Polyp of colon"),
        Code("71854001", "SCT", "Colon"),
    )
    model = dataclasses.replace(two, codes=(codes, known_codes("zone")))
    seg = read(segmentation([image("endoscopy")], masks(1, classes=2), model, ResultOptions(0.25)))
    polyp, zone = seg.SegmentSequence
    assert polyp.SegmentedPropertyTypeCodeSequence[0].CodeValue == "68496003"
    assert polyp.AnatomicRegionSequence[0].CodeMeaning == "Colon"
    assert zone.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99GAZESEG"
    assert zone.SegmentLabel == "Wand éx"
    algorithm = polyp.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmParameters == "threshold=0.25"
    assert algorithm.AlgorithmVersion == model.id[:16]
    assert "lesion" in seg.SeriesDescription
    expected = hd.color.CIELabColor.from_rgb(*model.colours[0]).value
    assert tuple(polyp.RecommendedDisplayCIELabValue) == tuple(expected)


def test_a_forced_result_says_so(artifact: Artifact) -> None:
    seg = read(segmentation([image("mr")], masks(1), artifact, ResultOptions(0.5, ("its Modality is not ES",))))
    assert seg.SeriesDescription.startswith("OUTSIDE INTENDED USE")
    assert "Forced" in seg.ContentDescription
    parameters = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert "force=true" in parameters


@pytest.mark.parametrize(
    ("syntax", "attributes", "expected"),
    [
        ("1.2.840.10008.1.2.1", {}, ("00", None, None)),
        ("1.2.840.10008.1.2.4.50", {"PixelData": b"\0" * 96}, ("01", "ISO_10918_1", 30.0)),  # 24 x 40 x 3 bytes over 96
        ("1.2.840.10008.1.2.4.91", {"PixelData": b"\0" * 96}, ("01", "ISO_15444_1", 30.0)),
        ("1.2.840.10008.1.2.4.70", {"PixelData": b"\0" * 96}, ("00", None, None)),
        (
            "1.2.840.10008.1.2.1",
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionRatio": ["4", "9.5"],
                "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_14495_1"],
            },
            ("01", "ISO_14495_1", 9.5),
        ),
    ],
)
def test_loss_is_carried_over(
    syntax: str,
    attributes: dict[str, object],
    expected: tuple[str, str | None, float | None],
    artifact: Artifact,
    tmp_path: Path,
) -> None:
    source = image("endoscopy", **attributes)
    source.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    content = segmentation([source], masks(1), artifact, WISH)
    seg = read(content)
    assert (
        seg.LossyImageCompression,
        seg.get("LossyImageCompressionMethod"),
        seg.get("LossyImageCompressionRatio"),
    ) == expected
    assert complaints(content, tmp_path) == []


def test_a_segmentation_that_reads_back_otherwise_is_not_sent(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        hd.seg.Segmentation, "get_pixels_by_source_instance", lambda *arguments, **options: np.ones((1, *SIZE), np.uint8)
    )
    with pytest.raises(UnsupportedImage, match="other masks"):
        segmentation([image("mr")], masks(1), artifact, WISH)


def test_nothing_of_the_patient_is_logged(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    segmentation([image("mr", PatientName="Niemand", PatientID="geheim")], masks(1), artifact, WISH)
    assert not [line for line in caplog.messages if "Niemand" in line or "geheim" in line or "1.2.3.4.1" in line]
