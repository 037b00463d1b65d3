"""The predict verb: every question answered in order, nothing answered twice."""

import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from shared.context import LocalContext
from shared.errors import InputError, MediaError, Stopped
from shared.schema import Choice, Origin, Prediction, Question, Rows, read_jsonl, write_jsonl
from tests.unit.inference.conftest import VIDEO, recipe
from workers.inference import predict as verb
from workers.inference.engines import Answer
from workers.inference.predict import cut, predict


class Patient(LocalContext):
    """Asks to stop after `batches` progress reports."""

    def __init__(self, scratch: Path, batches: int = 10**6) -> None:
        super().__init__(scratch)
        self._batches = batches

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        super().progress(done, total, unit, **facts)
        if len(self.reports) >= self._batches:
            self.stop()


def run(model: Path, rows: Path, out: Path, ctx: LocalContext, engine: str = "transformers") -> list[Prediction]:
    out.mkdir()
    facts = predict({"model": [model], "data": [rows]}, recipe(engine), out, ctx)
    assert facts["n"] == 12
    assert facts["prompt_tokens"]["min"] <= facts["prompt_tokens"]["mean"] <= facts["prompt_tokens"]["max"]
    return list(read_jsonl(out / "predictions.jsonl", Prediction))


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_every_question_is_answered_in_order(base: Path, rows: Path, tmp_path: Path, engine: str) -> None:
    found = run(base, rows, tmp_path / "out", LocalContext(tmp_path / "scratch"), engine)
    for prediction, question in zip(found, Rows([rows]).questions, strict=True):
        assert prediction.question == question.id
        assert len(prediction.logprobs) == len(question.choices)
        assert prediction.choice == max(range(len(prediction.logprobs)), key=prediction.logprobs.__getitem__)
        assert math.isclose(sum(map(math.exp, prediction.logprobs)), 1, abs_tol=1e-5)
        assert prediction.seconds > 0


def test_a_stopped_shard_resumes_where_it_was(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "settings", lambda: SmallBatches)
    whole = run(base, rows, tmp_path / "whole", LocalContext(tmp_path / "other scratch"))
    with pytest.raises(Stopped, match="10 of 12"):
        run(base, rows, tmp_path / "first", Patient(tmp_path / "scratch", batches=2))
    ctx = LocalContext(tmp_path / "scratch")
    resumed = run(base, rows, tmp_path / "second", ctx)
    assert [one.logprobs for one in resumed] == [one.logprobs for one in whole]
    assert [report[0] for report in ctx.reports] == [12]


class SmallBatches:
    engine_batch = 5
    decode_threads = 2


def test_a_finished_shard_needs_no_engine(base: Path, rows: Path, tmp_path: Path) -> None:
    first = run(base, rows, tmp_path / "first", LocalContext(tmp_path / "scratch"))
    (tmp_path / "no model").mkdir()
    assert run(tmp_path / "no model", rows, tmp_path / "second", LocalContext(tmp_path / "scratch")) == first


def test_a_clip_is_decoded_once_in_a_batch(rows: Path) -> None:
    data = Rows([rows])
    (batch,) = cut(data.questions, data.clips, VIDEO)
    assert len(batch) == 12
    clips = [question.clip for question in batch]
    assert sum(one != two for one, two in pairwise(clips)) == 2


def test_batches_are_bounded_by_the_memory_of_their_frames(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Rows([rows])
    monkeypatch.setattr(verb, "BATCH_BYTES", verb.frame_bytes(next(iter(data.clips.values())), VIDEO))
    assert [len(batch) for batch in cut(data.questions, data.clips, VIDEO)] == [4, 4, 4]


def test_a_damaged_clip_is_named_with_its_question(base: Path, rows: Path, tmp_path: Path) -> None:
    broken = tmp_path / "rows"
    shutil.copytree(rows, broken)
    digest = Rows([broken]).questions[0].clip
    (broken / "clips" / digest).write_bytes(b"\0" * 1000)
    with pytest.raises(MediaError, match="question q0"):
        run(base, broken, tmp_path / "out", LocalContext(tmp_path / "scratch"))


def test_one_id_for_two_questions_is_refused(base: Path, rows: Path, tmp_path: Path) -> None:
    twice = tmp_path / "rows"
    shutil.copytree(rows, twice)
    questions = Rows([twice]).questions
    write_jsonl(twice / "questions.jsonl", [*questions, questions[1].model_copy(update={"id": "q0"})])
    with pytest.raises(InputError, match="share this id"):
        run(base, twice, tmp_path / "out", LocalContext(tmp_path / "scratch"))


def test_a_choice_that_was_not_shown_is_not_chosen() -> None:
    choices = tuple(Choice(label="A", text=text) for text in ("left", "", "right"))
    question = Question(id="q", clip="0" * 64, text="?", choices=choices, origin=Origin(answer="none"))
    found = verb.predicted(question, Answer((-2.0, -0.1, -1.5), 7), 0.1)
    assert (found.choice, found.logprobs) == (2, (-2.0, -0.1, -1.5))
