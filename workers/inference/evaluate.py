"""Evaluate: predictions against the answers, with error bars, the paired test against the parent, and the leaks.

Beside accuracy: by what groups of questions, how well confidences are calibrated, and which letters are preferred.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from shared import calibration, metrics, positions
from shared.breakdown import GROUPS
from shared.context import Context
from shared.contracts import EvaluateRecipe
from shared.errors import InputError
from shared.leaks import find as find_leaks
from shared.schema import Prediction, Question, Rows, read_jsonl
from workers.inference import verdict
from workers.inference.changes import changed


class Scored(NamedTuple):
    """The answered questions of a test set, in step: one entry of each list for each question."""

    questions: list[Question]
    recordings: list[str]
    answers: list[int]
    unanswered: int  #: questions without an answer, left out


def evaluate(inputs: dict[str, list[Path]], recipe: EvaluateRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Score `predictions` on the answered rows of `data`; writes scores.json and returns what it holds.

    Where no row has an answer (a public test), there is no accuracy, and the scores say so.

    Raises:
        InputError: a question that counts has no (or no usable) prediction, or the model was trained on its clip or
            recording and the recipe does not say that such scores are to be marked.
    """
    data = Rows(inputs["data"])
    if not data.questions:
        raise InputError("the test set has no rows; name data that has some as `report.test`")
    predictions = read_predictions(inputs["predictions"])
    settings = metrics.Settings(recipe.confidence, recipe.resamples, recipe.seed)
    if any(question.answer is not None for question in data.questions):
        scored = answered(data)
        correct = outcomes(scored, predictions)
        scores = score(scored, correct, settings) | costs(scored.questions, predictions)
        scores |= confidences(scored, correct, predictions, settings)
        scores["parent"] = against_parent(scored, correct, predictions, data, inputs.get("parent", []), settings)
        scores |= leaks(scored, correct, data, Rows(inputs.get("seen", [])), recipe)
        scores["verdict"] = verdict_on(scored, predictions, inputs, recipe, settings)
    else:
        scores = unscored(data, predictions)
    if scores.get("verdict"):
        verdict.write(out, scores["verdict"])
    (out / "scores.json").write_text(json.dumps(scores, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    ctx.progress(1, 1, "table", accuracy=scores["accuracy"])
    return scores


def answered(data: Rows) -> Scored:
    """The questions of `data` whose answer is known, each once.

    Raises:
        InputError: a question's clip is not listed, or one id stands for two questions.
    """
    unique: dict[str, Question] = {}
    for question in data.questions:
        if unique.setdefault(question.id, question) != question:
            raise InputError(f"question {question.id}: two different rows share this id; import the data again")
    questions = [q for q in unique.values() if q.answer is not None]
    if stray := next((q for q in questions if q.clip not in data.clips), None):
        raise InputError(f"question {stray.id}: clip {stray.clip[:12]} is not in clips.jsonl; import the data again")
    return Scored(
        questions,
        [data.clips[q.clip].recording for q in questions],
        [q.answer for q in questions if q.answer is not None],
        len(unique) - len(questions),
    )


def read_predictions(folders: list[Path]) -> dict[str, Prediction]:
    """Every prediction by question id.

    Raises:
        InputError: two predictions on one question disagree.
    """
    found: dict[str, Prediction] = {}
    for folder in folders:
        path = folder / "predictions.jsonl"
        for prediction in read_jsonl(path, Prediction):
            if found.setdefault(prediction.question, prediction).choice != prediction.choice:
                raise InputError(f"{path}: question {prediction.question}: answered twice, differently")
    return found


def outcomes(scored: Scored, predictions: dict[str, Prediction], whose: str = "the model") -> list[int]:
    """1 where the predicted choice is the answer, in the order of `scored`.

    Raises:
        InputError: a prediction is missing, or names a choice that the question does not have.
    """
    _all_predicted(scored.questions, predictions, whose)
    return [int(predictions[q.id].choice == q.answer) for q in scored.questions]


def _all_predicted(questions: list[Question], predictions: dict[str, Prediction], whose: str) -> None:
    missing = [q.id for q in questions if q.id not in predictions]
    if missing:
        raise InputError(
            f"predictions.jsonl: {whose} has no prediction for question {missing[0]}"
            f" ({len(missing)} of {len(questions)} missing): predict on the whole test set first"
        )
    for question in questions:
        found, count = predictions[question.id], len(question.choices)
        if found.choice not in question.offered:
            raise InputError(f"predictions.jsonl: question {question.id}: no choice {found.choice}; predict it again")
        if len(found.logprobs) != count:
            said = f"{len(found.logprobs)} log-probabilities for {count} choices"
            raise InputError(f"predictions.jsonl: question {question.id}: {said}; predict it again")


def score(scored: Scored, correct: list[int], settings: metrics.Settings) -> dict[str, Any]:
    """Accuracy with its interval, what a guess would get, and the tables."""
    accuracy, interval = metrics.accuracy_interval(correct, scored.recordings, settings)
    recordings = len(set(scored.recordings))
    return {
        "n": len(correct),
        "recordings": recordings,
        "unanswered": scored.unanswered,
        "accuracy": accuracy,
        "ci95": [interval.low, interval.high],
        "ci_method": interval.method,
        "confidence": settings.confidence,
        "majority": metrics.majority_baseline(scored.answers),
        "chance": metrics.chance([len(q.offered) for q in scored.questions]),
        "claim": metrics.too_few(len(correct), recordings),
        **{
            f"by_{name}": _table(scored, correct, [group(q) for q in scored.questions], settings)
            for name, group in GROUPS.items()
        },
    }


def confidences(
    scored: Scored, correct: list[int], predictions: dict[str, Prediction], settings: metrics.Settings
) -> dict[str, Any]:
    """`calibration` of the choices' log-probabilities, and `positions`: the letters that were right and chosen."""
    asked = [(q, predictions[q.id]) for q in scored.questions]
    sure = [calibration.confidence(found.logprobs, q.offered, found.choice) for q, found in asked]
    calibrated = calibration.measure(sure, correct, scored.recordings, settings)
    chosen = [found.choice for _, found in asked]
    offered = [q.offered for q in scored.questions]
    placed = positions.measure(scored.answers, chosen, offered, scored.recordings, settings)
    return {
        "calibration": _figures(calibrated) | {"bins": [_figures(found) for found in calibrated.bins]},
        "positions": {
            "confusion": placed.confusion,
            "places": [_figures(place) for place in placed.places],
            "leaning": placed.leaning,
        },
    }


def unscored(data: Rows, predictions: dict[str, Prediction]) -> dict[str, Any]:
    """What can be said of predictions on questions whose answers nobody knows here: their number and their cost."""
    unique = {question.id: question for question in data.questions}
    questions = list(unique.values())
    _all_predicted(questions, predictions, "the model")
    n = len(questions)
    return {
        "n": n,
        "recordings": len({data.clips[q.clip].recording for q in questions}),
        "unanswered": n,
        "accuracy": None,
        "claim": f"n = {n} questions without known answers: nothing can be claimed",
        **{f"by_{name}": {} for name in GROUPS},
        "calibration": None,
        "positions": None,
        "parent": None,
    } | costs(questions, predictions)


def costs(questions: list[Question], predictions: dict[str, Prediction]) -> dict[str, Any]:
    """Mean seconds and prompt tokens of a question that the model was asked; how many it was not."""
    asked = [found for q in questions if (found := predictions[q.id]).unseen is None]
    n = max(1, len(asked))
    return {
        "seconds_per_question": sum(p.seconds for p in asked) / n,
        "prompt_tokens": sum(p.prompt_tokens for p in asked) / n,
        "unseen": {"questions": len(questions) - len(asked)},
    }


def against_parent(
    scored: Scored,
    correct: list[int],
    ours: dict[str, Prediction],
    data: Rows,
    folders: list[Path],
    settings: metrics.Settings,
) -> dict[str, Any] | None:
    """The paired comparison with the parent's predictions on the same questions, None without a parent."""
    if not folders:
        return None
    parent = read_predictions(folders)
    theirs = outcomes(scored, parent, "the parent")
    found = metrics.compare(correct, theirs, scored.recordings, settings)
    return {
        "n": len(theirs),
        "accuracy": sum(theirs) / len(theirs),
        "difference": found.difference,
        "ci95": [found.interval.low, found.interval.high],
        "ci_method": found.interval.method,
        "p": found.p,
        "p_mcnemar": found.p_mcnemar,
        "wins": found.wins,
        "losses": found.losses,
        "changed": changed(scored.questions, data.clips, ours, parent),
    }


def verdict_on(
    scored: Scored,
    predictions: dict[str, Prediction],
    inputs: dict[str, list[Path]],
    recipe: EvaluateRecipe,
    settings: metrics.Settings,
) -> dict[str, Any] | None:
    """What a checkpoint kept of its parent, None where it is not asked for: no `model`, or no parent."""
    if not inputs.get("model") or not inputs.get("parent"):
        return None
    (folder,) = inputs["model"]
    theirs = read_predictions(inputs["parent"])
    found = verdict.judge(scored.questions, scored.recordings, predictions, theirs, settings, recipe.gate)
    return found | {"size": verdict.sizes(folder / "card.json")}


def leaks(scored: Scored, correct: list[int], data: Rows, seen: Rows, recipe: EvaluateRecipe) -> dict[str, Any]:
    """What of the test the model was trained on: `leaked`, and `transductive` where by a teacher's answers alone.

    Raises:
        InputError: something leaked, and the recipe refuses that.
    """
    found = find_leaks(scored.questions, data.clips, seen.questions, seen.clips)
    recordings = sorted({r for r, known in zip(scored.recordings, found.leaked, strict=True) if known})
    if recordings and recipe.leaks == "refuse":
        raise InputError(
            f"the model was trained (or calibrated) on {len(recordings)} recordings of the test ({sum(found.leaked)} of"
            f" its {len(correct)} questions; the first is {recordings[0]!r}): take them out of that data, or set"
            " `leaks: mark` under `report:` in the pipeline file"
        )
    clean = [right for right, known in zip(correct, found.leaked, strict=True) if not known]
    without = sum(clean) / len(clean) if clean else None
    derived = sum(row.origin.test_derived for row in seen.questions)
    return {
        "leaked": {"questions": sum(found.leaked), "recordings": len(recordings), "accuracy_without": without},
        "transductive": {"questions": sum(found.transductive), "rows": derived},
    }


def _table(scored: Scored, correct: list[int], groups: list[str], settings: metrics.Settings) -> dict[str, Any]:
    return {
        name: {
            "n": group.n,
            "recordings": group.recordings,
            "accuracy": group.accuracy,
            "ci95": [group.interval.low, group.interval.high],
        }
        for name, group in metrics.by_group(correct, scored.recordings, groups, settings).items()
    }


def _figures(found: Any) -> dict[str, Any]:
    """A named tuple's plain figures, its interval as `ci95`."""
    figures = {key: value for key, value in found._asdict().items() if isinstance(value, int | float)}
    return figures | {"ci95": [found.interval.low, found.interval.high]}
