"""Early stop and best weights, as pure functions: which rows validate, when, and which validation was the best.

What each validation found travels in the Trainer's log history, which a checkpoint carries; so a resumed training knows
of those before it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared import leaks
from shared.contracts import EarlyStop
from shared.errors import InputError
from workers.trainer.plan import Plan, plan

ACCURACY, LOSS = "validation_accuracy", "validation_loss"  #: names in the log history


class Point(NamedTuple):
    """One validation."""

    step: int
    accuracy: float  #: share of the rows whose most likely letter, of the question's own, is the right one
    loss: float  #: mean negative log-probability of the right letter among the question's own, in nats

    @property
    def goodness(self) -> tuple[float, float]:
        """By accuracy; where that is equal, by loss."""
        return self.accuracy, -self.loss


def rows(folders: Sequence[Path], training: Plan) -> Plan:
    """The rows to validate on: those with an answer, none of them on what is trained on.

    Raises:
        InputError: there is no such row, or one is on a recording (or a look-alike of a clip) of the training rows.
    """
    chosen = plan(folders)
    shared = leaks.overlap(chosen.questions, chosen.rows.clips, training.questions, training.rows.clips)
    if shared:
        raise InputError(leaks.overlap_text(shared))
    return chosen


def due(step: int, steps: int, every_epochs: float, epoch_rows: int, global_batch: int) -> bool:
    """Whether the rows are scored after this step: each `every_epochs` passes, and at the end."""
    rows_between = every_epochs * epoch_rows

    def times(done: int) -> int:
        return int(round(done * global_batch / rows_between, 6))

    return step == steps or times(step) > times(step - 1)


def points(history: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The validations in a Trainer's log history."""
    return [Point(entry["step"], entry[ACCURACY], entry[LOSS]) for entry in history if ACCURACY in entry]


def best(found: Sequence[Point]) -> Point | None:
    """The best of them, the earliest where several are."""
    return max(found, key=lambda point: point.goodness, default=None)


def exhausted(found: Sequence[Point], early_stop: EarlyStop) -> bool:
    """Whether `patience` validations have passed since the best one."""
    top = best(found)
    if top is None or early_stop.patience is None:
        return False
    return sum(point.step > top.step for point in found) >= early_stop.patience


def facts(history: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """For the card: every validation, the best one, and whether the training ended before its last step."""
    found = points(history)
    if not found:
        return {}
    return {
        "validations": [point._asdict() for point in found],
        "best_step": max(found, key=lambda point: point.goodness).step,
        "stopped_early": found[-1].step < steps,
    }
