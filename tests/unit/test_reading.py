"""The reader that judges variations by rules tells a lost meaning from a kept one, and says what it cannot read."""

import pytest

from benchmarks.parts.reading import key_of, kind_of, right, unread
from services.sandbox import scene as scenes
from services.sandbox import words
from services.sandbox.questions import questions


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("At the beginning, what color is the light?", "light_start"),
        ("Watch the video. What colour is the light at the end?", "light_end"),
        ("In this video, in which direction does the car go?", "car_way"),
        ("Hãy cho biết: Đèn tín hiệu màu gì lúc cuối?", "light_end"),
        ("Trong video, bạn thấy đèn đổi màu thế nào?", "light_order"),
        ("What colour is the light in the middle?", None),
        ("In the video, what colour is not the light at the start?", None),
    ],
)
def test_what_means_the_same_is_read_and_what_does_not_is_not(text: str, kind: str | None) -> None:
    assert kind_of(text) == kind


def test_every_question_of_the_sandbox_is_read() -> None:
    for kind, by_language in words.TEMPLATES.items():
        assert {kind_of(text) for texts in by_language.values() for text in texts} == {kind}


def test_a_lost_meaning_is_wrong() -> None:
    scene = next(
        s for s in scenes.recording(3, "reading", 1, 6) if any(q.kind == "person_way" for q in questions(s, "en"))
    )
    asked = next(q for q in questions(scene, "en") if q.kind == "person_way")
    assert (
        right(scene, f"Look at the road. {asked.text}", [f"to the {choice}" for choice in asked.choices])
        == asked.answer
    )
    turned = [f"to the {choice}" for choice in asked.choices[::-1]]
    assert right(scene, asked.text, turned) == 1 - asked.answer
    assert right(scene, asked.text, ["to the left", "to the left"]) is None
    assert unread(asked.text, ["to the left", "backwards"])
    assert key_of("It stops", words.MOVES) == "stops"
