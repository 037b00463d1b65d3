"""Vary the words of answered questions and their choices, never their meaning; the answer follows."""

import hashlib
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from shared.choices import permutation
from shared.context import Context
from shared.contracts import AugmentRecipe
from shared.errors import Stopped
from shared.schema import Choice, Question, Rows, write_rows
from workers.augmenter.keep import negates, objection, plain
from workers.augmenter.rules import RULES, Rules, answer_otherwise, language_of, say_otherwise

DRAWS = 12  #: variations drawn for each one wanted before a question is given up
REPORT_EVERY = 100


def augment(inputs: dict[str, list[Path]], recipe: AugmentRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Write up to `per_question` variations of each answered question that is no variation itself.

    Raises:
        Stopped: put down on request; nothing is lost but a few seconds of work.
    """
    rows = Rows(inputs["data"])
    facts: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    made: list[Question] = []
    for done, question in enumerate(rows.questions, 1):
        if ctx.stopping:
            raise Stopped("augmenting was put down")
        why_not = _unfit(question)
        facts[why_not or "questions"] += 1
        if why_not is None:
            fresh = list(islice(variations(question, recipe, rejected), recipe.per_question))
            facts["short"] += recipe.per_question - len(fresh)
            made += fresh
        if done % REPORT_EVERY == 0 or done == len(rows.questions):
            ctx.progress(done, len(rows.questions), "questions", written=len(made))
    write_rows(out, made, rows.clips)
    rules = Counter(question.origin.rule for question in made)
    return {**facts, "written": len(made), "rejected": dict(rejected), "rules": dict(rules)}


def _unfit(question: Question) -> str | None:
    if question.answer is None:
        return "unanswered"
    if question.origin.parent is not None:
        return "already_augmented"
    return None if language_of(question.text, question.language) else "no_rules_for_language"


def variations(question: Question, recipe: AugmentRecipe, rejected: Counter[str]) -> Iterator[Question]:
    """Different variations of an answered question, the same for the same seed; counts those that were `rejected`."""
    language = language_of(question.text, question.language)
    if language is None:
        return
    seen = {_words(question)}
    number = 0
    for draw in range(DRAWS * recipe.per_question):
        dice = random.Random(hashlib.sha256(f"{recipe.seed}/{question.id}/{draw}".encode()).digest())
        child, order = _vary(question, RULES[language], dice, number + 1, f"{recipe.seed}/{question.id}/{draw}")
        if _words(child) in seen:
            continue
        seen.add(_words(child))
        why_not = objection(question, child, order)
        if why_not is not None:
            rejected[why_not] += 1
            continue
        number += 1
        yield child


def _words(question: Question) -> tuple[str, ...]:
    """What tells two variations apart: another order alone does not (the trainer draws orders itself)."""
    return (plain(question.text), *sorted(plain(choice.text) for choice in question.choices))


def _vary(
    question: Question, rules: Rules, dice: random.Random, number: int, seed: str
) -> tuple[Question, tuple[int, ...]]:
    text = unicodedata.normalize("NFC", question.text).strip()
    texts = [unicodedata.normalize("NFC", choice.text) for choice in question.choices]
    used: list[str] = []
    if dice.random() < 0.6:
        text, texts, names = _other_words(text, texts, rules)
        used += names
    # In Vietnamese a closing "không" asks and does not negate.
    if dice.random() < 0.5 and (question.language == "vi" or not negates(text)):
        texts, names = _other_answers(texts, rules)
        used += names
    fitting = {name: framed for name, rule in rules.frames.items() if (framed := rule(text)) is not None}
    if fitting and (not used or dice.random() < 0.7):
        name = dice.choice(sorted(fitting))
        text, used = fitting[name], [*used, name]
    order = permutation(texts, seed)
    return _child(question, number, text, texts, order, "+".join([*used, "order"])), order


def _other_words(text: str, texts: list[str], rules: Rules) -> tuple[str, list[str], list[str]]:
    """Equal words in the question and in every choice alike, so that what matched still matches."""
    other, others = say_otherwise(text, rules.words), [say_otherwise(choice, rules.words) for choice in texts]
    return other, others, ["words"] if (other, others) != (text, texts) else []


def _other_answers(texts: list[str], rules: Rules) -> tuple[list[str], list[str]]:
    """Whole choices said otherwise: all of them or none, lest the odd one out give itself away."""
    others = [answer_otherwise(text, rules.answers) for text in texts]
    whole = [other for other in others if other is not None]
    return (whole, ["answers"]) if len(whole) == len(texts) else (texts, [])


def _child(parent: Question, number: int, text: str, texts: list[str], order: tuple[int, ...], rule: str) -> Question:
    assert parent.answer is not None
    labels = [choice.label for choice in parent.choices]  # letters of the source belong to places, not to texts
    choices = tuple(Choice(label=labels[place], text=texts[index]) for place, index in enumerate(order))
    return parent.model_copy(
        update={
            "id": f"{parent.id}~a{number}",
            "text": text,
            "choices": choices,
            "answer": order.index(parent.answer),
            "origin": parent.origin.model_copy(update={"parent": parent.id, "rule": rule}),
        }
    )
