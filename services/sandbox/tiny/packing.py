"""Several questions on one clip in one sequence, each as if it were asked alone.

The clip's turn so far is a shared prefix; each question is a branch that attends to the prefix and to
itself, at the positions it would have right behind the prefix. The arithmetic is that of single
questions (`pretrain` checks it against the stock model) at a third of the cost.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from services.sandbox.tiny.primitives import FRAMES, PATCHES, Asked
from shared import prompts
from shared.budget import VideoBudget, sample_times

BUDGET = VideoBudget(fps=2, tokens_per_patch=6, max_frames=FRAMES)
GRID = (PATCHES, 4, 6)  #: temporal patches, rows and columns of 16-pixel patches
TOKENS = 6  #: visual tokens of one temporal patch
SOURCE_FPS = 10.0
IN_WORDS = "Answer in words."


class Example(NamedTuple):
    """A clip's length, its questions, and for each whether it is answered in words, without choices."""

    seconds: float
    system_prompt: prompts.SystemPrompt
    asked: list[Asked]
    in_words: list[bool]


class Batch(NamedTuple):
    """ids [B, S]; positions [3, B, S]; mask [B, 1, S, S], True where attended; labels [B, S], shifted, else -100."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    visual: Tensor  #: [B, S], True at visual tokens
    labels: Tensor
    letters: Tensor  #: [B, S], True where the label is a letter


def patches(frames: np.ndarray) -> Tensor:
    """Frames [B, 8, 64, 96, 3] uint8 as the processor's pixel_values_videos [B · 96, 1536]."""
    clips = torch.from_numpy(frames).float().mul_(2 / 255).sub_(1)
    cut = clips.view(-1, PATCHES, 2, 2, 2, 16, 3, 2, 16, 3)  # patch, frame, row, row, pixel, column, column, pixel
    return cut.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(-1, 3 * 2 * 16 * 16)


def source_indices(seconds: float) -> list[int]:
    """The frames, of a clip at SOURCE_FPS, that the video contract samples."""
    return [int(t * SOURCE_FPS) for t in sample_times(seconds, BUDGET)]


class Packer:
    """Turns examples into batches, with the tokens the processor would give."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self.video = int(tokenizer.convert_tokens_to_ids("<|video_pad|>"))
        self.end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        self.letters = [int(tokenizer.convert_tokens_to_ids(letter)) for letter in "ABCDEFGH"]
        self._encode = lru_cache(maxsize=20_000)(lambda text: tokenizer.encode(text, add_special_tokens=False))

    def prefix(self, seconds: float, system_prompt: prompts.SystemPrompt) -> list[int]:
        """Everything before the question."""
        system = prompts.system_text(system_prompt)
        ids = self._encode(f"<|im_start|>system\n{system}<|im_end|>\n") if system is not None else []
        ids = [*ids, *self._encode("<|im_start|>user\n<|vision_start|>")]
        indices = source_indices(seconds)
        for first, second in zip(indices[::2], indices[1::2], strict=True):
            middle = (first / SOURCE_FPS + second / SOURCE_FPS) / 2
            start, end = self._encode("<|vision_start|>"), self._encode("<|vision_end|>")
            ids += [*self._encode(f"<{middle:.1f} seconds>"), *start, *[self.video] * TOKENS, *end]
        return [*ids, *self._encode("<|vision_end|>")]

    def branch(self, asked: Asked, in_words: bool) -> tuple[list[int], list[int]]:
        """(prompt from the question on, answer), as token ids."""
        if in_words:
            text, answer = self._encode(f"{asked.text}\n{IN_WORDS}"), self._encode(asked.phrase)
        else:
            text = [*self._encode(f"{asked.text}\n")]
            for index, choice in enumerate(asked.choices):
                text += self._encode(f"{prompts.letter(index)}. {choice}\n")
            text += self._encode("Answer with the letter.")
            answer = [self.letters[asked.answer]]
        return [*text, *self._encode("<|im_end|>\n<|im_start|>assistant\n")], [*answer, self.end]

    def __call__(self, examples: Sequence[Example]) -> Batch:
        rows = [self._row(example) for example in examples]
        longest = max(len(row[0]) for row in rows)

        def padded(index: int, fill: int) -> Tensor:
            return torch.tensor([[*row[index], *[fill] * (longest - len(row[index]))] for row in rows])

        ids, branch, labels = padded(0, 0), padded(1, -1), padded(5, -100)
        positions = torch.stack([padded(index, 0) for index in (2, 3, 4)])
        later = torch.ones(longest, longest, dtype=torch.bool).tril()
        mask = later & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
        is_letter = torch.isin(labels, torch.tensor(self.letters))
        return Batch(ids, positions, mask[:, None], ids == self.video, labels, is_letter)

    def _row(self, example: Example) -> tuple[list[int], ...]:
        ids = self.prefix(example.seconds, example.system_prompt)
        time, row, column, after = self._prefix_positions(ids)
        branch, labels = [0] * len(ids), [-100] * len(ids)
        for number, (asked, in_words) in enumerate(zip(example.asked, example.in_words, strict=True), 1):
            prompt, answer = self.branch(asked, in_words)
            turn = [*prompt, *answer[:-1]]
            places = list(range(after, after + len(turn)))
            ids, branch = ids + turn, branch + [number] * len(turn)
            time, row, column = time + places, row + places, column + places
            labels += [-100] * (len(prompt) - 1) + answer
        return ids, branch, time, row, column, labels

    def _prefix_positions(self, ids: list[int]) -> tuple[list[int], list[int], list[int], int]:
        """M-RoPE positions: each temporal patch takes as many steps as the longer side of its 2×3 cells."""
        steps: list[tuple[int, int, int]] = []
        place, seen = 0, 0
        for token in ids:
            if token != self.video:
                steps.append((place, place, place))
                place += 1
                continue
            cell = seen % TOKENS
            steps.append((place, place + cell // 3, place + cell % 3))
            seen += 1
            place += 3 if seen % TOKENS == 0 else 0
        time, row, column = (list(axis) for axis in zip(*steps, strict=True))
        return time, row, column, place
