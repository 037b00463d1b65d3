"""Calibration rows: the same ones for a seed, spread over recordings and clips."""

from collections import Counter
from pathlib import Path

import pytest

from shared.errors import InputError
from shared.schema import Origin, Rows, write_jsonl, write_rows
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


@pytest.mark.parametrize("scheme", ["awq", "gptq"])
def test_calibration_without_rows_is_refused_and_rounding_needs_none(rows: Path, scheme: str) -> None:
    with pytest.raises(InputError, match=f"{scheme} needs calibration rows"):
        calibration.rows_for(recipe(scheme), [])
    assert calibration.rows_for(recipe(scheme, calibration="none"), [rows])[1] == []
    assert calibration.rows_for(recipe("nvfp4a16"), [rows])[1] == []


def test_a_row_whose_clip_is_not_listed_is_named(rows: Path, tmp_path: Path) -> None:
    held = Rows([rows])
    lost = held.questions[3]
    write_rows(tmp_path, held.questions, held.clips)
    write_jsonl(tmp_path / "clips.jsonl", (clip for digest, clip in held.clips.items() if digest != lost.clip))
    first = next(row for row in held.questions if row.clip == lost.clip)
    with pytest.raises(InputError, match=f"question {first.id}: clip {lost.clip[:12]} is not in clips.jsonl; import"):
        calibration.rows_for(recipe("awq"), [tmp_path])


def test_each_kind_has_its_share_and_the_rare_ones_a_place(rows: Path) -> None:
    held = Rows([rows])
    for place, row in enumerate(held.questions):
        held.questions[place] = row.model_copy(update={"category": "signs" if place == 0 else "lights"})
    chosen = calibration.choose(held, 6, seed=0)
    kinds = Counter((question.category, question.origin.answer) for question in chosen)
    assert kinds == {("signs", "human"): 1, ("lights", "human"): 3, ("lights", "none"): 2}
    assert set(Counter(held.clips[question.clip].recording for question in chosen).values()) == {2}
    assert len(calibration.choose(held, 2, seed=0)) == 2, "fewer than there are kinds"


def test_the_card_counts_what_was_shown(rows: Path) -> None:
    held = Rows([rows])
    told = calibration.facts(held, held.questions, recipe("awq"))
    assert told["origins"] == {"human": 12, "none": 6}
    assert told["categories"] == {"unknown": 18}
    assert (told["rows"], told["clips"], told["recordings"], told["shows"]) == (18, 9, 3, "video")
