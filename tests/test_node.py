"""The node in one process: what it takes, what it makes, what it refuses, and what it does when things fail."""

from __future__ import annotations

import io
import stat
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
import highdicom as hd
import pydicom
from dicom_images import CINES, KINDS, cine, complaints, image
from nodes import BrightMasks, MemoryArchive, bright, running, send, settings_in, wait_for
from pynetdicom import AE

from gazeseg_serve.clinical import IntendedUse
from gazeseg_serve.errors import ConfigError, ImageError
from gazeseg_serve.node import receive
from gazeseg_serve.node.masks import ServiceAway
from gazeseg_serve.node.send import NotEver, NotNow
from gazeseg_serve.node.settings import EntityTarget, WebTarget, parse_target, read_secret
from gazeseg_serve.node.spool import Spool
from gazeseg_serve.node.status import retry, status, status_lines


@pytest.fixture
def masks(tmp_path: Path) -> BrightMasks:
    return BrightMasks(tmp_path / "artifact")


@pytest.fixture
def archive() -> MemoryArchive:
    return MemoryArchive()


def segs(archive: MemoryArchive) -> list[Any]:
    return [hd.seg.Segmentation.from_dataset(held) for held in archive.held.values() if held.Modality == "SEG"]


def mask_in(seg: Any, uid: str, frame: int | None = None) -> np.ndarray:
    options = {"ignore_spatial_locations": True, "combine_segments": True}
    if frame is None:
        return np.asarray(seg.get_pixels_by_source_instance([uid], **options)[0])
    return np.asarray(seg.get_pixels_by_source_frame(uid, [frame], **options)[0])


def states(spool: Path) -> dict[str, dict[str, int]]:
    found = Spool(spool, writing=False)
    try:
        facts = status(found)
    finally:
        found.close()
    return {"images": facts["images"], "results": facts["results"]}


def file_of(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def in_series(kind: str, count: int, series: str, **attributes: object) -> list[pydicom.Dataset]:
    return [image(kind, i, SeriesInstanceUID=series, SOPInstanceUID=f"{series}.{i}", **attributes) for i in range(1, count + 1)]


def test_every_series_gets_one_segmentation_with_its_own_masks(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    series = {kind: in_series(kind, 3, f"1.2.3.5{n}") for n, kind in enumerate(KINDS)}
    movies = [cine(kind, 2, SeriesInstanceUID=f"1.2.3.6{n}", SOPInstanceUID=f"1.2.3.6{n}.1") for n, kind in enumerate(CINES)]
    sent = [d for group in series.values() for d in group] + movies
    for d in sent:
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    with running(settings_in(tmp_path, reports=True), masks, archive) as node:
        assert send(node.port, sent) == [0] * len(sent)
        wait_for(lambda: states(node.settings.spool)["results"].get("sent") == 2 * (len(series) + len(movies)))
        assert states(node.settings.spool)["images"] == {"done": len(sent)}
        assert not list((node.settings.spool / "images").iterdir())  # let go once the results are stored
    found = segs(archive)
    assert len(found) == len(series) + len(movies)
    by_source = {str(item.ReferencedSOPInstanceUID): seg for seg in found for item in seg.SourceImageSequence}
    for dataset in sent:
        seg = by_source[str(dataset.SOPInstanceUID)]
        frames = dataset.get("NumberOfFrames")
        for number in range(1, (frames or 1) + 1):
            pixels = dataset.pixel_array if frames is None else dataset.pixel_array[number - 1]
            wanted = bright(np.asarray(pixels).reshape(*pixels.shape[:2], -1))
            np.testing.assert_array_equal(mask_in(seg, str(dataset.SOPInstanceUID), number if frames else None), wanted)
    assert sum(held.Modality == "SR" for held in archive.held.values()) == len(found)
    file = io.BytesIO()
    pydicom.dcmwrite(file, next(iter(archive.held.values())), enforce_file_format=True)
    assert complaints(file.getvalue(), tmp_path) == []


def test_the_spool_is_the_owners_alone_and_its_names_tell_nothing(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    archive.fail = lambda: (_ for _ in ()).throw(NotNow("away"))
    with running(settings_in(tmp_path, quiet_seconds=60), masks, archive) as node:
        assert send(node.port, [image("mr")]) == [0]
        wait_for(lambda: states(node.settings.spool)["images"].get("segmented") == 1)
    assert stat.S_IMODE(node.settings.spool.stat().st_mode) == 0o700
    for path in node.settings.spool.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert "1.2.3" not in path.name
        assert "id-7" not in path.name


def test_a_late_slice_makes_a_complete_result_of_the_same_uid(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    slices = [image("ct", i) for i in (1, 2, 3)]
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, slices[:2])
        wait_for(lambda: len(archive.stores) == 1)
        send(node.port, slices[2:])
        wait_for(lambda: len(archive.stores) == 2)
    assert archive.stores[0] == archive.stores[1]
    (seg,) = segs(archive)
    assert seg.NumberOfFrames == 3
    assert masks.calls == 3  # the first slices were not segmented again


def test_an_image_that_comes_again_is_not_done_again(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: states(node.settings.spool)["results"].get("sent") == 1)
        assert send(node.port, [image("mr")]) == [0]
        wait_for(lambda: node.spool.counts().get("again") == 1)
    with running(settings_in(tmp_path), masks, archive) as node:
        assert send(node.port, [image("mr")]) == [0]
    assert masks.calls == 1
    assert len(archive.stores) == 1


def test_other_pixels_under_the_same_uid_are_segmented_anew(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: states(node.settings.spool)["results"].get("sent") == 1)
        other = image("mr")
        other.PixelData = bytes(len(other.PixelData))
        send(node.port, [other])
        wait_for(lambda: len(archive.stores) == 2)
    (seg,) = segs(archive)
    assert not mask_in(seg, "1.2.3.4.1").any()


def raw_data() -> pydicom.Dataset:
    made = image("endoscopy", Rows=None, PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.66", Modality="OT")
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    return made


@pytest.mark.parametrize(
    ("dataset", "counter"),
    [
        (lambda: image("mr", Modality="SEG"), "left-no-image"),
        (lambda: image("mr", Modality="PR"), "left-no-image"),
        (lambda: image("mr", Modality="SR"), "left-no-image"),
        (raw_data, "left-no-image"),
        (lambda: image("ct"), "left-other-modality"),
        (lambda: image("endoscopy", PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1, PixelData=bytes(24 * 40)),
         "left-other-use"),
    ],
)  # fmt: skip
def test_what_is_not_for_the_model_is_taken_counted_and_left(
    dataset: Any, counter: str, masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    object.__setattr__(masks.artifact, "intended_use", IntendedUse("colour", photometric="colour"))
    with running(settings_in(tmp_path, modalities=("ES", "MR")), masks, archive) as node:
        assert send(node.port, [dataset()]) == [0]
        wait_for(lambda: node.spool.counts().get(counter) == 1)
        assert not node.spool.images("1")
        assert not list((node.settings.spool / "images").iterdir())
    assert masks.calls == 0


def test_its_own_results_make_no_loop(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    with running(settings_in(tmp_path, reports=True), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: len(archive.stores) == 2)
        for held in list(archive.held.values()):
            assert send(node.port, [held]) == [0]
        assert len(node.spool.images("1")) == 1


def test_force_segments_outside_the_intended_use_and_says_so(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    object.__setattr__(masks.artifact, "intended_use", IntendedUse("colour", ("ES",), "colour"))
    with running(settings_in(tmp_path, force=True), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: len(archive.stores) == 1)
    assert segs(archive)[0].SeriesDescription.startswith("OUTSIDE")


def echo(port: int, title: str, called: str) -> bool:
    entity = AE(title)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return False
    status_of = association.send_c_echo().Status
    association.release()
    return bool(status_of == 0)


@pytest.mark.parametrize(
    ("title", "called", "let_in"), [("GOOD", "GAZESEG", True), ("BAD", "GAZESEG", False), ("GOOD", "OTHER", False)]
)
def test_only_those_on_the_list_are_let_in(
    title: str, called: str, let_in: bool, masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    with running(settings_in(tmp_path, senders=("GOOD",)), masks, archive) as node:
        assert echo(node.port, title, called) == let_in
        assert send(node.port, [image("mr")], title, called) == ([0] if let_in else [])
        wait_for(lambda: bool(node.spool.counts().get("rejected-association")) != let_in)


def test_a_transfer_syntax_without_a_decoder_is_not_taken(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    video = "1.2.840.10008.1.2.4.102"
    assert video not in receive.readable_syntaxes()
    with running(settings_in(tmp_path), masks, archive) as node:
        entity = AE("TEST")
        entity.add_requested_context(KINDS["mr"][0], [video])
        association = entity.associate("127.0.0.1", node.port, ae_title="GAZESEG")
        assert association.rejected_contexts
        assert not association.accepted_contexts
        if association.is_established:
            association.release()


def raw(node_port: int, content: bytes, sop_class: str, uid: str) -> int:
    """C-STORE bytes as they are, under a name of the test's choice."""
    from pynetdicom.dimse_primitives import C_STORE

    entity = AE("TEST")
    entity.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", node_port, ae_title="GAZESEG")
    context = association.accepted_contexts[0].context_id
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
    request.DataSet = io.BytesIO(content)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    return int(answer.Status)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "status_of"),
    [
        (lambda data: data[:-50], receive.UNREADABLE),
        (lambda data: data[:200], receive.UNREADABLE),
        (lambda data: b"\xff" * 400, receive.OTHER_OBJECT),
        (lambda data: data.replace(b"1.2.3.4.1\0", b"1.2.3.4.9\0"), receive.OTHER_OBJECT),
        (lambda data: data.replace(b"1.2.3\0", b"1.2.a\0"), receive.UNREADABLE),
        (lambda data: data, receive.STORED),
    ],
)
def test_every_wrong_object_has_its_status_and_leaves_nothing(
    change: Any, status_of: int, masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    dataset = image("mr")
    content = file_of(dataset)
    body = change(content[content.index(b"\x08\0\x16\0UI") :])
    with running(settings_in(tmp_path), masks, archive) as node:
        assert raw(node.port, body, str(dataset.SOPClassUID), "1.2.3.4.1") == status_of
        assert len(node.spool.images("1")) == (status_of == receive.STORED)
        assert status_of == receive.STORED or not list((node.settings.spool / "new").iterdir())
        assert echo(node.port, "TEST", "GAZESEG")


def test_a_full_spool_says_so_and_takes_again_when_there_is_room(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    archive.fail = lambda: (_ for _ in ()).throw(NotNow("away"))
    slices = [image("ct", i, SeriesInstanceUID=f"1.2.3.7{i}") for i in range(1, 5)]
    room = int(2.5 * len(file_of(slices[0])))  # of two images, or of one with its result
    with running(settings_in(tmp_path, spool_bytes=room, quiet_seconds=0.05), masks, archive) as node:
        statuses = [send(node.port, [dataset])[0] for dataset in slices]
        assert statuses[0] == 0
        assert statuses[3] == receive.FULL
        archive.fail = lambda: None
        wait_for(lambda: node.spool.used_bytes() == 0)
        for dataset in [each for each, found in zip(slices, statuses, strict=True) if found == receive.FULL]:
            wait_for(lambda: node.spool.used_bytes() == 0)
            assert send(node.port, [dataset]) == [0]
        wait_for(lambda: len(archive.held) == 4)


@pytest.mark.parametrize("failing", ["write", "free_bytes", "transaction"])
def test_a_disk_that_fails_keeps_the_image_with_its_sender(
    failing: str, masks: BrightMasks, archive: MemoryArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings_in(tmp_path), masks, archive) as node:

        def full(*arguments: Any) -> Any:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(node.spool, failing, full)
            assert send(node.port, [image("mr")]) == [receive.FULL]
        assert not node.spool.images("1")
        assert send(node.port, [image("mr")]) == [0]
        wait_for(lambda: len(archive.held) == 1)


def test_a_result_is_sent_again_until_it_is_stored(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    tries = iter([NotNow("away"), NotNow("busy")])

    def fail() -> None:
        for error in tries:
            raise error

    archive.fail = fail
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: states(node.settings.spool)["results"].get("sent") == 1)
    assert len(archive.stores) == 1


@pytest.mark.parametrize(("error", "attempts"), [(NotEver("0xA900"), 200), (NotNow("away"), 3)])
def test_what_is_given_up_is_a_dead_letter_with_its_reason(
    error: Exception, attempts: int, masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    def fail() -> None:
        raise error

    archive.fail = fail
    settings = settings_in(tmp_path, attempts=attempts)
    with running(settings, masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: states(settings.spool)["results"].get("dead") == 1)
        facts = status(node.spool)
    assert str(error) in facts["dead"][0]["reason"]
    assert any(str(error) in line for line in status_lines(facts))
    letter = settings.spool / "dead" / f"{facts['dead'][0]['file']}.dcm"
    assert pydicom.dcmread(letter).Modality == "SEG"
    assert str(error) in letter.with_suffix(".txt").read_text()
    assert list((settings.spool / "images").iterdir())  # kept until the operator has decided
    spool = Spool(settings.spool)
    assert retry(spool) == 1
    spool.close()
    archive.fail = lambda: None
    with running(settings, masks, archive):
        wait_for(lambda: states(settings.spool)["results"].get("sent") == 1)
    assert not list((settings.spool / "dead").iterdir())
    assert masks.calls == 1


def test_an_image_that_cannot_be_segmented_is_a_dead_letter_and_stops_nobody(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = masks.masks

    def refuse_second(content: bytes) -> Any:
        found = make(content)
        if str(found[1].SOPInstanceUID) == "1.2.3.4.2":
            raise ImageError("no pixels that mean anything")
        return found

    monkeypatch.setattr(masks, "masks", refuse_second)
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, [image("endoscopy", i) for i in (1, 2, 3)])
        wait_for(lambda: states(node.settings.spool)["images"] == {"done": 2, "refused": 1})
        facts = status(node.spool)
    assert facts["dead"][0]["reason"] == "no pixels that mean anything"
    (seg,) = segs(archive)
    assert seg.NumberOfFrames == 2


def test_a_service_that_is_away_is_waited_for(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, away = masks.masks, [ServiceAway("not there")] * 7

    def sometimes(content: bytes) -> Any:
        if away:
            raise away.pop()
        return make(content)

    monkeypatch.setattr(masks, "masks", sometimes)
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: states(node.settings.spool)["results"].get("sent") == 1)
        assert not status(node.spool)["dead"]


def test_an_image_over_which_the_process_ends_again_and_again_is_put_aside(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path)
    with running(settings, masks, archive) as node:
        poison = node.spool
        send(node.port, [image("mr", 2)])
        wait_for(lambda: len(archive.held) == 1)
    spool = Spool(settings.spool)
    spool.accept("1.2.3.4.1", "s", file_of(image("mr", 1)))
    (waiting,) = spool.images("state = 'received'")
    for number in range(1, 6):
        assert spool.try_image(waiting) == number
    spool.close()
    assert poison is not spool
    with running(settings, masks, archive) as node:
        wait_for(lambda: states(settings.spool)["images"].get("refused") == 1)
        assert "ended 5 times" in status(node.spool)["dead"][0]["reason"]


def test_pictures_that_are_no_series_get_results_of_their_own(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path
) -> None:
    mixed = [image("ct", 1), image("ct", 2), image("ct", 3, PixelSpacing=[0.7, 0.7]), image("ct", 4, PatientID="another")]
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, mixed)
        wait_for(lambda: states(node.settings.spool)["results"].get("sent") == 3)
        send(node.port, [image("ct", 5, PixelSpacing=[0.7, 0.7])])
        wait_for(lambda: len(archive.stores) == 4)
    found = {seg.SOPInstanceUID: seg.NumberOfFrames for seg in segs(archive)}
    assert sorted(found.values()) == [1, 2, 2]
    assert {seg.PatientID for seg in segs(archive)} == {"id-7", "another"}


def test_a_series_that_was_let_go_is_never_replaced_by_less(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, late_seconds=0)
    with running(settings, masks, archive) as node:
        send(node.port, [image("ct", 1), image("ct", 2)])
        wait_for(lambda: states(settings.spool)["results"].get("sent") == 1)
        node._worker.forget()
        assert not list((settings.spool / "masks").iterdir())
        send(node.port, [image("ct", 3)])
        wait_for(lambda: len(archive.stores) == 2)
        assert send(node.port, [image("ct", 1)]) == [0]
    assert sorted(seg.NumberOfFrames for seg in segs(archive)) == [1, 2]
    assert masks.calls == 3


def test_files_whose_commit_never_came_are_swept_and_the_others_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.accept("1.2.3", "s", b"content")
    spool.write("images", "0" * 64 + "-" + "0" * 16 + ".dcm", b"never told of")
    (spool.folder / "new" / "half").write_bytes(b"ha")
    spool.close()
    spool = Spool(tmp_path / "spool")
    (kept,) = (spool.folder / "images").iterdir()
    assert kept.read_bytes() == b"content"
    assert not list((spool.folder / "new").iterdir())
    spool.close()


def test_one_node_a_spool_and_any_number_that_look(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with pytest.raises(ConfigError, match="another node"):
        Spool(tmp_path / "spool")
    assert status(Spool(tmp_path / "spool", writing=False))["images"] == {}
    spool.close()
    with pytest.raises(ConfigError, match="no node's spool"):
        Spool(tmp_path / "nothing", writing=False)


def test_metrics_and_health(masks: BrightMasks, archive: MemoryArchive, tmp_path: Path) -> None:
    with running(settings_in(tmp_path, monitor_port=0), masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: len(archive.held) == 1 and states(node.settings.spool)["results"].get("sent") == 1)
        base = f"http://127.0.0.1:{node.monitor_port}"
        text = urllib.request.urlopen(base + "/metrics", timeout=10).read().decode()
        assert 'gazeseg_node_objects_total{outcome="received"} 1.0' in text
        assert 'gazeseg_node_images{state="done"} 1.0' in text
        assert "gazeseg_node_oldest_seconds 0.0" in text
        assert urllib.request.urlopen(base + "/readyz", timeout=10).status == 200
        node._stopping.set()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(base + "/readyz", timeout=10)


def test_nothing_of_the_patient_is_logged(
    masks: BrightMasks, archive: MemoryArchive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with running(settings_in(tmp_path), masks, archive) as node:
        send(node.port, [image("mr", PatientName="Niemand^Jemand", PatientID="geheim")])
        wait_for(lambda: len(archive.held) == 1)
    assert caplog.messages
    own = [record.getMessage() for record in caplog.records if record.name.startswith("gazeseg")]
    assert not [line for line in own if "Niemand" in line or "geheim" in line or "1.2.3" in line]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://a/dicom-web/", WebTarget("http://a/dicom-web")),
        ("ARCHIVE@10.0.0.1:104", EntityTarget("ARCHIVE", "10.0.0.1", 104)),
        ("A@[::1]:104", EntityTarget("A", "::1", 104)),
    ],
)
def test_a_destination_is_read(text: str, target: object) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["ftp://a/b", "http://u:p@a/b", "A@b", "@b:1", "A@b:0", "A@b:99999", "TOOLONGATITLE1234@b:1", "http://"]
)
def test_a_wrong_destination_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(text)


def test_secrets_are_files_that_hold_something(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\ufeffgeheimnis\n")
    assert read_secret(tmp_path / "key") == "geheimnis"
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(ConfigError):
            read_secret(tmp_path / name)
    assert "geheim" not in repr(WebTarget("http://a", "u", "geheim", "geheim"))
