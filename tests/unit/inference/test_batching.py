"""The transformers engine's batches."""

import torch

from workers.inference.transformers_engine import batches, left_pad


def test_batches_keep_order_and_bound() -> None:
    assert list(batches([4, 4, 4, 4, 9, 1], limit=10)) == [(0, 2), (2, 4), (4, 5), (5, 6)]
    assert list(batches([50], limit=10)) == [(0, 1)]
    assert list(batches([])) == []


def test_prompts_end_in_the_last_column() -> None:
    def row(length: int) -> dict[str, torch.Tensor]:
        texts = {name: torch.ones(1, length, dtype=torch.long) for name in
                 ("input_ids", "attention_mask", "mm_token_type_ids")}  # fmt: skip
        return texts | {"pixel_values_videos": torch.zeros(8, 4), "video_grid_thw": torch.tensor([[1, 2, 4]])}

    padded = left_pad([row(3), row(5)], pad=7)
    assert padded["input_ids"].tolist() == [[7, 7, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert padded["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert padded["pixel_values_videos"].shape == (16, 4)
    assert padded["video_grid_thw"].shape == (2, 3)
