"""Calibration: the error is scipy's sum over bins, its floor is what chance gives, and the gap knows its recordings."""

import math

import numpy as np
import pytest
from scipy import special, stats

from shared import calibration
from shared.metrics import Settings

QUICK = Settings(resamples=400)


def drawn(seed: int, n: int = 400, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Confidences, outcomes that come true `skill` times as often as they say, and recordings of ten questions."""
    rng = np.random.default_rng(seed)
    sure = rng.beta(4, 2, n)
    return sure, (rng.random(n) < skill * sure).astype(int), [f"rec{index // 10}" for index in range(n)]


@pytest.mark.parametrize("seed", range(8))
def test_the_error_is_that_of_scipys_bins(seed: int) -> None:
    sure, right, recordings = drawn(seed, skill=0.9)
    found = calibration.measure(sure.tolist(), right.tolist(), recordings, QUICK)
    (said, came), _, which = stats.binned_statistic(sure, [sure, right], "mean", bins=10, range=(0, 1))
    counts = np.bincount(which - 1, minlength=10)
    expected = np.nansum(counts / len(sure) * np.abs(said - came))
    assert found.ece == pytest.approx(expected)
    assert [one.n for one in found.bins] == counts[counts > 0].tolist()
    assert [one.accuracy for one in found.bins] == pytest.approx(came[counts > 0].tolist())
    assert [one.confidence for one in found.bins] == pytest.approx(said[counts > 0].tolist())
    assert all(one.interval.low <= one.accuracy <= one.interval.high for one in found.bins)


@pytest.mark.parametrize("seed", range(5))
def test_confidence_is_scipys_softmax_over_the_offered_choices(seed: int) -> None:
    logprobs = np.random.default_rng(seed).normal(-3, 2, 5)
    offered = (0, 2, 3)
    shares = special.softmax(logprobs[list(offered)])
    found = [calibration.confidence(logprobs.tolist(), offered, choice) for choice in offered]
    assert found == pytest.approx(shares.tolist())
    assert calibration.confidence([-2000.0, -2001.0], (0, 1), 0) == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_calibrated_model_shows_the_floor_and_no_gap() -> None:
    found = [
        calibration.measure(sure.tolist(), right.tolist(), recordings, QUICK)
        for sure, right, recordings in (drawn(seed, 300) for seed in range(60))
    ]
    assert np.mean([one.ece for one in found]) == pytest.approx(np.mean([one.floor for one in found]), rel=0.1)
    assert np.mean([one.interval.low <= 0 <= one.interval.high for one in found]) >= 0.85


def test_an_overconfident_model_is_told_by_its_gap() -> None:
    sure, right, recordings = drawn(1, 600, skill=0.75)
    found = calibration.measure(sure.tolist(), right.tolist(), recordings)
    assert found.gap == pytest.approx(sure.mean() - right.mean())
    assert 0 < found.interval.low < found.gap < found.interval.high
    assert found.ece > 3 * found.floor


def test_questions_that_stand_or_fall_together_widen_the_gaps_interval() -> None:
    right = [int(recording % 2) for recording in range(20) for _ in range(10)]
    recordings = [f"rec{recording}" for recording in range(20) for _ in range(10)]
    together = calibration.measure([0.6] * 200, right, recordings).interval
    alone = calibration.measure([0.6] * 200, right, [str(index) for index in range(200)]).interval
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


@pytest.mark.parametrize(("sure", "low"), [(0.0, 0.0), (0.1, 0.0), (0.3, 0.2), (0.7, 0.6), (0.71, 0.7), (1.0, 0.9)])
def test_a_bin_holds_its_upper_edge(sure: float, low: float) -> None:
    (found,) = calibration.measure([sure], [1], ["r"], QUICK).bins
    assert (found.low, found.high) == pytest.approx((low, low + 0.1))


def test_one_question_proves_nothing() -> None:
    found = calibration.measure([0.9], [0], ["r"], QUICK)
    assert (found.ece, found.gap) == (pytest.approx(0.9), pytest.approx(0.9))
    assert found.interval.low <= 0
    assert "Hoeffding" in found.interval.method
