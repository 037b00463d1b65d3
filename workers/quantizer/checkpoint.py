"""What a checkpoint holds, read from its safetensors headers, and what a quantised one must hold."""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from shared import geometry, schemes
from shared.contracts import QuantizeRecipe
from shared.errors import InputError, RoadQAError
from shared.schemes import Tensor

Tensors = dict[str, Tensor]  #: by name

_WEIGHTS = re.compile(r".*\.(safetensors|safetensors\.index\.json|bin|bin\.index\.json|pt|pth)$")
_REWRITTEN = {"config.json", "card.json", "README.md", "recipe.yaml", "calibration.jsonl"}
_TEMPORARY = 1 << 20  #: bytes beside the weights: tokenizer, configuration, card


class SaveError(RoadQAError):
    """A save gave other tensors than its loaders will look for."""


def tensors(folder: Path) -> Tensors:
    """Every tensor in the safetensors files of `folder`.

    Raises:
        InputError: there are none, or a file is cut short.
    """
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found |= _header(path)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path.name}: not whole safetensors; train or pull the model again") from error
    if not found:
        raise InputError(f"{folder}: no safetensors in this model; save it with save_pretrained first")
    return found


def _header(path: Path) -> Tensors:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if path.stat().st_size < 8 + length + end:
        raise ValueError("cut short")
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__"
    }


def card(folder: Path) -> dict[str, Any] | None:
    """What `folder` says it was made from; None where it does not say."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_model(folder: Path, recipe: QuantizeRecipe) -> geometry.Shapes:
    """The shapes of a model that can be quantised so: a whole Qwen3-VL in 16 or 32 bits.

    Raises:
        InputError: another architecture, quantised already, tensors missing or of another shape, or its layers do not
            divide into the groups.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shapes = geometry.shapes(config)
    schemes.check_unquantised(config, str(folder))
    schemes.check_fit(shapes, recipe.scheme, recipe.group_size)
    held = {name: tensor.shape for name, tensor in tensors(folder).items()}
    if missing := sorted(shapes.keys() - held.keys()):
        raise InputError(
            f"{folder}: {len(missing)} of {len(shapes)} tensors that its config.json asks for are missing; the first is"
            f" {missing[0]}: save it again with transformers 5"
        )
    if wrong := next((name for name, shape in shapes.items() if held[name] != shape), None):
        raise InputError(f"{folder}: {wrong} is {held[wrong]}, config.json says {shapes[wrong]}; save the model again")
    return shapes


def check_disk(out: Path, bytes_needed: int) -> None:
    """Refuse work whose result has no room.

    Raises:
        RoadQAError: says how much is missing; not the input's fault, so another attempt may help.
    """
    free = shutil.disk_usage(out).free
    if free < bytes_needed + _TEMPORARY:
        raise RoadQAError(
            f"not enough disk for the checkpoint: it takes {(bytes_needed + _TEMPORARY) / 1e9:.2f} GB, {out} has"
            f" {free / 1e9:.2f} GB free; make room, or set ROADQA_CACHE_DIR to a larger disk"
        )


def check_saved(shapes: geometry.Shapes, made: Tensors, recipe: QuantizeRecipe) -> None:
    """Assert that a save kept every tensor under the name, type and shape that its loaders look for.

    Raises:
        SaveError: names the first that differ.
    """
    expected = schemes.checkpoint(shapes, recipe.scheme, recipe.group_size)
    missing, strange = sorted(expected.keys() - made.keys()), sorted(made.keys() - expected.keys())
    if missing or strange:
        raise SaveError(f"saved checkpoint: missing {missing[:5]}, unexpected {strange[:5]}")
    wrong = [f"{name} is {made[name]}, not {tensor}" for name, tensor in expected.items() if made[name] != tensor]
    if wrong:
        raise SaveError(f"saved checkpoint: {len(wrong)} tensors differ; {wrong[0]}")


def layers_left(shapes: geometry.Shapes) -> list[str]:
    """Names of the two-dimensional weights that stay in 16 bits, without `.weight`."""
    quantised = geometry.linears(shapes)
    weights = (name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2)
    return [name for name in weights if name not in quantised]


def carry_over(source: Path, out: Path) -> list[str]:
    """Copy what is neither weights nor rewritten: tokenizer, processor, chat template, generation config."""
    carried = []
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in _REWRITTEN and not _WEIGHTS.match(path.name):
            shutil.copyfile(path, out / path.name)
            carried.append(path.name)
    return carried
