"""Rows of a clip in one sequence: the arithmetic of single rows, the clip computed once."""

from pathlib import Path

import pytest
import torch

from shared.schema import Question
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import RECIPE
from workers.trainer import model
from workers.trainer.cache import ClipCache
from workers.trainer.data import clip_number, collate, encode, encode_clip
from workers.trainer.packing import COMMON, PADDING, Example, attend, pack, rows_in
from workers.trainer.plan import Plan, plan

TEXTS = ("Which colour?", "Which colour does the clip show, of these?", "What is seen?")


@pytest.fixture(scope="module")
def rows(labelled: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Three questions on one clip, the second of them between two on others."""
    encoder, read = Encoder(base), plan([labelled])
    kept = ClipCache(tmp_path_factory.mktemp("frames"), RECIPE.video, 10**9)
    first, other, third = read.questions[:3]
    asked = [first, other, _worded(first, TEXTS[1]), third, _worded(first, TEXTS[2])]
    return [_example(encoder, kept, read, question) for question in asked]


def _worded(question: Question, text: str) -> Question:
    order = (2, 0, 3, 1)
    assert question.answer is not None
    choices = tuple(question.choices[i] for i in order)
    return question.model_copy(update={"text": text, "choices": choices, "answer": order.index(question.answer)})


def _example(encoder: Encoder, kept: ClipCache, read: Plan, question: Question) -> Example:
    clip = kept.get(question.clip, read.rows.clip_path(question.clip))
    return encode(encoder, question, clip, RECIPE) | encode_clip(encoder, clip) | {"clip": clip_number(question.clip)}


def test_rows_of_a_clip_share_its_tokens_and_its_pixels(rows: list[Example]) -> None:
    packed, *single = pack(rows, most=4)
    assert single == [rows[1], rows[3]]
    own = [len(row["input_ids"]) for row in (rows[0], rows[2], rows[4])]
    common = int((packed["branch"] == COMMON).sum())
    assert len(packed["input_ids"]) == common + sum(length - common for length in own)
    clip_ends = int(rows[0]["mm_token_type_ids"].nonzero()[-1])
    assert clip_ends < common < min(own)
    assert packed["pixel_values_videos"] is rows[0]["pixel_values_videos"]
    assert int((packed["labels"] != -100).sum()) == sum(int((row["labels"] != -100).sum()) for row in rows[::2])


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 5), (2, [2, 1, 1, 1]), (3, [3, 1, 1])])
def test_no_sequence_holds_more_rows_than_asked(rows: list[Example], most: int, sizes: list[int]) -> None:
    packed = pack(rows, most)
    assert [rows_in({name: value[None] for name, value in row.items()}) for row in packed] == sizes
    assert rows_in(collate(rows, 0, most)) == 5


@pytest.mark.parametrize("most", [2, 3])
def test_losses_and_gradients_are_those_of_single_rows(rows: list[Example], base: Path, most: int) -> None:
    single, packed = collate(rows, 0), collate(rows, 0, most)
    assert len(packed["input_ids"]) == 5 - (most - 1)
    assert (packed["branch"] == PADDING).any(), "rows of one length would not show what padding does"
    del single["attention_mask"], packed["attention_mask"]
    found = []
    for batch in (single, packed):
        loaded = model.load(base, torch.float32)
        attend(batch, loaded.model.get_rope_index)
        loss = loaded(**batch).loss
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in loaded.named_parameters()}
        found.append((loss.item(), gradients))
    (alone, theirs), (together, ours) = found
    assert alone == pytest.approx(together, rel=1e-5)
    for name, gradient in theirs.items():
        if gradient is not None:
            assert torch.allclose(gradient, ours[name], atol=1e-5 * float(gradient.abs().max()) + 1e-9), name


def test_a_branch_that_saw_another_would_show(rows: list[Example], base: Path) -> None:
    """The comparison above can fail: without the mask the loss is another."""
    single, packed = collate(rows, 0), collate(rows, 0, 3)
    loaded = model.load(base, torch.float32).eval()
    attend(packed, loaded.model.get_rope_index)
    for batch in (single, packed):
        del batch["attention_mask"]
    with torch.no_grad():
        assert loaded(**single).loss.item() != pytest.approx(loaded(**packed).loss.item(), rel=1e-4)
