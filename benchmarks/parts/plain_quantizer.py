"""Quantising as llm-compressor's own examples for vision-language models do it, on our rows and frames.

All rows encoded ahead into a Hugging Face dataset, the model in its own type, a collator of one row, `oneshot`, save.
Beside that only what has to be for it to run at all here: AWQ's mappings for this architecture, and no pinned memory
where there is no accelerator. `python -m benchmarks.parts.plain_quantizer MODEL ROWS OUT RECIPE`
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from shared.contracts import QuantizeRecipe
from shared.prompts import render, system_text
from shared.schema import Question, Rows
from shared.video import sample
from shared.vlm.encode import VIDEO_KWARGS, metadata
from workers.quantizer import recipes

IGNORE = ["re:.*lm_head", "re:.*visual.*"]


def modifiers(recipe: QuantizeRecipe) -> list[Any]:
    """The scheme as an example would name it, with the recipe's group size."""
    weights = {"num_bits": 4, "type": "int", "symmetric": recipe.scheme == "gptq", "strategy": "group",
               "group_size": recipe.group_size}  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    if recipe.scheme == "gptq":
        return [GPTQModifier(config_groups=groups, ignore=IGNORE)]
    mappings = recipes.modifiers(recipe)["AWQModifier"]["mappings"]
    return [AWQModifier(mappings=mappings), QuantizationModifier(config_groups=groups, ignore=IGNORE)]


def main() -> None:
    """Quantise, and print how many rows calibrated."""
    model_dir, rows_dir, out, chosen = sys.argv[1:]
    recipe = QuantizeRecipe.model_validate_json(chosen)
    model = Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype="auto")
    processor = AutoProcessor.from_pretrained(model_dir)
    rows = Rows([Path(rows_dir)])

    def preprocess(question: Question) -> dict[str, Any]:
        clip = sample(rows.clip_path(question.clip), recipe.video)
        system = {"role": "system", "content": [{"type": "text", "text": system_text(recipe.system_prompt)}]}
        user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": render(question)}]}
        text = processor.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        encoded = processor(text=[text], videos=[frames], video_metadata=[metadata(clip)], **VIDEO_KWARGS)
        return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in encoded.items()}

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(value) for name, value in batch[0].items()}

    data = Dataset.from_list([preprocess(question) for question in rows.questions[: recipe.calibration_rows]])
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_: None
    oneshot(
        model=model,
        processor=processor,
        dataset=data,
        recipe=modifiers(recipe),
        num_calibration_samples=len(data),
        data_collator=collate,
        sequential_targets=["Qwen3VLTextDecoderLayer"],
    )
    model.save_pretrained(out, save_compressed=True)
    processor.save_pretrained(out)
    print(json.dumps({"rows": len(data)}))


if __name__ == "__main__":
    main()
