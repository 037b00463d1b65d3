"""Variations by a teacher: one request makes each, and another, which sees old and new, must agree to it."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from string import Template
from typing import NamedTuple

from pydantic import BaseModel, Field, create_model

from shared.choices import permutation
from shared.context import Context
from shared.contracts import AUGMENT_TRIES, AugmentRecipe, TeacherRecipe, Way
from shared.errors import Stopped
from shared.schema import Question, Rejected
from shared.settings import settings
from shared.teachers import Journal, Request, Teacher, TeacherError, from_settings
from shared.teachers.block import block, language_name
from shared.teachers.crew import PUT_DOWN, Crew, TeacherOutageError, at_once
from workers.augmenter.made import Made, child, rejected, why_not

OUTAGE_SHARE = 0.05  #: of the requests may stay without an answer because the service failed
PROMPTS = Path(__file__).parent / "prompts"

TeacherFactory = Callable[[TeacherRecipe], Teacher]


class Prompt(NamedTuple):
    id: str
    template: Template


@lru_cache(maxsize=1)
def prompts() -> dict[str, Prompt]:
    """The prompts by name; a file is called `<name>.v<version>.md`."""
    files = {path.name.split(".")[0]: path for path in PROMPTS.glob("*.md")}
    return {name: Prompt(path.stem, Template(path.read_text(encoding="utf-8"))) for name, path in files.items()}


@lru_cache(maxsize=64)
def rewrite_answer(way: Way, choices: int) -> type[BaseModel]:
    """Only the part that is to change is asked for, so that no other can."""
    if way == "question":
        return create_model("Question", question=(str, ...))
    if way == "scenario":
        return create_model("Scenario", situation=(str, ...), question=(str, ...))
    return create_model("Choices", choices=(list[str], Field(min_length=choices, max_length=choices)))


@lru_cache(maxsize=32)
def check_answer(choices: int) -> type[BaseModel]:
    return create_model("Check", differences=(str, ...), answer=(int, Field(ge=1, le=choices)), same=(bool, ...))


def by_teacher(
    questions: Sequence[Question], recipe: AugmentRecipe, ctx: Context, factory: TeacherFactory | None = None
) -> Made:
    """Ask for the variations of every question.

    Raises:
        Stopped: put down on request; the journal holds all answers so far.
        LimitReachedError: the run may spend no more; likewise.
        TeacherOutageError: the service failed for too many requests.
    """
    return asyncio.run(_all(questions, recipe, ctx, factory or partial(from_settings, scratch=ctx.scratch)))


async def _all(questions: Sequence[Question], recipe: AugmentRecipe, ctx: Context, factory: TeacherFactory) -> Made:
    teacher = factory(recipe.teacher)
    try:
        width = at_once(teacher, settings().teacher_in_flight)
        run = _Run(recipe, ctx, teacher, width, len(questions))
        await run.crew.all(enumerate(questions), run.question, min(width, len(questions)))
        return run.made()
    finally:
        await teacher.aclose()


class _Run:
    """The questions under way."""

    def __init__(self, recipe: AugmentRecipe, ctx: Context, teacher: Teacher, in_flight: int, total: int) -> None:
        self._recipe, self._ctx, self._total = recipe, ctx, total
        self.crew = Crew(lambda: ctx.stopping, settings().grace_seconds / 2)
        self._journal = Journal(ctx.scratch, teacher, in_flight=in_flight, purse=ctx.purse, stopping=self.crew.ending)
        self._careful = recipe.teacher.model_copy(update={"temperature": 0.0})  # the check is no sample
        self._kept: dict[int, list[Question]] = {}
        self._rejected: dict[int, list[Rejected]] = {}
        self._asked, self._lost, self._done = 0, 0, 0
        self._problems: dict[str, int] = {}

    def made(self) -> Made:
        """What came of it, in the order of the questions, whatever the order of the answers.

        Raises:
            TeacherOutageError: the service failed for too many requests.
        """
        if self._lost > max(1, OUTAGE_SHARE * self._asked):
            raise TeacherOutageError(
                f"the teacher did not answer {self._lost} of {self._asked} requests; the answers so far are kept: try"
                " again once the service answers, or lower ROADQA_TEACHER_IN_FLIGHT"
            )
        journal = self._journal
        facts = {
            "problems": self._problems, "calls": journal.usage.calls, "tokens_in": journal.usage.tokens_in,
            "tokens_out": journal.usage.tokens_out, "usd": journal.usd, "replayed": journal.replayed,
            "troubles": dict(journal.troubles),
        }  # fmt: skip
        return Made(
            [question for number in sorted(self._kept) for question in self._kept[number]],
            [row for number in sorted(self._rejected) for row in self._rejected[number]],
            facts,
        )

    async def question(self, item: tuple[int, Question]) -> None:
        """Draw variations of one question until enough pass the gates, or the tries are used up."""
        number, parent = item
        kept, turned_away = self._kept.setdefault(number, []), self._rejected.setdefault(number, [])
        for draw in range(AUGMENT_TRIES * self._recipe.per_question):
            if len(kept) == self._recipe.per_question:
                break
            drawn = await self._draw(parent, draw, len(kept) + 1)
            if drawn is None:
                continue
            gate = why_not(parent, drawn, kept, self._recipe)
            if gate is None and self._recipe.gates:
                gate = await self._check(parent, drawn, draw)
            if gate is None:
                kept.append(drawn)
            else:
                turned_away.append(rejected(drawn, gate))
        self._done += 1
        written = sum(map(len, self._kept.values()))
        cost = {} if self._journal.usd is None else {"usd": round(self._journal.usd, 4)}
        self._ctx.progress(self._done, self._total, "questions", written=written, **cost)

    async def _draw(self, parent: Question, draw: int, number: int) -> Question | None:
        ways = self._recipe.ways
        way = ways[(self._seed(parent.id) + draw) % len(ways)]
        places = tuple(range(len(parent.choices)))
        words = {"block": block(parent, places), "language": language_name(parent.language)}
        answer = rewrite_answer(way, len(places))
        said = await self._ask(parent, way, words, answer, places, draw, self._recipe.teacher)
        if said is None:
            return None
        text = " ".join(said[name].strip() for name in ("situation", "question") if name in said) or parent.text
        choices = [text.strip() for text in said.get("choices", [choice.text for choice in parent.choices])]
        return child(parent, number, text, choices, f"teacher-{way}")

    async def _check(self, parent: Question, drawn: Question, draw: int) -> str | None:
        """Why an independent look at old and new does not agree; None if it does."""
        order = permutation([choice.text for choice in drawn.choices], f"check/{self._recipe.seed}/{parent.id}", draw)
        assert parent.answer is not None
        words = {
            "block": block(parent, range(len(order))), "variation": block(drawn, order),
            "right": str(parent.answer + 1), "language": language_name(parent.language),
        }  # fmt: skip
        answer = check_answer(len(order))
        said = await self._ask(parent, "check", words, answer, order, draw, self._careful)
        if said is None:
            return "check gave no answer"
        if order[said["answer"] - 1] != parent.answer:
            return "check finds another answer"
        return None if said["same"] else "check finds another meaning"

    async def _ask(
        self,
        parent: Question,
        name: str,
        words: dict[str, str],
        answer: type[BaseModel],
        order: tuple[int, ...],
        draw: int,
        teacher: TeacherRecipe,
    ) -> dict[str, object] | None:
        """The answer, from the journal where it is there; None where there is none to be had."""
        if self.crew.ending():
            raise Stopped(PUT_DOWN)
        prompt = prompts()[name]
        request = Request(
            teacher=teacher, prompt_id=prompt.id, prompt=prompt.template.substitute(words), answer=answer, order=order,
            slot=draw, seed=self._seed(f"{parent.id}/{name}/{draw}"),
        )  # fmt: skip
        self._asked += 1
        try:
            entry = await self._journal.ask(request, None)
        except TeacherError as error:
            self._lost += error.transient
            self._count(error.kind)
            self.crew.unanswered(error)
            return None
        self.crew.answered()
        if entry.problem is not None:
            self._count(entry.problem)
        return entry.data

    def _count(self, problem: str) -> None:
        self._problems[problem] = self._problems.get(problem, 0) + 1

    def _seed(self, what: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._recipe.seed}/{what}".encode()).digest()[:4], "big") >> 1
