"""Fine-tunes Qwen3-VL on rows: plans here, trains in processes of its own, keeps checkpoints in scratch."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from shared import child
from shared.context import Context
from shared.contracts import TrainRecipe
from shared.errors import RoadQAError, Stopped
from shared.settings import settings
from workers.trainer import best, card, checkpoints, events, files, prebuild, trackers, validation, zero
from workers.trainer.plan import plan, steps
from workers.trainer.ranks import Ranks
from workers.trainer.request import HISTORY, RankRequest

_CPU_PROCESSES = 2
_GPU_MICRO_BATCH = 2  # rows at once on one GPU: the reference recipe's
_GPU_LOADERS = 4  # DataLoader processes for each GPU; without a GPU they would take the ranks' cores


def train(inputs: dict[str, list[Path]], recipe: TrainRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Train `inputs["model"]` on the rows of `inputs["data"]`; write the new model and its card to `out`.

    Raises:
        InputError: the model is no safetensors Qwen3-VL, or no row can be trained on.
        MediaError: a clip cannot be decoded.
        Stopped: asked to stop; a checkpoint is in scratch, and the next call goes on from it.
    """
    began = time.monotonic()
    tracking = trackers.wanted(settings().trainer_trackers)
    (base,) = inputs["model"]
    files.check(base)
    chosen = plan(inputs["data"], recipe.mix, recipe.seed)
    judged = validation.rows(inputs["validation"], chosen) if inputs.get("validation") else None
    gpus = _gpus()
    spread = _spread(recipe, gpus)
    with tempfile.TemporaryDirectory(
        prefix="train-", dir=out.parent
    ) as folder:  # goes with a killed worker's workspace
        work = Path(folder)
        resume = checkpoints.newest(ctx.scratch, spread.processes, work / "checkpoints")
        request = RankRequest(
            model=base,
            data=tuple(inputs["data"]),
            validation=tuple(inputs.get("validation", ())),
            recipe=recipe,
            out=out,
            work=work,
            resume=resume,
            best=best.resume(ctx.scratch, checkpoints.step_of(resume), work),
            steps=steps(chosen.epoch_rows, recipe.epochs, recipe.global_batch),
            micro_batch=spread.micro_batch,
            accumulation=spread.accumulation,
            loaders=_GPU_LOADERS if gpus else 0,
            cache_bytes=settings().trainer_cache_bytes,
            checkpoint_seconds=settings().trainer_checkpoint_seconds,
        )
        with trackers.told(ctx, tracking, recipe) as told:
            _train(request, spread, environment(spread.processes, gpus), told)
        training = json.loads((work / HISTORY).read_text(encoding="utf-8"))
    files.copy_companions(base, out)
    training["tensors"] = files.same_tensors(base, out)
    events.write(out / events.FOLDER, training.pop("log"))
    made = card.build(files.base_card(base), recipe, chosen, training, judged)
    card.write(out, made)
    return {
        **made["data"],
        **{name: fact for name, fact in training.items() if name not in ("losses", "validations")},
        "processes": spread.processes,
        "resumed_from_step": checkpoints.step_of(resume),
        "seconds": round(time.monotonic() - began, 1),
    }


def _train(request: RankRequest, spread: zero.Spread, environment: dict[str, str], ctx: Context) -> None:
    """Run the ranks to their end.

    Raises:
        Stopped: they were asked to stop, and kept a checkpoint.
    """
    outcome, asked = "nothing", False
    judged: dict[str, float] = {}  # the newest validation
    with Ranks(request, spread.processes, environment) as ranks:
        for event in ranks.events():
            if ctx.stopping and not asked:
                ranks.ask_to_stop()
                asked = True
            match event:
                case {"event": "log", "step": step, **facts}:
                    shown = {name: fact for name, fact in facts.items() if name != "event"}
                    ctx.progress(step, request.steps, "steps", **shown, **judged)
                case {"event": "validation", "step": _, **facts}:
                    judged = {name: fact for name, fact in facts.items() if name != "event"}
                case {"event": "best", "step": step, "folder": folder}:
                    best.keep(ctx.scratch, Path(folder), step)
                case {"event": "checkpoint", "step": step, "folder": folder}:
                    checkpoints.keep(ctx.scratch, Path(folder), step, spread.processes)
                    best.drop_spare(ctx.scratch, checkpoints.kept_steps(ctx.scratch, spread.processes))
                case {"event": "end", "outcome": str(outcome)}:
                    continue
    if outcome == "stopped":
        raise Stopped("training stopped; its checkpoint is kept, and the next attempt goes on from there")
    if outcome != "trained":
        raise RoadQAError("the training processes ended without a result; their stderr says why")


def _gpus() -> int:
    import torch  # costs seconds; a refused input should not wait for it

    return torch.cuda.device_count()


def _spread(recipe: TrainRecipe, gpus: int) -> zero.Spread:
    processes = settings().trainer_processes or gpus or _CPU_PROCESSES
    micro_batch = settings().trainer_micro_batch or (_GPU_MICRO_BATCH if gpus else recipe.global_batch)
    return zero.spread(recipe.global_batch, processes, micro_batch)


def environment(processes: int, gpus: int) -> dict[str, str]:
    """What the ranks' libraries must know before they are imported."""
    # A container's CPU limit shows in the variable alone, which its manifest sets.
    cores = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    threads = max(1, cores // processes)
    common = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return common if gpus else {**common, **prebuild.build(settings().trainer_extensions)}


if __name__ == "__main__":
    child.main(train, TrainRecipe)
