"""Every word the sandbox asks with: question templates and option phrases, in English and Vietnamese."""

import unicodedata
from collections.abc import Collection
from typing import Final, Literal

Language = Literal["en", "vi"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "vi")

Category = Literal[
    "lights_and_signs", "traffic_rules", "vehicle_colour", "counting", "direction", "order_of_events", "may_i_go"
]
CATEGORIES: Final[tuple[Category, ...]] = (
    "lights_and_signs",
    "traffic_rules",
    "vehicle_colour",
    "counting",
    "direction",
    "order_of_events",
    "may_i_go",
)

LIGHTS: Final = ("red", "yellow", "green")
VEHICLE_COLOURS: Final = ("red", "yellow", "green", "blue", "white", "black")
SPEEDS: Final = ("20", "40", "70", "100")
SIGNS: Final = ("stop", "no_entry", "crossing", "turn_left", "turn_right")
MOVES: Final = ("straight", "left", "right", "stops")

#: option key → its phrase in each language. A phrase belongs to one key only.
OPTIONS: Final[dict[str, dict[Language, str]]] = {
    "red": {"en": "red", "vi": "đỏ"},
    "yellow": {"en": "yellow", "vi": "vàng"},
    "green": {"en": "green", "vi": "xanh lá"},
    "blue": {"en": "blue", "vi": "xanh dương"},
    "white": {"en": "white", "vi": "trắng"},
    "black": {"en": "black", "vi": "đen"},
    "20": {"en": "20", "vi": "20"},
    "40": {"en": "40", "vi": "40"},
    "70": {"en": "70", "vi": "70"},
    "100": {"en": "100", "vi": "100"},
    "stop": {"en": "stop", "vi": "dừng lại"},
    "no_entry": {"en": "no entry", "vi": "cấm đi vào"},
    "crossing": {"en": "crossing", "vi": "người đi bộ"},
    "turn_left": {"en": "turn left", "vi": "rẽ trái"},
    "turn_right": {"en": "turn right", "vi": "rẽ phải"},
    "0": {"en": "0", "vi": "0"},
    "1": {"en": "1", "vi": "1"},
    "2": {"en": "2", "vi": "2"},
    "3": {"en": "3", "vi": "3"},
    "left": {"en": "left", "vi": "trái"},
    "right": {"en": "right", "vi": "phải"},
    "straight": {"en": "straight", "vi": "đi thẳng"},
    "stops": {"en": "stops", "vi": "đứng yên"},
    "red_green": {"en": "red then green", "vi": "đỏ rồi xanh lá"},
    "green_yellow": {"en": "green then yellow", "vi": "xanh lá rồi vàng"},
    "yellow_red": {"en": "yellow then red", "vi": "vàng rồi đỏ"},
    "no_change": {"en": "no change", "vi": "không đổi"},
    "light_changes": {"en": "light changes", "vi": "đèn đổi màu"},
    "person_crosses": {"en": "person crosses", "vi": "người qua đường"},
    "car_moves": {"en": "car leaves", "vi": "xe rời đi"},
    "yes": {"en": "yes", "vi": "có"},
    "no": {"en": "no", "vi": "không"},
    "go": {"en": "go", "vi": "đi"},
    "wait": {"en": "wait", "vi": "chờ"},
    "slow": {"en": "slow down", "vi": "chậm lại"},
    "halt": {"en": "stop then go", "vi": "dừng rồi đi"},
    "no_way": {"en": "no way in", "vi": "không đi vào"},
}

#: question kind → the option keys its choices are drawn from.
POOLS: Final[dict[str, tuple[str, ...]]] = {
    "light_start": LIGHTS,
    "light_end": LIGHTS,
    "light_says": ("go", "wait", "slow"),
    "light_end_says": ("go", "wait", "slow"),
    "speed": SPEEDS,
    "sign": SIGNS,
    "sign_says": ("halt", "no_way", "slow", "left", "right"),
    "car_colour": VEHICLE_COLOURS,
    "cars": ("0", "1", "2", "3"),
    "people": ("0", "1", "2", "3"),
    "car_way": MOVES,
    "person_way": ("left", "right"),
    "light_order": ("red_green", "green_yellow", "yellow_red", "no_change"),
    "first": ("light_changes", "person_crosses", "car_moves"),
    "may_go": ("yes", "no"),
    "must_do": ("go", "wait", "slow"),
}

CATEGORY_OF: Final[dict[str, Category]] = {
    "light_start": "lights_and_signs",
    "light_end": "lights_and_signs",
    "light_says": "traffic_rules",
    "light_end_says": "traffic_rules",
    "speed": "lights_and_signs",
    "sign": "lights_and_signs",
    "sign_says": "traffic_rules",
    "car_colour": "vehicle_colour",
    "cars": "counting",
    "people": "counting",
    "car_way": "direction",
    "person_way": "direction",
    "light_order": "order_of_events",
    "first": "order_of_events",
    "may_go": "may_i_go",
    "must_do": "may_i_go",
}

#: question kind → the ways it is asked. A text belongs to one kind only.
TEMPLATES: Final[dict[str, dict[Language, tuple[str, ...]]]] = {
    "light_start": {
        "en": ("What colour is the light at the start?", "At the start, which colour is the light?"),
        "vi": ("Lúc đầu đèn màu gì?", "Đèn giao thông màu gì lúc đầu?"),
    },
    "light_end": {
        "en": ("What colour is the light at the end?", "At the end, which colour is the light?"),
        "vi": ("Lúc cuối đèn màu gì?", "Đèn giao thông màu gì lúc cuối?"),
    },
    "light_says": {
        "en": ("What does the light say at the start?", "At the start, what does the light ask of us?"),
        "vi": ("Lúc đầu đèn báo ta làm gì?", "Theo đèn lúc đầu ta phải làm gì?"),
    },
    "light_end_says": {
        "en": ("What does the light say at the end?", "At the end, what does the light ask of us?"),
        "vi": ("Lúc cuối đèn báo ta làm gì?", "Theo đèn lúc cuối ta phải làm gì?"),
    },
    "speed": {
        "en": ("What is the speed limit?", "Which speed limit is on the sign?"),
        "vi": ("Tốc độ tối đa là bao nhiêu?", "Biển báo ghi tốc độ bao nhiêu?"),
    },
    "sign": {
        "en": ("What does the sign say?", "Which sign is on the road?"),
        "vi": ("Biển báo có nghĩa gì?", "Trên đường có biển báo gì?"),
    },
    "sign_says": {
        "en": ("What must we do at the sign?", "What does the sign ask of us?"),
        "vi": ("Gặp biển báo ta phải làm gì?", "Theo biển báo ta nên làm gì?"),
    },
    "car_colour": {
        "en": ("What colour is the car?", "Which colour is the car in front?"),
        "vi": ("Xe màu gì?", "Xe phía trước màu gì?"),
    },
    "cars": {
        "en": ("How many cars are on the road?", "How many cars do you see?"),
        "vi": ("Có bao nhiêu xe trên đường?", "Bạn thấy bao nhiêu xe?"),
    },
    "people": {
        "en": ("How many people cross the road?", "How many people do you see?"),
        "vi": ("Có bao nhiêu người qua đường?", "Bạn thấy bao nhiêu người?"),
    },
    "car_way": {
        "en": ("Which way does the car go?", "Where does the car in front go?"),
        "vi": ("Xe đi hướng nào?", "Xe phía trước đi hướng nào?"),
    },
    "person_way": {
        "en": ("Which way does the person walk?", "Where does the person walk to?"),
        "vi": ("Người đi bộ đi hướng nào?", "Người đi bộ sang bên nào?"),
    },
    "light_order": {
        "en": ("How does the light change?", "Which change of the light do you see?"),
        "vi": ("Đèn đổi màu thế nào?", "Bạn thấy đèn đổi màu ra sao?"),
    },
    "first": {
        "en": ("What happens first?", "Which is first in the video?"),
        "vi": ("Việc gì xảy ra trước?", "Việc nào có trước trong video?"),
    },
    "may_go": {
        "en": ("May we go at the end?", "At the end, may we drive on?"),
        "vi": ("Lúc cuối ta được đi không?", "Ta có được đi tiếp lúc cuối không?"),
    },
    "must_do": {
        "en": ("What must we do at the end?", "At the end, what should we do?"),
        "vi": ("Lúc cuối ta phải làm gì?", "Ta nên làm gì lúc cuối?"),
    },
}


def phrase(key: str, language: Language) -> str:
    """The option phrase for `key`."""
    return OPTIONS[key][language]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().casefold()


def key_of(text: str, pool: tuple[str, ...]) -> str | None:
    """The key in `pool` whose phrase, in any language, is `text`; None where there is none."""
    wanted = _plain(text)
    return next((key for key in pool if wanted in (OPTIONS[key]["en"], OPTIONS[key]["vi"])), None)


def kind_of(question: str) -> str | None:
    """The question kind that `question` is a template of, in any language; None where it is none's."""
    wanted = _plain(question)
    for kind, by_language in TEMPLATES.items():
        if any(wanted == _plain(text) for texts in by_language.values() for text in texts):
            return kind
    return None


def all_texts(kinds: Collection[str] = POOLS.keys()) -> list[str]:
    """Every template and option phrase of these kinds once, sorted: what a sandbox tokenizer is trained on."""
    templates = {text for kind in kinds for texts in TEMPLATES[kind].values() for text in texts}
    return sorted(templates | {text for kind in kinds for key in POOLS[kind] for text in OPTIONS[key].values()})
