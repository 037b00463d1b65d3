"""How a question may be asked: the orders of its choices, and options that would do nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.choices import fixed_places, reordered, rotations
from shared.contracts import Asking, PredictRecipe
from tests.unit.vlm.examples import question

TEXTS = st.lists(
    st.sampled_from(["red", "green", "amber", "", "all of the above", "none of these"]), min_size=2, max_size=9
)


@given(TEXTS, st.integers(1, 26))
def test_no_free_choice_stands_twice_at_a_place(texts: list[str], count: int) -> None:
    orders, fixed = rotations(texts, count), fixed_places(texts)
    assert orders[0] == tuple(range(len(texts)))
    assert len(orders) == min(count, max(1, len(texts) - len(fixed)))
    for place in range(len(texts)):
        stood = [order[place] for order in orders]
        assert set(stood) == {place} if place in fixed else len(set(stood)) == len(orders)
    assert all(sorted(order) == list(range(len(texts))) for order in orders)


def test_two_orders_of_four_are_as_far_apart_as_can_be() -> None:
    assert rotations(["a", "b", "c", "d"], 2) == [(0, 1, 2, 3), (2, 3, 0, 1)]


def test_the_answer_follows_its_choice() -> None:
    asked = question(("red", "green", "amber"), answer=1)
    turned = reordered(asked, (1, 2, 0))
    assert [choice.text for choice in turned.choices] == ["green", "amber", "red"]
    assert turned.answer == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"samples": 3}, "reasoning: true"),
        ({"samples": 3, "reasoning": True}, "temperature: 0.7"),
        ({"temperature": 0.7}, "reasoning: true"),
        ({"reasoning_tokens": 64}, "reasoning: true"),
        ({"vote": "majority"}, "rotate or samples"),
        ({"rotate": 0}, "rotate"),
        ({"rotat": 2}, "rotat"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused_with_the_remedy(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Asking.model_validate(values)


def test_by_default_a_question_is_asked_once_for_a_letter() -> None:
    recipe = PredictRecipe()
    assert (recipe.rotate, recipe.samples, recipe.reasoning) == (1, 1, False)
