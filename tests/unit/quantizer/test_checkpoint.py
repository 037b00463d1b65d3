"""What can be quantised is checked before any work, and the remedy is told."""

import json
import shutil
from pathlib import Path

import pytest

from shared.errors import InputError
from workers.quantizer import checkpoint

LAYER = "model.language_model.layers.0.mlp.down_proj"


def test_every_linear_of_the_text_tower_is_quantized_and_nothing_else(model: Path) -> None:
    layers = checkpoint.quantized_layers(checkpoint.tensors(model))
    assert len(layers) == 2 * 7
    assert all(layer.startswith("model.language_model.layers.") for layer in layers)


def test_a_group_size_that_does_not_divide_is_refused_with_those_that_fit() -> None:
    with pytest.raises(InputError, match=r"group_size 128 does not divide in_features 192 of .*: 32, 64$"):
        checkpoint.check_groups({LAYER: (128, 192)}, "awq", 128)


def test_shapes_that_no_kernel_takes_are_refused() -> None:
    with pytest.raises(InputError, match="no multiple of 32"):
        checkpoint.check_groups({LAYER: (100, 256)}, "awq", 64)
    with pytest.raises(InputError, match="no multiple of fp4's 16"):
        checkpoint.check_groups({LAYER: (128, 100)}, "fp4", 128)


def test_a_quantized_checkpoint_and_another_architecture_are_refused(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    for change, message in (({"quantization_config": {}}, "quantised already"), ({"model_type": "llama"}, "llama")):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            checkpoint.check_model(tmp_path, "fp4", 128)


def test_a_folder_without_weights_is_refused(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "config.json", tmp_path)
    with pytest.raises(InputError, match="no safetensors"):
        checkpoint.check_model(tmp_path, "fp4", 128)


def test_a_lost_or_renamed_tensor_fails_the_save(model: Path) -> None:
    source = checkpoint.tensors(model)
    made = dict.fromkeys(checkpoint.expected_names(source, "awq"), next(iter(source.values())))
    checkpoint.check_names(source, made, "awq")
    made["model.visual.stray"] = made.pop("lm_head.weight")
    with pytest.raises(AssertionError, match=r"missing \['lm_head.weight'\], unexpected \['model.visual.stray'\]"):
        checkpoint.check_names(source, made, "awq")
