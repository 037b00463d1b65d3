"""The question and its choices as every prompt shows them: in one fixed form that scene text cannot break out of."""

import re
from collections.abc import Sequence

from shared.choices import speaks_by_letter
from shared.prompts import letter
from shared.schema import Question

_TAGS = re.compile(r"</?(question|choices|votes)>")
_LANGUAGES = {"en": "English", "vi": "Vietnamese"}


def one_line(text: str) -> str:
    """`text` without line breaks, and without what could end the block it stands in."""
    return _TAGS.sub(r"(\1)", " ".join(text.split()))


def block(question: Question, order: Sequence[int]) -> str:
    """The question and its numbered choices in `order` (the choice at each place); an empty one has no line."""
    texts = [(place, question.choices[index].text) for place, index in enumerate(order, 1)]
    lines = [f"{place}. {one_line(text)}" for place, text in texts if text]
    shown = "\n".join(["<question>", one_line(question.text), "</question>", "<choices>", *lines, "</choices>"])
    if speaks_by_letter([choice.text for choice in question.choices]):
        names = ", ".join(f"{letter(index)} is choice {place}" for place, index in enumerate(order, 1))
        shown += f"\nA letter in a choice stands for another choice: {names}."
    return shown


def language_name(code: str) -> str:
    """A language as a prompt names it; its code where we have no name."""
    return _LANGUAGES.get(code, code)
