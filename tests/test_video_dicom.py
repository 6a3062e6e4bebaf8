"""The film inside DICOM video objects: MPEG-2, MPEG-4 AVC and HEVC, in one fragment or many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("pydicom")
pytest.importorskip("onnx")
from artifacts import write_artifact
from clips import number_of, numbered, write_clip
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, VideoEndoscopicImageStorage, generate_uid

from gazeseg_serve.clinical import IntendedUse
from gazeseg_serve.dicom import read_dataset
from gazeseg_serve.errors import ImageError, MalformedImage, OutsideIntendedUse, UnsupportedImage
from gazeseg_serve.pixels import DEFAULT_LIMITS
from gazeseg_serve.video.dicom_video import open_dicom_video
from gazeseg_serve.video.run import VideoOptions, segment_video

PICTURES = [numbered(i, 64, 48) for i in range(10)]
POLYPS = IntendedUse("polyps", modalities=("ES",), photometric="", body_parts=())
# transfer syntax: codec, container
KINDS = {
    "1.2.840.10008.1.2.4.100": ("mpeg2video", "mpegts"),
    "1.2.840.10008.1.2.4.101": ("mpeg2video", "mpeg2video"),
    "1.2.840.10008.1.2.4.102": ("libx264", "mpegts"),
    "1.2.840.10008.1.2.4.103.1": ("libx264", "mp4"),
    "1.2.840.10008.1.2.4.105": ("libx264", "h264"),
    "1.2.840.10008.1.2.4.107": ("libx265", "mpegts"),
    "1.2.840.10008.1.2.4.108": ("libx265", "mp4"),
}


def write_object(path: Path, film: bytes, syntax: str, fragments: int = 1, **elements: object) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = VideoEndoscopicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientName = "ES", "Doe^Jane"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 48, 64, 10
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_PARTIAL_420", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate([film], fragments_per_frame=fragments, has_bot=fragments == 1)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def film_of(folder: Path, syntax: str) -> bytes:
    codec, container = KINDS[syntax]
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    return write_clip(folder / "film", PICTURES, codec=codec, container=container, **quiet).read_bytes()


@pytest.mark.parametrize("syntax", KINDS)
@pytest.mark.parametrize("fragments", [1, 3])
def test_every_frame_of_each_kind_is_decoded(syntax: str, fragments: int, tmp_path: Path) -> None:
    path = write_object(tmp_path / "v.dcm", film_of(tmp_path, syntax), syntax, fragments, FrameTime="40")
    with open_dicom_video(path) as video:
        frames = list(video.frames())
    assert [number_of(frame.pixels) for frame in frames] == list(range(10))
    np.testing.assert_allclose(np.diff([frame.seconds for frame in frames]), 0.04, atol=0.001)


def test_the_header_gives_the_rate_where_the_stream_has_no_times(tmp_path: Path) -> None:
    film = film_of(tmp_path, "1.2.840.10008.1.2.4.105")
    for elements, step in (({"FrameTime": "100"}, 0.1), ({"CineRate": "5"}, 0.2), ({"FrameTime": "0", "CineRate": "50"}, 0.02)):
        path = write_object(tmp_path / "v.dcm", film, "1.2.840.10008.1.2.4.105", **elements)
        with open_dicom_video(path) as video:
            assert video.rate == pytest.approx(1 / step)
            seconds = [frame.seconds for frame in video.frames()]
        np.testing.assert_allclose(np.diff(seconds), step, atol=0.001)


def test_the_command_takes_it_with_or_without_a_suffix(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    path = write_object(tmp_path / "IM0001", film_of(tmp_path, "1.2.840.10008.1.2.4.102"), "1.2.840.10008.1.2.4.102")
    report = segment_video(str(path), tmp_path / "out", tmp_path / "artifact", VideoOptions(film=False), "cpu")
    assert report["frames"] == 10


def test_cut_off_at_any_place_it_is_a_clear_error(tmp_path: Path) -> None:
    whole = write_object(
        tmp_path / "v.dcm", film_of(tmp_path, "1.2.840.10008.1.2.4.102"), "1.2.840.10008.1.2.4.102", 3
    ).read_bytes()
    place = whole.index(b"\xe0\x7f\x10\x00OB")
    for end in (
        0,
        100,
        200,
        place - 1,
        place + 3,
        place + 9,
        place + 14,
        place + 30,
        len(whole) // 2,
        len(whole) - 9,
        len(whole) - 6,
    ):
        (tmp_path / "cut.dcm").write_bytes(whole[:end])
        with pytest.raises(ImageError), open_dicom_video(tmp_path / "cut.dcm") as video:
            list(video.frames())


def test_dicom_without_a_video_against_the_use_and_not_encapsulated(tmp_path: Path) -> None:
    syntax = "1.2.840.10008.1.2.4.102"
    film = film_of(tmp_path, syntax)
    path = write_object(tmp_path / "v.dcm", film, syntax, Modality="MR")
    with pytest.raises(OutsideIntendedUse):
        open_dicom_video(path, use=POLYPS)
    with open_dicom_video(path, use=POLYPS, force=True) as video:
        assert len(list(video.frames())) == 10
    with pytest.raises(MalformedImage, match=r"no frame can be decoded|cannot be opened"):
        list(open_dicom_video(write_object(tmp_path / "n.dcm", b"no film" * 30, syntax)).frames())
    still = write_object(tmp_path / "j.dcm", b"\xff\xd8\xff", "1.2.840.10008.1.2.4.50")
    with pytest.raises(UnsupportedImage, match="gazeseg-serve predict"):
        open_dicom_video(still)


@pytest.mark.parametrize("syntax", KINDS)
def test_where_images_are_wanted_the_refusal_names_the_command(syntax: str, tmp_path: Path) -> None:
    data = write_object(tmp_path / "v.dcm", b"film", syntax).read_bytes()
    with pytest.raises(UnsupportedImage, match=r"holds a video .*gazeseg-serve video FILE"):
        read_dataset(data, DEFAULT_LIMITS)
