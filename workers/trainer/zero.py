"""DeepSpeed's configuration."""

from typing import Any

from shared.contracts import TrainRecipe, Zero

MAX_GRAD_NORM = 1.0


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
