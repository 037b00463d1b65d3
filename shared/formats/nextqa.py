"""NExT-QA, multiple choice: CSV with `video, question, answer, qid, type, a0 … a4`.

`answer` is an index from 0. Clips are named without ending; in VidOR's layout they lie in folders below the one that is
given. An id is `<video>_<qid>`, as the benchmark's own scripts write it, and each clip is a recording of its own.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

from shared.errors import InputError
from shared.formats import rows
from shared.formats.common import Imported
from shared.formats.files import csv_rows
from shared.formats.rows import Form, Item, Options, Raw, RowError

WHAT = "a NExT-QA multiple-choice file (CSV)"
_OPTION = re.compile(r"a(\d+)")
_KNOWN = {"video", "question", "answer", "qid", "type", "a0", "a1"}
_FORM = Form(ids=False, prefixed=False, answer="index", base=0, endings=False, alone=True)


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a NExT-QA file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that holds the clips, itself or in folders below it.

    Raises:
        InputError: the file itself cannot be read.
    """
    return rows.take(path, _items(path), _parse, videos, _FORM, **options)


def _items(path: Path) -> Iterator[Item]:
    for place, row in csv_rows(path, _KNOWN):
        if isinstance(row, dict) and not {"video", "question", "a0", "a1"} <= row.keys():
            raise InputError(f"{path}:1: must name the columns video, question, answer, qid, type, a0, a1, …")
        yield Item(place, row)


def _parse(row: dict[str, str]) -> Raw:
    places = sorted(int(found.group(1)) for name in row if (found := _OPTION.fullmatch(name)))
    if places != list(range(len(places))):
        raise RowError(f"has choices numbered {places}; number the columns from a0 without a gap")
    video, qid = row["video"].strip(), row.get("qid", "").strip()
    return Raw(
        row["question"],
        [row[f"a{place}"] for place in places],
        video,
        f"{video}_{qid}" if qid else None,
        row.get("answer"),
        row.get("type"),
        row.get("language"),
        row.get("recording"),
        row.get("split"),
    )
