"""Which choices may change places: some speak of the others by their place or their letter."""

import hashlib
import random
import re
from collections.abc import Sequence

from shared.schema import Question

#: "All of the above", "Tất cả các đáp án trên": true of what stands before it, so it keeps its place.
_OF_THE_ABOVE = re.compile(
    r"\b(?:all|none|both|any|neither|two)\s+of\s+(?:the\s+)?(?:above|these)\b|\b(?:above|preceding)\s+(?:choices|options|answers)\b"
    r"|\b(?:đáp án|phương án|lựa chọn|câu|ý|điều)\b.*\btrên\b|\btất cả đều\b|\bcả (?:hai|ba|bốn|2|3|4)\b",
    re.IGNORECASE,
)
#: "Both A and B", "A và C", "Đáp án B": names another choice by its letter.
_BY_LETTER = re.compile(
    r"\b[A-H]\b\s*(?:,|&|\+|and|or|và|hoặc|nor)\s*\b[A-H]\b(?:\W|$)"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Đđ]áp án|[Pp]hương án|[Cc]âu|[Ýý])\s+[A-H]\b"
)


def speaks_by_letter(texts: Sequence[str]) -> bool:
    """Whether a choice names another by its letter, so that none of them may move."""
    return any(_BY_LETTER.search(text) for text in texts)


def fixed_places(texts: Sequence[str]) -> frozenset[int]:
    """Indices of the choices that must stay where they are; empty ones too, so that no letter is shown for them."""
    if speaks_by_letter(texts):
        return frozenset(range(len(texts)))
    return frozenset(index for index, text in enumerate(texts) if not text or _OF_THE_ABOVE.search(text))


def permutation(texts: Sequence[str], seed: str, turn: int = 0) -> tuple[int, ...]:
    """An order of the choices (`order[place]` is an index), the same for the same `seed` and `turn`.

    The turns of one seed are rotations of one shuffle: over n turns each free choice stands once
    at each free place, so a preference for a place cancels out.
    """
    fixed = fixed_places(texts)
    free = [index for index in range(len(texts)) if index not in fixed]
    mixed = list(free)
    random.Random(hashlib.sha256(seed.encode()).digest()).shuffle(mixed)
    return _turned(len(texts), free, mixed, turn)


def rotations(texts: Sequence[str], count: int) -> list[tuple[int, ...]]:
    """Up to `count` orders, the own one first; no choice stands twice at a place, but for those that must stay."""
    fixed = fixed_places(texts)
    free = [index for index in range(len(texts)) if index not in fixed]
    count = min(count, max(1, len(free)))
    return [_turned(len(texts), free, free, number * len(free) // count) for number in range(count)]


def _turned(count: int, places: Sequence[int], indices: Sequence[int], turn: int) -> tuple[int, ...]:
    """The order that puts `indices`, moved on by `turn`, at `places`, and leaves the others."""
    turn %= max(1, len(indices))
    order = list(range(count))
    for place, index in zip(places, [*indices[turn:], *indices[:turn]], strict=True):
        order[place] = index
    return tuple(order)


def reordered(question: Question, order: Sequence[int]) -> Question:
    """The question with the choice `order[place]` at each place, the answer followed."""
    answer = None if question.answer is None else order.index(question.answer)
    return question.model_copy(update={"choices": tuple(question.choices[i] for i in order), "answer": answer})
