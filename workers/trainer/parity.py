"""What training shows the model, for `roadqa verify`: `python -m workers.trainer.parity REQUEST.json`.

Rows are encoded by the code that encodes a training's; the answer comes from a plain forward of the model.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel

from shared import parity
from shared.budget import TEMPORAL_PATCH
from shared.contracts import TrainRecipe
from shared.machine import has_avx512
from shared.parity import Request, Seen
from shared.schema import Question, Rows
from shared.video import SampledClip, sample
from shared.vlm.encode import IGNORED, Encoder
from shared.vlm.seen import seen
from workers.trainer import files
from workers.trainer.data import Example, collate, encode, encode_clip
from workers.trainer.model import load


def see(request: Request) -> Iterator[Seen]:
    """What the model is shown of each question, in the rows' order.

    Raises:
        InputError: the model or a question cannot be used; a clip that cannot be decoded (MediaError).
    """
    encoder, rows = Encoder(request.model), Rows([request.data])
    recipe = TrainRecipe(video=request.asking.video, system_prompt=request.asking.system_prompt)
    model = _model(request.model)
    last: tuple[str, SampledClip] | None = None
    for question in rows.questions:
        if last is None or last[0] != question.clip:
            last = question.clip, sample(rows.clip_path(question.clip), recipe.video)
        yield _seen(encoder, question, last[1], recipe, model)


def _model(folder: Path) -> PreTrainedModel | None:
    """The model in the type its engine computes in; None for a quantised one, which nobody trains."""
    config = folder / "config.json"
    if config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8")):
        return None
    files.check(folder)
    cuda = torch.cuda.is_available()
    model = load(folder, "auto" if cuda or has_avx512() else torch.float32)
    return model.to("cuda" if cuda else "cpu").eval()


def _seen(
    encoder: Encoder, question: Question, clip: SampledClip, recipe: TrainRecipe, model: PreTrainedModel | None
) -> Seen:
    row = question.model_copy(update={"answer": 0})  # training rows have one; what comes before it is compared
    example = encode(encoder, row, clip, recipe) | encode_clip(encoder, clip)
    prompt = example["input_ids"][example["labels"] == IGNORED].tolist()
    timestamps = encoder.processor._calculate_timestamps(list(clip.indices), clip.fps, TEMPORAL_PATCH)
    letters = encoder.letter_ids(len(question.choices))
    logprobs = None if model is None else _logprobs(model, example, len(prompt), letters, encoder)
    precision = None if model is None else str(model.dtype).removeprefix("torch.")
    return seen(encoder, question, prompt, example | {"timestamps": timestamps}, logprobs, precision)


@torch.inference_mode()
def _logprobs(
    model: PreTrainedModel, example: Example, prompt: int, letters: list[int], encoder: Encoder
) -> list[float]:
    """Of the letters, where the answer's is learnt; normalised over them."""
    batch = collate([example], encoder.tokenizer.pad_token_id or 0)
    del batch["labels"]
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(model.dtype)
    logits = model(**inputs, use_cache=False).logits[0, prompt - 1]
    return torch.log_softmax(logits[letters].float(), dim=-1).tolist()  # type: ignore[no-any-return]


if __name__ == "__main__":
    parity.main(see)
