"""The verb end to end, on a random tiny model: what is packed, what is kept, and what comes out of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

from shared import geometry, schemes
from shared.context import LocalContext
from shared.errors import InputError, Stopped
from tests.unit.quantizer.conftest import Made, recipe
from workers.quantizer import calibration, checkpoint, compress
from workers.quantizer.encoded import Encoded
from workers.quantizer.quantize import quantize

Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def batches(model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    held, questions = calibration.rows_for(recipe("awq"), [rows])
    encoded = Encoded(model, held, questions, recipe("awq"), LocalContext(tmp_path_factory.mktemp("encoded")))
    return [encoded[place] for place in range(len(encoded))]


def letter_logits(folder: Path, batches: list[Batch]) -> torch.Tensor:
    loaded = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        return torch.stack([loaded(**batch).logits[0, -1].float() for batch in batches])


def test_the_checkpoint_holds_the_expected_tensors(made: Made, model: Path) -> None:
    """And so the bytes that a plan tells from the config alone are those that come out."""
    shapes, held = geometry.shapes(json.loads((model / "config.json").read_text())), checkpoint.tensors(made.folder)
    assert held == schemes.checkpoint(shapes, made.scheme, made.recipe.group_size)
    size = schemes.expected_bytes(shapes, made.scheme, made.recipe.group_size)
    assert made.facts["bytes"]["quantized"] == size == sum(tensor.size_bytes for tensor in held.values())
    assert (made.folder / "model.safetensors").stat().st_size == pytest.approx(size, rel=0.05)  # and a header


def test_vision_tower_embeddings_and_head_are_untouched(made: Made, model: Path) -> None:
    before, after = load_file(model / "model.safetensors"), load_file(made.folder / "model.safetensors")
    kept = [name for name in before if "language_model.layers" not in name]
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} < set(kept)
    for name in kept:
        assert torch.equal(before[name], after[name]), name


def test_everything_beside_the_weights_is_carried_over(made: Made, model: Path) -> None:
    beside = [path for path in model.iterdir() if path.suffix != ".safetensors" and path.name != "config.json"]
    assert {"chat_template.jinja", "generation_config.json", "tokenizer.json"} < {path.name for path in beside}
    for path in beside:
        assert (made.folder / path.name).read_bytes() == path.read_bytes()


def test_the_config_names_what_stays_in_sixteen_bits(made: Made) -> None:
    quantization = json.loads((made.folder / "config.json").read_text())["quantization_config"]
    assert quantization["quant_method"] == "compressed-tensors"
    assert quantization["format"] == schemes.SCHEMES[made.scheme].format
    assert "lm_head" in quantization["ignore"]
    assert all(name == "lm_head" or name.startswith("model.visual.") for name in quantization["ignore"])


def test_the_card_says_what_was_done(made: Made) -> None:
    card = json.loads((made.folder / "card.json").read_text())
    assert len(card["layers"]["quantized"]) == made.facts["layers"] == 14
    assert card["bytes"]["quantized"] < 0.9 * card["bytes"]["bf16"]
    assert card["calibration"]["rows"] == (8 if made.recipe.calibrated else 0)
    assert card["calibration"]["shows"] == ("video" if made.recipe.calibrated else "nothing")
    assert set(card["versions"]) == {"llmcompressor", "compressed-tensors", "transformers", "torch"}


def test_the_checkpoint_loads_and_answers_like_its_parent(made: Made, model: Path, batches: list[Batch]) -> None:
    parent, child = letter_logits(model, batches), letter_logits(made.folder, batches)
    # Rounding noise of 2 × 7 random matrices; a wrong scale, order or mapping would leave no likeness at all.
    assert torch.cosine_similarity(parent, child).min() > 0.8


def test_progress_is_told_for_every_row_and_layer(made: Made) -> None:
    units = {unit: (done, total) for done, total, unit, _ in made.ctx.reports}
    expected: dict[str, tuple[int, int]] = {"layers": (2, 2)}
    if made.recipe.calibrated:
        expected["calibration rows"] = (8, 8)
    if made.scheme == "awq":
        expected["weight groups"] = (6, 6)
    assert units == expected


def test_the_same_seed_gives_the_same_bytes(made: Made, model: Path, rows: Path, tmp_path: Path) -> None:
    again = Made(made.scheme, model, rows, tmp_path)
    for path in made.folder.iterdir():
        name = path.name
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes()


def test_clips_of_all_lengths_reach_the_last_layer_as_in_a_plain_forward(
    model: Path, rows: Path, batches: list[Batch], tmp_path: Path
) -> None:
    """llm-compressor traces the model with the first batch; the others have other shapes."""
    assert len({batch["input_ids"].shape for batch in batches}) > 1
    plain = seen_by_last_layer(
        compress.load(model, recipe("awq")), lambda loaded: [loaded(**batch) for batch in batches]
    )
    ctx = LocalContext(tmp_path)
    held, questions = calibration.rows_for(recipe("awq"), [rows])
    encoded = Encoded(model, held, questions, recipe("awq"), ctx)
    calibrated = seen_by_last_layer(
        compress.load(model, recipe("awq")), lambda loaded: compress.compress(loaded, recipe("awq"), encoded, ctx)
    )
    for want, got in zip(plain, calibrated, strict=False):  # later calls belong to the search for scales
        assert torch.cosine_similarity(want.flatten(), got.flatten(), dim=0) > 0.999


def seen_by_last_layer(loaded: Any, run: Any) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    layer = loaded.model.language_model.layers[-1].input_layernorm
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().float().clone()))
    with torch.no_grad():
        run(loaded)
    handle.remove()
    return seen


def test_bad_input_is_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    ctx = LocalContext(tmp_path / "scratch")
    with pytest.raises(InputError, match="awq needs calibration rows"):
        quantize({"model": [model]}, recipe("awq"), tmp_path, ctx)
    with pytest.raises(ValidationError, match="group_size"):
        recipe("awq", group_size=96)
    assert ctx.reports == []


@pytest.mark.parametrize("after", ["calibration rows", "weight groups", "layers"])
def test_it_stops_between_steps(after: str, model: Path, rows: Path, tmp_path: Path) -> None:
    class StopsAfter(LocalContext):
        def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
            super().progress(done, total, unit, **facts)
            if unit == after:
                self.stop()

    ctx = StopsAfter(tmp_path / "scratch")
    with pytest.raises(Stopped):
        quantize({"model": [model], "data": [rows]}, recipe("awq", calibration_rows=2), tmp_path, ctx)
    assert ctx.reports[-1][:3] == (1, {"calibration rows": 2, "weight groups": 6, "layers": 2}[after], after)
    assert not (tmp_path / "model.safetensors").exists()
