"""`roadqa verify`: which questions are compared, how the engine is asked, what is shown."""

from io import StringIO
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from services.cli.verify import Verified, changed_asking, in_the_same_arithmetic, spread
from services.cli.verifyview import SHOWN, view
from shared.budget import VideoBudget
from shared.parity import Contract, compare
from tests.unit.test_parity import PIECES, seen
from tests.unit.vlm.examples import question

TRAINED = Contract(video=VideoBudget(fps=2, tokens_per_patch=6), system_prompt="short")


@given(st.integers(1, 50), st.integers(0, 60))
def test_the_questions_are_spread_over_the_dataset(count: int, limit: int) -> None:
    questions = [question(name=f"q{number}") for number in range(count)]
    chosen = [questions.index(one) for one in spread(questions, limit)]
    assert len(chosen) == (min(limit, count) or count)
    assert chosen[0] == 0
    steps = {b - a for a, b in pairwise(chosen)}
    assert all(step >= 1 for step in steps), "none twice"
    assert not steps or max(steps) - min(steps) <= 1, "at even distances"


def test_the_engine_is_asked_as_the_model_was_trained_but_for_what_is_changed() -> None:
    nothing = {"fps": None, "tokens_per_patch": None, "system_prompt": None}
    assert changed_asking(TRAINED, nothing) == TRAINED
    other = changed_asking(TRAINED, nothing | {"fps": 1.0, "system_prompt": "none"})
    assert other == Contract(video=VideoBudget(fps=1, tokens_per_patch=6), system_prompt="none")
    with pytest.raises(ValidationError, match="tokens_per_patch"):
        changed_asking(TRAINED, {"tokens_per_patch": 0})


def test_a_server_is_held_to_the_arithmetic_of_bulk() -> None:
    (one,) = in_the_same_arithmetic([seen(precision=None)], [seen(precision="bfloat16")])
    assert one.precision == "bfloat16"


def shown(*faulty: int, of: int = 8) -> str:
    """What is printed where these questions get another token over HTTP."""
    trainer = [seen(question=f"q{number}") for number in range(of)]
    http = [
        seen(question=f"q{number}", token_ids=(99, *range(1, len(PIECES)))) if number in faulty else trainer[number]
        for number in range(of)
    ]
    found = Verified(
        model="m", dataset="d", trained=TRAINED, asked=TRAINED, bulk=compare(trainer, trainer),
        http=compare(trainer, http),
    )  # fmt: skip
    out = StringIO()
    Console(file=out, width=160).print(view(found))
    return out.getvalue()


def test_what_is_equal_is_told_in_numbers() -> None:
    text = shown()
    assert text.count("8 of 8") == 2 * 4
    assert text.rstrip().endswith("equal")
    assert "NOT EQUAL" not in text


def test_what_differs_is_told_side_by_side() -> None:
    text = shown(3)
    assert "7 of 8" in text
    assert "http: question q3: token ids at 0" in text
    assert text.count("⟦<|vision_start|>⟧") == 2
    assert text.index("trainer  ") < text.index("engine  ")
    assert text.rstrip().endswith("NOT EQUAL")


def test_a_dataset_full_of_differences_does_not_fill_the_screen() -> None:
    text = shown(*range(8))
    assert text.count("token ids at") == SHOWN
    assert f"http: {8 - SHOWN} more questions differ" in text
