"""What a method makes: variations of questions, and those that a gate turned away."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from shared.contracts import AugmentRecipe
from shared.schema import Question, Rejected
from workers.augmenter.keep import objection, plain


class Made(NamedTuple):
    """What a method made, in the order of its questions. Variations have their choices in the parent's order."""

    kept: list[Question]
    rejected: list[Rejected]
    facts: dict[str, Any]


def child(parent: Question, number: int, text: str, choices: Sequence[str], rule: str) -> Question:
    """The variation called `number` of a question, which its answer follows."""
    said = zip(parent.choices, choices, strict=True)
    return parent.model_copy(
        update={
            "id": f"{parent.id}~a{number}",
            "text": text,
            "choices": tuple(choice.model_copy(update={"text": words}) for choice, words in said),
            "origin": parent.origin.model_copy(update={"parent": parent.id, "rule": rule}),
        }
    )


def why_not(parent: Question, variation: Question, kept: Sequence[Question], recipe: AugmentRecipe) -> str | None:
    """The gate that turns `variation` away, beside those of its parent that were kept; None if it may stand."""
    return objection(parent, variation, kept) if recipe.gates else None


def rejected(variation: Question, gate: str) -> Rejected:
    return Rejected(
        parent=variation.origin.parent or "", rule=variation.origin.rule or "", gate=gate, text=variation.text,
        choices=tuple(choice.text for choice in variation.choices),
    )  # fmt: skip


def words(question: Question) -> tuple[str, ...]:
    """What tells two variations apart: another order alone does not (the trainer draws orders itself)."""
    return (plain(question.text), *sorted(plain(choice.text) for choice in question.choices))
