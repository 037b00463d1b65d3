"""The sandbox's questions: exact, unambiguous, and not to be guessed without the clip."""

import unicodedata
from collections import Counter, defaultdict

import pytest

from services.sandbox import words
from services.sandbox.clips import _choose
from services.sandbox.questions import SceneQuestion, answer, questions, truth
from services.sandbox.scene import Scene, recording


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene for index in range(100) for scene in recording(21, "train", index, 3)]


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> list[SceneQuestion]:
    return [question for _, question in _choose(scenes, 2, words.LANGUAGES, 0.3)]


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_option_phrases_and_templates_belong_to_one_key_each(language: words.Language) -> None:
    phrases = [by_language[language] for by_language in words.OPTIONS.values()]
    assert len(phrases) == len(set(phrases)) <= 40
    for kind, by_language in words.TEMPLATES.items():
        assert all(words.kind_of(text) == kind for text in by_language[language])
    for pool in words.POOLS.values():
        assert all(words.key_of(words.phrase(key, language), pool) == key for key in pool)


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_the_right_choice_is_the_only_right_one(scenes: list[Scene], language: words.Language) -> None:
    for scene in scenes:
        for question in questions(scene, language):
            assert len(set(question.choices)) == len(question.choices) >= 2
            assert question.choices[question.answer] == words.phrase(question.key, language)
            assert truth(scene, question.text, question.choices) == question.answer


def test_both_languages_ask_the_same(scenes: list[Scene]) -> None:
    for scene in scenes:
        english, vietnamese = questions(scene, "en"), questions(scene, "vi")
        assert [(q.kind, q.key, q.answer) for q in english] == [(q.kind, q.key, q.answer) for q in vietnamese]


def test_truth_follows_the_choices_wherever_they_are_moved(scenes: list[Scene]) -> None:
    for question in questions(scenes[0], "vi"):
        moved = [unicodedata.normalize("NFD", choice) for choice in reversed(question.choices)]
        assert truth(scenes[0], f" {question.text.upper()}", moved) == len(moved) - 1 - question.answer


def test_truth_knows_nothing_of_other_questions(scenes: list[Scene]) -> None:
    assert truth(scenes[0], "Is it raining?", ["yes", "no"]) is None
    assert truth(scenes[0], words.TEMPLATES["cars"]["en"][0], ["many", "few"]) is None
    every = list(words.POOLS["cars"])
    assert truth(scenes[0], words.TEMPLATES["cars"]["en"][0], every + every) is None


def test_at_a_light_that_ends_green_one_may_go_only_with_a_free_road(scenes: list[Scene]) -> None:
    for scene in scenes:
        if answer(scene, "may_go") == "yes":
            assert scene.light is not None
            assert scene.light.end == "green"
            assert not any(person.in_view(scene.seconds) for person in scene.people)
        if scene.light is not None and scene.light.end == "red":
            assert answer(scene, "may_go") in ("no", None)


def test_every_category_is_asked_in_both_languages(asked: list[SceneQuestion]) -> None:
    by_category = Counter(question.category for question in asked)
    assert set(by_category) == set(words.CATEGORIES)
    assert min(by_category.values()) >= len(asked) / len(words.CATEGORIES) / 2
    assert Counter(question.language for question in asked)["vi"] / len(asked) == pytest.approx(0.3, abs=0.06)


def test_no_answer_of_a_kind_is_much_more_common_than_the_others(asked: list[SceneQuestion]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in asked:
        answers[question.kind][question.key] += 1
    for kind, counts in answers.items():
        assert max(counts.values()) / counts.total() <= 1 / len(words.POOLS[kind]) + 0.12, kind


def test_no_letter_beats_chance_by_much(asked: list[SceneQuestion]) -> None:
    chance = sum(1 / len(question.choices) for question in asked) / len(asked)
    letters = Counter(question.answer for question in asked)
    assert max(letters.values()) / len(asked) <= chance + 0.06
