"""DeepSpeed's configuration, and how a global batch is spread over processes."""

from typing import Any, NamedTuple

from shared.contracts import TrainRecipe, Zero
from shared.errors import UsageError

MAX_GRAD_NORM = 1.0


class Spread(NamedTuple):
    """processes · micro_batch · accumulation = global_batch."""

    processes: int
    micro_batch: int
    accumulation: int


def spread(global_batch: int, processes: int, micro_batch: int, nodes: int = 1) -> Spread:
    """At most `processes` on each node and at most `micro_batch` rows at once, both divisors of what they divide.

    Raises:
        UsageError: the batch cannot be dealt to so many nodes.
    """
    if global_batch % nodes:
        raise UsageError(f"global_batch {global_batch} cannot be dealt to {nodes} nodes; make it a multiple of {nodes}")
    used = nodes * _largest_divisor(global_batch // nodes, processes)
    micro = _largest_divisor(global_batch // used, micro_batch)
    return Spread(used, micro, global_batch // used // micro)


def halved(global_batch: int, before: Spread) -> Spread:
    """At most half as many rows at once, on the same processes."""
    micro = _largest_divisor(global_batch // before.processes, before.micro_batch // 2)
    return Spread(before.processes, micro, global_batch // before.processes // micro)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def stage(zero: Zero) -> int:
    """The ZeRO stage of a named configuration."""
    return int(zero.removeprefix("zero")[0])


def config(recipe: TrainRecipe, cuda: bool) -> dict[str, Any]:
    """ZeRO under transformers' Trainer, which fills in what is "auto" and brings optimiser and schedule.

    With offload the optimiser is torch's fused AdamW, which has a kernel for CPUs too. DeepSpeed would rather have its
    own CPU Adam, a C++ extension that every machine would have to compile first; hence `zero_force_ds_cpu_optimizer`.
    Source: DeepSpeed 0.19.8, `runtime/engine.py` (`_configure_optimizer`).
    """
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": recipe.precision == "bfloat16"},
        "zero_optimization": {
            "stage": stage(recipe.zero),
            "overlap_comm": cuda,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
            **_offload(recipe.zero, cuda),
        },
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,  # progress is ours to report
        "wall_clock_breakdown": False,
    }


def _offload(zero: Zero, cuda: bool) -> dict[str, Any]:
    """What lies in the host's memory; pinned where a GPU copies from it."""
    if not zero.endswith("offload"):
        return {}
    host = {"device": "cpu", "pin_memory": cuda}
    return {"offload_optimizer": host} | ({"offload_param": host} if stage(zero) == 3 else {})
