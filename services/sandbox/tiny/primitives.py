"""What the tiny model is pre-trained on: a few sprites on a plain ground or an empty road, and what each cell shows.

Sprites and roads are the sandbox's (`services/sandbox/draw.py`), but no scene is: things stand anywhere, on any
ground, and move evenly; nothing has been through a video codec. The colour of a car, and how many cars and people
there are, are asked about in words alone, never with choices (`SPOKEN`); an order of two things, a judgement, and
what a light or a sign asks of a driver are never asked about (`KINDS` lacks them).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from services.sandbox import draw, words
from services.sandbox.render import ground
from services.sandbox.scene import PERSON_GAP, look, seed_of

FRAMES: Final = 8
PATCHES: Final = 4  #: temporal patches, two frames each
COLUMNS: Final = 3
ROWS: Final = 2
CELL: Final = 128  #: drawn pixels on a side of the square that becomes one visual token
REDUCE: Final = 4  #: drawn pixels to a pixel the model sees

#: Kinds of question asked with choices in pre-training, with how often; the other kinds are left for fine-tuning.
KINDS: Final[dict[str, float]] = {
    "light_start": 1.0,
    "light_end": 1.0,
    "speed": 1.0,
    "sign": 1.0,
    "car_way": 1.0,
    "person_way": 1.0,
}
#: Kinds asked in the last round too, to be answered in words.
SPOKEN: Final[dict[str, float]] = {"car_colour": 1.0, "cars": 0.5, "people": 0.5}
ROADS: Final = 192  #: empty roads, drawn once: one costs more than all else in a clip
ON_A_ROAD: Final = 0.6  #: share of clips
_SIGN_WORDS: Final = {
    "stop": ("sign", "stop"),
    "no_entry": ("sign", "no", "entry"),
    "crossing": ("sign", "crossing"),
    "turn_left": ("sign", "turn", "left"),
    "turn_right": ("sign", "turn", "right"),
}


class Spot(NamedTuple):
    """A sprite with its middle at (x, y)."""

    sprite: Image.Image
    x: float
    y: float


class Thing(NamedTuple):
    """A sprite through the clip: where it is in each frame, and the words for it in each temporal patch."""

    spots: list[Spot]
    words: list[tuple[str, ...]]
    facts: dict[str, str]  #: question kind → option key


class Primitive(NamedTuple):
    """A clip of things. `cells[p][c]` are the words for what cell c (row by row) shows in temporal patch p."""

    seconds: float
    ground: Image.Image
    things: list[Thing]
    cells: list[list[tuple[str, ...]]]
    facts: dict[str, str]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """All frames [8, 64, 96, 3] uint8, with a little noise."""
        return self._drawn(rng, range(FRAMES))

    def draw_patch(self, rng: np.random.Generator, patch: int) -> np.ndarray:
        """The two frames [2, 64, 96, 3] of one temporal patch."""
        return self._drawn(rng, range(2 * patch, 2 * patch + 2))

    def _drawn(self, rng: np.random.Generator, indices: range) -> np.ndarray:
        frames = np.empty((len(indices), draw.HEIGHT // REDUCE, draw.WIDTH // REDUCE, 3), np.uint8)
        noise = rng.normal(0, rng.uniform(0, 5), frames.shape[1:])
        for place, index in enumerate(indices):
            canvas = self.ground.copy()
            for thing in self.things:
                draw.paste(canvas, *thing.spots[index])
            frames[place] = (np.asarray(canvas.reduce(REDUCE), np.float32) + noise).clip(0, 255)
        return frames


def primitive(rng: np.random.Generator) -> Primitive:
    """One to four things drawn by lot; there is at least one question with choices to ask of them."""
    things: list[Thing] = []
    while not KINDS.keys() & (facts := _facts(things)).keys():
        makers = [_MAKERS[int(i)] for i in rng.permutation(len(_MAKERS))]
        makers = makers[: int(rng.choice((1, 2, 3), p=(0.3, 0.4, 0.3)))] + [_car] * int(rng.choice(2, p=(0.7, 0.3)))
        columns = [*rng.permutation(COLUMNS), int(rng.integers(COLUMNS))]
        things = [make(rng, int(column)) for make, column in zip(makers, columns, strict=False)]
    things = [things[int(i)] for i in rng.permutation(len(things))]
    return Primitive(
        seconds=round(float(rng.uniform(3.8, 8.0)), 1),
        ground=_ground(rng),
        things=things,
        cells=_cells(things),
        facts=facts,
    )


def _facts(things: list[Thing]) -> dict[str, str]:
    """What can be asked: of two cars, neither is "the car"."""
    told = [fact for thing in things for fact in thing.facts.items()]
    often = Counter(kind for kind, _ in told)
    counts = {"cars": str(sum(thing.words[0][0] == "car" for thing in things)), "people": "0"}
    return counts | {kind: key for kind, key in told if often[kind] == 1}


def _ground(rng: np.random.Generator) -> Image.Image:
    if rng.random() < ON_A_ROAD:
        return _road(int(rng.integers(ROADS)))
    tint = rng.integers(40, 236, 3) if rng.random() < 0.5 else np.full(3, rng.integers(50, 210))
    return Image.new("RGB", (draw.WIDTH, draw.HEIGHT), tuple(int(value) for value in tint))


@lru_cache(maxsize=ROADS)
def _road(index: int) -> Image.Image:
    return ground(*look(np.random.default_rng(seed_of("road", index))))


def _cells(things: list[Thing]) -> list[list[tuple[str, ...]]]:
    return [
        [
            tuple(w for thing in things if cell in _covered(thing, patch) for w in thing.words[patch])
            for cell in range(6)
        ]
        for patch in range(PATCHES)
    ]


def _covered(thing: Thing, patch: int) -> set[int]:
    """Cells that hold a good part of the thing in one of the patch's two frames."""
    found: set[int] = set()
    for spot in thing.spots[2 * patch : 2 * patch + 2]:
        wide, high = spot.sprite.size
        for cell in range(COLUMNS * ROWS):
            column, row = cell % COLUMNS * CELL, cell // COLUMNS * CELL
            across = min(spot.x + wide / 2, column + CELL) - max(spot.x - wide / 2, column)
            down = min(spot.y + high / 2, row + CELL) - max(spot.y - high / 2, row)
            if across > 0 and down > 0 and across * down > 0.3 * wide * high:
                found.add(cell)
    return found


def _place(rng: np.random.Generator, column: int) -> tuple[float, float]:
    """Well inside a cell: signs and lights."""
    row = int(rng.integers(ROWS))
    return column * CELL + float(rng.uniform(38, 90)), row * CELL + float(rng.uniform(44, 84))


def _anywhere(rng: np.random.Generator, column: int) -> tuple[float, float]:
    """Across cells too: what moves."""
    return column * CELL + float(rng.uniform(0, CELL)), float(rng.uniform(36, 220))


def _light(rng: np.random.Generator, column: int) -> Thing:
    x, y = _place(rng, column)
    lamp, start = int(rng.integers(6, 10)) * 3, str(rng.choice(words.LIGHTS))
    end, change = start, FRAMES
    if rng.random() < 0.6:
        end, change = str(rng.choice([s for s in words.LIGHTS if s != start])), int(rng.integers(1, PATCHES)) * 2
    states = [start if index < change else end for index in range(FRAMES)]
    spots = [Spot(draw.traffic_light(state, lamp), x, y) for state in states]
    return Thing(spots, [("light", states[2 * p]) for p in range(PATCHES)], {"light_start": start, "light_end": end})


def _sign(rng: np.random.Generator, column: int) -> Thing:
    x, y = _place(rng, column)
    size = int(rng.integers(9, 13)) * 8
    if rng.random() < 0.45:
        key = str(rng.choice(words.SPEEDS))
        return Thing([Spot(draw.speed_sign(key, size), x, y)] * FRAMES, [("sign", key)] * PATCHES, {"speed": key})
    key = str(rng.choice(words.SIGNS))
    return Thing([Spot(draw.road_sign(key, size), x, y)] * FRAMES, [_SIGN_WORDS[key]] * PATCHES, {"sign": key})


def _car(rng: np.random.Generator, column: int) -> Thing:
    """A car from behind, from the side or from above, that moves evenly, or stands."""
    colour, move = str(rng.choice(words.VEHICLE_COLOURS)), str(rng.choice(words.MOVES))
    x, y = _anywhere(rng, column)
    size = int(rng.integers(4, 8)) * 16
    speed = float(rng.uniform(14, 46))  # drawn pixels a frame
    dx, dy = {"left": (-speed, 0.0), "right": (speed, 0.0), "straight": (0.0, -speed / 2), "stops": (0.0, 0.0)}[move]
    middle = float(rng.uniform(2, 5))
    above = rng.random() < 0.5
    spots = []
    for index in range(FRAMES):
        gone = index - middle
        if above:
            sprite = draw.car_above(colour, {"left": 180, "right": 0}.get(move, 90), min(size, 80))
        elif move in ("left", "right"):
            sprite = draw.car_side(colour, size, move)
        else:
            shrunk = size - (4 * index if move == "straight" else 0)
            sprite = draw.car_rear(colour, max(24, shrunk), braking=move == "stops")
        spots.append(Spot(sprite, x + dx * gone, y + dy * gone))
    return Thing(spots, [("car", colour, move)] * PATCHES, {"car_way": move, "car_colour": colour})


def _people(rng: np.random.Generator, column: int) -> Thing:
    """One to three people who walk together."""
    x, y = _anywhere(rng, column)
    count = int(rng.choice((1, 2, 3), p=(0.6, 0.2, 0.2)))
    way, height = str(rng.choice(("left", "right"))), int(rng.integers(7, 10)) * 8
    coats = [int(coat) for coat in rng.permutation(4)[:count]]
    speed = float(rng.uniform(30, 130)) * (1 if way == "right" else -1)
    middle = float(rng.uniform(1, 6))
    spots = [Spot(_group(coats, height, i % 4), x + speed * (i - middle), y) for i in range(FRAMES)]
    facts = {"people": str(count)} | ({"person_way": way} if count == 1 else {})
    return Thing(spots, [("person", way, str(count))] * PATCHES, facts)


def _group(coats: list[int], height: int, step: int) -> Image.Image:
    """People side by side."""
    people = [draw.person(coat, height, step) for coat in coats]
    group = Image.new("RGBA", (people[0].width + PERSON_GAP * (len(people) - 1), height))
    for place, one in enumerate(people):
        group.paste(one, (place * PERSON_GAP, 0))
    return group


_MAKERS: Final[tuple[Callable[[np.random.Generator, int], Thing], ...]] = (_light, _sign, _car, _people)

#: Every word a cell can be described with: the visual tokens are aligned to these words' embeddings.
CELL_WORDS: Final = tuple(
    sorted(
        {"light", "car", "person", "1", "2", "3", *words.SPEEDS, *words.VEHICLE_COLOURS, *words.MOVES}
        | {word for parts in _SIGN_WORDS.values() for word in parts}
    )
)


class Asked(NamedTuple):
    """A question on a primitive. `answer` is a letter, or the phrase itself where no choices are given."""

    text: str
    choices: tuple[str, ...]
    answer: int
    phrase: str
    kind: str


def ask(
    rng: np.random.Generator, facts: dict[str, str], vietnamese: float, kinds: Mapping[str, float] = KINDS
) -> Asked:
    """One question of these kinds on `facts`, choices shuffled; in Vietnamese for the share `vietnamese`."""
    open_to = [kind for kind in kinds if kind in facts]
    weights = np.array([kinds[kind] for kind in open_to])
    kind = open_to[int(rng.choice(len(open_to), p=weights / weights.sum()))]
    language: words.Language = "vi" if rng.random() < vietnamese else "en"
    pool = [key for key in words.POOLS[kind] if key != facts[kind]]
    size = int(rng.integers(2, min(4, len(pool) + 1) + 1))
    keys = [facts[kind], *(pool[int(i)] for i in rng.permutation(len(pool))[: size - 1])]
    keys = [keys[int(i)] for i in rng.permutation(size)]
    templates = words.TEMPLATES[kind][language]
    phrases = tuple(words.phrase(key, language) for key in keys)
    answer = keys.index(facts[kind])
    return Asked(templates[int(rng.integers(len(templates)))], phrases, answer, phrases[answer], kind)
