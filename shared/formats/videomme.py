"""Video-MME style JSON: `options` that begin with their letters, `answer` a bare letter.

A list of questions, or of videos with their `questions`, as its evaluation's template has it. Clips are named without
ending (`videoID`, else `video_id`), and each is a recording of its own unless the row says otherwise.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

from shared.formats import rows
from shared.formats.common import Imported
from shared.formats.files import json_rows
from shared.formats.rows import Form, Item, Options, Raw, RowError

WHAT = "a Video-MME style JSON file"
_FORM = Form(video="videoID", ids=False, answer="letter", endings=False, alone=True)
_VIDEO = ("video_path", "video", "videoID", "video_id")
_ID = ("question_id", "qid", "id")
_CATEGORY = ("task_type", "question_category", "category", "type", "sub_category", "domain")


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a Video-MME style file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that holds the clips, itself or in folders below it.

    Raises:
        InputError: the file itself cannot be read.
    """
    return rows.take(path, _items(path), _parse, videos, _FORM, **options)


def _items(path: Path) -> Iterator[Item]:
    for place, row in json_rows(path, WHAT):
        inner = row.get("questions") if isinstance(row, dict) else None
        if not isinstance(inner, list):
            yield Item(place, row)
            continue
        about = {name: value for name, value in row.items() if name != "questions"}
        for number, question in enumerate(inner, 1):
            whole = about | question if isinstance(question, dict) else question
            yield Item(f"{place}, question {number}", whole)


def _parse(row: Any) -> Raw:
    if not isinstance(row, dict):
        raise RowError(f"is {type(row).__name__}, not an object")
    choices = row.get("options", row.get("choices", row.get("candidates")))
    return Raw(
        row.get("question"),
        choices,
        first_of(row, _VIDEO),
        first_of(row, _ID),
        row.get("answer"),
        first_of(row, _CATEGORY),
        row.get("language"),
        row.get("recording"),
        row.get("split"),
    )


def first_of(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that says something."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
