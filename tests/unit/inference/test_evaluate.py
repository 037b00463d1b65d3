"""Evaluate: predictions are joined by question, and nothing missing, leaked or left out goes unsaid."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shared.context import LocalContext
from shared.contracts import EvaluateRecipe
from shared.errors import InputError
from shared.schema import Choice, Clip, Origin, Prediction, Question, read_jsonl, write_jsonl, write_rows
from workers.inference.evaluate import evaluate

RECIPE = EvaluateRecipe(resamples=200)
MARK = EvaluateRecipe(resamples=200, leaks="mark")


def a_clip(number: int, recording: str) -> Clip:
    return Clip(
        digest=f"{number:064x}", name=f"{number}.mp4", recording=recording, size_bytes=1, seconds=4, fps=10,
        width=384, height=256, codec="h264",
    )  # fmt: skip


def a_question(number: int, clip: Clip, answer: int | None, **fields: Any) -> Question:
    choices = tuple(Choice(label=label, text=f"choice {label}") for label in "ABCD")
    origin = fields.pop("origin", Origin(answer="human"))
    return Question(
        id=f"q{number}", clip=clip.digest, text="Which?", choices=choices, answer=answer, origin=origin, **fields
    )


def the_rows(folder: Path, recordings: list[str], answers: list[int | None], start: int = 0, **fields: Any) -> Path:
    """One clip and one question for each entry."""
    clips = [a_clip(start + i, recording) for i, recording in enumerate(recordings)]
    rows = zip(clips, answers, strict=True)
    questions = [a_question(start + i, clip, answer, **fields) for i, (clip, answer) in enumerate(rows)]
    write_rows(folder, questions, {clip.digest: clip for clip in clips})
    return folder


def the_predictions(folder: Path, choices: dict[str, int], sure: float = 0.25) -> Path:
    """`sure`: the probability of each choice that is made; the others share the rest."""
    folder.mkdir()
    rest = math.log((1 - sure) / 3)
    rows = []
    for question, choice in choices.items():
        logprobs = tuple(math.log(sure) if place == choice else rest for place in range(max(4, choice + 1)))
        rows.append(Prediction(question=question, choice=choice, logprobs=logprobs, prompt_tokens=60, seconds=0.25))
    write_jsonl(folder / "predictions.jsonl", rows)
    return folder


def run(tmp_path: Path, recipe: EvaluateRecipe = RECIPE, **inputs: list[Path]) -> dict[str, Any]:
    out = tmp_path / "out"
    out.mkdir()
    facts = evaluate(inputs, recipe, out, LocalContext(tmp_path / "scratch"))
    assert json.loads((out / "scores.json").read_text()) == json.loads(json.dumps(facts))
    return facts


def test_shards_of_predictions_are_joined_by_question_id(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1", "r2", "r3"], [0, 1, 2, None])
    first = the_predictions(tmp_path / "p1", {"q2": 2, "q3": 0})
    second = the_predictions(tmp_path / "p2", {"q0": 0, "q1": 0})
    scores = run(tmp_path, predictions=[first, second], data=[data])
    assert (scores["n"], scores["recordings"], scores["unanswered"]) == (3, 2, 1)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["ci95"][0] < 2 / 3 < scores["ci95"][1]
    assert (scores["majority"], scores["chance"]) == (pytest.approx(1 / 3), 0.25)
    assert (scores["seconds_per_question"], scores["prompt_tokens"]) == (0.25, 60)
    assert scores["claim"] == "n = 3: too few to claim anything"
    assert scores["parent"] is None


def test_a_missing_prediction_is_refused_by_name(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r2"], [0, 1])
    predictions = the_predictions(tmp_path / "p", {"q0": 0})
    with pytest.raises(InputError, match=r"the model has no prediction for question q1 \(1 of 2 missing\)"):
        run(tmp_path, predictions=[predictions], data=[data])


def test_a_parent_that_skipped_a_question_is_refused(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r2"], [0, 1])
    predictions = the_predictions(tmp_path / "p", {"q0": 0, "q1": 1})
    parent = the_predictions(tmp_path / "parent", {"q1": 1})
    with pytest.raises(InputError, match="the parent has no prediction for question q0"):
        run(tmp_path, predictions=[predictions], parent=[parent], data=[data])


def test_predictions_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1"], [0])
    shards = [the_predictions(tmp_path / "p1", {"q0": 0}), the_predictions(tmp_path / "p2", {"q0": 1})]
    with pytest.raises(InputError, match="q0: answered twice, differently"):
        run(tmp_path, predictions=shards, data=[data])


def test_a_choice_that_the_question_lacks_is_refused(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1"], [0])
    with pytest.raises(InputError, match="q0: no choice 4"):
        run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 4})], data=[data])


def test_a_test_set_without_answers_has_a_number_and_no_accuracy(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1"], [None, None])
    scores = run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 0, "q1": 1})], data=[data])
    assert scores["accuracy"] is None
    assert scores["n"] == scores["unanswered"] == 2
    assert "nothing can be claimed" in scores["claim"]


def test_an_open_question_without_a_prediction_is_refused(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1"], [None, None])
    with pytest.raises(InputError, match="no prediction for question q1"):
        run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 0})], data=[data])


def test_two_rows_with_one_id_are_refused(tmp_path: Path) -> None:
    data = [the_rows(tmp_path / "a", ["r1"], [0]), the_rows(tmp_path / "b", ["r1"], [1])]
    with pytest.raises(InputError, match="question q0: two different rows"):
        run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 0})], data=data)


def test_the_parent_is_compared_on_the_same_questions(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", [f"r{i}" for i in range(12)], [0] * 12)
    model = the_predictions(tmp_path / "model", {f"q{i}": 0 for i in range(12)})
    parent = the_predictions(tmp_path / "parent", {f"q{i}": int(i < 6) for i in range(12)})
    scores = run(tmp_path, predictions=[model], parent=[parent], data=[data])
    found = scores["parent"]
    assert (found["accuracy"], found["difference"], found["wins"], found["losses"]) == (0.5, 0.5, 6, 0)
    assert found["p"] == pytest.approx(2 / 2**6)
    assert found["ci95"][0] < 0.5 < found["ci95"][1]


def test_training_on_a_recording_marks_every_question_of_it(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1", "r2"], [0, 0, 0])
    seen = the_rows(tmp_path / "seen", ["r1", "r9"], [1, 1], start=50, origin=Origin(answer="human", test_derived=True))
    predictions = the_predictions(tmp_path / "p", {"q0": 0, "q1": 1, "q2": 0})
    scores = run(tmp_path, MARK, predictions=[predictions], data=[data], seen=[seen])
    assert scores["leaked"] == {"questions": 2, "recordings": 1, "accuracy_without": 1.0}
    assert scores["transductive"] == {"questions": 0, "rows": 2}


def test_what_was_trained_on_is_not_scored_unless_it_is_to_be_marked(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1", "r2"], [0, 0, 0])
    seen = the_rows(tmp_path / "seen", ["r1"], [1], start=50)
    predictions = the_predictions(tmp_path / "p", {"q0": 0, "q1": 1, "q2": 0})
    with pytest.raises(InputError, match=r"1 recordings of the test \(2 of its 3 questions; .*'r1'.*leaks: mark"):
        run(tmp_path, predictions=[predictions], data=[data], seen=[seen])


def test_a_teachers_labels_on_the_test_itself_are_transductive_and_no_leak(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1", "r2"], [0, 0, 0])
    derived = Origin(answer="teacher", test_derived=True)
    seen = the_rows(tmp_path / "seen", ["r1", "r9"], [1, 1], start=50, origin=derived)
    predictions = the_predictions(tmp_path / "p", {"q0": 0, "q1": 1, "q2": 0})
    scores = run(tmp_path, predictions=[predictions], data=[data], seen=[seen])
    assert scores["leaked"]["questions"] == 0
    assert scores["transductive"] == {"questions": 2, "rows": 2}


def test_a_clip_that_was_seen_under_another_recording_is_a_leak(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r2"], [0, 0])
    seen = the_rows(tmp_path / "seen", ["renamed"], [0])
    predictions = the_predictions(tmp_path / "p", {"q0": 0, "q1": 0})
    scores = run(tmp_path, MARK, predictions=[predictions], data=[data], seen=[seen])
    assert scores["leaked"]["questions"] == 1


def test_categories_and_languages_are_scored_apart(tmp_path: Path) -> None:
    data = [
        the_rows(tmp_path / "a", ["r1", "r2"], [0, 0], category="sign", language="vi"),
        the_rows(tmp_path / "b", ["r3"], [0], start=10, category="order"),
    ]
    scores = run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 0, "q1": 1, "q10": 0})], data=data)
    assert {name: (row["n"], row["accuracy"]) for name, row in scores["by_category"].items()} == {
        "sign": (2, 0.5),
        "order": (1, 1.0),
    }
    assert scores["by_language"]["vi"]["n"] == 2


def test_numbers_of_choices_and_origins_are_scored_apart(tmp_path: Path) -> None:
    taught = Origin(answer="teacher", teacher="gemini", parent="q0")
    data = [
        the_rows(tmp_path / "a", ["r1", "r2"], [0, 0]),
        the_rows(tmp_path / "b", ["r3"], [0], start=10, origin=taught),
    ]
    fewer = [question.model_dump() for question in read_jsonl(data[1] / "questions.jsonl", Question)]
    fewer[0]["choices"][2]["text"] = ""  # counted, but shown to no model
    write_jsonl(data[1] / "questions.jsonl", [Question.model_validate(question) for question in fewer])
    scores = run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 0, "q1": 1, "q10": 0})], data=data)
    counted = {name: [(key, row["n"], row["accuracy"]) for key, row in scores[name].items()] for name in scores
               if name in ("by_choices", "by_origin")}  # fmt: skip
    assert counted == {
        "by_choices": [("4", 2, 0.5), ("3", 1, 1.0)],
        "by_origin": [("human", 2, 0.5), ("teacher gemini, augmented", 1, 1.0)],
    }
    row = scores["by_choices"]["4"]
    assert row["ci95"][0] < 0.5 < row["ci95"][1]


def test_confidences_are_calibrated_and_letters_counted(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", [f"r{i}" for i in range(12)], [i % 4 for i in range(12)])
    predictions = the_predictions(tmp_path / "p", {f"q{i}": 0 for i in range(12)}, sure=0.85)
    scores = run(tmp_path, predictions=[predictions], data=[data])
    found, placed = scores["calibration"], scores["positions"]
    assert (found["confidence"], found["gap"], found["ece"]) == pytest.approx((0.85, 0.6, 0.6))
    assert found["ci95"][0] < 0.6 < found["ci95"][1]
    assert [(one["n"], one["accuracy"]) for one in found["bins"]] == [(12, 0.25)]
    assert [list(row) for row in placed["confusion"]] == [[3, 0, 0, 0]] * 4
    assert (placed["places"][0]["chosen"], placed["places"][0]["expected"]) == pytest.approx((1, 0.25))
    assert list(placed["leaning"]) == [0, 1, 2, 3]


def test_an_empty_choice_takes_no_confidence_and_cannot_be_chosen(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1"], [0])
    (question,) = read_jsonl(data / "questions.jsonl", Question)
    empty = question.choices[3].model_copy(update={"text": ""})
    write_jsonl(data / "questions.jsonl", [question.model_copy(update={"choices": (*question.choices[:3], empty)})])
    scores = run(tmp_path, predictions=[the_predictions(tmp_path / "p", {"q0": 0}, sure=0.4)], data=[data])
    assert scores["calibration"]["confidence"] == pytest.approx(0.4 / 0.8)
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="q0: no choice 3"):
        run(tmp_path / "again", predictions=[the_predictions(tmp_path / "p2", {"q0": 3})], data=[data])


def test_log_probabilities_that_are_not_one_for_each_choice_are_refused(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1"], [0])
    predictions = the_predictions(tmp_path / "p", {"q0": 0})
    short = Prediction(question="q0", choice=0, logprobs=(-1.0, -1.0), prompt_tokens=1, seconds=1)
    write_jsonl(predictions / "predictions.jsonl", [short])
    with pytest.raises(InputError, match="q0: 2 log-probabilities for 4 choices"):
        run(tmp_path, predictions=[predictions], data=[data])


def test_what_changed_most_is_named_one_of_each_recording_first(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r1", "r1", "r2", "r3", "r4", "r5"], [0] * 7)
    won, lost, same = {f"q{i}": 0 for i in range(5)}, {"q5": 1}, {"q6": 0}
    model = [the_predictions(tmp_path / "m1", won | same, sure=0.6), the_predictions(tmp_path / "m2", lost, sure=0.9)]
    first = the_predictions(tmp_path / "p1", {"q0": 1, "q3": 1, "q4": 1, "q5": 0, "q6": 0}, sure=0.5)
    parent = [first, the_predictions(tmp_path / "p2", {"q1": 1, "q2": 1}, sure=0.97)]
    changed = run(tmp_path, predictions=model, parent=parent, data=[data])["parent"]["changed"]
    assert [found["question"] for found in changed["won"]] == ["q1", "q3", "q4"]
    (back,) = changed["lost"]
    assert (back["question"], back["answer"], back["clip"]["digest"]) == ("q5", 0, f"{5:064x}")
    assert (back["before"]["choice"], back["now"]["choice"]) == (0, 1)
    assert (back["before"]["confidence"], back["now"]["confidence"]) == pytest.approx((0.5, 0.9))


def test_a_test_set_without_rows_is_refused(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", [], [])
    predictions = the_predictions(tmp_path / "predictions", {})
    with pytest.raises(InputError, match="no rows"):
        evaluate({"data": [data], "predictions": [predictions]}, RECIPE, tmp_path, LocalContext(tmp_path / "scratch"))


def test_questions_that_were_not_seen_are_counted_and_cost_nothing(tmp_path: Path) -> None:
    data = the_rows(tmp_path / "data", ["r1", "r2", "r3"], [0, 1, 2])
    made = the_predictions(tmp_path / "p", {"q0": 0, "q1": 1, "q2": 0})
    rows = list(read_jsonl(made / "predictions.jsonl", Prediction))
    lost = rows[2].model_copy(update={"unseen": "is no video", "prompt_tokens": 0, "seconds": 0.0})
    write_jsonl(made / "predictions.jsonl", [*rows[:2], lost])
    scores = run(tmp_path, predictions=[made], data=[data])
    assert scores["unseen"] == {"questions": 1}
    assert (scores["prompt_tokens"], scores["seconds_per_question"]) == (60, 0.25)
    assert scores["accuracy"] == pytest.approx(2 / 3), "they count as they were answered"
