"""The verb end to end, on a random tiny model: what is packed, what is kept, and what comes out of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from shared import child, geometry, schemes
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
    assert len(plain) == len(batches) <= len(calibrated)
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


def test_the_readme_says_what_people_ask_first(made: Made) -> None:
    text = (made.folder / "README.md").read_text()
    front, body = text.split("---\n")[1:]
    assert yaml.safe_load(front)["tags"][-1] == made.scheme
    for said in ("## Base", schemes.SCHEMES[made.scheme].title, "14 Linears", "## Recipe", "smaller"):
        assert said in body
    assert ("8 rows on" in body) == made.recipe.calibrated
    told = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert told == yaml.safe_load((made.folder / "recipe.yaml").read_text())


def test_the_calibration_set_is_listed_in_the_artifact(made: Made) -> None:
    path = made.folder / calibration.FILE
    if not made.recipe.calibrated:
        assert not path.exists()
        return
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["question"] for line in lines}) == 8
    assert {frozenset(line) for line in lines} == {frozenset({"question", "clip", "recording", "category", "origin"})}


def test_gptq_makes_up_for_what_rounding_alone_does(
    model: Path, rows: Path, batches: list[Batch], tmp_path: Path
) -> None:
    """On the rows that it saw; else it did not run."""
    parent = letter_logits(model, batches)
    distance = {}
    for shown in ("video", "none"):
        (tmp_path / shown).mkdir()
        chosen = recipe("gptq", calibration=shown)
        quantize({"model": [model], "data": [rows]}, chosen, tmp_path / shown, LocalContext(tmp_path / "s"))
        distance[shown] = (letter_logits(tmp_path / shown, batches) - parent).square().mean()
    assert distance["video"] < 0.8 * distance["none"]


@pytest.mark.parametrize(("shown", "tokens"), [("frame", 6), ("text", 0)])
def test_less_of_a_clip_can_be_shown(
    shown: str, tokens: int, model: Path, rows: Path, batches: list[Batch], tmp_path: Path
) -> None:
    chosen = recipe("gptq", calibration=shown, calibration_rows=2)
    held, questions = calibration.rows_for(chosen, [rows])
    encoded = Encoded(model, held, questions, chosen, LocalContext(tmp_path / "scratch"))
    config = json.loads((model / "config.json").read_text())
    for place in range(2):
        assert int((encoded[place]["input_ids"] == config["video_token_id"]).sum()) == tokens
        assert ("pixel_values_videos" in encoded[place]) == (shown == "frame")
    facts = quantize({"model": [model], "data": [rows]}, chosen, tmp_path, LocalContext(tmp_path / "s"))
    assert facts["calibration"]["shows"] == shown


def test_numbers_that_are_none_are_told_with_their_tensor(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.language_model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight: holds NaN or infinity"):
        quantize({"model": [tmp_path / "model"]}, recipe("nvfp4a16"), tmp_path / "out", LocalContext(tmp_path / "s"))


def test_a_row_that_overflows_is_told_with_layer_and_question(model: Path, rows: Path, tmp_path: Path) -> None:
    chosen = recipe("gptq")
    held, questions = calibration.rows_for(chosen, [rows])
    ctx = LocalContext(tmp_path / "scratch")
    encoded = Encoded(model, held, questions, chosen, ctx)
    loaded = compress.load(model, chosen)
    calls = []

    def overflow(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * float("inf") if len(calls) == 3 else output

    loaded.model.language_model.layers[1].mlp.register_forward_hook(overflow)
    told = rf"NaN or infinity comes out of layer 1 at question {questions[2].id} \(clip {questions[2].clip[:12]}\)"
    with pytest.raises(InputError, match=told):
        compress.compress(loaded, chosen, encoded, ctx)


def test_a_job_that_was_killed_starts_again_without_harm(
    model: Path, rows: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The process that a worker starts is killed between two layers; another attempt gives what one alone gives."""

    class Kills(LocalContext):
        def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
            if unit == "layers":
                raise KeyboardInterrupt

    verb, chosen = child.once("workers.quantizer.quantize"), recipe("gptq", calibration_rows=4)
    outs = [tmp_path / name for name in ("killed", "again", "alone")]
    for out in outs:
        out.mkdir()
    inputs, scratch = {"model": [model], "data": [rows]}, tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        verb(inputs, chosen, outs[0], Kills(scratch))
    assert not list(outs[0].iterdir()), "nothing is written before all of it is quantised"
    quantize(inputs, chosen, outs[1], LocalContext(scratch))
    quantize(inputs, chosen, outs[2], LocalContext(tmp_path / "other"))
    for path in outs[2].iterdir():
        assert (outs[1] / path.name).read_bytes() == path.read_bytes()


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
