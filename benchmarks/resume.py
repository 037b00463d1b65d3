"""Does a killed training go on exactly where it was? The sandbox's model, two processes, ZeRO-2 and ZeRO-3.

One training is left alone. Another is killed by SIGKILL, the whole tree at once, at several steps; each time it goes on
from scratch in an empty folder, as on a machine that has never seen it. Each step's loss and the weights are compared.
Prints a table and writes `results/resume.json`.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.parts import sandbox, within
from shared.budget import VideoBudget
from shared.contracts import TrainRecipe, Zero

RESULTS = Path(__file__).parent / "results" / "resume.json"
PROCESSES, CLIPS = 2, 20
KILLS = (5, 11)  #: steps
STAGES: tuple[Zero, ...] = ("zero2", "zero3")
CHECKPOINT_SECONDS = 0.5  # a kill finds some kept, and perhaps one on its way
RECIPE = TrainRecipe(
    epochs=2,
    learning_rate=3e-4,
    global_batch=16,
    precision="float32",
    system_prompt="short",
    video=VideoBudget(tokens_per_patch=6, max_frames=8),
)


class Run(NamedTuple):
    """One process's life; without facts it was killed."""

    seen: dict[int, float]  #: step → loss, as it was reported
    facts: dict[str, Any]
    losses: list[float]  #: of the card, by step
    weights: str  #: digest


def train(rows: Path, scratch: Path, recipe: TrainRecipe, kill_at: int | None = None) -> Run:
    """Train in an empty folder, until the end or until a step is reported that is to be the last."""
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        environment = {
            "ROADQA_CACHE_DIR": f"{folder}/cache",
            "ROADQA_TRAINER_CHECKPOINT_SECONDS": str(CHECKPOINT_SECONDS),
            "ROADQA_TRAINER_PROCESSES": str(PROCESSES),
        }
        words = ["-m", "benchmarks.parts.resumable", str(rows), str(scratch), folder, recipe.model_dump_json()]
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert process.stdout is not None
        seen: dict[int, float] = {}
        last: dict[str, Any] = {}
        for line in process.stdout:
            told = json.loads(line)
            if "loss" in told:
                seen[told["step"]] = told["loss"]
            elif "facts" in told:
                last = told
            if kill_at is not None and told.get("step", 0) >= kill_at:
                kill_tree(process.pid)
        code = process.wait()
        if kill_at is None and code:
            sys.exit(f"a training that nobody killed ended with {code}")
        if not last:
            return Run(seen, {}, [], "")
        return Run(seen, last["facts"], last["losses"], digest(Path(folder) / "model"))


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and all it started."""
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def digest(model: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()


def compare(rows: Path, zero: Zero, folder: Path) -> dict[str, Any]:
    """One training left alone, one killed at each of `KILLS` and gone on from scratch."""
    recipe = RECIPE.model_copy(update={"zero": zero})
    began = time.monotonic()
    alone = train(rows, folder / "scratch-alone", recipe)
    tell(f"{zero}: {alone.facts['steps']} steps left alone, {time.monotonic() - began:.0f} s")
    scratch, lives = folder / "scratch-killed", []
    for kill_at in (*KILLS, None):
        lives.append(train(rows, scratch, recipe, kill_at))
        tell(f"{zero}: from step {min(lives[-1].seen)} to {max(lives[-1].seen)}, {time.monotonic() - began:.0f} s")
    last = lives[-1]
    if not last.facts["resumed_from_step"] or any(life.facts for life in lives[:-1]):
        sys.exit(f"{zero}: nothing was killed or nothing was resumed; this compares nothing")
    reported = [(step, loss) for life in lives for step, loss in life.seen.items()]
    differences = [abs(loss - alone.losses[step - 1]) for step, loss in reported]
    differences += [abs(a - b) for a, b in zip(last.losses, alone.losses, strict=True)]
    return {
        "steps": alone.facts["steps"],
        "lives": [{"first_step": min(life.seen), "last_step": max(life.seen)} for life in lives],
        "losses_compared": len(differences),
        "max_loss_difference": max(differences),
        "weights_identical": last.weights == alone.weights,
        "losses": alone.losses,
    }


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':8} steps  killed after     gone on at       losses compared  largest difference  same weights"]
    for name, one in found.items():
        ends = ", ".join(str(life["last_step"]) for life in one["lives"][:-1])
        starts = ", ".join(str(life["first_step"]) for life in one["lives"][1:])
        lines.append(
            f"{name:8} {one['steps']:5}  {ends:15}  {starts:15}  {one['losses_compared']:15}  "
            f"{one['max_loss_difference']:18.3g}  {'yes' if one['weights_identical'] else 'no'}"
        )
    return "\n".join(lines)


def main() -> None:
    within.worker("trainer", "benchmarks.resume")
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        rows = sandbox.rows(Path(folder), clips=CLIPS)
        found = {zero: compare(rows, zero, Path(folder) / zero) for zero in STAGES}
    report = {
        "max_loss_difference": {name: one["max_loss_difference"] for name, one in found.items()},
        **found,
        "processes": PROCESSES,
        "recipe": RECIPE.model_dump(mode="json", exclude={"zero"}),
        "machine": {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total},
        "versions": {package: version(package) for package in ("torch", "transformers", "accelerate", "deepspeed")},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
