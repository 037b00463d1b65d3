"""The predict verb: every question answered in order, nothing answered twice."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from shared.context import LocalContext
from shared.errors import InputError, MediaError, Stopped
from shared.schema import Prediction, Rows, read_jsonl, write_jsonl
from tests.unit.inference.conftest import recipe
from workers.inference import predict as verb
from workers.inference import transformers_engine
from workers.inference.predict import predict


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
    for module in (verb, transformers_engine):
        monkeypatch.setattr(module, "settings", lambda: SmallBatches)
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


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_more_than_one_answer_is_kept_and_averaged(base: Path, rows: Path, tmp_path: Path, engine: str) -> None:
    """Rotations of the choices, and two reasonings for each."""
    asking = {"rotate": 2, "samples": 2, "reasoning": True, "reasoning_tokens": 8, "temperature": 1.0}
    (tmp_path / "out").mkdir()
    ctx = LocalContext(tmp_path / "scratch")
    facts = predict({"model": [base], "data": [rows]}, recipe(engine, **asking), tmp_path / "out", ctx)
    assert facts["reasoning"]["n"] == 12 * 4
    assert facts["reasoning"]["tokens"]["max"] <= 8
    for prediction in read_jsonl(tmp_path / "out" / "predictions.jsonl", Prediction):
        assert len(prediction.ballots) == 4
        assert len({ballot.order for ballot in prediction.ballots}) == 2
        assert len({ballot.reasoning for ballot in prediction.ballots}) > 1
        shares = np.exp([ballot.logprobs for ballot in prediction.ballots]).mean(axis=0)
        assert np.allclose(np.exp(prediction.logprobs), shares)
