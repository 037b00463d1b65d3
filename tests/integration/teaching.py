"""Teachers of both protocols at a sandbox teacher, asked one request or a whole part."""

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from services.sandbox import scene as scenes
from services.sandbox.questions import questions
from shared.context import FolderScratch
from shared.contracts import LabelRecipe, TeacherRecipe
from shared.schema import Label, read_jsonl
from shared.teachers import Patience, Reply, Request, Teacher, TeacherError, connect
from tests.integration.taught import LazyContext, write_short_clip
from workers.labeler.label import label

GEMINI = TeacherRecipe(model="sandbox-teacher")
OPENAI = TeacherRecipe(provider="openai", model="sandbox-teacher")
SOON = Patience(timeout_s=20, tries=6, backoff_s=0.02, longest_wait_s=5, poll_s=0.02, polls=50)
SCENE = scenes.recording(5, "train", 1, 1)[0]


class Vote(BaseModel):
    reasoning: str
    answer: int = Field(ge=1, le=2)


def teacher_at(url: str, recipe: TeacherRecipe = GEMINI, *, key: str = "k", **options: Any) -> Teacher:
    """A direct teacher of the recipe's provider."""
    if recipe.provider == "openai":
        options.pop("inline_limit", None)
        url += "/v1"
    return connect(recipe, api_key=key, base_url=url, **({"patience": SOON} | options))


def served(url: str) -> Counter[str]:
    with urllib.request.urlopen(f"{url}/health") as reply:
        health = json.load(reply)
    return Counter(health["served"] | {"files": health["files"]})


def question(recipe: TeacherRecipe = GEMINI, *, seed: int = 0, language: str = "en", order: str = "") -> Request:
    """A request about `SCENE`, of two choices; the truth is choice 1."""
    item = next(item for item in questions(SCENE, language) if len(item.choices) >= 2)  # type: ignore[arg-type]
    wrong = next(text for place, text in enumerate(item.choices) if place != item.answer)
    text = f"{item.text} {order}".strip()
    lines = f"1. {item.choices[item.answer]}\n2. {wrong}"
    prompt = f"Look.\n<question>\n{text}\n</question>\n<choices>\n{lines}\n</choices>"
    return Request(
        teacher=recipe, prompt_id="p", prompt=prompt, answer=Vote, clip="c", seed=seed, language=language, seconds=3
    )


def clip_in(folder: Path) -> Path:
    path = folder / "clip.mp4"
    write_short_clip(SCENE, path)
    return path


class Outcome:
    """What asking once came to."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.error: TeacherError | None = None
        self.troubles: Counter[str] = Counter()


def ask(make: Callable[[], Teacher], clip: Path | None, *requests: Request) -> list[Outcome]:
    """Ask all at once, release the clip, and close."""

    async def one(teacher: Teacher, request: Request) -> Outcome:
        outcome = Outcome()
        try:
            outcome.reply = await teacher.ask(request, clip)
        except TeacherError as error:
            outcome.error = error
        return outcome

    async def everything() -> list[Outcome]:
        teacher = make()
        try:
            outcomes = await asyncio.gather(*(one(teacher, request) for request in requests))
            await teacher.release("c")
            for outcome in outcomes:
                outcome.troubles = teacher.troubles
            return outcomes
        finally:
            await teacher.aclose()

    return asyncio.run(everything())


def ask_one(url: str, clip: Path | None, request: Request, **options: Any) -> Outcome:
    return ask(partial(teacher_at, url, request.teacher, **options), clip, request)[0]


def label_part(
    folder: Path, make: Callable[[TeacherRecipe], Teacher], recipe: TeacherRecipe = GEMINI
) -> dict[str, Any]:
    """Label the rows in `folder/data`; scratch and output lie beside them."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    ctx = LazyContext(FolderScratch(folder / "scratch"))
    return label({"data": [folder / "data"]}, LabelRecipe(teacher=recipe), out, ctx, teacher_factory=make)


def labels_of(folder: Path) -> dict[str, tuple[Any, ...]]:
    """By question: status, answer, reason, and every vote's choice."""
    return {
        verdict.question: (verdict.status, verdict.answer, verdict.reason, [vote.choice for vote in verdict.votes])
        for verdict in read_jsonl(folder / "out" / "labels.jsonl", Label)
    }
