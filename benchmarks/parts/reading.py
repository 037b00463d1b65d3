"""What a variation by rules asks, read by a table of its own: what means the same in English and Vietnamese.

Nothing here comes from the augmenter, whose rules it judges. A text that the table does not bring back to the sandbox's
own words is *unread*, which counts as wrong.
"""

import re
from collections.abc import Sequence
from typing import Final

from services.sandbox import words
from services.sandbox.questions import answer
from services.sandbox.scene import Scene

#: What may stand before a question and asks nothing.
_INTRODUCTIONS: Final = re.compile(
    r"^(?:in (?:the|this) (?:video|clip), |watch the video\. |look at the road\. "
    r"|trong (?:đoạn )?video(?: này)?, |hãy xem video\. |hãy cho biết: )"
)
_TIMES: Final = "at the start|at the end|lúc đầu|lúc cuối"
#: A word or phrase → the one of the sandbox that means the same.
_SAME: Final = {
    "color": "colour", "at the beginning": "at the start", "in the clip": "in the video",
    "traffic signal": "traffic light", "truck": "lorry", "in which direction does": "which way does",
    "how many cars are there": "how many cars do you see", "how many people are there": "how many people do you see",
    "đèn tín hiệu": "đèn giao thông", "đèn giao thông": "đèn", "ra sao": "thế nào", "trong đoạn video": "trong video",
    "đi về hướng nào": "đi hướng nào",
}  # fmt: skip
_SAME_CHOICE: Final = {
    "yes, it is so": "yes", "no, it is not so": "no", "turn to the left": "turn left",
    "turn to the right": "turn right", "to the left": "left", "to the right": "right", "it stops": "stops",
    "straight on": "straight", "we wait": "wait",
    "we go": "go", "we slow down": "slow down", "it does not change": "no change",
    "a person crosses": "person crosses", "the car leaves": "car leaves", "the light changes": "light changes",
    "có, đúng vậy": "có", "không, sai": "không", "rẽ sang trái": "rẽ trái", "rẽ sang phải": "rẽ phải",
    "bên trái": "trái", "bên phải": "phải", "xe đứng yên": "đứng yên", "đi chậm lại": "chậm lại",
    "đèn không đổi": "không đổi", "có người qua đường": "người qua đường", "ta chờ": "chờ",
}  # fmt: skip


def right(scene: Scene, text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that the scene bears out; None where nothing is, or where a text is unread."""
    kind = kind_of(text)
    key = answer(scene, kind) if kind else None
    keys = [key_of(choice, words.POOLS[kind]) if kind else None for choice in choices]
    places = [place for place, said in enumerate(keys) if key is not None and said == key]
    return places[0] if len(places) == 1 and None not in keys else None


def unread(text: str, choices: Sequence[str]) -> bool:
    kind = kind_of(text)
    return kind is None or any(key_of(choice, words.POOLS[kind]) is None for choice in choices)


def kind_of(text: str) -> str | None:
    """The question's kind, None where it is not understood."""
    wanted = _plain(text)
    for kind, by_language in words.TEMPLATES.items():
        if any(wanted == _plain(own) for owns in by_language.values() for own in owns):
            return kind
    return None


def key_of(text: str, pool: Sequence[str]) -> str | None:
    said = text.strip().casefold()
    return words.key_of(_SAME_CHOICE.get(said, said), tuple(pool))


def _plain(text: str) -> str:
    """Without introductions, in the sandbox's words, the time at the end."""
    said = _INTRODUCTIONS.sub("", text.strip().casefold())
    for phrase, own in _SAME.items():
        said = re.sub(rf"\b{phrase}\b", own, said)
    first = re.fullmatch(rf"({_TIMES}),? (.*)\?", said)
    return f"{first[2]} {first[1]}?" if first else said
