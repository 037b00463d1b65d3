"""In which order rows are met: a function of plan, seed and batch size, the same for any number of processes.

Rows of like length stand together. In a window of at most `WINDOW` global batches of one epoch, rows are dealt into
batches by their length class, and the batches come in a drawn order; within a batch the shorter rows come first, so
that a micro-batch holds rows of like length. A length class spans a fifth of the length: rows that differ by less stay
mixed at random, lest a batch hold one kind of question only. Lengths are reckoned from the tables; no clip is opened.

Where rows of a clip are packed, an epoch's draw is one of groups of such rows, and a group stands as long as its
longest. Whole groups come first, so that few are cut in two by the end of a batch.
"""

import math
import random
from functools import lru_cache
from typing import NamedTuple

from shared.budget import VideoBudget, clip_tokens
from shared.schema import Clip, Question
from workers.trainer.plan import Plan

WINDOW = 16  #: global batches
_CLASSES_PER_DOUBLING = 4  # neighbouring classes differ by 19%
_TOKENS_PER_STAMP = 9  # of the time before each temporal patch: `<0.2 seconds>` and the vision marks
_CHARACTERS_PER_TOKEN = 4  # about; clips make up most of a row

Row = tuple[int, int]  # epoch, index into the plan's questions


class Drawn(NamedTuple):
    """A row as an epoch's draw gives it."""

    row: Row
    group: int  #: of the epoch's, in drawn order
    size: int  #: rows of the group
    tokens: int  #: of the group's longest row


def row_tokens(question: Question, clip: Clip, budget: VideoBudget) -> int:
    """About how many tokens a row has, without a system prompt."""
    seen = clip_tokens(clip.seconds, clip.width, clip.height, budget)
    characters = len(question.text) + sum(len(choice.text) + 4 for choice in question.choices)
    return seen.total + seen.patches * _TOKENS_PER_STAMP + characters // _CHARACTERS_PER_TOKEN


class Order:
    """Position in the training → epoch and row. Up to `pack` rows of a clip stand together."""

    def __init__(self, plan: Plan, budget: VideoBudget, seed: int, global_batch: int, pack: int = 1) -> None:
        self._plan, self._seed, self._batch, self._pack = plan, seed, global_batch, pack
        self._rows = plan.epoch_rows
        self._tokens = [row_tokens(row, plan.rows.clips[row.clip], budget) for row in plan.questions]
        self._epoch = lru_cache(maxsize=4)(self._drawn)
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

    def _drawn(self, epoch: int) -> list[Drawn]:
        groups: list[list[int]] = []
        newest: dict[str, list[int]] = {}  # by clip
        for row in self._plan.epoch(self._seed, epoch):
            clip = self._plan.questions[row].clip
            if clip not in newest or len(newest[clip]) == self._pack:
                newest[clip] = []
                groups.append(newest[clip])
            newest[clip].append(row)
        return [
            Drawn((epoch, row), number, len(group), max(self._tokens[other] for other in group))
            for number, group in enumerate(groups)
            for row in group
        ]

    def _grouped(self, first: int, last: int) -> list[Row]:
        positions = range(first * self._batch, (last + 1) * self._batch)
        drawn = [self._epoch(position // self._rows)[position % self._rows] for position in positions]
        drawn.sort(key=lambda row: (_length_class(row.tokens), -row.size))  # stable: the draw's order within a class
        batches = [drawn[i : i + self._batch] for i in range(0, len(drawn), self._batch)]
        random.Random(f"batches/{self._seed}/{first}").shuffle(batches)
        return [drawn.row for batch in batches for drawn in sorted(batch, key=_shortest_first)]


def _length_class(tokens: int) -> int:
    return round(_CLASSES_PER_DOUBLING * math.log2(max(1, tokens)))


def _shortest_first(drawn: Drawn) -> tuple[int, ...]:
    return (-drawn.size, drawn.tokens, drawn.row[0], drawn.group)
