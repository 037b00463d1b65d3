"""How much faster than a plain script is the trainer? The sandbox's model on drawn clips, on this machine's CPU.

The `train` verb against `benchmarks.parts.plain_trainer`, which is transformers' Trainer as one would use it; same
model, rows, batch, processes and precision. Between the two, the plain script with one of the trainer's ideas each.
The variants take turns. Prints a table and writes `results/training.json`.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts import sandbox, within
from shared.budget import VideoBudget
from shared.context import LocalContext
from shared.contracts import TrainRecipe

RESULTS = Path(__file__).parent / "results" / "training.json"
BASE = Path(__file__).parents[1] / "services" / "sandbox" / "base"
ROUNDS, PROCESSES, CLIPS = 3, 2, 40
#: The sandbox preset's training, shorter.
RECIPE = TrainRecipe(
    epochs=2,
    learning_rate=3e-4,
    global_batch=16,
    precision="float32",
    system_prompt="short",
    video=VideoBudget(tokens_per_patch=6, max_frames=8),
)
TRAINER, PACKED = "trainer", "trainer, four questions a sequence"
#: The plain script's options, or the verb's recipe.
VARIANTS: dict[str, list[str] | TrainRecipe] = {
    "plain": [],
    "plain, clips kept": ["--keep-clips"],
    "plain, clips kept, patches by matmul": ["--keep-clips", "--matmul"],
    TRAINER: RECIPE,
    PACKED: RECIPE.model_copy(update={"pack": 4}),
}
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "av")


def plain(rows: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """One run of the plain script; samples, seconds of training, losses."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    script = ["-m", "benchmarks.parts.plain_trainer", str(BASE), str(rows), str(out), RECIPE.model_dump_json()]
    done = subprocess.run(
        [sys.executable, *launcher, *script, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def trainer(rows: Path, out: Path, recipe: TrainRecipe) -> dict[str, Any]:
    """One run of the verb; samples, seconds of training by the rate that it reports, losses."""
    from workers.trainer.train import train

    ctx = LocalContext(out / "scratch")
    (out / "model").mkdir()
    facts = train({"model": [BASE], "data": [rows]}, recipe, out / "model", ctx)
    assert facts["processes"] == PROCESSES
    samples = facts["steps"] * RECIPE.global_batch
    rate = float(ctx.reports[-1][3]["samples_per_second"])
    losses = json.loads((out / "model" / "card.json").read_text(encoding="utf-8"))["training"]["losses"]
    tokens = sandbox.row_tokens(rows, BASE, RECIPE)
    return {"samples": samples, "seconds": samples / rate, "losses": losses, "row_tokens": tokens}


def run(name: str, rows: Path) -> dict[str, Any]:
    """One run of a variant, from an empty folder to saved weights."""
    variant = VARIANTS[name]
    began, cpu = time.monotonic(), _children_cpu()
    with tempfile.TemporaryDirectory(prefix="training-") as out:
        if isinstance(variant, TrainRecipe):
            found = trainer(rows, Path(out), variant)
        else:
            found = plain(rows, Path(out), variant)
    losses = found.pop("losses")
    found["last_loss"] = statistics.fmean(losses[-len(losses) // 4 :])
    return {
        **found,
        "per_second": found["samples"] / found["seconds"],
        "whole_seconds": time.monotonic() - began,
        "cpu_seconds": _children_cpu() - cpu,
    }


def _children_cpu() -> float:
    """Processor seconds of all child processes so far: what a busy machine does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds, and how they compare."""
    rates = {name: statistics.median(one["per_second"] for one in found) for name, found in runs.items()}
    wholes = {name: statistics.median(one["whole_seconds"] for one in found) for name, found in runs.items()}
    cpu = {name: statistics.median(one["cpu_seconds"] for one in found) for name, found in runs.items()}
    return {
        "samples_per_second": rates,
        "whole_seconds": wholes,
        "cpu_seconds": cpu,
        "ratio_vs_plain_trainer": rates[TRAINER] / rates["plain"],
        "ratio_packed_vs_plain_trainer": rates[PACKED] / rates["plain"],
        "ratio_of_whole_seconds": wholes["plain"] / wholes[TRAINER],
    }


def table(runs: dict[str, list[dict[str, Any]]], found: dict[str, Any]) -> str:
    """A line for each variant."""
    lines = [f"{'':38} samples/s  lowest-highest  × plain  whole s    CPU s  last loss"]
    for name, own in runs.items():
        rates = [one["per_second"] for one in own]
        rate, loss = found["samples_per_second"][name], statistics.median(one["last_loss"] for one in own)
        lines.append(
            f"{name:38} {rate:9.1f}  {min(rates):6.1f}-{max(rates):7.1f}  "
            f"{rate / found['samples_per_second']['plain']:7.2f}  {found['whole_seconds'][name]:7.1f}  "
            f"{found['cpu_seconds'][name]:7.1f}  {loss:9.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    within.worker("trainer", "benchmarks.training")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="clips-") as folder:
        rows = sandbox.rows(Path(folder), clips=CLIPS)
        for _ in range(ROUNDS):
            for name, own in runs.items():
                own.append(run(name, rows))
                print(f"{name}: {own[-1]['per_second']:.1f} samples/s", file=sys.stderr, flush=True)
    if len({one["row_tokens"] for own in runs.values() for one in own}) != 1:
        sys.exit("the variants gave the model inputs of different sizes; this compares nothing")
    found = summary(runs)
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    report = {
        **found,
        "machine": machine,
        "versions": {package: version(package) for package in PACKAGES},
        "recipe": RECIPE.model_dump(mode="json"),
        "processes": PROCESSES,
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(runs, found))


if __name__ == "__main__":
    main()
