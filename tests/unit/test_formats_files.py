"""What only one format has: separators, headers, nested lists, clips without endings, parquet that is none."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import InputError
from shared.formats import registry
from shared.formats.common import Imported
from shared.schema import Clip
from tests.hostile.generate import encode


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("1164/3238737531.mp4", "a.mp4", "both/x.mp4", "both/x.mkv", "two/x.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encode(frames=10 + number))
    (folder / "notes").write_text("no clip")
    return folder


def read(format_: str, folder: Path, videos: Path, text: str, name: str = "rows.csv") -> Imported:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return registry.read(format_, path, videos, thorough=False)


# --- csv -------------------------------------------------------------------------------------------

HEADER = "video,question,choice_a,choice_b,choice_c,answer"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_may_be_separated_by_what_spreadsheets_write(tmp_path: Path, videos: Path, separator: str) -> None:
    text = f'{HEADER.title()}\na.mp4,"Red, or; amber\tnow?",Red,Amber,,B\n'
    quoted, rest = text.split('"')[1], [part.replace(",", separator) for part in text.split('"')[::2]]
    imported = read("csv", tmp_path, videos, f'{rest[0]}"{quoted}"{rest[1]}')
    assert imported.problems == []
    (question,) = imported.questions
    assert (question.id, question.text, question.answer) == ("line-2", "Red, or; amber now?", 1)
    assert [choice.text for choice in question.choices] == ["Red", "Amber"]


def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path: Path, videos: Path) -> None:
    lines = [HEADER, 'a.mp4,"Open?,x,y,,A', "a.mp4,Good?,x,y,,A", 'a.mp4,"Two\nlines?",x,y,,B', "a.mp4,short", ""]
    imported = read("csv", tmp_path, videos, "\n".join(lines))
    assert [(q.id, q.text) for q in imported.questions] == [("line-3", "Good?"), ("line-4", "Two lines?")]
    first, second = imported.problems
    assert "rows.csv: line 2: is not CSV" in first
    assert "rows.csv: line 6: has 2 fields, the header 6" in second


@pytest.mark.parametrize(
    ("answers", "expected"), [("0 1", [0, 1]), ("2 1", [1, 0]), ("1 1", []), ("A b", [0, 1]), ("x Y", [0, 1])]
)
def test_numbers_count_from_where_the_file_shows(
    tmp_path: Path, videos: Path, answers: str, expected: list[int]
) -> None:
    lines = [f"a.mp4,Is it {number}?,x,y,,{answer}" for number, answer in enumerate(answers.split())]
    imported = read("csv", tmp_path, videos, "\n".join([HEADER, *lines]))
    assert [question.answer for question in imported.questions] == expected
    assert len(imported.problems) == 2 - len(expected)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("video,question,choice_a,answer", "has no column choice_b"),
        ("video,question,choice_a,choice_b,choice_d", "without a gap"),
        ("video,question,choice_a,choice_b,hint", "does not know the column 'hint'"),
        ("video,question,choice_a,choice_b,video", "has the column 'video' twice"),
    ],
)
def test_a_header_that_is_wrong_is_refused(tmp_path: Path, videos: Path, header: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read("csv", tmp_path, videos, f"{header}\n{','.join('x' * len(header.split(',')))}\n")


# --- sutd ------------------------------------------------------------------------------------------

SUTD: list[Any] = ["record_id", "vid_id", "vid_filename", "q_body", "q_type", "option0", "option1", "answer"]


def lines(*rows: Any) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_a_line_that_is_no_row_is_told(tmp_path: Path, videos: Path) -> None:
    good = [1, 7, "a.mp4", "Red?", "U", "Yes", "No", 1]
    text = "\n".join([lines(SUTD, good), "[1,", lines(good[:-1], 7, [2, *good[1:5], None, "No", "No"], [3, *good[1:]])])
    imported = read("sutd", tmp_path, videos, text, "rows.jsonl")
    assert [(q.id, q.category) for q in imported.questions] == [("1", "U"), ("3", "U")]
    told = ["line 3: is not valid JSON", "line 4: has 7 values, line 1 names 8 columns", "line 5: is int, not an array",
            "line 6 (id 2): has fewer than 2 choices"]  # fmt: skip
    assert all(what in problem for what, problem in zip(told, imported.problems, strict=False))
    assert len(imported.problems) == 4


def test_columns_may_come_in_any_order_and_must_be_named(tmp_path: Path, videos: Path) -> None:
    row = [1, 7, "a.mp4", "Red?", "U", "Yes", "No", "B"]
    imported = read("sutd", tmp_path, videos, lines(SUTD[::-1], row[::-1]), "rows.jsonl")
    assert [question.answer for question in imported.questions] == [1]
    with pytest.raises(InputError, match=r"rows.jsonl:1: must name the columns"):
        read("sutd", tmp_path, videos, lines(row), "rows.jsonl")
    with pytest.raises(InputError, match=r"rows.jsonl:1: must name the columns"):
        read("sutd", tmp_path, videos, "", "rows.jsonl")


def test_an_index_is_an_index_even_where_choices_are_numbers(tmp_path: Path, videos: Path) -> None:
    imported = read("sutd", tmp_path, videos, lines(SUTD, [1, 7, "a.mp4", "How many?", "A", "1", "0", 1]), "rows.jsonl")
    assert [question.answer for question in imported.questions] == [1]


# --- videomme, nextqa ------------------------------------------------------------------------------


def test_a_list_of_videos_with_their_questions_is_read_too(tmp_path: Path, videos: Path) -> None:
    question = {"question_id": "1-1", "task_type": "Counting", "question": "How many?", "options": ["A. 2", "B. 3"]}
    video = {"videoID": "3238737531", "domain": "Road"}
    rows = [
        video | {"questions": [question | {"answer": "B"}, question | {"question_id": "1-2", "question": "Now?"}, 7]}
    ]
    imported = read("videomme", tmp_path, videos, json.dumps(rows), "rows.json")
    assert [(q.id, q.answer, q.category) for q in imported.questions] == [
        ("1-1", 1, "Counting"),
        ("1-2", None, "Counting"),
    ]
    assert [(c.name, c.recording) for c in imported.clips.values()] == [("1164/3238737531.mp4", "1164/3238737531")]
    assert [problem.split(": ")[1] for problem in imported.problems] == ["row 1, question 3"]


@pytest.mark.parametrize(
    ("video", "found"),
    [
        ("3238737531", "1164/3238737531.mp4"),
        ("1164/3238737531", "1164/3238737531.mp4"),
        ("1164/3238737531.mp4", "1164/3238737531.mp4"),
        ("two/x", "two/x.mp4"),
        ("both/x.mkv", "both/x.mkv"),
        ("x", "may be both/x.mkv or both/x.mp4 or two/x.mp4; give its folder or its ending"),
        ("both/x", "may be both/x.mkv or both/x.mp4; give its folder"),
        ("9", "is not in"),
        ("notes", "clip refused"),
        ("../videos/a", "not a path inside"),
    ],
)
def test_a_clip_without_ending_is_looked_for(tmp_path: Path, videos: Path, video: str, found: str) -> None:
    text = f"video,question,answer,qid,type,a0,a1\n{video},what is it,1,6,TN,car,bus\n"
    imported = read("nextqa", tmp_path, videos, text)
    names = [clip.name for clip in imported.clips.values()]
    assert names == [found] or found in imported.problems[0]


def test_the_open_ended_file_is_refused(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(InputError, match="must name the columns"):
        read("nextqa", tmp_path, videos, "video,question,answer,qid,type\na,what,car,1,TN\n")


# --- huggingface -----------------------------------------------------------------------------------


def test_parquet_without_its_columns_is_refused_and_what_is_no_origin_told(tmp_path: Path, videos: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(InputError, match="must have the columns id, video, question, choices"):
        registry.read("huggingface", path, videos)
    path.write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(InputError, match=r"rows.parquet: not a parquet file"):
        registry.read("huggingface", path, videos)
    row = {"id": "a", "video": "a.mp4", "question": "?", "choices": ["x", "y"], "answer": 1}
    rows = [row | {"origin": "{"}, row | {"origin": '{"answer": "human"}', "id": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    imported = registry.read("huggingface", path, videos)
    assert [question.id for question in imported.questions] == ["b"]
    assert "has an origin that is not JSON" in imported.problems[0]


# --- names out -------------------------------------------------------------------------------------


def clip(number: int, name: str) -> Clip:
    return Clip(digest=f"{number:064x}", name=name, recording="r", size_bytes=1, seconds=1, fps=1, width=1, height=1,
                codec="h264")  # fmt: skip


def test_clips_keep_their_names_where_files_can_have_them_beside_each_other() -> None:
    names = [
        "train/a.mp4",
        "Train/A.mp4",
        "../b.mp4",
        "/etc/c.mp4",
        "d",
        "d/e.mp4",
        "README.md",
        "data",
        "f\\g.mp4",
        "",
    ]
    placed = registry.layout(clip(number, name) for number, name in enumerate(names))
    kept = {number: placed[f"{number:064x}"] for number in range(len(names))}
    assert {number: name for number, name in kept.items() if not name.startswith("0" * 60)} == {
        0: "train/a.mp4", 4: "d", 8: "f/g.mp4",
    }  # fmt: skip
    assert len(set(kept.values())) == len(names)
    assert kept[2].endswith(".mp4")


@pytest.mark.parametrize(
    ("format_", "name", "text"),
    [
        ("huggingface", "README.md", "# Mine\n"),
        ("sharegpt", "dataset_info.json", "[]"),
        ("sharegpt", "dataset_info.json", "x"),
    ],
)
def test_an_export_writes_over_nobodys_file(tmp_path: Path, format_: str, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        registry.write(format_, tmp_path, [], {})
    assert (tmp_path / name).read_text() == text


def test_a_list_of_datasets_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    for _ in range(2):
        registry.write("sharegpt", tmp_path, [], {})
    assert list(json.loads((tmp_path / "dataset_info.json").read_text())) == ["mine", "roadqa"]


@pytest.mark.parametrize("answer", ["9" * 400, "9" * 5000, "-1", "1.0", "1e3"])
def test_a_number_beyond_all_choices_is_told(tmp_path: Path, videos: Path, answer: str) -> None:
    rows = {
        "csv": f"{HEADER}\na.mp4,Is it?,x,y,,{answer}\n",
        "nextqa": f"video,question,answer,qid,type,a0,a1\na,is it,{answer},6,TN,car,bus\n",
    }
    for format_, text in rows.items():
        imported = read(format_, tmp_path, videos, text)
        if (format_, answer) == ("nextqa", "1.0"):  # as pandas writes integers beside gaps
            assert [question.answer for question in imported.questions] == [1]
            continue
        assert imported.questions == []
        assert len(imported.problems) == 1
        assert len(imported.problems[0]) < 400
