"""The parts of a model: what is frozen, which layers get adapters, what learns how fast and decays."""

import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from shared.contracts import LoraRecipe, Module, ModuleName
from shared.errors import InputError
from shared.modules import part_of
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import model, modules

FROZEN_TOWER: dict[ModuleName, Module] = {"vision": Module(train=False)}


@pytest.fixture
def loaded(base: Path) -> PreTrainedModel:
    return model.load(base, torch.float32)


def test_every_parameter_belongs_to_one_part(loaded: PreTrainedModel) -> None:
    parts: dict[str, set[str]] = {}
    for name, _ in loaded.named_parameters():
        parts.setdefault(part_of(name), set()).add(re.sub(r"\.\d+\..*", "", name))
        assert part_of(f"base_model.model.{name}") == part_of(name)
    assert parts["projector"] == {
        "model.visual.deepstack_merger_list", "model.visual.merger.norm.weight", "model.visual.merger.norm.bias",
        "model.visual.merger.linear_fc1.weight", "model.visual.merger.linear_fc1.bias",
        "model.visual.merger.linear_fc2.weight", "model.visual.merger.linear_fc2.bias",
    }  # fmt: skip
    assert all(name.startswith("model.visual.") for name in parts["vision"])
    assert parts["language"] >= {"lm_head.weight", "model.language_model.layers"}


@pytest.mark.parametrize(
    ("targets", "frozen", "expected"),
    [
        (None, {}, {"vision", "projector", "language"}),
        (None, FROZEN_TOWER, {"projector", "language"}),
        (("q_proj", "v_proj"), {}, {"language"}),
        (r".*(linear_fc1|o_proj)", FROZEN_TOWER, {"projector", "language"}),
    ],
)
def test_adapters_go_where_targets_say_within_what_is_trained(
    loaded: PreTrainedModel, targets: str | tuple[str, ...] | None, frozen: dict[ModuleName, Module], expected: set[str]
) -> None:
    recipe = RECIPE.model_copy(update={"lora": LoraRecipe(rank=2, targets=targets), "modules": frozen})
    adapted = model.prepare(loaded, recipe, cuda=False)
    moving = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in moving)
    assert {part_of(name) for name in moving} == expected
    assert not any("patch_embed" in name or "lm_head" in name for name in moving)
    if isinstance(targets, tuple):
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in moving} == set(targets)


def test_targets_that_mean_nothing_are_refused_with_what_there_is(loaded: PreTrainedModel) -> None:
    recipe = RECIPE.model_copy(update={"lora": LoraRecipe(targets=("qkv",)), "modules": FROZEN_TOWER})
    with pytest.raises(InputError, match=r"lora.targets: \('qkv',\) is no linear layer .*; they end in: .*down_proj"):
        model.prepare(loaded, recipe, cuda=False)
    recipe = RECIPE.model_copy(update={"lora": LoraRecipe(targets="q_proj")})  # PEFT would match a whole name too
    with pytest.raises(InputError, match=r"a string is a regular expression .* a list: \[q_proj\]"):
        model.prepare(loaded, recipe, cuda=False)


def test_groups_have_the_rate_of_their_part_and_norms_and_biases_do_not_decay(loaded: PreTrainedModel) -> None:
    rates: dict[ModuleName, Module] = {"vision": Module(train=False), "projector": Module(learning_rate=5e-4)}
    recipe = RECIPE.model_copy(update={"modules": rates, "weight_decay": 0.1})
    modules.freeze(loaded, recipe)
    named = list(loaded.named_parameters())
    decayed = [name for name, parameter in named if parameter.ndim > 1]
    groups = modules.parameter_groups(named, decayed, recipe)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (5e-4, 0.1), (5e-4, 0.0), (1e-3, 0.1), (1e-3, 0.0)
    }  # fmt: skip
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in named:
        rate = {"projector": 5e-4, "language": 1e-3}.get(part_of(name))
        assert found.get(id(parameter)) == (None if rate is None else (rate, 0.1 if name in decayed else 0.0)), name
