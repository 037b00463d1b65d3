"""The sandbox's paraphrases mean what they stand for, and its slips do not."""

import random

import pytest

from services.sandbox import paraphrases, scene, words
from services.sandbox.paraphrases import compare, meaning, rewrite, right
from services.sandbox.questions import questions

DRAWN = [s for number in range(1, 6) for s in scene.recording(3, "train", number, 3)]
ASKED = [(s, q) for s in DRAWN for language in words.LANGUAGES for q in questions(s, language)]
WANTED = [{"question"}, {"question", "situation"}, {"choices"}]


def said(text: str, choices: tuple[str, ...], new: dict[str, object]) -> tuple[str, tuple[str, ...]]:
    whole = " ".join(str(new[name]) for name in ("situation", "question") if name in new) or text
    given = new.get("choices", choices)
    assert isinstance(given, list | tuple)
    return whole, tuple(given)


def test_every_kind_and_option_has_other_words_that_belong_to_it_alone() -> None:
    assert paraphrases.QUESTIONS.keys() == words.TEMPLATES.keys()
    assert paraphrases.OPTIONS.keys() == words.OPTIONS.keys()
    asked = [text for said in paraphrases.QUESTIONS.values() for texts in said.values() for text in texts]
    assert len(set(asked)) == len(asked)
    assert all(words.kind_of(text) is None for text in asked)
    for kind, pool in words.POOLS.items():
        phrases = [paraphrases.OPTIONS[key][language] for key in pool for language in words.LANGUAGES]
        assert len(set(phrases)) == len(phrases), kind


@pytest.mark.parametrize("wanted", WANTED, ids=["question", "scenario", "choices"])
def test_without_slips_the_right_choice_stays_right(wanted: set[str]) -> None:
    for number, (drawn, question) in enumerate(ASKED):
        new = rewrite(question.text, question.choices, wanted, 0.0, random.Random(number))
        text, choices = said(question.text, question.choices, new)
        assert (text, choices) != (question.text, question.choices)
        assert right(drawn, text, choices) == question.answer
        assert meaning(text, choices) == meaning(question.text, question.choices)


@pytest.mark.parametrize("wanted", WANTED, ids=["question", "scenario", "choices"])
def test_a_slip_changes_the_meaning(wanted: set[str]) -> None:
    for number, (_, question) in enumerate(ASKED):
        new = rewrite(question.text, question.choices, wanted, 1.0, random.Random(number))
        assert meaning(*said(question.text, question.choices, new)) != meaning(question.text, question.choices)


def test_the_comparison_follows_the_answer_and_errs_only_as_often_as_it_should() -> None:
    for number, (_, question) in enumerate(ASKED):
        draw = random.Random(number)
        new = rewrite(question.text, question.choices, {"choices"}, 0.0, draw)
        text, choices = said(question.text, question.choices, new)
        order = draw.sample(range(len(choices)), len(choices))
        turned = tuple(choices[index] for index in order)
        found = compare((question.text, question.choices), (text, turned), question.answer, 0.0, draw)
        assert found["same"]
        assert found["answer"] == order.index(question.answer) + 1
        assert not compare((question.text, question.choices), (text, turned), question.answer, 1.0, draw)["same"]
