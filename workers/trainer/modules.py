"""The parts of a model that a recipe names: which parameters are whose, what moves, how fast, and where adapters go.

Names are transformers' own, with or without PEFT's prefix: `model.visual.merger.norm.weight` and
`base_model.model.model.visual.merger.norm.weight` are the same module's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from shared.contracts import LoraRecipe, ModuleName, TrainRecipe
from shared.errors import InputError

if TYPE_CHECKING:
    import torch

_PROJECTOR = re.compile(r"(^|\.)visual\.(merger|deepstack_merger_list)(\.|$)")
_VISION = re.compile(r"(^|\.)visual(\.|$)")
_PATCH_EMBEDDING = re.compile(r"(^|\.)visual\.patch_embed(\.|$)")  # a convolution; an adapter there saves nothing


def part_of(name: str) -> ModuleName:
    """The part that a parameter or module belongs to."""
    if _PROJECTOR.search(name):
        return "projector"
    return "vision" if _VISION.search(name) else "language"


def freeze(model: nn.Module, recipe: TrainRecipe) -> None:
    """Take the gradient from the parts that the recipe does not train."""
    for name, parameter in model.named_parameters():
        if not recipe.trains(part_of(name)):
            parameter.requires_grad_(False)


def adapted_layers(model: nn.Module, lora: LoraRecipe, recipe: TrainRecipe) -> list[str]:
    """Names of the linear layers that get an adapter: of the trained parts, those that `targets` says.

    Raises:
        InputError: no layer is meant.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not _PATCH_EMBEDDING.search(name) and not name.endswith("lm_head")
    ]
    found = [name for name in linear if recipe.trains(part_of(name)) and _wanted(name, lora.targets)]
    if not found:
        ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise InputError(f"lora.targets: {lora.targets!r} is no linear layer of the trained modules; there are: {ends}")
    return found


def _wanted(name: str, targets: str | Sequence[str] | None) -> bool:
    if targets is None:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in targets)


def parameter_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]], decayed: Iterable[str], recipe: TrainRecipe
) -> list[dict[str, Any]]:
    """An optimiser's groups: by learning rate and by whether weights decay, which those of norms and biases do not.

    Args:
        named: parameters by name; frozen ones are left out.
        decayed: names of those that decay.
    """
    decays = set(decayed)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            key = (recipe.rate(part_of(name)), recipe.weight_decay if name in decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]
