"""Recipes: what llm-compressor is told for each scheme, in its own format (`recipes/*.yaml`)."""

from pathlib import Path
from typing import Any

import yaml

from shared.contracts import QuantizeRecipe

FOLDER = Path(__file__).with_name("recipes")
#: The stage of a recipe that rounds each weight by itself.
ROUNDING = "rounding_stage"


def modifiers(recipe: QuantizeRecipe) -> dict[str, dict[str, Any]]:
    """Names of llm-compressor's modifiers, in order, and the arguments of each, the recipe's group size put in."""
    stages = yaml.safe_load((FOLDER / f"{recipe.scheme}.yaml").read_text(encoding="utf-8"))
    rounding = stages.pop(ROUNDING, None)
    (stage,) = [rounding] if rounding and not recipe.calibrated else stages.values()
    chosen: dict[str, dict[str, Any]] = stage["quantization_modifiers"]
    for arguments in chosen.values():
        for group in arguments.get("config_groups", {}).values():
            group["weights"]["group_size"] = recipe.group_size
    return chosen


def text(recipe: QuantizeRecipe) -> str:
    """The recipe as a file that llm-compressor reads."""
    stage = {"quantization_stage": {"quantization_modifiers": modifiers(recipe)}}
    return yaml.safe_dump(stage, sort_keys=False)
