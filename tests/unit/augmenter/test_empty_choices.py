"""A choice that is empty stays empty, and does not keep its question from being varied."""

import pytest

from shared.contracts import AugmentRecipe
from shared.schema import Choice, Origin, Question
from workers.augmenter.by_rules import variations
from workers.augmenter.keep import objection


def question(*texts: str, text: str = "What does the traffic sign show?") -> Question:
    choices = tuple(Choice(label="ABCD"[place], text=said) for place, said in enumerate(texts))
    return Question(id="q", clip="0" * 64, text=text, choices=choices, answer=0, origin=Origin(answer="human"))


def test_a_question_with_an_empty_choice_is_varied_and_the_choice_stays_empty_in_its_place() -> None:
    kept, _ = variations(question("No entry", "", "Stop", "Give way"), AugmentRecipe(per_question=3))
    assert kept
    assert all(child.choices[1].text == "" and child.choices[child.answer or 0].text for child in kept)


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (("Left", "", "Right"), None),
        (("Left", "Up", "Right"), "empty choice filled"),
        (("", "", "Right"), "nothing left"),
    ],
)
def test_the_gate_lets_empty_choices_stay_and_nothing_else(after: tuple[str, ...], what: str | None) -> None:
    found = objection(question("Left", "", "Right"), question(*after, text="Look at the traffic sign: what is on it?"))
    assert found is None if what is None else found is not None and what in found
