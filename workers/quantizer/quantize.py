"""The verb `quantize`: a Qwen3-VL in, one whose text tower has four- or eight-bit weights out."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared import geometry, schemes
from shared.context import Context
from shared.contracts import QuantizeRecipe
from workers.quantizer import calibration, checkpoint, modelcard, recipes

PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch")


def quantize(inputs: dict[str, list[Path]], recipe: QuantizeRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Quantise inputs["model"] into `out`; awq and gptq are calibrated on rows of inputs["data"].

    Returns facts: layers, bytes, the calibration set, seconds of each step.

    Raises:
        InputError: no rows to calibrate on, a group size that does not fit, a model that cannot be quantised, or
            numbers in calibration that are none.
        MediaError: a calibration clip cannot be read.
        RoadQAError: there is no room for the result; the save gave other tensors than loaders look for.
        Stopped: `ctx.stopping` was set.
    """
    (source,) = inputs["model"]
    shapes = checkpoint.check_model(source, recipe)
    checkpoint.check_disk(out, schemes.expected_bytes(shapes, recipe.scheme, recipe.group_size))
    rows, questions = calibration.rows_for(recipe, inputs.get("data", []))
    seconds = _Laps()

    # here: a bad input is told before five seconds of imports
    from workers.quantizer import compress
    from workers.quantizer.encoded import Encoded

    seconds.lap("import")
    model = compress.load(source, recipe)
    seconds.lap("load")
    encoded = Encoded(source, rows, questions, recipe, ctx) if questions else None
    compress.compress(model, recipe, encoded, ctx)
    seconds.lap("quantize")
    compress.save(model, out)
    carried = checkpoint.carry_over(source, out)
    made = checkpoint.tensors(out)
    checkpoint.check_saved(shapes, made, recipe)
    if questions:
        calibration.write(out, rows, questions)
    (out / "recipe.yaml").write_text(recipes.text(recipe), encoding="utf-8")
    seconds.lap("save")
    card = {
        "made_by": "quantize",
        "format": schemes.SCHEMES[recipe.scheme].format,
        "recipe": recipe.model_dump(),
        "layers": {"quantized": list(geometry.linears(shapes)), "left": checkpoint.layers_left(shapes)},
        "bytes": {
            "bf16": schemes.expected_bytes(shapes, None),
            "quantized": sum(tensor.size_bytes for tensor in made.values()),
        },
        "calibration": calibration.facts(rows, questions, recipe),
        "carried_over": carried,
        "versions": {package: version(package) for package in PACKAGES},
        "base": checkpoint.card(source),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "README.md").write_text(modelcard.readme(card, recipes.text(recipe)), encoding="utf-8")
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
