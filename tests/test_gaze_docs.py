"""The pages of the trackers: the first lines that they show are recognised as they say, their mappings load, and the table of
what works names what the tests make."""

import gzip
import re
from pathlib import Path

import gaze_files as made
import pytest

from gazeseg_serve.training.gaze import gazemedseg
from gazeseg_serve.training.gaze.compose import recognised
from gazeseg_serve.training.gaze.formats import recognise
from gazeseg_serve.training.gaze.layout import Layout
from gazeseg_serve.training.gaze.mapping import load_mapping
from gazeseg_serve.training.gaze.names import ImageNames

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / "gaze.md", *sorted((DOCS / "gaze").glob("*.md"))]
SHOWN = re.compile(r"First lines of `([^`]+)`, recognised as \*([^*]+)\*:\n\n```text\n(.*?)```", re.DOTALL)
BESIDE = re.compile(r"`([^`]+\.json)`[^`]*:\n\n```json\n(.*?)```", re.DOTALL)
IMAGES = ImageNames(("polyp_1", "1a3f39ce-ebe90275"))
EXAMPLES = [(page, *found) for page in PAGES for found in SHOWN.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "name", "called", "lines"), EXAMPLES, ids=[f"{p.stem}-{c}" for p, _, c, _ in EXAMPLES])
def test_the_first_lines_are_recognised_as_the_page_says(tmp_path, page, name, called, lines):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
    for other, content in BESIDE.findall(page.read_text(encoding="utf-8")):
        (tmp_path / other).write_text(content, encoding="utf-8")
    layout = recognise(path, IMAGES)
    assert isinstance(layout, Layout)
    assert recognised(layout).startswith(f"{called}, told by ")
    if page.stem == "bids":
        assert layout.screen.monitor().width_cm == pytest.approx(52.7)


def test_every_tracker_has_lines_on_a_page():
    shown = {called for _, _, called, _ in EXAMPLES}
    assert set(made.MAKERS.values()) - shown == {
        "LSL .xdf (raw samples)",  # a binary file
        "EyeLink .asc (raw samples)",
        "Pupil Labs Marker Mapper (raw samples)",
        "Pupil Labs Reference Image Mapper (fixations)",
    }


def test_the_mappings_on_the_pages_load(tmp_path):
    blocks = [
        block for page in PAGES for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert len(blocks) >= 7
    for block in blocks:
        (tmp_path / "gaze.toml").write_text(block, encoding="utf-8")
        assert load_mapping(tmp_path / "gaze.toml").files


def test_the_table_of_fixations_names_its_columns():
    text = PAGES[0].read_text(encoding="utf-8")
    for name in (*gazemedseg.REQUIRED, gazemedseg.INDEX, gazemedseg.START, gazemedseg.CLASS, gazemedseg.READER):
        assert f"`{name}`" in text


def test_every_page_is_in_the_table():
    text = PAGES[0].read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"](gaze/{page.name})" in text
