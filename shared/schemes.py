"""The quantisation schemes: what each stores in place of a weight, what it needs, and which engine can load it.

What follows from that and a model's config alone: the tensors of the checkpoint, its bytes, and what does not fit.
Layouts are those of compressed-tensors 0.19; the quantizer asserts them after each save.
"""

from collections.abc import Mapping
from math import ceil, prod
from typing import Any, Literal, NamedTuple, get_args

from shared import geometry
from shared.errors import InputError

SchemeName = Literal["nvfp4a16", "mxfp4a16", "fp8-dynamic", "awq", "gptq"]
#: Group sizes of vLLM's int4 kernels (Marlin's list; the CPU kernel takes these too).
GroupSize = Literal[32, 64, 128]
#: vLLM's int4 kernels, on a CPU and on CUDA, want in_features and out_features to be multiples of this.
INT4_MULTIPLE = 32


class Tensor(NamedTuple):
    """One tensor of a checkpoint; `dtype` is safetensors' name."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return _BYTES[self.dtype] * prod(self.shape)


_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I32": 4, "I64": 8}


class Scheme(NamedTuple):
    """A way to store the weights of the text tower's Linears; all else stays in 16 bits."""

    title: str
    format: str  #: in config.json, as compressed-tensors calls it
    bits: int  #: of one weight
    group: int | None  #: in_features that share a scale: fixed; 0: a whole row; None: the recipe's `group_size`
    calibrated: bool  #: whether it looks at data; the others are rounded by their weights alone


SCHEMES: dict[str, Scheme] = {
    "nvfp4a16": Scheme("4-bit floats, an FP8 scale for 16, one more a layer", "nvfp4-pack-quantized", 4, 16, False),
    "mxfp4a16": Scheme("4-bit floats, a power of two for 32", "mxfp4-pack-quantized", 4, 32, False),
    "fp8-dynamic": Scheme("8-bit floats, a scale a row; activations in FP8 too", "float-quantized", 8, 0, False),
    "awq": Scheme("4-bit integers with zero points, scales balanced by AWQ", "pack-quantized", 4, None, True),
    "gptq": Scheme("4-bit integers, rounded by GPTQ", "pack-quantized", 4, None, True),
}


def stored(scheme: str, shape: tuple[int, int], group_size: int) -> dict[str, Tensor]:
    """What stands for one weight of `shape` (out_features, in_features), by the name's last part."""
    out, width = shape
    groups = width // (SCHEMES[scheme].group or group_size)
    if scheme == "fp8-dynamic":
        return {"weight": Tensor("F8_E4M3", shape), "weight_scale": Tensor("BF16", (out, 1))}
    if scheme == "mxfp4a16":
        return {"weight_packed": Tensor("U8", (out, width // 2)), "weight_scale": Tensor("U8", (out, groups))}
    if scheme == "nvfp4a16":
        return {
            "weight_packed": Tensor("U8", (out, width // 2)),
            "weight_scale": Tensor("F8_E4M3", (out, groups)),
            "weight_global_scale": Tensor("F32", (1,)),
        }
    packed = {
        "weight_packed": Tensor("I32", (out, ceil(width / 8))),
        "weight_scale": Tensor("BF16", (out, groups)),
        "weight_shape": Tensor("I64", (2,)),
    }
    return packed | ({"weight_zero_point": Tensor("I32", (ceil(out / 8), groups))} if scheme == "awq" else {})


def checkpoint(shapes: geometry.Shapes, scheme: str, group_size: int) -> dict[str, Tensor]:
    """Every tensor of a model of these shapes after `scheme`, by name."""
    found = {name: Tensor("BF16", shape) for name, shape in shapes.items()}
    for layer, shape in geometry.linears(shapes).items():
        del found[f"{layer}.weight"]
        found |= {f"{layer}.{part}": tensor for part, tensor in stored(scheme, shape, group_size).items()}
    return found


def expected_bytes(shapes: geometry.Shapes, scheme: str | None, group_size: int = 128) -> int:
    """Bytes of the tensors of a model of these shapes; `scheme` None: in bfloat16."""
    if scheme is None:
        return 2 * geometry.parameters(shapes)
    return sum(tensor.size_bytes for tensor in checkpoint(shapes, scheme, group_size).values())


def check_fit(shapes: geometry.Shapes, scheme: str, group_size: int) -> None:
    """Refuse a scheme whose groups do not divide the in_features of every layer.

    Raises:
        InputError: names a layer, its size, and what would fit.
    """
    layers, group = geometry.linears(shapes), SCHEMES[scheme].group
    if group is None:
        odd = next((name for name, shape in layers.items() if any(size % INT4_MULTIPLE for size in shape)), None)
        if odd:
            fitting = _words([name for name in SCHEMES if _divides(SCHEMES[name].group, layers)])
            raise InputError(
                f"{odd}: shape {layers[odd]} is no multiple of {INT4_MULTIPLE}, which {scheme} needs;"
                f" schemes that fit this model: {fitting}"
            )
        group = group_size
    if group and (wrong := next((name for name, (_, width) in layers.items() if width % group), None)):
        raise InputError(f"{wrong}: in_features {layers[wrong][1]} is no multiple of {_remedy(scheme, group, layers)}")


def _remedy(scheme: str, group: int, layers: Mapping[str, tuple[int, int]]) -> str:
    if SCHEMES[scheme].group is None:
        sizes = [str(size) for size in get_args(GroupSize) if _divides(size, layers)]
        return f"group_size {group}; sizes that fit this model: {_words(sizes)}"
    fitting = [name for name, other in SCHEMES.items() if _divides(other.group, layers)]
    return f"{scheme}'s {group}; schemes that fit this model: {_words(fitting)}"


def _divides(group: int | None, layers: Mapping[str, tuple[int, int]]) -> bool:
    """Whether a group fits every layer; 0 is a whole row, None the smallest that can be chosen."""
    if group is None:
        return all(size % INT4_MULTIPLE == 0 for shape in layers.values() for size in shape)
    return group == 0 or all(width % group == 0 for _, width in layers.values())


def _words(names: list[str]) -> str:
    return ", ".join(names) or "none"


def check_unquantised(config: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint that is quantised already.

    Raises:
        InputError: says how.
    """
    if "quantization_config" in config:
        how = config["quantization_config"].get("format", "its quantization_config does not say how")
        raise InputError(f"{where}: quantised already ({how}); give the checkpoint that it was made from")
