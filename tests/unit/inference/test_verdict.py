"""The verdict on a checkpoint: what flipped, how far apart the answers are, and what the gate makes of it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.context import LocalContext
from shared.contracts import EvaluateRecipe, Gate
from shared.schema import Choice, Clip, Origin, Prediction, Question, write_jsonl, write_rows
from workers.inference import verdict
from workers.inference.evaluate import evaluate

N = 120
#: Of 120 questions, each on its own recording: 24 lost, 12 won, 6 wrong otherwise; the parent has 90 right.
LOST, WON, OTHER, RIGHT = range(24), range(90, 102), range(102, 108), range(90)


def a_question(number: int) -> tuple[Question, Clip]:
    clip = Clip(
        digest=f"{number:064x}", name=f"{number}.mp4", recording=f"r{number}", size_bytes=1, seconds=4, fps=10,
        width=384, height=256, codec="h264",
    )  # fmt: skip
    choices = tuple(Choice(label=label, text=f"choice {label}") for label in "ABCD")
    category = "sign" if number % 2 else "light"
    question = Question(
        id=f"q{number}", clip=clip.digest, text="Which?", choices=choices, answer=0, category=category,
        origin=Origin(answer="human"),
    )  # fmt: skip
    return question, clip


def predictions(folder: Path, choices: list[int], shift: float) -> Path:
    folder.mkdir()
    rows = [
        Prediction(
            question=f"q{number}", choice=choice, logprobs=(-1.0 - shift * (number + 1), -1.4, -1.4, -1.4),
            prompt_tokens=60, seconds=0.25,
        )
        for number, choice in enumerate(choices)
    ]  # fmt: skip
    write_jsonl(folder / "predictions.jsonl", rows)
    return folder


def judged(tmp_path: Path, gate: Gate | None, n: int = N, **card: Any) -> dict[str, Any]:
    """The verdict that the evaluate stage commits."""
    made = [a_question(number) for number in range(n)]
    write_rows(tmp_path / "data", [question for question, _ in made], {clip.digest: clip for _, clip in made})
    theirs = [0 if number in RIGHT else 1 for number in range(n)]
    ours = [
        1 if number in LOST else 0 if number in WON else 2 if number in OTHER else theirs[number] for number in range(n)
    ]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "card.json").write_text(json.dumps(card))
    (tmp_path / "out").mkdir()
    inputs = {
        "data": [tmp_path / "data"],
        "predictions": [predictions(tmp_path / "ours", ours, 0.01)],
        "parent": [predictions(tmp_path / "theirs", theirs, 0.0)],
        "model": [tmp_path / "model"],
    }
    recipe = EvaluateRecipe(resamples=500, gate=gate)
    scores = evaluate(inputs, recipe, tmp_path / "out", LocalContext(tmp_path / "scratch"))
    written: dict[str, Any] = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert scores["verdict"] == written
    return written


def test_what_was_kept_is_told_with_its_interval_and_what_flipped_by_category(tmp_path: Path) -> None:
    found = judged(tmp_path, None, bytes={"bf16": 300, "quantized": 120})
    assert (found["state"], found["gate"]) == ("measured", None)
    assert found["accuracy"]["is"] == pytest.approx(78 / 120)
    assert found["parent_accuracy"]["is"] == pytest.approx(90 / 120)
    assert found["recovery"]["is"] == pytest.approx(78 / 90)
    low, high = found["recovery"]["ci95"]
    assert low < 78 / 90 < high < 1.05
    assert found["difference"]["is"] == pytest.approx(-12 / 120)
    assert {key: found["flips"][key] for key in ("n", "flipped", "won", "lost")} == {
        "n": 120, "flipped": 42, "won": 12, "lost": 24,
    }  # fmt: skip
    assert found["flips"]["by_category"] == {
        name: {"n": 60, "flipped": 21, "won": 6, "lost": 12} for name in ("light", "sign")
    }
    # one of four choices is 0.01 further off with each question
    assert found["logprobs"]["max"] == pytest.approx(1.2)
    assert found["logprobs"]["mean"] == pytest.approx(0.01 * sum(range(1, 121)) / 120 / 4)
    assert found["logprobs"]["question"] == "q119"
    assert found["size"] == {"bytes": 120, "parent_bytes": 300, "ratio": 2.5}
    assert found["p"] == pytest.approx(0.0652, abs=0.001)  # McNemar's exact test of 12 against 24


@pytest.mark.parametrize(
    ("gate", "state", "why"),
    [
        ({"max_drop": 0.11}, "promoted", "keeps"),
        ({"max_drop": 0.09}, "refused", "max_drop 0.09: difference -0.1000"),
        ({"max_drop": 0.11, "by": "interval"}, "refused", "lower end of its interval"),
        ({"min_recovery": 0.86}, "promoted", "keeps"),
        ({"min_recovery": 0.88}, "refused", r"min_recovery 0.88: recovery \+0.8667"),
        ({"min_recovery": 0.86, "by": "interval"}, "refused", "min_recovery 0.86"),
        ({"min_recovery": 0.5, "max_drop": 0.3, "by": "interval"}, "promoted", "keeps"),
        ({"min_recovery": 0.86, "max_drop": 0.01}, "refused", "^max_drop"),
    ],
)
def test_the_gate_promotes_or_refuses(tmp_path: Path, gate: dict[str, Any], state: str, why: str) -> None:
    found = judged(tmp_path, Gate.model_validate(gate))
    assert found["state"] == state
    assert re.search(why, found["why"])


def test_too_few_questions_decide_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, Gate(max_drop=0.01), n=90)
    assert found["state"] == "undecided"
    assert "n = 90: too few" in found["why"]


def test_what_just_reaches_the_gate_is_promoted() -> None:
    kept = (72 / 100) / (80 / 100)
    assert kept < 0.9, "in floating point"
    found = {"recovery": {"is": kept, "ci95": [0.8, 1.0]}}
    assert verdict.decide(found, Gate(min_recovery=0.9), None)[0] == "promoted"
    assert verdict.decide(found, Gate(min_recovery=0.9001), None)[0] == "refused"


def test_a_gate_that_asks_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="say max_drop"):
        Gate()


@pytest.mark.parametrize("told", [{}, {"bytes": 7}, {"bytes": {"quantised": 7}}])
def test_a_card_from_elsewhere_tells_no_sizes(tmp_path: Path, told: dict[str, Any]) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps(told), encoding="utf-8")
    assert verdict.sizes(card) is None
    assert verdict.sizes(tmp_path / "none.json") is None
