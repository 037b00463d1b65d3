"""What reaches the model: the same tokens as everywhere, loss on the answer alone, clips decoded once."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from shared.errors import MediaError
from shared.prompts import letter
from shared.vlm.encode import IGNORED, Encoder
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import data
from workers.trainer.data import ClipCache, Examples, collate, encode, encode_clip
from workers.trainer.plan import plan


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(base)


@pytest.fixture
def examples(labelled: Path, encoder: Encoder, tmp_path: Path) -> Examples:
    return Examples(plan([labelled]), RECIPE, encoder, ClipCache(tmp_path, RECIPE.video, 10**9), 48)


def test_only_the_letter_and_its_end_carry_loss(examples: Examples, encoder: Encoder) -> None:
    for position in range(12):
        question, example = examples.question(position), examples[position]
        learnt = example["input_ids"][example["labels"] != IGNORED]
        assert question.answer is not None
        assert encoder.tokenizer.decode(learnt) == f"{letter(question.answer)}<|im_end|>"
        assert example["labels"][-2:].tolist() == learnt.tolist()


def test_a_row_is_encoded_as_the_engines_are_asked(examples: Examples, encoder: Encoder, tmp_path: Path) -> None:
    for position in range(4):
        question = examples.question(position)
        clip = examples._cache.get(question.clip, examples._plan.rows.clip_path(question.clip))
        ours = encode(encoder, question, clip, RECIPE) | encode_clip(encoder, clip)
        reference = encoder.encode(question, clip, RECIPE.system_prompt, with_answer=True)
        for name, tensor in collate([ours], 0).items():
            assert torch.equal(tensor, reference[name]), name


def test_rows_of_different_length_are_padded_without_loss_or_attention(examples: Examples) -> None:
    short, long = examples[0], {k: v.clone() for k, v in examples[1].items()}
    for name, value in (("input_ids", 5), ("mm_token_type_ids", 0), ("labels", 5)):
        long[name] = torch.cat([long[name], torch.full((3,), value)])
    batch = collate([short, long], pad_id=0)
    assert batch["attention_mask"].sum(1).tolist() == [len(short["input_ids"]), len(long["input_ids"])]
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert batch["pixel_values_videos"].shape[0] == 2 * short["pixel_values_videos"].shape[0]


@pytest.mark.parametrize(("memory_bytes", "encodings"), [(0, 24), (1 << 30, 12)])
def test_a_clip_is_decoded_once_and_encoded_once_where_memory_allows(
    labelled: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int, encodings: int
) -> None:
    done: Counter[str] = Counter()

    def counting(name: str) -> None:
        plain = getattr(data, name)
        monkeypatch.setattr(data, name, lambda *given: done.update([name]) or plain(*given))

    counting("sample")
    counting("encode_clip")
    cache = ClipCache(tmp_path, RECIPE.video, 10**9)
    examples = Examples(plan([labelled]), RECIPE, encoder, cache, 48, memory_bytes)
    first = [examples[position]["pixel_values_videos"] for position in range(12)]
    again = {examples.question(p).id: examples[p]["pixel_values_videos"] for p in range(12, 24)}
    assert done == {"sample": 12, "encode_clip": encodings}
    assert all(torch.equal(again[examples.question(p).id], pixels) for p, pixels in enumerate(first))


def test_beyond_its_limit_the_cache_keeps_nothing(labelled: Path, tmp_path: Path) -> None:
    chosen = plan([labelled])
    question = chosen.questions[0]
    cache = ClipCache(tmp_path, RECIPE.video, limit_bytes=10)
    assert cache.get(question.clip, chosen.rows.clip_path(question.clip)).frames.shape == (4, 64, 96, 3)
    assert not list(tmp_path.iterdir())


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    clip = tmp_path / "broken"
    clip.write_bytes(b"no video")
    with pytest.raises(MediaError, match="broken"):
        ClipCache(tmp_path / "cache", RECIPE.video, 10**9).get("0" * 64, clip)
