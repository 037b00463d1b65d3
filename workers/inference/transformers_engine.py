"""The second engine: plain transformers, for formats the first has no kernel for, and as its yardstick."""

from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForImageTextToText, CompressedTensorsConfig

from shared.machine import has_avx512
from shared.prompts import SystemPrompt
from shared.vlm.encode import Encoder
from workers.inference.engines import Answer, Asked, Checkpoint

BATCH_TOKENS = 16384  #: prompt tokens, padding included, in one forward


class TransformersEngine:
    """One forward a batch; compressed checkpoints are decompressed on load."""

    def __init__(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        self.put_weights(checkpoint, encoder)

    def put_weights(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        """Load `checkpoint` anew: this engine has nothing else to keep."""
        self._encoder = encoder
        cuda = torch.cuda.is_available()
        packed = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if checkpoint.quantization else {}
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder, dtype="auto", local_files_only=True, **packed
        )
        if not cuda and not has_avx512():
            model.to(torch.float32)  # asked of the loader, it leaves unpacked NVFP4 in bfloat16 beside the rest
        self._model = model.to("cuda" if cuda else "cpu").eval()

    def close(self) -> None:
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def answer(self, asked: Sequence[Asked], system_prompt: SystemPrompt) -> list[Answer]:
        rows = [self._encoder.encode(item.question, item.clip, system_prompt) for item in asked]
        answers: list[Answer] = []
        for start, stop in batches([row["input_ids"].shape[1] for row in rows]):
            logits = self._last_logits(rows[start:stop])
            for item, row, row_logits in zip(asked[start:stop], rows[start:stop], logits, strict=True):
                letters = self._encoder.letter_ids(len(item.question.choices))
                logprobs = torch.log_softmax(row_logits[letters].float(), dim=-1)
                answers.append(Answer(tuple(logprobs.tolist()), row["input_ids"].shape[1]))
        return answers

    def _last_logits(self, rows: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Logits [B, V] of the token after each prompt."""
        pad = self._encoder.tokenizer.pad_token_id
        batch = {name: value.to(self._model.device) for name, value in left_pad(rows, pad or 0).items()}
        batch["pixel_values_videos"] = batch["pixel_values_videos"].to(self._model.dtype)
        return self._model(**batch, logits_to_keep=1, use_cache=False).logits[:, -1]


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
