"""The memory model: against published counts, a real checkpoint, and what an H200 was measured to hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared import footprint, published
from shared.activations import Batch
from shared.contracts import LoraRecipe, Module, TrainRecipe
from shared.errors import InputError
from shared.modules import part_of

ROOT = Path(__file__).parents[2]
BASE = ROOT / "services" / "sandbox" / "base"
TINY: dict[str, Any] = json.loads((BASE / "config.json").read_text())
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "training_gpu.json").read_text())["cases"]
EIGHT_B = footprint.model(published.SIZES["8B"])
ROWS = Batch(2, 6271, 6048)


def recipe(case: dict[str, Any]) -> TrainRecipe:
    values = {name: value for name, value in case["recipe"].items() if name not in ("zero_stage", "train_vision")}
    return TrainRecipe.model_validate(values)  # the two were 2 and true, which are the defaults


@pytest.mark.parametrize(("size", "count"), [("2B", 2_127_532_032), ("4B", 4_437_815_808), ("8B", 8_767_123_696)])
def test_a_published_size_has_the_parameters_its_publisher_says(size: str, count: int) -> None:
    assert footprint.model(published.SIZES[size]).total == count


def test_a_models_parts_are_those_of_its_checkpoint() -> None:
    raw = (BASE / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    held = dict.fromkeys(("vision", "projector", "language"), 0)
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            held[part_of(name)] += (end - start) // 2
    assert footprint.model(TINY).parameters == held


@pytest.mark.parametrize("name", ["Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-8B-Thinking"])
def test_a_published_checkpoint_is_known_by_its_name(name: str) -> None:
    assert published.find(name) == published.SIZES["8B"]


def test_another_is_not_known() -> None:
    assert published.find("Qwen/Qwen3-VL-235B") is None
    with pytest.raises(InputError, match="model type llama"):
        footprint.model({"model_type": "llama"})


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case["case"])
def test_what_a_gpu_held_is_foretold_within_a_fifth(case: dict[str, Any]) -> None:
    of = footprint.model(published.SIZES[case["case"].split("-")[0]])
    asked = recipe(case)
    assert footprint.counts(of, asked) == (case["parameters"], case["trained_parameters"])
    held = footprint.footprint(of, asked, 1, Batch(case["rows_at_once"], case["row_tokens"], case["visual_tokens"]))
    measured = case["memory"]
    assert held.peak == pytest.approx(measured["peak_allocated"], rel=0.2)
    assert held.weights + held.optimiser == pytest.approx(measured["after_first_step"], rel=0.06)
    if held.gradients + held.buckets + held.activations > held.step:  # what is beside them can be told apart
        beside = measured["peak_allocated"] - held.weights - held.optimiser
        assert held.gradients + held.buckets + held.activations == pytest.approx(beside, rel=0.2)


def held(devices: int = 1, batch: Batch = ROWS, **fields: Any) -> footprint.Footprint:
    return footprint.footprint(EIGHT_B, TrainRecipe(**fields), devices, batch)


def test_zero_deals_out_what_its_stage_says() -> None:
    alone, dealt = held(), held(devices=8)
    assert dealt.weights == alone.weights
    assert (dealt.optimiser, dealt.gradients) == (alone.optimiser / 8, alone.gradients / 8)
    assert held(devices=8, zero="zero0").optimiser == alone.optimiser
    assert held(devices=8, zero="zero1").gradients == alone.gradients
    assert held(devices=8, zero="zero3").weights == alone.weights / 8


def test_offload_moves_the_optimiser_to_the_host_and_at_stage_3_the_weights_too() -> None:
    states = 12 * EIGHT_B.total
    assert (held(zero="zero2-offload").optimiser, held(zero="zero2").host) == (0, 0)
    assert held(zero="zero2-offload").host >= states
    assert held(zero="zero3-offload").weights == 0
    assert held(zero="zero3-offload").host >= states + 2 * EIGHT_B.total


def test_what_does_not_move_has_neither_gradient_nor_state() -> None:
    frozen = held(modules={"vision": Module(train=False), "projector": Module(train=False)})
    assert frozen.optimiser == 12 * EIGHT_B.parameters["language"]
    assert frozen.activations < held().activations
    assert held(lora=LoraRecipe()).optimiser < 1e9
    assert held(lora=LoraRecipe(targets=("q_proj",))).optimiser < held(lora=LoraRecipe()).optimiser


def test_activations_shrink_with_what_is_said_to_shrink_them() -> None:
    whole = held().activations
    assert held(batch=ROWS._replace(rows=1)).activations < whole
    assert held(batch=Batch(2, 2239, 2016)).activations < whole
    assert held(liger=False).activations > whole
    assert held(gradient_checkpointing=False).activations > 3 * whole
