"""What tensors a training holds: written into each checkpoint, compared before one is loaded.

DeepSpeed loads ZeRO-3's shards by their place in a flat buffer, not by name: a model whose tensors stand in another
order would take the wrong numbers without a complaint.
"""

import json
from pathlib import Path
from typing import Any

import torch

from shared.errors import RoadQAError
from shared.footprint import Counts
from shared.footprint import checkpoint_bytes as bytes_of

FILE = "tensors.json"


def _of(model: torch.nn.Module) -> list[list[Any]]:
    """[name, shape, trained] of each parameter, in the model's order; ZeRO-3 keeps the whole shape beside its part."""
    return [
        [name, list(getattr(parameter, "ds_shape", parameter.shape)), parameter.requires_grad]
        for name, parameter in model.named_parameters()
    ]


def write(folder: Path, model: torch.nn.Module) -> None:
    (folder / FILE).write_text(json.dumps(_of(model)), encoding="utf-8")


def same(folder: Path, model: torch.nn.Module) -> None:
    """Assert that a checkpoint holds this model's tensors.

    Raises:
        RoadQAError: names the first that differs.
    """
    kept, own = json.loads((folder / FILE).read_text(encoding="utf-8")), _of(model)
    if kept == own:
        return
    at = next((i for i, (a, b) in enumerate(zip(kept, own, strict=False)) if a != b), min(len(kept), len(own)))
    there, here = (found[at] if at < len(found) else "nothing" for found in (kept, own))
    raise RoadQAError(
        f"{folder.name} does not fit this model: its tensor {at} of {len(kept)} is {there}, the model has {here}"
    )


def checkpoint_bytes(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """About what a checkpoint of all ranks takes, as a plan foretells it."""
    sizes = [(int(getattr(p, "ds_numel", p.numel())), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, wanted in sizes if wanted)
    count = Counts(sum(size for size, _ in sizes), trained)
    return bytes_of(count, dtype.itemsize, adapters_only=hasattr(model, "peft_config"))
