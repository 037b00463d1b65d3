"""Several answers to one question as one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import Asking
from shared.errors import InputError
from shared.schema import Choice, Origin, Prediction, Question
from tests.unit.vlm.examples import question
from workers.inference.ahead import Put, puts
from workers.inference.engines import Answer
from workers.inference.together import mean, prediction


def answer(*shares: float, reasoning: str | None = None) -> Answer:
    return Answer(tuple(math.log(share) for share in shares), 7, reasoning, 3 if reasoning else 0)


def asked(*found: tuple[tuple[int, ...], Answer], of: Question | None = None) -> list[tuple[Put, Answer]]:
    return [(Put(of or question(("a", "b", "c")), order, 0), reply) for order, reply in found]


def test_one_answer_is_itself_and_no_more_is_written_of_it() -> None:
    reply = answer(0.2, 0.5, 0.3)
    found = prediction(asked(((0, 1, 2), reply)), Asking(), 0.1)
    assert (found.choice, found.logprobs, found.ballots) == (1, reply.logprobs, ())
    assert "ballots" not in found.model_dump_json()
    assert Prediction.model_validate_json(found.model_dump_json()) == found


def test_probabilities_are_averaged_by_choice_not_by_place() -> None:
    """A model that always says A half the time, and the truth (b) else."""
    said = asked(
        ((0, 1, 2), answer(0.5, 0.45, 0.05)),
        ((1, 2, 0), answer(0.9, 0.05, 0.05)),
        ((2, 0, 1), answer(0.5, 0.05, 0.45)),
    )
    found = prediction(said, Asking(rotate=3), 0.1)
    assert np.allclose(np.exp(found.logprobs), [0.2, 0.6, 0.2])
    assert found.choice == 1
    assert [each.choice for each in found.ballots] == [0, 1, 2]
    assert [each.order for each in found.ballots] == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]


@given(st.integers(2, 8), st.data())
def test_a_model_that_knows_places_only_is_left_without_a_preference(count: int, data: st.DataObject) -> None:
    shares = data.draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count))
    reply = answer(*(share / sum(shares) for share in shares))
    own = question(tuple(f"choice {number}" for number in range(count)))
    found = prediction([(put, reply) for put in puts(own, Asking(rotate=26))], Asking(rotate=26), 0.1)
    assert np.allclose(np.exp(found.logprobs), 1 / count)


def test_a_majority_may_speak_against_the_mean() -> None:
    orders = (0, 1, 2)
    said = asked(
        (orders, answer(0.51, 0.48, 0.01)), (orders, answer(0.51, 0.48, 0.01)), (orders, answer(0.01, 0.98, 0.01))
    )
    asking = {"samples": 3, "reasoning": True, "temperature": 1.0}
    assert prediction(said, Asking.model_validate(asking), 0.1).choice == 1
    assert prediction(said, Asking.model_validate(asking | {"vote": "majority"}), 0.1).choice == 0


def test_equal_votes_are_decided_by_the_mean() -> None:
    said = asked(((0, 1, 2), answer(0.6, 0.2, 0.2)), ((0, 1, 2), answer(0.05, 0.05, 0.9)))
    assert prediction(said, Asking(rotate=2, vote="majority"), 0.1).choice == 2


def test_a_reasoning_is_kept_beside_the_answer_it_led_to() -> None:
    asking = Asking(reasoning=True)
    found = prediction(asked(((0, 1, 2), answer(0.2, 0.5, 0.3, reasoning="The light is red."))), asking, 0.1)
    (only,) = found.ballots
    assert (only.reasoning, only.reasoning_tokens) == ("The light is red.", 3)
    assert Prediction.model_validate_json(found.model_dump_json()) == found


def test_a_choice_that_was_not_shown_is_not_chosen() -> None:
    choices = tuple(Choice(label="A", text=text) for text in ("left", "", "right"))
    own = Question(id="q", clip="0" * 64, text="?", choices=choices, origin=Origin(answer="none"))
    reply = Answer((-2.0, -0.1, -1.5), 7)
    found = prediction(asked(((0, 1, 2), reply), of=own), Asking(), 0.1)
    assert (found.choice, found.logprobs) == (2, reply.logprobs)


def test_a_model_that_computes_no_numbers_is_refused() -> None:
    put = puts(question(), Asking())[0]
    with pytest.raises(InputError, match="question q1: the model's log-probabilities are no numbers"):
        prediction([(put, Answer((-1.0, math.nan, -2.0, -3.0), 7))], Asking(), 0.1)


def test_probabilities_too_small_for_a_float_keep_their_order() -> None:
    averaged = mean([(0.0, -800.0, -math.inf), (0.0, -760.0, -math.inf)])
    assert averaged == pytest.approx((0.0, -760 - math.log(2), -math.inf))
