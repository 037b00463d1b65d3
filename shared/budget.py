"""The video contract: which instants of a clip a model sees, and at what size.

Qwen3-VL cuts a frame into 16×16-pixel patches, merges 2×2 of them into one visual token (a
32×32-pixel cell), and folds two consecutive frames into one *temporal patch*. So a clip of T
frames at H×W pixels costs T/2 · (H/32) · (W/32) visual tokens. Trainer, calibrator and engine all
take their frames from here; no library samples or resizes again.
Source: the Qwen3-VL processor in transformers 5.17 (`patch_size`, `merge_size`,
`temporal_patch_size`).
"""

import math
from typing import NamedTuple

from pydantic import Field

from shared.schema import Frozen

CELL = 32  #: pixels on a side of the square that becomes one visual token
TEMPORAL_PATCH = 2  #: frames that share one grid


class VideoBudget(Frozen):
    """How much of a clip a model may see."""

    fps: float = Field(2.0, gt=0, le=60)  #: frames sampled per second of clip
    tokens_per_patch: int = Field(768, ge=1, le=16384)  #: cap of visual tokens per temporal patch
    tokens_per_clip: int = Field(24576, ge=1)  #: cap of visual tokens per clip
    max_frames: int = Field(768, ge=2)  #: longer clips are sampled more thinly, evenly


def sample_times(seconds: float, budget: VideoBudget) -> list[float]:
    """Instants (seconds) to sample: the middle of equal intervals, an even number of them, at least two."""
    wanted = min(budget.max_frames, max(2, round(seconds * budget.fps)))
    count = max(TEMPORAL_PATCH, wanted - wanted % TEMPORAL_PATCH)
    return [(i + 0.5) * seconds / count for i in range(count)]


def frame_size(width: int, height: int, frames: int, budget: VideoBudget) -> tuple[int, int]:
    """(width, height) in pixels, multiples of `CELL`, that keep the aspect within the token caps.

    Small clips are not enlarged beyond one rounding to the cell.
    """
    patches = math.ceil(frames / TEMPORAL_PATCH)
    cap = max(1, min(budget.tokens_per_patch, budget.tokens_per_clip // patches))
    scale = min(1.0, math.sqrt(cap * CELL * CELL / (width * height)))
    columns = max(1, round(width * scale / CELL))
    rows = max(1, round(height * scale / CELL))
    while columns * rows > cap:  # rounding up went over the cap: give up the longer side first
        if columns >= rows:
            columns -= 1
        else:
            rows -= 1
    return columns * CELL, rows * CELL


def visual_tokens(width: int, height: int, frames: int) -> int:
    """Visual tokens of `frames` frames of width × height pixels (both multiples of `CELL`)."""
    return math.ceil(frames / TEMPORAL_PATCH) * (width // CELL) * (height // CELL)


class ClipTokens(NamedTuple):
    """What a clip costs, before it is opened."""

    a_patch: int  #: visual tokens of one temporal patch
    patches: int  #: temporal patches

    @property
    def total(self) -> int:
        return self.a_patch * self.patches


def clip_tokens(seconds: float, width: int, height: int, budget: VideoBudget) -> ClipTokens:
    """The visual tokens of a clip of width × height pixels."""
    frames = len(sample_times(seconds, budget))
    size = frame_size(width, height, frames, budget)
    return ClipTokens(visual_tokens(*size, TEMPORAL_PATCH), frames // TEMPORAL_PATCH)
