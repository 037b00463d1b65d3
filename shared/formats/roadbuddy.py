"""RoadBuddy JSON (Zalo AI Challenge 2025), and the many ways in which copies of it differ.

`{"__count__": N, "data": [{"id", "question", "choices", "answer", "video_path", …}]}`. `support_frames`
(times that support the answer) are left out: a model must not be told where to look. A row may say in
`recording` which source its clip was cut from; without it, the clip's name says.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from shared.errors import InputError, MediaError
from shared.formats.choices import find_answer, parse_choices
from shared.formats.common import (
    Imported,
    Progress,
    language_of,
    one_line,
    read_clips,
    resolve_within,
    tidy,
)
from shared.schema import Choice, Clip, Origin, Question
from shared.video import MediaLimits

_SAYS_TEST = re.compile(r"(?:^|[^a-z])test(?:[^a-z]|$)", re.IGNORECASE)


class _Row(NamedTuple):
    """One row, understood but for its clip."""

    number: int  #: place in the file, from 1
    id: str
    text: str
    choices: tuple[Choice, ...]
    answer: int | None
    category: str
    language: str
    test: bool
    video: str  #: as the file names it
    path: Path
    recording: str | None  #: as the row says


class _RowError(Exception):
    """A row that cannot be taken, and why."""


def read(
    path: Path,
    videos: Path,
    *,
    test: bool | None = None,
    limits: MediaLimits | None = None,
    thorough: bool = True,
    progress: Progress | None = None,
) -> Imported:
    """Read a RoadBuddy file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that `video_path` starts from.
        test: whether the clips belong to a test set; None: as the file's name, or a row's `split`, says.
        thorough: decode every clip wholly, so that damage shows now and not in the middle of a run.

    Raises:
        InputError: the file itself cannot be read.
    """
    data = _load(path)
    imported = Imported()
    if isinstance(data, dict) and data.get("__count__") not in (None, len(_rows_of(path, data))):
        imported.problems.append(
            f"{path}: __count__ says {one_line(str(data['__count__']))}, the file has {len(data['data'])} rows; "
            "check that it is complete"
        )
    rows = list(_understood(path, _rows_of(path, data), videos, _says_test(path) if test is None else test, imported))
    names = {row.path: row.video for row in reversed(rows)}
    clips = read_clips(
        ((name, file) for file, name in names.items()), limits=limits, thorough=thorough, progress=progress
    )
    found = [(row, clips[names[row.path]]) for row in rows]
    given = _given_recordings(found)
    for row, clip in found:
        _take(path, row, clip, given, imported)
    return imported


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: not a RoadBuddy file: {error}") from error


def _rows_of(path: Path, data: Any) -> list[Any]:
    rows = data.get("data") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(f'{path}: has no list of rows; expected {{"data": [{{"id", "question", "choices", …}}]}}')
    return rows


def _says_test(path: Path) -> bool:
    return _SAYS_TEST.search(path.stem) is not None


def _understood(path: Path, rows: list[Any], videos: Path, test: bool, imported: Imported) -> Iterator[_Row]:
    """The rows that make sense; the rest go to `imported.problems`."""
    base = _number_base(rows)
    first_with: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        try:
            understood = _understand(number, row, videos, test, base)
            if understood.id in first_with:
                raise _RowError(f"the id is that of row {first_with[understood.id]}; give each question its own")
        except (_RowError, InputError) as error:
            imported.problems.append(_problem(path, number, row, str(error)))
            continue
        first_with[understood.id] = number
        yield understood


def _problem(path: Path, number: int, row: Any, what: str) -> str:
    name = row.get("id") if isinstance(row, dict) else None
    return one_line(f"{path}: row {number} (id {str(name)[:80]}): {what}; the row is left out")


def _number_base(rows: list[Any]) -> int | None:
    """0 or 1 where the file's numeric answers show what they count from, else None."""
    pairs = [
        (row["answer"], len(row["choices"]))
        for row in rows
        if isinstance(row, dict) and type(row.get("answer")) is int and isinstance(row.get("choices"), list)
    ]
    from_zero = any(answer == 0 for answer, _ in pairs)
    from_one = any(answer == count for answer, count in pairs)
    return None if from_zero == from_one else int(from_one)


def _understand(number: int, row: Any, videos: Path, test: bool, base: int | None) -> _Row:
    if not isinstance(row, dict):
        raise _RowError(f"is {type(row).__name__}, not an object")
    text, id_, video = (_text(row, field) for field in ("question", "id", "video_path"))
    written = _written(row.get("choices"))
    choices = parse_choices(written)
    category = tidy(str(row.get("category") or row.get("type") or "unknown"))
    language = tidy(str(row.get("language") or language_of(" ".join([text, *written]))))
    recording = _recording(row.get("recording"))
    _refuse_halves([id_, text, video, *written, category, language, recording or ""])
    return _Row(
        number,
        id_,
        text,
        choices,
        _answer(row.get("answer"), choices, base),
        category,
        language,
        test or _SAYS_TEST.search(str(row.get("split", ""))) is not None,
        video,
        resolve_within(videos, video),
        recording,
    )


def _written(choices: Any) -> list[str]:
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26:
        raise _RowError("has no list of 2 to 26 choices")
    if not all(isinstance(choice, str | int | float) for choice in choices):
        raise _RowError("has a choice that is not text")
    return [str(choice) for choice in choices]


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise _RowError(f"has no {field}")
    return str(value).strip() if field == "video_path" else tidy(str(value))


def _recording(recording: Any) -> str | None:
    if isinstance(recording, bool) or not isinstance(recording, str | int | None):
        raise _RowError(f"has a recording that is {type(recording).__name__}, not text")
    return None if recording is None else tidy(str(recording)) or None


def _refuse_halves(texts: list[str]) -> None:
    """JSON can spell half of a surrogate pair, but no row with one can be written down again."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise _RowError("holds half a character (a lone surrogate); write the whole one") from error


def _answer(answer: Any, choices: tuple[Choice, ...], base: int | None) -> int | None:
    if answer is None or answer == "":
        return None
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise _RowError(f"has an answer that is {type(answer).__name__}, not text")
    try:
        return find_answer(answer, choices, base)
    except ValueError as error:
        raise _RowError(f"{error}; write it as one of them") from error


def _given_recordings(found: list[tuple[_Row, Clip | MediaError]]) -> dict[str, str]:
    """The recordings that rows give their clips, by digest; of two for one clip, the first."""
    given: dict[str, str] = {}
    for row, clip in found:
        if isinstance(clip, Clip) and row.recording is not None:
            given.setdefault(clip.digest, row.recording)
    return given


def _take(path: Path, row: _Row, clip: Clip | MediaError, given: Mapping[str, str], imported: Imported) -> None:
    """Add the row's question and clip, or say why not."""
    if isinstance(clip, MediaError):
        imported.problems.append(_problem(path, row.number, {"id": row.id}, f"clip refused: {clip}"))
        return
    recording = given.get(clip.digest, clip.recording)
    if row.recording not in (None, recording):
        what = f"its recording is {row.recording!r}, but an earlier row gives its clip {recording!r}; make them agree"
        imported.problems.append(_problem(path, row.number, {"id": row.id}, what))
        return
    origin = Origin(answer="none" if row.answer is None else "human", test_derived=row.test)
    try:
        question = Question(
            id=row.id,
            clip=clip.digest,
            text=row.text,
            choices=row.choices,
            answer=row.answer,
            category=row.category,
            language=row.language,
            origin=origin,
        )
    except ValidationError as error:
        imported.problems.append(_problem(path, row.number, {"id": row.id}, error.errors()[0]["msg"]))
        return
    imported.questions.append(question)
    imported.clips.setdefault(clip.digest, clip.model_copy(update={"recording": recording}))
    imported.paths.setdefault(clip.digest, row.path)
