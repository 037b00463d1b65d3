"""Which rows are trained on, and in what order: pure functions of the rows and the recipe's seed.

The whole training is one list of (epoch, row) positions, cut into optimiser steps of `global_batch`.
So a fractional number of epochs needs no special case, the last step is full, and the order is the same
for any number of processes and after any resume.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shared.choices import permutation
from shared.errors import InputError
from shared.precedence import People
from shared.schema import Choice, Question, Rows

_Same = tuple[str, str, str, tuple[Choice, ...]]  # what makes two rows the same row


class Part(NamedTuple):
    """What became of one input folder's rows."""

    rows: int
    trained: int
    left_out: dict[str, int]  #: reason → rows


class Plan(NamedTuple):
    """The rows to train on, in input order, and what was left out."""

    rows: Rows
    questions: tuple[Question, ...]
    parts: tuple[Part, ...]


def plan(folders: Sequence[Path]) -> Plan:
    """Choose the rows: those with an answer, each question once, a person's answer before a teacher's.

    Raises:
        InputError: a table is damaged, a row's clip is missing, or no row is left.
    """
    rows = Rows(folders)
    people = People(rows.questions)
    questions: dict[_Same, Question] = {}
    parts = []
    for folder in folders:
        own = Rows([folder]).questions
        left_out = [reason for question in own if (reason := _keep(question, questions, people)) is not None]
        parts.append(Part(len(own), len(own) - len(left_out), dict(Counter(left_out))))
    for question in questions.values():
        if question.clip not in rows.clips or not rows.clip_path(question.clip).is_file():
            raise InputError(
                f"question {question.id}: its clip {question.clip[:12]} is not in the data; import it again"
            )
    if not questions:
        raise InputError("no row has an answer to train on: label the data, or add a labelled dataset to `data`")
    return Plan(rows, tuple(questions.values()), tuple(parts))


def _keep(question: Question, kept: dict[_Same, Question], people: People) -> str | None:
    """Add a question to those kept; else the reason why not. The same id from another source is another row."""
    if question.answer is None:
        return "no answer"
    if people.outrank(question):
        return "a person has answered it"
    same = (question.id, question.clip, question.text, question.choices)
    if same in kept:
        return "in an earlier part"
    kept[same] = question
    return None


def steps(rows: int, epochs: float, global_batch: int) -> int:
    """Optimiser steps: enough for `epochs` passes, at least one."""
    return max(1, math.ceil(round(rows * epochs, 6) / global_batch))


def order(seed: int, epoch: int, rows: int) -> list[int]:
    """The rows' order in one epoch: a fresh permutation, the same in every process."""
    shuffled = list(range(rows))
    random.Random(f"order/{seed}/{epoch}").shuffle(shuffled)
    return shuffled


def permuted(question: Question, seed: int, epoch: int) -> Question:
    """The question with its choices in this epoch's order, the answer followed; "all of the above" keeps its place."""
    order = permutation([choice.text for choice in question.choices], f"choices/{seed}/{epoch}/{question.id}")
    answer = None if question.answer is None else order.index(question.answer)
    return question.model_copy(update={"choices": tuple(question.choices[i] for i in order), "answer": answer})
