"""Rows of like length stand together; every row comes as often as before, whoever computes it."""

from collections import Counter

import pytest

from shared.budget import VideoBudget
from shared.schema import Choice, Clip, Origin, Question, Rows
from workers.trainer.order import WINDOW, Order, row_tokens
from workers.trainer.plan import Plan

BUDGET = VideoBudget(fps=2, tokens_per_patch=20)
BATCH = 8


def drawn(rows: int, lengths: tuple[float, ...]) -> Plan:
    """Rows on clips of these lengths in turn, in seconds."""
    clips = {
        f"{n:064x}": Clip(
            digest=f"{n:064x}", name="", recording="", size_bytes=1, seconds=seconds, fps=25, width=1280, height=720,
            codec="h264",
        ) for n, seconds in enumerate(lengths)
    }  # fmt: skip
    found = Plan(Rows([]), tuple(_question(n, list(clips)[n % len(clips)]) for n in range(rows)), ())
    found.rows.clips.update(clips)
    return found


def _question(number: int, clip: str) -> Question:
    choices = tuple(Choice(label=letter, text="a car") for letter in "ABCD")
    return Question(id=f"q{number}", clip=clip, text="What?", choices=choices, answer=0, origin=Origin(answer="human"))


def padding(plan: Plan, order: Order | None, micro_batch: int, positions: int) -> float:
    """Share of a training's tokens that are padding."""
    rows = [(order.at(p) if order else (0, plan.epoch(0, p // len(plan.questions))[p % len(plan.questions)]))[1]
            for p in range(positions)]  # fmt: skip
    tokens = [row_tokens(plan.questions[row], plan.rows.clips[plan.questions[row].clip], BUDGET) for row in rows]
    batches = [tokens[i : i + micro_batch] for i in range(0, len(tokens), micro_batch)]
    return 1 - sum(tokens) / sum(max(batch) * len(batch) for batch in batches)


@pytest.mark.parametrize("rows", [5, 8, 37, 500])
def test_every_row_comes_once_an_epoch(rows: int) -> None:
    plan = drawn(rows, (3, 30, 8))
    order = Order(plan, BUDGET, 1, BATCH)
    positions = 3 * rows // BATCH * BATCH
    met = [order.at(position) for position in range(positions)]
    whole = Counter((epoch, row) for epoch in range(3) for row in range(rows))
    assert Counter(met) <= whole
    assert positions < 3 * rows or Counter(met) == whole
    assert met == [Order(plan, BUDGET, 1, BATCH).at(position) for position in range(positions)]
    assert rows < 37 or met != [Order(plan, BUDGET, 2, BATCH).at(position) for position in range(positions)]


def test_an_epoch_ends_before_the_next_begins() -> None:
    plan = drawn(50, (3, 30, 8))
    order = Order(plan, BUDGET, 1, BATCH)
    epochs = [order.at(position)[0] for position in range(150 // BATCH * BATCH)]
    assert all(later >= earlier for earlier, later in zip(epochs[::BATCH], epochs[BATCH::BATCH], strict=False))
    assert {epochs[p] for p in range(48)} == {0}


def test_padding_falls_to_a_tenth_where_clips_differ_in_length() -> None:
    plan = drawn(800, (5, 6, 10, 15, 20, 30, 45, 60))
    order = Order(plan, BUDGET, 0, BATCH)
    at_random, grouped = (padding(plan, own, 2, 1600) for own in (None, order))
    assert at_random > 0.2
    assert grouped < at_random / 10


def test_rows_of_about_one_length_stay_mixed() -> None:
    """Sorted to the token, a batch would hold one kind of question."""
    plan = drawn(400, (10, 10.2, 10.4, 10.6))
    order = Order(plan, BUDGET, 0, BATCH)
    kinds = [{order.at(position)[1] % 4 for position in range(i, i + BATCH)} for i in range(0, 400, BATCH)]
    assert sum(len(found) for found in kinds) / len(kinds) > 3


def test_batches_of_all_lengths_come_throughout_a_window() -> None:
    plan = drawn(WINDOW * BATCH, (5, 60))
    order = Order(plan, BUDGET, 0, BATCH)
    kinds = [order.at(i)[1] % 2 for i in range(0, WINDOW * BATCH, BATCH)]
    assert kinds not in ([0] * 8 + [1] * 8, [1] * 8 + [0] * 8)
    assert Counter(kinds) == {0: 8, 1: 8}


@pytest.mark.parametrize("pack", [2, 4])
def test_rows_of_a_clip_stand_together_and_come_as_often(pack: int) -> None:
    rows = 3 * 40 * 4  # 40 clips of each length, four questions each
    plan = drawn(rows, tuple(length for length in (3, 30, 8) for _ in range(40)))
    order = Order(plan, BUDGET, 1, BATCH, pack)
    met = [order.at(position) for position in range(2 * rows)]
    assert Counter(met) == Counter((epoch, row) for epoch in range(2) for row in range(rows))
    clips = [plan.questions[row].clip for _, row in met]
    groups = [clips[i : i + pack] for i in range(0, len(clips), pack)]
    assert all(len(set(group)) == 1 for group in groups)
    assert clips[: 2 * BATCH] != clips[rows : rows + 2 * BATCH]


def test_groups_that_are_not_full_cut_few_others_in_two() -> None:
    """Clips of four and of three questions; a batch holds two whole groups of four."""
    plan = drawn(700, tuple([8.0] * 200))  # the first hundred clips have four
    order = Order(plan, BUDGET, 0, BATCH, 4)
    micro = [[plan.questions[order.at(p)[1]].clip for p in range(i, i + BATCH)] for i in range(0, 688, BATCH)]
    sequences = sum(len(set(batch)) for batch in micro)
    assert sequences < 1.25 * 200
