"""A person's answer outranks a teacher's, in whatever order they come."""

from shared.precedence import People, same
from shared.schema import Choice, Origin, Question

HUMAN = Origin(answer="human", test_derived=True)
TAUGHT = Origin(answer="teacher", teacher="t", test_derived=True)


def question(id_: str, origin: Origin, answer: int | None = 0, texts: str = "ab", text: str = "?") -> Question:
    choices = tuple(Choice(label=str(place), text=choice) for place, choice in enumerate(texts))
    return Question(id=id_, clip="c" * 64, text=text, choices=choices, answer=answer, origin=origin)


def test_the_same_question_is_known_by_its_clip_its_text_and_its_choices() -> None:
    assert same(question("a", HUMAN)) == same(question("b", TAUGHT, 1, "ba"))
    assert same(question("a", HUMAN)) != same(question("a", HUMAN, texts="ac"))
    assert same(question("a", HUMAN)) != same(question("a", HUMAN, text="!"))


def test_a_teachers_answer_falls_where_a_person_has_answered_and_only_there() -> None:
    taught, other = question("a", TAUGHT), question("b", TAUGHT, text="another?")
    for rows in ([question("x", HUMAN, 1), taught, other], [taught, other, question("x", HUMAN, 1)]):
        people = People(rows)
        assert [people.outrank(row) for row in rows] == [row is taught for row in rows]


def test_what_was_made_of_a_teachers_answer_falls_with_it() -> None:
    human = question("a", HUMAN, 1)
    of_teacher = question("a~a1", TAUGHT.model_copy(update={"parent": "a"}), text="asked otherwise?")
    of_human = question("a~a2", HUMAN.model_copy(update={"parent": "a"}), text="asked again?")
    people = People([human, of_teacher, of_human])
    assert people.outrank(of_teacher)
    assert not people.outrank(of_human)


def test_a_persons_question_without_an_answer_outranks_nothing() -> None:
    assert not People([question("a", HUMAN, None)]).outrank(question("a", TAUGHT))
