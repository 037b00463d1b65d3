"""Calibration rows: the same ones for a seed, spread over recordings and clips."""

from collections import Counter
from pathlib import Path

import pytest

from shared.errors import InputError
from shared.schema import Origin, Rows
from tests.unit.quantizer.conftest import recipe
from workers.quantizer import calibration


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows(rows: Path) -> None:
    forward, backward = Rows([rows]), Rows([rows])
    backward.questions.reverse()
    chosen = calibration.choose(forward, 8, seed=3)
    assert calibration.choose(backward, 8, seed=3) == chosen
    assert calibration.choose(forward, 8, seed=4) != chosen


@pytest.mark.parametrize("count", [3, 6, 9])
def test_the_choice_is_spread_over_recordings_then_clips(rows: Path, count: int) -> None:
    held = Rows([rows])
    chosen = calibration.choose(held, count, seed=0)
    recordings = Counter(held.clips[question.clip].recording for question in chosen)
    assert set(recordings.values()) == {count // 3}
    assert len({question.clip for question in chosen}) == count


def test_all_rows_are_chosen_where_more_are_asked_for(rows: Path) -> None:
    held = Rows([rows])
    chosen = calibration.choose(held, 10_000, seed=0)
    assert sorted(question.id for question in chosen) == sorted(question.id for question in held.questions)


def test_a_teachers_answer_to_what_a_person_has_answered_calibrates_nothing(rows: Path) -> None:
    held = Rows([rows])
    people = [question for question in held.questions if question.origin.answer == "human"]
    taught = Origin(answer="teacher", teacher="t")
    held.questions += [row.model_copy(update={"id": f"t{row.id}", "origin": taught}) for row in people]
    assert len(held.questions) == 18 + len(people)
    assert len(calibration.choose(held, 10_000, seed=0)) == 18


def test_awq_without_rows_is_refused_and_fp4_needs_none(rows: Path) -> None:
    with pytest.raises(InputError, match="awq needs calibration rows"):
        calibration.rows_for(recipe("awq"), [])
    assert calibration.rows_for(recipe("fp4"), [rows])[1] == []


def test_origins_are_counted(rows: Path) -> None:
    assert calibration.origins(Rows([rows]).questions) == {"human": 12, "none": 6}
