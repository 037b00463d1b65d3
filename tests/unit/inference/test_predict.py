"""The predict verb: every question answered in order, nothing answered twice."""

import math
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

from shared import child
from shared.context import LocalContext
from shared.errors import InputError, MediaError, RoadQAError, Stopped
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


def broken_rows(rows: Path, folder: Path, count: int) -> tuple[Path, list[str]]:
    """A copy in which the first `count` clips are none."""
    shutil.copytree(rows, folder)
    digests = list(dict.fromkeys(question.clip for question in Rows([folder]).questions))[:count]
    for digest in digests:
        (folder / "clips" / digest).write_bytes(b"\0" * 1000)
    return folder, digests


def test_questions_on_a_clip_that_does_not_decode_get_the_first_letter_and_a_mark(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    whole = run(base, rows, tmp_path / "whole", LocalContext(tmp_path / "other scratch"))
    broken, (digest,) = broken_rows(rows, tmp_path / "rows", 1)
    (tmp_path / "out").mkdir()
    ctx, inputs = LocalContext(tmp_path / "scratch"), {"model": [base], "data": [broken]}
    facts = predict(inputs, recipe("transformers"), tmp_path / "out", ctx)
    found = list(read_jsonl(tmp_path / "out" / "predictions.jsonl", Prediction))
    for question, one, other in zip(Rows([broken]).questions, found, whole, strict=True):
        if question.clip == digest:
            assert (one.choice, one.prompt_tokens) == (0, 0)
            assert one.logprobs == pytest.approx((-math.log(len(question.choices)),) * len(question.choices))
            assert one.unseen == facts["unseen_clips"][digest]
        else:
            assert (one.choice, one.unseen) == (other.choice, None)
    assert facts["unseen"] == 4
    assert list(facts["unseen_clips"]) == [digest]
    assert facts["prompt_tokens"]["min"] > 0
    (tmp_path / "again").mkdir()
    (tmp_path / "no model").mkdir()
    resumed = predict({**inputs, "model": [tmp_path / "no model"]}, recipe("transformers"), tmp_path / "again", ctx)
    assert (resumed["unseen"], resumed["resumed"]) == (4, 12), "what is marked is kept too"


def test_where_too_many_clips_do_not_decode_the_shard_fails(base: Path, rows: Path, tmp_path: Path) -> None:
    broken, _ = broken_rows(rows, tmp_path / "rows", 2)
    with pytest.raises(MediaError, match="2 of 3 clips cannot be decoded"):
        run(base, broken, tmp_path / "out", LocalContext(tmp_path / "scratch"))


def test_a_question_without_choices_is_named(base: Path, rows: Path, tmp_path: Path) -> None:
    empty = tmp_path / "rows"
    shutil.copytree(rows, empty)
    questions = Rows([empty]).questions
    none = tuple(choice.model_copy(update={"text": ""}) for choice in questions[2].choices)
    write_jsonl(empty / "questions.jsonl", [*questions, questions[2].model_copy(update={"id": "q", "choices": none})])
    with pytest.raises(InputError, match="question q: none of its choices has a text"):
        run(base, empty, tmp_path / "out", LocalContext(tmp_path / "scratch"))


class Killing(LocalContext):
    """Kills the process that loads the engine while it is waited for."""

    looks = 0

    @property
    def stopping(self) -> bool:
        self.looks += 1
        if self.looks == 3:
            for process in psutil.Process().children():
                process.kill()
        return False

    @stopping.setter
    def stopping(self, _: bool) -> None: ...


def test_an_engine_that_dies_is_replaced_and_the_shard_goes_on_where_it_was(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (verb, transformers_engine):
        monkeypatch.setattr(module, "settings", lambda: SmallBatches)
    with pytest.raises(Stopped, match="10 of 12"):
        run(base, rows, tmp_path / "begun", Patient(tmp_path / "scratch", batches=2))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    answering = child.resident("workers.inference.predict")
    inputs = {"model": [base], "data": [rows]}
    (tmp_path / "out").mkdir()
    with pytest.raises(RoadQAError, match="SIGKILL") as died:
        answering(inputs, recipe("transformers"), tmp_path / "out", Killing(tmp_path / "scratch"))
    assert not died.value.permanent, "another attempt may help"
    facts = answering(inputs, recipe("transformers"), tmp_path / "out", LocalContext(tmp_path / "scratch"))
    assert (facts["resumed"], facts["n"]) == (10, 12)
    found = list(read_jsonl(tmp_path / "out" / "predictions.jsonl", Prediction))
    assert [one.question for one in found] == [question.id for question in Rows([rows]).questions]


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
