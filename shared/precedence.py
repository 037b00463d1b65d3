"""Which of two answers to one question stands: a person's outranks a teacher's, whatever the order of the data.

The steps that see several datasets at once ask this: training and calibration. Labelling and augmenting work on
one part at a time and could not know; so a variation of a question that a person has answered is outranked here,
where it was made from a teacher's answer.
"""

from collections.abc import Iterable

from shared.schema import Question

Same = tuple[str, str, tuple[str, ...]]


def same(question: Question) -> Same:
    """What makes two rows the same question, whatever their ids and the order of their choices."""
    return question.clip, question.text, tuple(sorted(choice.text for choice in question.choices))


class People:
    """The questions among `rows` that people have answered."""

    def __init__(self, rows: Iterable[Question]) -> None:
        answered = [row for row in rows if row.answer is not None and row.origin.answer == "human"]
        self._questions = {same(row) for row in answered}
        self._ids = {(row.clip, row.id) for row in answered}

    def outrank(self, row: Question) -> bool:
        """Whether `row` is a teacher's answer to one of them, or was made from such an answer."""
        if row.origin.answer != "teacher":
            return False
        return same(row) in self._questions or (row.clip, row.origin.parent) in self._ids
