"""Confusion over positions: which letter was right, which was chosen, and whether the model leans to one of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared.metrics import Interval, Settings, bounded_interval, per_recording


class Place(NamedTuple):
    """One place among the choices, 0 for A. Shares are of all questions."""

    answer: float  #: the right choice stands here
    chosen: float  #: the model chose it
    expected: float  #: it would have, were it as often right as it is and had no liking for a place
    excess: float  #: chosen minus expected: the bias
    interval: Interval  #: of the excess, clustered by recording, at a confidence that holds for all places together


class Positions(NamedTuple):
    """Counts over places, and the bias of each."""

    confusion: tuple[tuple[int, ...], ...]  #: [answer's place][chosen place] → questions
    places: tuple[Place, ...]
    leaning: tuple[int, ...]  #: places whose excess is beyond its interval


def measure(
    answers: Sequence[int],
    chosen: Sequence[int],
    offered: Sequence[Sequence[int]],
    recordings: Sequence[str],
    settings: Settings | None = None,
) -> Positions:
    """Confusion and bias of a model's choices.

    A test whose answers crowd at one place must not look like a model that does. A wrong choice without a liking for
    places falls on each other offered place alike, wherever the right one stands; from that, and the share of right
    answers, follows how often each place would be chosen. It takes for granted that what the choices say was put at
    places by chance.

    Args:
        answers: place of the right choice, for each question.
        chosen: place of the model's choice.
        offered: the places that had a choice to offer.
    """
    confidence, resamples, seed = settings or Settings()
    count, n = 1 + max(max(*places, answer) for places, answer in zip(offered, answers, strict=True)), len(answers)
    shared = Settings(1 - (1 - confidence) / count, resamples, seed)  # Bonferroni
    right = np.equal(answers, chosen).astype(float)
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (np.asarray(answers), np.asarray(chosen)), 1)
    places = []
    for place in range(count):
        here = np.equal(answers, place).astype(float)
        picked = np.equal(chosen, place).astype(float)
        by_chance = [
            1 / len(wrong) if place in (wrong := [other for other in among if other != answer]) else 0.0
            for answer, among in zip(answers, offered, strict=True)
        ]
        totals = per_recording([picked, here, by_chance, right, np.ones(n)], recordings)
        expected, excess = float(_expected(totals.sum(axis=0)[None])[0]), float(_excess(totals.sum(axis=0)[None])[0])
        interval = bounded_interval(excess, totals, _excess, n, shared)
        places.append(Place(float(here.mean()), float(picked.mean()), expected, excess, interval))
    leaning = tuple(number for number, place in enumerate(places) if not place.interval.low <= 0 <= place.interval.high)
    return Positions(tuple(tuple(row) for row in confusion.tolist()), tuple(places), leaning)


def _expected(totals: np.ndarray) -> np.ndarray:
    """[draws, (chosen, right here, by chance here, right anywhere, questions)] → [draws]."""
    _, here, by_chance, right, n = totals.T
    return np.asarray((right / n * here + (1 - right / n) * by_chance) / n)


def _excess(totals: np.ndarray) -> np.ndarray:
    return np.asarray(totals[:, 0] / totals[:, 4] - _expected(totals))
