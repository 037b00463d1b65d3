"""The verdict on a checkpoint: what it kept of its parent on the same questions and engine, and if that is enough."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import metrics
from shared.contracts import Gate
from shared.schema import Prediction, Question
from shared.verdicts import FILE

Predictions = Mapping[str, Prediction]  #: by question id

_ROUNDING = 1e-9  #: 72 of 80 rightly is 0.9 of them, but 0.72 / 0.8 is a little less


def judge(
    questions: Sequence[Question],
    recordings: Sequence[str],
    ours: Predictions,
    theirs: Predictions,
    settings: metrics.Settings,
    gate: Gate | None,
) -> dict[str, Any]:
    """Compare a checkpoint's predictions with its parent's on answered questions.

    Returns:
        `state` (promoted, refused, undecided: too few to claim anything, measured: no gate), `why`, the gate, both
        accuracies, their difference and the recovery with intervals, the paired test, flipped answers by category, and
        how far apart the log-probabilities of the choices are.
    """
    right, before = (
        [int(side[question.id].choice == question.answer) for question in questions] for side in (ours, theirs)
    )
    compared = metrics.compare(right, before, recordings, settings)
    kept = metrics.recovery(right, before, recordings, settings)
    found: dict[str, Any] = {
        "n": len(questions),
        "recordings": len(set(recordings)),
        "accuracy": _share(right, recordings, settings),
        "parent_accuracy": _share(before, recordings, settings),
        "difference": _with_ends(compared.difference, compared.interval),
        "recovery": _with_ends(*kept) if kept else None,
        "p": compared.p,
        "flips": flips(questions, ours, theirs),
        "logprobs": logprobs(questions, ours, theirs),
    }
    claim = metrics.too_few(len(questions), len(set(recordings)))
    state, why = decide(found, gate, claim)
    return {"state": state, "why": why, "gate": gate.model_dump() if gate else None, **found}


def decide(found: Mapping[str, Any], gate: Gate | None, claim: str | None) -> tuple[str, str]:
    """The state, and in words why."""
    if gate is None:
        return "measured", "no gate was set"
    failed = []
    for name, floor, said in (
        ("difference", None if gate.max_drop is None else -gate.max_drop, "max_drop {:g}"),
        ("recovery", gate.min_recovery, "min_recovery {:g}"),
    ):
        if floor is None:
            continue
        value = found[name]
        if value is None:
            return "undecided", "the parent answers nothing rightly: there is nothing to keep"
        reached, what = (
            (value["ci95"][0], "lower end of its interval") if gate.by == "interval" else (value["is"], name)
        )
        if reached < floor - _ROUNDING:
            failed.append(f"{said.format(abs(floor))}: {name} {value['is']:+.4f}, {what} {reached:+.4f}")
    if claim:  # after the rest: what is missing is said first
        return "undecided", claim
    return ("refused", "; ".join(failed)) if failed else ("promoted", "it keeps what the gate asks")


def flips(questions: Sequence[Question], ours: Predictions, theirs: Predictions) -> dict[str, Any]:
    """Questions answered otherwise than by the parent: how many, won and lost, in all and by category."""
    table: dict[str, Counter[str]] = {}
    for question in questions:
        row = table.setdefault(question.category, Counter(n=0, flipped=0, won=0, lost=0))
        choice, before = ours[question.id].choice, theirs[question.id].choice
        row["n"] += 1
        row["flipped"] += choice != before
        row["won"] += choice == question.answer != before
        row["lost"] += before == question.answer != choice
    whole = sum(table.values(), Counter(n=0))
    names = ("n", "flipped", "won", "lost")
    by_category = {name: {key: row[key] for key in names} for name, row in sorted(table.items())}
    return {key: whole[key] for key in names} | {"by_category": by_category}


def logprobs(questions: Sequence[Question], ours: Predictions, theirs: Predictions) -> dict[str, Any]:
    """Differences of the offered choices' log-probabilities, in nats: their mean, the largest and where it is."""
    apart = {
        question.id: [
            abs(ours[question.id].logprobs[choice] - theirs[question.id].logprobs[choice])
            for choice in question.offered
        ]
        for question in questions
    }
    every = [difference for differences in apart.values() for difference in differences]
    worst = max(apart, key=lambda name: max(apart[name]))
    return {"mean": sum(every) / len(every), "max": max(apart[worst]), "question": worst}


def sizes(card: Path) -> dict[str, Any] | None:
    """Bytes of the weights against the parent's in bfloat16, None where the card tells none."""
    told = json.loads(card.read_text(encoding="utf-8")).get("bytes") if card.is_file() else None
    if not isinstance(told, dict) or not {"quantized", "bf16"} <= told.keys():  # a card from elsewhere
        return None
    return {"bytes": told["quantized"], "parent_bytes": told["bf16"], "ratio": told["bf16"] / told["quantized"]}


def write(out: Path, verdict: Mapping[str, Any]) -> None:
    (out / FILE).write_text(json.dumps(verdict, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _share(right: Sequence[int], recordings: Sequence[str], settings: metrics.Settings) -> dict[str, Any]:
    return _with_ends(*metrics.accuracy_interval(right, recordings, settings))


def _with_ends(value: float, interval: metrics.Interval) -> dict[str, Any]:
    return {"is": value, "ci95": [interval.low, interval.high]}
