"""Answers that come beside their questions, as a public test's do: a CSV with the columns `id` and `answer`."""

import csv
from collections.abc import Sequence
from pathlib import Path

from shared.errors import InputError
from shared.formats.common import Imported, one_line, tidy
from shared.formats.files import read_text
from shared.schema import Question


def add_answers(imported: Imported, file: Path) -> None:
    """Answer the questions that have no answer yet; what is wrong with a line is told and the others go through.

    Raises:
        InputError: the file itself cannot be read.
    """
    first, *lines = read_text(file).split("\n")  # ids hold no line breaks: an open quote spoils no other line
    header = [name.strip(' "') for name in first.split(",")]
    if not {"id", "answer"} <= set(header):
        raise InputError(f"{file}:1: its first line must be id,answer")
    places = {question.id: place for place, question in enumerate(imported.questions)}
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        try:
            id_, letter = _fields(line, header)
            if id_ in line_of:
                raise InputError(f"id {id_[:80]!r} stands on line {line_of[id_]} already; keep one of them")
            if id_ not in places:
                raise InputError(
                    f"id {id_[:80]!r} is none of the imported questions; mend the id, or its row if that was left out"
                )
            imported.questions[places[id_]] = _answered(imported.questions[places[id_]], letter)
        except InputError as error:
            imported.problems.append(one_line(f"{file}:{number}: {error}; the line is left out"))
            continue
        line_of[id_] = number


def _fields(line: str, header: Sequence[str]) -> tuple[str, str]:
    """The id and the letter of a line."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}; write it as the header says") from error
    if len(fields) != len(header):
        raise InputError(f"has {len(fields)} fields, the header {len(header)}; quote a field that holds a comma")
    row = dict(zip(header, fields, strict=True))
    return tidy(row["id"]), row["answer"].strip().upper()


def _answered(question: Question, letter: str) -> Question:
    """The question with its answer; one that it has already stands."""
    labels = [choice.label.upper() for choice in question.choices]
    if labels.count(letter) != 1:
        known = ", ".join(dict.fromkeys(labels))
        raise InputError(
            f"id {question.id[:80]!r}: {letter[:80]!r} names {labels.count(letter)} of its choices, not one; "
            f"give a letter of {known}"
        )
    answer = labels.index(letter)
    if question.answer not in (None, answer):
        raise InputError(
            f"id {question.id[:80]!r}: its row says {labels[question.answer]}, this line {letter}; make them agree"
        )
    origin = question.origin.model_copy(update={"answer": "human"})
    return question.model_copy(update={"answer": answer, "origin": origin})
