"""Names of answers: unique on every file system, short enough, without nested suffixes, and one line when printed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gazeseg_serve import names as names_module
from gazeseg_serve.names import MAX_BYTES, SUFFIXES, answer_names, distinct_names, printable, sent_name

STEMS = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
ENDS = st.sampled_from(["", ".png", ".PNG", ".jpg", ".dcm", ".IMA", ".5", ".png.png", ".tar.gz", "_dcm.dcm", "-2.png"])
# Few letters, so that names meet often; and any letters at all, short and far too long.
FEW = st.builds(str.__add__, st.text("aAßſé.- ", min_size=1, max_size=3), ENDS)
ANY = st.builds(str.__add__, STEMS, ENDS)
LETTERS = st.sampled_from(["x", "é", "界", "\U0001f600"])
LONG = st.builds(lambda letter, n, end: letter * n + end, LETTERS, st.integers(50, 300), ENDS)
NAMES = st.lists(st.one_of(FEW, ANY, LONG), max_size=12)


def on_disk(name: str) -> str:
    """What a file system that ignores case and composition compares."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


@given(NAMES, st.sampled_from([".png", ".json", ".dcm"]))
@example(["a.png"] * 40, ".png")
@example(["a-2.png", "a.png", "a.png", "a_png.png", "A.PNG"], ".png")
@example(["x" * 251 + ".png"] * 2 + ["x" * 250 + "y.png"] * 2, ".png")  # cut for its number, either is the other
@example(["x" * 255, "x" * 254 + "y", "x" * 251 + ".png"], ".png")
def test_answers_never_collide_never_nest_and_fit(names: list[str], suffix: str) -> None:
    answers = answer_names(names, suffix)
    assert len(answers) == len(names)
    assert len({on_disk(answer) for answer in answers}) == len(answers)
    for name, answer in zip(names, answers, strict=True):
        assert answer.endswith(suffix)
        assert "/" not in answer
        assert len(answer.encode()) <= MAX_BYTES
        stem = answer.removesuffix(suffix)
        assert stem
        if len(name.encode()) < 200:  # a cut may fall just behind a dot
            assert not any(stem.lower().endswith(known) for known in SUFFIXES), answer
    assert answer_names(names, suffix) == answers


@given(st.lists(FEW, max_size=12), st.randoms())
def test_a_name_that_meets_no_other_keeps_its_stem(names: list[str], random) -> None:
    answers = answer_names(names, ".png")
    alone = [answer_names([name], ".png")[0] for name in names]
    folded = [on_disk(name) for name in alone]
    for name, answer, key in zip(alone, answers, folded, strict=True):
        if folded.count(key) == 1:
            assert answer == name
    # The first of those that meet keeps its stem, too, so nobody's name is given to another.
    for i, (name, answer, key) in enumerate(zip(alone, answers, folded, strict=True)):
        if folded.index(key) == i:
            assert answer == name


def test_many_files_of_one_name_take_no_more_steps_than_there_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, numbered = [], names_module._numbered
    monkeypatch.setattr(names_module, "_numbered", lambda *parts: tried.append(1) or numbered(*parts))
    assert len(set(answer_names(["a.png"] * 500, ".png"))) == 500
    assert len(tried) <= 501


@pytest.mark.parametrize(
    ("names", "answers"),
    [
        (["photo.jpg", "scan.PNG"], ["photo.png", "scan.png"]),
        (["a.jpg", "a.dcm", "a.dcm"], ["a.png", "a_dcm.png", "a_dcm-2.png"]),
        (["0003_a.png", "a.png", "a.png"], ["0003_a.png", "a.png", "a_png.png"]),
        (["1.2.840.5", "1.2.840.6"], ["1.2.840.5.png", "1.2.840.6.png"]),
        (["IM0001", "slice.IMA", "x.jfif", "x.jpg.png"], ["IM0001.png", "slice.png", "x.png", "x_png.png"]),
        ([".png", "..png"], ["image.png", "..png"]),
        (["Ä.png", "a\u0308.png"], ["Ä.png", "a\u0308_png.png"]),
    ],
)
def test_what_a_user_sees(names: list[str], answers: list[str]) -> None:
    assert answer_names(names, ".png") == answers


def test_a_long_name_is_cut_at_a_whole_character() -> None:
    (answer,) = answer_names(["界" * 90], ".png")
    assert answer == "界" * 83 + ".png"  # 3 bytes each: 249 + 4 of 255


@given(st.lists(st.text(max_size=300), max_size=10))
@example(["a.png", "a.png", "A.png", "../../a.png", "C:\\x\\a.png"])
@example(["\ud800", "con", "CON.png", "nul.txt", "..", ".", "", " ", "a\u202egnp.exe", "\x00\r\n"])
def test_names_that_clients_send_become_names_of_files(sent: list[str]) -> None:
    names = distinct_names([sent_name(name, i) for i, name in enumerate(sent, start=1)])
    assert len({on_disk(name) for name in names}) == len(sent)
    for name in names:
        assert name
        assert not set(name) & set('/\\<>:"|?*')
        assert len(name.encode("utf-8")) <= MAX_BYTES
        assert not {unicodedata.category(letter) for letter in name} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert name not in (".", "..")
        assert not name.startswith(".")
        assert name.partition(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")


def test_what_a_client_sent_is_kept_where_it_can_be() -> None:
    assert sent_name("Gräte 1.2.dcm", 1) == "Gräte 1.2.dcm"
    assert sent_name("C:\\scans\\a.dcm", 1) == "a.dcm"
    assert sent_name("", 7) == "image_0007"
    assert distinct_names(["a.png", "a.png", "b.png"]) == ["a.png", "a-2.png", "b.png"]


@given(st.text())
@example("a\nb\x1b[31m\udcff\u202e")
def test_a_printed_name_is_one_line_that_any_terminal_takes(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert shown.isascii() or not text.isascii()


def test_a_plain_path_is_printed_as_it_is() -> None:
    assert printable("photos/Gräte 1.png") == "photos/Gräte 1.png"
