"""The sandbox's base model: what it was trained on is what the stock processor and model would give."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention
from transformers.video_utils import VideoMetadata

from services.sandbox import words
from services.sandbox.tiny import forward, packing, primitives
from shared import prompts
from shared.schema import Choice, Origin, Question

BASE = Path(words.__file__).parent / "base"


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return AutoProcessor.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).eval()


def _stock_inputs(
    processor: ProcessorMixin, frames: np.ndarray, seconds: float, asked: primitives.Asked, system: prompts.SystemPrompt
) -> dict[str, torch.Tensor]:
    choices = tuple(Choice(label="", text=text) for text in asked.choices)
    question = Question(id="q", clip="0" * 64, text=asked.text, choices=choices, origin=Origin(answer="none"))
    user = [{"type": "video"}, {"type": "text", "text": prompts.render(question)}]
    turns = [{"role": "user", "content": user}]
    if (told := prompts.system_text(system)) is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": told}]})
    indices = packing.source_indices(seconds)
    metadata = VideoMetadata(total_num_frames=indices[-1] + 1, fps=packing.SOURCE_FPS, frames_indices=indices)
    return processor(
        text=[processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)],
        videos=[frames.transpose(0, 3, 1, 2)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("system", ["none", "short"])
def test_questions_packed_on_one_clip_give_the_logits_of_each_asked_alone(
    processor: ProcessorMixin, model: PreTrainedModel, system: prompts.SystemPrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    clip = primitives.primitive(rng)
    frames, asked = clip.draw(rng), [primitives.ask(rng, clip.facts, 0.5) for _ in range(3)]
    packer, alone = packing.Packer(processor.tokenizer), []
    for question in asked:
        stock = _stock_inputs(processor, frames, clip.seconds, question, system)
        assert packer.prefix(clip.seconds, system) + packer.branch(question, False)[0] == stock["input_ids"][0].tolist()
        torch.testing.assert_close(packing.patches(frames[None]), stock["pixel_values_videos"])
        with torch.no_grad():
            alone.append(model(**stock).logits[0, -1])
    monkeypatch.setattr(Qwen3VLVisionAttention, "forward", Qwen3VLVisionAttention.forward)  # put back afterwards
    forward.use_equal_chunks()
    batch = packer([packing.Example(clip.seconds, system, asked, [False] * 3)])
    with torch.no_grad():
        logits = forward.answer_states(model, batch, *forward.see(model, packing.patches(frames[None]), 1))
    torch.testing.assert_close(logits[batch.letters[batch.labels != -100]], torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_every_option_word_and_letter_is_one_token(processor: ProcessorMixin) -> None:
    spoken = {word for phrases in words.OPTIONS.values() for text in phrases.values() for word in text.split()}
    pieces = {word: processor.tokenizer.encode(f" {word}", add_special_tokens=False) for word in spoken}
    assert [word for word, ids in pieces.items() if len(ids) != 1] == []
    assert all(len(processor.tokenizer.encode(letter, add_special_tokens=False)) == 1 for letter in "ABCDEFGH")


def test_linear_layers_suit_four_bit_groups(model: PreTrainedModel) -> None:
    sizes = {m.weight.shape for m in model.model.language_model.layers.modules() if isinstance(m, torch.nn.Linear)}
    assert all(inward % 128 == 0 and outward % 64 == 0 for outward, inward in sizes)
