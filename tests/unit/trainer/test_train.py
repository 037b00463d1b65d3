"""The verb from end to end: real ranks under DeepSpeed ZeRO-2, stopped and resumed."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from shared.context import LocalContext
from shared.contracts import EarlyStop
from shared.errors import InputError, MediaError, Stopped
from shared.schema import Rows
from shared.video import sample
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import best, model
from workers.trainer.train import train


class StopAt(LocalContext):
    """Asks to stop once a step is done."""

    def __init__(self, scratch: Path, step: int) -> None:
        super().__init__(scratch)
        self._step = step

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        super().progress(done, total, unit, **facts)
        self.stopping = self.stopping or done >= self._step


def _card(out: Path) -> dict[str, dict[str, object]]:
    found = json.loads((out / "card.json").read_text())
    assert isinstance(found, dict)
    return found


def test_a_stopped_training_goes_on_exactly_where_it_was(
    base: Path, labelled: Path, validating: Path, tmp_path: Path
) -> None:
    inputs = {"model": [base], "data": [labelled], "validation": [validating]}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()

    undisturbed = LocalContext(tmp_path / "scratch-whole")
    recipe = RECIPE.model_copy(update={"early_stop": EarlyStop(patience=None)})
    facts = train(inputs, recipe, whole, undisturbed)
    assert (facts["steps"], facts["rows"], facts["processes"]) == (12, 12, 2)
    assert [report[0] for report in undisturbed.reports] == list(range(1, 13))
    losses = _card(whole)["training"]["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0] / 2
    _check_validations(whole, validating, undisturbed)

    stopping = StopAt(tmp_path / "scratch-parted", step=3)
    with pytest.raises(Stopped):
        train(inputs, recipe, parted, stopping)
    (kept,) = [name for name in stopping.scratch.folders() if name.startswith("step-")]
    assert not list(parted.iterdir())

    facts = train(inputs, recipe, parted, LocalContext(tmp_path / "scratch-parted"))
    assert kept == f"step-{facts['resumed_from_step']:08d}-of-2"
    assert 3 <= facts["resumed_from_step"] < 12
    assert _card(parted)["training"] == _card(whole)["training"]
    assert (parted / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (whole / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def _check_validations(out: Path, rows: Path, ctx: LocalContext) -> None:
    """Every half of an epoch of three steps; the weights are the best one's, and say what it says of them."""
    training = _card(out)["training"]
    found = training["validations"]
    assert isinstance(found, list)
    assert [point["step"] for point in found] == [2, 3, 5, 6, 8, 9, 11, 12]
    (top,) = [point for point in found if point["step"] == training["best_step"]]
    assert top == max(found, key=lambda point: (point["accuracy"], -point["loss"]))
    assert best.steps(ctx.scratch)[-1] == top["step"]
    assert ctx.reports[-1][3]["validation_accuracy"] == found[-2]["accuracy"]

    encoder, trained, losses = Encoder(out), model.load(out, torch.float32).eval(), []
    judged = Rows([rows])
    for question in judged.questions:
        clip = sample(judged.clip_path(question.clip), RECIPE.video)
        with torch.no_grad():
            logits = trained(**encoder.encode(question, clip, RECIPE.system_prompt)).logits[0, -1]
        losses.append(-torch.log_softmax(logits[encoder.letter_ids(4)], -1)[question.answer].item())
    assert statistics.fmean(losses) == pytest.approx(top["loss"], rel=0.02)  # it was saved in bfloat16


def test_a_rank_that_fails_says_why(base: Path, labelled: Path, tmp_path: Path) -> None:
    broken = tmp_path / "rows"
    (broken / "clips").mkdir(parents=True)
    for name in ("questions.jsonl", "clips.jsonl"):
        (broken / name).write_bytes((labelled / name).read_bytes())
    for clip in (labelled / "clips").iterdir():
        (broken / "clips" / clip.name).write_bytes(clip.read_bytes()[:300])
    with pytest.raises(MediaError, match="clips/"):
        train({"model": [base], "data": [broken]}, RECIPE, tmp_path / "out", LocalContext(tmp_path / "scratch"))


def test_a_pickled_model_starts_nothing(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="pickle"):
        train({"model": [tmp_path], "data": [labelled]}, RECIPE, tmp_path, LocalContext(tmp_path / "scratch"))
