"""When rows are scored, which validation is the best, and which weights stand in scratch for the next attempt."""

from pathlib import Path

import pytest

from shared.context import FolderScratch
from shared.contracts import EarlyStop
from shared.errors import InputError, RoadQAError
from shared.schema import Origin
from tests.unit.trainer.conftest import write_part
from workers.trainer import best, scoring, validation
from workers.trainer.checkpoints import Cut
from workers.trainer.plan import plan
from workers.trainer.validation import Point

CUT = Cut(2)


@pytest.mark.parametrize(
    ("every", "rows", "batch", "steps", "expected"),
    [
        (0.5, 16, 4, 8, [2, 4, 6, 8]),
        (1.0, 10, 4, 7, [3, 5, 7]),
        (0.1, 8, 8, 3, [1, 2, 3]),
        (5.0, 16, 4, 8, [8]),
    ],
)
def test_rows_are_scored_every_so_many_epochs_and_at_the_end(
    every: float, rows: int, batch: int, steps: int, expected: list[int]
) -> None:
    found = [step for step in range(1, steps + 1) if validation.due(step, steps, every, rows, batch)]
    assert found == expected


def test_the_best_is_the_earliest_of_the_most_accurate_then_of_the_lowest_loss() -> None:
    found = [Point(2, 0.5, 1.0), Point(4, 0.7, 0.9), Point(6, 0.7, 0.8), Point(8, 0.7, 0.8), Point(10, 0.6, 0.1)]
    assert validation.best(found) == Point(6, 0.7, 0.8)
    assert validation.best([]) is None


def test_training_ends_when_its_patience_does() -> None:
    found = [Point(2, 0.7, 1.0), Point(4, 0.5, 1.0), Point(6, 0.5, 0.9)]
    assert validation.exhausted(found, EarlyStop(patience=2))
    assert not validation.exhausted(found, EarlyStop(patience=3))
    assert not validation.exhausted(found, EarlyStop(patience=None))
    assert not validation.exhausted([], EarlyStop(patience=1))


def test_a_log_history_tells_its_validations() -> None:
    point = Point(3, 0.5, 1.0)
    history = [{"step": 3, "validation_accuracy": 0.5, "validation_loss": 1.0}, {"step": 3, "loss": 2.0}]
    assert validation.points(history) == [point]
    assert validation.facts(history, 6) == {"validations": [point._asdict()], "best_step": 3, "stopped_early": True}
    assert validation.facts([{"step": 3, "loss": 2.0}], 6) == {}


def test_rows_on_recordings_that_are_trained_on_are_refused_by_name(
    labelled: Path, validating: Path, tmp_path: Path
) -> None:
    part = write_part(tmp_path, [Origin(answer="human")] * 3, first=11)  # r5, which is trained on, and twice r6
    with pytest.raises(InputError, match=r"1 of its rows .*\('r5'\).*roadqa datasets split"):
        validation.rows([part], plan([labelled]))
    assert len(validation.rows([part], plan([validating])).questions) == 3


def put(scratch: FolderScratch, folder: Path, *steps: int) -> None:
    for step in steps:
        weights = best.local(folder, step)
        weights.mkdir()
        (weights / best.WEIGHTS).write_text(str(step))
        best.keep(scratch, weights, step, CUT)


def test_weights_stand_while_a_kept_checkpoint_would_go_on_with_them(tmp_path: Path) -> None:
    scratch = FolderScratch(tmp_path / "scratch")
    put(scratch, tmp_path, 2, 4, 6, 9)
    best.drop_spare(scratch, CUT, [5, 8])
    assert best.steps(scratch, CUT) == [4, 6, 9]
    best.drop_spare(scratch, CUT, [8, 10])
    assert best.steps(scratch, CUT) == [6, 9]


def test_an_attempt_goes_on_with_the_weights_of_its_checkpoint(tmp_path: Path) -> None:
    scratch = FolderScratch(tmp_path / "scratch")
    put(scratch, tmp_path, 4, 6)
    best.keep(scratch, best.local(tmp_path, 6), 6, Cut(4))
    best.resume(scratch, CUT, 5, tmp_path / "back")
    assert (best.local(tmp_path / "back", 4) / best.WEIGHTS).read_text() == "4"
    assert best.steps(scratch, CUT) == [4]  # what step 6 found is found anew
    best.resume(scratch, CUT, 0, tmp_path / "afresh")
    assert not (tmp_path / "afresh").exists()
    assert best.steps(scratch, CUT) == []
    assert best.steps(scratch, Cut(4)) == [6]  # another number of processes has checkpoints of its own


def test_other_weights_do_not_stand_in_for_the_best(tmp_path: Path) -> None:
    scratch = FolderScratch(tmp_path / "scratch")
    put(scratch, tmp_path, 4)
    with pytest.raises(RoadQAError, match="of step 6, are gone"):
        scoring.with_best({}, tmp_path, Point(6, 0.5, 1.0))
