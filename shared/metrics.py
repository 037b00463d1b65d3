"""Accuracy with its error bar, and whether one model beats another: pure functions over 0/1 outcomes.

Questions on one source recording stand or fall together, so the recording is the unit that is
resampled and tested, never the question. An outcome is 1 where the model chose the right answer.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

FEW_RECORDINGS = 10  #: below this the bootstrap over recordings is too narrow to stand alone
FEW_QUESTIONS = 100  #: below this a score is shown, but nothing is claimed from it
_CHUNK = 4_000_000  #: resampled counts held in memory at a time


class Interval(NamedTuple):
    """Two ends, and in words how they were found."""

    low: float
    high: float
    method: str


class Settings(NamedTuple):
    """How intervals are computed."""

    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0


class Comparison(NamedTuple):
    """A model against its parent on the same questions."""

    difference: float  #: accuracy of the model minus the parent's
    interval: Interval
    p: float  #: two-sided, exact, recordings as units: the one to report
    p_mcnemar: float  #: two-sided, exact, questions as units: too small where recordings agree
    wins: int  #: questions only the model answers rightly
    losses: int  #: questions only the parent answers rightly


class Group(NamedTuple):
    """One category's, or one language's, share of a score."""

    n: int
    recordings: int
    accuracy: float
    interval: Interval


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share (Wilson 1927); questions as units."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def agresti_min(wins: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a difference of paired shares, questions as units (Agresti and Min 2005: half added to a cell)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    won, lost, total = wins + 0.5, losses + 0.5, n + 2
    centre = (won - lost) / total
    half = z / total * math.sqrt(won + lost - (won - lost) ** 2 / total)
    return max(-1.0, centre - half), min(1.0, centre + half)


def cluster_bootstrap(
    values: Sequence[int], recordings: Sequence[str], settings: Settings | None = None
) -> tuple[float, float]:
    """Interval for the mean of `values`: expanded percentiles, whole recordings drawn with replacement.

    Plain percentiles hold the truth about 90% of the time at 10 to 20 recordings; expanding them as
    Student's t would mends that (Hesterberg 2015, "What teachers should know about the bootstrap").
    """
    sums, sizes = _per_recording(values, recordings)
    return cluster_interval(np.stack([sums, sizes], axis=1), lambda drawn: drawn[:, 0] / drawn[:, 1], settings)


def cluster_interval(
    totals: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], settings: Settings | None = None
) -> tuple[float, float]:
    """Interval for a statistic of sums over recordings, by the bootstrap of `cluster_bootstrap`.

    Args:
        totals: [recordings, columns], what each recording adds to each sum.
        statistic: [draws, columns], the sums of each draw → [draws].
    """
    confidence, resamples, seed = settings or Settings()
    rng, count = np.random.default_rng(seed), len(totals)
    found: list[np.ndarray] = []
    for start in range(0, resamples, step := max(1, _CHUNK // count)):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - start))
        found.append(statistic(drawn @ totals))
    tail = _expanded_tail(count, confidence)
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


def bounded_interval(
    estimate: float,
    totals: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    n: int,
    settings: Settings | None = None,
) -> Interval:
    """Interval for a mean over `n` questions of values within [-1, 1]; arguments as in `cluster_interval`.

    With few recordings it covers Hoeffding's bound (1963) too, questions as units.
    """
    settings = settings or Settings()
    half = math.sqrt(2 * math.log(2 / (1 - settings.confidence)) / n)
    by_question = max(-1.0, estimate - half), min(1.0, estimate + half)
    ends = cluster_interval(totals, statistic, settings)
    return _widened(estimate, ends, len(totals), by_question, "Hoeffding")


def accuracy_interval(
    correct: Sequence[int], recordings: Sequence[str], settings: Settings | None = None
) -> tuple[float, Interval]:
    """Accuracy and its interval, clustered by recording."""
    settings = settings or Settings()
    questions_as_units = wilson(sum(correct), len(correct), settings.confidence)
    return _mean(correct), _interval(correct, recordings, settings, questions_as_units, "Wilson")


def compare(
    model: Sequence[int], parent: Sequence[int], recordings: Sequence[str], settings: Settings | None = None
) -> Comparison:
    """Paired comparison of two models' outcomes on the same questions, in the same order."""
    settings = settings or Settings()
    differences = [a - b for a, b in zip(model, parent, strict=True)]
    wins, losses = differences.count(1), differences.count(-1)
    questions_as_units = agresti_min(wins, losses, len(differences), settings.confidence)
    sums, _ = _per_recording(differences, recordings)
    return Comparison(
        difference=_mean(differences),
        interval=_interval(differences, recordings, settings, questions_as_units, "Agresti-Min"),
        p=sign_flip_p(sums.tolist()),
        p_mcnemar=sign_flip_p(differences),
        wins=wins,
        losses=losses,
    )


def recovery(
    model: Sequence[int], parent: Sequence[int], recordings: Sequence[str], settings: Settings | None = None
) -> tuple[float, Interval] | None:
    """Accuracy as a share of the parent's on the same questions, and its interval; None where the parent has none."""
    settings = settings or Settings()
    share = _mean(parent)
    if not share:
        return None
    ours, theirs = _per_recording(model, recordings)[0], _per_recording(parent, recordings)[0]
    # a draw without any right answer of the parent's says nothing; one right answer stands in for it
    ends = cluster_interval(
        np.stack([ours, theirs], axis=1), lambda drawn: drawn[:, 0] / np.maximum(drawn[:, 1], 1), settings
    )
    differences = [a - b for a, b in zip(model, parent, strict=True)]
    wins, losses = differences.count(1), differences.count(-1)
    low, high = agresti_min(wins, losses, len(differences), settings.confidence)
    by_question = (1 + low / share, 1 + high / share)
    count = len(set(recordings))
    return _mean(model) / share, _widened(_mean(model) / share, ends, count, by_question, "Agresti-Min")


def sign_flip_p(differences: Iterable[int]) -> float:
    """Two-sided p of the paired sign-flip test: how often |sum| is as large when each unit's sign is a fair coin.

    Exact for any number of units: the null distribution of a sum of ±d is a product of two-point
    distributions, built up by adding one unit at a time. On ±1 it is McNemar's exact test.
    """
    units = [d for d in differences if d]
    observed, total = abs(sum(units)), sum(map(abs, units))
    null = np.zeros(2 * total + 1)  # [sum + total] -> probability
    null[total] = 1.0
    for unit in units:
        null = (np.roll(null, unit) + np.roll(null, -unit)) / 2
    sums = np.arange(-total, total + 1)
    return min(1.0, float(null[np.abs(sums) >= observed].sum()))


def majority_baseline(answers: Sequence[int]) -> float:
    """Accuracy of always giving the position that is right most often (known only with hindsight, so a high bar)."""
    return Counter(answers).most_common(1)[0][1] / len(answers)


def chance(choices: Sequence[int]) -> float:
    """Expected accuracy of a fair guess; `choices` counts each question's choices."""
    return sum(1 / count for count in choices) / len(choices)


def by_group(
    correct: Sequence[int], recordings: Sequence[str], groups: Sequence[str], settings: Settings | None = None
) -> dict[str, Group]:
    """Accuracy within each group, most questions first."""
    table: dict[str, Group] = {}
    for name, n in sorted(Counter(groups).items(), key=lambda item: (-item[1], item[0])):
        rows = [i for i, group in enumerate(groups) if group == name]
        inside = [recordings[i] for i in rows]
        accuracy, interval = accuracy_interval([correct[i] for i in rows], inside, settings)
        table[name] = Group(n, len(set(inside)), accuracy, interval)
    return table


def too_few(n: int, recordings: int) -> str | None:
    """Why a score supports no claim, None where it may."""
    if n < FEW_QUESTIONS:
        return f"n = {n}: too few to claim anything"
    if recordings < FEW_RECORDINGS:
        return f"{recordings} recording{'s' * (recordings != 1)}: too few to claim anything, however many questions"
    return None


def _interval(
    values: Sequence[int],
    recordings: Sequence[str],
    settings: Settings,
    by_question: tuple[float, float],
    by_question_name: str,
) -> Interval:
    """The bootstrap over recordings; widened to cover `by_question` where the bootstrap cannot see the spread.

    That is so with few recordings, and where every recording says the same: both would give an
    interval far too narrow, down to [1, 1].
    """
    ends = cluster_bootstrap(values, recordings, settings)
    return _widened(_mean(values), ends, len(set(recordings)), by_question, by_question_name)


def _widened(
    estimate: float,
    bootstrap: tuple[float, float],
    count: int,
    by_question: tuple[float, float],
    by_question_name: str,
) -> Interval:
    low, high = bootstrap
    method = f"bootstrap over {count} recordings"
    if count < FEW_RECORDINGS or low == high:
        low, high = min(low, by_question[0]), max(high, by_question[1])
        why = "too few" if count < FEW_RECORDINGS else "no spread"
        method = f"the wider of {by_question_name} and a {method} ({why} to rest on the bootstrap alone)"
    return Interval(min(low, estimate), max(high, estimate), method)


def _expanded_tail(count: int, confidence: float) -> float:
    """Share to cut off at each end: wider than (1 - confidence) / 2 the fewer units there are."""
    if count == 1:
        return 0.0
    t = student_t(count - 1, confidence)
    return NormalDist().cdf(-t * math.sqrt(count / (count - 1)))


def student_t(freedom: int, confidence: float) -> float:
    """Two-sided quantile of Student's t by its Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).

    Within 0.1% from 8 degrees of freedom at 95%; too small below, where `_interval` does not rest on it.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def per_recording(columns: Sequence[Sequence[float] | np.ndarray], recordings: Sequence[str]) -> np.ndarray:
    """[recordings, columns]: what each recording's questions add to the sum of each column."""
    _, which = np.unique(np.asarray(recordings), return_inverse=True)
    return np.stack([np.bincount(which, weights=np.asarray(values, dtype=float)) for values in columns], axis=1)


def _per_recording(values: Sequence[int], recordings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of values, and number of questions, of each recording."""
    _, which = np.unique(np.asarray(recordings), return_inverse=True)
    sums = np.bincount(which, weights=np.asarray(values, dtype=float)).astype(int)
    return sums, np.bincount(which)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
