"""Each importer takes good rows as they are meant, and tells each bad one in one line."""

import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import InputError
from shared.formats import registry
from shared.formats.common import Imported
from shared.prompts import render
from tests.hostile.generate import encode, generate
from tests.unit.formats import TEXTS, WRITERS, Case, read_id, write
from tests.unit.test_hostile_media import GIVEN, GIVEN_SOUND, SOUND, watching

FORMATS = sorted(WRITERS)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "inner").mkdir()
    (folder / "day_0001.mp4").write_bytes(encode(frames=30))
    (folder / "same.mp4").write_bytes(encode(frames=30))
    (folder / "inner" / "night_0001.mp4").write_bytes(encode(frames=31))
    (folder / unicodedata.normalize("NFC", "đường.mp4")).write_bytes(encode(frames=32))
    (folder / "refused.mp4").write_text("#EXTM3U\n")
    (folder.parent / "outside.mp4").write_bytes(encode(frames=30))
    (folder / "link_out.mp4").symlink_to(folder.parent / "outside.mp4")
    return folder


def read(format_: str, folder: Path, videos: Path, *cases: Case, **changed: Any) -> Imported:
    return registry.read(format_, write(format_, folder, *cases, **changed), videos, thorough=False)


def test_every_format_is_tested() -> None:
    assert set(registry.FORMATS) == set(FORMATS)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_row_becomes_a_question_on_a_clip(tmp_path: Path, videos: Path, format_: str) -> None:
    case = Case(choices=("Red", "Green", "Amber"), answer=2)
    imported = read(format_, tmp_path, videos, case)
    assert imported.problems == []
    (question,), (clip,) = imported.questions, imported.clips.values()
    assert (question.id, question.text, question.answer) == (read_id(format_, case), case.question, 2)
    assert [(c.label, c.text) for c in question.choices] == [("A", "Red"), ("B", "Green"), ("C", "Amber")]
    assert (question.category, question.language, question.clip) == ("lights", "en", clip.digest)
    assert question.origin.answer == "human"
    assert clip.name == "day_0001.mp4"
    assert imported.paths[clip.digest] == videos / "day_0001.mp4"


@pytest.mark.parametrize("format_", FORMATS)
def test_a_row_without_an_answer_is_a_question_all_the_same(tmp_path: Path, videos: Path, format_: str) -> None:
    imported = read(format_, tmp_path, videos, Case(answer=None))
    assert imported.problems == []
    assert [(q.answer, q.origin.answer) for q in imported.questions] == [(None, "none")]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("case", "what"),
    [
        (Case(video="absent.mp4"), "is not in"),
        (Case(video="/etc/hosts.mp4"), "not a path inside the videos folder"),
        (Case(video="../outside.mp4"), "not a path inside the videos folder"),
        (Case(video="link_out.mp4"), "leads out of the videos folder"),
        (Case(video="refused.mp4"), "is a playlist"),
        (Case(question=" "), "has no question"),
        (Case(choices=("Yes", "")), "fewer than 2 choices"),
        (Case(choices=("Yes", "", "No"), answer=1), "empty choice"),
        (Case(answer=9), "none of the"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_row_is_told_and_the_others_go_through(
    tmp_path: Path, videos: Path, format_: str, case: Case, what: str
) -> None:
    if format_ == "sharegpt" and case.question == " ":
        what = "no multiple-choice question"  # what stands above the choices is the question
    if format_ == "sharegpt" and case.choices == ("Yes", ""):
        what = "no multiple-choice question"
    first, last = Case("first"), Case("last", question="And now?")
    path = write(format_, tmp_path, first, case, last)
    imported = registry.read(format_, path, videos, thorough=False)
    assert [q.id for q in imported.questions] == [read_id(format_, first), read_id(format_, last)]
    (problem,) = imported.problems
    place = "line 3" if path.suffix in (".csv", ".jsonl") else "row 2"
    assert problem.startswith(f"{path}: {place} (id "), problem
    assert what in problem or (what == "none of the" and "names 0 of" in problem), problem
    assert problem.endswith("; the row is left out")
    assert problem.isprintable()


@pytest.mark.parametrize("format_", FORMATS)
def test_an_empty_choice_keeps_its_place_and_is_not_shown(tmp_path: Path, videos: Path, format_: str) -> None:
    case = Case(choices=("Left", "", "Right", "", "Straight on"), answer=2)
    imported = read(format_, tmp_path, videos, case)
    assert imported.problems == []
    (question,) = imported.questions
    assert [choice.text for choice in question.choices] == list(case.choices)
    assert (question.answer, question.offered) == (2, (0, 2, 4))
    assert render(question).split("\n")[1:-1] == ["A. Left", "C. Right", "E. Straight on"]


@pytest.mark.parametrize("format_", FORMATS)
def test_of_one_id_the_first_row_stands(tmp_path: Path, videos: Path, format_: str) -> None:
    imported = read(format_, tmp_path, videos, Case(), Case(question="Another?"))
    assert [q.text for q in imported.questions] == [Case().question]
    assert "; give each question its own" in imported.problems[0]


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_that_contradict_each_other_on_one_clip_are_named_and_left_out(
    tmp_path: Path, videos: Path, format_: str
) -> None:
    cases = Case("a", answer=0), Case("b", video="same.mp4"), Case("c", answer=None), Case("d", "inner/night_0001.mp4")
    imported = read(format_, tmp_path, videos, *cases)
    assert [q.id for q in imported.questions] == [read_id(format_, case) for case in cases[2:]]
    first, second = imported.problems
    assert f"(id {read_id(format_, cases[0])}): answers 'Yes' where " in first
    assert f"(id {read_id(format_, cases[1])}) answers 'No' to the same question on the same clip" in first
    assert f"(id {read_id(format_, cases[1])}): answers 'No' where " in second


@pytest.mark.parametrize("format_", FORMATS)
def test_a_question_that_stands_twice_with_one_answer_goes_through(tmp_path: Path, videos: Path, format_: str) -> None:
    imported = read(format_, tmp_path, videos, Case("a"), Case("b"))
    assert (len(imported.questions), imported.problems) == (2, [])


@pytest.mark.parametrize("format_", FORMATS)
def test_equal_clips_are_one(tmp_path: Path, videos: Path, format_: str) -> None:
    imported = read(format_, tmp_path, videos, Case("a"), Case("b", video="same.mp4"))
    assert len({q.clip for q in imported.questions}) == len(imported.clips) == 1


@pytest.mark.parametrize("format_", TEXTS)
def test_a_file_that_passed_through_other_hands_reads_the_same(tmp_path: Path, videos: Path, format_: str) -> None:
    case = Case(video="đường.mp4", question="Đèn đỏ?", choices=("Có", "Không"))
    plain = read(format_, tmp_path, videos, case)
    assert [(q.text, q.language) for q in plain.questions] == [("Đèn đỏ?", "vi")]

    def other(text: str) -> str:
        return unicodedata.normalize("NFD", text.replace("\n", "\r\n"))

    changed = read(format_, tmp_path, videos, case, text=other, encode=lambda text: text.encode("utf-8-sig"))
    assert (changed.problems, changed.questions) == ([], plain.questions)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "cp1258"])
@pytest.mark.parametrize("format_", TEXTS)
def test_what_is_not_utf8_is_refused_in_one_line(tmp_path: Path, videos: Path, format_: str, encoding: str) -> None:
    if format_ == "roadbuddy":  # whose writer escapes what is not ASCII
        encoding = encoding.replace("cp1258", "utf-16")
    case = Case(question="Có xe không ở đường?", choices=("Có", "Không"))
    with pytest.raises(InputError, match=r"rows\.\w+: is not UTF-8.*; save it as UTF-8") as refused:
        read(format_, tmp_path, videos, case, encode=lambda text: text.encode(encoding, "replace"))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x02", b"{", b'{"x": 1}', b"[1, 2]", b"a,b\n1,2\n", b"[" * 100_000])
@pytest.mark.parametrize("format_", FORMATS)
def test_any_other_file_is_refused_or_gives_no_question(
    tmp_path: Path, videos: Path, format_: str, data: bytes
) -> None:
    path = tmp_path / WRITERS[format_][0]
    path.write_bytes(data)
    told: list[str] = []
    try:
        imported = registry.read(format_, path, videos)
        assert imported.questions == []
        told += imported.problems
    except InputError as error:
        told.append(str(error))
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in told)


def hostile(format_: str, folder: Path, tmp_path: Path, sound: set[str]) -> None:
    """Every clip of `folder` through an importer: named and refused unless it is sound, and nothing else opened."""
    names = sorted(path.name for path in folder.glob("*.mp4"))
    cases = [Case(f"q{number}", name, f"What is {number}?") for number, name in enumerate(names)]
    path = write(format_, tmp_path, *cases)
    started = time.monotonic()
    with watching(folder) as opened:
        imported = registry.read(format_, path, folder)
        assert opened.names() == set(names)
    assert time.monotonic() - started < 120
    taken = {clip.name for clip in imported.clips.values()}
    assert taken == sound & set(names)
    assert len(imported.problems) == len(names) - len(taken)
    for name in set(names) - taken:
        (problem,) = (line for line in imported.problems if f"/{name}: " in line)
        assert problem.startswith(f"{path}: ")
        assert problem.isprintable()


@pytest.mark.parametrize("format_", FORMATS)
def test_hostile_clips_are_named_and_refused(tmp_path: Path, format_: str) -> None:
    folder = tmp_path / "hostile"
    generate(folder, 9)
    hostile(format_, folder, tmp_path, SOUND)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_given_hostile_clips_too(tmp_path: Path, format_: str) -> None:
    if not GIVEN.is_dir():
        pytest.skip(f"{GIVEN} is not here")
    hostile(format_, GIVEN, tmp_path, GIVEN_SOUND)


KEYS = {
    "roadbuddy": ["id", "question", "choices", "answer", "video_path", "category", "recording", "split", "origin"],
    "videomme": ["question_id", "question", "options", "answer", "videoID", "questions", "task_type", "language"],
    "sharegpt": ["id", "video", "videos", "conversations", "messages", "query", "response", "history", "roadqa"],
    "sutd": ["record_id", "vid_filename", "q_body", "option0", "option1", "option3", "answer", "q_type"],
}
TURN = ["from", "value", "role", "content", "type", "text", "human", "assistant", "video"]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.floats(), st.text(max_size=6),
    st.sampled_from(["day_0001.mp4", "A", "B. No", "<video>\nQ\nA. x\nB. y", "human", "gpt", "{}", "\ud800"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TURN), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("format_", sorted(KEYS))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_row_holds_it_is_taken_or_told(
    tmp_path_factory: pytest.TempPathFactory, videos: Path, format_: str, data: st.DataObject
) -> None:
    row = VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS[format_], VALUES))
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    path = tmp_path_factory.mktemp("fuzz") / WRITERS[format_][0]
    if format_ == "sutd":
        values = [list(row.values()) if isinstance(row, dict) else row for row in rows]
        path.write_text("\n".join(map(json.dumps, [KEYS["sutd"], *values, *rows])), encoding="utf-8")
        rows = [*values, *rows]
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    imported = registry.read(format_, path, videos, thorough=False)
    assert all(problem.startswith(f"{path}: ") and problem.isprintable() for problem in imported.problems)
    if format_ in ("roadbuddy", "sutd"):
        assert len(imported.questions) + len(imported.problems) == len(rows)
    for question in imported.questions:
        question.model_dump_json()
