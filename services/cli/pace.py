"""Paces that have been measured: of the user's own finished work, and of the GPU benchmark. None is guessed."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from services.cli.ground import Past
from shared import geometry, published
from shared.contracts import QuantizeRecipe, TrainRecipe
from shared.footprint import Model, model
from shared.spread import Spread

#: Where the checkout has it; an image has none, and knows its own trainings alone.
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "results" / "training_gpu.json"
#: Fields of a recipe that a row's time depends on.
_DECIDE = (
    "video",
    "lora",
    "modules",
    "precision",
    "liger",
    "zero",
    "gradient_checkpointing",
    "loss_on",
    "system_prompt",
    "pack",
)
_LIKE = 0.2  #: how far the benchmark's rows may be from one's own in length


class Pace(NamedTuple):
    """Rows a second, all devices together."""

    samples_per_second: float
    source: str


def training(
    done: Iterable[Past], of: Model, recipe: TrainRecipe, dealt: Spread, row_tokens: int, cuda: bool
) -> Pace | None:
    """The newest finished training of the same sizes, recipe, processes and kind of device; else the benchmark's."""
    alike = (one for one in done if ("gpu" in one.result.facts) == cuda and _alike(one, of, recipe, dealt))
    found = [pace for pace in map(_own, alike) if pace is not None]
    if not found and cuda:
        found = list(_benchmark(of, recipe, dealt, row_tokens))
    return found[-1] if found else None


def _alike(one: Past, of: Model, recipe: TrainRecipe, dealt: Spread) -> bool:
    theirs = TrainRecipe.model_validate(one.recipe)
    same = all(getattr(theirs, field) == getattr(recipe, field) for field in _DECIDE)
    return same and one.result.facts.get("processes") == dealt.processes and _sized(one, of)


def _sized(one: Past, of: Model) -> bool:
    return one.config.get("model_type") == geometry.MODEL_TYPE and model(one.config) == of


def _own(one: Past) -> Pace | None:
    facts = one.result.facts
    pace = facts.get("pace", {}).get("samples_per_second")
    if not pace:
        return None
    where = (
        f"{facts.get('processes')} × {facts['gpu']}" if "gpu" in facts else f"{facts.get('processes')} CPU processes"
    )
    return Pace(pace, f"{one.node} of run {one.run}, on {where}")


def _benchmark(of: Model, recipe: TrainRecipe, dealt: Spread, row_tokens: int) -> Iterator[Pace]:
    """Cases of the same sizes, weights, cap and kernels, on one device with as many rows at once."""
    if dealt.processes > 1 or not BENCHMARK.is_file():
        return
    measured: dict[str, Any] = json.loads(BENCHMARK.read_text(encoding="utf-8"))
    for case in measured["cases"]:
        size, _, cap, *_ = case["case"].split("-")
        if "failed" in case or size not in published.SIZES or model(published.SIZES[size]) != of:
            continue
        theirs, rows = case["recipe"], case["row_tokens"]
        same = theirs["lora"] == _rank(recipe) and theirs["liger"] == recipe.liger and not recipe.modules
        if same and int(cap) == recipe.video.tokens_per_patch and abs(rows - row_tokens) <= _LIKE * row_tokens:
            gpu = measured["machine"]["gpu"]
            yield Pace(case["rows_per_second"], f"benchmarks/training_gpu, one {gpu}, rows of {rows:,} tokens")


def _rank(recipe: TrainRecipe) -> dict[str, Any] | None:
    """LoRA as the benchmark's file spells it: before `targets`, which it leaves to all layers."""
    if recipe.lora is None or recipe.lora.targets is not None:
        return None if recipe.lora is None else {"targets": recipe.lora.targets}
    return recipe.lora.model_dump(exclude={"targets"})


def quantising(done: Iterable[Past], of: Model, recipe: QuantizeRecipe) -> tuple[float | None, str | None]:
    """Seconds of the newest finished quantisation of the same sizes by the same recipe, and where it was."""
    found = [one for one in done if QuantizeRecipe.model_validate(one.recipe) == recipe and _sized(one, of)]
    return (found[-1].result.seconds, f"{found[-1].node} of run {found[-1].run}") if found else (None, None)
