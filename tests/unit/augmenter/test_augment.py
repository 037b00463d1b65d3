"""Augmented questions mean what their parents mean."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox import words
from shared.context import LocalContext
from shared.contracts import AugmentRecipe
from shared.schema import Choice, Clip, Origin, Question, Rows, write_rows
from workers.augmenter.augment import augment, placed
from workers.augmenter.by_rules import variations
from workers.augmenter.keep import likeness, objection, plain, weight

ORIGIN = Origin(answer="human", test_derived=True)
REAL = Path(__file__).parents[4] / "shared" / "data" / "real"


def ask(text: str, *choices: str, answer: int | None = 0, language: str = "en", name: str = "q") -> Question:
    options = tuple(Choice(label="ABCDEFGH"[place], text=choice) for place, choice in enumerate(choices))
    return Question(id=name, clip="0" * 64, text=text, choices=options, answer=answer, language=language, origin=ORIGIN)


def vary(question: Question, wanted: int = 4, seed: int = 0) -> list[Question]:
    return variations(question, AugmentRecipe(per_question=wanted, seed=seed))[0]


def sandbox_questions() -> list[Question]:
    return [
        ask(text, *(words.phrase(key, language) for key in words.POOLS[kind][:4]), language=language, name=f"{kind}{n}")
        for kind, texts in words.TEMPLATES.items()
        for language in words.LANGUAGES
        for n, text in enumerate(texts[language])
    ]


@pytest.mark.parametrize("question", sandbox_questions(), ids=lambda question: question.text)
def test_numbers_colours_directions_and_negations_survive(question: Question) -> None:
    made = vary(question)
    assert made, "no rule applies"
    for child in made:
        assert weight(child.text) == weight(question.text)
        right, before = child.choices[child.answer or 0].text, question.choices[question.answer or 0].text
        assert weight(right) == weight(before)
        assert Counter(map(str, (weight(c.text) for c in child.choices))) == Counter(
            map(str, (weight(c.text) for c in question.choices))
        )


@pytest.mark.parametrize("question", sandbox_questions(), ids=lambda question: question.text)
def test_variations_differ_from_the_parent_and_from_each_other(question: Question) -> None:
    made = [question, *vary(question)]
    assert len({(plain(q.text), *sorted(plain(c.text) for c in q.choices)) for q in made}) == len(made)


def test_a_variation_names_its_parent_and_its_rule_and_keeps_where_it_came_from() -> None:
    child = vary(ask("What colour is the car?", "red", "blue", name="p"))[0]
    assert child.id == "p~a1"
    assert child.origin.parent == "p"
    assert child.origin.rule
    assert child.origin.answer == "human"
    assert child.origin.test_derived


def test_the_same_seed_gives_the_same_variations() -> None:
    question = ask("What colour is the light at the end?", "red", "yellow", "green")
    assert vary(question, seed=3) == vary(question, seed=3)
    assert vary(question, seed=3) != vary(question, seed=4)


def test_choices_that_speak_of_others_keep_their_place() -> None:
    above = ask("What is on the road?", "A car", "A lorry", "A bus", "All of the above", answer=3)
    assert all(child.choices[3].text == "All of the above" and child.answer == 3 for child in vary(above))
    letters = ask("Xe nào phải nhường đường?", "Xe đỏ", "Xe vàng", "Cả A và B", answer=2, language="vi")
    assert all([c.text for c in child.choices] == ["Xe đỏ", "Xe vàng", "Cả A và B"] for child in vary(letters))


def test_a_wording_that_would_make_two_choices_equal_is_rejected() -> None:
    question = ask("Where is the car?", "In a car park", "In a parking lot")
    assert all(len({plain(c.text) for c in child.choices}) == 2 for child in vary(question, 8))


def test_yes_and_no_are_left_alone_where_the_question_is_negative() -> None:
    question = ask("Is there no car on the road?", "Yes", "No")
    assert all({c.text for c in child.choices} == {"Yes", "No"} for child in vary(question, 8))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("How many cars turn left?", "How many cars turn right?"),
        ("Which car is red?", "Which car is green?"),
        ("Is the limit 50 km/h?", "Is the limit 60 km/h?"),
        ("Is the limit 50 km/h?", "Is the limit 50 mph?"),
        ("May we go?", "Can we not go?"),
        ("Who goes first?", "Who goes?"),
        ("Xe nào được rẽ trái?", "Xe nào được rẽ phải?"),
        ("Đèn xanh hay đỏ?", "Đèn vàng hay đỏ?"),
    ],
)
def test_a_change_of_meaning_is_noticed(before: str, after: str) -> None:
    parent = ask(before, "yes", "no")
    assert objection(parent, parent.model_copy(update={"text": after})) is not None


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=8), st.text(min_size=1, max_size=60))
def test_any_text_is_survived_and_the_answer_followed(choices: list[str], text: str) -> None:
    question = ask(text, *choices)
    for child in vary(question, 2):
        assert sorted(c.label for c in child.choices) == sorted(c.label for c in question.choices)
        assert weight(child.choices[child.answer or 0].text) == weight(choices[0])


def test_only_answered_originals_are_varied(tmp_path: Path) -> None:
    clip = Clip(
        digest="0" * 64, name="a.mp4", recording="a", size_bytes=1, seconds=1, fps=10, width=32, height=32, codec="h264"
    )  # fmt: skip
    done = ask("What colour is the car?", "red", "blue", name="done")
    rows = [
        done,
        ask("What colour is the car?", "red", "blue", name="open", answer=None),
        done.model_copy(update={"id": "child", "origin": ORIGIN.model_copy(update={"parent": "x"})}),
        ask("Welche Farbe hat das Auto?", "rot", "blau", name="de", language="de"),
    ]
    write_rows(tmp_path / "in", rows, {clip.digest: clip})
    (tmp_path / "out").mkdir()
    facts = augment(
        {"data": [tmp_path / "in"]}, AugmentRecipe(per_question=2), tmp_path / "out", LocalContext(tmp_path / "s")
    )
    assert {"questions", "unanswered", "already_augmented", "no_rules_for_language"} <= facts.keys()
    assert [q.id for q in Rows([tmp_path / "out"]).questions] == ["done~a1", "done~a2"]


@pytest.mark.parametrize(
    ("text", "choices", "gate"),
    [
        ("Watch the video. " + "Please look at it closely. " * 20 + "What colour is the car?", "abc", "far longer"),
        ("What colour is the car?", "abc", "too like"),
        ("what colour is the car", "abc", "too like"),
        ("Tell the car's colour.", "aac", "two choices became equal"),
        ("Tell the car's colour.", "xbc", "right choice stands out"),
        ("Tell the car's colour.", "axy", "right choice stands out"),
        ("Tell the car's colour.", " bc", "nothing left"),
        ("Tell the car's colour.", "ab" + "c" * 200, "choice far longer"),
    ],
)
def test_each_gate_turns_away_what_it_is_for(text: str, choices: str, gate: str) -> None:
    parent = ask("What colour is the car?", "a", "b", "c")
    texts = [choices[0], choices[1], choices[2:]]
    said = [choice.model_copy(update={"text": new}) for choice, new in zip(parent.choices, texts, strict=True)]
    assert gate in (objection(parent, parent.model_copy(update={"text": text, "choices": tuple(said)})) or "nothing")


def test_a_variation_may_not_be_too_like_another(tmp_path: Path) -> None:
    parent = ask("What colour is the car?", "a", "b", "c")
    one = parent.model_copy(update={"text": "Which is the colour that this car has?"})
    other = parent.model_copy(update={"text": "which is the colour, that this car has"})
    assert objection(parent, other) is None
    assert objection(parent, other, [one]) == "too like another"


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_and_whole_only_for_the_same_words(one: str, other: str) -> None:
    first, second = ask(one, "a", "b"), ask(other, "a", "b")
    assert likeness(first, second) == likeness(second, first)
    assert 0 <= likeness(first, second) <= 1 == likeness(first, first)


def test_right_answers_stand_at_all_places_alike() -> None:
    children = [
        child
        for n in range(200)
        for child in vary(ask("What colour is the car?", "red", "blue", "black", "white", name=f"q{n}"), 1)
    ]
    at = Counter(child.answer for child in placed(children, "0"))
    assert sorted(at) == [0, 1, 2, 3]
    assert max(at.values()) - min(at.values()) <= 1
    for before, after in zip(children, placed(children, "0"), strict=True):
        assert before.choices[before.answer or 0].text == after.choices[after.answer or 0].text
        assert [choice.label for choice in after.choices] == ["A", "B", "C", "D"]


def test_without_gates_what_they_would_turn_away_is_kept() -> None:
    question = ask("Where is the car?", "In a car park", "In a parking lot")
    kept, turned_away = variations(question, AugmentRecipe(per_question=4, gates=False))
    assert not turned_away
    assert any(len({plain(choice.text) for choice in child.choices}) == 1 for child in kept)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/real is missing")
def test_real_questions_get_variations() -> None:
    rows = json.loads((REAL / "train" / "train.json").read_text(encoding="utf-8"))["data"]
    questions = [ask(row["question"], *(c.split(".", 1)[1].strip() for c in row["choices"])) for row in rows]
    assert all(vary(question, 1) for question in questions)


@pytest.mark.parametrize(
    ("before", "after"), [("All of the above", "All of the previous ones"), ("Both A and B", "Both A and D")]
)
def test_a_choice_that_speaks_of_others_may_not_come_to_speak_of_something_else(before: str, after: str) -> None:
    parent = ask("What is on the road?", "A car", "A lorry", "A bus", before)
    said = (*parent.choices[:3], parent.choices[3].model_copy(update={"text": after}))
    child = parent.model_copy(update={"text": "Tell what is to be seen on the road.", "choices": said})
    assert objection(parent, child) == "a choice speaks of others otherwise"
