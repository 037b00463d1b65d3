"""Exact questions about a scene, and the truth about a question asked of it."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import Field

from services.sandbox import words
from services.sandbox.scene import Scene, seed_of
from services.sandbox.words import Category, Language
from shared.schema import Frozen

#: The part of a clip that "at the end" speaks of.
_END: Final = 0.84
#: Signs that forbid or command, whatever a light says: no scene with one is asked "may we go".
_COMMANDS: Final = ("stop", "no_entry")
#: What traffic law makes of a light, and of a sign.
_LIGHT_SAYS: Final = {"red": "wait", "yellow": "slow", "green": "go"}
_SIGN_SAYS: Final = {
    "stop": "halt", "no_entry": "no_way", "crossing": "slow", "turn_left": "left", "turn_right": "right",
}  # fmt: skip


class SceneQuestion(Frozen):
    """A question on a scene. `answer` is an index into `choices`; `key` the option key it stands for."""

    kind: str
    category: Category
    language: Language
    text: str
    choices: tuple[str, ...] = Field(min_length=2, max_length=4)
    answer: int
    key: str


def questions(scene: Scene, language: Language) -> list[SceneQuestion]:
    """Every question that has an exact answer; the same choices in the same order in each language."""
    found = ((kind, answer(scene, kind)) for kind in words.POOLS)
    return [_ask(scene, kind, key, language) for kind, key in found if key is not None]


def _ask(scene: Scene, kind: str, key: str, language: Language) -> SceneQuestion:
    rng = np.random.default_rng(seed_of(scene.seed, kind))
    pool = [other for other in words.POOLS[kind] if other != key]
    size = int(rng.integers(2, min(4, len(pool) + 1) + 1))
    keys = [key, *(pool[int(i)] for i in rng.permutation(len(pool))[: size - 1])]
    keys = [keys[int(i)] for i in rng.permutation(size)]
    templates = words.TEMPLATES[kind][language]
    return SceneQuestion(
        kind=kind,
        category=words.CATEGORY_OF[kind],
        language=language,
        text=templates[int(rng.integers(len(templates)))],
        choices=tuple(words.phrase(other, language) for other in keys),
        answer=keys.index(key),
        key=key,
    )


def truth(scene: Scene, question_text: str, choice_texts: Sequence[str]) -> int | None:
    """Index of the right choice; None where the question is not the sandbox's or no choice, or two, are right."""
    kind = words.kind_of(question_text)
    key = answer(scene, kind) if kind is not None else None
    if kind is None or key is None:
        return None
    right = [i for i, text in enumerate(choice_texts) if words.key_of(text, words.POOLS[kind]) == key]
    return right[0] if len(right) == 1 else None


def answer(scene: Scene, kind: str) -> str | None:
    """The option key that answers `kind`; None where the scene does not settle it."""
    if kind in ("light_start", "light_end", "light_says", "light_end_says", "light_order"):
        return _of_light(scene, kind)
    if kind == "sign_says":
        return _SIGN_SAYS.get(scene.sign or "")
    if kind in ("speed", "sign"):
        pool = words.SPEEDS if kind == "speed" else words.SIGNS
        return scene.sign if scene.sign in pool else None
    if kind in ("car_colour", "car_way"):
        if len(scene.vehicles) != 1:
            return None
        return scene.vehicles[0].colour if kind == "car_colour" else scene.vehicles[0].move
    if kind in ("cars", "people"):
        return str(len(scene.vehicles if kind == "cars" else scene.people))
    if kind == "person_way":
        return scene.people[0].way if len(scene.people) == 1 else None
    return {"first": _first, "may_go": _may_go, "must_do": _must_do}[kind](scene)


def _of_light(scene: Scene, kind: str) -> str | None:
    light = scene.light
    if light is None:
        return None
    if kind == "light_order":
        return "no_change" if light.change is None else f"{light.start}_{light.end}"
    colour = light.start if kind in ("light_start", "light_says") else light.end
    return _LIGHT_SAYS[colour] if kind in ("light_says", "light_end_says") else colour


def _first(scene: Scene) -> str | None:
    moments: dict[str, float] = {}
    if scene.light is not None and scene.light.change is not None:
        moments["light_changes"] = scene.light.change
    if scene.people:
        moments["person_crosses"] = scene.people[0].steps_on(scene.camera.view)
    lead = scene.lead
    if lead is not None and lead.move in ("straight", "left", "right"):
        moments["car_moves"] = lead.go
    return min(moments, key=lambda name: moments[name]) if len(moments) > 1 else None


def _crossing_at_end(scene: Scene) -> bool | None:
    """True: somebody is on the road all through the clip's end; False: nobody is in view; None: between the two."""
    instants = [float(t) for t in np.linspace(_END * scene.seconds, scene.seconds, 8)]
    if not any(person.in_view(t) for person in scene.people for t in instants):
        return False
    on_road = all(any(person.on_road(scene.camera.view, t) for person in scene.people) for t in instants)
    return True if on_road else None


def _may_go(scene: Scene) -> str | None:
    """By the light at the end and who is on the crossing; unsettled at yellow, or behind a car that stands."""
    if scene.light is None or scene.light.end == "yellow" or scene.sign in _COMMANDS:
        return None
    if scene.light.end == "red":
        return "no"
    crossing, lead = _crossing_at_end(scene), scene.lead
    if crossing:
        return "no"
    blocked = lead is not None and lead.move in ("stops", "stands")
    return "yes" if crossing is False and not blocked else None


def _must_do(scene: Scene) -> str | None:
    if scene.light is not None and scene.light.end == "yellow" and scene.sign not in _COMMANDS:
        return "slow" if _crossing_at_end(scene) is False else None
    return {"yes": "go", "no": "wait", None: None}[_may_go(scene)]
