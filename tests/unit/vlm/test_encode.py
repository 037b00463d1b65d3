"""The encoder: what a model sees of a question and a clip, and what it learns from."""

import re

import numpy as np
import pytest

from shared.budget import visual_tokens
from shared.errors import InputError
from shared.prompts import ASK_LETTER, names, render, system_text
from shared.vlm.encode import IGNORED, Encoder
from tests.unit.vlm.examples import clip, question


@pytest.mark.parametrize(("frames", "width", "height"), [(2, 32, 32), (8, 96, 64), (12, 64, 128)])
def test_visual_tokens_are_those_of_the_video_contract(encoder: Encoder, frames: int, width: int, height: int) -> None:
    encoded = encoder.encode(question(), clip(frames=frames, width=width, height=height), "short")
    found = int((encoded["input_ids"] == encoder.video_token_id).sum())
    assert found == visual_tokens(width, height, frames)
    assert encoded["video_grid_thw"].tolist() == [[frames // 2, height // 16, width // 16]]


def test_token_ids_without_pixels_are_those_with_pixels(encoder: Encoder) -> None:
    for seed, system in ((0, "none"), (1, "short"), (2, "expert")):
        shown = clip(seed, frames=4 + 2 * seed)
        assert (
            encoder.prompt_ids(question(), shown, system)
            == encoder.encode(question(), shown, system)["input_ids"][0].tolist()
        )


def test_timestamps_are_those_of_the_source_clip(encoder: Encoder) -> None:
    shown = clip()._replace(indices=(0, 10, 33, 35), frames=clip().frames[:4], fps=10.0)
    text = encoder.tokenizer.decode(encoder.prompt_ids(question(), shown, "short"))
    assert re.findall(r"<([\d.]+) seconds>", text) == ["0.5", "3.4"]


def test_frames_reach_the_model_unscaled(encoder: Encoder) -> None:
    grey = clip()._replace(frames=np.full((2, 32, 32, 3), 255, np.uint8), indices=(0, 5))
    pixels = encoder.encode(question(), grey, "none")["pixel_values_videos"]
    assert pixels.shape == (4, 1536)
    assert pixels.min() == pixels.max() == 1.0


def test_frames_outside_the_contract_are_refused(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="not sized"):
        encoder.encode(question(), clip(width=90), "none")


def test_loss_falls_on_the_letter_and_the_end_only(encoder: Encoder) -> None:
    asked = question(answer=2)
    encoded = encoder.encode(asked, clip(), "short", with_answer=True)
    learnt = [token for token in encoded["labels"][0].tolist() if token != IGNORED]
    assert encoder.tokenizer.decode(learnt) == "C<|im_end|>"
    assert encoded["input_ids"][0, -2:].tolist() == learnt
    assert {encoded[name].shape for name in ("input_ids", "labels", "attention_mask", "mm_token_type_ids")} == {
        encoded["input_ids"].shape
    }
    prompt = encoder.encode(asked, clip(), "short")["input_ids"][0].tolist()
    assert encoded["input_ids"][0].tolist() == [*prompt, *learnt]


def test_an_answer_appended_is_the_answer_tokenised_with_its_prompt(encoder: Encoder) -> None:
    text = encoder.prompt_text(question(), "short")
    for index, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        whole = encoder.tokenizer(text + letter + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert whole == [*encoder.short_ids(question(), "short"), encoder.letter_ids(26)[index], encoder.end_id]


def test_a_row_without_an_answer_is_no_training_row(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="no answer"):
        encoder.encode(question(answer=None), clip(), "short", with_answer=True)


def test_a_question_cannot_smuggle_special_tokens_in(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="special token"):
        encoder.encode(question(texts=("yes", "no<|im_end|>")), clip(), "none")


def test_the_system_prompt_none_has_no_system_turn(encoder: Encoder) -> None:
    assert "system" not in encoder.prompt_text(question(), "none")
    assert encoder.prompt_text(question(), "short").startswith("<|im_start|>system\nWatch")


def test_a_reasoning_is_a_turn_of_its_own_and_the_letter_opens_the_next(encoder: Encoder) -> None:
    asked, words = question(), "The light ahead turns red ."
    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": render(asked, reasoning=True)}]}
    turns = [user, {"role": "assistant", "content": words}, {"role": "user", "content": ASK_LETTER}]
    whole = encoder.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = encoder.tokenizer(words, add_special_tokens=False)["input_ids"]
    found = encoder.short_ids(asked, "none", reasoning=True) + encoder.letter_turn(ids)
    assert encoder.tokenizer.decode(found) == whole


def test_a_system_prompt_that_wants_a_letter_only_does_not_stand_before_a_reasoning() -> None:
    for name in names():
        assert "letter" not in (system_text(name, reasoning=True) or "")
    assert "letter only" in (system_text("expert") or "")
