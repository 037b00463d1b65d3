"""RoadBuddy files as they come: good rows go through, each bad one is told in one line."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InputError
from shared.formats import roadbuddy
from shared.formats.common import Imported, language_of, recording_of, resolve_within
from tests.hostile.generate import encode, playlists

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
CLIP = "train/videos/road_day_0001.mp4"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roadbuddy")
    (folder / "train/videos").mkdir(parents=True)
    (folder / CLIP).write_bytes(encode(frames=30))
    (folder / "train/videos/hostile.mp4").write_text(playlists(9)["ffconcat_relative.mp4"])
    (folder.parent / "outside.mp4").write_bytes(encode(frames=30))
    (folder / "train/videos/link_out.mp4").symlink_to(folder.parent / "outside.mp4")
    (folder / "train/videos/loop.mp4").symlink_to("loop.mp4")
    (folder / "train/videos/other_0001.mp4").write_bytes(encode(frames=31))
    return folder


def row(**changes: Any) -> dict[str, Any]:
    """A sound row, changed; a field set to None is left out."""
    base = {"id": "train_1", "question": "Đèn đỏ?", "choices": ["A. Có", "B. Không"], "answer": "B. Không"}
    return {
        k: v for k, v in (base | {"video_path": CLIP, "support_frames": [4.4, 0]} | changes).items() if v is not None
    }


def read(tmp_path: Path, videos: Path, *rows: Any, name: str = "train.json", **options: Any) -> Imported:
    path = tmp_path / name
    path.write_text(json.dumps({"__count__": len(rows), "data": list(rows)}), encoding="utf-8")
    return roadbuddy.read(path, videos, **options)


def test_a_row_becomes_a_question_on_a_clip(tmp_path: Path, videos: Path) -> None:
    imported = read(tmp_path, videos, row(category="lights"))
    (question,), (clip,) = imported.questions, imported.clips.values()
    assert (question.id, question.text, question.answer) == ("train_1", "Đèn đỏ?", 1)
    assert [(c.label, c.text) for c in question.choices] == [("A", "Có"), ("B", "Không")]
    assert (question.category, question.language, question.clip) == ("lights", "vi", clip.digest)
    assert (question.origin.answer, question.origin.test_derived) == ("human", False)
    assert (clip.name, clip.recording, clip.width, clip.seconds) == (CLIP, "road_day", 160, pytest.approx(1.2))
    assert imported.paths[clip.digest] == videos / CLIP
    assert imported.problems == []
    assert "4.4" not in question.model_dump_json()


def test_a_file_that_passed_through_other_hands_reads_the_same(tmp_path: Path, videos: Path) -> None:
    plain = read(tmp_path, videos, row())
    text = json.dumps([row()], ensure_ascii=False, indent=1).replace("\n", "\r\n")
    (tmp_path / "train.json").write_bytes(unicodedata.normalize("NFD", text).encode("utf-8-sig"))
    assert roadbuddy.read(tmp_path / "train.json", videos) == plain


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"answer": "C. Khác"}, "none of the 2 choices"),
        ({"choices": ["A. x", "B. y", "B. z"], "answer": "B"}, "fits 2 choices"),
        ({"answer": ["B"]}, "answer that is list"),
        ({"choices": None}, "no list of 2 to 26 choices"),
        ({"choices": ["A. x"]}, "no list of 2 to 26 choices"),
        ({"choices": ["A. x", None]}, "choice that is not text"),
        ({"question": " "}, "has no question"),
        ({"id": None}, "has no id"),
        ({"video_path": None}, "has no video_path"),
        ({"video_path": "train/videos/absent.mp4"}, "is not in"),
        ({"video_path": "train/videos/hostile.mp4"}, "ffconcat"),
        ({"video_path": "../outside.mp4"}, "not a path inside"),
        ({"video_path": "/etc/hosts"}, "not a path inside"),
        ({"video_path": "train\\..\\..\\outside.mp4"}, "not a path inside"),
        ({"video_path": "train/videos/link_out.mp4"}, "leads out"),
        ({"video_path": "x" * 300}, "cannot be opened: File name too long"),
        ({"video_path": "train/videos/loop.mp4"}, "cannot be opened: Symlink loop"),
        ({"video_path": "\ud800.mp4"}, "half a character"),
        ({"id": "good\nnews", "answer": "?"}, "none of the 2"),
        ({"id": "\ud800"}, "half a character"),
        ({"question": "\ud800?"}, "half a character"),
        ({"choices": ["A. \ud800", "B. y"], "answer": "B"}, "half a character"),
        ({"category": "\ud800"}, "half a character"),
        ({"recording": ["cam1"]}, "recording that is list"),
    ],
)
def test_a_bad_row_is_told_and_the_others_go_through(
    tmp_path: Path, videos: Path, changes: dict[str, Any], what: str
) -> None:
    imported = read(tmp_path, videos, row(id="first"), row(**changes), row(id="last"))
    assert [q.id for q in imported.questions] == ["first", "last"]
    (problem,) = imported.problems
    assert what in problem
    assert problem.startswith(f"{tmp_path / 'train.json'}: row 2 (id ")
    assert "\n" not in problem


def test_the_second_of_two_rows_with_one_id_is_left_out(tmp_path: Path, videos: Path) -> None:
    imported = read(tmp_path, videos, row(), row(question="Another?"))
    assert [q.text for q in imported.questions] == ["Đèn đỏ?"]
    assert "that of row 1" in imported.problems[0]


def test_a_row_may_say_which_recording_its_clip_is_from(tmp_path: Path, videos: Path) -> None:
    other = "train/videos/other_0001.mp4"
    rows = [row(id="a"), row(id="b", recording="cam 1"), row(id="c", recording="cam 1"), row(id="d", video_path=other)]
    imported = read(tmp_path, videos, *rows)
    assert {clip.name: clip.recording for clip in imported.clips.values()} == {CLIP: "cam 1", other: "other"}
    assert (len(imported.questions), imported.problems) == (4, [])


def test_a_clip_keeps_the_recording_that_it_was_given_first(tmp_path: Path, videos: Path) -> None:
    rows = [row(id="a", recording="cam 1"), row(id="b", recording="cam 2"), row(id="c", recording="")]
    imported = read(tmp_path, videos, *rows)
    assert [q.id for q in imported.questions] == ["a", "c"]
    assert {clip.recording for clip in imported.clips.values()} == {"cam 1"}
    (problem,) = imported.problems
    assert "row 2 (id b): " in problem
    assert "'cam 2'" in problem
    assert "'cam 1'" in problem


def test_a_clip_is_read_once_and_progress_told(tmp_path: Path, videos: Path) -> None:
    told: list[tuple[int, int]] = []
    imported = read(
        tmp_path, videos, *(row(id=i) for i in range(5)), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 1)]
    assert [q.id for q in imported.questions] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "test", "split", "expected"),
    [
        ("public_test.json", None, None, True),
        ("train.json", None, None, False),
        ("latest.json", None, None, False),
        ("train.json", None, "public-test", True),
        ("train.json", True, None, True),
        ("public_test.json", False, None, False),
    ],
)
def test_test_rows_are_marked(
    tmp_path: Path, videos: Path, name: str, test: bool | None, split: str | None, expected: bool
) -> None:
    imported = read(tmp_path, videos, row(split=split, answer=None), name=name, test=test)
    (question,) = imported.questions
    assert question.origin.test_derived is expected
    assert (question.answer, question.origin.answer) == (None, "none")


def test_numbers_answer_where_the_file_shows_their_base(tmp_path: Path, videos: Path) -> None:
    def answers(first: int, second: int) -> list[int | None]:
        rows = row(id="a", answer=first), row(id="b", question="Đèn xanh?", answer=second)
        return [question.answer for question in read(tmp_path, videos, *rows).questions]

    assert answers(0, 1) == [0, 1]
    assert answers(2, 1) == [1, 0]
    assert "0 or 1" in read(tmp_path, videos, row(answer=1)).problems[0]


def test_a_wrong_count_is_told(tmp_path: Path, videos: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"__count__": 9, "data": [row()]}))
    imported = roadbuddy.read(path, videos)
    assert len(imported.questions) == 1
    assert "__count__ says 9" in imported.problems[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"data": [', "not valid JSON"),
        (b"{}", "no list of rows"),
        (b'"x"', "no list of rows"),
        ("[]".encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "RoadBuddy"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason):
        roadbuddy.read(path, tmp_path)


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("train/videos/9f2c_386_clip_002_0008_0018_Y.mp4", "9f2c_386"),
        ("train/videos/9f2c_386_clip_003_0018_0028_N.mp4", "9f2c_386"),
        ("highway_day_0001.mp4", "highway_day"),
        ("plain.mp4", "plain"),
        ("_7.mp4", "_7"),
        ("train/videos/cam1/0001.mp4", "cam1/0001"),
        ("videos/cam_2/0001.mp4", "cam_2/0001"),
        ("videos\\cam3\\0001.mp4", "cam3/0001"),
        ("cam4/_0001.mp4", "cam4/_0001"),
        ("cam5/day_0001.mp4", "day"),
        ("./0001.mp4", "0001"),
    ],
)
def test_clips_of_one_recording_share_its_name(name: str, recording: str) -> None:
    assert recording_of(name) == recording


@pytest.mark.parametrize(
    ("text", "language"), [("Is it day?", "en"), ("Đúng", "vi"), ("Co\u0301", "vi"), ("Không", "vi")]
)
def test_language_is_told_by_its_letters(text: str, language: str) -> None:
    assert language_of(text) == language


def test_names_are_found_in_either_unicode_form(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "đường.mp4")).touch()
    assert resolve_within(tmp_path, unicodedata.normalize("NFC", "đường.mp4")).is_file()


@pytest.mark.parametrize("name", ["x" * 300, "loop", "loop/a.mp4", "\ud800"])
def test_a_name_that_the_disk_cannot_hold_is_refused_like_an_absent_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be opened"):
        resolve_within(tmp_path, name)


def test_the_real_files_read_without_a_problem() -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    train = roadbuddy.read(REAL / "train/train.json", REAL)
    test = roadbuddy.read(REAL / "public_test/public_test.json", REAL)
    assert (len(train.questions), len(train.clips), train.problems) == (16, 3, [])
    assert (len(test.questions), len(test.clips), test.problems) == (10, 2, [])
    assert all(q.answer is not None and not q.origin.test_derived for q in train.questions)
    assert all(q.answer is None and q.origin.test_derived for q in test.questions)
    assert {q.language for q in train.questions} == {"en", "vi"}
