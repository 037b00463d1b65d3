"""The words a model is asked with, the same in training, calibration and serving."""

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
    """The user turn that follows the clip. An empty choice has no line, and its letter goes to no other."""
    lines = [f"{letter(i)}. {question.choices[i].text}" for i in question.offered]
    return "\n".join([question.text, *lines, "Answer with the letter."])
