"""The gates: what a variation must not lose, and what it must not become. Pure functions.

It must not lose numbers, units, colours, directions, order, negations and duties.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from shared.choices import fixed_places, speaks_by_letter
from shared.schema import Question

_CLASSES: dict[str, str] = {
    "number": (
        r"\d+(?:[.,:/]\d+)*|zero|one|two|three|four|five|six|seven|eight|nine|ten|half|both|double|single"
        r"|một|hai|ba|bốn|năm|sáu|bảy|tám|chín|mười|nửa|đôi"
    ),
    "unit": r"km/h|kph|mph|km|cm|mm|kg|metres?|meters?|seconds?|minutes?|tonnes?|tons?|mét|giây|phút|tấn|%",
    "colour": (
        r"red|yellow|amber|green|blue|white|black|gr[ea]y|orange|brown|purple|pink|silver|pale|dark"
        r"|đỏ|vàng|xanh(?: (?:lá cây|lá|dương|lam|lục|da trời|nước biển))?|trắng|đen|xám|cam|nâu|tím|hồng|bạc|sẫm|nhạt"
    ),
    "direction": (
        r"left|right|straight|forwards?|backwards?|towards?|away|ahead|front|behind|opposite|oncoming|north|south|east"
        r"|west|top|bottom|upper|lower|middle|nearest|farthest|u-turn"
        r"|trái|phải|thẳng|tới|lùi|ngược|cùng chiều|bắc|nam|đông|tây|trên|dưới|giữa|gần|xa|quay đầu"
    ),
    "order": r"first|second|third|last|next|before|after|while|until|then|end|trước|sau|đầu|cuối|rồi|tiếp|trong khi",
    "duty": (
        r"may|must|should|shall|allowed|permitted|prohibited|forbidden|required|only|all|any|every|most|least|maximum"
        r"|minimum|limit|more|less|fewer|except|unless"
        r"|được|nên|cần|cấm|chỉ|tất cả|mọi|tối đa|tối thiểu|hơn|trừ|nếu|bắt buộc"
    ),
}
_PROTECTED = {name: re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE) for name, words in _CLASSES.items()}
_START = re.compile(r"(?<!\w)(?:start|beginning)(?!\w)", re.IGNORECASE)
_NEGATION = re.compile(
    r"(?<!\w)(?:no|not|never|none|nothing|nobody|neither|nor|without|cannot|\w+n['’]t"
    r"|không|chưa|chẳng|đừng)(?!\w)",
    re.IGNORECASE,
)


LONGER = 3  #: times as long as before, and `ROOM` characters besides, is the most that a text may become
ROOM = 120
TOO_LIKE = 0.95  #: share of words in common from which two variations are one


def plain(text: str) -> str:
    """`text` as it is compared with others: composed, folded, without outer marks and doubled spaces."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.strip(" .,;:!?\"'“”")


def weight(text: str) -> Counter[str]:
    """What of `text` carries its meaning, counted; whether it negates counts once, however it is said."""
    text = unicodedata.normalize("NFC", text)
    found = Counter(
        f"{name}: {match.casefold()}" for name, pattern in _PROTECTED.items() for match in pattern.findall(text)
    )
    found["order: start"] = len(_START.findall(text))
    found["negation"] = int(_NEGATION.search(text) is not None)
    return +found


def negates(text: str) -> bool:
    """Whether an English question is put in the negative, so that its "yes" could be read two ways."""
    return _NEGATION.search(text) is not None


def objection(parent: Question, child: Question, others: Iterable[Question] = ()) -> str | None:
    """Why `child`, its choices in its parent's order, may not stand for `parent` beside `others`; None if it may."""
    pairs = [(before.text, after.text) for before, after in zip(parent.choices, child.choices, strict=True)]
    if not plain(child.text) or any(before and not plain(after) for before, after in pairs):
        return "nothing left of a text"
    if any(after and not before for before, after in pairs):
        return "empty choice filled"
    before, after = ([choice.text for choice in question.choices] for question in (parent, child))
    if fixed_places(before) != fixed_places(after) or (
        speaks_by_letter(before) and _letters(before) != _letters(after)
    ):
        return "a choice speaks of others otherwise"
    if weight(parent.text) != weight(child.text):
        return "question lost or gained a protected word"
    if any(weight(before) != weight(after) for before, after in pairs):
        return "choice lost or gained a protected word"
    if len({plain(after) for _, after in pairs}) < len({plain(before) for before, _ in pairs}):
        return "two choices became equal"
    if len(child.text) > LONGER * len(parent.text) + ROOM or LONGER * len(child.text) + ROOM < len(parent.text):
        return "question far longer or shorter"
    if any(len(after) > LONGER * len(before) + ROOM / 4 for before, after in pairs):
        return "choice far longer"
    if _stands_out([plain(before) != plain(after) for before, after in pairs], parent.answer):
        return "right choice stands out"
    if any(likeness(child, other) >= TOO_LIKE for other in (parent, *others)):
        return "too like another"
    return None


def _letters(texts: Iterable[str]) -> list[list[str]]:
    """The capitals that stand alone in each text: they name choices."""
    return [re.findall(r"\b[A-H]\b", text) for text in texts]


def _stands_out(changed: list[bool], answer: int | None) -> bool:
    """Whether the right choice alone was said otherwise, or alone was left as it was."""
    return answer is not None and len(changed) > 2 and changed.count(changed[answer]) == 1


def likeness(one: Question, other: Question) -> float:
    """Share of words that two variations have in common (Jaccard, each counted as often as it stands), 0 to 1.

    The order of words and choices does not matter: the trainer draws orders of its own.
    """
    mine, others = _words(one), _words(other)
    return (mine & others).total() / max(1, (mine | others).total())


def _words(question: Question) -> Counter[str]:
    texts = [question.text, *(choice.text for choice in question.choices)]
    return Counter(word for text in texts for word in re.findall(r"\w+", plain(text)))
