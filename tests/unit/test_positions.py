"""Positions: the table is scipy's, a crowded test is no liking of the model's, and a real liking is seen."""

import numpy as np
import pytest
from scipy import stats

from shared import positions
from shared.metrics import Settings

QUICK = Settings(resamples=400)
FOUR = (0, 1, 2, 3)


def answered(seed: int, n: int, crowd: list[float], liking: float = 0.0) -> tuple[list[int], list[int], list[str]]:
    """Answers that crowd at places, and a model that is right by half, else guesses wrongly or says A for `liking`."""
    rng = np.random.default_rng(seed)
    answers = rng.choice(4, n, p=crowd)
    wrong = (answers + rng.integers(1, 4, n)) % 4
    chosen = np.where(rng.random(n) < 0.5, answers, wrong)
    chosen = np.where(rng.random(n) < liking, 0, chosen)
    return answers.tolist(), chosen.tolist(), [f"rec{index // 8}" for index in range(n)]


@pytest.mark.parametrize("seed", range(8))
def test_the_table_is_scipys(seed: int) -> None:
    answers, chosen, recordings = answered(seed, 120, [0.25] * 4)
    found = positions.measure(answers, chosen, [FOUR] * 120, recordings, QUICK)
    table = stats.contingency.crosstab(answers, chosen, levels=(FOUR, FOUR)).count
    assert found.confusion == tuple(map(tuple, table.tolist()))
    assert [place.answer for place in found.places] == pytest.approx((table.sum(axis=1) / 120).tolist())
    assert [place.chosen for place in found.places] == pytest.approx((table.sum(axis=0) / 120).tolist())
    assert sum(place.expected for place in found.places) == pytest.approx(1)
    assert sum(place.excess for place in found.places) == pytest.approx(0)


def test_the_expectation_is_the_mean_of_a_model_without_a_liking() -> None:
    rng = np.random.default_rng(0)
    crowd, offered = [0.6, 0.2, 0.1, 0.1], [FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR, FOUR]
    answers = rng.choice(4, 10, p=crowd)
    right = np.arange(10) < 4
    picks = np.zeros(4)
    for _ in range(4000):  # which six are wrong, and where those choices fall, is chance
        wrong = (answers + rng.integers(1, 4, 10)) % 4
        picks += np.bincount(np.where(rng.permutation(right), answers, wrong), minlength=4) / 4000
    chosen = np.where(right, answers, (answers + 1) % 4)
    found = positions.measure(answers.tolist(), chosen.tolist(), offered, ["r"] * 10, QUICK)
    assert [10 * place.expected for place in found.places] == pytest.approx(picks.tolist(), abs=0.1)


def test_a_crowded_test_is_no_liking_of_the_models() -> None:
    said = 0
    for seed in range(40):
        answers, chosen, recordings = answered(seed, 320, [0.6, 0.2, 0.1, 0.1])
        said += bool(positions.measure(answers, chosen, [FOUR] * 320, recordings, QUICK).leaning)
    assert said <= 6  # 5% of 40 are 2; seven or more come by chance in fewer than 1 of 250 such series


@pytest.mark.parametrize("crowd", [[0.25] * 4, [0.1, 0.1, 0.2, 0.6]])
def test_a_liking_for_a_is_seen_whatever_the_test(crowd: list[float]) -> None:
    answers, chosen, recordings = answered(3, 400, crowd, liking=0.3)
    found = positions.measure(answers, chosen, [FOUR] * 400, recordings)
    assert 0 in found.leaning
    assert found.places[0].interval.low > 0


def test_places_that_are_not_offered_are_not_expected() -> None:
    offered = [(0, 1), (0, 2), (0, 1, 2)]
    found = positions.measure([0, 2, 0], [1, 2, 2], offered, ["a", "b", "c"], QUICK)
    assert found.confusion == ((0, 1, 1), (0, 0, 0), (0, 0, 1))
    third = 1 / 3  # of the questions the model gets right
    expected = [
        third * 2 + (1 - third) * 1,
        third * 0 + (1 - third) * 1.5,
        third * 1 + (1 - third) * 0.5,
    ]
    assert [3 * place.expected for place in found.places] == pytest.approx(expected)
    assert found.leaning == ()


def test_a_single_choice_is_no_place_to_like() -> None:
    found = positions.measure([0], [0], [(0,)], ["r"], QUICK)
    assert (found.places[0].excess, found.leaning) == (0, ())
