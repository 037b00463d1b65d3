"""A recipe's modules in torch: what moves, how fast, and where adapters go."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from shared.contracts import TrainRecipe
from shared.modules import adapted, part_of

if TYPE_CHECKING:
    import torch

_PATCH_EMBEDDING = re.compile(r"(^|\.)visual\.patch_embed(\.|$)")  # a convolution; an adapter there saves nothing


def freeze(model: nn.Module, recipe: TrainRecipe) -> None:
    """Take the gradient from the parts that the recipe does not train."""
    for name, parameter in model.named_parameters():
        if not recipe.trains(part_of(name)):
            parameter.requires_grad_(False)


def adapted_layers(model: nn.Module, recipe: TrainRecipe) -> list[str]:
    """Names of the linear layers that get an adapter.

    Raises:
        InputError: no layer is meant.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not _PATCH_EMBEDDING.search(name) and not name.endswith("lm_head")
    ]
    return adapted(linear, recipe)


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
