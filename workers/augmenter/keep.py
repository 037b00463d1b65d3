"""What a variation must not lose: numbers, units, colours, directions, order, negations, duties."""

import re
import unicodedata
from collections import Counter

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


def objection(parent: Question, child: Question, order: tuple[int, ...]) -> str | None:
    """Why `child` may not stand for `parent` (`order[place]` is the parent's choice there); None if it may."""
    if weight(parent.text) != weight(child.text):
        return "question lost or gained a protected word"
    pairs = [(parent.choices[index].text, child.choices[place].text) for place, index in enumerate(order)]
    if any(weight(before) != weight(after) for before, after in pairs):
        return "choice lost or gained a protected word"
    if len({plain(after) for _, after in pairs}) < len({plain(before) for before, _ in pairs}):
        return "two choices became equal"
    if any(not plain(after) for _, after in pairs) or not plain(child.text):
        return "nothing left of a text"
    return None
