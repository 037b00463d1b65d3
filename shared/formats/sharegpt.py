"""LLaVA / ShareGPT video JSON, as ms-swift, LLaMA-Factory and Qwen's own trainer read it.

A list (or one object a line) of `{"video" | "videos", "conversations": [{"from", "value"}, …]}`. Also read:
`messages` with `role` and `content`, `conversation` with `human` and `assistant`, and `query` with `response`.
A person's turn is a question and then one choice a line: `A. …`, `B) …`, `(C) …`; a letter that is left out is an
empty choice. The model's turn is a letter, a letter with its choice, or the choice. Each such pair of turns is a
question of its own.

Sources: the READMEs of qwen-vl-finetune and of LLaMA-Factory's data folder, ms-swift's page on custom datasets, and the
prompts of LLaVA-Video-178K.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from shared.errors import InputError
from shared.formats import rows
from shared.formats.choices import find_answer
from shared.formats.common import Imported, one_line, tidy, write_json
from shared.formats.files import json_rows, read_json
from shared.formats.rows import Form, Item, Options, Raw, RowError
from shared.prompts import LETTERS, letter, render
from shared.schema import Question

WHAT = "a LLaVA / ShareGPT video file"
FILE = "sharegpt.json"
_FORM = Form(ids=False, prefixed=False, answer="index", base=0)
_PLACEHOLDER = re.compile(r"<(?:video|image|audio)>")
_OPTION = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])\s*[.):])\s*(.*?)\s*")
_ALONE = re.compile(r"\(?([A-Za-z])[.):]?\)?")
_HEADING = re.compile(r"(?:options|choices|lựa chọn|đáp án)\s*:?", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANSWER_IS = re.compile(r"(?:the\s+)?(?:(?:correct|right|best)\s+)?(?:answer|option)\s*(?:is\s*:?|:)\s*", re.IGNORECASE)
_HUMAN, _MODEL = ("human", "user"), ("gpt", "assistant", "bot")
#: The field that holds what the format has no place for, as JSON in a text: loaders that infer a type for each field
#: trip over lists that are empty in one row and not in the next.
_MINE = "roadqa"

Json = dict[str, Any]


class _Pair(NamedTuple):
    """A person's turn and the model's, of one row."""

    row: Json
    id: Any
    asked: str
    said: str | None


def read(path: Path, videos: Path, **options: Unpack[Options]) -> Imported:
    """Read a ShareGPT file and its clips; what is wrong with a row is told and the others go through.

    Args:
        videos: the folder that `video` and `videos` start from.

    Raises:
        InputError: the file itself cannot be read.
    """
    return rows.take(path, _items(path), _parse, videos, _FORM, **options)


def _items(path: Path) -> Iterator[Item]:
    for place, row in json_rows(path, WHAT):
        try:
            pairs = list(_pairs(row))
        except RowError as error:
            yield Item(place, error, row.get("id") if isinstance(row, dict) else None)
            continue
        for number, pair in enumerate(pairs, 1):
            yield Item(place if len(pairs) == 1 else f"{place}, turn {number}", pair, pair.id)


# --- turns -----------------------------------------------------------------------------------------


def _pairs(row: Any) -> Iterator[_Pair]:
    """What the row asks, each with its answer.

    Raises:
        RowError: it has no turns, or turns that do not alternate.
    """
    if not isinstance(row, dict):
        raise RowError(f"is {type(row).__name__}, not an object")
    id_ = row.get("id")
    turns = [turn for turn in _turns(row) if turn[0] != "system"]
    if not turns:
        raise RowError("has no conversations (or messages) with a person's turn")
    for number, start in enumerate(range(0, len(turns), 2), 1):
        roles = [role for role, _ in turns[start : start + 2]]
        if roles not in (["human"], ["human", "gpt"]):
            raise RowError(f"has turns of {' and '.join(roles)} where one of human and one of gpt should be")
        said = turns[start + 1][1] if len(roles) == 2 else None
        yield _Pair(row, id_ if id_ is None or len(turns) <= 2 else f"{id_}#{number}", turns[start][1], said)


def _turns(row: Json) -> list[tuple[str, str]]:
    """(human, gpt or system; what is said) in order."""
    if "query" in row:
        past = row.get("history") or []
        if not isinstance(past, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in past):
            raise RowError("has a history that is no list of pairs (asked, answered)")
        history = [turn for pair in past for turn in zip(("human", "gpt"), pair, strict=True)]
        last = [("human", row["query"])] + ([("gpt", row["response"])] if row.get("response") else [])
        return [(role, _text(said)) for role, said in [*history, *last]]
    found = next((row[name] for name in ("conversations", "messages", "conversation") if row.get(name)), None)
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        raise RowError("has no list of conversations or messages")
    if all("human" in turn for turn in found):
        pairs = [
            (role, turn.get(other)) for turn in found for role, other in (("human", "human"), ("gpt", "assistant"))
        ]
        return [(role, _text(said)) for role, said in pairs if said is not None]
    return [
        (_role(turn.get("from", turn.get("role"))), _text(turn.get("value", turn.get("content")))) for turn in found
    ]


def _role(name: Any) -> str:
    if name in _HUMAN:
        return "human"
    return "gpt" if name in _MODEL else str(name)


def _text(said: Any) -> str:
    """A turn's text; of content in parts (`{"type": "text", "text": …}`) the texts."""
    if isinstance(said, list):
        said = "\n".join(str(part["text"]) for part in said if isinstance(part, dict) and "text" in part)
    if not isinstance(said, str):
        raise RowError(f"has a turn that is {type(said).__name__}, not text")
    return said


# --- one question ----------------------------------------------------------------------------------


def _parse(pair: _Pair) -> Raw:
    row = pair.row
    mine = _mine(row)
    labels, empty = mine.get("labels"), mine.get("empty")
    text, choices = _asked(
        pair.asked, len(labels) if isinstance(labels, list) else 0, empty if isinstance(empty, list) else []
    )
    return Raw(
        text,
        choices,
        _video(row),
        pair.id,
        None if pair.said is None else _answer(pair.said, choices),
        row.get("category") or row.get("type") or mine.get("category"),
        row.get("language") or mine.get("language"),
        row.get("recording") or mine.get("recording"),
        row.get("split"),
        mine.get("origin"),
        labels,
    )


def _mine(row: Json) -> Json:
    found = row.get(_MINE)
    if found is None:
        return {}
    try:
        known = json.loads(found)
    except (TypeError, ValueError) as error:
        raise RowError(f"has a field `{_MINE}` that is not JSON ({error}); leave it out") from error
    if not isinstance(known, dict):
        raise RowError(f"has a field `{_MINE}` that holds no object; leave it out")
    return known


def _video(row: Json) -> str:
    found = row.get("videos") or row.get("video")
    if not found:
        turns = row["messages"] if isinstance(row.get("messages"), list) else []
        inner = [part for turn in turns for part in _parts(turn) if part.get("type") == "video"]
        found = [part.get("video") for part in inner]
    names = found if isinstance(found, list) else [found]
    if len(names) != 1 or not isinstance(names[0], str):
        raise RowError(f"has {len([name for name in names if name])} videos; a question is on one clip")
    return names[0]


def _parts(turn: Any) -> list[Json]:
    content = turn.get("content") if isinstance(turn, dict) else None
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _asked(turn: str, least: int, empty: Sequence[Any]) -> tuple[str, list[str]]:
    """The question and its choices; an empty one for a letter that is left out, and up to `least` in all.

    Args:
        empty: places of choices that are known to be empty: a line with their letter is part of the question.

    Raises:
        RowError: no question with one choice a line.
    """
    lines = [line for line in _PLACEHOLDER.sub("", turn).split("\n") if line.strip()]
    options = [_OPTION.fullmatch(line) for line in lines]
    end = next((place for place in range(len(lines), 0, -1) if options[place - 1]), 0)
    start, following = end, len(LETTERS)
    while start and (option := options[start - 1]) and (place := _place(option)) < following and place not in empty:
        start, following = start - 1, place
    texts = {_place(option): option.group(3) for option in options[start:end] if option}
    asked = lines[:start]
    while len(asked) > 1 and _HEADING.fullmatch(asked[-1].strip()):
        asked.pop()
    if len(texts) < 2 or not asked:
        raise RowError(
            "is no multiple-choice question: it needs a question and below it each choice on a line, A. … B. …"
        )
    return " ".join(asked), [texts.get(place, "") for place in range(max(*texts, least - 1) + 1)]


def _place(option: re.Match[str]) -> int:
    return LETTERS.index(option.group(1) or option.group(2))


def _answer(said: str, choices: Sequence[str]) -> int | None:
    """The place that the model's turn names, by letter or text; a letter beside another choice's text is no answer."""
    tagged = _TAGGED.search(said)
    text = tidy(_ANSWER_IS.sub("", tidy(tagged.group(1) if tagged else said), count=1))
    if alone := _ALONE.fullmatch(text):
        return LETTERS.index(alone.group(1).upper())
    option = _OPTION.fullmatch(text)
    if not option:
        return _by_text(text, choices)
    place, rest = _place(option), _plain(option.group(3))
    others = [letter(other) for other, choice in enumerate(choices) if other != place and _plain(choice) == rest]
    if others and (place >= len(choices) or _plain(choices[place]) != rest):
        raise RowError(f"answer {text[:80]!r} has the text of {others[0]}; make letter and text agree")
    return place


def _by_text(text: str, choices: Sequence[str]) -> int | None:
    try:
        return find_answer(text, rows.plain_choices(choices)) if text else None
    except ValueError as error:
        raise RowError(f"{error}; answer with the letter") from error


def _plain(text: str) -> str:
    return tidy(text).rstrip(".").casefold()


# --- out -------------------------------------------------------------------------------------------


def write(
    folder: Path, questions: Iterable[Question], names: Mapping[str, str], recordings: Mapping[str, str]
) -> list[str]:
    """Write `sharegpt.json`, the choices as RoadQA's models see them, and a `dataset_info.json` for LLaMA-Factory.

    A question without an answer is a person's turn alone, which trainers leave out. Returns a line for each question
    that the format cannot hold: trainers would take a `<video>` in its text for a clip.

    Raises:
        InputError: another `dataset_info.json` is there already.
    """
    kept: list[Json] = []
    problems: list[str] = []
    for question in questions:
        row = _row(question, names[question.clip], recordings[question.clip])
        if len(_PLACEHOLDER.findall(row["conversations"][0]["value"])) > 1:
            problems.append(
                one_line(f"question {question.id[:80]}: has <video> or the like in its text; it is left out")
            )
        else:
            kept.append(row)
    write_json(folder / FILE, kept)
    columns = {"messages": "conversations", "videos": "videos"}
    about = {"file_name": FILE, "formatting": "sharegpt", "columns": columns}
    _describe(folder / "dataset_info.json", about)
    return problems


def _describe(path: Path, about: Json) -> None:
    """Add the dataset to LLaMA-Factory's list of datasets, which may name others."""
    known = read_json(path, "a list of datasets") if path.exists() else {}
    if not isinstance(known, dict):
        raise InputError(f"{path}: is no list of datasets; give an empty folder")
    write_json(path, known | {"roadqa": about})


def _row(question: Question, name: str, recording: str) -> Json:
    lines = tuple(choice.model_copy(update={"text": tidy(choice.text)}) for choice in question.choices)
    asked = question.model_copy(update={"text": tidy(question.text), "choices": lines})
    mine = {
        "labels": [choice.label for choice in question.choices],
        "empty": [place for place, choice in enumerate(lines) if not choice.text],
        "origin": question.origin.model_dump(mode="json"),
    }
    turns = [{"from": "human", "value": f"<video>\n{render(asked)}"}]
    if question.answer is not None:
        turns.append({"from": "gpt", "value": letter(question.answer)})
    return {
        "id": question.id,
        "video": name,  # what Qwen's trainer reads
        "videos": [name],  # what ms-swift and LLaMA-Factory read
        "conversations": turns,
        "category": question.category,
        "language": question.language,
        "recording": recording,
        _MINE: json.dumps(mine, ensure_ascii=False),
    }
