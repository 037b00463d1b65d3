"""The comparison of what trainer and engine see: equal is equal, and whatever differs is caught and shown."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.parity import BOUNDS, Comparison, Precision, Seen, around, compare, first_apart

PIECES = ("<|vision_start|>", *(["<|video_pad|>"] * 6), "<|vision_end|>", "Is", " it", " red", "?", "\n", "A")


def seen(**changed: object) -> Seen:
    """What one environment saw of a question, with some of it changed."""
    values = {
        "question": "q1",
        "token_ids": tuple(range(len(PIECES))),
        "pieces": PIECES,
        "grid": (1, 4, 6),
        "timestamps": (0.25,),
        "pixels": "a" * 64,
        "logprobs": (math.log(0.7), math.log(0.3)),
        "precision": "float32",
    }
    return Seen.model_validate(values | changed)


def found(**changed: object) -> Comparison:
    """An engine that sees something else, against the trainer."""
    return compare([seen()], [seen(**changed)])


def test_equal_views_are_equal() -> None:
    same = found()
    assert same.equal
    assert (same.questions, same.equal_token_ids, same.equal_grids, same.equal_timestamps, same.equal_pixels) == (
        1,
    ) * 5
    assert same.max_logprob_difference == 0
    assert same.bound == BOUNDS["float32"]


def test_another_token_is_shown_where_it_stands_in_both_texts() -> None:
    ids, pieces = list(range(len(PIECES))), list(PIECES)
    ids[10], pieces[10] = 99, " green"
    different = found(token_ids=ids, pieces=pieces)
    (one,) = different.differences
    assert (one.question, one.of, one.position) == ("q1", "token ids", 10)
    assert "⟦ red⟧?" in one.trainer
    assert "⟦ green⟧?" in one.engine
    assert "<|video_pad|>×5" in one.trainer, "a run is written once"
    assert different.equal_token_ids == 0
    assert not different.equal


def test_a_prompt_that_ends_early_differs_at_its_end() -> None:
    (one,) = found(token_ids=tuple(range(12)), pieces=PIECES[:12]).differences
    assert (one.position, one.trainer[-3:], one.engine[-9:]) == (12, "⏎⟧A".replace("⏎", "\n"), "⟦the end⟧")


@pytest.mark.parametrize(
    ("changed", "of", "trainer", "engine"),
    [
        ({"grid": (1, 4, 4)}, "grid", "1×4×6", "1×4×4"),
        ({"timestamps": (0.5,)}, "timestamps", "0.25 s of 1", "0.5 s of 1"),
        ({"timestamps": (0.25, 0.75)}, "timestamps", "none of 1", "0.75 s of 2"),
        ({"pixels": "b" * 64}, "pixels", "a" * 12, "b" * 12),
        ({"logprobs": (math.log(0.6), math.log(0.4))}, "log-probabilities", "B -1.2040", "B -0.9163"),
    ],
)
def test_whatever_differs_is_shown_side_by_side(changed: dict[str, object], of: str, trainer: str, engine: str) -> None:
    (one,) = found(**changed).differences
    assert (one.of, one.trainer, one.engine) == (of, trainer, engine)


@pytest.mark.parametrize("precision", BOUNDS)
def test_log_probabilities_may_differ_by_as_much_as_the_arithmetic_does(precision: Precision) -> None:
    bound = BOUNDS[precision]
    near, far = ({"logprobs": (-1.0, -1.0 - by), "precision": precision} for by in (0.9 * bound, 1.1 * bound))
    trainer = seen(logprobs=(-1.0, -1.0))
    assert compare([trainer], [seen(**near)]).equal
    assert not compare([trainer], [seen(**far)]).equal


def test_a_model_that_the_trainer_cannot_run_is_compared_by_what_it_is_shown() -> None:
    quantised = compare([seen(logprobs=None, precision=None)], [seen()])
    assert quantised.equal
    assert quantised.max_logprob_difference is None


@pytest.mark.parametrize("engine", [[], [seen(question="q2")], [seen(), seen()]])
def test_other_questions_are_no_comparison(engine: list[Seen]) -> None:
    with pytest.raises(ValueError, match="not the same"):
        compare([seen()], engine)


def test_none_at_all_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="none at all"):
        compare([], [])


tokens = st.lists(st.integers(0, 3), max_size=12)


@given(tokens, tokens)
def test_the_first_place_apart_is_the_first_and_is_apart(one: list[int], two: list[int]) -> None:
    place = first_apart(one, two)
    if place is None:
        assert one == two
    else:
        assert one[:place] == two[:place]
        assert one[place : place + 1] != two[place : place + 1]


@given(st.lists(st.sampled_from("ab"), max_size=40), st.integers(0, 40))
def test_the_words_around_a_place_name_it_once(pieces: list[str], place: int) -> None:
    shown = around(pieces, place)
    here = pieces[place] if place < len(pieces) else "the end"
    assert shown.count(f"⟦{here}⟧") == 1


@settings(deadline=None)
@given(st.data())
def test_no_planted_fault_is_missed(data: st.DataObject) -> None:
    """Whatever field of whichever question is changed, that question is named, and no other."""
    views = [seen(question=f"q{number}") for number in range(4)]
    place = data.draw(st.integers(0, 3))
    changed = data.draw(
        st.sampled_from(
            [
                {"token_ids": (7, *range(1, len(PIECES)))},
                {"grid": (1, 6, 4)},
                {"timestamps": (0.2500001,)},
                {"pixels": "c" * 64},
                {"logprobs": (-0.5, -0.9)},
            ]
        )
    )
    faulty = [*views[:place], seen(question=f"q{place}", **changed), *views[place + 1 :]]
    assert {one.question for one in compare(views, faulty).differences} == {f"q{place}"}
    assert {one.question for one in compare(faulty, views).differences} == {f"q{place}"}
