"""SUTD-TrafficQA: JSON lines of arrays below a line that names their columns.

`record_id, vid_id, vid_filename, perspective, q_body, q_type, option0 … option3, answer`. Options may be empty in any
place; they keep it, since `answer` is an index. The type of question (U A F R C I) is its category.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

from shared.errors import InputError
from shared.formats import rows
from shared.formats.common import Imported
from shared.formats.files import json_lines
from shared.formats.rows import Form, Item, Options, Raw, RowError

WHAT = "a SUTD-TrafficQA file (R2_all.jsonl)"
_NEEDED = ("record_id", "vid_filename", "q_body")
_OPTION = re.compile(r"option(\d+)")
_FORM = Form(video="vid_filename", prefixed=False, answer="index", base=0)


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a SUTD-TrafficQA file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that holds the clips (`compressed_videos`).

    Raises:
        InputError: the file itself cannot be read, or its first line names no columns.
    """
    return rows.take(path, _items(path), _parse, videos, _FORM, **options)


def _items(path: Path) -> Iterator[Item]:
    lines = json_lines(path)
    _, header = next(lines, (0, None))
    if not isinstance(header, list) or not set(_NEEDED) <= {name for name in header if isinstance(name, str)}:
        raise InputError(f"{path}:1: must name the columns: [{', '.join(_NEEDED)}, q_type, option0, …, answer]")
    for number, value in lines:
        yield Item(f"line {number}", _by_column(header, value))


def _by_column(header: list[Any], value: Any) -> Any:
    if isinstance(value, InputError | dict):
        return value
    if not isinstance(value, list):
        return InputError(f"is {type(value).__name__}, not an array")
    if len(value) != len(header):
        return InputError(f"has {len(value)} values, line 1 names {len(header)} columns; make them agree")
    return {str(name): field for name, field in zip(header, value, strict=True)}


def _parse(row: dict[str, Any]) -> Raw:
    places = sorted(int(found.group(1)) for name in row if (found := _OPTION.fullmatch(name)))
    if places != list(range(len(places))):
        raise RowError(f"has options numbered {places}; number them from 0 without a gap")
    return Raw(
        row.get("q_body"),
        [row[f"option{place}"] if row[f"option{place}"] is not None else "" for place in places],
        row.get("vid_filename"),
        row.get("record_id"),
        row.get("answer"),
        row.get("q_type"),
        row.get("language"),
        row.get("recording"),
        row.get("split"),
    )
