"""What the model sees of a calibration row: prompt, clip and, where it is known, the answer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from shared import video
from shared.context import Context
from shared.contracts import QuantizeRecipe
from shared.errors import Stopped
from shared.schema import Question, Rows
from shared.video import SampledClip
from shared.vlm.encode import Encoder

Batch = dict[str, torch.Tensor]  #: a batch of one


class Encoded(Dataset[Batch]):
    """Rows encoded when they are asked for: nothing but the calibrator's own cache keeps their pixels.

    Raises (on access):
        MediaError: a clip cannot be read.
        Stopped: `ctx.stopping` was set.
    """

    def __init__(
        self, model_dir: Path, rows: Rows, questions: Sequence[Question], recipe: QuantizeRecipe, ctx: Context
    ) -> None:
        self.questions = questions
        self._rows, self._recipe, self._ctx = rows, recipe, ctx
        self._encoder = Encoder(model_dir)
        self._encode = {
            "video": self._clip,
            "frame": partial(self._clip, still=True),
            "text": self._text,
        }[recipe.calibration]

    def __deepcopy__(self, _: dict[int, object]) -> "Encoded":
        return self  # llm-compressor copies its arguments, and would copy the locks behind `ctx`

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, place: int) -> Batch:
        if self._ctx.stopping:
            raise Stopped(f"stopped after {place} of {len(self)} calibration rows")
        batch = self._encode(self.questions[place])
        self._ctx.progress(place + 1, len(self), "calibration rows")
        return batch

    def _clip(self, question: Question, still: bool = False) -> Batch:
        """As trainer and engines see it. Pixels in bfloat16: the vision tower casts them to it at its first step."""
        clip = video.sample(self._rows.clip_path(question.clip), self._recipe.video)
        answered = question.answer is not None
        batch = self._encoder.encode(question, _still(clip) if still else clip, self._recipe.system_prompt, answered)
        batch.pop("labels", None)
        batch["pixel_values_videos"] = batch["pixel_values_videos"].to(torch.bfloat16)
        return batch

    def _text(self, question: Question) -> Batch:
        """The same words without the clip."""
        encoder = self._encoder
        place = f"<|vision_start|>{encoder.processor.video_token}<|vision_end|>"
        text = encoder.prompt_text(question, self._recipe.system_prompt)
        assert text.count(place) == 1, "the chat template puts the clip elsewhere"
        ids = list(encoder.tokenizer(text.replace(place, ""), add_special_tokens=False)["input_ids"])
        if question.answer is not None:
            ids += [encoder.letter_ids(len(question.choices))[question.answer], encoder.end_id]
        tokens = torch.tensor([ids])
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "mm_token_type_ids": torch.zeros_like(tokens),
        }


def _still(clip: SampledClip) -> SampledClip:
    """The frame in the middle, twice: what the vision tower makes of a picture."""
    middle = len(clip.indices) // 2
    index = clip.indices[middle]
    return clip._replace(frames=np.repeat(clip.frames[middle : middle + 1], 2, axis=0), indices=(index, index))
