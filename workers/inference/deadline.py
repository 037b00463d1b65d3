"""Ask a verb one question at a time and be answered in time: what it has by then, or nothing, but never later."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from shared.context import LocalContext, Verb
from shared.contracts import PredictRecipe
from shared.errors import RoadQAError
from shared.schema import Frozen, Prediction, Question

log = logging.getLogger(__name__)

#: Of the deadline, and seconds at most, kept for what comes after the answer.
RESERVE, RESERVE_SECONDS = 0.05, 0.5
LOADS = 3  #: times that loading is tried: memory that a dead engine had may not be free at once
TIME_WAS_UP = "time was up"

Seen = Literal["all", "a glance", "nothing"]  #: what of the clip an answer rests on


class TimedRecipe(Frozen):
    """How a question is answered; without one the engine is only made ready."""

    predict: PredictRecipe
    question: Question | None = None
    seconds: float  #: that there are for one


class Outcome(NamedTuple):
    """What stands at the deadline."""

    seen: Seen
    prediction: Prediction | None  #: None where nothing was seen
    seconds: float  #: from when the question was taken up
    why: str | None = None  #: it does not rest on all of the clip
    late: bool = False  #: the answer that does is still being made
    broke: bool = False  #: the engine failed, not the clip


class _Listening(LocalContext):
    """Holds on to the answer that was reported last."""

    best: Prediction | None = None

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        self.best = Prediction.model_validate_json(str(facts["prediction"]))


class Asker:
    """One engine in a process of its own, and what is asked of it.

    Args:
        verb: as `child.resident("workers.inference.timed")`.
        deadline: seconds for each question.
    """

    def __init__(self, verb: Verb, model: Path, recipe: PredictRecipe, deadline: float, scratch: Path) -> None:
        self._verb, self._model, self._recipe, self._scratch = verb, model, recipe, scratch
        self._seconds = deadline - min(RESERVE_SECONDS, RESERVE * deadline)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="asking")
        self._under_way: tuple[Future[dict[str, Any]], _Listening] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for job, ctx in [self._under_way] if self._under_way else []:
            ctx.stop()
            job.cancel()
        self._pool.shutdown()

    def make_ready(self) -> None:
        """Load and warm up, where the engine's process is new: that is no question's time.

        Raises:
            RoadQAError: it cannot be loaded.
        """
        self.settle()
        for attempt in range(1, LOADS + 1):
            job, _ = self._begin(TimedRecipe(predict=self._recipe, seconds=self._seconds))
            try:
                job.result()
                break
            except RoadQAError as error:
                if error.permanent or attempt == LOADS:
                    raise
                log.warning("loading failed and is tried again: %s", error)
            finally:
                self._under_way = None

    def ask(self, question: Question, clip: Path) -> Outcome:
        """The answer that there is when time is up. `make_ready` comes before it."""
        began = time.monotonic()
        job, ctx = self._begin(TimedRecipe(predict=self._recipe, question=question, seconds=self._seconds), clip)
        wait([job], timeout=self._seconds)
        if not job.done():
            return self._best(ctx, began)._replace(why=TIME_WAS_UP, late=True)
        self._under_way = None
        try:
            found = Prediction.model_validate(job.result()["prediction"])
        except RoadQAError as error:
            return self._best(ctx, began)._replace(why=str(error), broke=not error.permanent)
        return Outcome("all", found, time.monotonic() - began)

    def settle(self, patience: float = 0.0) -> Prediction | None:
        """End what is still under way on the last question; its answer, where it comes within `patience` seconds."""
        if self._under_way is None:
            return None
        (job, ctx), self._under_way = self._under_way, None
        wait([job], timeout=patience)
        ctx.stop()
        try:
            return Prediction.model_validate(job.result()["prediction"])
        except RoadQAError:  # stopped, or killed: a glance at most is all there is
            return None

    def _begin(self, recipe: TimedRecipe, *clip: Path) -> tuple[Future[dict[str, Any]], _Listening]:
        ctx = _Listening(self._scratch)
        inputs = {"model": [self._model], "clip": list(clip)}
        self._under_way = self._pool.submit(self._verb, inputs, recipe, self._scratch, ctx), ctx
        return self._under_way

    def _best(self, ctx: _Listening, began: float) -> Outcome:
        seen: Seen = "nothing" if ctx.best is None else "a glance"
        return Outcome(seen, ctx.best, time.monotonic() - began)
