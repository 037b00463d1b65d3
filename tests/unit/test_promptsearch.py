"""The library of system prompts, the ladder that finds the best of them, and what it writes into a pipeline file."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.promptsearch import UNSEEN, judge, slices, with_prompt
from shared import prompts
from shared.contracts import PredictRecipe
from shared.errors import UsageError

FILE = """# ours
name: p   # short
video: {fps: 2}
system_prompt: expert  # found by hand
data: {test: t}
models: {base: b}
report:
  test: test
  rows:
    baseline: {model: base, system_prompt: none}
"""


def test_every_prompt_says_what_it_is_for_and_asks_for_one_choice() -> None:
    for name, prompt in prompts.library().items():
        assert prompt.about.endswith("."), name
        text = prompts.system_text(name) or ""
        assert text, name
        assert not set("{}\n") & set(text), name
        assert PredictRecipe(system_prompt=name).system_prompt == name


def test_a_prompt_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no system prompt is called 'exprt'; there are: none, concise"):
        PredictRecipe(system_prompt="exprt")


@given(st.integers(2, 40), st.floats(0.05, 0.95))
def test_each_rung_doubles_the_recordings_and_the_unseen_stay_unseen(candidates: int, development: float) -> None:
    shares = slices(candidates, development)
    assert math.isclose(shares.pop(UNSEEN), 1 - development)
    sizes = list(shares.values())
    assert math.isclose(sum(sizes), development)
    assert len(sizes) == math.ceil(math.log2(candidates))
    sums = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    assert all(math.isclose(after, 2 * before) for before, after in pairwise(sums))


def answers(share: float, seed: int, n: int = 200) -> list[int]:
    return [int(random.Random(f"{seed}/{number}").random() < share) for number in range(n)]


RECORDINGS = [str(number // 4) for number in range(200)]


def test_the_better_half_goes_on_and_the_present_prompt_always() -> None:
    right = {
        "now": answers(0.3, 0),
        "a": answers(0.62, 1),
        "b": answers(0.6, 2),
        "c": answers(0.35, 3),
        "d": answers(0.3, 4),
    }
    standings = {one.prompt: one for one in judge(right, RECORDINGS, "now", last=False)}
    assert {name for name, one in standings.items() if one.goes_on} == {"now", "a", "b"}
    best = max(right, key=lambda name: sum(right[name]))
    assert standings[best].p is None
    assert all(0 <= one.ci95[0] <= one.accuracy <= one.ci95[1] <= 1 for one in standings.values())


def test_what_the_paired_test_shows_to_be_worse_goes_though_it_is_of_the_better_half() -> None:
    right = {"now": answers(0.9, 0), "a": answers(0.5, 1), "b": answers(0.2, 2)}
    assert {one.prompt: one.goes_on for one in judge(right, RECORDINGS, "now", last=False)} == {
        "now": True, "a": False, "b": False,
    }  # fmt: skip


def test_equals_leave_the_present_prompt_first() -> None:
    right = {"a": answers(0.5, 0), "now": answers(0.5, 0)}
    assert judge(right, RECORDINGS, "now", last=True)[0].prompt == "now"


def test_the_winner_is_written_and_all_else_stays_as_it_was() -> None:
    changed = with_prompt(FILE, "motion", "p.yaml")
    assert changed == FILE.replace("system_prompt: expert  #", "system_prompt: motion  #")


def test_a_file_without_a_prompt_gets_one() -> None:
    without = FILE.replace("system_prompt: expert  # found by hand\n", "")
    assert with_prompt(without, "motion", "p.yaml") == without.replace("name: p", "system_prompt: motion\nname: p")


@pytest.mark.parametrize(
    "odd",
    [
        "{name: p, data: {t: t}, models: {b: b}, system_prompt: short}\n",
        "--- \nsystem_prompt:\n  short\nname: p\ndata: {t: t}\nmodels: {b: b}\n",
    ],
)
def test_a_layout_that_is_not_understood_is_left_alone_and_the_line_is_told(odd: str) -> None:
    with pytest.raises(UsageError, match="put `system_prompt: motion` into it by hand"):
        with_prompt(odd, "motion", "p.yaml")
