"""The words a model is asked with, the same in training, calibration and serving."""

import re
from typing import Literal

from shared.schema import Question

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

SystemPrompt = Literal["none", "short", "expert"]

_SYSTEM: dict[str, str | None] = {
    "none": None,
    # For the sandbox's tiny model: few tokens, words it was trained on.
    "short": "Watch the traffic video and answer the question.",
    "expert": (
        "You are a traffic expert who watches dashcam and roadside video. Look at every frame: read the "
        "signs, lane markings and numbers, note the state of the lights and how each road user moves over "
        "time. Judge right of way by the traffic law of the country shown. Choose the one choice that the "
        "video supports, and answer with its letter only."
    ),
}


def system_text(name: SystemPrompt) -> str | None:
    """The system prompt called `name`; None for no system message at all."""
    return _SYSTEM[name]


def letter(index: int) -> str:
    """The letter the model sees for the choice at `index`."""
    return LETTERS[index]


def render(question: Question) -> str:
    """The user turn that follows the clip."""
    lines = [f"{letter(i)}. {choice.text}" for i, choice in enumerate(question.choices)]
    return "\n".join([question.text, *lines, "Answer with the letter."])


def read_answer(text: str, choices: int) -> int | None:
    """Index of the choice that free text names by its letter, None where it names none.

    Accepts `B`, `b)`, `(B)`, `B. Wrong`, `Answer: B`. A letter beyond the choices is no answer.
    """
    match = re.match(r"\s*(?:(?:the\s+)?answer\s*(?:is)?\s*:?\s*)?\(?([A-Za-z])(?![A-Za-z])", text, re.IGNORECASE)
    if match is None:
        return None
    index = LETTERS.index(match.group(1).upper())
    return index if index < choices else None
