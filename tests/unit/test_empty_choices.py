"""A choice without text keeps its place and its letter, is shown to nobody and chosen by nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.choices import fixed_places, permutation
from shared.prompts import render
from shared.schema import Choice, Origin, Question
from shared.teachers.block import block

TEXTS = ("Left", "", "Right", "Straight on")


def question(texts: tuple[str, ...] = TEXTS) -> Question:
    choices = tuple(Choice(label="A", text=text) for text in texts)
    return Question(id="q", clip="0" * 64, text="Which way?", choices=choices, origin=Origin(answer="human"))


def test_a_model_and_a_teacher_are_not_shown_it_and_its_letter_stays_free() -> None:
    assert question().offered == (0, 2, 3)
    assert render(question()).split("\n") == [
        "Which way?", "A. Left", "C. Right", "D. Straight on", "Answer with the letter.",
    ]  # fmt: skip
    shown = block(question(), (3, 1, 0, 2)).split("\n")
    assert shown[4:-1] == ["1. Straight on", "3. Left", "4. Right"]


@given(st.lists(st.sampled_from(["", "Left", "Right", "Up", "Down"]), min_size=2, max_size=8), st.text(max_size=4))
def test_it_stays_where_it_is_in_every_order(texts: list[str], seed: str) -> None:
    empty = {place for place, text in enumerate(texts) if not text}
    assert empty <= fixed_places(texts)
    for turn in range(4):
        order = permutation(texts, seed, turn)
        assert sorted(order) == list(range(len(texts)))
        assert all(order[place] == place for place in empty)


@pytest.mark.parametrize("texts", [("x", "y"), TEXTS])
def test_whole_choices_are_all_offered(texts: tuple[str, ...]) -> None:
    assert [question(texts).choices[place].text for place in question(texts).offered] == [t for t in texts if t]
