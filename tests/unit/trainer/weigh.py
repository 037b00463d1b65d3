"""Weighs steps of the trainer's own code in this process: `python -m tests.unit.trainer.weigh ROWS WORK CASES`.

CASES is a JSON list of {"recipe": …, "micro_batch": …}; a line of JSON comes back for each, in bytes.
"""

import gc
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from transformers import TrainerCallback
from transformers.trainer_utils import set_seed

from benchmarks.parts.step import BASE, request_of, row_sizes, trainer_of
from shared.contracts import TrainRecipe
from tests.unit.trainer.live import LiveBytes
from workers.trainer import model, rank

STEPS = 2  #: the optimiser's moments are there from the second on


class Scales(TrainerCallback):
    """Notes what is alive at the joints of a step."""

    def __init__(self, live: LiveBytes) -> None:
        self._live = live
        self.found: dict[str, int] = {}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        gc.collect()
        self._live.rest()
        self.found["resting"] = self._live.now

    def before_optimiser(self) -> None:
        self.found["backward_peak"] = self._live.rest()
        gc.collect()
        self.found["gradients"] = self._live.now - self.found["resting"]

    def after_optimiser(self) -> None:
        self.found["step_peak"] = self._live.rest()


def weigh(rows: Path, work: Path, recipe: TrainRecipe, micro_batch: int) -> dict[str, Any]:
    """A few steps in one process."""
    work.mkdir()
    request = request_of(rows, work, recipe, STEPS, micro_batch)
    set_seed(recipe.seed)
    live = LiveBytes()
    args = rank.arguments(request, cuda=False)
    loaded = model.prepare(model.load(BASE, model.DTYPES[recipe.precision]), recipe, cuda=False)
    scales = Scales(live)
    trainer = trainer_of(request, args, loaded, scales)
    examples = [trainer.train_dataset[position] for position in range(STEPS * micro_batch)]  # decoded once, and kept
    batch = [row_sizes(example) for example in examples[:micro_batch]]
    del examples
    for parameter in loaded.parameters():
        live.count(parameter)
    own_step = deepspeed.DeepSpeedEngine.step

    def step(engine: Any, *given: Any, **named: Any) -> Any:
        scales.before_optimiser()
        done = own_step(engine, *given, **named)
        scales.after_optimiser()
        return done

    deepspeed.DeepSpeedEngine.step = step
    try:
        with live:
            trainer.train()
    finally:
        deepspeed.DeepSpeedEngine.step = own_step
    weights = _storages(loaded.parameters())
    optimiser = trainer.accelerator.deepspeed_engine_wrapped.engine.optimizer
    optimiser = getattr(optimiser, "optimizer", optimiser)  # ZeRO's own holds torch's
    masters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = [value for state in optimiser.state.values() for value in state.values() if torch.is_tensor(value)]
    return {
        **scales.found,
        "weights": sum(weights.values()),
        "optimiser": sum((_storages([*masters, *moments]) | weights).values()) - sum(weights.values()),
        "tokens": max(row["tokens"] for row in batch),
        "visual": max(row["patches"] for row in batch) // 4,
    }


def _storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}


def main() -> None:
    rows, work, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    rank.join(cuda=False)
    torch.set_num_threads(1)
    for number, case in enumerate(cases):
        recipe = TrainRecipe.model_validate(case["recipe"])
        print(json.dumps(weigh(rows, work / str(number), recipe, case["micro_batch"])), flush=True)


if __name__ == "__main__":
    main()
