"""A traffic scene as data: what is in it, when it moves, and how scenes of one recording are drawn by lot."""

import hashlib
from typing import Final, Literal

import numpy as np
from pydantic import Field

from services.sandbox import words
from services.sandbox.draw import Style
from shared.schema import Frozen

FPS: Final = 10
#: Parts of a clip at which something begins. Eight sampled frames fall at 1/16, 3/16, …: each state
#: between two slots is seen by at least one of them, and lasts a second or more.
SLOTS: Final = (0.27, 0.50, 0.73)
NEXT_LIGHT: Final = {"red": "green", "green": "yellow", "yellow": "red"}
PERSON_GAP: Final = 48  #: pixels between people of a group
PERSON_FROM, PERSON_TO = -20.0, 404.0  #: columns where people enter and leave

View = Literal["ego", "top_down"]
ROAD_MIDDLE: Final = 192.0  #: column
HALF_ROAD: Final[dict[View, float]] = {"ego": 172.0, "top_down": 54.0}  #: pixels, where people cross
LightState = Literal["red", "yellow", "green"]
Colour = Literal["red", "yellow", "green", "blue", "white", "black"]


def _to_kerb(view: View) -> float:
    return ROAD_MIDDLE - HALF_ROAD[view] - PERSON_FROM


class Light(Frozen):
    """A traffic light that changes at most once, at `change` seconds."""

    start: LightState
    end: LightState
    change: float | None

    def at(self, t: float) -> LightState:
        """The state at `t` seconds."""
        return self.start if self.change is None or t < self.change else self.end


class Vehicle(Frozen):
    """A car. The lead car waits and leaves (straight, left, right) at `go`, or drives up and stops by then."""

    colour: Colour
    slot: Literal["lead", "left", "right"]
    move: Literal["straight", "left", "right", "stops", "stands"]
    go: float = 0.0  #: seconds


class Person(Frozen):
    """Someone who walks through the view, across the road, from `start` seconds on."""

    way: Literal["left", "right"]
    start: float  #: seconds at which they enter the view
    speed: float  #: pixels per second
    coat: int
    height: int  #: pixels

    def x(self, t: float) -> float:
        """Column of the person's middle at `t` seconds; before `start` outside the view."""
        gone = self.speed * (t - self.start)
        return PERSON_FROM + gone if self.way == "right" else PERSON_TO - gone

    def in_view(self, t: float) -> bool:
        """Whether any of the person can be seen at `t` seconds."""
        return PERSON_FROM < self.x(t) < PERSON_TO

    def on_road(self, view: View, t: float) -> bool:
        """Whether the person is between the kerbs at `t` seconds."""
        return abs(self.x(t) - ROAD_MIDDLE) < HALF_ROAD[view]

    def steps_on(self, view: View) -> float:
        """Seconds at which the person steps off the kerb."""
        return self.start + _to_kerb(view) / self.speed


class Camera(Frozen):
    """What all clips of a recording share besides their style."""

    view: View
    dx: int  #: jitter of sign and light, pixels
    dy: int
    sign_size: int
    lamp: int
    lanes: int
    zebra: bool


class Scene(Frozen):
    """All that is to be known of one clip."""

    version: Literal[1] = 1
    recording: str
    number: int  #: of the clip in its recording, from 1
    seed: int
    seconds: float = Field(ge=3, le=8)
    camera: Camera
    style: Style
    light: Light | None
    sign: str | None  #: one of words.SIGNS or words.SPEEDS
    vehicles: tuple[Vehicle, ...]
    people: tuple[Person, ...]

    @property
    def frames(self) -> int:
        """How many frames the clip has, at FPS."""
        return round(self.seconds * FPS)

    @property
    def lead(self) -> Vehicle | None:
        """The car in front, where there is one."""
        return next((vehicle for vehicle in self.vehicles if vehicle.slot == "lead"), None)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from its parts, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def recording(seed: int, split: str, index: int, clips: int) -> list[Scene]:
    """The scenes of one recording: one camera and style, `clips` different events."""
    name = f"{split.replace('_', '-')}-rec{index:03d}"
    rng = np.random.default_rng(seed_of(seed, split, index))
    camera, style = look(rng)
    fixed_sign = _sign(rng) if camera.view == "top_down" else None  # a camera on a pole sees one sign all day
    scenes = []
    for number in range(1, clips + 1):
        clip_seed = seed_of(seed, split, index, number)
        rng = np.random.default_rng(clip_seed)
        seconds = int(rng.integers(50, 65)) / FPS
        sign = _sign(rng) if camera.view == "ego" else fixed_sign
        light, vehicles, people = _events(rng, camera.view, seconds)
        scenes.append(
            Scene(
                recording=name,
                number=number,
                seed=clip_seed,
                seconds=seconds,
                camera=camera,
                style=style,
                light=light,
                sign=sign,
                vehicles=vehicles,
                people=people,
            )
        )
    return scenes


def look(rng: np.random.Generator) -> tuple[Camera, Style]:
    """A camera and a style, by lot."""
    return _camera(rng), _style(rng)


def _camera(rng: np.random.Generator) -> Camera:
    return Camera(
        view="ego" if rng.random() < 0.6 else "top_down",
        dx=int(rng.integers(-8, 9)),
        dy=int(rng.integers(-2, 4)),
        sign_size=int(rng.integers(82, 89)),
        lamp=int(rng.integers(21, 24)),
        lanes=int(rng.integers(2, 4)),
        zebra=bool(rng.random() < 0.8),
    )


#: Times of day: sky, and the light that falls on the ground.
_DAYS: Final[tuple[tuple[tuple[int, int, int], float], ...]] = (
    ((146, 190, 232), 1.0),
    ((188, 196, 204), 0.9),
    ((238, 178, 132), 0.8),
    ((58, 70, 112), 0.58),
)
_GROUNDS: Final = ((98, 128, 74), (140, 132, 98), (122, 122, 120), (86, 116, 92))


def _style(rng: np.random.Generator) -> Style:
    def near(colour: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
        red, green, blue = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)
        return red, green, blue

    sky, light = _DAYS[int(rng.integers(len(_DAYS)))]
    grey = int(rng.integers(78, 112))
    return Style(
        sky=near(sky, 10),
        ground=near(_GROUNDS[int(rng.integers(len(_GROUNDS)))], 12),
        road=near((grey, grey, grey + 4), 3),
        marking=near((222, 222, 214), 14),
        skyline=near((122, 128, 140), 20),
        light=round(light * float(rng.uniform(0.94, 1.06)), 3),
        grain=round(float(rng.uniform(2, 7)), 2),
        seed=int(rng.integers(2**31)),
    )


def _sign(rng: np.random.Generator) -> str | None:
    pool = (words.SPEEDS, words.SIGNS, ())[int(rng.choice(3, p=(0.45, 0.45, 0.1)))]
    return pool[int(rng.integers(len(pool)))] if pool else None


def _events(
    rng: np.random.Generator, view: View, seconds: float
) -> tuple[Light | None, tuple[Vehicle, ...], tuple[Person, ...]]:
    cars = int(rng.choice(4, p=(0.19, 0.51, 0.15, 0.15)))
    walkers = int(rng.choice(4, p=(0.40, 0.32, 0.14, 0.14)))
    move = words.MOVES[int(rng.integers(len(words.MOVES)))]
    light_slot, car_slot, walk_slot = (int(i) for i in rng.permutation(3))
    if walkers > 1 and walk_slot == 2:  # a group needs time to come into view
        light_slot, walk_slot = walk_slot, light_slot
    over_the_zebra = (view == "top_down" and move == "straight") or (view == "ego" and move == "stops")
    if walkers and cars == 1 and over_the_zebra and car_slot > walk_slot:  # nobody is run over
        car_slot, walk_slot = walk_slot, car_slot

    def moment(slot: int) -> float:
        return round(seconds * (SLOTS[slot] + float(rng.uniform(-0.015, 0.015))), 2)

    free = not walkers and (cars == 0 or (cars == 1 and move != "stops"))
    light = _light(rng, moment(light_slot), free=free) if rng.random() < 0.85 else None
    vehicles = _vehicles(rng, cars, move, moment(car_slot))
    return light, vehicles, _people(rng, view, walkers, moment(walk_slot))


def _light(rng: np.random.Generator, change: float, *, free: bool) -> Light:
    # Of the few scenes with a free road more end green, else "may we go" would nearly always be "no".
    odds = (0.7, 0.1, 0.2) if free else (1 / 3, 1 / 3, 1 / 3)
    start: LightState = words.LIGHTS[int(rng.choice(3, p=odds))]
    if rng.random() < 0.25:
        return Light(start=start, end=start, change=None)
    return Light.model_validate({"start": start, "end": NEXT_LIGHT[start], "change": change})


def _vehicles(rng: np.random.Generator, cars: int, move: str, go: float) -> tuple[Vehicle, ...]:
    colours = [words.VEHICLE_COLOURS[int(i)] for i in rng.permutation(len(words.VEHICLE_COLOURS))]
    if cars == 1:
        return (Vehicle.model_validate({"colour": colours[0], "slot": "lead", "move": move, "go": go}),)
    slots = [("lead", "left", "right")[int(i)] for i in rng.permutation(3)[:cars]]
    rows = [{"colour": c, "slot": slot, "move": "stands"} for c, slot in zip(colours, slots, strict=False)]
    return tuple(Vehicle.model_validate(row) for row in rows)


def _people(rng: np.random.Generator, view: View, count: int, steps_on: float) -> tuple[Person, ...]:
    way: Literal["left", "right"] = "left" if rng.random() < 0.5 else "right"
    speed = round(float(rng.uniform(140, 165) if view == "ego" else rng.uniform(90, 110)), 1)
    start = steps_on - _to_kerb(view) / speed
    height = int(rng.integers(60, 69)) if view == "ego" else int(rng.integers(56, 61))
    coats = rng.permutation(4)
    return tuple(
        Person(
            way=way,
            start=round(start + rank * PERSON_GAP / speed, 3),
            speed=speed,
            coat=int(coats[rank]),
            height=height,
        )
        for rank in range(count)
    )
