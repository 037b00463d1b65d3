"""What a scheme makes of a model is known from its config alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared import geometry, machine, schemes
from shared.contracts import QuantizeRecipe
from shared.errors import InputError, UsageError
from shared.settings import Settings, own_settings

BASE = Path(__file__).parents[2] / "services" / "sandbox" / "base"
TINY: dict[str, Any] = json.loads((BASE / "config.json").read_text())


def config(**text: int) -> dict[str, Any]:
    return TINY | {"text_config": TINY["text_config"] | text}


#: Qwen/Qwen3-VL-8B-Instruct's config.json, the fields that decide shapes.
EIGHT_B: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "text_config": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    },
    "vision_config": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096, "in_channels": 3,
        "num_position_embeddings": 2304, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "deepstack_visual_indexes": [8, 16, 24],
    },
}  # fmt: skip


def test_the_8b_has_as_many_parameters_as_its_publisher_says() -> None:
    shapes = geometry.shapes(EIGHT_B)
    assert geometry.parameters(shapes) == 8_767_123_696
    assert len(geometry.linears(shapes)) == 36 * 7


@pytest.mark.parametrize(
    ("scheme", "ratio"), [("nvfp4a16", 2.32), ("mxfp4a16", 2.39), ("fp8-dynamic", 1.66), ("awq", 2.42), ("gptq", 2.43)]
)
def test_an_8b_shrinks_by_what_its_text_tower_does(scheme: str, ratio: float) -> None:
    shapes = geometry.shapes(EIGHT_B)
    assert schemes.expected_bytes(shapes, None) / schemes.expected_bytes(shapes, scheme) == pytest.approx(
        ratio, abs=0.005
    )


def test_a_head_that_shares_the_embeddings_weights_is_no_tensor() -> None:
    assert "lm_head.weight" in geometry.shapes(TINY)
    assert "lm_head.weight" not in geometry.shapes(TINY | {"tie_word_embeddings": True})


@pytest.mark.parametrize(
    ("scheme", "changed", "told"),
    [
        ("awq", {"intermediate_size": 192}, r"mlp.down_proj: in_features 192 .* group_size 128; .* model: 32, 64$"),
        ("gptq", {"intermediate_size": 200}, r"gate_proj: shape \(200, 128\) is no multiple of 32, .* fp8-dynamic$"),
        ("nvfp4a16", {"intermediate_size": 200}, r"in_features 200 .* nvfp4a16's 16; .* model: fp8-dynamic$"),
        ("mxfp4a16", {"intermediate_size": 208}, r"mxfp4a16's 32; schemes that fit this model: nvfp4a16, fp8-dynamic$"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_layer_and_what_would(
    scheme: str, changed: dict[str, int], told: str
) -> None:
    schemes.check_fit(geometry.shapes(TINY), scheme, 128)
    with pytest.raises(InputError, match=f"^model.language_model.layers.0.*{told}"):
        schemes.check_fit(geometry.shapes(config(**changed)), scheme, 128)


def test_a_row_wide_scale_fits_any_width() -> None:
    schemes.check_fit(geometry.shapes(config(intermediate_size=201)), "fp8-dynamic", 128)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (lambda: geometry.shapes({"model_type": "llama"}), "model type llama"),
        (lambda: geometry.shapes({"model_type": "qwen3_vl"}), "'text_config' is missing"),
        (lambda: schemes.check_unquantised({"quantization_config": {"format": "pack-quantized"}}, "m"), "pack-quant"),
    ],
)
def test_a_model_that_cannot_be_quantised_is_told(check: Callable[[], object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        check()


def test_the_recipe_knows_which_schemes_look_at_rows() -> None:
    looks = {name: QuantizeRecipe(scheme=name).calibrated for name in schemes.SCHEMES}
    assert looks == {"nvfp4a16": False, "mxfp4a16": False, "fp8-dynamic": False, "awq": True, "gptq": True}
    assert not QuantizeRecipe(scheme="awq", calibration="none").calibrated


def test_what_vllm_lacks_is_said_in_the_names_of_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Settings(_env_file=None, vllm_lacks=f"{machine._NO_CPU} {machine._AVX512}")
    assert everything.lacking == schemes.SCHEMES.keys() - {"fp8-dynamic"}
    monkeypatch.setenv("ROADQA_VLLM_LACKS", "fp4")
    with pytest.raises(UsageError, match=r"ROADQA_VLLM_LACKS: 'fp4' is no scheme; there are: nvfp4a16"):
        own_settings()
