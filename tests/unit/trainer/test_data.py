"""What reaches the model: the same tokens as everywhere, loss on the answer alone, clips decoded once."""

import shutil
import threading
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from shared.errors import MediaError
from shared.prompts import letter
from shared.vlm.encode import IGNORED, Encoder
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import cache, data, model
from workers.trainer.ahead import Share
from workers.trainer.cache import ClipCache
from workers.trainer.data import Examples, collate, encode, encode_clip
from workers.trainer.plan import plan
from workers.trainer.skipped import Skipped, judge


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(base)


@pytest.fixture
def examples(labelled: Path, encoder: Encoder, tmp_path: Path) -> Examples:
    return _examples(labelled, encoder, tmp_path)


def _examples(rows: Path, encoder: Encoder, folder: Path, **options: Any) -> Examples:
    kept = ClipCache(folder / "frames", RECIPE.video, 10**9)
    return Examples(plan([rows]), RECIPE, encoder, kept, 48, Skipped(folder / "skipped"), **options)


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


def test_padding_on_the_right_needs_no_mask(examples: Examples, base: Path) -> None:
    """As the trainer computes a batch: the loss and what each row's own tokens get are the same without the mask."""
    loaded = model.load(base, torch.float32).eval()
    long = examples[0]
    short = {**examples[1], **{name: examples[1][name][4:] for name in ("input_ids", "mm_token_type_ids", "labels")}}
    batch = collate([long, short], pad_id=0)
    assert batch["attention_mask"].sum() < batch["attention_mask"].numel()
    with torch.no_grad():
        masked = loaded(**batch)
        own = batch.pop("attention_mask").bool()
        bare = loaded(**batch)
    assert abs(masked.loss - bare.loss) < 1e-6
    assert torch.allclose(masked.logits[own], bare.logits[own], atol=1e-5)


@pytest.mark.parametrize(("memory_bytes", "encodings"), [(0, 24), (1 << 30, 12)])
def test_a_clip_is_decoded_once_and_encoded_once_where_memory_allows(
    labelled: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int, encodings: int
) -> None:
    done: Counter[str] = Counter()

    def counting(module: ModuleType, name: str) -> None:
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: done.update([name]) or plain(*given))

    counting(cache, "sample")
    counting(data, "encode_clip")
    examples = _examples(labelled, encoder, tmp_path, memory_bytes=memory_bytes)
    first = [examples[position]["pixel_values_videos"] for position in range(12)]
    again = {examples.question(p).id: examples[p]["pixel_values_videos"] for p in range(12, 24)}
    assert done == {"sample": 12, "encode_clip": encodings}
    assert all(torch.equal(again[examples.question(p).id], pixels) for p, pixels in enumerate(first))


def test_a_thread_works_ahead_on_what_the_rank_takes_next(
    labelled: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(rank=1, ranks=2, micro_batch=2)
    assert list(islice(share.after(2), 5)) == [3, 6, 7, 10, 11]
    made: list[str] = []
    plain = data.encode_clip
    monkeypatch.setattr(
        data, "encode_clip", lambda *given: made.append(threading.current_thread().name) or plain(*given)
    )
    ahead, alone = (
        _examples(labelled, encoder, tmp_path / name, share=own) for name, own in (("a", share), ("b", None))
    )
    for position in (2, 3, 6, 7, 10, 11):
        assert all(torch.equal(tensor, alone[position][name]) for name, tensor in ahead[position].items())
    assert sum(not name.startswith("ahead") for name in made) == 6 + 1  # all of one that has no thread; the first


def test_the_next_row_stands_in_for_one_whose_clip_is_damaged(labelled: Path, encoder: Encoder, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    shutil.copytree(labelled, rows)
    whole = _examples(labelled, encoder, tmp_path / "whole")
    damaged = [whole.question(position).clip for position in (0, 1)]
    for digest in damaged:
        (rows / "clips" / digest).write_bytes(b"no video")
    examples = _examples(rows, encoder, tmp_path / "damaged")
    assert torch.equal(examples[0]["input_ids"], whole[2]["input_ids"])
    assert torch.equal(examples[3]["input_ids"], whole[3]["input_ids"])
    found = Skipped(tmp_path / "damaged" / "skipped").found()
    assert set(found) == set(damaged)
    assert all(digest in why for digest, why in found.items())
    judge(found, clips=200)
    with pytest.raises(MediaError, match=f"2 of 199 clips .* more than 1%: .*clips/{min(damaged)}"):
        judge(found, clips=199)
