"""Choices and answers as people write them: letters, prefixes, stray quotes."""

import re
from collections.abc import Sequence

from shared.formats.common import tidy
from shared.prompts import LETTERS
from shared.schema import Choice

_PREFIX = re.compile(r"^([A-Za-z])\s*[.):]\s*(.*)$", re.DOTALL)
#: Letters and points to the end: "a.m." as well as a bare "A.".
_ABBREVIATION = re.compile(r"[A-Za-z][.):](?:[A-Za-z]\.)*[A-Za-z]?")
_EDGES = " \t.,;:!?\"'“”„‘’«»"


def parse_choices(written: Sequence[str]) -> tuple[Choice, ...]:
    """Choices with their source letters: `A. Có`, `D.Cấm`, `b)  Đúng`; letters may repeat.

    A lone "A." may also begin a text, so a letter counts as prefix only where at least half of the
    row's choices have one, and where abbreviations ("a.m.", "p.m.") still differ without theirs.
    A choice without prefix gets the letter of its place. An empty choice stays where it is, written as
    nothing or, beside choices with text, as its bare letter.
    """
    texts = [tidy(text) for text in written]
    matches = [_PREFIX.match(text) for text in texts]
    found = [match for match in matches if match]
    said = [match for match in found if match.group(2)]
    short = [match.group(2) for match in (said if len(said) > 1 else found) if _ABBREVIATION.fullmatch(match.string)]
    prefixed = 2 * len(found) >= sum(bool(text) for text in texts) and len(set(short)) == len(short)
    return tuple(
        Choice(label=match.group(1).upper(), text=match.group(2))
        if match and prefixed
        else Choice(label=letter, text=text)
        for text, match, letter in zip(texts, matches, LETTERS, strict=False)
    )


def find_answer(answer: str | int, choices: Sequence[Choice], base: int | None = None) -> int:
    """Index of the choice that `answer` means: its full text, its text, its letter, or its number.

    Choices that are the same to the letter count as one: the first of them. `base` is 0 or 1 where the
    whole file shows what its numbers count from.

    Raises:
        ValueError: `answer` fits no choice, or several; nothing is guessed.
    """
    said = tidy(str(answer))
    prefix = _PREFIX.match(said)
    whole = f"{prefix.group(1).upper()}. {prefix.group(2)}" if prefix else said
    full = [f"{choice.label}. {choice.text}" for choice in choices]
    texts = [choice.text for choice in choices]
    named = _named(said, choices) if isinstance(answer, str) else _numbered(answer, choices, base)
    for options, key in (
        (full, whole),
        (texts, said),
        (_bare(full), _bare([whole])[0]),
        (_bare(texts), _bare([said])[0]),
    ):
        if fits := [i for i, option in enumerate(options) if key and option == key]:
            return _one_of([*fits, *named], said, choices)
    if named:
        return _one_of(named, said, choices)
    if said.isdecimal() and base is None:
        raise ValueError(f"answer {said[:80]} is a number, and the file does not show whether it counts from 0 or 1")
    raise ValueError(f"answer {said[:80]!r} is none of the {len(choices)} choices")


def _named(said: str, choices: Sequence[Choice]) -> list[int]:
    """The choices that a lone letter names."""
    if not re.fullmatch(r"\(?[A-Za-z][.):]?", said):
        return []
    return [i for i, choice in enumerate(choices) if choice.label == said.strip("().:").upper()]


def _numbered(number: int, choices: Sequence[Choice], base: int | None) -> list[int]:
    """The choice that a number names."""
    return [] if base is None or not 0 <= number - base < len(choices) else [number - base]


def _bare(texts: Sequence[str]) -> list[str]:
    """Without case, edge punctuation and quotes."""
    return [re.sub(r"[\"'“”„‘’«»]", "", text).strip(_EDGES).casefold() for text in texts]


def _one_of(fits: list[int], said: str, choices: Sequence[Choice]) -> int:
    if len({choices[i] for i in fits}) > 1:
        raise ValueError(f"answer {said[:80]!r} fits {len(fits)} choices")
    return fits[0]
