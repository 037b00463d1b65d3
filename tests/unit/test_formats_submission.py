"""A submission has every question once, with a letter that its source knows."""

from pathlib import Path

import pytest

from shared.errors import InputError
from shared.formats.submission import read_submission, validate_submission, write_submission
from shared.schema import Choice, Origin, Prediction, Question


def question(id_: str, labels: str = "AB") -> Question:
    choices = tuple(Choice(label=label, text=str(i)) for i, label in enumerate(labels))
    return Question(id=id_, clip="0" * 64, text="?", choices=choices, origin=Origin(answer="none", test_derived=True))


def prediction(id_: str, choice: int) -> Prediction:
    return Prediction(question=id_, choice=choice, logprobs=(), prompt_tokens=1, seconds=0.1)


QUESTIONS = [question("t_2"), question('odd,"id"'), question("t_1", "abbb")]


def test_rows_follow_the_questions_with_the_source_letter(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    chosen = [prediction("t_1", 2), prediction("t_2", 1), prediction('odd,"id"', 0)]
    assert write_submission(path, QUESTIONS, chosen) == 3
    assert path.read_bytes() == b'id,answer\nt_2,B\n"odd,""id""",A\nt_1,B\n'
    assert validate_submission(path, QUESTIONS) == 3
    assert read_submission(path)["t_1"] == "B"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("predictions", "reason"),
    [
        ([("t_1", 0), ("t_2", 0)], "no prediction for 1 questions"),
        ([("t_1", 0), ("t_2", 0), ('odd,"id"', 0), ("else", 0)], "not a question"),
        ([("t_1", 0), ("t_1", 1)], "two predictions"),
        ([("t_1", 4)], "choice 4 of 4"),
    ],
)
def test_nothing_is_written_where_answers_do_not_fit(
    tmp_path: Path, predictions: list[tuple[str, int]], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        write_submission(tmp_path / "s.csv", QUESTIONS, [prediction(*p) for p in predictions])
    assert not list(tmp_path.iterdir())


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="repeat an id"):
        write_submission(tmp_path / "s.csv", [question("a"), question("a")], [prediction("a", 0)])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "header"),
        ("answer,id\n", "header"),
        ("id,answer\nq,A,B\n", ":2: 3 fields"),
        ("id,answer\nq,A\nq,B\n", ":3: id 'q' a second time"),
        ("id,answer\nq,C\n", "answer 'C' is none of A, B"),
        ("id,answer\nz,A\n", "'z' is not a question"),
        ("id,answer\n", "no answer for 1 questions"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        validate_submission(path, [question("q")])


def test_letters_of_either_case_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(b"\xef\xbb\xbfid,answer\r\nq,b\r\n")
    assert validate_submission(path, [question("q")]) == 1
