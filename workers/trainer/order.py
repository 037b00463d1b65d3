"""In which order rows are met: a function of plan, seed and batch size, the same for any number of processes.

Rows of like length stand together. In a window of at most `WINDOW` global batches of one epoch, rows are dealt into
batches by their length class, and the batches come in a drawn order; within a batch the shorter rows come first, so
that a micro-batch holds rows of like length. A length class spans a fifth of the length: rows that differ by less stay
mixed at random, lest a batch hold one kind of question only. Lengths are reckoned from the tables; no clip is opened.
"""

import math
import random
from functools import lru_cache

from shared.budget import VideoBudget, clip_tokens
from shared.schema import Clip, Question
from workers.trainer.plan import Plan

WINDOW = 16  #: global batches
_CLASSES_PER_DOUBLING = 4  # neighbouring classes differ by 19%
_TOKENS_PER_STAMP = 9  # of the time before each temporal patch: `<0.2 seconds>` and the vision marks
_CHARACTERS_PER_TOKEN = 4  # about; clips make up most of a row

Row = tuple[int, int]  # epoch, index into the plan's questions


def row_tokens(question: Question, clip: Clip, budget: VideoBudget) -> int:
    """About how many tokens a row has, without a system prompt."""
    seen = clip_tokens(clip.seconds, clip.width, clip.height, budget)
    characters = len(question.text) + sum(len(choice.text) + 4 for choice in question.choices)
    return seen.total + seen.patches * _TOKENS_PER_STAMP + characters // _CHARACTERS_PER_TOKEN


class Order:
    """Position in the training → epoch and row."""

    def __init__(self, plan: Plan, budget: VideoBudget, seed: int, global_batch: int) -> None:
        self._plan, self._seed, self._batch = plan, seed, global_batch
        self._rows = plan.epoch_rows
        self._tokens = [row_tokens(row, plan.rows.clips[row.clip], budget) for row in plan.questions]
        self._classes = [round(_CLASSES_PER_DOUBLING * math.log2(max(1, tokens))) for tokens in self._tokens]
        self._epoch = lru_cache(maxsize=4)(plan.epoch)
        self._window = lru_cache(maxsize=4)(self._grouped)

    def at(self, position: int) -> Row:
        batch, place = divmod(position, self._batch)
        first, last = self._bounds(batch)
        return self._window(first, last)[(batch - first) * self._batch + place]

    def _bounds(self, batch: int) -> tuple[int, int]:
        """First and last batch of the window that holds `batch`; one that two epochs share stands alone."""
        epoch = batch * self._batch // self._rows
        if ((batch + 1) * self._batch - 1) // self._rows != epoch:
            return batch, batch
        whole = -(-epoch * self._rows // self._batch)  # the epoch's first batch of its own
        end = (epoch + 1) * self._rows // self._batch
        first = whole + (batch - whole) // WINDOW * WINDOW
        return first, min(first + WINDOW, end) - 1

    def _drawn(self, position: int) -> Row:
        epoch, place = divmod(position, self._rows)
        return epoch, self._epoch(self._seed, epoch)[place]

    def _grouped(self, first: int, last: int) -> list[Row]:
        drawn = [self._drawn(position) for position in range(first * self._batch, (last + 1) * self._batch)]
        drawn.sort(key=lambda row: self._classes[row[1]])  # stable: the draw's order within a class
        batches = [drawn[i : i + self._batch] for i in range(0, len(drawn), self._batch)]
        random.Random(f"batches/{self._seed}/{first}").shuffle(batches)
        return [row for batch in batches for row in sorted(batch, key=lambda row: self._tokens[row[1]])]
