"""One question on one clip against the clock: what is seen at a glance first, where all of it may not be done in time.

The verb of a process of its own (`shared/child.py`): whoever waits for it may end it, and what it has loaded stays
while it lives.
"""

import hashlib
import time
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from shared import child
from shared.budget import VideoBudget, clip_tokens, frame_size, sample_times
from shared.context import Context
from shared.contracts import PredictRecipe
from shared.decoders import Decoders
from shared.errors import Stopped
from shared.schema import Choice, Origin, Prediction, Question
from shared.video import MediaLimits, SampledClip, probe
from shared.vlm.encode import encoder
from workers.inference.ahead import Put
from workers.inference.deadline import TimedRecipe
from workers.inference.engines import POOL, Asked, Checkpoint, Engine, read_checkpoint
from workers.inference.together import prediction

#: A glance: so many frames, and visual tokens for each two of them, at most.
GLANCE_FRAMES, GLANCE_TOKENS = 8, 128
#: All of it must be expected to take no more than this share of the time left, or a glance comes first.
SURE = 0.5
#: Visual tokens below which a question costs no less: what every question costs is no pace.
FEWEST = 1024
#: A clip to warm up by, as they come: seconds, pixels.
TYPICAL_SECONDS, TYPICAL_SIZE = 10.0, (1280, 720)


class Pace:
    """The most seconds that a visual token has cost, decoding included; none is known before the first question."""

    def __init__(self) -> None:
        self.slowest: float | None = None

    def saw(self, seconds: float, tokens: int) -> None:
        self.slowest = max(self.slowest or 0.0, seconds / max(tokens, FEWEST))

    def sure(self, tokens: int, left: float) -> bool:
        """Whether so many tokens will surely be done in the time left."""
        return self.slowest is not None and self.slowest * max(tokens, FEWEST) < SURE * left


PACE = Pace()
_warm: list[Engine] = []


def timed(inputs: dict[str, list[Path]], recipe: TimedRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Answer `question` on the file `clip` with the checkpoint `model`; reports an answer at a glance as progress.

    Returns:
        `prediction`: the answer, from all that the budget lets the model see.

    Raises:
        InputError: the checkpoint cannot be used; MediaError: the clip cannot be decoded.
        Stopped: it was asked to, after a glance.
    """
    began = time.monotonic()
    (model,) = inputs["model"]
    engine = POOL.engine(checkpoint(model), encoder(model), recipe.predict)
    if recipe.question is None:
        decoders(recipe.seconds).start()
        warm_up(engine, recipe.predict)
        return {}
    (clip,) = inputs["clip"]
    video = recipe.predict.video
    told = probe(clip, limits=limits(recipe.seconds))
    tokens = clip_tokens(told.seconds, told.width, told.height, video).total
    less = glance(video)
    if less != video and not PACE.sure(tokens, recipe.seconds - (time.monotonic() - began)):
        glanced = _answer(engine, clip, less, recipe)
        ctx.progress(1, 2, "answers", prediction=glanced.model_dump_json())
        if ctx.stopping:
            raise Stopped("there was time for a glance only")
    looked = time.monotonic()
    found = _answer(engine, clip, video, recipe)
    PACE.saw(time.monotonic() - looked, tokens)
    return {"prediction": found.model_dump(mode="json")}


def glance(video: VideoBudget) -> VideoBudget:
    """A budget that costs a small part of `video`, and never more."""
    return video.model_copy(
        update={
            "max_frames": min(video.max_frames, GLANCE_FRAMES),
            "tokens_per_patch": min(video.tokens_per_patch, GLANCE_TOKENS),
        }
    )


def _answer(engine: Engine, clip: Path, video: VideoBudget, recipe: TimedRecipe) -> Prediction:
    assert recipe.question is not None
    began = time.monotonic()
    question = recipe.question
    asked = Asked(question, frames(clip, video, recipe.seconds), _name(clip, video))
    (found,) = engine.answer([asked], recipe.predict)
    put = Put(question, tuple(range(len(question.choices))), 0)
    return prediction([(put, found)], recipe.predict, time.monotonic() - began)


@cache  # it stays as it is while a competition lasts
def checkpoint(model: Path) -> Checkpoint:
    return read_checkpoint(model)


@lru_cache(maxsize=2)  # questions on one clip follow each other: all of it, and a glance
def frames(clip: Path, video: VideoBudget, seconds: float) -> SampledClip:
    return decoders(seconds).submit(clip, video).result()


@cache
def decoders(seconds: float) -> Decoders:
    """One beside the engine: a clip that takes too long, or its decoder down, leaves the engine be."""
    return Decoders(1, limits=limits(seconds))


def limits(seconds: float) -> MediaLimits:
    return MediaLimits(wall_seconds=seconds)


def _name(clip: Path, video: VideoBudget) -> str:
    return hashlib.sha256(f"{clip}\0{video.model_dump_json()}".encode()).hexdigest()


def warm_up(engine: Engine, recipe: PredictRecipe) -> None:
    """Answer once on a drawn clip, so that no question pays for what a first one compiles and allocates."""
    if engine in _warm:
        return
    times = sample_times(TYPICAL_SECONDS, recipe.video)
    width, height = frame_size(*TYPICAL_SIZE, len(times), recipe.video)
    noise = np.random.default_rng(0).integers(0, 256, (len(times), height, width, 3), np.uint8)
    drawn = SampledClip(noise, tuple(round(at * 10) for at in times), 10.0, TYPICAL_SECONDS)
    choices = (Choice(label="A", text="yes"), Choice(label="B", text="no"))
    question = Question(id="warm-up", clip="0" * 64, text="Is it day?", choices=choices, origin=Origin(answer="none"))
    engine.answer([Asked(question, drawn, "warm-up")], recipe)
    _warm[:] = [engine]


if __name__ == "__main__":
    child.main(timed, TimedRecipe)
