"""What the sandbox's teacher rewrites questions with: other words for each of its own, and slips at a set rate.

The words are known, so that what a rewritten question asks, and which choice is right, can be told exactly.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.sandbox import words
from services.sandbox.questions import answer
from services.sandbox.scene import Scene
from services.sandbox.words import LANGUAGES, Language

#: question kind → other ways to ask it.
QUESTIONS: Final[dict[str, dict[Language, tuple[str, ...]]]] = {
    "light_start": {
        "en": ("Which colour does the light show at the start?", "At the beginning, the light has what colour?"),
        "vi": ("Lúc đầu đèn có màu nào?", "Đèn mang màu gì lúc đầu?"),
    },
    "light_end": {
        "en": ("Which colour does the light show at the end?", "At the end, the light has what colour?"),
        "vi": ("Lúc cuối đèn có màu nào?", "Đèn mang màu gì lúc cuối?"),
    },
    "light_says": {
        "en": ("What are we told by the light at the start?", "At the beginning, the light tells us to do what?"),
        "vi": ("Lúc đầu đèn bảo ta thế nào?", "Đèn lúc đầu yêu cầu ta làm gì?"),
    },
    "light_end_says": {
        "en": ("What are we told by the light at the end?", "At the end, the light tells us to do what?"),
        "vi": ("Lúc cuối đèn bảo ta thế nào?", "Đèn lúc cuối yêu cầu ta làm gì?"),
    },
    "speed": {
        "en": ("Which speed limit applies here?", "What limit is set for our speed?"),
        "vi": ("Tốc độ tối đa ở đây là mấy?", "Con số tốc độ ghi ở biển báo là mấy?"),
    },
    "sign": {
        "en": ("Which message does the sign give?", "What is to be read from the sign?"),
        "vi": ("Biển báo cho biết điều gì?", "Biển báo nói gì?"),
    },
    "sign_says": {
        "en": ("What are we told by the sign?", "The sign tells us to do what?"),
        "vi": ("Biển báo bảo ta thế nào?", "Biển báo yêu cầu ta làm gì?"),
    },
    "car_colour": {
        "en": ("Which colour does the car have?", "The car is of what colour?"),
        "vi": ("Chiếc xe có màu nào?", "Màu của xe là gì?"),
    },
    "cars": {
        "en": ("What is the number of cars on the road?", "Count the cars: how many are there?"),
        "vi": ("Số xe trên đường là bao nhiêu?", "Trên đường có mấy xe?"),
    },
    "people": {
        "en": ("What is the number of people who cross the road?", "How many persons go across the road?"),
        "vi": ("Số người qua đường là bao nhiêu?", "Có mấy người băng qua đường?"),
    },
    "car_way": {
        "en": ("In which direction does the car move?", "What way does the car take?"),
        "vi": ("Xe chạy về hướng nào?", "Hướng đi của xe là gì?"),
    },
    "person_way": {
        "en": ("In which direction does the person walk?", "To which side does the person go?"),
        "vi": ("Người đi bộ đi về phía nào?", "Người đi bộ bước sang bên nào?"),
    },
    "light_order": {
        "en": ("In what way does the light change?", "Which change does the light make?"),
        "vi": ("Đèn chuyển màu ra sao?", "Màu đèn thay đổi thế nào?"),
    },
    "first": {
        "en": ("Which event comes first?", "What is the first thing that happens?"),
        "vi": ("Điều gì diễn ra trước?", "Sự việc nào đến trước?"),
    },
    "may_go": {
        "en": ("At the end, may we go on?", "Is it so that we may go at the end?"),
        "vi": ("Lúc cuối ta có được phép đi không?", "Ta được đi lúc cuối không?"),
    },
    "must_do": {
        "en": ("What is it that we must do at the end?", "At the end, what must we do?"),
        "vi": ("Ta phải làm gì lúc cuối?", "Việc ta phải làm lúc cuối là gì?"),
    },
}

#: option key → another phrase for it.
OPTIONS: Final[dict[str, dict[Language, str]]] = {
    **{colour: {"en": f"the colour {colour}", "vi": f"màu {words.phrase(colour, 'vi')}"}
       for colour in words.VEHICLE_COLOURS},
    **{speed: {"en": f"it says {speed}", "vi": f"ghi số {speed}"} for speed in words.SPEEDS},
    **{count: {"en": f"a count of {count}", "vi": f"số lượng {count}"} for count in words.POOLS["cars"]},
    "stop": {"en": "the stop sign", "vi": "biển dừng lại"},
    "no_entry": {"en": "the no entry sign", "vi": "biển cấm đi vào"},
    "crossing": {"en": "the crossing sign", "vi": "biển người đi bộ"},
    "turn_left": {"en": "a turn to the left", "vi": "rẽ sang trái"},
    "turn_right": {"en": "a turn to the right", "vi": "rẽ sang phải"},
    "left": {"en": "to the left", "vi": "sang trái"},
    "right": {"en": "to the right", "vi": "sang phải"},
    "straight": {"en": "straight on", "vi": "chạy thẳng"},
    "stops": {"en": "it stops", "vi": "xe đứng yên"},
    "red_green": {"en": "red and then green", "vi": "đỏ và rồi xanh lá"},
    "green_yellow": {"en": "green and then yellow", "vi": "xanh lá và rồi vàng"},
    "yellow_red": {"en": "yellow and then red", "vi": "vàng và rồi đỏ"},
    "no_change": {"en": "it does not change", "vi": "đèn không đổi"},
    "light_changes": {"en": "the light changes", "vi": "đèn đổi sang màu khác"},
    "person_crosses": {"en": "a person crosses", "vi": "có người qua đường"},
    "car_moves": {"en": "the car leaves", "vi": "chiếc xe rời đi"},
    "yes": {"en": "yes, it is so", "vi": "có, đúng vậy"},
    "no": {"en": "no, it is not so", "vi": "không, sai"},
    "go": {"en": "we go", "vi": "ta đi"},
    "wait": {"en": "we wait", "vi": "ta chờ"},
    "slow": {"en": "we slow down", "vi": "ta chậm lại"},
    "halt": {"en": "we stop and then go", "vi": "ta dừng rồi mới đi"},
    "no_way": {"en": "we may not go in", "vi": "ta không được đi vào"},
}  # fmt: skip

SCENARIOS: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("A driver looks at a dashcam video.", "An examiner shows a traffic video.", "Somebody films the traffic."),
    "vi": (
        "Tài xế xem đoạn phim hành trình.",
        "Giám khảo cho xem đoạn phim giao thông.",
        "Có người quay cảnh đường phố.",
    ),
}

#: A slip may ask one of these for the other: their choices fit both.
_TAKEN_FOR: Final = {
    "light_start": "light_end", "light_end": "light_start", "cars": "people", "people": "cars",
    "car_way": "person_way", "person_way": "car_way",
}  # fmt: skip
_TURNED_ROUND: Final[dict[Language, str]] = {"en": "Which is not right:", "vi": "Điều nào không đúng:"}


class Meaning(NamedTuple):
    """What a question asks, and what its choices say: None where it is not the sandbox's."""

    kind: str | None
    keys: tuple[str | None, ...]


def meaning(text: str, choices: Sequence[str]) -> Meaning:
    """By the sandbox's own words or their paraphrases, after whatever scenario."""
    kind = _kind(text)
    pool = words.POOLS[kind] if kind else ()
    return Meaning(kind, tuple(_key(choice, pool) for choice in choices))


def right(scene: Scene, text: str, choices: Sequence[str]) -> int | None:
    """Index of the right choice; None where nothing, or two things, are right."""
    kind, keys = meaning(text, choices)
    key = answer(scene, kind) if kind else None
    places = [place for place, said in enumerate(keys) if key is not None and said == key]
    return places[0] if len(places) == 1 else None


def _kind(text: str) -> str | None:
    bare = text.strip()
    for scenario in (scenario for language in LANGUAGES for scenario in SCENARIOS[language]):
        bare = bare.removeprefix(scenario).strip()
    own = words.kind_of(bare)
    other = (kind for kind, said in QUESTIONS.items() if any(bare in said[language] for language in LANGUAGES))
    return own or next(other, None)


def _key(text: str, pool: Sequence[str]) -> str | None:
    own = words.key_of(text, tuple(pool))
    return own or next((key for key in pool if text.strip() in OPTIONS[key].values()), None)


def rewrite(
    text: str, choices: Sequence[str], wanted: set[str], slips: float, draw: random.Random
) -> dict[str, object]:
    """The part that is wanted (`question`, `situation` and `question`, or `choices`) in other words.

    With probability `slips` its meaning is lost on the way.
    """
    kind, keys = meaning(text, choices)
    if kind is None or None in keys:
        return {"question": text, "situation": "", "choices": list(choices)}
    language: Language = "vi" if re.search(r"[^\x00-\x7f]", text) else "en"
    slip = draw.random() < slips
    if "choices" in wanted:
        said = [OPTIONS[key][language] for key in keys if key is not None]
        return {"choices": _slipped(said, draw) if slip else said}
    asked = draw.choice(QUESTIONS[kind][language])
    if slip and kind in _TAKEN_FOR:
        asked = draw.choice(QUESTIONS[_TAKEN_FOR[kind]][language])
    elif slip:
        asked = f"{_TURNED_ROUND[language]} {asked}"
    return {"question": asked, **({"situation": draw.choice(SCENARIOS[language])} if "situation" in wanted else {})}


def _slipped(said: list[str], draw: random.Random) -> list[str]:
    """Two choices change places, or one becomes another."""
    one, other = draw.sample(range(len(said)), 2)
    mixed = list(said)
    mixed[one] = said[other]
    if draw.random() < 0.6:
        mixed[other] = said[one]
    return mixed


def compare(
    old: tuple[str, Sequence[str]], new: tuple[str, Sequence[str]], place: int, errs: float, draw: random.Random
) -> dict[str, object]:
    """Whether `new` asks what `old` does, and which of its choices is the old one at `place`; wrong at a rate."""
    before, after = meaning(*old), meaning(*new)
    wanted = before.keys[place]
    found = [index for index, key in enumerate(after.keys) if key is not None and key == wanted]
    same = before.kind == after.kind is not None and Counter(before.keys) == Counter(after.keys)
    if draw.random() < errs:
        same = not same
    told = "none" if same else f"{old[0]} / {new[0]}"
    return {"differences": told, "answer": (found[0] if found else 0) + 1, "same": same}
