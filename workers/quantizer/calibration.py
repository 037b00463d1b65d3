"""Which questions calibrate: a few of each kind, spread over recordings and clips, the same ones for a seed."""

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared.contracts import QuantizeRecipe
from shared.errors import InputError
from shared.precedence import People
from shared.schema import Question, Rows

FILE = "calibration.jsonl"  #: in the checkpoint: a line for each row, in the order in which they were shown

Kind = tuple[str, str]  #: category, origin


def rows_for(recipe: QuantizeRecipe, folders: Sequence[Path]) -> tuple[Rows, list[Question]]:
    """The rows and those of them that calibrate; none where weights are rounded by themselves.

    Raises:
        InputError: the scheme is calibrated, and there are no rows, or a row's clip is not listed.
    """
    if not recipe.calibrated:
        return Rows([]), []
    rows = Rows(folders)
    if not rows.questions:
        raise InputError(
            f"{recipe.scheme} needs calibration rows: give the quantize stage `data`, or set `calibration: none`"
        )
    if stray := next((question for question in rows.questions if question.clip not in rows.clips), None):
        raise InputError(f"question {stray.id}: clip {stray.clip[:12]} is not in clips.jsonl; import the data again")
    return rows, choose(rows, recipe.calibration_rows, recipe.seed)


def choose(rows: Rows, count: int, seed: int) -> list[Question]:
    """Choose up to `count` questions, the same ones for a seed whatever the order of the rows.

    Each kind (category and origin) has its share, at least one where `count` allows. Within a kind comes next what is
    on the recording, then on the clip, that has been taken from least so far. Where a person has answered a question,
    a teacher's answer to it is none of them.
    """

    def rank(text: str) -> str:
        return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()

    people = People(rows.questions)
    kinds: defaultdict[Kind, list[Question]] = defaultdict(list)
    for question in sorted(rows.questions, key=lambda q: rank(f"{q.clip}:{q.id}")):
        if not people.outrank(question):
            kinds[question.category, origin(question)].append(question)
    found: list[Question] = []
    taken: Counter[str] = Counter()
    shares = _shares({kind: len(held) for kind, held in kinds.items()}, count)
    for kind in sorted(kinds, key=lambda kind: (len(kinds[kind]), rank(str(kind)))):  # the rare ones have least choice
        found += _spread(kinds[kind], rows, shares[kind], taken)
    return sorted(found, key=lambda q: rank(f"{q.clip}:{q.id}"))


def _shares(sizes: dict[Kind, int], count: int) -> dict[Kind, int]:
    """How many of each kind: in proportion, none left out where `count` allows (largest remainders)."""
    total, count = sum(sizes.values()), min(count, sum(sizes.values()))
    if not total:
        return {}
    order = sorted(sizes, key=lambda kind: (-sizes[kind], kind))
    least = 1 if count >= len(sizes) else 0
    shares = {kind: max(least, sizes[kind] * count // total) for kind in order}
    by_remainder = sorted(order, key=lambda kind: -(sizes[kind] * count % total))
    while (left := count - sum(shares.values())) > 0:
        for kind in [kind for kind in by_remainder if shares[kind] < sizes[kind]][:left]:
            shares[kind] += 1
    for _ in range(-left):  # the small ones' first places are the large ones' last
        shares[max(order, key=lambda kind: shares[kind])] -= 1
    return shares


def _spread(ranked: Sequence[Question], rows: Rows, count: int, taken: Counter[str]) -> list[Question]:
    """The first `count` of `ranked`, least-used recordings and clips first; counts them in `taken`."""

    def used(question: Question) -> tuple[int, int]:
        return taken[f"recording {rows.clips[question.clip].recording}"], taken[f"clip {question.clip}"]

    found: list[Question] = []
    waiting = [(*used(question), place) for place, question in enumerate(ranked)]
    heapq.heapify(waiting)
    while waiting and len(found) < count:
        *before, place = heapq.heappop(waiting)
        question = ranked[place]
        if tuple(before) != (now := used(question)):  # counts only grow: put back where it stands by now
            heapq.heappush(waiting, (*now, place))
            continue
        found.append(question)
        taken.update([f"recording {rows.clips[question.clip].recording}", f"clip {question.clip}"])
    return found


def origin(question: Question) -> str:
    """Where a row's answer comes from, in words: `human`, `teacher (test-derived)`, `none`, …"""
    return question.origin.answer + (" (test-derived)" if question.origin.test_derived else "")


def facts(rows: Rows, questions: Sequence[Question], recipe: QuantizeRecipe) -> dict[str, Any]:
    """What the card says of the set."""
    return {
        "shows": recipe.calibration if recipe.calibrated else "nothing",
        "rows": len(questions),
        "clips": len({question.clip for question in questions}),
        "recordings": len({rows.clips[question.clip].recording for question in questions}),
        "origins": _counted(map(origin, questions)),
        "categories": _counted(question.category for question in questions),
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def write(folder: Path, rows: Rows, questions: Sequence[Question]) -> None:
    """Write `FILE`: which question, on which clip, of what kind."""
    with (folder / FILE).open("w", encoding="utf-8", newline="\n") as out:
        for question in questions:
            line = {
                "question": question.id,
                "clip": question.clip,
                "recording": rows.clips[question.clip].recording,
                "category": question.category,
                "origin": origin(question),
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
