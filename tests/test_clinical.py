"""Intended use and codes: what a manifest says, what contradicts it, and how it comes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pydicom")
from artifacts import write_artifact
from dicom_images import image
from pydicom.sr.codedict import codes
from typer.testing import CliRunner

from gazeseg_serve.card import model_card
from gazeseg_serve.cli.main import app
from gazeseg_serve.clinical import (
    Clinical,
    Code,
    IntendedUse,
    check_intended_use,
    known_codes,
    read_clinical,
)
from gazeseg_serve.contract import Artifact
from gazeseg_serve.default_model import DEFAULT_MODEL, default_artifact
from gazeseg_serve.describe import describe_artifact, described
from gazeseg_serve.errors import ConfigError, ContractError, OutsideIntendedUse

POLYP = Path(__file__).parents[1] / "configs" / "clinical" / "polyp.toml"
USE = IntendedUse("polyps", ("ES",), "colour", ("COLON", "LARGE INTESTINE"))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    ("kind", "attributes", "named"),
    [
        ("endoscopy", {}, []),
        ("endoscopy", {"Modality": "es "}, []),
        ("endoscopy", {"BodyPartExamined": "colon"}, []),
        ("endoscopy", {"BodyPartExamined": "LARGEINTESTINE"}, []),
        ("endoscopy", {"BodyPartExamined": ""}, []),
        ("endoscopy", {"BodyPartExamined": "STOMACH"}, ["BodyPartExamined"]),
        ("endoscopy", {"PhotometricInterpretation": "YBR_FULL_422"}, []),
        ("endoscopy", {"PhotometricInterpretation": "PALETTE COLOR"}, []),
        ("endoscopy", {"PhotometricInterpretation": "MONOCHROME1"}, ["PhotometricInterpretation"]),
        ("endoscopy", {"Modality": None}, ["Modality"]),
        ("photograph", {}, ["Modality"]),
        ("mr", {}, ["Modality", "PhotometricInterpretation"]),
    ],
)
def test_what_contradicts_the_intended_use_is_named(kind: str, attributes: dict[str, object], named: list[str]) -> None:
    dataset = image(kind, **attributes)
    found = check_intended_use(USE, [dataset, dataset], force=True)
    assert [phrase.split()[1] for phrase in found] == named
    if not named:
        assert check_intended_use(USE, [dataset]) == []
        return
    with pytest.raises(OutsideIntendedUse, match="force=true") as caught:
        check_intended_use(USE, [dataset])
    assert all(name in str(caught.value) for name in named)


def test_a_refusal_quotes_nothing_of_the_image() -> None:
    with pytest.raises(OutsideIntendedUse) as caught:
        check_intended_use(USE, [image("mr", Modality="JANE DOE", BodyPartExamined="DOE")])
    assert "DOE" not in str(caught.value)


def test_a_model_for_everything_refuses_nothing() -> None:
    assert check_intended_use(None, [image("mr")]) == []
    assert check_intended_use(IntendedUse("anything"), [image("mr")]) == []
    assert check_intended_use(IntendedUse("grey", photometric="grey"), [image("mr")]) == []
    with pytest.raises(OutsideIntendedUse):
        check_intended_use(IntendedUse("grey", photometric="grey"), [image("endoscopy")])


def test_the_packaged_manifest_is_what_its_clinical_file_says() -> None:
    clinical, artifact = read_clinical(POLYP), Artifact.load(default_artifact())
    assert artifact.intended_use == clinical.intended_use
    assert artifact.codes == clinical.codes_of(artifact.input.classes)
    assert json.loads((DEFAULT_MODEL / "manifest.json").read_text())["intended_use"]["modalities"] == ["ES"]


@pytest.mark.parametrize(
    "code",
    [code for name in ("polyp", "lesion", "prostate") for code in (known_codes(name).category, known_codes(name).type)]
    + [code for found in read_clinical(POLYP).codes.values() for code in (found.category, found.type, found.region) if code],
)
def test_codes_are_those_of_snomed(code: Code) -> None:
    """Against pydicom's copy of the dictionary of PS3.16."""
    keyword = "".join(word.capitalize() for word in code.meaning.split())
    known = getattr(codes.SCT, keyword)
    assert (known.value, known.scheme_designator, known.meaning) == (code.value, code.scheme, code.meaning)


def test_a_class_of_no_known_name_gets_a_code_of_its_own() -> None:
    assert known_codes("Polyp").type.meaning == "Lesion"
    zone, wall = known_codes("zone"), known_codes("a wall of many words \\ and more" * 3)
    assert (zone.type.value, zone.type.scheme, zone.type.meaning) == ("ZONE", "99GAZESEG", "zone")
    assert len(wall.type.value) == 16
    assert wall.type != known_codes("another").type
    assert zone.category.meaning == "Spatial and Relational Concept"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[codes.zone]\ncategory = {value = '1', scheme = 'SCT', meaning = 'x'}", "type"),
        ("[intended_use]\ntext = 'x'\nphotometric = 'blue'", "blue"),
        ("[intended_use]\nmodalities = ['ES']", "text"),
        ("[use]\n", "use"),
        (
            "[codes.a]\ncategory = {value = '', scheme = 'S', meaning = 'x'}\ntype = {value = '1', scheme = 'S', meaning = ''}",
            "value",
        ),
        ("text = ", "TOML"),
    ],
)
def test_a_wrong_clinical_file_is_refused_by_the_field(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "use.toml").write_text(text)
    with pytest.raises(ContractError, match=complaint):
        read_clinical(tmp_path / "use.toml")


def test_codes_for_a_class_that_the_model_has_not_are_refused() -> None:
    with pytest.raises(ContractError, match="zone"):
        Clinical(codes={"zone": known_codes("zone")}).codes_of(("polyp",))


def test_a_manifest_without_clinical_fields_is_read_and_one_with_a_wrong_count_is_not(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    facts = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("intended_use", "codes"):
        facts.pop(name)
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    assert Artifact.load(tmp_path).intended_use is None
    facts["codes"] = json.loads((DEFAULT_MODEL / "manifest.json").read_text())["codes"] * 2
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(ContractError, match="codes"):
        Artifact.load(tmp_path)


def test_an_artifact_is_described_anew_and_what_was_read_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = write_artifact(tmp_path / "plain", classes=("polyp",))
    before = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    done = CliRunner().invoke(
        app, ["describe", str(tmp_path / "plain"), "--clinical", str(POLYP), "--out", str(tmp_path / "made"), "--json"]
    )
    assert done.exit_code == 0, done.output
    made = Artifact.load(tmp_path / "made")
    assert made.id == artifact.id
    assert made == described(artifact, read_clinical(POLYP))
    assert {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()} == before
    with pytest.raises(ConfigError, match="is the input"):
        describe_artifact(tmp_path / "plain", read_clinical(POLYP), tmp_path / "plain")
    lines, _ = model_card(tmp_path / "made")
    assert any("Polyp of colon" in line for line in lines)
    assert any("colonoscopy" in line for line in lines)
