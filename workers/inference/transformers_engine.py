"""The second engine: plain transformers, for formats the first has no kernel for, and as its yardstick."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CompressedTensorsConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from shared.contracts import PredictRecipe
from shared.machine import has_avx512
from shared.settings import settings
from shared.vlm.encode import Encoder
from workers.inference import room
from workers.inference.engines import Answer, Asked, Checkpoint, Engine

BATCH_TOKENS = 16384  #: prompt tokens, padding included, in one forward


class TransformersEngine(Engine):
    """One forward a batch; compressed checkpoints are decompressed on load."""

    def __init__(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        self._model: Any = None
        self.put_weights(checkpoint, encoder)

    def put_weights(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        """Load `checkpoint` anew: this engine has nothing else to keep."""
        self.close()  # the check below and the loading want the room that the old weights have
        self._encoder = encoder
        room.transformers(checkpoint)
        cuda = torch.cuda.is_available()
        packed = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if checkpoint.quantization else {}
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder, dtype="auto", local_files_only=True, **packed
        )
        if not cuda and not has_avx512():
            model.to(torch.float32)  # asked of the loader, it leaves unpacked NVFP4 in bfloat16 beside the rest
        self._model = model.to("cuda" if cuda else "cpu").eval()

    def close(self) -> None:
        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def stream(self, asked: Iterable[Asked | None], recipe: PredictRecipe) -> Iterator[tuple[Asked, Answer]]:
        feed = (item for item in asked if item is not None)
        while taken := list(islice(feed, settings().engine_batch)):
            yield from zip(taken, self._answers(taken, recipe), strict=True)

    @torch.inference_mode()
    def _answers(self, asked: Sequence[Asked], recipe: PredictRecipe) -> Iterator[Answer]:
        prompt, reasoning = recipe.system_prompt, recipe.reasoning
        rows = [self._encoder.encode(item.question, item.clip, prompt, reasoning=reasoning) for item in asked]
        room = recipe.reasoning_tokens if reasoning else 0
        for start, stop in batches([row["input_ids"].shape[1] + room for row in rows]):
            yield from self._forward(asked[start:stop], rows[start:stop], recipe)

    def _forward(
        self, asked: Sequence[Asked], rows: Sequence[dict[str, torch.Tensor]], recipe: PredictRecipe
    ) -> Iterator[Answer]:
        words: Sequence[list[int] | None] = [None] * len(rows)
        ending = rows
        if recipe.reasoning:
            words = reasoned = self._reason(rows, [item.seed for item in asked], recipe)
            ending = [longer(row, self._encoder.letter_turn(own)) for row, own in zip(rows, reasoned, strict=True)]
        logits = self._last_logits(ending)
        for item, row, own, row_logits in zip(asked, rows, words, logits, strict=True):
            letters = self._encoder.letter_ids(len(item.question.choices))
            logprobs = torch.log_softmax(row_logits[letters].float(), dim=-1)
            text = None if own is None else self._encoder.tokenizer.decode(own)
            yield Answer(tuple(logprobs.tolist()), row["input_ids"].shape[1], text, len(own or ()))

    def _reason(
        self, rows: Sequence[dict[str, torch.Tensor]], seeds: Sequence[int], recipe: PredictRecipe
    ) -> list[list[int]]:
        """Token ids that the model writes after each prompt, up to the first special token."""
        batch, special = self._batch(rows), self._encoder.special_ids
        sampled = LogitsProcessorList([Sampling(seeds, recipe.temperature)] if recipe.temperature else [])
        written = self._model.generate(
            **batch,
            generation_config=GenerationConfig(
                max_new_tokens=recipe.reasoning_tokens, eos_token_id=special, pad_token_id=special[0]
            ),
            logits_processor=sampled,
        )[:, batch["input_ids"].shape[1] :]
        return [list(takewhile(lambda token: token not in special, row)) for row in written.tolist()]

    def _last_logits(self, rows: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Logits [B, V] of the token after each prompt."""
        return self._model(**self._batch(rows), logits_to_keep=1, use_cache=False).logits[:, -1]

    def _batch(self, rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        pad = self._encoder.tokenizer.pad_token_id
        batch = {name: value.to(self._model.device) for name, value in left_pad(rows, pad or 0).items()}
        batch["pixel_values_videos"] = batch["pixel_values_videos"].to(self._model.dtype)
        return batch


class Sampling(LogitsProcessor):
    """Draws each row's tokens by its own seed, whatever rows stand beside it: the likeliest after Gumbel noise.

    That is a draw from the softmax at `temperature` (Gumbel 1954; Maddison et al. 2014, "A* sampling").
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._random = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # [B, L], [B, V]
        uniform = torch.stack([torch.rand(scores.shape[1], generator=own) for own in self._random])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores.float() / self._temperature + noise.to(scores.device)


def longer(row: dict[str, torch.Tensor], ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """An encoded row [1, L] with text after it."""
    tail = torch.tensor([ids], dtype=row["input_ids"].dtype)
    ends = {"input_ids": tail, "attention_mask": torch.ones_like(tail), "mm_token_type_ids": torch.zeros_like(tail)}
    return row | {name: torch.cat([row[name], end], dim=1) for name, end in ends.items()}


def batches(lengths: Sequence[int], limit: int = BATCH_TOKENS) -> Iterator[tuple[int, int]]:
    """Cut consecutive rows of these lengths into (start, stop) batches of at most `limit` padded tokens."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if index > start and longest * (index - start + 1) > limit:
            yield start, index
            start, longest = index, length
    if start < len(lengths):
        yield start, len(lengths)


def left_pad(rows: Sequence[dict[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
    """One batch of encoded rows, all prompts ending in the last column."""
    longest = max(row["input_ids"].shape[1] for row in rows)

    def padded(name: str, value: int) -> torch.Tensor:
        filled = [torch.nn.functional.pad(r[name], (longest - r[name].shape[1], 0), value=value) for r in rows]
        return torch.cat(filled)

    texts = {name: padded(name, value) for name, value in
             (("input_ids", pad), ("attention_mask", 0), ("mm_token_type_ids", 0))}  # fmt: skip
    videos = {name: torch.cat([row[name] for row in rows]) for name in ("pixel_values_videos", "video_grid_thw")}
    return texts | videos
