"""Every weight of a Qwen3-VL, by its name in a checkpoint, from config.json alone: what is planned before any is there.

Source: `transformers.models.qwen3_vl` 5.17; a test compares the names and shapes with what it builds.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from shared.errors import InputError

Shapes = dict[str, tuple[int, ...]]  #: tensor name → shape; a Linear's weight is (out_features, in_features)

MODEL_TYPE = "qwen3_vl"
LAYERS = "model.language_model.layers"
#: Modules of one decoder layer that are Linears.
LINEARS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def check(config: Mapping[str, Any], where: str) -> None:
    """Refuse a model of another architecture.

    Raises:
        InputError: says which it is.
    """
    if (kind := config.get("model_type")) != MODEL_TYPE:
        raise InputError(f"{where}: model type {kind}; sizes are reckoned for {MODEL_TYPE}, and only that is quantised")


def shapes(config: Mapping[str, Any]) -> Shapes:
    """Every tensor of the checkpoint that config.json describes, unquantised.

    Raises:
        InputError: a field is missing, or it is no qwen3_vl.
    """
    check(config, "config.json")
    try:
        return _text(config["text_config"], _tied(config)) | _vision(config["vision_config"])
    except KeyError as error:
        raise InputError(f"config.json: {error} is missing") from error


def parameters(found: Shapes) -> int:
    """How many numbers the tensors hold together."""
    return sum(map(prod, found.values()))


def linears(found: Shapes) -> dict[str, tuple[int, int]]:
    """The Linears of the text tower, by module name (without `.weight`): (out_features, in_features)."""
    return {
        module: (shape[0], shape[1])
        for name, shape in found.items()
        if name.startswith(LAYERS) and (module := name.removesuffix(".weight")).endswith(LINEARS)
    }


def _tied(config: Mapping[str, Any]) -> bool:
    """Whether the head shares the embedding's weights; transformers reads the outer field."""
    return bool(config.get("tie_word_embeddings", config["text_config"].get("tie_word_embeddings", False)))


def _text(text: Mapping[str, Any], tied: bool) -> Shapes:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    heads = text["num_attention_heads"]
    size = text.get("head_dim") or hidden // heads
    queries, keys = heads * size, (text.get("num_key_value_heads") or heads) * size
    layer: Shapes = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_norm.weight": (size,),
        "self_attn.k_norm.weight": (size,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if text.get("attention_bias"):
        layer |= {f"self_attn.{n}_proj.bias": (layer[f"self_attn.{n}_proj.weight"][0],) for n in "qkvo"}
    found: Shapes = {
        "model.language_model.embed_tokens.weight": (text["vocab_size"], hidden),
        "model.language_model.norm.weight": (hidden,),
    }
    if not tied:
        found["lm_head.weight"] = (text["vocab_size"], hidden)
    for number in range(text["num_hidden_layers"]):
        found |= {f"{LAYERS}.{number}.{name}": shape for name, shape in layer.items()}
    return found


def _vision(vision: Mapping[str, Any]) -> Shapes:
    hidden, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    patch, merged = vision["patch_size"], hidden * vision["spatial_merge_size"] ** 2
    block = {
        **_norm("norm1", hidden),
        **_norm("norm2", hidden),
        **_linear("attn.qkv", 3 * hidden, hidden),
        **_linear("attn.proj", hidden, hidden),
        **_linear("mlp.linear_fc1", inner, hidden),
        **_linear("mlp.linear_fc2", hidden, inner),
    }
    merger = {**_linear("linear_fc1", merged, merged), **_linear("linear_fc2", out, merged)}
    parts: dict[str, Shapes] = {f"blocks.{number}": block for number in range(vision["depth"])}
    parts["merger"] = merger | _norm("norm", hidden)
    for number in range(len(vision["deepstack_visual_indexes"])):
        parts[f"deepstack_merger_list.{number}"] = merger | _norm("norm", merged)
    found: Shapes = {
        "model.visual.patch_embed.proj.weight":
            (hidden, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
        "model.visual.patch_embed.proj.bias": (hidden,),
        "model.visual.pos_embed.weight": (vision["num_position_embeddings"], hidden),
    }  # fmt: skip
    for part, tensors in parts.items():
        found |= {f"model.visual.{part}.{name}": shape for name, shape in tensors.items()}
    return found


def _linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
