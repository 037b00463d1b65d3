"""`submission.csv`: the header `id,answer`, every question once, the letter of the chosen choice."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.errors import InputError
from shared.formats.common import one_line
from shared.schema import Prediction, Question

HEADER = ["id", "answer"]


def write_submission(path: Path, questions: Sequence[Question], predictions: Iterable[Prediction]) -> int:
    """Write one row for each question, in their order; appears whole or not at all. Returns the rows written.

    The letter is the one in the source file (`Choice.label`), upper-case: that is what the scorer compares.

    Raises:
        InputError: a question has no answer, or more than one; an answer fits no question.
    """
    chosen = _chosen(questions, predictions)
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    with incoming.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows([q.id, q.choices[chosen[q.id]].label.upper()] for q in questions)
    try:
        validate_submission(incoming, questions)
    except InputError:
        incoming.unlink()
        raise
    incoming.replace(path)
    return len(questions)


def _chosen(questions: Sequence[Question], predictions: Iterable[Prediction]) -> dict[str, int]:
    by_id = {question.id: question for question in questions}
    if len(by_id) != len(questions):
        raise InputError("a submission needs each id once: the questions repeat an id; import the test file alone")
    chosen: dict[str, int] = {}
    for prediction in predictions:
        question = by_id.get(prediction.question)
        if question is None:
            raise InputError(f"prediction for {prediction.question!r}, which is not a question of this dataset")
        if prediction.question in chosen:
            raise InputError(f"two predictions for {prediction.question!r}; give those of one model")
        if not 0 <= prediction.choice < len(question.choices):
            raise InputError(
                f"prediction for {prediction.question!r} is choice {prediction.choice} of {len(question.choices)}"
            )
        chosen[prediction.question] = prediction.choice
    _refuse_missing(by_id.keys() - chosen.keys(), "no prediction")
    return chosen


def _refuse_missing(ids: set[str], what: str) -> None:
    if ids:
        some = ", ".join(sorted(ids)[:5]) + (", …" if len(ids) > 5 else "")
        raise InputError(f"{what} for {len(ids)} questions ({one_line(some)}); predict the whole dataset")


def read_submission(path: Path) -> dict[str, str]:
    """The letter given for each id, upper-case.

    Raises:
        InputError: not a CSV file with the header `id,answer`, or an id twice; names file and line.
    """
    answers: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            if next(reader, None) != HEADER:
                raise InputError(f"{path}:1: the header is not `id,answer`")
            for row in reader:
                if len(row) != 2:
                    raise InputError(f"{path}:{reader.line_num}: {len(row)} fields, expected 2")
                if row[0] in answers:
                    raise InputError(f"{path}:{reader.line_num}: id {row[0]!r} a second time")
                answers[row[0]] = row[1].strip().upper()
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return answers


def validate_submission(path: Path, questions: Sequence[Question]) -> int:
    """Check a submission against its questions; letters may be of either case. Returns its rows.

    Raises:
        InputError: what is wrong, naming the file and the id.
    """
    answers = read_submission(path)
    by_id = {question.id: question for question in questions}
    for id_, answer in answers.items():
        if id_ not in by_id:
            raise InputError(f"{path}: id {id_!r} is not a question of this dataset")
        letters = sorted({choice.label.upper() for choice in by_id[id_].choices})
        if answer not in letters:
            raise InputError(f"{path}: id {id_!r}: answer {answer!r} is none of {', '.join(letters)}")
    _refuse_missing(by_id.keys() - answers.keys(), f"{path}: no answer")
    return len(answers)
