"""What a teacher said is kept before it is used, so that nothing is asked, or paid for, twice."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from shared.context import LocalPurse, Purse, Scratch
from shared.errors import InputError, Stopped
from shared.prices import expected_tokens, prices
from shared.schema import Frozen
from shared.teachers.crew import PUT_DOWN
from shared.teachers.teacher import UNPAID, Request, Teacher, TeacherError, Usage

PREFIX = "journal/"
WAIT_S = 0.2  #: between two tries of a purse in which others must settle first


class Entry(Frozen):
    """One answer as it was given, or why there is none. `data` fits the request's answer."""

    prompt_id: str
    clip: str | None
    round: int
    slot: int
    order: tuple[int, ...]
    data: dict[str, Any] | None
    problem: str | None = None
    detail: str = ""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    calls: int = 0
    usd: float | None = None  #: what it cost when it was asked; None where the model has no price

    def answer(self, model: type[BaseModel]) -> Any:
        return model.model_validate(self.data)

    @property
    def usage(self) -> Usage:
        return Usage(self.tokens_in, self.tokens_out, self.calls, self.tokens_cached)


class Journal:
    """Answers by request key in scratch, under `journal/<key>`.

    Blocked, empty and malformed answers are final and kept as well; a service that could not be reached,
    or refused the request, was not paid for: its errors are raised and not kept.

    A request holds its place among those in flight until its answer is kept. So a process that is killed has lost no
    more answers than `in_flight`.
    """

    def __init__(
        self,
        scratch: Scratch,
        teacher: Teacher,
        *,
        in_flight: int = 32,
        purse: Purse | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._scratch, self._teacher, self._purse, self._stopping = scratch, teacher, purse or LocalPurse(), stopping
        self._places = asyncio.Semaphore(in_flight)
        self._asking: dict[str, asyncio.Lock] = {}
        self._dearest = 0.0
        self.usage = Usage()  #: of every answer that was given here, asked or replayed
        self.usd: float | None = 0.0  #: what these answers cost; None where the model has no price
        self.asked = 0  #: requests that this process made
        self.replayed = 0  #: answers that were already there

    async def ask(self, request: Request, clip: Path | None) -> Entry:
        """The kept answer to `request`; otherwise ask for one and keep it.

        Raises:
            TeacherError: the service gave no answer (only the kinds of `UNPAID`).
            LimitReachedError: the run may spend no more.
            Stopped: the work is to be put down.
        """
        name = PREFIX + request.key
        async with self._asking.setdefault(name, asyncio.Lock()):
            entry = await self._read(name)
            if entry is None:
                if not self._stopping():
                    await self._teacher.prepare(request, clip)  # holds no place: sending a clip takes seconds
                async with self._places:
                    if self._stopping():  # what waited for its place is not begun
                        raise Stopped(PUT_DOWN)
                    entry = await self._ask(request, clip)
                    await asyncio.to_thread(self._scratch.put, name, entry.model_dump_json().encode())
                self.asked += 1
            else:
                self.replayed += 1
            self._count(entry)
            return entry

    def _count(self, entry: Entry) -> None:
        self.usage = self.usage.plus(entry.usage)
        self.usd = None if self.usd is None or entry.usd is None else self.usd + entry.usd

    async def _read(self, name: str) -> Entry | None:
        data = await asyncio.to_thread(self._scratch.get, name)
        try:
            return None if data is None else Entry.model_validate_json(data)
        except ValidationError as error:
            raise InputError(f"scratch {name} is damaged: delete it, and its request is made again") from error

    async def _ask(self, request: Request, clip: Path | None) -> Entry:
        reserved = self._expected(request)
        while not await asyncio.to_thread(self._purse.reserve, reserved):
            await asyncio.sleep(WAIT_S)
            if self._stopping():
                raise Stopped(PUT_DOWN)
        paid = reserved or 0.0  # cancelled on its way, it may be billed all the same
        try:
            entry = await self._answer(request, clip)
            paid = entry.usd or 0.0
            self._dearest = max(self._dearest, paid)
        except TeacherError as error:
            paid = self._usd(request, error.usage) or 0.0
            raise
        finally:
            self._purse.settle(reserved, paid)
        return entry

    def _expected(self, request: Request) -> float | None:
        """What the request may cost: as much as the dearest so far, or what is to be expected of it."""
        expected = self._usd(request, Usage(*expected_tokens(request.seconds, request.teacher, len(request.prompt))))
        return None if expected is None else max(self._dearest, expected)

    def _usd(self, request: Request, usage: Usage) -> float | None:
        model, tokens = request.teacher.model, (usage.tokens_in, usage.tokens_out, usage.tokens_cached)
        return prices().usd(model, *tokens, batch=self._teacher.batched)

    @property
    def troubles(self) -> Counter[str]:
        """What went wrong with the service here, by kind, also where a later try mended it."""
        return self._teacher.troubles

    async def _answer(self, request: Request, clip: Path | None) -> Entry:
        data: dict[str, Any] | None = None
        problem, detail, model = None, "", request.teacher.model
        try:
            reply = await self._teacher.ask(request, clip)
            data, usage, model = reply.data, reply.usage, reply.model
        except TeacherError as error:
            usage = error.usage
            if error.kind in UNPAID:
                raise
            problem, detail = error.kind, error.message
        return Entry(
            prompt_id=request.prompt_id, clip=request.clip, round=request.round, slot=request.slot,
            order=request.order, data=data, problem=problem, detail=detail, model=model,
            tokens_in=usage.tokens_in, tokens_out=usage.tokens_out, tokens_cached=usage.tokens_cached,
            calls=usage.calls, usd=self._usd(request, usage),
        )  # fmt: skip
