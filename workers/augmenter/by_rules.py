"""Variations by rules and templates, in English and Vietnamese: offline, and the same for the same seed."""

import hashlib
import random
import unicodedata
from collections.abc import Sequence

from shared.context import Context
from shared.contracts import AugmentRecipe
from shared.errors import Stopped
from shared.schema import Question, Rejected
from workers.augmenter.keep import negates
from workers.augmenter.made import Made, child, rejected, why_not, words
from workers.augmenter.rules import RULES, Rules, answer_otherwise, language_of, say_otherwise

DRAWS = 12  #: variations drawn for each one wanted before a question is given up
REPORT_EVERY = 100


def by_rules(questions: Sequence[Question], recipe: AugmentRecipe, ctx: Context) -> Made:
    """Raises Stopped where it was put down: nothing is lost but a few seconds of work."""
    made = Made([], [], {})
    for done, question in enumerate(questions, 1):
        if ctx.stopping:
            raise Stopped("augmenting was put down")
        kept, turned_away = variations(question, recipe)
        made.kept.extend(kept)
        made.rejected.extend(turned_away)
        if done % REPORT_EVERY == 0 or done == len(questions):
            ctx.progress(done, len(questions), "questions", written=len(made.kept))
    return made


def variations(question: Question, recipe: AugmentRecipe) -> tuple[list[Question], list[Rejected]]:
    """Up to `per_question` different variations of a question, and those that a gate turned away."""
    kept: list[Question] = []
    turned_away: list[Rejected] = []
    language = language_of(question.text, question.language)
    seen = {words(question)}
    for draw in range(DRAWS * recipe.per_question if language else 0):
        dice = random.Random(hashlib.sha256(f"{recipe.seed}/{question.id}/{draw}".encode()).digest())
        drawn = _vary(question, RULES[language], dice, len(kept) + 1)
        if words(drawn) in seen:
            continue
        seen.add(words(drawn))
        if (gate := why_not(question, drawn, kept, recipe)) is not None:
            turned_away.append(rejected(drawn, gate))
            continue
        kept.append(drawn)
        if len(kept) == recipe.per_question:
            break
    return kept, turned_away


def _vary(question: Question, rules: Rules, dice: random.Random, number: int) -> Question:
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
    return child(question, number, text, texts, "+".join(used))


def _other_words(text: str, texts: list[str], rules: Rules) -> tuple[str, list[str], list[str]]:
    """Equal words in the question and in every choice alike, so that what matched still matches."""
    other, others = say_otherwise(text, rules.words), [say_otherwise(choice, rules.words) for choice in texts]
    return other, others, ["words"] if (other, others) != (text, texts) else []


def _other_answers(texts: list[str], rules: Rules) -> tuple[list[str], list[str]]:
    """Whole choices said otherwise: all of them or none, lest the odd one out give itself away."""
    others = [answer_otherwise(text, rules.answers) for text in texts]
    whole = [other for other in others if other is not None]
    return (whole, ["answers"]) if len(whole) == len(texts) else (texts, [])
