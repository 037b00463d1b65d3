"""Ways to say the same in English and Vietnamese: frames round a question, equal words, equal answers."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

Language = Literal["en", "vi"]
#: A rule gives the new text, or None where it does not apply.
Rule = Callable[[str], str | None]

_VIETNAMESE = re.compile(r"[ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]", re.IGNORECASE)
#: First words that are surely no names, so that they may lose their capital.
_OPENERS: Mapping[Language, re.Pattern[str]] = {
    "en": re.compile(
        r"(?:what|which|how|where|when|who|whose|why|is|are|was|does|do|did|has|have|may|must|should|can|will)\b",
        re.IGNORECASE,
    ),
    "vi": re.compile(
        r"(?:xe|có|lúc|đèn|biển|bạn|người|việc|ta|tốc|ai|khi|vì|mặt|trời|làn|phương|hành)\b", re.IGNORECASE
    ),
}


class Rules(NamedTuple):
    """The rules of one language, by name."""

    frames: Mapping[str, Rule]  #: for the question as a whole
    words: tuple[tuple[str, str], ...]  #: equal wordings, for the question and the choices alike
    answers: tuple[tuple[str, str], ...]  #: equal wordings of a whole choice


def language_of(text: str, declared: str) -> Language | None:
    """The language whose rules fit `text`: Vietnamese by its letters, else as declared; None without rules."""
    if declared == "vi" or _VIETNAMESE.search(unicodedata.normalize("NFC", text)):
        return "vi"
    return "en" if declared == "en" else None


def _uncapitalised(text: str, language: Language) -> str | None:
    """`text` with a small first letter, where its first word is surely no name."""
    return _small(text) if _OPENERS[language].match(text) else None


def _lead(phrase: str, language: Language) -> Rule:
    def rule(text: str) -> str | None:
        inner = _uncapitalised(text, language)
        named = re.search(r"\b(?:video|clip)\b", text, re.IGNORECASE)
        return None if inner is None or named else f"{phrase}, {inner}"

    return rule


def _before(phrase: str) -> Rule:
    """A sentence of its own in front."""
    return lambda text: None if text.startswith(phrase) else f"{phrase} {text}"


def _moved(pattern: str, replacement: Callable[[re.Match[str]], str]) -> Rule:
    compiled = re.compile(pattern)

    def rule(text: str) -> str | None:
        match = compiled.fullmatch(text)
        return None if match is None else replacement(match)

    return rule


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


RULES: Mapping[Language, Rules] = {
    "en": Rules(
        frames={
            "lead": _lead("In the video", "en"),
            "lead-this": _lead("In this video", "en"),
            "watch": _before("Watch the video."),
            "look": _before("Look at the road."),
            "time-first": _moved(
                r"((?:What|Which|How|Where|May|Is|Are|Does|Do)\b[^,]*) (at the (?:start|end|beginning))\?",
                lambda match: f"{_capital(match[2])}, {_small(match[1])}?",
            ),
            "time-last": _moved(
                r"(At the (?:start|end|beginning)), ((?:what|which|how|where|may|is|are|does|do)\b[^,]*)\?",
                lambda match: f"{_capital(match[2])} {_small(match[1])}?",
            ),
        },
        words=(
            ("colour", "color"), ("at the start", "at the beginning"), ("kind of", "type of"),
            ("lorry", "truck"), ("lorries", "trucks"), ("motorcycle", "motorbike"), ("motorcycles", "motorbikes"),
            ("traffic light", "traffic signal"), ("traffic lights", "traffic signals"), ("car park", "parking lot"),
            ("which way does", "in which direction does"), ("in this video", "in this clip"),
            ("in the video", "in the clip"), ("in the picture", "in the image"),
            ("how many cars do you see", "how many cars are there"),
            ("how many people do you see", "how many people are there"),
        ),
        answers=(
            ("yes", "yes, it is so"), ("no", "no, it is not so"), ("turn left", "turn to the left"),
            ("turn right", "turn to the right"), ("left", "to the left"), ("right", "to the right"),
            ("stops", "it stops"), ("straight", "straight on"), ("wait", "we wait"), ("go", "we go"),
            ("slow down", "we slow down"), ("no change", "it does not change"),
            ("person crosses", "a person crosses"), ("car leaves", "the car leaves"),
            ("light changes", "the light changes"),
        ),
    ),
    "vi": Rules(
        frames={
            "lead": _lead("Trong video", "vi"),
            "lead-this": _lead("Trong video này", "vi"),
            "watch": _before("Hãy xem video."),
            "tell": _before("Hãy cho biết:"),
            "time-last": _moved(
                r"(Lúc (?:đầu|cuối)) ([^,]*(?:gì|nào|sao))\?", lambda match: f"{_capital(match[2])} {_small(match[1])}?"
            ),
            "time-first": _moved(
                r"([^,]*(?:gì|nào|sao)) (lúc (?:đầu|cuối))\?", lambda match: f"{_capital(match[2])} {_small(match[1])}?"
            ),
        },
        words=(
            ("đèn giao thông", "đèn tín hiệu"), ("đèn tín hiệu", "đèn giao thông"), ("xe ô tô", "ô tô"),
            ("thế nào", "ra sao"), ("ra sao", "thế nào"), ("trong video", "trong đoạn video"),
            ("bãi đỗ xe", "chỗ đậu xe"), ("xuất hiện", "có mặt"), ("loại đường nào", "kiểu đường nào"),
            ("đi hướng nào", "đi về hướng nào"),
        ),
        answers=(
            ("có", "có, đúng vậy"), ("không", "không, sai"), ("rẽ trái", "rẽ sang trái"), ("rẽ phải", "rẽ sang phải"),
            ("trái", "bên trái"), ("phải", "bên phải"), ("đứng yên", "xe đứng yên"), ("chậm lại", "đi chậm lại"),
            ("không đổi", "đèn không đổi"), ("người qua đường", "có người qua đường"), ("chờ", "ta chờ"),
        ),
    ),
}  # fmt: skip


def say_otherwise(text: str, words: tuple[tuple[str, str], ...]) -> str:
    """`text` with each wording of `words` replaced by its equal, first letters kept as they were.

    One pass, the longest wording first: a replacement is not replaced again.
    """
    equal = dict(words)
    pattern = "|".join(re.escape(word) for word in sorted(equal, key=len, reverse=True))

    def other(match: re.Match[str]) -> str:
        replacement = equal[match[0].casefold()]
        return _capital(replacement) if match[0][:1].isupper() else replacement

    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", other, text, flags=re.IGNORECASE)


def answer_otherwise(text: str, answers: tuple[tuple[str, str], ...]) -> str | None:
    """The equal of a whole choice; None without one."""
    stripped = text.strip()
    bare = stripped.rstrip(".")
    replacement = dict(answers).get(bare.casefold())
    if replacement is None:
        return None
    return (_capital(replacement) if bare[:1].isupper() else replacement) + stripped[len(bare) :]
