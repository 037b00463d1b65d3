"""Answers beside their questions: good lines go through, each bad one is told in one line."""

from pathlib import Path

import pytest

from shared.errors import InputError
from shared.formats.answers import add_answers
from shared.formats.common import Imported
from shared.schema import Choice, Origin, Question


def question(id_: str, labels: str = "AB", answer: int | None = None) -> Question:
    choices = tuple(Choice(label=label, text=str(place)) for place, label in enumerate(labels))
    origin = Origin(answer="none" if answer is None else "human", test_derived=True)
    return Question(id=id_, clip="0" * 64, text="?", choices=choices, answer=answer, origin=origin)


def answered(tmp_path: Path, text: str, *questions: Question) -> Imported:
    imported = Imported(questions=list(questions))
    (tmp_path / "answers.csv").write_text(text, encoding="utf-8", newline="")
    add_answers(imported, tmp_path / "answers.csv")
    return imported


@pytest.mark.parametrize(
    "text",
    [
        "id,answer\nq1,A\nq 2,b\n",
        "\ufeffid,answer\r\nq 2, B\r\n\r\n q1 ,a",
        'answer,note,"id"\nB,"yes, sure","q  2"\na,,q1\n',
    ],
)
def test_open_questions_get_their_answers(tmp_path: Path, text: str) -> None:
    imported = answered(tmp_path, text, question("q1"), question("q 2"), question("q3"))
    assert [q.answer for q in imported.questions] == [0, 1, None]
    assert [q.origin.answer for q in imported.questions] == ["human", "human", "none"]
    assert all(q.origin.test_derived for q in imported.questions)
    assert imported.problems == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1,C", "'C' names 0 of its choices, not one; give a letter of A, B"),
        ("q1,", "'' names 0 of its choices"),
        ("twice,B", "'B' names 2 of its choices"),
        ("else,A", "id 'else' is none of the imported questions"),
        ("last,A", "id 'last' stands on line 2 already"),
        ("q1", "has 1 fields, the header 2"),
        ("q1,A,B", "has 3 fields, the header 2"),
        ("q1," + "A" * 200_000, "field larger than field limit"),
        ('"q1,A', "unexpected end of data"),
        ("known,B", "id 'known': its row says A, this line B"),
        ("q1,\x1b[2J", "names 0 of its choices"),
        ("e" * 200_000 + ",A", "field larger than field limit"),
    ],
)
def test_a_line_that_does_not_fit_is_told_and_the_others_go_through(tmp_path: Path, line: str, reason: str) -> None:
    questions = (question("q1"), question("twice", "ABB"), question("known", answer=0), question("last"), question("z"))
    imported = answered(tmp_path, f"id,answer\nlast,B\n{line}\nz,A\n", *questions)
    assert [q.answer for q in imported.questions] == [None, None, 0, 1, 0]
    (problem,) = imported.problems
    assert problem.startswith(f"{tmp_path / 'answers.csv'}:3: ")
    assert reason in problem
    assert problem.isprintable()
    assert len(problem) < 400


def test_an_answer_that_agrees_with_the_row_is_no_problem(tmp_path: Path) -> None:
    imported = answered(tmp_path, "id,answer\nq1,b\n", question("q1", answer=1))
    assert (imported.questions, imported.problems) == ([question("q1", answer=1)], [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "answers.csv:1: its first line must be id,answer"),
        (b"q1,A\n", "answers.csv:1: its first line must be id,answer"),
        ("id,answer\n".encode("utf-16"), "not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, data: bytes | None, reason: str) -> None:
    if data is not None:
        (tmp_path / "answers.csv").write_bytes(data)
    with pytest.raises(InputError, match=reason):
        add_answers(Imported(), tmp_path / "answers.csv")
