"""What a teacher said is kept before it is used, so that nothing is asked, or paid for, twice."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.context import Scratch
from shared.schema import Frozen
from shared.teachers.teacher import UNPAID, Request, Teacher, TeacherError, Usage

PREFIX = "journal/"


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
    calls: int = 0

    def answer(self, model: type[BaseModel]) -> Any:
        return model.model_validate(self.data)


class Journal:
    """Answers by request key in scratch, under `journal/<key>`.

    Blocked, empty and malformed answers are final and kept as well; a service that could not be reached,
    or refused the request, was not paid for: its errors are raised and not kept.
    """

    def __init__(self, scratch: Scratch, teacher: Teacher) -> None:
        self._scratch, self._teacher = scratch, teacher
        self._known = set(scratch.keys(PREFIX))
        self._asking: dict[str, asyncio.Lock] = {}
        self.usage = Usage()  #: what this process paid for
        self.replayed = 0  #: answers that were already there

    async def ask(self, request: Request, clip: Path | None) -> Entry:
        """The kept answer to `request`; otherwise ask for one and keep it.

        Raises:
            TeacherError: the service gave no answer (only the kinds of `UNPAID`).
        """
        name = PREFIX + request.key
        async with self._asking.setdefault(name, asyncio.Lock()):
            entry = await self._read(name) if name in self._known else None
            if entry is None:
                entry = await self._ask(request, clip)
                await asyncio.to_thread(self._scratch.put, name, entry.model_dump_json().encode())
                self._known.add(name)
            else:
                self.replayed += 1
            return entry

    async def _read(self, name: str) -> Entry | None:
        data = await asyncio.to_thread(self._scratch.get, name)
        return None if data is None else Entry.model_validate_json(data)

    async def _ask(self, request: Request, clip: Path | None) -> Entry:
        data: dict[str, Any] | None = None
        problem, detail, model = None, "", request.teacher.model
        try:
            reply = await self._teacher.ask(request, clip)
            data, usage, model = reply.data, reply.usage, reply.model
        except TeacherError as error:
            usage = error.usage
            if error.kind in UNPAID:
                self.usage = self.usage.plus(usage)
                raise
            problem, detail = error.kind, error.message
        self.usage = self.usage.plus(usage)
        return Entry(
            prompt_id=request.prompt_id, clip=request.clip, round=request.round, slot=request.slot,
            order=request.order, data=data, problem=problem, detail=detail, model=model,
            tokens_in=usage.tokens_in, tokens_out=usage.tokens_out, calls=usage.calls,
        )  # fmt: skip
