"""What a training leaves for people: TensorBoard's files, a README with its picture."""

import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared import curves
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import card, events
from workers.trainer.plan import plan

LOG: list[dict[str, Any]] = [
    {"step": 1, "loss": 2.0, "learning_rate": 1e-3, "grad_norm": 1.5, "epoch": 0.5, "time": 1000.0},
    {"step": 2, "validation_accuracy": 0.5, "validation_loss": 1.25},
    {"step": 2, "loss": 1.0, "learning_rate": 5e-4, "grad_norm": 0.5, "samples_per_second": 8.0, "time": 1001.0},
]
TRAINING: dict[str, Any] = {
    "steps": 2, "losses": [2.0, 1.0], "parameters": 1000, "trained_parameters": 250, "liger": False,
    "validations": [{"step": 2, "accuracy": 0.5, "loss": 1.25}], "best_step": 2, "stopped_early": False,
}  # fmt: skip


def scalars(folder: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """(tag, step) → (value, wall time), read back from the records of an event file."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, found = path.read_bytes(), {}
    while data:
        (length,) = struct.unpack_from("<Q", data)
        event = Event.FromString(data[12 : 12 + length])
        found |= {(v.tag, event.step): (v.simple_value, event.wall_time) for v in event.summary.value}
        data = data[12 + length + 4 :]
    return found


def test_tensorboard_gets_every_figure_of_the_log(tmp_path: Path) -> None:
    assert events.write(tmp_path / "runs", LOG) == 9
    found = scalars(tmp_path / "runs")
    assert len(found) == 9
    assert found["train/loss", 1] == (2.0, 1000.0)
    assert found["train/loss", 2] == (1.0, 1001.0)
    assert found["train/learning_rate", 1][0] == pytest.approx(1e-3)
    assert found["speed/samples_per_second", 2][0] == 8.0
    assert found["validation/accuracy", 2][0] == 0.5


def test_a_readme_says_base_data_recipe_and_figures(labelled: Path, validating: Path, tmp_path: Path) -> None:
    base = {"base_model": "Qwen/Qwen3-VL-2B-Instruct"}
    card.write(tmp_path, card.build(base, RECIPE, plan([labelled]), TRAINING, plan([validating])))
    _, front, body = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    matter = yaml.safe_load(front)
    assert (matter["base_model"], matter["library_name"]) == ("Qwen/Qwen3-VL-2B-Instruct", "transformers")
    assert matter["pipeline_tag"] == "video-text-to-text"
    assert "full-fine-tuning" in matter["tags"]
    for said in (
        "12 rows on 12 clips of 6 recordings", "| left out: no answer | 1 |", "| zero | zero2 |",
        "| video.tokens_per_patch | 6 |", "25% of them trained", "Chosen by 5 validation rows",
        "validation accuracy 50.0% at step 2, the best of 1", "(curves.svg)",
    ):  # fmt: skip
        assert said in body, said
    assert (tmp_path / "curves.svg").read_text(encoding="utf-8").count('class="dot"') == 1


def test_a_base_without_a_name_is_said_to_have_none(labelled: Path, tmp_path: Path) -> None:
    unjudged = {name: fact for name, fact in TRAINING.items() if name not in ("validations", "best_step")}
    card.write(tmp_path, card.build({}, RECIPE, plan([labelled]), unjudged | {"losses": [1.0]}))
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in readme
    assert "validation rows" not in readme
    assert "curves.svg" not in readme
    assert not (tmp_path / "curves.svg").exists()


def test_a_picture_spans_all_steps_and_rings_the_best() -> None:
    way = curves.Training.of({"training": TRAINING})
    picture = curves.svg(way, "<b>")
    assert picture is not None
    assert "<b>" not in picture
    assert picture.count("<polyline") == 3
    assert 'points="238.0,0.0 428.0,85.0"' in picture  # step 1 of 2 at the top, step 2 half way down
    assert '<circle class="ring" cx="428.0"' in picture
    assert curves.svg(curves.Training.of({}), "") is None
