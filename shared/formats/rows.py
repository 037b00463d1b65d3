"""From rows as any format has them to questions on clips: what all formats share.

A format's module says where a row's fields are (`Raw`) and what they mean (`Form`). Here they are understood: texts are
brought into one form, answers found, clips opened as if they were hostile, and what is wrong with a row is told in one
line while the others go through.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypedDict

from pydantic import ValidationError

from shared.errors import InputError, MediaError
from shared.formats.choices import find_answer, parse_choices
from shared.formats.common import Imported, Progress, language_of, one_line, read_clips, resolve_within, tidy
from shared.precedence import same
from shared.prompts import LETTERS, letter
from shared.schema import Choice, Clip, Origin, Question
from shared.video import MediaLimits

_SAYS_TEST = re.compile(r"(?:^|[^a-z])test(?:[^a-z]|$)", re.IGNORECASE)
_WHOLE = re.compile(r"-?\d+(?:\.0+)?")
_LETTER = re.compile(r"\(?([A-Za-z])[.):]?\)?")
VIDEOS = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".3gp"])


class Options(TypedDict, total=False):
    """What every format's `read` takes beside the file and the videos' folder."""

    test: bool | None  #: whether the clips belong to a test set; None: as the file's name, or a row's split, says
    limits: MediaLimits | None
    thorough: bool  #: decode every clip wholly, so that damage shows now and not in the middle of a run
    progress: Progress | None


class RowError(Exception):
    """A row that cannot be taken, and why."""


class Raw(NamedTuple):
    """One row as its file has it, the fields still as written; None where the file has none."""

    question: Any
    choices: Any
    video: Any
    id: Any = None
    answer: Any = None
    category: Any = None
    language: Any = None
    recording: Any = None
    split: Any = None
    origin: Any = None  #: fields of `Origin`, in files that RoadQA wrote
    labels: Any = None  #: the letters that the choices had in their source, likewise


class Form(NamedTuple):
    """What a format's fields mean."""

    video: str = "video"  #: what the field of the clip is called
    ids: bool = True  #: whether each row must have one; else its place in the file is it
    prefixed: bool = True  #: whether choices may begin with their letters
    answer: Literal["text", "index", "letter"] = "text"  #: what an answer is at first; the others are tried after it
    base: int | None = None  #: what numbers count from
    endings: bool = True  #: False: clips are named without `.mp4`
    alone: bool = False  #: whether each clip is a recording of its own, whatever its name looks like


class Item(NamedTuple):
    """One row of a file before it is looked at."""

    place: str  #: `row 3`
    value: Any
    id: Any = None  #: where the value alone does not tell it


class Row(NamedTuple):
    """One row, understood but for its clip."""

    place: str
    id: str
    text: str
    choices: tuple[Choice, ...]
    answer: int | None
    category: str
    language: str
    origin: Origin
    video: str  #: as the file names it
    path: Path
    recording: str | None  #: as the row says


def says_test(name: str) -> bool:
    """Whether a name has the word `test` in it."""
    return _SAYS_TEST.search(name) is not None


def take(
    path: Path,
    items: Iterable[Item],
    parse: Callable[[Any], Raw],
    videos: Path,
    form: Form,
    imported: Imported | None = None,
    *,
    test: bool | None = None,
    limits: MediaLimits | None = None,
    thorough: bool = True,
    progress: Progress | None = None,
) -> Imported:
    """Understand a file's rows and read their clips; for the other arguments see `Options`.

    Args:
        parse: where the fields of a row are; raises RowError where it is no row.
        videos: the folder that the clips' names start from.
        imported: with the problems that the file itself has.
    """
    imported = imported or Imported()
    reader = _Reader(path, parse, Videos(videos, form.endings), form, says_test(path.stem) if test is None else test)
    rows = list(reader.rows(items, imported))
    names = {row.path: row.video for row in reversed(rows)}
    clips = read_clips(
        ((name, file) for file, name in names.items()), limits=limits, thorough=thorough, progress=progress
    )
    if form.alone:
        clips = {name: _alone(clip) for name, clip in clips.items()}
    found = [(row, clips[names[row.path]]) for row in rows]
    given = _given_recordings(found)
    for row, question in _agreeing(path, list(_questions(path, found, given, imported)), imported):
        clip = clips[names[row.path]]
        assert isinstance(clip, Clip)
        imported.questions.append(question)
        recording = given.get(clip.digest, clip.recording)
        imported.clips.setdefault(clip.digest, clip.model_copy(update={"recording": recording}))
        imported.paths.setdefault(clip.digest, row.path)
    return imported


def answerable(raw: Raw, form: Form) -> bool:
    """Whether the row's answer is one of its choices, or none is given."""
    try:
        _answer(raw.answer, parse_choices(written_choices(raw.choices)), form)
    except RowError:
        return False
    return True


class Unread(NamedTuple):
    """A row that makes no sense."""

    item: Item
    id: Any  #: as written
    why: str


def without_clips(
    path: Path, items: Iterable[Item], parse: Callable[[Any], Raw], videos: Path, form: Form
) -> Iterator[Row | Unread]:
    """Understand a test file's rows, and open no clip: what each of them is worth must be found within its own time."""
    for item, id_, row in _Reader(path, parse, Videos(videos, form.endings), form, test=True).each(items):
        yield row if isinstance(row, Row) else Unread(item, id_, str(row))


def problem(path: Path, place: str, id_: Any, what: str) -> str:
    """What is wrong with a row, in one line."""
    name = f" (id {str(id_)[:80]})" if id_ is not None else ""
    return one_line(f"{path}: {place}{name}: {what}; the row is left out")


class Videos:
    """The folder of the clips, where names with and without ending are looked up."""

    def __init__(self, folder: Path, endings: bool) -> None:
        self._folder, self._endings = folder, endings
        self._by_stem: dict[str, list[str]] | None = None
        self._known: dict[str, tuple[str, Path]] = {}

    def find(self, name: str) -> tuple[str, Path]:
        """(name within the folder, local path) of a clip.

        Raises:
            InputError: it is not there, leads out of the folder, or several files are meant.
        """
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def _look(self, name: str) -> tuple[str, Path]:
        if not self._endings and PurePosixPath(name).suffix.lower() not in VIDEOS:
            stems = self._stems()
            fits = sorted(stems.get(tidy(name), []))
            if len(fits) > 1:
                raise InputError(
                    f"clip {one_line(name[:200])!r} may be {' or '.join(fits[:3])}; give its folder or its ending"
                )
            name = fits[0] if fits else name
        return name, resolve_within(self._folder, name)

    def _stems(self) -> dict[str, list[str]]:
        """Files by their name without ending, and by that with the folders before it."""
        if self._by_stem is None:
            self._by_stem = defaultdict(list)
            for folder, _, files in os.walk(self._folder):  # follows no link
                inner = PurePosixPath(Path(folder).relative_to(self._folder).as_posix())
                for file in sorted(files):
                    known = inner / file
                    if known.suffix.lower() in VIDEOS:
                        for key in {tidy(known.stem), tidy(str(known.with_suffix("")))}:
                            self._by_stem[key].append(str(known))
        return self._by_stem


class _Reader:
    """Understands the rows of one file, but for their clips."""

    def __init__(self, path: Path, parse: Callable[[Any], Raw], videos: Videos, form: Form, test: bool) -> None:
        self._path, self._parse, self._videos, self._form, self._test = path, parse, videos, form, test

    def rows(self, items: Iterable[Item], imported: Imported) -> Iterator[Row]:
        """The rows that make sense; the rest go to `imported.problems`."""
        for item, id_, row in self.each(items):
            if isinstance(row, Row):
                yield row
            else:
                imported.problems.append(problem(self._path, item.place, id_, str(row)))

    def each(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any, Row | Exception]]:
        """Each row with its id as written; an error where it makes no sense."""
        first_with: dict[str, str] = {}
        for item in items:
            id_ = item.id
            try:
                raw = self._raw(item)
                id_ = raw.id if raw.id is not None else id_
                row = self._row(item, raw)
                if row.id in first_with:
                    raise RowError(f"the id is that of {first_with[row.id]}; give each question its own")
            except (RowError, InputError) as error:
                yield item, id_, error
                continue
            first_with[row.id] = item.place
            yield item, id_, row

    def _raw(self, item: Item) -> Raw:
        if isinstance(item.value, InputError | RowError):
            raise item.value
        return self._parse(item.value)

    def _row(self, item: Item, raw: Raw) -> Row:
        text, name = text_of(raw.question, "question"), text_of(raw.video, self._form.video, clean=False)
        id_ = re.sub("[ ,]+", "-", item.place) if raw.id in (None, "") and not self._form.ids else text_of(raw.id, "id")
        written = written_choices(raw.choices)
        choices = _labelled(parse_choices(written) if self._form.prefixed else plain_choices(written), raw.labels)
        if sum(bool(choice.text) for choice in choices) < 2:
            raise RowError("has fewer than 2 choices that are not empty; fill them in")
        category = tidy(str(raw.category or "unknown"))
        language = tidy(str(raw.language or language_of(" ".join([text, *written]))))
        recording = _recording(raw.recording)
        origin = json.dumps(raw.origin, ensure_ascii=False, default=str)
        _refuse_halves([id_, text, name, *written, category, language, recording or "", origin])
        answer = _answer(raw.answer, choices, self._form)
        video, path = self._videos.find(name)
        return Row(
            item.place,
            id_,
            text,
            choices,
            answer,
            category,
            language,
            self._origin(raw, answer),
            video,
            path,
            recording,
        )

    def _origin(self, raw: Raw, answer: int | None) -> Origin:
        test = self._test or says_test(str(raw.split or ""))
        if raw.origin is None:
            return Origin(answer="none" if answer is None else "human", test_derived=test)
        try:
            return Origin.model_validate(raw.origin)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("origin", *first["loc"])))
            raise RowError(f"{where}: {first['msg']}; mend it, or leave `origin` out") from error


def text_of(value: Any, field: str, *, clean: bool = True) -> str:
    """A field that must have text.

    Raises:
        RowError: it has none.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RowError(f"has no {field}")
    return tidy(str(value)) if clean else str(value).strip()


def written_choices(choices: Any) -> list[str]:
    """The choices' texts as written; an empty one keeps its place.

    Raises:
        RowError: no list, too few or too many, or one that is not text.
    """
    if not isinstance(choices, list | tuple) or not 2 <= len(choices) <= len(LETTERS):
        raise RowError("has no list of 2 to 26 choices")
    if not all(isinstance(choice, str | int | float) and not isinstance(choice, bool) for choice in choices):
        raise RowError("has a choice that is not text")
    return [str(choice) for choice in choices]


def plain_choices(written: Iterable[str]) -> tuple[Choice, ...]:
    """Choices of a format that writes no letters before them."""
    return tuple(Choice(label=letter(place), text=tidy(text)) for place, text in enumerate(written))


def _labelled(choices: tuple[Choice, ...], labels: Any) -> tuple[Choice, ...]:
    """The choices under the letters they had in their source, where the file tells them."""
    if labels is None:
        return choices
    if not isinstance(labels, list) or not all(isinstance(label, str) and label in LETTERS for label in labels):
        raise RowError("has labels that are not a list of letters; leave them out")
    if len(labels) != len(choices):
        raise RowError(f"has {len(labels)} labels for {len(choices)} choices; leave them out")
    return tuple(Choice(label=label, text=choice.text) for label, choice in zip(labels, choices, strict=True))


def _recording(recording: Any) -> str | None:
    if isinstance(recording, bool) or not isinstance(recording, str | int | None):
        raise RowError(f"has a recording that is {type(recording).__name__}, not text")
    return None if recording is None else tidy(str(recording)) or None


def _refuse_halves(texts: list[str]) -> None:
    """JSON can spell half of a surrogate pair, but no row with one can be written down again."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise RowError("holds half a character (a lone surrogate); write the whole one") from error


def _answer(answer: Any, choices: tuple[Choice, ...], form: Form) -> int | None:
    if answer is None or answer == "":
        return None
    if isinstance(answer, float) and answer.is_integer():  # what pandas makes of integers beside gaps
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise RowError(f"has an answer that is {type(answer).__name__}, not text")
    try:
        found = _found(answer, choices, form)
    except ValueError as error:
        raise RowError(f"{error}; write it as one of them") from error
    if found is not None and not choices[found].text:
        raise RowError(f"answer {str(answer)[:80]!r} is an empty choice; fill the choice in, or mend the answer")
    return found


def _found(answer: str | int, choices: tuple[Choice, ...], form: Form) -> int | None:
    """What the format means by an answer of this look comes first; only then is it looked for among the texts."""
    said = str(answer).strip()
    if not said:
        return None
    if form.answer == "index" and _WHOLE.fullmatch(said):
        place = int(said.split(".")[0]) - (form.base or 0)
        if not 0 <= place < len(choices):
            first = form.base or 0
            raise ValueError(
                f"answer {said[:80]} is none of the {len(choices)} choices ({first} to {first + len(choices) - 1})"
            )
        return place
    if form.answer == "letter" and (alone := _LETTER.fullmatch(said)):
        fits = [place for place, choice in enumerate(choices) if choice.label == alone.group(1).upper()]
        if len(fits) != 1:
            raise ValueError(f"answer {said!r} names {len(fits)} of the {len(choices)} choices, not one")
        return fits[0]
    return find_answer(answer, choices, form.base)


def number_base(pairs: Iterable[tuple[Any, Any]]) -> int | None:
    """0 or 1 where a file's numeric answers, each with its choices, show what they count from, else None."""
    numbers = [(answer, len(choices)) for answer, choices in pairs if type(answer) is int and isinstance(choices, list)]
    from_zero = any(answer == 0 for answer, _ in numbers)
    from_one = any(answer == count for answer, count in numbers)
    return None if from_zero == from_one else int(from_one)


# --- with their clips --------------------------------------------------------------------------------


def _alone(clip: Clip | MediaError) -> Clip | MediaError:
    if isinstance(clip, MediaError):
        return clip
    return clip.model_copy(update={"recording": str(PurePosixPath(clip.name).with_suffix(""))})


def _given_recordings(found: list[tuple[Row, Clip | MediaError]]) -> dict[str, str]:
    """The recordings that rows give their clips, by digest; of two for one clip, the first."""
    given: dict[str, str] = {}
    for row, clip in found:
        if isinstance(clip, Clip) and row.recording is not None:
            given.setdefault(clip.digest, row.recording)
    return given


def _questions(
    path: Path, found: list[tuple[Row, Clip | MediaError]], given: Mapping[str, str], imported: Imported
) -> Iterator[tuple[Row, Question]]:
    """The rows whose clip is sound; why the others are not goes to `imported.problems`."""
    for row, clip in found:
        try:
            yield row, _question(row, clip, given)
        except RowError as error:
            imported.problems.append(problem(path, row.place, row.id, str(error)))


def _question(row: Row, clip: Clip | MediaError, given: Mapping[str, str]) -> Question:
    if isinstance(clip, MediaError):
        raise RowError(f"clip refused: {clip}")
    recording = given.get(clip.digest, clip.recording)
    if row.recording not in (None, recording):
        raise RowError(
            f"its recording is {row.recording!r}, but an earlier row gives its clip {recording!r}; make them agree"
        )
    try:
        return Question(
            id=row.id,
            clip=clip.digest,
            text=row.text,
            choices=row.choices,
            answer=row.answer,
            category=row.category,
            language=row.language,
            origin=row.origin,
        )
    except ValidationError as error:
        raise RowError(error.errors()[0]["msg"]) from error


def _agreeing(path: Path, read: list[tuple[Row, Question]], imported: Imported) -> Iterator[tuple[Row, Question]]:
    """All rows but those that answer one question on one clip in different ways: which is right is not guessed."""
    answers: dict[Any, dict[str, Row]] = defaultdict(dict)  # same question → answer's text → its first row
    for row, question in read:
        if question.answer is not None:
            answers[same(question)].setdefault(question.choices[question.answer].text, row)
    for row, question in read:
        said = None if question.answer is None else question.choices[question.answer].text
        others = {text: other for text, other in answers.get(same(question), {}).items() if text != said}
        if said is None or not others:
            yield row, question
            continue
        text, other = next(iter(others.items()))
        what = (
            f"answers {said[:80]!r} where {other.place} (id {other.id[:80]}) answers {text[:80]!r} to the same question"
        )
        imported.problems.append(
            problem(path, row.place, row.id, f"{what} on the same clip; keep the one that is right")
        )
