"""One case of `benchmarks.training_gpu`: a few optimiser steps in this process, timed and weighed.

`python -m benchmarks.parts.step 8B-lora-768-liger ROWS WORK STEPS` prints one JSON object as its last line.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, TrainerCallback
from transformers.trainer_utils import set_seed
from transformers.utils.logging import disable_progress_bar

from benchmarks.parts import geometry
from shared import activations, footprint
from shared.budget import VideoBudget
from shared.contracts import LoraRecipe, TrainRecipe
from workers.trainer import model, rank
from workers.trainer.meter import Meter
from workers.trainer.request import RankRequest

BASE = Path(__file__).parents[2] / "services" / "sandbox" / "base"  # tokenizer and processor
MICRO_BATCH, LOADERS, WARM_UP = 2, 4, 2
#: Dense bfloat16 FLOP/s without sparsity, from NVIDIA's data sheets of the H100 SXM and the H200 SXM.
PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989.4e12, "NVIDIA H200": 989.4e12}


class Watch(TrainerCallback):
    """Times each step to the end of its last kernel; `waits` is the time before it, for the next batch."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.losses: list[float] = []
        self.before = self.after_first = 0
        self._ended = self._began = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.before = allocated()
        self._ended = now()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        ended = now()
        self.waits.append(self._began - self._ended)
        self.steps.append(ended - self._ended)
        self._ended = ended
        self.after_first = self.after_first or allocated()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated() -> int:
    """Bytes of tensors on the GPU."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def recipe_of(case: str) -> tuple[str, TrainRecipe]:
    """The geometry and recipe that a case's name spells."""
    size, weights, tokens, *rest = case.split("-")
    cuda = torch.cuda.is_available()
    recipe = TrainRecipe(
        global_batch=MICRO_BATCH,
        precision="bfloat16" if cuda else "float32",
        lora=LoraRecipe() if weights == "lora" else None,
        liger="liger" in rest,
        video=VideoBudget(tokens_per_patch=int(tokens)),
    )
    return size, recipe


def main() -> None:
    case, data, work, steps = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    size, recipe = recipe_of(case)
    sys.stdin.readline()  # the libraries are imported; from here on the GPU is this process's
    cuda = torch.cuda.is_available()
    request = request_of(data, work, recipe, steps, MICRO_BATCH)
    rank.join(cuda)
    set_seed(recipe.seed)
    disable_progress_bar()
    args = rank.arguments(request, cuda)
    wanted = geometry.config(size, AutoConfig.from_pretrained(BASE))
    loaded = geometry.random_model(wanted, "cuda" if cuda else "cpu").to(model.DTYPES[recipe.precision])
    prepared = model.prepare(loaded, recipe, cuda)
    total = sum(p.numel() for p in prepared.parameters())
    trained = sum(p.numel() for p in prepared.parameters() if p.requires_grad)
    watch = Watch()
    trainer = trainer_of(request, args, prepared, watch)
    batches = [row_sizes(trainer.train_dataset[position]) for position in range(MICRO_BATCH)]
    trainer.train()
    found = report(watch, wanted, recipe, batches, total, trained)
    print(json.dumps(found | {"memory_by_arithmetic": arithmetic(size, recipe, batches)}))


def request_of(data: Path, work: Path, recipe: TrainRecipe, steps: int, micro_batch: int) -> RankRequest:
    """What the verb would hand to the only rank of a training without accumulation."""
    return RankRequest(
        model=BASE,
        data=(data,),
        recipe=recipe,
        out=work / "out",
        work=work,
        cache=work / "frames",
        resume=None,
        steps=steps,
        micro_batch=micro_batch,
        accumulation=1,
        loaders=LOADERS if torch.cuda.is_available() else 0,
        cache_bytes=10**10,
        checkpoint_seconds=3600,
    )


def trainer_of(request: RankRequest, args: Any, prepared: Any, watch: TrainerCallback) -> Any:
    """The rank's own trainer, which tells `watch` alone."""
    return rank.make_trainer(request, args, prepared, Meter(), [watch])


def row_sizes(example: dict[str, torch.Tensor]) -> dict[str, int]:
    """Tokens, temporal patches and pixel patches of one row."""
    frames, height, width = example["video_grid_thw"].tolist()
    return {"tokens": len(example["input_ids"]), "frames": frames, "patches": frames * height * width}


def arithmetic(size: str, recipe: TrainRecipe, rows: list[dict[str, int]]) -> dict[str, float]:
    """What `roadqa run --plan` would say of the case, in bytes."""
    longest = max(row["tokens"] for row in rows)
    batch = activations.Batch(MICRO_BATCH, longest, rows[0]["patches"] // 4)
    held = footprint.footprint(footprint.model(geometry.CONFIGS[size]), recipe, 1, batch, torch.cuda.is_available())
    return {**held._asdict(), "peak": held.peak}


def report(watch: Watch, wanted: Any, recipe: TrainRecipe, rows: list[dict[str, int]], total: int, trained: int) -> Any:
    """What one case found; bytes and seconds."""
    timed = watch.steps[WARM_UP:]
    step = statistics.median(timed)
    longest = max(row["tokens"] for row in rows)
    counted = geometry.flops(wanted, longest, rows[0]["frames"], rows[0]["patches"])
    step_flops = MICRO_BATCH * counted.step(frozen=recipe.lora is not None)
    done_flops = step_flops + (MICRO_BATCH * sum(counted) if torch.cuda.is_available() else 0)  # forward once more
    peak = PEAK_FLOPS.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    memory = {"before_training": watch.before, "after_first_step": watch.after_first}
    if torch.cuda.is_available():
        memory |= {
            "peak_allocated": torch.cuda.max_memory_allocated(),
            "peak_reserved": torch.cuda.max_memory_reserved(),
        }
    else:
        memory |= {"peak_allocated": 0, "peak_reserved": 0}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "rows_at_once": MICRO_BATCH,
        "row_tokens": longest,
        "visual_tokens": rows[0]["patches"] // 4,
        "temporal_patches": rows[0]["frames"],
        "parameters": total,
        "trained_parameters": trained,
        "gradient_checkpointing": torch.cuda.is_available(),
        "step_seconds": {"median": step, "min": min(timed), "max": max(timed), "n": len(timed)},
        "first_step_seconds": watch.steps[0],
        "wait_share": sum(watch.waits[WARM_UP:]) / sum(timed),
        "rows_per_second": MICRO_BATCH / step,
        "tokens_per_second": MICRO_BATCH * longest / step,
        "model_flops_per_step": step_flops,
        "flops_with_recomputation_per_step": done_flops,
        "peak_flops": peak,
        "mfu": step_flops / step / peak if peak else None,
        "hfu": done_flops / step / peak if peak else None,
        "memory": memory,
        "losses": watch.losses,
    }


if __name__ == "__main__":
    main()
