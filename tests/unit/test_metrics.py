"""Metrics: intervals hold their point, clusters widen them, the paired test is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shared import metrics

QUICK = metrics.Settings(resamples=400)

outcomes = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([f"rec{i}" for i in range(15)])),
    min_size=1,
    max_size=80,
)


@given(outcomes)
@settings(max_examples=60, deadline=None)
def test_an_interval_contains_its_point_and_stays_a_share(rows: list[tuple[int, int, str]]) -> None:
    correct, _, recordings = (list(column) for column in zip(*rows, strict=True))
    accuracy, interval = metrics.accuracy_interval(correct, recordings, QUICK)
    assert 0 <= interval.low <= accuracy <= interval.high <= 1
    assert interval.low < interval.high


@given(outcomes)
@settings(max_examples=60, deadline=None)
def test_swapping_the_models_mirrors_the_difference_and_keeps_p(rows: list[tuple[int, int, str]]) -> None:
    first, second, recordings = (list(column) for column in zip(*rows, strict=True))
    there, back = metrics.compare(first, second, recordings, QUICK), metrics.compare(second, first, recordings, QUICK)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == pytest.approx(back.p)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert 0 < there.p <= 1
    assert there.interval.low <= there.difference <= there.interval.high


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_on_single_questions_the_sign_flip_is_mcnemars_exact_test(wins: int, losses: int) -> None:
    p = metrics.sign_flip_p([1] * wins + [-1] * losses + [0] * 7)
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert p == pytest.approx(expected)


def test_known_mcnemar_values() -> None:
    assert metrics.sign_flip_p([1] * 10 + [-1] * 2) == pytest.approx(158 / 4096)
    assert metrics.sign_flip_p([1] * 5) == pytest.approx(2 / 32)
    assert metrics.sign_flip_p([]) == 1.0


def test_the_sign_flip_counts_every_assignment_of_signs() -> None:
    differences = [3, 1, -2, 4, 1]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    brute = np.mean(np.abs(np.array(differences) @ signs) >= abs(sum(differences)))
    assert metrics.sign_flip_p(differences) == pytest.approx(brute)


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_wilson_agrees_with_scipy(successes: int, failures: int, confidence: float) -> None:
    n = max(1, successes + failures)
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert metrics.wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("freedom", [8, 9, 20, 200])
def test_student_t_agrees_with_scipy(freedom: int) -> None:
    assert metrics.student_t(freedom, 0.95) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def uneven(seed: int) -> tuple[list[int], list[int], list[str]]:
    """Two models' outcomes on recordings of unequal size, each recording with a difficulty of its own."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 14, size=30)
    recordings = [f"rec{number}" for number, size in enumerate(sizes) for _ in range(size)]
    skill = np.repeat(rng.beta(3, 2, size=30), sizes)
    draw = rng.random((2, len(skill)))
    return (draw[0] < skill).astype(int).tolist(), (draw[1] < 0.9 * skill).astype(int).tolist(), recordings


@pytest.mark.parametrize("seed", range(3))
def test_the_clustered_bootstrap_agrees_with_scipys_over_whole_recordings(seed: int) -> None:
    model, parent, recordings = uneven(seed)
    pairs = [(model, metrics.accuracy_interval(model, recordings)[1])]
    pairs += [
        ([a - b for a, b in zip(model, parent, strict=True)], metrics.compare(model, parent, recordings).interval)
    ]
    for values, found in pairs:
        totals = metrics.per_recording([values, [1] * len(values)], recordings)
        # Student's t in place of the normal, as Hesterberg asks, is a wider tail of plain percentiles
        tail = stats.norm.cdf(-stats.t.ppf(0.975, 29) * np.sqrt(30 / 29))
        expected = stats.bootstrap(
            (totals[:, 0], totals[:, 1]), lambda sums, sizes, axis: sums.sum(axis=axis) / sizes.sum(axis=axis),
            paired=True, vectorized=True, n_resamples=10_000, confidence_level=1 - 2 * tail, method="percentile",
            rng=np.random.default_rng(7),
        ).confidence_interval  # fmt: skip
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.006)


@pytest.mark.parametrize("seed", range(10))
def test_the_sign_flip_over_recordings_is_scipys_permutation_test(seed: int) -> None:
    units = np.random.default_rng(seed).integers(-4, 5, size=9)
    expected = stats.permutation_test(
        (units,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert metrics.sign_flip_p(units.tolist()) == pytest.approx(min(1, expected.pvalue))


def test_recordings_that_stand_or_fall_together_widen_the_interval() -> None:
    together = [int(recording % 2) for recording in range(20) for _ in range(10)]
    recordings = [f"rec{recording}" for recording in range(20) for _ in range(10)]
    _, clustered = metrics.accuracy_interval(together, recordings)
    _, alone = metrics.accuracy_interval(together, [str(i) for i in range(200)])
    assert clustered.high - clustered.low > 2.5 * (alone.high - alone.low)


def test_agreement_within_a_recording_is_no_extra_evidence() -> None:
    model, parent = [1] * 30, [0] * 30
    recordings = [f"rec{i // 10}" for i in range(30)]
    found = metrics.compare(model, parent, recordings)
    assert found.p == pytest.approx(2 / 2**3)
    assert found.p_mcnemar < 1e-8


def test_ten_questions_of_two_recordings_give_a_wide_interval_that_says_why() -> None:
    accuracy, interval = metrics.accuracy_interval([1] * 10, ["a"] * 5 + ["b"] * 5)
    assert accuracy == 1.0
    assert interval.low == pytest.approx(metrics.wilson(10, 10)[0])
    assert "Wilson" in interval.method
    assert "2 recordings" in interval.method


def test_a_perfect_score_on_many_recordings_is_not_certainty() -> None:
    _, interval = metrics.accuracy_interval([1] * 40, [str(i) for i in range(40)])
    assert interval.low < 0.95
    assert "no spread" in interval.method


def test_no_difference_at_all_still_has_a_width() -> None:
    found = metrics.compare([1, 0] * 20, [1, 0] * 20, [str(i) for i in range(40)])
    assert found.difference == 0
    assert found.p == 1
    assert found.interval.low < 0 < found.interval.high


def test_the_same_seed_gives_the_same_interval() -> None:
    correct, recordings = [1, 0, 1, 1] * 10, [str(i % 20) for i in range(40)]
    assert metrics.cluster_bootstrap(correct, recordings) == metrics.cluster_bootstrap(correct, recordings)
    other = metrics.Settings(seed=1, resamples=101)
    assert metrics.cluster_bootstrap(correct, recordings, other) != metrics.cluster_bootstrap(correct, recordings)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held, rounds = np.random.default_rng(3), 0, 300
    recordings = [f"rec{i // 5}" for i in range(60)]
    for _ in range(rounds):
        skill = np.repeat(rng.beta(3, 2, size=12), 5)  # recordings differ; the mean skill is 0.6
        correct = (rng.random(60) < skill).astype(int).tolist()
        low, high = metrics.cluster_bootstrap(correct, recordings, QUICK)
        held += low <= 0.6 <= high
    assert 0.90 <= held / rounds <= 0.99


def test_baselines() -> None:
    assert metrics.majority_baseline([0, 1, 1, 2]) == 0.5
    assert metrics.chance([4, 4, 2]) == pytest.approx(1 / 3)


def test_groups_are_scored_apart_and_cover_everything() -> None:
    table = metrics.by_group([1, 0, 1], ["a", "a", "b"], ["sign", "sign", "order"], QUICK)
    assert [(name, group.n, group.accuracy) for name, group in table.items()] == [("sign", 2, 0.5), ("order", 1, 1.0)]


def test_small_scores_say_that_they_claim_nothing() -> None:
    assert metrics.too_few(10, 10) == "n = 10: too few to claim anything"
    assert "1 recording:" in (metrics.too_few(500, 1) or "")
    assert metrics.too_few(500, 60) is None


def test_the_recovery_is_the_ratio_of_accuracies_and_its_interval_holds_it() -> None:
    parent = [1] * 80 + [0] * 40
    model = [1] * 70 + [0] * 50
    found = metrics.recovery(model, parent, [f"r{i}" for i in range(120)], metrics.Settings(resamples=2000))
    assert found is not None
    share, interval = found
    assert share == pytest.approx(70 / 80)
    # 10 losses of 80: by the delta method ±1.96 · sqrt(0.125 · 0.875 / 80)
    assert interval.low == pytest.approx(0.80, abs=0.015)
    assert interval.high == pytest.approx(0.95, abs=0.015)


def test_equal_answers_recover_all_and_the_interval_is_not_a_point() -> None:
    found = metrics.recovery([1, 0] * 60, [1, 0] * 60, [f"r{i}" for i in range(120)], metrics.Settings(resamples=500))
    assert found is not None
    assert found[0] == 1
    assert found[1].low < 1 < found[1].high
    assert metrics.recovery([1, 0], [0, 0], ["a", "b"]) is None
