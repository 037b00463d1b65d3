"""Label the unanswered questions of rows with a teacher: only consensus answers leave."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import Any

from shared.context import Context
from shared.contracts import LabelRecipe, TeacherRecipe
from shared.schema import Label, Origin, Question, Rows, write_jsonl, write_rows
from shared.settings import settings
from shared.teachers import Journal, Teacher, from_settings
from shared.teachers.crew import Crew, TeacherOutageError, TeacherRefusalError, at_once, raise_cause
from shared.teachers.teacher import TRANSIENT
from workers.labeler.ask import Asker

OUTAGE_SHARE = 0.05  #: of the questions may stay without a quorum because the service failed

TeacherFactory = Callable[[TeacherRecipe], Teacher]


def label(
    inputs: dict[str, list[Path]],
    recipe: LabelRecipe,
    out: Path,
    ctx: Context,
    *,
    teacher_factory: TeacherFactory | None = None,
    in_flight: int | None = None,
) -> dict[str, Any]:
    """Write the rows whose answer votes and verification agree on, and every label to `labels.jsonl`.

    Questions that have an answer already are not written: they are in the rows they come from. They are asked, and
    labelled, only where the recipe says `answered: ask`; what their answer is, the teacher is not told.

    Args:
        teacher_factory: makes the teacher of a recipe; by default the one that the settings name.
        in_flight: requests, and clips, at once; by default what the settings say.

    Raises:
        LimitReachedError: the run may spend no more; the journal holds all answers so far.
        Stopped: put down on request; the journal holds all answers so far.
        TeacherOutageError: the service failed for too many questions.
        TeacherRefusalError: the service refuses whatever it is asked.
        UsageError: no key, or one that is refused; an unknown model or provider.
    """
    rows = Rows(inputs["data"])
    wanted = [question for question in rows.questions if question.answer is None or recipe.answered == "ask"]
    factory = teacher_factory or partial(from_settings, scratch=ctx.scratch)
    bound = in_flight or settings().teacher_in_flight
    labels, journal = asyncio.run(_label_all(rows, wanted, recipe, ctx, factory, bound))
    _refuse_outage(labels)
    _refuse_refusal(labels, clips=len({question.clip for question in wanted}))
    accepted = [_answered(question, verdict, recipe) for question, verdict in zip(wanted, labels, strict=True)]
    write_rows(out, [question for question in accepted if question is not None], rows.clips)
    write_jsonl(out / "labels.jsonl", labels)
    already = sum(question.answer is not None for question in rows.questions)
    return {"already_answered": already, **_facts(labels, journal)}


async def _label_all(
    rows: Rows, wanted: list[Question], recipe: LabelRecipe, ctx: Context, factory: TeacherFactory, in_flight: int
) -> tuple[list[Label], Journal]:
    teacher = factory(recipe.teacher)
    try:
        width = at_once(teacher, in_flight)
        run = _Run(rows, recipe, ctx, teacher, width)
        await run.all(wanted, width)
        return [run.labels[question.id] for question in wanted], run.journal
    finally:
        await teacher.aclose()


class _Run:
    """The clips under way."""

    def __init__(self, rows: Rows, recipe: LabelRecipe, ctx: Context, teacher: Teacher, in_flight: int) -> None:
        self._rows, self._teacher, self._ctx = rows, teacher, ctx
        self._crew = Crew(lambda: ctx.stopping, settings().grace_seconds / 2)
        self.journal = Journal(ctx.scratch, teacher, in_flight=in_flight, purse=ctx.purse, stopping=self._crew.ending)
        self._asker = Asker(recipe, self.journal, self._crew)
        self._total = 0
        self.labels: dict[str, Label] = {}

    async def all(self, wanted: list[Question], width: int) -> None:
        """Clip by clip, so that what the service holds of a clip is given up as soon as its questions are done."""
        self._total = len(wanted)
        clips: dict[str, list[Question]] = defaultdict(list)
        for question in wanted:
            clips[question.clip].append(question)
        await self._crew.all(clips.items(), self._clip, min(width, len(clips)))

    async def _clip(self, item: tuple[str, list[Question]]) -> None:
        clip, questions = item
        results = await asyncio.gather(*map(self._question, questions), return_exceptions=True)
        await self._teacher.release(clip)
        raise_cause(results)

    async def _question(self, question: Question) -> None:
        clip, path = self._rows.clips[question.clip], self._rows.clip_path(question.clip)
        try:
            self.labels[question.id] = await self._asker.label(question, clip, path)
        except BaseException:
            self._crew.fail()
            raise
        journal = self.journal
        accepted = sum(verdict.status == "accepted" for verdict in self.labels.values())
        cost = {} if journal.usd is None else {"usd": round(journal.usd, 4)}
        self._ctx.progress(
            len(self.labels), self._total, "questions", accepted=accepted, calls=journal.usage.calls, **cost
        )


def _refuse_outage(labels: list[Label]) -> None:
    """A label that the service's failures decided is no finding: commit none of them if they are many."""
    lost = [verdict for verdict in labels if verdict.status == "flagged" and _failed(verdict, TRANSIENT)]
    if lost and (len(lost) == len(labels) or len(lost) > max(1, OUTAGE_SHARE * len(labels))):
        kinds = Counter(vote.problem for verdict in lost for vote in verdict.votes if vote.problem in TRANSIENT)
        raise TeacherOutageError(
            f"the teacher could not be asked about {len(lost)} of {len(labels)} questions "
            f"({', '.join(f'{kind} ×{n}' for kind, n in kinds.most_common())}); the answers so far are kept: "
            "try again once the service answers, or lower ROADQA_TEACHER_IN_FLIGHT"
        )


def _refuse_refusal(labels: list[Label], clips: int) -> None:
    """One clip that the service refuses is a finding about the clip; all of several are one about the request."""
    refused = [verdict for verdict in labels if _failed(verdict, {"rejected"})]
    if clips > 1 and len(refused) == len(labels):
        said = next(vote.reasoning for vote in refused[0].votes if vote.problem == "rejected")
        raise TeacherRefusalError(
            f"the teacher refuses all {len(labels)} questions on {clips} clips: {said}; mend that, then `roadqa retry`"
        )


def _failed(verdict: Label, kinds: Set[str]) -> bool:
    """Whether failures of these kinds kept the last round from a quorum or from its verification."""
    last = max(vote.round for vote in verdict.votes)
    votes = [vote for vote in verdict.votes if vote.round == last]
    usable = sum(vote.choice is not None for vote in votes)
    missing = sum(vote.problem in kinds for vote in votes)
    check = verdict.verification
    return (missing > 0 and usable < 3) or (check is not None and check.problem in kinds)


def _answered(question: Question, verdict: Label, recipe: LabelRecipe) -> Question | None:
    if verdict.status != "accepted" or question.answer is not None:
        return None
    origin = question.origin.model_dump() | {"answer": "teacher", "teacher": recipe.teacher.model}
    return question.model_copy(update={"answer": verdict.answer, "origin": Origin(**origin)})


def _facts(labels: list[Label], journal: Journal) -> dict[str, Any]:
    flagged = Counter(verdict.reason for verdict in labels if verdict.status == "flagged")
    every = [vote for verdict in labels for vote in (*verdict.votes, *filter(None, [verdict.verification]))]
    problems = Counter(vote.problem for vote in every if vote.problem)
    rounds = Counter(max(vote.round for vote in verdict.votes) + 1 for verdict in labels)
    return {
        "questions": len(labels),
        "accepted": len(labels) - flagged.total(),
        "flagged": dict(flagged),
        "rounds": {str(number): count for number, count in sorted(rounds.items())},
        "problems": dict(problems),
        "calls": journal.usage.calls,
        "tokens_in": journal.usage.tokens_in,
        "tokens_out": journal.usage.tokens_out,
        "tokens_cached": journal.usage.tokens_cached,
        "usd": journal.usd,
        "replayed": journal.replayed,
        "troubles": dict(journal.troubles),
    }
