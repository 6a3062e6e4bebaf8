"""Defaults that the manual states are those of the program; what is refused just beyond a range."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bentoml")
from pydantic import ValidationError

from gazeseg_serve.service.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "million": 10**6}
NUMBER = re.compile(rf"(\d+(?:\.\d+)?)(?: ({'|'.join(UNITS)}))?(?: s)?")


def stated() -> dict[str, str]:
    """Setting -> its default in words, from the tables of the manual whose first cell names GAZESEG_ variables."""
    found: dict[str, str] = {}
    for page in sorted(DOCS.glob("**/*.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("| `GAZESEG_"):
                names, defaults = (cell.strip() for cell in line.strip("|").split("|")[:2])
                variables = re.findall(r"`GAZESEG_(\w+)`", names)
                values = [value.strip(" `") for value in defaults.split(", ")]
                if len(variables) == len(values):
                    found |= {variable.lower(): value for variable, value in zip(variables, values, strict=True)}
    return found


def test_the_manual_states_every_default_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GAZESEG_{name.upper()}", raising=False)
    settings, defaults = Settings(), stated()
    assert len(defaults) > 15, "the table of settings is not where it was"
    wrong = {}
    for name, text in defaults.items():
        value = getattr(settings, name)
        number = NUMBER.match(text)
        said: Any = float(number[1]) * UNITS.get(number[2], 1) if number else text
        plain = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if said != plain and not (text == "" and not value):
            wrong[name] = (text, value)
    assert not wrong


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("threads", 0),
        ("workers", 1),
        ("max_batch", 0),
        ("max_bytes", 1024),
        ("max_pixels", 1),
        ("max_queue", 1),
        ("max_images", 1),
        ("max_batch_bytes", 1024),
        ("drain_seconds", 0),
    ],
)
def test_a_setting_may_be_at_its_least_and_not_below(name: str, least: int) -> None:
    assert getattr(Settings(**{name: least}), name) == least
    with pytest.raises(ValidationError):
        Settings(**{name: least - 1})


@pytest.mark.parametrize("name", ["client_share", "batch_seconds", "head_seconds", "read_seconds", "timeout_seconds"])
def test_a_share_or_a_time_is_above_nothing(name: str) -> None:
    assert getattr(Settings(**{name: 0.01}), name) == 0.01
    with pytest.raises(ValidationError):
        Settings(**{name: 0})


@pytest.mark.parametrize(("name", "most"), [("client_share", 1.0), ("max_batch", 1024)])
def test_a_setting_may_be_at_its_most_and_not_above(name: str, most: float) -> None:
    Settings(**{name: most})
    with pytest.raises(ValidationError):
        Settings(**{name: most + 1})


def test_models_are_read_as_pairs_after_the_default_one(tmp_path: Path) -> None:
    settings = Settings(artifact=tmp_path, models="a=/x,b=/y/z")  # type: ignore[arg-type]
    assert settings.folders() == {"default": tmp_path, "a": Path("/x"), "b": Path("/y/z")}
    assert Settings(models="a=/x").folders() == {"a": Path("/x")}  # type: ignore[arg-type]
    for wrong in ("a", "=x", "a=", "a=x,b"):
        with pytest.raises(ValidationError, match="name=folder"):
            Settings(models=wrong)  # type: ignore[arg-type]
