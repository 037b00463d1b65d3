"""The parts of a model that a recipe names: which tensors are whose, and which linear layers get an adapter.

Names are a checkpoint's own, with or without PEFT's prefix: `model.visual.merger.norm.weight` and
`base_model.model.model.visual.merger.norm.weight` are the same module's.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from shared.contracts import ModuleName, TrainRecipe
from shared.errors import InputError

_PROJECTOR = re.compile(r"(^|\.)visual\.(merger|deepstack_merger_list)(\.|$)")
_VISION = re.compile(r"(^|\.)visual(\.|$)")


@lru_cache(maxsize=10_000)  # a plan asks again for each setting that it tries
def part_of(name: str) -> ModuleName:
    """The part that a tensor or module belongs to."""
    if _PROJECTOR.search(name):
        return "projector"
    return "vision" if _VISION.search(name) else "language"


def adapted(layers: Iterable[str], recipe: TrainRecipe) -> list[str]:
    """Those of a model's linear layers that get an adapter: of the trained parts, those that `lora.targets` says.

    Raises:
        InputError: no layer is meant.
    """
    assert recipe.lora is not None
    targets, known = recipe.lora.targets, list(layers)
    found = [name for name in known if recipe.trains(part_of(name)) and _wanted(name, targets)]
    if not found:
        ends = ", ".join(sorted({name.rpartition(".")[2] for name in known if recipe.trains(part_of(name))}))
        form = f"; a string is a regular expression of a whole name, an end is a list: [{targets}]"
        raise InputError(
            f"lora.targets: {targets!r} is no linear layer of the trained modules"
            f"{form if isinstance(targets, str) else ''}; they end in: {ends}"
        )
    return found


def _wanted(name: str, targets: str | tuple[str, ...] | None) -> bool:
    if targets is None:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in targets)
