"""Which models can be trained: what the video contract and the encoder fit, by config.json alone.

A model must take clips as Qwen3-VL's processor cuts them (cells of 32×32 pixels, two frames a patch, a timestamp
before each) and be asked by its chat template. These do, and have been trained and saved, as random weights of a tiny
size: `tests/unit/trainer/test_families.py`. Qwen3.5 has the same processor, but its template opens a thought before the
answer, which the encoder does not write; Qwen2.5-VL has cells of 28×28 pixels; others have their own ways with frames.
"""

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError

#: model_type in config.json → its name.
TRAINABLE = {"qwen3_vl": "Qwen3-VL", "qwen3_vl_moe": "Qwen3-VL-MoE"}


def check(config: Mapping[str, Any], where: str) -> str:
    """The model's type, where it can be trained.

    Raises:
        InputError: it cannot; names the type and those that can.
    """
    kind = str(config.get("model_type", "model without a model_type"))
    if kind not in TRAINABLE:
        known = ", ".join(f"{type_} ({name})" for type_, name in TRAINABLE.items())
        raise InputError(f"{where}: is a {kind}, which the trainer does not take; it takes {known}")
    if config.get("quantization_config"):
        raise InputError(f"{where}: its weights are quantised; train the model that they were made from")
    return kind
