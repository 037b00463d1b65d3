"""What a model was shown, in a form that another environment can compare (`shared/parity.py`)."""

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, get_args

import torch

from shared.errors import InputError
from shared.parity import Precision, Seen
from shared.schema import Question
from shared.vlm.encode import Encoder


def seen(
    encoder: Encoder,
    question: Question,
    token_ids: Sequence[int],
    clip: dict[str, Any],
    logprobs: Sequence[float] | None,
    precision: str | None,
) -> Seen:
    """`clip`: pixel_values_videos [P, 1536], video_grid_thw [3] and timestamps, as the environment's processor gave.

    Raises:
        InputError: the model answers with what is no number.
    """
    if logprobs is not None and not all(map(math.isfinite, logprobs)):
        raise InputError(
            f"question {question.id}: the model's log-probabilities are {logprobs}: its weights are damaged"
        )
    temporal, rows, columns = (int(side) for side in clip["video_grid_thw"].flatten())
    known = next((name for name in get_args(Precision) if name == precision), None)
    return Seen(
        question=question.id,
        token_ids=tuple(token_ids),
        pieces=tuple(encoder.tokenizer.decode([token]) for token in token_ids),
        grid=(temporal, rows, columns),
        timestamps=tuple(float(instant) for instant in clip["timestamps"]),
        pixels=sha256(patch_bytes(encoder, clip["pixel_values_videos"]).numpy().tobytes()).hexdigest(),
        logprobs=None if logprobs is None else tuple(logprobs),
        precision=None if logprobs is None else known,
    )


def patch_bytes(encoder: Encoder, patches: torch.Tensor) -> torch.Tensor:
    """Patches [P, 1536] as uint8, also where they come normalised: then what the processor did is undone."""
    if patches.dtype == torch.uint8:
        return patches
    video = encoder.processor.video_processor
    mean, std = (torch.tensor(values).view(1, -1, 1) for values in (video.image_mean, video.image_std))
    by_channel = patches.float().view(len(patches), len(video.image_mean), -1)
    return ((by_channel * std + mean) / video.rescale_factor).round().to(torch.uint8).flatten(1)
