"""What is taken for an answer, what it is called otherwise, and how often the same is asked."""

from collections import Counter
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from shared.contracts import TeacherRecipe
from shared.teachers import Patience, Reply, Request, TeacherError, Usage
from shared.teachers.answers import read
from shared.teachers.language import spoken
from shared.teachers.tries import Tries

ENGLISH = "The light ahead is red, and the car in front of us has stopped before the line."
CHINESE = "前方的红灯亮着, 所以我们前面的汽车已经停在停止线之前, 等待行人通过马路, 之后再继续向前行驶, 这是交通规则。"
VIETNAMESE = "Đèn phía trước đang đỏ, và chiếc xe trước mặt đã dừng lại trước vạch kẻ đường."


class Answer(BaseModel):
    reasoning: str
    answer: int = Field(ge=1, le=3)
    verdict: Literal["yes", "no"] = "yes"


def answer(text: str, language: str | None = None, *, cut: bool = False) -> Reply:
    request = Request(teacher=TeacherRecipe(), prompt_id="p", prompt="?", answer=Answer, language=language)
    return read(text, request, Usage(3, 2, 1), "m", cut=cut)


def test_an_answer_is_what_the_schema_has_and_nothing_else() -> None:
    reply = answer('{"reasoning": "r", "answer": 2, "tool_call": "rm -rf /", "reason": "x"}')
    assert reply.data == {"reasoning": "r", "answer": 2, "verdict": "yes"}


@pytest.mark.parametrize(
    ("text", "cut", "kind"),
    [
        ("", False, "empty"),
        ("", True, "cut off"),
        ('{"reasoning": "r", "ans', False, "malformed"),
        ('{"reasoning": "r", "ans', True, "cut off"),
        ("HACKED", False, "malformed"),
        ('{"reasoning": "r"}', False, "malformed"),
        ('{"reasoning": "r", "answer": "2"}', False, "malformed"),
        ('{"reasoning": "r", "answer": true}', False, "malformed"),
        ('{"reasoning": "r", "answer": 4}', False, "outside"),
        ('{"reasoning": "r", "answer": 0}', False, "outside"),
        ('{"reasoning": "r", "answer": 1, "verdict": "maybe"}', False, "outside"),
        (f'{{"reasoning": "{ENGLISH}", "answer": 1}}', False, "wrong language"),
    ],
)
def test_what_is_no_answer_has_a_kind_and_its_cost(text: str, cut: bool, kind: str) -> None:
    with pytest.raises(TeacherError) as caught:
        answer(text, "vi", cut=cut)
    assert (caught.value.kind, caught.value.usage) == (kind, Usage(3, 2, 1))


def test_a_line_break_inside_a_string_is_read_as_it_was_meant() -> None:
    assert answer('{"reasoning": "one\ntwo\t", "answer": 2}').data["reasoning"] == "one\ntwo\t"


def test_a_whole_answer_at_the_limit_is_an_answer() -> None:
    assert answer('{"reasoning": "r", "answer": 3}', cut=True).data["answer"] == 3


@pytest.mark.parametrize(
    ("text", "language", "fits"),
    [
        (ENGLISH, "en", True),
        (ENGLISH, "vi", False),
        (VIETNAMESE, "vi", True),
        (VIETNAMESE, "en", False),
        (ENGLISH + " The sign says Cấm rẽ trái.", "en", True),
        (CHINESE, "en", False),
        (CHINESE, "vi", False),
        ("đỏ", "en", True),
        (ENGLISH, "de", True),
        (ENGLISH, None, True),
    ],
)  # fmt: skip
def test_the_language_of_the_reasoning_is_told_by_its_letters(text: str, language: str | None, fits: bool) -> None:
    assert spoken({"inconsistencies": [text], "answer": 1, "verdict": "inconsistent"}, language) is fits


def failures(*kinds: str) -> tuple[Tries, Counter[str], object]:
    """Fail in these ways until there is no other try; the last outcome."""
    troubles: Counter[str] = Counter()
    tries, outcome = Tries(Patience(tries=6), troubles), None
    for kind in kinds:
        error = TeacherError(kind, "?")  # type: ignore[arg-type]
        error.usage = Usage(1, 1, 1)
        error.reply = Reply({}, error.usage, "m") if kind == "wrong language" else None
        try:
            outcome = tries.failed(error)
        except TeacherError as last:
            return tries, troubles, last
    return tries, troubles, outcome


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        ("server", 6), ("timeout", 6), ("malformed", 3), ("empty", 3), ("outside", 3), ("cut off", 3), ("stuck", 2),
        ("lost", 3), ("blocked", 1), ("rejected", 1),
    ],
)  # fmt: skip
def test_each_kind_is_tried_again_as_often_as_may_help(kind: str, tries: int) -> None:
    _, troubles, last = failures(*[kind] * 10)
    assert isinstance(last, TeacherError)
    assert troubles == {kind: tries}
    assert last.usage == Usage(tries, tries, tries)


def test_what_is_cut_off_gets_more_room_and_a_fresh_sample() -> None:
    tries, _, outcome = failures("cut off", "server", "cut off")
    assert (outcome, tries.room, tries.sample) == (None, 4, 2)


def test_an_answer_in_another_language_is_asked_again_once_and_then_taken() -> None:
    _, troubles, outcome = failures("wrong language", "wrong language")
    assert isinstance(outcome, Reply)
    assert outcome.usage == Usage(2, 2, 2)
    assert troubles == {"wrong language": 2}


def test_the_recipe_says_what_fits_together() -> None:
    with pytest.raises(ValueError, match="video: frames is for provider openai"):
        TeacherRecipe(video="frames")
    with pytest.raises(ValueError, match="thinking_budget is for provider gemini"):
        TeacherRecipe(provider="openai", model="m", thinking_budget=0)
    for own in ({"media_resolution": "low"}, {"fps": 1}):
        with pytest.raises(ValueError, match="with provider openai need video: frames"):
            TeacherRecipe.model_validate({"provider": "openai", "model": "m", **own})
    assert TeacherRecipe(provider="openai", model="m", video="frames", media_resolution="low").model == "m"
