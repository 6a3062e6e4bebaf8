"""The manual: its generated pages are fresh, and it builds without a warning."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gazeseg_serve
from gazeseg_serve.training.learning.config import TrainConfig
from gazeseg_serve.training.learning.student import Student

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert spec is not None
assert spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.mark.parametrize("page", list(generate.PAGES))
def test_a_generated_page_is_what_the_program_says(page: str) -> None:
    fresh = generate.PAGES[page]().rstrip() + "\n"
    assert (ROOT / "docs" / page).read_text() == fresh, "stale: run python docs/generate.py"


def test_the_python_page_has_every_public_name() -> None:
    assert sorted(name for names in generate.API.values() for name in names) == gazeseg_serve.__all__


def test_every_command_and_option_is_explained() -> None:
    for command in generate.typer.main.get_command(generate.app).commands.values():
        assert "Example:" in command.help, command.name
        unexplained = [p.name for p in command.params if p.param_type_name == "option" and not p.help]
        assert not unexplained, f"{command.name}: {unexplained}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site" / "cli" / "index.html").is_file()


@pytest.mark.parametrize("settings", [TrainConfig, Student])
def test_every_key_of_a_configuration_is_explained(settings: type) -> None:
    for field in dataclasses.fields(settings):
        nested = dataclasses.is_dataclass(field.default_factory) and field.default_factory is not dataclasses.MISSING
        for leaf in dataclasses.fields(field.default_factory) if nested else (field,):  # type: ignore[arg-type]
            assert leaf.metadata.get("explanation"), f"{settings.__name__}.{field.name}: {leaf.name}"


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    shutil.copy(ROOT / "service" / "page" / "sample2.jpg", tmp_path / "photo.jpg")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1, "the sample holds a made-up lesion"
