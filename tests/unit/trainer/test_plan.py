"""Rows, their order and their choices: decided by the rows and the seed alone."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import Portion, Source, source
from shared.errors import InputError
from shared.schema import Choice, Origin, Question, Rows, write_rows
from shared.spread import spread
from tests.unit.trainer.conftest import RECIPE, write_part
from workers.trainer import card
from workers.trainer.plan import Plan, permuted, plan, steps

QUESTION = Question(
    id="q", clip="0" * 64, text="?", choices=tuple(Choice(label=x, text=x * 2) for x in "ABCD"), answer=2,
    origin=Origin(answer="human"),
)  # fmt: skip


def test_the_answer_follows_its_choice() -> None:
    for epoch in range(50):
        asked = permuted(QUESTION, 0, epoch)
        assert asked.answer is not None
        assert asked.choices[asked.answer].text == "CC"
        assert sorted(choice.text for choice in asked.choices) == ["AA", "BB", "CC", "DD"]


def test_every_letter_becomes_the_answer_about_as_often() -> None:
    letters = Counter(permuted(QUESTION, 0, epoch).answer for epoch in range(400))
    assert all(70 <= letters[letter] <= 130 for letter in range(4)), letters


def test_choices_move_by_seed_epoch_and_question_only() -> None:
    assert permuted(QUESTION, 3, 5) == permuted(QUESTION, 3, 5)
    others = [permuted(QUESTION, seed, epoch).choices for seed in range(5) for epoch in range(5)]
    assert len(set(others)) > 5


def test_choices_that_speak_of_the_others_keep_their_places() -> None:
    texts = ("red light", "stop sign", "Cả A và B", "Tất cả các đáp án trên")
    question = QUESTION.model_copy(
        update={"choices": tuple(Choice(label=x, text=text) for x, text in zip("ABCD", texts, strict=True))}
    )
    assert all(permuted(question, 0, epoch) == question for epoch in range(20))


def test_each_epoch_sees_every_row_once_in_its_own_order() -> None:
    whole = mixed(human=100)
    assert whole.epoch_rows == 100
    assert sorted(whole.epoch(1, 0)) == list(range(100))
    assert whole.epoch(1, 0) == whole.epoch(1, 0)
    assert whole.epoch(1, 0) != whole.epoch(1, 1) != whole.epoch(2, 1)


def mixed(mix: dict[Source, Portion] | None = None, **rows: int) -> Plan:
    """So many rows of each source."""
    origins = {
        "human": Origin(answer="human"),
        "teacher": Origin(answer="teacher"),
        "augmented": Origin(answer="human", parent="q"),
    }
    questions = [
        QUESTION.model_copy(update={"id": f"{name}{n}", "origin": origins[name]})
        for name, count in rows.items() for n in range(count)
    ]  # fmt: skip
    return Plan(Rows([]), tuple(questions), (), mix or {})


@given(
    st.dictionaries(st.sampled_from(["human", "teacher", "augmented"]), st.floats(0.1, 4.0), max_size=3),
    st.integers(0, 9),
)
def test_a_weight_says_how_often_a_sources_rows_come(weights: dict[Source, float], epoch: int) -> None:
    plan = mixed({name: Portion(weight=weight) for name, weight in weights.items()}, human=30, teacher=20, augmented=40)
    drawn = [plan.questions[place] for place in plan.epoch(7, epoch)]
    assert len(drawn) == plan.epoch_rows == len(plan.epoch(7, epoch + 1))
    times = Counter(question.id for question in drawn)
    for question in plan.questions:
        assert abs(times[question.id] - weights.get(source(question), 1.0)) < 1
    for name, count in (("human", 30), ("teacher", 20), ("augmented", 40)):
        came = sum(source(question) == name for question in drawn)
        assert abs(came - weights.get(name, 1.0) * count) <= 0.5 + 1e-9 or came == 1


def test_a_small_source_with_a_small_weight_comes_all_the_same() -> None:
    plan = mixed({"human": Portion(weight=0.1)}, human=3)
    assert plan.epoch_rows == len(plan.epoch(0, 0)) == 1
    assert len({plan.epoch(0, epoch)[0] for epoch in range(20)}) == 3


def test_half_a_source_is_another_half_in_the_next_epoch() -> None:
    plan = mixed({"augmented": Portion(weight=0.5)}, augmented=40)
    assert set(plan.epoch(0, 0)) != set(plan.epoch(0, 1))
    assert len(set(plan.epoch(0, 0))) == 20


def test_a_cap_keeps_so_many_rows_and_says_what_it_left_out(tmp_path: Path) -> None:
    origins = [Origin(answer="human"), Origin(answer="human", parent="p0")]
    folders = [tmp_path / "given", tmp_path / "made"]
    for folder, origin, first in zip(folders, origins, (0, 20), strict=True):
        folder.mkdir()
        write_part(folder, [origin] * 20, first)
    chosen = plan(folders, {"augmented": Portion(cap=5)}, seed=1)
    assert Counter(map(source, chosen.questions)) == {"human": 20, "augmented": 5}
    assert [part.left_out for part in chosen.parts] == [{}, {"over the cap": 15}]
    assert card.data_facts(chosen)["rows_left_out"] == {"over the cap": 15}
    again = plan(folders[::-1], {"augmented": Portion(cap=5)}, seed=1)
    assert {q.id for q in again.questions} == {q.id for q in chosen.questions}
    assert {q.id for q in plan(folders, {"augmented": Portion(cap=5)}, seed=2).questions} != {
        q.id for q in chosen.questions
    }


@pytest.mark.parametrize(
    ("rows", "epochs", "batch", "expected"), [(100, 2, 16, 13), (100, 0.5, 16, 4), (3, 1, 16, 1), (48, 3, 16, 9)]
)
def test_steps_cover_the_epochs(rows: int, epochs: float, batch: int, expected: int) -> None:
    assert steps(rows, epochs, batch) == expected


@pytest.mark.parametrize(
    ("batch", "processes", "micro", "expected"),
    [(16, 8, 2, (8, 2, 1)), (16, 2, 16, (2, 8, 1)), (16, 1, 2, (1, 2, 8)), (4, 8, 2, (4, 1, 1)), (6, 4, 2, (3, 2, 1))],
)
def test_a_spread_always_multiplies_to_the_global_batch(
    batch: int, processes: int, micro: int, expected: tuple[int, int, int]
) -> None:
    assert spread(batch, processes, micro) == expected


def test_rows_without_an_answer_and_rows_met_before_are_left_out_and_counted(
    labelled: Path, test_derived: Path
) -> None:
    chosen = plan([labelled, test_derived, labelled])
    assert len(chosen.questions) == 16
    assert [part.left_out for part in chosen.parts] == [
        {"no answer": 1}, {}, {"in an earlier part": 12, "no answer": 1}
    ]  # fmt: skip
    facts = card.build({}, RECIPE, chosen, {})["data"]
    assert facts["rows_by_origin"] == {
        "human": 12, "teacher, augmented, test-derived": 1, "teacher, test-derived": 3
    }  # fmt: skip
    assert facts["rows_left_out"] == {"in an earlier part": 12, "no answer": 2}
    assert (facts["clips"], facts["recordings"]) == (16, 8)


def test_a_persons_answer_is_trained_on_and_the_teachers_is_not_in_either_order(
    labelled: Path, test_derived: Path, tmp_path: Path
) -> None:
    taught = Rows([test_derived])
    human = Origin(answer="human", test_derived=True)
    corrected = [row.model_copy(update={"answer": 3 - (row.answer or 0), "origin": human}) for row in taught.questions]
    write_rows(tmp_path, corrected[:1], taught.clips)
    (tmp_path / "clips").symlink_to(test_derived / "clips")
    for folders in ([tmp_path, test_derived], [test_derived, tmp_path]):
        chosen = plan(folders)
        found = {row.id: row for row in chosen.questions}
        assert found["q100"] == corrected[0]
        fallen = dict(zip(folders, chosen.parts, strict=True))
        assert fallen[test_derived].left_out == {"a person has answered it": 1}
        assert fallen[tmp_path].left_out == {}
    assert len(plan([labelled, test_derived]).questions) == 16


def test_two_datasets_that_use_the_same_ids_are_both_trained_on(labelled: Path, tmp_path: Path) -> None:
    other = write_part(tmp_path, [Origin(answer="human")] * 3, first=0)
    rows = [row.model_copy(update={"text": "And which colour is this?"}) for row in Rows([other]).questions]
    write_rows(other, rows, Rows([other]).clips)
    assert len(plan([labelled, other]).questions) == 12 + 3


def test_data_without_any_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row has an answer"):
        plan([write_part(tmp_path, [Origin(answer="none")], first=0)])


def test_a_row_without_its_clip_is_refused(tmp_path: Path) -> None:
    part = write_part(tmp_path, [Origin(answer="human")], first=0)
    for clip in (part / "clips").iterdir():
        clip.unlink()
    with pytest.raises(InputError, match="q0: its clip"):
        plan([part])
