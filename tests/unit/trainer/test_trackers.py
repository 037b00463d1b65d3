"""MLflow and Weights & Biases: asked for by name, one run over all attempts, never a reason to lose a training."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shared.context import LocalContext
from shared.errors import RoadQAError, UsageError
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import trackers


class Kept:
    """A tracker that keeps what it is told, and can be made to fail."""

    package = install = "json"
    said: ClassVar[list[Any]] = []
    broken = ""

    def __init__(self, name: str, recipe: Mapping[str, Any], run: Callable[[str], str], fresh: bool) -> None:
        if self.broken == "begin":
            raise ConnectionError("https://user:secret@host")
        self.said.append(("begin", run("run-1" if fresh else "run-2"), fresh, recipe["video.fps"]))

    def log(self, values: trackers.Values, step: int) -> None:
        if self.broken == "log":
            raise ConnectionError("https://user:secret@host")
        self.said.append((step, values))

    def close(self, whole: bool) -> None:
        self.said.append(("close", whole))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setitem(trackers.KINDS, "kept", Kept)  # type: ignore[arg-type]
    monkeypatch.setattr(Kept, "said", [])
    return Kept


def test_what_is_unknown_or_not_installed_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers.wanted("") == []
    with pytest.raises(UsageError, match="names 'neptune'; there are: mlflow, wandb"):
        trackers.wanted("neptune")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="lacks: `pip install mlflow-skinny` there"):
        trackers.wanted("mlflow, wandb")


def test_figures_go_by_tensorboards_tags_and_a_validation_goes_once(kept: type[Kept], tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path)
    with trackers.told(ctx, ["kept"], RECIPE) as told:
        told.progress(1, 9, "steps", loss=2.0, stop_costs="much")
        told.progress(2, 9, "steps", loss=1.0, validation_accuracy=0.5)
        told.progress(3, 9, "steps", loss=0.5, validation_accuracy=0.5)
    assert kept.said == [
        ("begin", "run-1", True, 2.0),
        (1, {"train/loss": 2.0}),
        (2, {"train/loss": 1.0, "validation/accuracy": 0.5}),
        (3, {"train/loss": 0.5}),
        ("close", True),
    ]
    assert [report[0] for report in ctx.reports] == [1, 2, 3]
    kept.said.clear()
    with pytest.raises(RoadQAError), trackers.told(ctx, ["kept"], RECIPE):
        raise RoadQAError("stopped")
    assert kept.said == [("begin", "run-1", False, 2.0), ("close", False)]  # the same run goes on


def test_a_tracker_that_fails_later_costs_no_training_and_shows_no_key(
    kept: type[Kept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept, "broken", "log")
    with trackers.told(LocalContext(tmp_path), ["kept"], RECIPE) as told:
        told.progress(1, 9, "steps", loss=2.0)
        told.progress(2, 9, "steps", loss=2.0)
    assert [record.message for record in caplog.records] == [
        "kept fails (ConnectionError) and gets no more of this training"
    ]
    monkeypatch.setattr(kept, "broken", "begin")
    with pytest.raises(RoadQAError, match=r"kept cannot be begun \(ConnectionError\)") as caught:
        trackers.Trackers(["kept"], RECIPE, LocalContext(tmp_path / "other").scratch)
    assert "secret" not in str(caught.value)


def _train(ctx: LocalContext, kind: str, first: int) -> None:
    with trackers.told(ctx, [kind], RECIPE) as told:
        for step in range(first, first + 2):
            told.progress(step, 4, "steps", loss=1.0 / step)


def test_mlflows_file_store_holds_one_run_of_both_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    ctx = LocalContext(tmp_path / "scratch")
    _train(ctx, "mlflow", 1)
    _train(ctx, "mlflow", 3)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("roadqa").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["zero"] == "zero2"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1.0 / step) for step in range(1, 5)]


def test_wandb_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    ctx = LocalContext(tmp_path / "scratch")
    _train(ctx, "wandb", 1)
    run = (ctx.scratch.get("trackers/wandb") or b"").decode()
    (written,) = (tmp_path / "wandb").glob(f"offline-run-*-{run}/*.wandb")
    assert json.dumps("train/loss").encode()[1:-1] in written.read_bytes()
