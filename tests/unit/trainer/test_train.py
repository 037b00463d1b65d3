"""The verb from end to end: real ranks under DeepSpeed ZeRO-2, stopped and resumed."""

import json
from pathlib import Path

import pytest

from shared.context import LocalContext
from shared.errors import InputError, MediaError, Stopped
from tests.unit.trainer.conftest import RECIPE
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


def test_a_stopped_training_goes_on_exactly_where_it_was(base: Path, labelled: Path, tmp_path: Path) -> None:
    inputs = {"model": [base], "data": [labelled]}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()

    undisturbed = LocalContext(tmp_path / "scratch-whole")
    facts = train(inputs, RECIPE, whole, undisturbed)
    assert (facts["steps"], facts["rows"], facts["processes"]) == (12, 12, 2)
    assert [report[0] for report in undisturbed.reports] == list(range(1, 13))
    losses = _card(whole)["training"]["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0] / 2

    stopping = StopAt(tmp_path / "scratch-parted", step=3)
    with pytest.raises(Stopped):
        train(inputs, RECIPE, parted, stopping)
    (kept,) = stopping.scratch.folders()
    assert not list(parted.iterdir())

    facts = train(inputs, RECIPE, parted, LocalContext(tmp_path / "scratch-parted"))
    assert kept == f"step-{facts['resumed_from_step']:08d}-of-2"
    assert 3 <= facts["resumed_from_step"] < 12
    assert _card(parted)["training"] == _card(whole)["training"]
    assert (parted / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (whole / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


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
