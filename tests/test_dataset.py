from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gazeseg_serve.dataset import Dataset, seeded_split
from gazeseg_serve.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("images", "masks", "splits"):
        (tmp_path / kind).mkdir()
    for stem in "abcdefghij":
        Image.fromarray(np.full((8, 9, 3), 90, np.uint8)).save(tmp_path / "images" / f"{stem}.png")
    return tmp_path


def test_the_convention_for_kvasir_is_800_and_100() -> None:
    train, val = seeded_split(f"image_{i:03d}" for i in range(900))
    assert (len(train), len(val)) == (800, 100)
    assert val[:3] == ("image_002", "image_008", "image_036")  # golden: the split every quoted figure is on


@given(st.sets(st.text("abcdef", min_size=1), min_size=2, max_size=40), st.integers(0, 5))
def test_a_seeded_split_divides_the_stems(stems: set[str], seed: int) -> None:
    train, val = seeded_split(stems, seed)
    assert set(train) | set(val) == stems
    assert not set(train) & set(val)
    assert val
    assert seeded_split(sorted(stems, reverse=True), seed) == (train, val)


def test_named_splits_are_kept_and_validation_is_made(folder: Path) -> None:
    (folder / "splits" / "test.txt").write_text("a\nb\n")
    splits = Dataset.open(folder).splits()
    assert splits["test"] == ("a", "b")
    assert len(splits["val"]) == 1
    assert set(splits["train"]) | set(splits["val"]) == set("cdefghij")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.txt": "a\nb", "val.txt": "b\nc"}, "share 1 image"),
        ({"val.txt": "nobody"}, "nobody"),
        ({"val.txt": "a\na"}, "twice"),
        ({"train.txt": "a"}, "too few"),
    ],
)
def test_a_wrong_split_is_an_error(folder: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (folder / "splits" / name).write_text(text)
    with pytest.raises(DatasetError, match=words):
        Dataset.open(folder).splits()


def test_a_folder_without_images_says_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images/ folder"):
        Dataset.open(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="holds no image"):
        Dataset.open(tmp_path)


def test_two_images_of_one_stem_are_an_error(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "images" / "a.jpg")
    with pytest.raises(DatasetError, match="share the name a"):
        Dataset.open(folder)


def test_masks_are_cut_by_what_their_format_keeps(folder: Path) -> None:
    values = np.zeros((16, 16), np.uint8)
    values[:8] = 2
    Image.fromarray(values).save(folder / "masks" / "a.png")
    values[:8] = 255
    Image.fromarray(values).save(folder / "masks" / "b.jpg", quality=60)
    dataset = Dataset.open(folder)
    wanted = (values > 0).astype(np.uint8)
    np.testing.assert_array_equal(dataset.mask("a"), wanted)
    np.testing.assert_array_equal(dataset.mask("a", classes=2), 2 * wanted)
    np.testing.assert_array_equal(dataset.mask("b"), wanted)
    with pytest.raises(DatasetError, match="JPEG"):
        dataset.mask("b", classes=3)
    with pytest.raises(DatasetError, match="no mask"):
        dataset.mask("c")


def test_a_label_beyond_the_classes_is_an_error(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(folder / "masks" / "a.png")
    with pytest.raises(DatasetError, match="label 3, but there are 2 classes"):
        Dataset.open(folder).mask("a", classes=2)


def test_negatives_are_listed_by_stem(folder: Path) -> None:
    assert Dataset.open(folder).negatives == frozenset()
    (folder / "negatives.txt").write_text("\ufeffb\n\n  d \n", encoding="utf-8")
    assert Dataset.open(folder).negatives == {"b", "d"}


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a\nnobody\n", "nobody"), (b"a.png\n", "no suffix"), (b"a\na\n", "twice"), (b"\xff\xfe\x00", "UTF-8")],
)
def test_a_wrong_list_of_negatives_is_an_error(folder: Path, content: bytes, words: str) -> None:
    (folder / "negatives.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=words) as found:
        Dataset.open(folder)
    assert "negatives.txt" in str(found.value)
