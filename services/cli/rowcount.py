"""How many rows a step of a pipeline may see, and how long the longest is, before the steps ahead of it have run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from services.cli.ground import Found
from services.cli.memory import Load
from shared.budget import TEMPORAL_PATCH, VideoBudget, clip_tokens
from shared.contracts import AugmentRecipe, Portion, Source, TrainRecipe, source
from shared.prices import CHARS_PER_TOKEN
from shared.prompts import render, system_text
from shared.schema import Clip, Question

#: Tokens of the chat's own marks, and of a temporal patch's (its time, where its vision starts and ends).
CHAT, PATCH = 20, 10
WORDS = 200  #: tokens left to a question where none is known
_UNCAPPED = {"tokens_per_patch": 16384, "tokens_per_clip": 10**9}


class Rows(NamedTuple):
    """Rows by where their answers come from, at most; `without` have none."""

    answered: Counter[Source]
    without: int
    questions: tuple[Question, ...]
    clips: Mapping[str, Clip]


class Reach:
    """The rows of each data name and step."""

    def __init__(self, data: Mapping[str, Found], steps: Mapping[str, dict[str, Any]]) -> None:
        self._data, self._steps = data, steps

    def of(self, step: str) -> Rows | None:
        """What a step is given, at most; None where some of it is not in the store."""
        names = self._steps[step].get("data", [])
        return self._sum([names] if isinstance(names, str) else names)

    def _sum(self, names: Iterable[str]) -> Rows | None:
        parts = [self._made(name) for name in names]
        if any(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        return Rows(
            sum((part.answered for part in known), Counter()),
            sum(part.without for part in known),
            tuple(question for part in known for question in part.questions),
            {digest: clip for part in known for digest, clip in part.clips.items()},
        )

    def _made(self, name: str) -> Rows | None:
        """The rows that go by a name: a dataset's, or what a step makes of its own."""
        if name not in self._steps:
            return _found(self._data[name]) if name in self._data else None
        body, given = self._steps[name], self.of(name)
        if given is None:
            return None
        if body["stage"] == "label":
            return given._replace(answered=Counter({"teacher": given.without}), without=0)
        each = body.get("per_question", AugmentRecipe().per_question)
        return given._replace(answered=Counter({"augmented": given.answered.total() * each}), without=0)


def _found(data: Found) -> Rows:
    sources: Counter[Source] = Counter(source(row) for row in data.questions if row.answer is not None)
    return Rows(sources, len(data.questions) - sources.total(), data.questions, data.clips)


def rows_an_epoch(rows: Rows, recipe: TrainRecipe) -> int:
    """Rows that come in one epoch, at most: each source capped, and as often as its weight says."""
    total = 0.0
    for origin, count in rows.answered.items():
        portion = recipe.mix.get(origin, Portion())
        total += portion.weight * min(count, portion.cap or count)
    return math.ceil(total)


def longest(rows: Rows | None, recipe: TrainRecipe) -> Load:
    """The longest row: of the clips there are, else of a clip that takes all that the budget gives."""
    words = CHAT + len(system_text(recipe.system_prompt) or "") // CHARS_PER_TOKEN
    words += recipe.reasoning_tokens if recipe.loss_on == "reasoning" else 0
    if rows is None or not rows.clips or not rows.questions:
        patches = recipe.video.max_frames // TEMPORAL_PATCH
        return Load(patches, _UNCAPPED["tokens_per_patch"], words + WORDS + PATCH * patches)
    words += max(len(render(question)) for question in rows.questions) // CHARS_PER_TOKEN
    each = (load(clip, recipe.video) for clip in rows.clips.values())
    found = max(each, key=lambda one: one.patches * (one.visual(recipe.video) + PATCH))
    return found._replace(words=words + PATCH * found.patches)


def load(clip: Clip, budget: VideoBudget) -> Load:
    """A clip's temporal patches, and the visual tokens in each before any cap."""
    seen = clip_tokens(clip.seconds, clip.width, clip.height, budget.model_copy(update=_UNCAPPED))
    return Load(seen.patches, seen.a_patch, 0)
