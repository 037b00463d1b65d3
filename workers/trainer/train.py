"""Fine-tunes Qwen3-VL on rows: plans here, trains in processes of its own, keeps checkpoints in scratch."""

import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from shared import child
from shared.context import Context
from shared.contracts import TrainRecipe
from shared.settings import settings
from shared.spread import GPU_MICRO_BATCH, Spread, halved, spread
from workers.trainer import (
    attempt,
    best,
    card,
    checkpoints,
    events,
    files,
    prebuild,
    trackers,
    troubles,
    validation,
)
from workers.trainer.checkpoints import Cut
from workers.trainer.nodes import Nodes
from workers.trainer.plan import Plan, plan, steps
from workers.trainer.request import RankRequest
from workers.trainer.troubles import MemoryShortError

log = logging.getLogger(__name__)

_CPU_PROCESSES = 2
_GPU_LOADERS = 4  # DataLoader processes for each GPU; without a GPU they would take the ranks' cores


def train(inputs: dict[str, list[Path]], recipe: TrainRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Train `inputs["model"]` on the rows of `inputs["data"]`; write the new model and its card to `out`.

    Raises:
        InputError: the model is no safetensors Qwen3-VL, or no row can be trained on.
        MediaError: more than one clip in a hundred cannot be decoded.
        MemoryShortError, DiskFullError, DivergedError: say what to lower, or where to make room.
        Stopped: asked to stop; a checkpoint is in scratch, and the next call goes on from it.
    """
    began = time.monotonic()
    tracking = trackers.wanted(settings().trainer_trackers)
    (base,) = inputs["model"]
    files.check(base)
    chosen = plan(inputs["data"], recipe.mix, recipe.seed)
    judged = validation.rows(inputs["validation"], chosen) if inputs.get("validation") else None
    seen = card.said(card.visual_tokens(chosen, recipe))
    log.info("visual tokens: %s", seen)
    devices = gpus()
    dealt = _spread(recipe, devices)
    training: dict[str, Any] | None = None
    with trackers.told(ctx, tracking, recipe) as told:
        while training is None:
            try:
                training = _attempt(inputs, recipe, out, told, chosen, seen, dealt, devices)
            except MemoryShortError as error:
                if not settings().trainer_auto_batch or dealt.micro_batch == 1:
                    raise MemoryShortError(f"{error}; {troubles.advice(recipe, dealt.micro_batch)}") from error
                dealt = halved(recipe.global_batch, dealt)
                log.warning("%s; going on with %d rows at once", error, dealt.micro_batch)
    files.copy_companions(base, out)
    training["tensors"] = files.same_tensors(base, out)
    events.write(out / events.FOLDER, training.pop("log"))
    made = card.build(files.base_card(base), recipe, chosen, training, judged)
    card.write(out, made)
    return {
        **made["data"],
        **{name: fact for name, fact in training.items() if name not in ("losses", "validations")},
        "processes": dealt.processes,
        "seconds": round(time.monotonic() - began, 1),
    }


def _attempt(
    inputs: dict[str, list[Path]],
    recipe: TrainRecipe,
    out: Path,
    ctx: Context,
    chosen: Plan,
    seen: str,
    dealt: Spread,
    devices: int,
) -> dict[str, Any]:
    """Train on from the newest checkpoint to the end; returns what the ranks tell of it."""
    there = Nodes.of(settings())
    cut = Cut(dealt.processes, there.count)
    with tempfile.TemporaryDirectory(
        prefix="train-", dir=out.parent
    ) as folder:  # goes with a killed worker's workspace
        work = Path(folder)
        resume = checkpoints.newest(ctx.scratch, cut, work / "checkpoints")
        best.resume(ctx.scratch, cut, checkpoints.step_of(resume), work)
        request = RankRequest(
            model=inputs["model"][0],
            data=tuple(inputs["data"]),
            validation=tuple(inputs.get("validation", ())),
            recipe=recipe,
            out=out,
            work=work,
            cache=settings().cache_dir.absolute() / "frames",
            resume=resume,
            steps=steps(chosen.epoch_rows, recipe.epochs, recipe.global_batch),
            micro_batch=dealt.micro_batch,
            accumulation=dealt.accumulation,
            loaders=_GPU_LOADERS if devices else 0,
            cache_bytes=settings().trainer_cache_bytes,
            checkpoint_seconds=settings().trainer_checkpoint_seconds,
            nodes=cut.nodes,
        )
        told = attempt.Told(clips=len({question.clip for question in chosen.questions}), visual_tokens=seen)
        found = attempt.run(request, cut, environment(cut.processes // cut.nodes, devices), told, ctx, there)
    return {**found, "micro_batch": dealt.micro_batch, "resumed_from_step": checkpoints.step_of(resume)}


def gpus() -> int:
    import torch  # costs seconds; a refused input should not wait for it

    return torch.cuda.device_count()


def _spread(recipe: TrainRecipe, devices: int) -> Spread:
    processes = settings().trainer_processes or devices or _CPU_PROCESSES
    micro_batch = settings().trainer_micro_batch or (GPU_MICRO_BATCH if devices else recipe.global_batch)
    return spread(recipe.global_batch, processes, micro_batch, settings().trainer_nodes)


def environment(processes: int, devices: int) -> dict[str, str]:
    """What a machine's ranks' libraries must know before they are imported."""
    # A container's CPU limit shows in the variable alone, which its manifest sets.
    cores = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    threads = max(1, cores // processes)
    common = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    ready = prebuild.clear if devices else prebuild.build
    return {**common, **ready(settings().trainer_extensions)}


if __name__ == "__main__":
    child.main(train, TrainRecipe)
