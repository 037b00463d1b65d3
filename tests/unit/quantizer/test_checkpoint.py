"""What can be quantised is checked before any work, and what was saved is compared with what loaders look for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from shared import geometry, schemes
from shared.errors import InputError, RoadQAError
from tests.unit.quantizer.conftest import recipe
from workers.quantizer import checkpoint


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "model"


def test_the_geometry_is_what_transformers_builds(model: Path) -> None:
    small = config_of(model)
    large = small | {
        "text_config": small["text_config"]
        | {"num_hidden_layers": 3, "attention_bias": True, "num_key_value_heads": 4},
        "vision_config": small["vision_config"] | {"deepstack_visual_indexes": [0, 1], "temporal_patch_size": 1},
    }
    tied = small | {"tie_word_embeddings": True}
    for config in (small, large, tied):
        with torch.device("meta"):
            built = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config))
        shared = set(built.all_tied_weights_keys) if config is tied else set()
        held = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items() if name not in shared}
        assert geometry.shapes(config) == held


def test_every_linear_of_the_text_tower_is_quantized_and_nothing_else(model: Path) -> None:
    layers = geometry.linears(geometry.shapes(config_of(model)))
    assert len(layers) == 2 * 7
    assert all(layer.startswith("model.language_model.layers.") for layer in layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"format": "pack-quantized"}}, r"quantised already \(pack-quantized\)"),
        ({"model_type": "llama"}, "llama"),
    ],
)
def test_a_model_that_cannot_be_quantised_is_refused(copied: Path, change: dict[str, Any], message: str) -> None:
    (copied / "config.json").write_text(json.dumps(config_of(copied) | change))
    with pytest.raises(InputError, match=message):
        checkpoint.check_model(copied, recipe("awq"))


def test_a_group_size_that_does_not_fit_is_refused_with_the_layer(copied: Path) -> None:
    config = config_of(copied)
    config["text_config"]["intermediate_size"] = 192
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"layers\.0\.mlp\.down_proj: in_features 192 is no multiple of group_size 128"
    ):
        checkpoint.check_model(copied, recipe("gptq", group_size=128))


def test_missing_and_misshapen_tensors_are_named(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    lost = weights.pop("model.language_model.layers.1.self_attn.k_norm.weight")
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(
        InputError, match=r"1 of \d+ tensors .* are missing; the first is .*layers\.1\.self_attn\.k_norm"
    ):
        checkpoint.check_model(copied, recipe("nvfp4a16"))
    weights["model.language_model.layers.1.self_attn.k_norm.weight"] = torch.cat([lost, lost])
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(InputError, match=r"k_norm.weight is \(64,\), config.json says \(32,\)"):
        checkpoint.check_model(copied, recipe("nvfp4a16"))


@pytest.mark.parametrize("left", [4, 100, 100_000])
def test_a_file_that_is_cut_short_is_told(copied: Path, left: int) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=r"model\.safetensors: not whole"):
        checkpoint.check_model(copied, recipe("nvfp4a16"))


def test_a_folder_without_weights_is_refused(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "config.json", tmp_path)
    with pytest.raises(InputError, match="no safetensors"):
        checkpoint.check_model(tmp_path, recipe("nvfp4a16"))


def test_a_disk_without_room_is_told_before_the_work(tmp_path: Path) -> None:
    checkpoint.check_disk(tmp_path, 1000)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RoadQAError, match=r"not enough disk for the checkpoint: it takes \d+\.\d\d GB") as told:
        checkpoint.check_disk(tmp_path, 2 * free)
    assert not told.value.permanent


def test_a_lost_renamed_or_retyped_tensor_fails_the_save(model: Path) -> None:
    shapes, chosen = geometry.shapes(config_of(model)), recipe("awq")
    made = schemes.checkpoint(shapes, "awq", chosen.group_size)
    checkpoint.check_saved(shapes, made, chosen)
    retyped = made | {"lm_head.weight": made["lm_head.weight"]._replace(dtype="F32")}
    with pytest.raises(checkpoint.SaveError, match=r"1 tensors differ; lm_head.weight is .*F32.*, not .*BF16"):
        checkpoint.check_saved(shapes, retyped, chosen)
    made["model.visual.stray"] = made.pop("lm_head.weight")
    with pytest.raises(
        checkpoint.SaveError, match=r"missing \['lm_head.weight'\], unexpected \['model.visual.stray'\]"
    ):
        checkpoint.check_saved(shapes, made, chosen)
