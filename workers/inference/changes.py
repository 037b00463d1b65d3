"""Questions that a model and its parent answer otherwise: a few of each direction, for people to look at."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from shared.calibration import confidence
from shared.schema import Clip, Prediction, Question

SHOWN = 3  #: questions of each direction

Predictions = Mapping[str, Prediction]  #: by question id


def changed(
    questions: list[Question], clips: Mapping[str, Clip], ours: Predictions, theirs: Predictions
) -> dict[str, list[dict[str, Any]]]:
    """Of the questions that went from wrong to right (`won`) and back (`lost`), the ones that changed most.

    One of each recording comes before a second of any; of a recording, the one where the log-odds of the right answer
    moved furthest. Each with its clip, choices, right answer, and both models' choices and confidences.
    """
    found: dict[str, list[tuple[float, Question]]] = {"won": [], "lost": []}
    for question in questions:
        right, before = (side[question.id].choice == question.answer for side in (ours, theirs))
        if right != before:
            moved = _log_odds(question, ours[question.id]) - _log_odds(question, theirs[question.id])
            found["won" if right else "lost"].append((abs(moved), question))
    return {
        which: [_shown(question, clips[question.clip], ours, theirs) for question in _spread(ranked, clips)]
        for which, ranked in found.items()
    }


def _spread(ranked: list[tuple[float, Question]], clips: Mapping[str, Clip]) -> list[Question]:
    turns: Counter[str] = Counter()
    order: list[tuple[int, float, str, Question]] = []
    for moved, question in sorted(ranked, key=lambda item: (-item[0], item[1].id)):
        recording = clips[question.clip].recording
        order.append((turns[recording], -moved, question.id, question))
        turns[recording] += 1
    return [question for *_, question in sorted(order, key=lambda item: item[:3])[:SHOWN]]


def _log_odds(question: Question, prediction: Prediction) -> float:
    assert question.answer is not None
    share = confidence(prediction.logprobs, question.offered, question.answer)
    share = min(max(share, 1e-9), 1 - 1e-9)  # certainty has no odds
    return math.log(share / (1 - share))


def _shown(question: Question, clip: Clip, ours: Predictions, theirs: Predictions) -> dict[str, Any]:
    return {
        "question": question.id,
        "text": question.text,
        "choices": [choice.text for choice in question.choices],
        "category": question.category,
        "answer": question.answer,
        "clip": {key: getattr(clip, key) for key in ("digest", "name", "recording", "width", "height")},
        **{name: _said(question, side[question.id]) for name, side in (("before", theirs), ("now", ours))},
    }


def _said(question: Question, prediction: Prediction) -> dict[str, Any]:
    sure = confidence(prediction.logprobs, question.offered, prediction.choice)
    return {"choice": prediction.choice, "confidence": sure}
