"""What a checkpoint holds, read from its safetensors headers, and what a quantised one must hold."""

import json
import re
import shutil
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, get_args

from shared.contracts import GroupSize
from shared.errors import InputError

#: The Linears of the text tower. Everything else (vision tower, embeddings, norms, lm_head) stays in 16 bits.
QUANTIZED = re.compile(
    r"^(model\.language_model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj))\.weight$"
)
#: Tensors that stand for one quantised weight, as compressed-tensors 0.19 names them.
PARTS = {
    "fp4": ("weight_packed", "weight_scale", "weight_global_scale"),
    "awq": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
}
FP4_GROUP = 16
KERNEL_MULTIPLE = 32  #: vLLM's CPU int4 kernel wants in_features and out_features to be multiples of this

_WEIGHTS = re.compile(r".*\.(safetensors|safetensors\.index\.json|bin|bin\.index\.json|pt|pth)$")
_REWRITTEN = {"config.json", "card.json", "recipe.yaml"}


class TensorInfo(NamedTuple):
    """One entry of a safetensors header."""

    dtype: str  #: safetensors' name, `BF16`, `I32`, …
    shape: tuple[int, ...]
    size_bytes: int


def tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor in the safetensors files of `folder`, by name.

    Raises:
        InputError: there are none.
    """
    found: dict[str, TensorInfo] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                found[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]), end - start)
    if not found:
        raise InputError(f"{folder}: no safetensors in this model; save it with save_pretrained first")
    return found


def bf16_bytes(held: dict[str, TensorInfo]) -> int:
    """What the tensors of an unquantised checkpoint weigh in bfloat16."""
    return sum(2 * prod(tensor.shape) for tensor in held.values())


def quantized_layers(held: dict[str, TensorInfo]) -> list[str]:
    """Names of the Linears that are to be quantised, without `.weight`."""
    return [match[1] for name in held if (match := QUANTIZED.match(name))]


def layers_left(held: dict[str, TensorInfo]) -> list[str]:
    """Names of the two-dimensional weights that stay in 16 bits, without `.weight`."""
    weights = (name for name, tensor in held.items() if len(tensor.shape) == 2 and not QUANTIZED.match(name))
    return [name.removesuffix(".weight") for name in weights]


def card(folder: Path) -> dict[str, Any] | None:
    """What `folder` says it was made from; None where it does not say."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_model(folder: Path, scheme: str, group_size: int) -> dict[str, TensorInfo]:
    """The tensors of a model that can be quantised so.

    Raises:
        InputError: not a Qwen3-VL, quantised already, or its layers do not divide into the groups.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "qwen3_vl":
        raise InputError(f"{folder}: model type {config.get('model_type')}; only qwen3_vl is quantised here")
    if "quantization_config" in config:
        raise InputError(f"{folder}: this checkpoint is quantised already; give the one it was made from")
    held = tensors(folder)
    layers = quantized_layers(held)
    if not layers:
        raise InputError(f"{folder}: no weights under model.language_model.layers; was it saved by transformers 5?")
    check_groups({layer: held[f"{layer}.weight"].shape for layer in layers}, scheme, group_size)
    return held


def check_groups(shapes: dict[str, tuple[int, ...]], scheme: str, group_size: int) -> None:
    """Refuse a group size that does not divide every layer's in_features.

    `shapes` are (out_features, in_features).

    Raises:
        InputError: names a layer and the sizes that fit.
    """
    if scheme == "fp4":
        wrong = next((name for name, (_, width) in shapes.items() if width % FP4_GROUP), None)
        if wrong:
            raise InputError(f"{wrong}: in_features {shapes[wrong][1]} is no multiple of fp4's {FP4_GROUP}; use awq")
        return
    odd = next((name for name, shape in shapes.items() if any(size % KERNEL_MULTIPLE for size in shape)), None)
    if odd:
        raise InputError(f"{odd}: shape {shapes[odd]} is no multiple of {KERNEL_MULTIPLE}, which awq needs; use fp4")
    wrong = next((name for name, (_, width) in shapes.items() if width % group_size), None)
    if wrong:
        fitting = [size for size in get_args(GroupSize) if all(width % size == 0 for _, width in shapes.values())]
        raise InputError(
            f"group_size {group_size} does not divide in_features {shapes[wrong][1]} of {wrong}; "
            f"sizes that fit this model: {', '.join(map(str, fitting))}"
        )


def expected_names(source: dict[str, TensorInfo], scheme: str) -> set[str]:
    """Names a quantised checkpoint of `source` must hold, no more and no fewer."""
    names = set(source)
    for layer in quantized_layers(source):
        names.remove(f"{layer}.weight")
        names |= {f"{layer}.{part}" for part in PARTS[scheme]}
    return names


def check_names(source: dict[str, TensorInfo], made: dict[str, TensorInfo], scheme: str) -> None:
    """Assert that a save kept every tensor under the name its loaders look for."""
    expected = expected_names(source, scheme)
    missing, strange = sorted(expected - set(made)), sorted(set(made) - expected)
    assert not missing + strange, f"saved checkpoint: missing {missing[:5]}, unexpected {strange[:5]}"


def carry_over(source: Path, out: Path) -> list[str]:
    """Copy what is neither weights nor rewritten: tokenizer, processor, chat template, generation config."""
    carried = []
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in _REWRITTEN and not _WEIGHTS.match(path.name):
            shutil.copyfile(path, out / path.name)
            carried.append(path.name)
    return carried
