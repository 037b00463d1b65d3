"""Vary the words of answered questions and their choices, never their meaning; the answer follows."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.choices import permutation
from shared.context import Context
from shared.contracts import AugmentRecipe
from shared.schema import Question, Rows, write_jsonl, write_rows
from workers.augmenter.by_rules import by_rules
from workers.augmenter.by_teacher import TeacherFactory, by_teacher
from workers.augmenter.rules import language_of


def augment(
    inputs: dict[str, list[Path]],
    recipe: AugmentRecipe,
    out: Path,
    ctx: Context,
    *,
    teacher_factory: TeacherFactory | None = None,
) -> dict[str, Any]:
    """Write up to `per_question` variations of each answered question that is no variation itself.

    What the gates turned away is written to `rejected.jsonl`.

    Args:
        teacher_factory: makes the teacher of a recipe; by default the one that the settings name.

    Raises:
        Stopped: put down on request; the journal holds what the teacher said.
        LimitReachedError: the run may spend no more; likewise.
        TeacherOutageError: the service failed for too many requests.
        UsageError: no key, or one that is refused; an unknown model.
    """
    rows = Rows(inputs["data"])
    unfit = [_unfit(question, recipe) for question in rows.questions]
    fit = [question for question, reason in zip(rows.questions, unfit, strict=True) if reason is None]
    made = by_teacher(fit, recipe, ctx, teacher_factory) if recipe.method == "teacher" else by_rules(fit, recipe, ctx)
    children = placed(made.kept, str(recipe.seed))
    write_rows(out, children, rows.clips)
    write_jsonl(out / "rejected.jsonl", made.rejected)
    return {
        **Counter(reason or "questions" for reason in unfit),
        "short": recipe.per_question * len(fit) - len(children),
        "written": len(children),
        "rejected": dict(Counter(row.gate for row in made.rejected)),
        "rules": dict(Counter(question.origin.rule for question in children)),
        "answers_at": dict(Counter(str(question.answer) for question in children)),
        **made.facts,
    }


def _unfit(question: Question, recipe: AugmentRecipe) -> str | None:
    if question.answer is None:
        return "unanswered"
    if question.origin.parent is not None:
        return "already_augmented"
    speaks = recipe.method == "teacher" or language_of(question.text, question.language)
    return None if speaks else "no_rules_for_language"


def placed(children: Sequence[Question], seed: str) -> list[Question]:
    """Each variation with its choices in another order, so chosen that right answers stand at all places alike.

    "All of the above" and its like keep their places (`shared/choices.py`).
    """
    taken: dict[int, Counter[int]] = defaultdict(Counter)  # places of right answers, by number of choices
    return [_placed(child, seed, taken[len(child.choices)]) for child in children]


def _placed(child: Question, seed: str, taken: Counter[int]) -> Question:
    assert child.answer is not None
    answer, texts = child.answer, [choice.text for choice in child.choices]
    orders = [permutation(texts, f"{seed}/{child.id}", turn) for turn in range(len(texts))]
    order = min(orders, key=lambda order: taken[order.index(answer)])
    taken[order.index(answer)] += 1
    labels = [choice.label for choice in child.choices]  # letters of the source belong to places, not to texts
    moved = (child.choices[index].model_copy(update={"label": labels[place]}) for place, index in enumerate(order))
    origin = child.origin.model_copy(update={"rule": f"{child.origin.rule}+order"})
    return child.model_copy(update={"choices": tuple(moved), "answer": order.index(answer), "origin": origin})
