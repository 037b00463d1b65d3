"""The verb `quantize`: a Qwen3-VL in, one whose text tower has four-bit weights out."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared.context import Context
from shared.contracts import QuantizeRecipe
from workers.quantizer import calibration, checkpoint

FORMATS = {"fp4": "NVFP4A16", "awq": "W4A16, asymmetric, AWQ"}
PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch")


def quantize(inputs: dict[str, list[Path]], recipe: QuantizeRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Quantise inputs["model"] into `out`; awq is calibrated on the rows of inputs["data"].

    Returns facts: layers, bytes, calibration rows, seconds of each step.

    Raises:
        InputError: no rows for awq, a group size that does not fit, or a model that cannot be quantised.
        MediaError: a calibration clip cannot be read.
        Stopped: `ctx.stopping` was set.
    """
    (source,) = inputs["model"]
    held = checkpoint.check_model(source, recipe.scheme, recipe.group_size)
    rows, questions = calibration.rows_for(recipe, inputs.get("data", []))
    seconds = _Laps()

    from workers.quantizer import compress  # here: a bad input is told before five seconds of imports

    seconds.lap("import")
    batches = calibration.encode(source, rows, questions, recipe, ctx)
    seconds.lap("encode")
    model = compress.load(source, recipe.scheme)
    compress.compress(model, recipe, batches, ctx)
    seconds.lap("quantize")
    compress.save(model, out)
    carried = checkpoint.carry_over(source, out)
    made = checkpoint.tensors(out)
    checkpoint.check_names(held, made, recipe.scheme)
    seconds.lap("save")
    card = {
        "made_by": "quantize",
        "format": FORMATS[recipe.scheme],
        "recipe": recipe.model_dump(),
        "layers": {"quantized": checkpoint.quantized_layers(held), "left": checkpoint.layers_left(held)},
        "bytes": {"bf16": checkpoint.bf16_bytes(held), "quantized": sum(tensor.size_bytes for tensor in made.values())},
        "calibration": {"rows": len(questions), "origins": calibration.origins(questions)},
        "carried_over": carried,
        "versions": {package: version(package) for package in PACKAGES},
        "base": checkpoint.card(source),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {
        "scheme": recipe.scheme,
        "layers": len(card["layers"]["quantized"]),
        **{key: card[key] for key in ("format", "bytes", "calibration")},
        "seconds": seconds.laps,
    }


class _Laps:
    """Seconds of each step, for the facts."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, step: str) -> None:
        now = time.monotonic()
        self.laps[step], self._last = round(now - self._last, 2), now


if __name__ == "__main__":
    from shared import child

    child.main(quantize, QuantizeRecipe)
