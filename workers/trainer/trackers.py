"""MLflow and Weights & Biases, where `ROADQA_TRAINER_TRACKERS` names them: each step's figures, as they come.

Where they are, and the keys to them, is said by their own variables (MLFLOW_TRACKING_URI, WANDB_API_KEY, …). A training
that goes on after a stop goes on in the same run. A tracker that fails to begin fails the stage, in one line; one that
fails later is told once and left alone, since a training is worth more than its curves.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from shared.context import Context, Scratch
from shared.contracts import TrainRecipe
from shared.errors import RoadQAError, UsageError
from workers.trainer.events import TAGS

log = logging.getLogger(__name__)

_KEY = "trackers/"  #: in scratch: the id of a training's run at each tracker
_CLOSE_SECONDS = 30.0
Values = dict[str, float]


class Tracker(Protocol):
    """One service."""

    def log(self, values: Values, step: int) -> None: ...

    def close(self, whole: bool) -> None: ...


class MLflow:
    """One MLflow run."""

    package, install = "mlflow", "mlflow-skinny"

    def __init__(self, name: str, recipe: Mapping[str, Any], run: Callable[[str], str], fresh: bool) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        if fresh:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "roadqa")
            found = self._client.get_experiment_by_name(experiment)
            known = found.experiment_id if found else self._client.create_experiment(experiment)
            made = self._client.create_run(known, run_name=name)
            self._run = run(made.info.run_id)
            for key, value in recipe.items():
                self._client.log_param(self._run, key, str(value)[:500])
        else:
            self._run = run("")
            self._client.update_run(self._run, status="RUNNING")

    def log(self, values: Values, step: int) -> None:
        for tag, value in values.items():
            self._client.log_metric(self._run, tag, value, step=step)

    def close(self, whole: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if whole else "KILLED")


class WandB:
    """One run at Weights & Biases."""

    package, install = "wandb", "wandb"

    def __init__(self, name: str, recipe: Mapping[str, Any], run: Callable[[str], str], fresh: bool) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "roadqa")
        self._run = wandb.init(
            project=project, id=run(uuid.uuid4().hex), name=name, resume="allow", config=dict(recipe)
        )

    def log(self, values: Values, step: int) -> None:
        self._run.log(values, step=step)

    def close(self, whole: bool) -> None:
        self._run.finish(exit_code=0 if whole else 1)


KINDS: dict[str, type[MLflow] | type[WandB]] = {"mlflow": MLflow, "wandb": WandB}


def wanted(setting: str) -> list[str]:
    """The trackers that a setting names.

    Raises:
        UsageError: one is unknown, or its package is not installed.
    """
    names = setting.replace(",", " ").split()
    for name in names:
        if name not in KINDS:
            raise UsageError(f"ROADQA_TRAINER_TRACKERS names {name!r}; there are: {', '.join(KINDS)}")
        if importlib.util.find_spec(KINDS[name].package) is None:
            raise UsageError(
                f"ROADQA_TRAINER_TRACKERS names {name}, which the trainer's environment lacks:"
                f" `pip install {KINDS[name].install}` there, or take it out of the variable"
            )
    return names


class Trackers:
    """All of them, in a thread of their own: a slow service holds no step up."""

    def __init__(self, kinds: Sequence[str], recipe: TrainRecipe, scratch: Scratch) -> None:
        params = _flat(recipe.model_dump(mode="json"))
        name = f"train-{hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:8]}"
        self._open = {kind: _begun(kind, name, params, scratch) for kind in kinds}
        self._queue: queue.Queue[tuple[int, Values] | bool] = queue.Queue()
        self._judged: Values = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def log(self, step: int, facts: Mapping[str, Any]) -> None:
        """Pass a step's figures on, by TensorBoard's tags."""
        values = {TAGS[name]: float(value) for name, value in facts.items() if name in TAGS}
        judged = {tag: value for tag, value in values.items() if tag.startswith("validation/")}
        if judged == self._judged:  # told again with each step until the next validation
            values = {tag: value for tag, value in values.items() if tag not in judged}
        self._judged = judged
        if values:
            self._queue.put((step, values))

    def close(self, whole: bool) -> None:
        """Say that the training is through, or was only put down; wait a little for what is on its way."""
        self._queue.put(whole)
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not isinstance(told := self._queue.get(), bool):
            step, values = told
            for kind, tracker in list(self._open.items()):
                self._try(kind, partial(tracker.log, values, step))
        for kind, tracker in list(self._open.items()):
            self._try(kind, partial(tracker.close, told))

    def _try(self, kind: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever a client raises; its text may hold an address with a key
            del self._open[kind]
            log.warning("%s fails (%s) and gets no more of this training", kind, type(error).__name__)


class _Watched:
    """A verb's context that the trackers hear the progress of."""

    def __init__(self, ctx: Context, trackers: Trackers) -> None:
        self._ctx, self._trackers = ctx, trackers
        self.scratch, self.purse = ctx.scratch, ctx.purse

    @property
    def stopping(self) -> bool:
        return self._ctx.stopping

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        self._ctx.progress(done, total, unit, **facts)
        self._trackers.log(round(done), facts)


@contextlib.contextmanager
def told(ctx: Context, kinds: Sequence[str], recipe: TrainRecipe) -> Iterator[Context]:
    """The context that the training reports to."""
    if not kinds:
        yield ctx
        return
    trackers = Trackers(kinds, recipe, ctx.scratch)
    whole = False
    try:
        yield _Watched(ctx, trackers)
        whole = True
    finally:
        trackers.close(whole)


def _begun(kind: str, name: str, params: Mapping[str, Any], scratch: Scratch) -> Tracker:
    known = scratch.get(_KEY + kind)

    def run(fresh: str) -> str:
        """The run's id: the one that was kept, else this one from now on."""
        if known is not None:
            return known.decode()
        scratch.put(_KEY + kind, fresh.encode())
        return fresh

    try:
        return KINDS[kind](name, params, run, known is None)
    except Exception as error:
        raise RoadQAError(
            f"{kind} cannot be begun ({type(error).__name__}): mend its variables, or take it out of"
            " ROADQA_TRAINER_TRACKERS"
        ) from error


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found
