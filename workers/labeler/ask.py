"""One question through its rounds: five votes on reordered choices, then their verification."""

import asyncio
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, create_model

from shared.choices import permutation
from shared.contracts import LabelRecipe
from shared.errors import Stopped
from shared.schema import Clip, Label, Question, Vote
from shared.teachers import Entry, Journal, Request, TeacherError
from shared.teachers.crew import PUT_DOWN, Crew, raise_cause
from workers.labeler import consensus, prompts
from workers.labeler.consensus import Consensus, Verification

Verdict = Literal["consistent", "inconsistent"]


@lru_cache(maxsize=32)
def vote_answer(choices: int) -> type[BaseModel]:
    """Reasoning first: models fill a schema in its order, and should think before they choose."""
    return create_model("Vote", reasoning=(str, ...), answer=(int, Field(ge=1, le=choices)))


@lru_cache(maxsize=32)
def verify_answer(choices: int) -> type[BaseModel]:
    return create_model(
        "Verification",
        inconsistencies=(list[str], ...),
        answer=(int, Field(ge=1, le=choices)),
        verdict=(Verdict, ...),
    )


class _Video(NamedTuple):
    """A clip and where its bytes are."""

    clip: Clip
    path: Path


class Asker:
    """Asks a teacher through its journal, by one recipe."""

    def __init__(self, recipe: LabelRecipe, journal: Journal, crew: Crew) -> None:
        self._recipe, self._journal, self._crew = recipe, journal, crew
        self._careful = recipe.teacher.model_copy(update={"temperature": 0.0})  # the verification is no sample

    async def label(self, question: Question, clip: Clip, path: Path) -> Label:
        """Ask up to `1 + extra_rounds` rounds; the first that convinces ends it.

        Raises:
            Stopped: the work is to be put down; what was answered is in the journal.
            TeacherError: the service answers nothing any more.
        """
        votes: list[Vote] = []
        for number in range(1 + self._recipe.extra_rounds):
            fresh, agreed, verification = await self._round(question, _Video(clip, path), number)
            votes += fresh
            if consensus.reason(agreed, verification) == consensus.ACCEPTED:
                break
        return consensus.conclude(question.id, votes, agreed, verification)

    async def _round(
        self, question: Question, clip: _Video, number: int
    ) -> tuple[list[Vote], Consensus, Verification | None]:
        voters = prompts.voters(question.language)
        tasks = [self._vote(question, clip, number, slot, prompt) for slot, prompt in enumerate(voters)]
        results = await asyncio.gather(*tasks, return_exceptions=True)  # let paid answers reach the journal
        votes = [result for result in results if isinstance(result, Vote)]
        raise_cause(results)
        agreed = consensus.count(votes, self._recipe.min_agreement)
        if agreed.answer is None:  # split votes need no verification to be inconsistent
            return votes, agreed, None
        return votes, agreed, await self._verify(question, clip, number, votes)

    async def _vote(self, question: Question, clip: _Video, number: int, slot: int, prompt: prompts.Prompt) -> Vote:
        order = self._order(question, number, slot)
        text = prompts.vote_prompt(prompt, question, order)
        request = self._request(question, clip, number, slot, prompt, text, vote_answer(len(order)), order)
        entry = await self._ask(request, clip)
        if isinstance(entry, TeacherError):
            return _no_vote(entry, prompt.id, number)
        return _vote(entry, prompt.id, (entry.data or {}).get("reasoning", ""))

    async def _verify(self, question: Question, clip: _Video, number: int, votes: list[Vote]) -> Verification:
        prompt = prompts.verifier(question.language)
        slot = len(votes)
        order = self._order(question, number, slot)
        text = prompts.verify_prompt(prompt, question, order, votes)
        request = self._request(question, clip, number, slot, prompt, text, verify_answer(len(order)), order)
        entry = await self._ask(request, clip)
        if isinstance(entry, TeacherError):
            return Verification(_no_vote(entry, prompt.id, number), False)
        data = entry.data or {}
        words = "; ".join([data.get("verdict", ""), *data.get("inconsistencies", [])])
        return Verification(_vote(entry, prompt.id, words), data.get("verdict") == "consistent")

    async def _ask(self, request: Request, clip: _Video) -> Entry | TeacherError:
        """The journal's entry, or the failure where the service gave no answer to this one."""
        if self._crew.ending():
            raise Stopped(PUT_DOWN)
        try:
            entry = await self._journal.ask(request, clip.path)
        except TeacherError as error:
            self._crew.unanswered(error)
            return error
        self._crew.answered()
        return entry

    def _order(self, question: Question, number: int, slot: int) -> tuple[int, ...]:
        texts = [choice.text for choice in question.choices]
        order = permutation(texts, f"{self._recipe.seed}/{question.id}/{number}", slot)
        return tuple(index for index in order if texts[index])  # nobody votes for an empty choice

    def _request(
        self,
        question: Question,
        clip: _Video,
        number: int,
        slot: int,
        prompt: prompts.Prompt,
        text: str,
        answer: type[BaseModel],
        order: tuple[int, ...],
    ) -> Request:
        seed = hashlib.sha256(f"{self._recipe.seed}/{question.id}/{number}/{slot}".encode()).digest()
        return Request(
            teacher=self._careful if "verdict" in answer.model_fields else self._recipe.teacher,
            prompt_id=prompt.id, prompt=text, answer=answer, clip=question.clip, seconds=clip.clip.seconds,
            language=prompt.language if prompt.language == question.language else None,
            order=order, slot=slot, round=number, seed=int.from_bytes(seed[:4], "big") >> 1,
        )  # fmt: skip


def _vote(entry: Entry, prompt: str, words: str) -> Vote:
    """The entry as a vote, its number mapped back to the question's own order."""
    choice = entry.order[entry.data["answer"] - 1] if entry.data else None
    return Vote(
        prompt=prompt, round=entry.round, choice=choice, order=entry.order, reasoning=words, problem=entry.problem,
        usd=entry.usd,
    )  # fmt: skip


def _no_vote(error: TeacherError, prompt: str, number: int) -> Vote:
    return Vote(prompt=prompt, round=number, choice=None, reasoning=error.message, problem=error.kind)
