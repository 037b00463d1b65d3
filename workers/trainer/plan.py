"""Which rows are trained on, and in what order: pure functions of the rows and the recipe's seed.

The whole training is one list of (epoch, row) positions, cut into optimiser steps of `global_batch`.
So a fractional number of epochs needs no special case, the last step is full, and the order is the same
for any number of processes and after any resume.
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, get_args

from shared.choices import permutation, reordered
from shared.contracts import Portion, Source, source
from shared.errors import InputError
from shared.precedence import People
from shared.schema import Choice, Question, Rows

_SOURCES: tuple[Source, ...] = get_args(Source)
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
    mix: Mapping[Source, Portion] = MappingProxyType({})

    @property
    def epoch_rows(self) -> int:
        """Rows that come in one epoch, each as often as its source's weight says."""
        return sum(whole * len(rows) + some for rows, whole, some in self._shares())

    def epoch(self, seed: int, number: int) -> list[int]:
        """Indices into `questions` in one epoch's order: drawn by the seed, the same in every process."""
        drawn: list[int] = []
        for name, (rows, whole, some) in zip(_SOURCES, self._shares(), strict=True):
            drawn += rows * whole + random.Random(f"mix/{seed}/{number}/{name}").sample(rows, some)
        drawn.sort()
        random.Random(f"order/{seed}/{number}").shuffle(drawn)
        return drawn

    def _shares(self) -> list[tuple[list[int], int, int]]:
        """For each source its rows, how often all of them come, and how many come once more."""
        shares = []
        for name in _SOURCES:
            rows = [place for place, question in enumerate(self.questions) if source(question) == name]
            whole, rest = divmod(self.mix.get(name, Portion()).weight, 1)
            some = round(rest * len(rows))
            shares.append(
                (rows, int(whole), max(some, 1) if rows and not whole else some)
            )  # no source is left out wholly
        return shares


def plan(folders: Sequence[Path], mix: Mapping[Source, Portion] = MappingProxyType({}), seed: int = 0) -> Plan:
    """Choose the rows: those with an answer, each question once, a person's answer before a teacher's, none over a cap.

    Raises:
        InputError: a table is damaged, a row's clip is missing, or no row is left.
    """
    rows = Rows(folders)
    people = People(rows.questions)
    questions: dict[_Same, Question] = {}
    each = [
        [(question, _keep(question, questions, people)) for question in Rows([folder]).questions] for folder in folders
    ]
    over = _over(questions.values(), mix, seed)
    for same in over:
        del questions[same]
    parts = [_part(rows, over) for rows in each]
    for question in questions.values():
        if question.clip not in rows.clips or not rows.clip_path(question.clip).is_file():
            raise InputError(
                f"question {question.id}: its clip {question.clip[:12]} is not in the data; import it again"
            )
    if not questions:
        raise InputError("no row has an answer to train on: label the data, or add a labelled dataset to `data`")
    return Plan(rows, tuple(questions.values()), tuple(parts), mix)


def _part(rows: Sequence[tuple[Question, str | None]], over: Container[_Same]) -> Part:
    reasons = [reason or ("over the cap" if _same(question) in over else None) for question, reason in rows]
    left_out = Counter(reason for reason in reasons if reason is not None)
    return Part(len(rows), len(rows) - left_out.total(), dict(left_out))


def _over(questions: Iterable[Question], mix: Mapping[Source, Portion], seed: int) -> set[_Same]:
    """What is beyond its source's cap: a draw by the seed says which rows are within."""
    drawn = sorted(questions, key=lambda row: hashlib.sha256(f"cap/{seed}/{row.id}/{row.clip}".encode()).digest())
    taken: Counter[Source] = Counter()
    over = set()
    for question in drawn:
        name = source(question)
        cap = mix.get(name, Portion()).cap
        taken[name] += 1
        if cap is not None and taken[name] > cap:
            over.add(_same(question))
    return over


def _same(question: Question) -> _Same:
    return (question.id, question.clip, question.text, question.choices)


def _keep(question: Question, kept: dict[_Same, Question], people: People) -> str | None:
    """Add a question to those kept; else the reason why not. The same id from another source is another row."""
    if question.answer is None:
        return "no answer"
    if people.outrank(question):
        return "a person has answered it"
    if _same(question) in kept:
        return "in an earlier part"
    kept[_same(question)] = question
    return None


def steps(rows: int, epochs: float, global_batch: int) -> int:
    """Optimiser steps: enough for `epochs` passes, at least one."""
    return max(1, math.ceil(round(rows * epochs, 6) / global_batch))


def permuted(question: Question, seed: int, epoch: int) -> Question:
    """The question with its choices in this epoch's order, the answer followed; "all of the above" keeps its place."""
    order = permutation([choice.text for choice in question.choices], f"choices/{seed}/{epoch}/{question.id}")
    return reordered(question, order)
