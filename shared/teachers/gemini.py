"""Gemini, asked one request at a time."""

import contextlib
from collections import Counter
from pathlib import Path

from google.genai import types

from shared.errors import UsageError
from shared.teachers.gemini_service import INLINE, GeminiService
from shared.teachers.pace import Pace
from shared.teachers.teacher import Reply, Request, TeacherError
from shared.teachers.tries import Patience, Tries


class GeminiTeacher:
    """A `Teacher` on the Gemini API, or on any server that speaks its protocol."""

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str | None = None,
        pace: Pace | None = None,
        patience: Patience = Patience(),
        inline_limit: int = INLINE,
    ) -> None:
        """`inline_limit`: bytes up to which a clip travels inside each request; a larger one is uploaded once."""
        self._service = GeminiService(api_key, base_url, patience, inline_limit)
        self._patience, self._pace = patience, pace or Pace(32)
        self.troubles: Counter[str] = Counter()
        self.batched = False

    async def prepare(self, request: Request, clip: Path | None) -> None:
        if clip is not None and not self._service.inlines(clip):
            with contextlib.suppress(TeacherError, UsageError):
                await self._service.uploaded(request, clip)

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        tries = Tries(self._patience, self.troubles)
        return await self._pace.persist(tries, lambda: self._once(request, clip, tries))

    async def _once(self, request: Request, clip: Path | None, tries: Tries) -> Reply:
        part = None
        if clip is not None and not self._service.inlines(clip):
            part = await self._service.uploaded(request, clip)  # before the turn: it may take minutes
        try:
            return await self._pace.paced(request, lambda: self._generate(request, clip, part, tries))
        except TeacherError as error:
            self._service.noticed(error, request)
            raise

    async def _generate(self, request: Request, clip: Path | None, part: types.Part | None, tries: Tries) -> Reply:
        if clip is not None and part is None:
            part = await self._service.inline(request, clip)  # not before its turn: these bytes are many
        return await self._service.generate(request, part, tries)

    async def release(self, clip: str) -> None:
        await self._service.uploads.release(clip)

    async def aclose(self) -> None:
        await self._service.uploads.aclose()
        await self._service.aclose()
        await self._pace.aclose()
