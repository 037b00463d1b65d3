"""A model folder as files: what is accepted, which tensors it holds, what is copied beside new weights."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from shared import families
from shared.errors import InputError, RoadQAError

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
#: Written anew with the weights, so not copied from the base.
_OWN = {"config.json", "card.json", "model.safetensors.index.json"}


class Tensor(NamedTuple):
    shape: tuple[int, ...]
    dtype: str  #: as safetensors spells it: F32, BF16


def check(folder: Path) -> None:
    """Accept a folder of safetensors only, of a model that can be trained.

    Raises:
        InputError: a file could run code when opened (it is not opened), there are no weights, or it is another model.
    """
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLED)
    if pickled:
        raise InputError(f"{folder}: {pickled[0]} is a pickle, which can run code; convert the model to safetensors")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: holds no .safetensors; is this a model folder?")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: config.json is missing")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder}/config.json: is no JSON ({error}); fetch the model again") from error
    families.check(config, str(folder))


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor's shape and type, from the files' headers."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    part = file.get_slice(name)
                    found[name] = Tensor(tuple(part.get_shape()), str(part.get_dtype()))
        except Exception as error:
            raise InputError(f"{path}: is no safetensors file: {error}") from error
    return found


def same_tensors(base: Path, trained: Path) -> int:
    """Assert that both folders hold tensors of the same names, shapes and types; returns how many.

    Raises:
        RoadQAError: they differ; a checkpoint with misnamed tensors loads without a complaint and is worthless.
    """
    before, after = tensors(base), tensors(trained)
    wrong = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if wrong:
        examples = "; ".join(f"{name}: {before.get(name)} became {after.get(name)}" for name in wrong[:3])
        raise RoadQAError(f"{len(wrong)} of {len(before)} tensors changed name, shape or type on save: {examples}")
    return len(after)


def copy_companions(base: Path, out: Path) -> None:
    """Copy tokenizer, processor, chat template and generation config byte for byte."""
    for path in base.iterdir():
        if path.suffix in {".json", ".txt", ".jinja", ".model"} and path.name not in _OWN:
            shutil.copyfile(path, out / path.name)


def base_card(folder: Path) -> dict[str, object]:
    """What the base was made from, as its own card says; `base_model` is its name on Hugging Face where it is known."""
    path = folder / "card.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    assert isinstance(found, dict)
    inherited = found["base"].get("base_model") if isinstance(found.get("base"), dict) else None
    named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path") or inherited
    return found | ({"base_model": named} if named else {})
