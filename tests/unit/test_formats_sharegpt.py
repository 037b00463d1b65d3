"""ShareGPT files in all the forms that trainers read; what is no multiple-choice question on one clip is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.formats import registry, sharegpt
from shared.formats.common import Imported
from tests.hostile.generate import encode

ASKED = "<video>\nMay it turn?\nA. Yes\nB. No\nC. Not yet\nAnswer with the letter."


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "a.mp4").write_bytes(encode(frames=10))
    return folder


def row(asked: str = ASKED, said: str | None = "B", **changed: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": asked}, *([{"from": "gpt", "value": said}] if said is not None else [])]
    return {k: v for k, v in ({"video": "a.mp4", "conversations": turns} | changed).items() if v is not None}


def read(folder: Path, videos: Path, *rows: Any, name: str = "rows.json") -> Imported:
    path = folder / name
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return sharegpt.read(path, videos, thorough=False)


def one(imported: Imported) -> tuple[str, list[str], int | None]:
    assert imported.problems == []
    (question,) = imported.questions
    return question.text, [choice.text for choice in question.choices], question.answer


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    "written",
    [
        row(),
        row(videos=["a.mp4"], video=None),
        row(video=["a.mp4"]),
        row(conversations=None, messages=[{"role": "user", "content": ASKED}, {"role": "assistant", "content": "B"}]),
        row(
            conversations=None,
            messages=[
                {"role": "system", "content": "You see a road."},
                {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": ASKED}]},
                {"role": "assistant", "content": [{"type": "text", "text": "B"}]},
            ],
            video=None,
        ),
        row(conversations=None, conversation=[{"human": ASKED, "assistant": "B"}]),
        row(conversations=None, query=ASKED, response="B"),
        row(ASKED.replace("<video>", "<image>")),
        row(ASKED.replace("A. Yes", "Options:\nA. Yes")),
        row("<video>May it turn?\n(A) Yes\n(B) No\n(C) Not yet"),
        row("May it turn?\r\nA) Yes\r\nB: No\r\nC.Not yet\r\n<video>"),
        row(ASKED.replace("\nA. Yes", "\n\nA. Yes\n")),
    ],
)
def test_every_form_is_the_same_question(tmp_path: Path, videos: Path, written: dict[str, Any], name: str) -> None:
    assert one(read(tmp_path, videos, written, name=name)) == ("May it turn?", ["Yes", "No", "Not yet"], 1)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("B", 1), ("b", 1), ("B.", 1), ("(B)", 1), ("B. No", 1), ("(B) No.", 1), ("Answer: (B) No", 1),
        ("The correct answer is: B", 1), ("The answer is B", 1), ("<think>A?</think><answer>B</answer>", 1), ("No", 1),
        ("not yet", 2), ("C. It stands still, so not yet.", 2), (None, None), ("", None),
    ],
)  # fmt: skip
def test_an_answer_is_understood_however_it_is_said(
    tmp_path: Path, videos: Path, said: str | None, answer: int | None
) -> None:
    assert one(read(tmp_path, videos, row(said=said)))[2] == answer


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (row(said="B. Yes"), "has the text of A; make letter and text agree"),
        (row(said="D"), "none of the 3 choices"),
        (row(said="Perhaps"), "none of the 3 choices; answer with the letter"),
        (row("<video>\nDescribe the road.", "A road."), "is no multiple-choice question"),
        (row("<video>\nTurn? A. Yes B. No"), "is no multiple-choice question"),
        (row("<video>\nA. Yes\nB. No"), "is no multiple-choice question"),
        (row(video=None), "has 0 videos"),
        (row(video=None, videos=["a.mp4", "a.mp4"]), "has 2 videos"),
        (row(conversations=None), "has no list of conversations or messages"),
        (row(conversations=[{"from": "gpt", "value": "B"}]), "has turns of gpt"),
        (row(conversations=["x"]), "has no list of conversations"),
        (row(conversations=[{"from": "human", "value": 7}]), "has a turn that is int"),
        (row(conversations=None, query=ASKED, history=True), "has a history that is no list of pairs"),
        (row(video=None, messages=7), "has 0 videos"),
        (row(roadqa="{"), "a field `roadqa` that is not JSON"),
        (row(roadqa=["x"]), "a field `roadqa` that is not JSON"),
        (row(roadqa='{"labels": ["A"]}'), "has 1 labels for 3 choices"),
        (row(roadqa='{"labels": ["A", "\\ud800", "C"]}'), "labels that are not a list of letters"),
        (row(roadqa='{"origin": {"answer": "an oracle"}}'), "origin.answer: "),
        (row(roadqa='{"origin": {"answer": "human", "teacher": "\\ud800"}}'), "half a character"),
        ("x", "is str, not an object"),
    ],
)
def test_what_cannot_be_taken_is_told_and_the_others_go_through(
    tmp_path: Path, videos: Path, written: Any, what: str
) -> None:
    imported = read(tmp_path, videos, row(id="first"), written, row("<video>\nAnd now?\nA. Yes\nB. No", id="last"))
    assert [question.id for question in imported.questions] == ["first", "last"]
    (problem,) = imported.problems
    assert problem.startswith(f"{tmp_path / 'rows.json'}: row 2: "), problem
    assert what in problem, problem
    assert problem.isprintable()


def test_each_pair_of_turns_is_a_question(tmp_path: Path, videos: Path) -> None:
    turns = [
        *row()["conversations"], {"from": "human", "value": "Describe it."}, {"from": "gpt", "value": "A road."},
        *row("And then?\nA. Left\nB. Right", "A")["conversations"],
    ]  # fmt: skip
    imported = read(tmp_path, videos, row(id="x", conversations=turns), row("<video>\nNow?\nA. x\nB. y"))
    assert [(q.id, q.text) for q in imported.questions] == [
        ("x#1", "May it turn?"),
        ("x#3", "And then?"),
        ("row-2", "Now?"),
    ]
    (problem,) = imported.problems
    assert "row 1, turn 2 (id x#2): is no multiple-choice question" in problem


def test_a_letter_that_is_left_out_is_an_empty_choice(tmp_path: Path, videos: Path) -> None:
    imported = read(tmp_path, videos, row("<video>\nWhich way?\nB. Left\nD. Right", "D"))
    assert one(imported) == ("Which way?", ["", "Left", "", "Right"], 3)


def test_llama_factorys_description_names_the_columns(tmp_path: Path, videos: Path) -> None:
    imported = read(tmp_path, videos, row(id="x"))
    assert registry.write("sharegpt", tmp_path / "out", imported.questions, imported.clips) == []
    (about,) = json.loads((tmp_path / "out" / "dataset_info.json").read_text()).values()
    (written,) = json.loads((tmp_path / "out" / about["file_name"]).read_text())
    assert about["formatting"] == "sharegpt"
    assert written[about["columns"]["videos"]] == ["a.mp4"] == [written["video"]]
    assert [turn["from"] for turn in written[about["columns"]["messages"]]] == ["human", "gpt"]
    assert written["conversations"][0]["value"].count("<video>") == 1
    assert all(isinstance(value, str | list) for value in written.values())
