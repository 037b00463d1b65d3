"""The plan's arithmetic against the trainer's own steps on a CPU: what is alive at the joints of a step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parts import clips
from benchmarks.training_gpu import ALONE, free_port
from services.sandbox import words
from shared import footprint
from shared.activations import Batch
from shared.contracts import TrainRecipe
from workers.trainer.train import environment

ROOT = Path(__file__).parents[3]
BASE = Path(words.__file__).parent / "base"
COMMON = {"precision": "float32", "system_prompt": "short"}
CASES: dict[str, dict[str, Any]] = {
    "two short rows": {"micro_batch": 2, "recipe": {"video": {"tokens_per_patch": 20}}},
    "four rows, LoRA": {"micro_batch": 4, "recipe": {"video": {"tokens_per_patch": 40}, "lora": {}}},
    "two long rows, checkpointing, no ZeRO": {
        "micro_batch": 2,
        "recipe": {"video": {"tokens_per_patch": 80}, "gradient_checkpointing": True, "zero": "zero0"},
    },
    "one long row, language alone, ZeRO-1": {
        "micro_batch": 1,
        "recipe": {
            "video": {"tokens_per_patch": 80},
            "modules": {"vision": {"train": False}, "projector": {"train": False}},
            "zero": "zero1",
        },
    },
}


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """All cases in one process, by name."""
    work = tmp_path_factory.mktemp("weigh")
    rows = clips.write(work / "rows")
    asked = [case | {"recipe": COMMON | case["recipe"]} for case in CASES.values()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.trainer.weigh", str(rows), str(work), json.dumps(asked)],
        env={**os.environ, **environment(1, 0), **ALONE, "MASTER_PORT": free_port()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(CASES, lines, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_step_holds_what_the_plan_says(name: str, weighed: dict[str, dict[str, int]]) -> None:
    case, found = CASES[name], weighed[name]
    recipe = TrainRecipe.model_validate(COMMON | case["recipe"])
    model = footprint.model(json.loads((BASE / "config.json").read_text()))
    batch = Batch(case["micro_batch"], found["tokens"], found["visual"])
    held = footprint.footprint(model, recipe, 1, batch, cuda=False)
    states = found["weights"] + found["optimiser"]
    within = {"rel": 0.2}
    assert held.weights == pytest.approx(found["weights"], **within)
    assert held.optimiser == pytest.approx(found["optimiser"], **within)
    assert held.gradients == pytest.approx(found["gradients"], **within)
    assert held.step == pytest.approx(found["step_peak"] - found["resting"], **within)
    # DeepSpeed's buckets are larger than the sandbox's whole model: they would hide what is beside them.
    beside = found["backward_peak"] - states - held.buckets
    assert held.gradients + held.activations == pytest.approx(beside, **within)
