"""A teacher's words for its answers, to train on: taken from the labels that lie beside the rows.

They follow the answer's letter: `B⏎The light ahead is red …`. The letter comes first because every engine reads it off
the first token after the prompt; words before it would leave that token untrained where it is asked for. Each epoch
takes the next of the votes that gave the row's answer in the round that was accepted.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.schema import Label, Question, Rows, read_jsonl

_TABLE = "labels.jsonl"
_NOUN = r"(?:choices?|options?|answers?|lựa chọn|phương án|đáp án|câu(?:\s+trả lời)?)"
_PLACE = r"(?<!\w)[(\[\"'#*]*(?:(?-i:[A-H])|\d)\b"  # a letter as it is shown, not the article "a"
_JUDGED = r"(?:correct|right|true|best|wrong|incorrect|false|the answer|đúng|sai|đáp án)"
#: Words that name a choice by its place or letter: in training the choices have another order than the teacher saw.
_BY_PLACE = re.compile(
    rf"\b{_NOUN}\s*(?:number|no\.?|số|thứ)?\s*{_PLACE}"
    rf"|\b{_NOUN}(?:\s+\w+){{0,2}}?(?:\s+(?:is|are|be|was|là)\b|\s*[:=])\s*(?:number\s+|số\s+)?{_PLACE}"
    r"|[(\[*](?:(?-i:[A-H])|\d)[)\]*]"
    rf"|{_PLACE}[)\]\"'*]*\s+(?:is|are|was|were|be|seems|là)\s+(?:the\s+)?{_JUDGED}\b"
    rf"|{_PLACE}\s+(?:đúng|sai)\b"
    r"|\b(?:first|second|third|fourth|last)\s+(?:choice|option|answer)\b",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"<[|/a-z_]+>")  # what a tokenizer would take for a token of its own
_SENTENCE = re.compile(r"(?<=[.!?…])\s+")

_Same = tuple[str, str, str, tuple[str, ...], int | None]  # a row with its answer


class Cut(NamedTuple):
    """Words as they are trained on."""

    ids: list[int]
    shortened: bool


class Reasonings:
    """The usable reasonings of rows."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._by_row: dict[_Same, tuple[str, ...]] = {}
        for folder in folders:
            path = folder / _TABLE
            if not path.is_file():
                continue
            labels = {label.question: label for label in read_jsonl(path, Label)}
            for question in Rows([folder]).questions:
                if question.id in labels and question.origin.answer == "teacher":
                    self._by_row.setdefault(_same(question), usable(labels[question.id], question.answer))

    def of(self, question: Question, epoch: int) -> str | None:
        """This epoch's words for a row in the data's own order of choices; None where it has none."""
        found = self._by_row.get(_same(question), ())
        return found[epoch % len(found)] if found else None

    def facts(self, questions: Sequence[Question], encode: Callable[[str], list[int]], limit: int) -> dict[str, int]:
        """For the card: rows with words and without, words in all, and how many of them are cut."""
        found = [self._by_row.get(_same(question), ()) for question in questions]
        texts = [text for each in found for text in each]
        return {
            "rows_with_words": sum(map(bool, found)),
            "rows_on_the_answer_alone": len(found) - sum(map(bool, found)),
            "reasonings": len(texts),
            "reasonings_cut": sum(cut(text, encode, limit).shortened for text in texts),
        }


def _same(question: Question) -> _Same:
    choices = tuple(choice.text for choice in question.choices)
    return (question.id, question.clip, question.text, choices, question.answer)


def usable(label: Label, answer: int | None) -> tuple[str, ...]:
    """Words of the votes for `answer` in the last round, each once, but those that name a choice by its place."""
    if label.status != "accepted" or answer is None:
        return ()
    last = max((vote.round for vote in label.votes), default=0)
    said = [" ".join(vote.reasoning.split()) for vote in label.votes if vote.round == last and vote.choice == answer]
    return tuple(
        dict.fromkeys(text for text in said if text and not _SPECIAL.search(text) and not _BY_PLACE.search(text))
    )


def cut(text: str, encode: Callable[[str], list[int]], limit: int) -> Cut:
    """Token ids of whole sentences within `limit` tokens; of the first one's start where even that is longer."""
    whole = encode(text)
    if len(whole) <= limit:
        return Cut(whole, False)
    sentences = _SENTENCE.split(text)
    for count in range(len(sentences) - 1, 0, -1):
        ids = encode(" ".join(sentences[:count]))
        if len(ids) <= limit:
            return Cut(ids, True)
    return Cut(whole[:limit], True)
