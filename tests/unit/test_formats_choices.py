"""Choices and answers are understood in all the ways they are written, and never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.formats.choices import find_answer, parse_choices
from shared.formats.common import tidy

words = st.text("abc đêộ,\"'”().-012", min_size=1, max_size=12).map(tidy).filter(lambda text: text.strip("\"'”().,- "))
rows = st.lists(words, min_size=2, max_size=8, unique=True)
separators = st.sampled_from([". ", ".", ".  ", ") ", ": ", ".\u00a0"])


def labels(choices: list[str]) -> list[tuple[str, str]]:
    return [(choice.label, choice.text) for choice in parse_choices(choices)]


@given(rows, separators)
def test_prefixes_come_off_and_the_whole_choice_answers(texts: list[str], separator: str) -> None:
    written = [f"{'ABCDEFGH'[i]}{separator}{text}" for i, text in enumerate(texts)]
    choices = parse_choices(written)
    assert [(c.label, c.text) for c in choices] == [("ABCDEFGH"[i], text) for i, text in enumerate(texts)]
    for i in range(len(texts)):
        assert find_answer(written[i], choices) == i


@given(rows, separators, words)
def test_an_answer_is_one_of_the_choices_or_refused(texts: list[str], separator: str, answer: str) -> None:
    choices = parse_choices([f"{'ABCDEFGH'[i]}{separator}{text}" for i, text in enumerate(texts)])
    try:
        found = find_answer(answer, choices)
    except ValueError:
        assert answer not in texts or len(answer) == 1
    else:
        assert answer == texts[found] or answer not in texts


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["A. Có", "B. Không"], [("A", "Có"), ("B", "Không")]),
        (["A. Đi thẳng", "D.Cấm rẽ trái"], [("A", "Đi thẳng"), ("D", "Cấm rẽ trái")]),
        (["a)  Yes", "b)\tNo"], [("A", "Yes"), ("B", "No")]),
        (["A. x", "B. y", "B. z", "B. w"], [("A", "x"), ("B", "y"), ("B", "z"), ("B", "w")]),
        (["Yes", "No"], [("A", "Yes"), ("B", "No")]),
        (["A.I. decides", "A driver", "No one", "Both"], [
            ("A", "A.I. decides"), ("B", "A driver"), ("C", "No one"), ("D", "Both"),
        ]),
        (["A. Co\u0301", "B. “stray”"], [("A", "C\u00f3"), ("B", "“stray”")]),
        (["A. ", "B. y"], [("A", ""), ("B", "y")]),
        (["A. ", "B."], [("A", "A."), ("B", "B.")]),
        (["a.m.", "p.m."], [("A", "a.m."), ("B", "p.m.")]),
        (["p.m.", "a.m.", "Noon"], [("A", "p.m."), ("B", "a.m."), ("C", "Noon")]),
        (["A. a.m.", "B. p.m."], [("A", "a.m."), ("B", "p.m.")]),
        (["A. Có", "B. Có"], [("A", "Có"), ("B", "Có")]),
        (["A.Có", "B.Có"], [("A", "Có"), ("B", "Có")]),
    ],
)  # fmt: skip
def test_choices_as_they_are_written(written: list[str], expected: list[tuple[str, str]]) -> None:
    assert labels(written) == expected


@pytest.mark.parametrize(
    ("answer", "written", "expected"),
    [
        ("B. Sai", ["A. Đúng", "B. Sai"], 1),
        ("B.Sai", ["A. Đúng", "B.  Sai"], 1),
        ("Sai", ["A. Đúng", "B. Sai"], 1),
        ("b", ["A. Đúng", "B. Sai"], 1),
        ("(B)", ["A. Đúng", "B. Sai"], 1),
        ("B. Sai”", ["A. Đúng", "B. Sai"], 1),
        ("b. SAI.", ["A. Đúng", "B. Sai"], 1),
        ("B. z", ["A. x", "B. y", "B. z", "B. w"], 2),
        ("A. same", ["A. same", "B. same", "C. other"], 0),
        ("A. same", ["A. same", "A. same"], 0),
        ("3", ["A. 2", "B. 3", "C. 4", "D. 5"], 1),
        ("p.m.", ["a.m.", "p.m."], 1),
        ("B", ["A.", "B."], 1),
    ],
)
def test_answers_as_they_are_written(answer: str, written: list[str], expected: int) -> None:
    assert find_answer(answer, parse_choices(written)) == expected


@pytest.mark.parametrize(
    ("answer", "written", "reason"),
    [
        ("B", ["A. x", "B. y", "B. z"], "fits 2 choices"),
        ("same", ["A. same", "B. same"], "fits 2 choices"),
        ("C. Khác", ["A. Đúng", "B. Sai"], "none of the 2"),
        ("A", ["A. B", "B. A"], "fits 2 choices"),
        ("E", ["A. Đúng", "B. Sai"], "none of the 2"),
        (1, ["A. Đúng", "B. Sai"], "counts from 0 or 1"),
        ("", ["A. Đúng", "B. Sai"], "none of the 2"),
    ],
)
def test_doubtful_answers_are_refused(answer: str | int, written: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_answer(answer, parse_choices(written))


@pytest.mark.parametrize(("base", "expected"), [(0, 1), (1, 0)])
def test_numbers_count_from_where_the_file_shows(base: int, expected: int) -> None:
    assert find_answer(1, parse_choices(["A. Đúng", "B. Sai"]), base) == expected
