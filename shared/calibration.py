"""Calibration: whether a model that says 80% is right 80% of the time. Pure functions over confidences and outcomes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared.metrics import Interval, Settings, accuracy_interval, bounded_interval, per_recording

BINS = 10  #: of equal width over [0, 1], as in Guo et al. 2017, "On calibration of modern neural networks"


class Bin(NamedTuple):
    """Questions of like confidence."""

    low: float  #: confidences above this (the first bin's: from 0) …
    high: float  #: … up to this
    n: int
    confidence: float  #: their mean
    accuracy: float
    interval: Interval  #: of the accuracy, clustered by recording


class Calibration(NamedTuple):
    """How well confidences say how often the model is right."""

    ece: (
        float  #: expected calibration error: mean over questions of how far their bin's accuracy is from its confidence
    )
    floor: (
        float  #: ECE that chance alone gives a perfectly calibrated model with these confidences, questions independent
    )
    confidence: float  #: mean over all questions
    gap: float  #: mean confidence minus accuracy; above zero: overconfident
    interval: Interval  #: of the gap, clustered by recording
    bins: tuple[Bin, ...]  #: those that hold a question, by rising confidence


def confidence(logprobs: Sequence[float], offered: Sequence[int], choice: int) -> float:
    """Probability of `choice` among the choices that were `offered`, from one log-probability for each choice."""
    top = max(logprobs[index] for index in offered)
    return math.exp(logprobs[choice] - top) / sum(math.exp(logprobs[index] - top) for index in offered)


def measure(
    confidences: Sequence[float], correct: Sequence[int], recordings: Sequence[str], settings: Settings | None = None
) -> Calibration:
    """Calibration of a model's confidences, each in [0, 1], against its 0/1 outcomes; one question at least."""
    sure, right, n = np.asarray(confidences, float), np.asarray(correct, float), len(correct)
    which = np.searchsorted(np.arange(1, BINS) / BINS, sure)  # edges below it
    bins, error, noise = [], 0.0, 0.0
    for number in np.unique(which).tolist():
        inside = np.flatnonzero(which == number).tolist()
        inside_recordings = [recordings[index] for index in inside]
        accuracy, interval = accuracy_interval(right[inside].astype(int).tolist(), inside_recordings, settings)
        stated = float(sure[inside].mean())
        bins.append(Bin(number / BINS, (number + 1) / BINS, len(inside), stated, accuracy, interval))
        error += len(inside) / n * abs(accuracy - stated)
        # mean of |normal| is its deviation times √(2/π); right answers of a bin spread as Σ p(1 - p)
        noise += math.sqrt(2 / math.pi * float((sure[inside] * (1 - sure[inside])).sum())) / n
    gap = float((sure - right).mean())
    totals = per_recording([sure - right, np.ones(n)], recordings)
    interval = bounded_interval(gap, totals, lambda drawn: drawn[:, 0] / drawn[:, 1], n, settings)
    return Calibration(error, noise, float(sure.mean()), gap, interval, tuple(bins))
