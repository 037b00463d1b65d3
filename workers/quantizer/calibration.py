"""Which questions calibrate AWQ, and what the model sees of them: clip and text together."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shared import video
from shared.context import Context
from shared.contracts import QuantizeRecipe
from shared.errors import InputError, Stopped
from shared.precedence import People
from shared.schema import Question, Rows

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")


def choose(rows: Rows, count: int, seed: int) -> list[Question]:
    """Choose up to `count` questions, the same ones for a seed whatever the order of the rows.

    They are spread: one of each recording before a second of any, and within a recording one of
    each clip before a second of any. Where a person has answered a question, a teacher's answer to it is none of them.
    """

    def rank(text: str) -> str:
        return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()

    def recording(question: Question) -> str:
        return rows.clips[question.clip].recording

    people = People(rows.questions)
    standing = (question for question in rows.questions if not people.outrank(question))
    ranked = sorted(standing, key=lambda q: rank(f"{q.clip}:{q.id}"))
    recordings = sorted(_groups(ranked, recording).items(), key=lambda item: rank(item[0]))
    within = [list(_rounds(_groups(group, lambda q: q.clip).values())) for _, group in recordings]
    return list(_rounds(within))[:count]


def _groups(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def _rounds(groups: Iterable[Sequence[Item]]) -> Iterator[Item]:
    """The first of every group, then the second of every group, and so on."""
    groups = list(groups)
    for turn in range(max(map(len, groups), default=0)):
        yield from (group[turn] for group in groups if turn < len(group))


def origins(questions: Iterable[Question]) -> dict[str, int]:
    """How many rows come from where, as `human`, `teacher (test-derived)`, …"""
    counts = Counter(q.origin.answer + (" (test-derived)" if q.origin.test_derived else "") for q in questions)
    return dict(sorted(counts.items()))


def rows_for(recipe: QuantizeRecipe, folders: Sequence[Path]) -> tuple[Rows, list[Question]]:
    """The rows and those of them that calibrate; none for fp4, whose weights need no data.

    Raises:
        InputError: awq, and there are no rows.
    """
    if recipe.scheme == "fp4":
        return Rows([]), []
    rows = Rows(folders)
    if not rows.questions:
        raise InputError("awq needs calibration rows: give the quantize stage `data`, or choose the scheme fp4")
    return rows, choose(rows, recipe.calibration_rows, recipe.seed)


def encode(
    model_dir: Path, rows: Rows, questions: Sequence[Question], recipe: QuantizeRecipe, ctx: Context
) -> list[dict[str, "torch.Tensor"]]:
    """One batch of one for each question: prompt, clip and, where it is known, the answer.

    Pixels are kept in bfloat16: the vision tower casts them to it at its first step anyway.

    Raises:
        MediaError: a clip cannot be read.
        Stopped: `ctx.stopping` was set.
    """
    if not questions:
        return []
    import torch

    from shared.vlm.encode import Encoder

    encoder, batches = Encoder(model_dir), []
    for done, question in enumerate(questions):
        if ctx.stopping:
            raise Stopped(f"stopped after {done} of {len(questions)} calibration rows")
        clip = video.sample(rows.clip_path(question.clip), recipe.video)
        batch = dict(encoder.encode(question, clip, recipe.system_prompt, with_answer=question.answer is not None))
        batch.pop("labels", None)
        batch["pixel_values_videos"] = batch["pixel_values_videos"].to(torch.bfloat16)
        batches.append(batch)
        ctx.progress(done + 1, len(questions), "calibration rows")
    return batches
