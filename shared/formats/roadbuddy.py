"""RoadBuddy JSON (Zalo AI Challenge 2025), and the many ways in which copies of it differ.

`{"__count__": N, "data": [{"id", "question", "choices", "answer", "video_path", …}]}`. `support_frames`
(times that support the answer) are left out: a model must not be told where to look. A row may say in
`recording` which source its clip was cut from; without it, the clip's name says.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

from shared.errors import InputError
from shared.formats import rows
from shared.formats.choices import parse_choices
from shared.formats.common import Imported, one_line, write_json
from shared.formats.files import read_json
from shared.formats.rows import Form, Item, Options, Raw, RowError
from shared.schema import Question

WHAT = "a RoadBuddy file (train.json, public_test.json)"
FILE = "roadbuddy.json"


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a RoadBuddy file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that `video_path` starts from.

    Raises:
        InputError: the file itself cannot be read.
    """
    data = read_json(path, WHAT)
    found = _rows_of(path, data)
    imported = Imported()
    if isinstance(data, dict) and data.get("__count__") not in (None, len(found)):
        imported.problems.append(
            f"{path}: __count__ says {one_line(str(data['__count__']))}, the file has {len(found)} rows; "
            "check that it is complete"
        )
    return rows.take(path, _items(found), _parse, videos, _form(found), imported, **options)


def read_test(path: Path, videos: Path) -> list[rows.Row | rows.Unread]:
    """The rows of a test file, in order, without a look at their clips. An answer that fits no choice is none.

    Raises:
        InputError: the file itself cannot be read.
    """
    found = _rows_of(path, read_json(path, WHAT))
    form = _form(found)

    def parse(row: Any) -> Raw:
        raw = _parse(row)
        return raw if rows.answerable(raw, form) else raw._replace(answer=None)

    return list(rows.without_clips(path, _items(found), parse, videos, form))


def choices_of(item: rows.Item) -> list[str]:
    """The letters of a row's choices, as well as they can be told of a row that makes no sense."""
    try:
        return [choice.label for choice in parse_choices(rows.written_choices(_parse(item.value).choices))]
    except RowError:
        return []


def _items(found: list[Any]) -> Iterator[Item]:
    return (Item(f"row {number}", row, _id(row)) for number, row in enumerate(found, 1))


def _form(found: list[Any]) -> Form:
    base = rows.number_base((row.get("answer"), row.get("choices")) for row in found if isinstance(row, dict))
    return Form(video="video_path", base=base)


def _rows_of(path: Path, data: Any) -> list[Any]:
    found = data.get("data") if isinstance(data, dict) else data
    if not isinstance(found, list):
        raise InputError(f'{path}: has no list of rows; expected {{"data": [{{"id", "question", "choices", …}}]}}')
    return found


def _id(row: Any) -> str:
    return str(row.get("id") if isinstance(row, dict) else None)


def _parse(row: Any) -> Raw:
    if not isinstance(row, dict):
        raise RowError(f"is {type(row).__name__}, not an object")
    return Raw(
        row.get("question"),
        row.get("choices"),
        row.get("video_path"),
        row.get("id"),
        row.get("answer"),
        row.get("category") or row.get("type"),
        row.get("language"),
        row.get("recording"),
        row.get("split"),
        row.get("origin"),
    )


def write(
    folder: Path, questions: Iterable[Question], names: Mapping[str, str], recordings: Mapping[str, str]
) -> list[str]:
    """Write `roadbuddy.json`, what the format itself lacks in fields of its own. Holds any question."""
    data = [_row(question, names[question.clip], recordings[question.clip]) for question in questions]
    write_json(folder / FILE, {"__count__": len(data), "data": data})
    return []


def _row(question: Question, name: str, recording: str) -> dict[str, Any]:
    choices = [f"{choice.label}. {choice.text}" if choice.text else "" for choice in question.choices]
    row = {"id": question.id, "question": question.text, "choices": choices}
    if question.answer is not None:
        row["answer"] = choices[question.answer]
    return row | {
        "video_path": name,
        "category": question.category,
        "language": question.language,
        "recording": recording,
        "origin": question.origin.model_dump(mode="json"),
    }
