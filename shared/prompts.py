"""The words a model is asked with, the same in training, calibration and serving.

System prompts are files in `system_prompts/`: a line that says what it is for, an empty line, the text (line breaks are
spaces). What stands in braces is left out where the model is to reason before it answers.
"""

import re
from functools import cache
from importlib import resources
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from shared.schema import Question

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NONE = "none"  #: no system message at all

ASK_LETTER = "Answer with the letter."
#: In its place, where words come first; the letter is asked for in the next turn.
ASK_REASONING = "First say in a few sentences what the video shows that decides between the choices. Do not answer yet."

_LETTER_ONLY = re.compile(r"\{([^}]*)\}")


class Prompt(NamedTuple):
    """A system prompt of the library."""

    name: str
    about: str  #: what it is for
    text: str  #: braces included


@cache
def library() -> dict[str, Prompt]:
    """Every prompt that has a text, by name."""
    files = resources.files("shared.system_prompts").iterdir()
    texts = {file.name.removesuffix(".md"): file for file in files if file.name.endswith(".md")}
    return {name: _read(name, texts[name].read_text(encoding="utf-8")) for name in sorted(texts)}


def _read(name: str, text: str) -> Prompt:
    about, _, words = text.partition("\n\n")
    return Prompt(name, about.strip(), " ".join(words.split()))


def names() -> tuple[str, ...]:
    """What `system_prompt` may be."""
    return NONE, *library()


def _known(name: str) -> str:
    if name not in names():
        raise ValueError(f"no system prompt is called {name!r}; there are: {', '.join(names())}")
    return name


SystemPrompt = Annotated[str, AfterValidator(_known)]


def system_text(name: str, reasoning: bool = False) -> str | None:
    """The system prompt called `name`, with `reasoning` not for a letter only; None for no system message."""
    return None if name == NONE else _LETTER_ONLY.sub("" if reasoning else r"\1", library()[name].text)


def letter(index: int) -> str:
    """The letter the model sees for the choice at `index`."""
    return LETTERS[index]


def render(question: Question, reasoning: bool = False) -> str:
    """The user turn that follows the clip. An empty choice has no line, and its letter goes to no other.

    With `reasoning` it asks for the words that come before the answer.
    """
    lines = [f"{letter(i)}. {question.choices[i].text}" for i in question.offered]
    return "\n".join([question.text, *lines, ASK_REASONING if reasoning else ASK_LETTER])
