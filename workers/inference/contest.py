"""A competition's files: the questions of a test file, and what is handed in, whole at every moment."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from shared.errors import InputError
from shared.formats import roadbuddy
from shared.formats.common import one_line, recording_of
from shared.formats.rows import Row, Unread
from shared.formats.submission import HEADER
from shared.prompts import LETTERS
from shared.schema import Question

SUBMISSION, TIMES = "submission.csv", "time_submission.csv"
NO_CLIP = "0" * 64  #: a question is asked of a file here, not of a digest


class Entry(NamedTuple):
    """One line that is to be handed in."""

    id: str
    question: Question | None  #: None: the row makes no sense, or its clip is not there
    clip: Path | None
    recording: str
    majority: str  #: the letter to give where nothing better is known
    truth: str | None  #: the right letter, where the file tells it
    why: str | None  #: it cannot be asked


def read(path: Path, videos: Path, majority: str) -> tuple[list[Entry], list[str]]:
    """The entries of a test file, in its order, and a line for each row that can be no entry.

    Raises:
        InputError: the file cannot be read, or has no row with an id.
    """
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for row in roadbuddy.read_test(path, videos):
        found = _asked(row, majority) if isinstance(row, Row) else _unasked(row, majority)
        if found is None or found.id in entries:
            item = row.place if isinstance(row, Row) else row.item.place
            why = "has no id" if found is None else f"the id {found.id!r} a second time"
            problems.append(one_line(f"{path}: {item}: {why}; it gets no answer"))
            continue
        entries[found.id] = found
    if not entries:
        raise InputError(f"{path}: has no question with an id; nothing can be answered")
    return list(entries.values()), problems


def _asked(row: Row, majority: str) -> Entry:
    question = Question(
        id=row.id, clip=NO_CLIP, text=row.text, choices=row.choices, answer=row.answer, category=row.category,
        language=row.language, origin=row.origin,
    )  # fmt: skip
    labels = [question.choices[index].label for index in question.offered]
    truth = None if row.answer is None else question.choices[row.answer].label
    recording = row.recording or recording_of(row.video)
    return Entry(row.id, question, row.path, recording, _letter(labels, majority), truth, None)


def _unasked(row: Unread, majority: str) -> Entry | None:
    value = row.item.value
    id_ = value.get("id") if isinstance(value, dict) else None
    if isinstance(id_, bool) or not isinstance(id_, str | int) or not str(id_).strip():
        return None
    name = " ".join(str(id_).split())
    return Entry(name, None, None, name, _letter(roadbuddy.choices_of(row.item), majority), None, one_line(row.why))


def _letter(labels: list[str], majority: str) -> str:
    return majority if majority in labels or not labels else labels[0]


class Results:
    """What is handed in. A killed run leaves the answers so far, and the majority letter for the rest.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, entries: Iterable[Entry]) -> None:
        self._folder = folder
        self._answers = {entry.id: entry.majority for entry in entries}
        self._times: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror}); the user is {os.getuid()}") from error

    def give(self, id_: str, letter: str, seconds: float) -> None:
        self._answers[id_], self._times[id_] = letter, round(1000 * seconds)
        self._write()

    def _write(self) -> None:
        write_csv(self._folder / SUBMISSION, HEADER, self._answers.items())
        timed = ((id_, self._answers[id_], spent) for id_, spent in self._times.items())
        write_csv(self._folder / TIMES, [*HEADER, "time"], timed)


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Appears whole or not at all."""
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    with incoming.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    incoming.replace(path)


def check_letter(letter: str) -> str:
    """A letter of the alphabet that choices have.

    Raises:
        InputError: it is none.
    """
    if len(letter) != 1 or letter.upper() not in LETTERS:
        raise InputError(f"{letter!r} is no letter of a choice: give A, B, C, …")
    return letter.upper()
