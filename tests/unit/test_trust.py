"""How far labels can be trusted: known worked examples, teachers made to measure, and what no threshold may change."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import trust
from services.cli.trust import Case, fleiss_kappa, measure
from shared.metrics import Settings
from shared.schema import Choice, Origin, Question, Vote
from workers.labeler import consensus
from workers.labeler.consensus import Verification

QUICK = Settings(resamples=500)

#: Fleiss (1971), table 1: 30 patients, each diagnosed by 6 psychiatrists, 5 diagnoses.
PATIENTS = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""

#: A teacher's vote: (which question, which prompt, order shown) → choice.
Teacher = Callable[[int, int, Sequence[int]], int | None]


def test_kappa_is_that_of_fleiss_patients() -> None:
    counts = np.array([[int(digit) for digit in row] for row in PATIENTS.split()])
    assert counts.shape == (30, 5)
    assert counts.sum(axis=0).tolist() == [26, 26, 30, 55, 43]
    assert fleiss_kappa(counts) == pytest.approx(0.430245, abs=1e-6)


tables = st.integers(2, 5).flatmap(
    lambda categories: st.lists(
        st.lists(st.integers(0, 4), min_size=categories, max_size=categories).filter(lambda row: sum(row) > 1),
        min_size=2,
        max_size=12,
    )
)


@given(tables, st.randoms())
def test_kappa_knows_neither_the_order_of_subjects_nor_the_names_of_categories(
    table: list[list[int]], dice: random.Random
) -> None:
    counts = np.array(table)
    rows, columns = list(range(counts.shape[0])), list(range(counts.shape[1]))
    dice.shuffle(rows)
    dice.shuffle(columns)
    kappa = fleiss_kappa(counts)
    assert kappa <= 1 + 1e-12
    assert fleiss_kappa(counts[rows][:, columns]) == pytest.approx(kappa)
    assert (kappa == pytest.approx(1)) == bool(((counts > 0).sum(axis=1) == 1).all())


def question(number: int, choices: int = 4, category: str = "sign") -> Question:
    options = tuple(Choice(label="ABCD"[place], text=f"choice {place}") for place in range(choices))
    return Question(
        id=f"q{number}", clip=f"{number:064x}", text="?", choices=options, answer=number % choices, category=category,
        origin=Origin(answer="human"),
    )  # fmt: skip


def asked(teacher: Teacher, number: int, verified: int | None = None, min_agreement: float = 0.6) -> Case:
    """A question of one round, concluded as the labeler does; verified as `verified`, by default as the votes say."""
    about = question(number)
    dice = random.Random(number)
    votes = []
    for prompt in range(5):
        order = tuple(dice.sample(range(4), 4))
        choice = teacher(number, prompt, order)
        votes.append(Vote(prompt=f"p{prompt}", round=0, choice=choice, order=order, reasoning="", usd=0.01,
                          problem=None if choice is not None else "malformed"))  # fmt: skip
    agreed = consensus.count(votes, min_agreement)
    checked = agreed.answer if verified is None else verified
    check = Verification(Vote(prompt="v", round=0, choice=checked, reasoning="", usd=0.02), checked == agreed.answer)
    label = consensus.conclude(about.id, votes, agreed, check if agreed.answer is not None else None)
    return Case(label, about, f"r{number // 4}")


def erring(rate: float, common: float = 0.0) -> Teacher:
    def vote(number: int, prompt: int, order: Sequence[int]) -> int:
        together, alone = random.Random(f"c{number}"), random.Random(f"{number}/{prompt}")
        wrong = together.random() < common or alone.random() < rate
        return (number + 1) % 4 if wrong else number % 4

    return vote


def test_a_sure_teacher_is_trusted_and_the_error_bar_is_no_point() -> None:
    found = measure([asked(erring(0), number) for number in range(40)], 0.6, 2, QUICK)
    assert found.single_vote.value == found.accepted.precision.value == found.accepted.coverage.value == 1
    assert found.accepted.precision.ci95 is not None
    assert found.accepted.precision.ci95[0] < 0.95
    assert found.kappa is not None
    assert found.kappa.value == 1
    assert found.usd == pytest.approx(40 * 0.07)
    assert found.usd_per_accepted == pytest.approx(0.07)
    assert [prompt.accuracy.n for prompt in found.prompts] == [40] * 5


def test_votes_without_an_answer_are_counted_and_no_error() -> None:
    def mute(number: int, prompt: int, order: Sequence[int]) -> int | None:
        return None if prompt == 2 else number % 4

    found = measure([asked(mute, number) for number in range(12)], 0.6, 2, QUICK)
    assert found.problems == {"malformed": 12}
    assert [prompt.unusable for prompt in found.prompts] == [0, 0, 12, 0, 0]
    assert found.prompts[2].accuracy.value is None
    assert found.single_vote.value == 1


def test_errors_in_common_make_unanimity_worth_less_than_independence_would() -> None:
    together = measure([asked(erring(0, common=0.2), number) for number in range(200)], 0.6, 2, QUICK).unanimous
    apart = measure([asked(erring(0.2), number) for number in range(200)], 0.6, 2, QUICK).unanimous
    assert together.wrong > 25
    assert together.independent < 1
    assert apart.wrong <= 1
    assert apart.independent < 1


@given(st.integers(0, 2**16), st.sampled_from([0.8, 1.0]))
def test_a_stricter_threshold_accepts_what_a_run_with_it_would_have(seed: int, stricter: float) -> None:
    """Where no rounds are left to ask, the curve is exact."""
    noisy = erring(0.3)

    def concluded(min_agreement: float) -> list[Case]:
        return [asked(noisy, number, min_agreement=min_agreement) for number in range(seed, seed + 12)]

    loose, strict = concluded(0.6), concluded(stricter)
    found = measure(loose, 0.6, 0, Settings(resamples=100))
    wanted = [case for case in strict if case.label.status == "accepted"]
    at = [point for point in found.curve if point.min_agreement >= stricter]
    assert (at[0].precision.n if at else 0) == len(wanted)
    assert all(point.asked_again == 0 for point in found.curve)
    if at:
        assert at[0].precision.value == pytest.approx(sum(case.right for case in wanted) / len(wanted))


def test_what_a_stricter_threshold_would_have_asked_again_is_told() -> None:
    def split(number: int, prompt: int, order: Sequence[int]) -> int:
        return (number + (prompt == 4 and number % 2)) % 4  # every other question has one vote against

    found = measure([asked(split, number) for number in range(20)], 0.6, 2, QUICK)
    own, unanimous = found.curve
    assert (own.min_agreement, own.precision.n, own.asked_again) == (0.6, 20, 0)
    assert (unanimous.min_agreement, unanimous.precision.n, unanimous.asked_again) == (1.0, 10, 10)
    assert [point.min_agreement for point in found.votes_alone] == [0.8, 1.0]


def test_the_loosest_threshold_that_reaches_the_target_is_chosen() -> None:
    def doubtful(number: int, prompt: int, order: Sequence[int]) -> int:
        """Where one vote differs, the other four are wrong."""
        return (number + (number % 4 == 0 and prompt < 4)) % 4

    found = measure([asked(doubtful, number) for number in range(400)], 0.6, 2, QUICK)
    chosen = trust.choose(found, 0.95)
    assert chosen is not None
    assert chosen.min_agreement == 1.0
    assert trust.choose(found, 0.5) == found.curve[0]
    assert trust.choose(found, 0.9999) is None


def test_two_thirds_can_be_written_down_and_still_be_reached() -> None:
    votes = [Vote(prompt="p", round=0, choice=choice, reasoning="") for choice in (0, 0, 1)]
    assert consensus.count(votes, trust._threshold(2 / 3)).answer == 0


def test_a_preference_for_a_place_is_found_and_none_is_not() -> None:
    lazy = measure([asked(lambda n, p, order: order[0] if n % 3 == 0 else n % 4, n) for n in range(120)], 0.6, 2, QUICK)
    assert lazy.place_p is not None
    assert lazy.place_p < 0.001
    assert lazy.places[0].picked > lazy.places[0].right + 0.1
    fair = measure([asked(erring(0.3), number) for number in range(120)], 0.6, 2, QUICK)
    assert fair.place_p is not None
    assert fair.place_p > 0.01


def test_flagged_labels_are_counted_by_reason_with_what_their_votes_were_worth() -> None:
    cases = [asked(erring(0), number, verified=(number + 1) % 4) for number in range(8)]
    found = measure(cases, 0.6, 2, QUICK)
    assert [(flagged.reason, flagged.n) for flagged in found.flagged] == [(consensus.INCONSISTENT, 8)]
    assert found.flagged[0].leading_right.value == 1
    assert found.accepted.precision.value is None
    assert found.usd_per_accepted is None
    assert trust.choose(found, 0.5) is None


def test_nothing_is_measured_on_questions_without_an_answer() -> None:
    case = asked(erring(0), 1)
    with pytest.raises(ValueError, match="answered"):
        measure([case._replace(question=case.question.model_copy(update={"answer": None}))], 0.6, 2)
