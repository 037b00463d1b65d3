"""A plain CSV for people: `video, question, choice_a, choice_b, …, answer`, and what else they know.

Optional: `id` (else the line is it), `category`, `language`, `recording`, `split`. `answer` is a choice's letter or its
text; a number counts from 1 or 0 where the file shows which. Separated by commas, semicolons or tabs.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from shared.errors import InputError
from shared.formats import rows
from shared.formats.common import Imported
from shared.formats.files import csv_rows
from shared.formats.rows import Form, Item, Options, Raw
from shared.prompts import LETTERS

WHAT = "a plain CSV file"
_CHOICE = re.compile(r"choice_([a-z])")
_OTHERS = ("id", "answer", "category", "language", "recording", "split")
_NEEDED = {"video", "question", "choice_a", "choice_b"}
_KNOWN = {*_NEEDED, *_OTHERS}
_WHOLE = re.compile(r"\d{1,3}")


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a plain CSV file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that `video` starts from.

    Raises:
        InputError: the file itself cannot be read, or has a column that is not known.
    """
    items = list(_items(path))
    found = [_parse(item.value) for item in items if isinstance(item.value, dict)]
    base = rows.number_base((raw.answer, raw.choices) for raw in found)
    return rows.take(path, items, _parse, videos, Form(ids=False, prefixed=False, base=base), **options)


def _items(path: Path) -> Iterator[Item]:
    checked = False
    for place, row in csv_rows(path, _KNOWN):
        if isinstance(row, dict) and not checked:
            _check(path, row)
            checked = True
        yield Item(place, row)


def _check(path: Path, row: dict[str, str]) -> None:
    if missing := sorted(_NEEDED - row.keys()):
        raise InputError(
            f"{path}:1: has no column {', '.join(missing)}; expected video, question, choice_a, choice_b, …"
        )
    if unknown := sorted(name for name in row if name not in _KNOWN and not _CHOICE.fullmatch(name)):
        raise InputError(f"{path}:1: does not know the column {unknown[0]!r}; take it out, or use {', '.join(_OTHERS)}")
    letters = sorted(found.group(1) for name in row if (found := _CHOICE.fullmatch(name)))
    if letters != list(LETTERS[: len(letters)].lower()):
        raise InputError(f"{path}:1: has choices {', '.join(letters)}; name them choice_a, choice_b, … without a gap")


def _number(answer: str | None) -> int | str | None:
    said = (answer or "").strip()
    return int(said) if _WHOLE.fullmatch(said) else answer


def _parse(row: dict[str, str]) -> Raw:
    choices = [row[name] for name in sorted(row) if _CHOICE.fullmatch(name)]
    while len(choices) > 2 and not choices[-1].strip():  # a column that this question has no use for
        choices.pop()
    optional = {name: row.get(name) for name in _OTHERS if name != "answer"}
    return Raw(row["question"], choices, row["video"], answer=_number(row.get("answer")), **optional)
