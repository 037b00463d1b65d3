"""The operations that the GPU benchmark divides by the card's peak, against torch's own count."""

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from benchmarks.parts import geometry
from services.sandbox import words
from shared.contracts import LoraRecipe
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import RECIPE
from tests.unit.vlm.examples import clip, question
from workers.trainer import model

BASE = Path(words.__file__).parent / "base"


@pytest.mark.parametrize("lora", [None, LoraRecipe(rank=1, dropout=0.0)])
def test_the_arithmetic_counts_what_torch_counts(lora: LoraRecipe | None) -> None:
    wanted = geometry.config("tiny", AutoConfig.from_pretrained(BASE))
    wanted._attn_implementation = "eager"  # torch counts plain products; it knows no fused attention on a CPU
    recipe = RECIPE.model_copy(update={"lora": lora})
    made = model.prepare(geometry.random_model(wanted, "cpu").float(), recipe, cuda=False)
    inputs = Encoder(BASE).encode(question(answer=1), clip(), "short", with_answer=True)
    frames, height, width = inputs["video_grid_thw"][0].tolist()
    row = geometry.flops(wanted, inputs["input_ids"].shape[1], frames, frames * height * width)

    with FlopCounterMode(display=False) as counter:
        made(**inputs).loss.backward()
    both_halves = 3 * row.causal  # eager attention computes the whole square
    counted = counter.get_total_flops() / (row.step(frozen=lora is not None) + both_halves)
    # Pixels have no gradient (-3% of so small a model); adapters are not in the arithmetic (+3%).
    assert counted == pytest.approx(1.0, abs=0.04)
