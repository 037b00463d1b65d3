"""By what questions are told apart where they are counted or scored."""

from collections.abc import Callable

from shared.schema import Origin, Question


def origin(of: Origin) -> str:
    """Who answered, and whether the row was made from another: `human`, `teacher gemini-2.5-pro, augmented`."""
    who = " ".join(filter(None, [of.answer, of.teacher]))
    return f"{who}, augmented" if of.parent is not None else who


#: Name → the group that a question falls into.
GROUPS: dict[str, Callable[[Question], str]] = {
    "category": lambda question: question.category,
    "language": lambda question: question.language,
    "choices": lambda question: str(len(question.offered)),
    "origin": lambda question: origin(question.origin),
}
