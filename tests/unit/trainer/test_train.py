"""The verb from end to end: real ranks under DeepSpeed ZeRO-2, stopped and resumed."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from shared.context import LocalContext
from shared.errors import InputError, Stopped
from shared.schema import Rows
from shared.video import sample
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import JUDGED, RECIPE, Undisturbed
from workers.trainer import best, model
from workers.trainer.checkpoints import Cut
from workers.trainer.train import train


class StopAt(LocalContext):
    """Asks to stop once a step is done."""

    def __init__(self, scratch: Path, step: int) -> None:
        super().__init__(scratch)
        self._step = step

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        super().progress(done, total, unit, **facts)
        self.stopping = self.stopping or done >= self._step


def test_a_training_learns_and_tells_of_each_step(undisturbed: Undisturbed, base: Path, validating: Path) -> None:
    facts, reports = undisturbed.facts, undisturbed.ctx.reports
    assert (facts["steps"], facts["rows"], facts["processes"]) == (12, 12, 2)
    assert [report[0] for report in reports] == list(range(13))
    begin, *steps = [report[3] for report in reports]
    assert begin["visual_tokens"] == "6 a temporal patch at most, 12 to 12 a clip, 144 an epoch"
    told = {
        "loss",
        "learning_rate",
        "samples_per_second",
        "tokens_per_second",
        "memory_bytes",
        "data_wait",
        "stop_costs",
    }
    assert all(told <= set(step) and 0 <= float(step["data_wait"]) < 1 for step in steps)
    losses = undisturbed.training["losses"]
    assert losses[-1] < losses[0] / 2
    _check_validations(undisturbed, validating)
    assert (undisturbed.out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def _check_validations(undisturbed: Undisturbed, rows: Path) -> None:
    """Every half of an epoch of three steps; the weights are the best one's, and say what it says of them."""
    out, training, ctx = undisturbed.out, undisturbed.training, undisturbed.ctx
    found = training["validations"]
    assert [point["step"] for point in found] == [2, 3, 5, 6, 8, 9, 11, 12]
    (top,) = [point for point in found if point["step"] == training["best_step"]]
    assert top == max(found, key=lambda point: (point["accuracy"], -point["loss"]))
    assert best.steps(ctx.scratch, Cut(2))[-1] == top["step"]
    assert ctx.reports[-1][3]["validation_accuracy"] == found[-2]["accuracy"]

    encoder, trained, losses = Encoder(out), model.load(out, torch.float32).eval(), []
    judged = Rows([rows])
    for question in judged.questions:
        clip = sample(judged.clip_path(question.clip), RECIPE.video)
        with torch.no_grad():
            logits = trained(**encoder.encode(question, clip, RECIPE.system_prompt)).logits[0, -1]
        losses.append(-torch.log_softmax(logits[encoder.letter_ids(4)], -1)[question.answer].item())
    assert statistics.fmean(losses) == pytest.approx(top["loss"], rel=0.02)  # it was saved in bfloat16


def test_a_stopped_training_goes_on_exactly_where_it_was(
    undisturbed: Undisturbed, base: Path, labelled: Path, validating: Path, tmp_path: Path
) -> None:
    inputs = {"model": [base], "data": [labelled], "validation": [validating]}
    parted = tmp_path / "parted"
    parted.mkdir()
    stopping = StopAt(tmp_path / "scratch", step=3)
    with pytest.raises(Stopped, match=r"the checkpoint of step \d+ of this attempt is kept, and"):
        train(inputs, JUDGED, parted, stopping)
    (kept,) = [name for name in stopping.scratch.folders() if name.startswith("step-")]
    assert not list(parted.iterdir())

    facts = train(inputs, JUDGED, parted, LocalContext(tmp_path / "scratch"))
    assert kept == f"step-{facts['resumed_from_step']:08d}-of-2-node-0-of-1"
    assert 3 <= facts["resumed_from_step"] < 12
    first, second = undisturbed.training, json.loads((parted / "card.json").read_text())["training"]
    for own_to_the_attempt in ("pace", "resumed_from_step"):
        assert first.pop(own_to_the_attempt) != second.pop(own_to_the_attempt)
    assert first == second
    assert (parted / "model.safetensors").read_bytes() == (undisturbed.out / "model.safetensors").read_bytes()


def test_a_pickled_model_starts_nothing(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="pickle"):
        train({"model": [tmp_path], "data": [labelled]}, RECIPE, tmp_path, LocalContext(tmp_path / "scratch"))
