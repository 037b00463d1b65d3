"""Fine-tuning as one would write it with transformers alone, for `benchmarks.training` to compare the trainer with.

`python -m torch.distributed.run --nproc-per-node 2 -m benchmarks.parts.plain_trainer MODEL ROWS OUT RECIPE`: Trainer
under DistributedDataParallel, each row's clip loaded anew whenever the row is met. `--keep-clips` and `--matmul` take
over one of the trainer's two ideas each, so that a table can say what either brings. Rank 0 prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.video_utils import load_video

from shared.contracts import TrainRecipe
from shared.prompts import letter, render, system_text
from shared.schema import Question, Rows
from workers.trainer.model import patches_by_matmul

ANSWER_TOKENS = 2  # the letter and the end of the turn


class Clips(Dataset[dict[str, torch.Tensor]]):
    """Rows as the processor makes them from a video file."""

    def __init__(self, rows: Rows, processor: Any, recipe: TrainRecipe, keep: bool) -> None:
        self._rows, self._processor, self._recipe = rows, processor, recipe
        self._kept: dict[str, tuple[Any, Any]] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self._rows.questions)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        question = self._rows.questions[place]
        frames, metadata = self._video(question.clip)
        batch = self._processor(
            text=[self._text(question)],
            videos=[frames],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
        )
        ids = batch["input_ids"][0]
        labels = ids.clone()
        labels[:-ANSWER_TOKENS] = -100
        return {
            "input_ids": ids,
            "labels": labels,
            "mm_token_type_ids": batch["mm_token_type_ids"][0],
            "pixel_values_videos": batch["pixel_values_videos"],
            "video_grid_thw": batch["video_grid_thw"],
        }

    def _video(self, digest: str) -> tuple[Any, Any]:
        if self._kept is not None and digest in self._kept:
            return self._kept[digest]
        choose = self._processor.video_processor.sample_frames
        # The processor's own loader; it would ask for torchcodec by itself, which has no CPU build beside this torch.
        loaded = load_video(str(self._rows.clip_path(digest)), backend="pyav", sample_indices_fn=choose)
        if self._kept is not None:
            self._kept[digest] = loaded
        return loaded

    def _text(self, question: Question) -> str:
        assert question.answer is not None
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": render(question)}]}]
        if (told := system_text(self._recipe.system_prompt)) is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": told}]})
        prompt = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return f"{prompt}{letter(question.answer)}<|im_end|>"


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad on the right, concatenate the clips."""

    def padded(name: str, value: int) -> torch.Tensor:
        return pad_sequence([example[name] for example in examples], batch_first=True, padding_value=value)

    return {
        "input_ids": padded("input_ids", 0),
        "attention_mask": pad_sequence([torch.ones_like(e["input_ids"]) for e in examples], batch_first=True),
        "labels": padded("labels", -100),
        "mm_token_type_ids": padded("mm_token_type_ids", 0),
        **{name: torch.cat([e[name] for e in examples]) for name in ("pixel_values_videos", "video_grid_thw")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "rows", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("recipe", type=TrainRecipe.model_validate_json)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep-clips", action="store_true")
    parser.add_argument("--matmul", action="store_true")
    asked = parser.parse_args()
    recipe: TrainRecipe = asked.recipe

    processor = AutoProcessor.from_pretrained(asked.model)
    video = processor.video_processor
    video.fps, video.max_frames = recipe.video.fps, recipe.video.max_frames
    area = recipe.video.tokens_per_patch * (video.patch_size * video.merge_size) ** 2
    video.size = {"shortest_edge": area, "longest_edge": area * recipe.video.max_frames}
    model = AutoModelForImageTextToText.from_pretrained(asked.model, dtype=torch.float32)
    if asked.matmul:
        patches_by_matmul(model)
    examples = Clips(Rows([asked.rows]), processor, recipe, asked.keep_clips)
    args = TrainingArguments(
        output_dir=str(asked.out),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.global_batch // asked.processes,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        use_cpu=True,
        remove_unused_columns=False,
        seed=recipe.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=args, train_dataset=examples, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    trainer.save_model()
    if trainer.is_world_process_zero():
        print(
            json.dumps(
                {
                    "samples": len(examples) * recipe.epochs,
                    "seconds": seconds,
                    "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
                    "row_tokens": len(examples[0]["input_ids"]),
                }
            )
        )


if __name__ == "__main__":
    main()
