"""Questions on one clip in one sequence, each as if it were asked alone: the clip is computed once for all of them.

Behind what rows have in common from their start, the clip with it, each row goes on as a branch of its own. It attends
to the common part and to itself, at the positions that it would have alone. So losses and gradients are those of single
rows, but for rounding.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch

from shared.vlm.encode import IGNORED

Example = dict[str, torch.Tensor]

COMMON, PADDING = 0, -1  #: in `branch`, beside 1, 2, … for the rows
WORDS = ("input_ids", "mm_token_type_ids", "labels")


def pack(rows: Sequence[Example], most: int) -> list[Example]:
    """Put rows of the same `clip` into one sequence, at most `most` each; what stays single is as it was.

    Returns:
        Sequences in the order of their first rows; packed ones have also `branch` [L], which row a token belongs to
        (`COMMON`: to all), and `back` [L], how many places before its own a token is said to stand.
    """
    groups: list[list[Example]] = []
    open_groups: dict[int, list[Example]] = {}
    for row in rows:
        clip = int(row["clip"])
        if clip not in open_groups or len(open_groups[clip]) == most:
            open_groups[clip] = []
            groups.append(open_groups[clip])
        open_groups[clip].append(row)
    return [_joined(group) if len(group) > 1 else group[0] for group in groups]


def _joined(rows: Sequence[Example]) -> Example:
    common = _common(rows)
    assert not any(row["mm_token_type_ids"][common:].any() for row in rows), "rows of a clip differ before its end"
    lengths = [len(row["input_ids"]) - common for row in rows]
    starts = [0, *accumulate(lengths[:-1])]
    words = {name: torch.cat([rows[0][name][:common], *(row[name][common:] for row in rows)]) for name in WORDS}
    return rows[0] | words | {
        "branch": _each([COMMON, *range(1, len(rows) + 1)], [common, *lengths]),
        "back": _each([0, *starts], [common, *lengths]),
    }  # fmt: skip


def _each(values: Sequence[int], times: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values).repeat_interleave(torch.tensor(times))


def _common(rows: Sequence[Example]) -> int:
    """Tokens that all rows begin with; the last one before an answer is each row's own, since it foretells that."""
    ids = [row["input_ids"] for row in rows]
    most = min(int((row["labels"] != IGNORED).nonzero()[0]) - 1 for row in rows)
    alike = torch.stack([row[:most] == ids[0][:most] for row in ids]).all(0)
    return most if bool(alike.all()) else int((~alike).nonzero()[0])


def rows_in(batch: Example) -> int:
    """How many rows a batch's sequences hold."""
    if "branch" not in batch:
        return len(batch["input_ids"])
    return int(batch["branch"].amax(1).clamp(min=1).sum())


def attend(batch: Example, rope_index: Callable[..., tuple[torch.Tensor, Any]]) -> None:
    """Say to the model who looks at whom: `branch` and `back` of a batch that has them become mask and positions.

    Args:
        batch: as collated; gets `attention_mask` [B, 1, L, L], True where a token is looked at, and `position_ids`
            [3, B, L].
        rope_index: the model's own `get_rope_index`.
    """
    if "branch" not in batch:
        return
    branch, back = batch.pop("branch"), batch.pop("back")
    length = branch.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    seen = (branch[:, None, :] == COMMON) | (branch[:, None, :] == branch[:, :, None])
    batch["attention_mask"] = (before & seen)[:, None]
    places, _ = rope_index(
        batch["input_ids"], mm_token_type_ids=batch["mm_token_type_ids"], video_grid_thw=batch["video_grid_thw"]
    )
    batch["position_ids"] = places - back
