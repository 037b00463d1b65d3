"""card.json: what a trained model was made from; README.md and its picture say the same for people."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from shared import curves
from shared.budget import clip_tokens
from shared.contracts import TrainRecipe
from shared.schema import Question
from workers.trainer import modelcard
from workers.trainer.plan import Plan


def origin(question: Question) -> str:
    """Where a row comes from, in words: `human`, `teacher, test-derived`, `human, augmented`."""
    words = [question.origin.answer]
    words += ["augmented"] if question.origin.parent is not None else []
    words += ["test-derived"] if question.origin.test_derived else []
    return ", ".join(words)


def visual_tokens(plan: Plan, recipe: TrainRecipe) -> dict[str, int]:
    """What the model will see, by the clips' tables: tokens of a temporal patch, of a clip, of an epoch's rows."""
    seen = {
        digest: clip_tokens(clip.seconds, clip.width, clip.height, recipe.video)
        for digest, clip in plan.rows.clips.items()
    }
    rows = [seen[plan.questions[row].clip] for row in plan.epoch(recipe.seed, 0)]
    return {
        "a_patch_at_most": max(clip.a_patch for clip in rows),
        "a_clip_at_least": min(clip.total for clip in rows),
        "a_clip_at_most": max(clip.total for clip in rows),
        "an_epoch": sum(clip.total for clip in rows),
    }


def said(seen: dict[str, int]) -> str:
    """The same in words."""
    return (
        f"{seen['a_patch_at_most']} a temporal patch at most, {seen['a_clip_at_least']} to {seen['a_clip_at_most']} a"
        f" clip, {seen['an_epoch']:,} an epoch"
    )


def data_facts(plan: Plan) -> dict[str, Any]:
    """Counts of rows by origin and by input part, of rows left out and why, of clips and recordings."""
    clips = {question.clip for question in plan.questions}
    left_out: Counter[str] = Counter()
    for part in plan.parts:
        left_out.update(part.left_out)
    return {
        "rows": len(plan.questions),
        "rows_an_epoch": plan.epoch_rows,
        "rows_by_origin": dict(sorted(Counter(origin(question) for question in plan.questions).items())),
        "rows_left_out": dict(sorted(left_out.items())),
        "parts": [part._asdict() for part in plan.parts],
        "clips": len(clips),
        "recordings": len({plan.rows.clips[digest].recording for digest in clips}),
    }


def build(
    base: dict[str, Any], recipe: TrainRecipe, plan: Plan, training: dict[str, Any], judged: Plan | None = None
) -> dict[str, Any]:
    """The whole card; `base` is the base model's own, `judged` the rows that validated."""
    return {
        "made_by": "train",
        "recipe": recipe.model_dump(mode="json"),
        "data": {**data_facts(plan), "visual_tokens": visual_tokens(plan, recipe)},
        "training": training,
        **({} if judged is None else {"validation": data_facts(judged)}),
        "base": base,
    }


def write(out: Path, made: dict[str, Any]) -> None:
    """Write card.json, README.md and the curves' picture."""
    (out / "card.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
    (out / "README.md").write_text(modelcard.readme(made), encoding="utf-8")
    if picture := curves.svg(curves.Training.of(made), "training"):
        (out / modelcard.PICTURE).write_text(picture, encoding="utf-8")
