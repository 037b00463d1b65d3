"""Question and clip to model input, the same token ids in the trainer, the calibrator and the engines.

The frames come sampled and sized (`shared.video`); the processor neither samples nor resizes, it only
cuts patches and writes each temporal patch's true time, from source frame indices and source fps.

    <|im_start|>system … <|im_end|>                                   unless the prompt is "none"
    <|im_start|>user
    <|vision_start|> <0.2 seconds><|vision_start|> pads <|vision_end|> … <|vision_end|>question<|im_end|>
    <|im_start|>assistant
    B<|im_end|>                                                       with_answer; all that is learnt

Where the model is to reason first, its turn holds those words, and another turn asks for the letter, which so stands
where it does in training: at the start of the assistant's turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from shared.budget import CELL, TEMPORAL_PATCH, visual_tokens
from shared.errors import InputError
from shared.prompts import ASK_LETTER, LETTERS, SystemPrompt, render, system_text
from shared.schema import Question

if TYPE_CHECKING:
    from shared.video import SampledClip

IGNORED = -100  #: label of a token without loss
END = "<|im_end|>"
#: What every call of the video processor is told: the frames are final.
VIDEO_KWARGS = {"do_sample_frames": False, "do_resize": False}


class Encoder:
    """Encodes for one model: its tokenizer, its chat template, its patch geometry.

    Raises:
        InputError: the folder's processor does not cut `CELL`-sized cells and `TEMPORAL_PATCH` frames.
    """

    def __init__(self, model_dir: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(model_dir, local_files_only=True)
        self.tokenizer = self.processor.tokenizer
        video = self.processor.video_processor
        cell, patch = video.patch_size * video.merge_size, video.temporal_patch_size
        if (cell, patch) != (CELL, TEMPORAL_PATCH):
            raise InputError(f"{model_dir}: {cell}px cells of {patch} frames; use a Qwen3-VL checkpoint ({CELL}px, 2)")
        self.video_token_id: int = self.processor.video_token_id
        self.end_id: int = self.tokenizer.convert_tokens_to_ids(END)
        self._special = sorted({*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()})
        self.special_ids: list[int] = self.tokenizer.convert_tokens_to_ids(self._special)  #: where a reasoning ends
        self._letter_turn = self._ids(f"{END}\n<|im_start|>user\n{ASK_LETTER}{END}\n<|im_start|>assistant\n")
        self._last_clip: tuple[Any, list[int]] | None = None
        self._letter_ids = [self._letter_id(letter) for letter in LETTERS]

    def _letter_id(self, letter: str) -> int | None:
        """Token id of a letter that opens the assistant's turn; None where it is no single token."""
        start = "<|im_start|>assistant\n"
        head, whole = self._ids(start), self._ids(start + letter + END)
        return whole[-2] if whole == [*head, whole[-2], self.end_id] else None

    def letter_ids(self, n: int) -> list[int]:
        """Token ids of the answers A, B, C, … for `n` choices.

        Raises:
            InputError: the tokenizer has no single token for one of them.
        """
        ids = [token for token in self._letter_ids[:n] if token is not None]
        if len(ids) < n or len(set(ids)) < n:
            raise InputError(f"the tokenizer has no single token for each of the letters {LETTERS[:n]}")
        return ids

    def prompt_text(self, question: Question, system_prompt: SystemPrompt, reasoning: bool = False) -> str:
        """The chat up to the assistant's turn, the clip as one `<|video_pad|>`.

        Raises:
            InputError: the question or a choice spells one of the tokenizer's special tokens.
        """
        asked = render(question, reasoning)
        spelt = next((token for token in self._special if token in asked), None)
        if spelt is not None:
            raise InputError(f"question {question.id}: contains the special token {spelt!r}; remove it from the text")
        user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": asked}]}
        return self._chat(system_text(system_prompt, reasoning), user)

    def _chat(self, system: str | None, user: dict[str, Any]) -> str:
        first = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
        return str(self.processor.apply_chat_template([*first, user], tokenize=False, add_generation_prompt=True))

    def short_ids(self, question: Question, system_prompt: SystemPrompt, reasoning: bool = False) -> list[int]:
        """Token ids with the clip as one `<|video_pad|>`: what an engine that expands clips itself is given."""
        return self._ids(self.prompt_text(question, system_prompt, reasoning))

    def letter_turn(self, reasoning: Sequence[int]) -> list[int]:
        """Token ids that follow a prompt with `reasoning`: the model's words, and the turn that asks for the letter."""
        return [*reasoning, *self._letter_turn]

    def prompt_ids(
        self, question: Question, clip: SampledClip, system_prompt: SystemPrompt, reasoning: bool = False
    ) -> list[int]:
        """Token ids as the model sees them, without touching a pixel. Equal to `encode`'s `input_ids`."""
        return self.expanded(self.short_ids(question, system_prompt, reasoning), clip)

    def expanded(self, short_ids: Sequence[int], clip: SampledClip) -> list[int]:
        """`short_ids` with the clip's own tokens. Special tokens stand on both sides, so neither side's change."""
        place = short_ids.index(self.video_token_id)
        return [*short_ids[:place], *self._clip_ids(clip), *short_ids[place + 1 :]]

    def _clip_ids(self, clip: SampledClip) -> list[int]:
        """Token ids of a clip; those of the last one are kept, since questions on a clip follow each other."""
        frames, height, width, _ = clip.frames.shape
        shown = (clip.indices, clip.fps, clip.seconds, frames, height, width)
        last = self._last_clip
        if last is None or last[0] != shown:
            grid = torch.tensor([[frames // TEMPORAL_PATCH, height * 2 // CELL, width * 2 // CELL]])
            inputs = {"video_grid_thw": grid, "video_metadata": [metadata(clip)]}
            last = self._last_clip = shown, self._ids(self.processor.replace_video_token(inputs, 0))
        return last[1]

    def encode(
        self,
        question: Question,
        clip: SampledClip,
        system_prompt: SystemPrompt,
        with_answer: bool = False,
        reasoning: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Model input for a batch of one.

        Returns:
            input_ids, attention_mask, mm_token_type_ids [1, L] int64; pixel_values_videos [P, 1536] float32;
            video_grid_thw [1, 3]; with_answer also labels [1, L], `IGNORED` but for the letter and `<|im_end|>`.

        Raises:
            InputError: the question cannot be put to this model, or has no answer and `with_answer` asks for it.
        """
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)  # [T, 3, H, W] uint8
        batch = self.processor(
            text=[self.prompt_text(question, system_prompt, reasoning)],
            videos=[frames],
            video_metadata=[metadata(clip)],
            return_tensors="pt",
            **VIDEO_KWARGS,
        )
        encoded = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        self._check_visual_tokens(encoded["input_ids"], clip)
        return self._with_answer(encoded, question) if with_answer else encoded

    def _check_visual_tokens(self, input_ids: torch.Tensor, clip: SampledClip) -> None:
        frames, height, width, _ = clip.frames.shape
        found, due = int((input_ids == self.video_token_id).sum()), visual_tokens(width, height, frames)
        assert found == due, f"{found} visual tokens, the video contract says {due}: the processor resized or sampled"

    def _with_answer(self, encoded: dict[str, torch.Tensor], question: Question) -> dict[str, torch.Tensor]:
        if question.answer is None:
            raise InputError(f"question {question.id}: has no answer to train on; label it or leave it out")
        answer = [self.letter_ids(len(question.choices))[question.answer], self.end_id]
        tail = torch.tensor([answer], dtype=encoded["input_ids"].dtype)
        labels = torch.cat([torch.full_like(encoded["input_ids"], IGNORED), tail], dim=1)
        encoded["input_ids"] = torch.cat([encoded["input_ids"], tail], dim=1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            encoded[name] = torch.cat([encoded[name], torch.full_like(tail, value)], dim=1)
        return {**encoded, "labels": labels}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def metadata(clip: SampledClip) -> VideoMetadata:
    """Where the frames stand in the source clip; the processor's timestamps are `indices / fps`."""
    frames, height, width, _ = clip.frames.shape
    if frames % TEMPORAL_PATCH or height % CELL or width % CELL:
        raise ValueError(f"frames of shape {clip.frames.shape} were not sized by shared.budget")
    total = max(round(clip.seconds * clip.fps), max(clip.indices) + 1)
    return VideoMetadata(
        total_num_frames=total,
        fps=clip.fps,
        width=width,
        height=height,
        duration=clip.seconds,
        frames_indices=list(clip.indices),
    )


_ENCODERS: dict[str, Encoder] = {}


def encoder(model_dir: Path) -> Encoder:
    """One `Encoder` for equal files, wherever they lie: loading a tokenizer costs a second."""
    files = sorted(path for path in model_dir.iterdir() if path.suffix in (".json", ".jinja", ".txt"))
    told = hashlib.sha256()
    for path in files:
        told.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    if told.hexdigest() not in _ENCODERS:
        _ENCODERS[told.hexdigest()] = Encoder(model_dir)
    return _ENCODERS[told.hexdigest()]
