"""Gemini in batch jobs: half the price, and answers within a day.

To those who ask it is a teacher like any other; they only wait longer. Requests that wait at the same time go into one
job. So whoever has much to ask should ask it all at once: what is asked after the answers came is the next job.
"""

import asyncio
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from shared.context import Scratch
from shared.teachers.gemini_service import GeminiService
from shared.teachers.jobs import BatchPatience, Jobs, Results
from shared.teachers.teacher import Final, Reply, Request, TeacherError, Transient
from shared.teachers.tries import Tries

#: By status of the line: google.rpc's codes, or HTTP's.
_KINDS: dict[str, Transient | Final] = {
    "3": "rejected", "400": "rejected", "8": "rate limited", "429": "rate limited", "13": "server", "500": "server",
    "14": "server", "503": "server", "4": "timeout", "504": "timeout",
}  # fmt: skip


class _Line(NamedTuple):
    body: dict[str, Any]
    job: "asyncio.Future[str]"


class BatchTeacher:
    """A `Teacher` on the batch jobs of the Gemini API.

    A worker that is killed while it waits leaves the job at the service. The next one that is asked the same finds it
    in scratch, and takes its answers instead of asking again.
    """

    def __init__(
        self, api_key: str, scratch: Scratch, *, base_url: str | None = None, patience: BatchPatience = BatchPatience()
    ) -> None:
        self._service = GeminiService(api_key, base_url, patience, inline_limit=-1)  # a job's file takes no clips
        self._patience = patience
        self._jobs = Jobs(self._service, scratch, patience)
        self._waiting: dict[str, dict[str, _Line]] = defaultdict(dict)  # by model
        self._coming = 0  # requests that will wait in a moment
        self._timer: asyncio.Task[None] | None = None
        self._submitting: set[asyncio.Task[None]] = set()
        self._clips: Counter[str] = Counter()  # requests under way, by clip
        self.troubles: Counter[str] = Counter()
        self.batched = True

    async def prepare(self, request: Request, clip: Path | None) -> None:
        """Nothing: a clip is sent only where no job has the request already."""

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        tries = Tries(self._patience, self.troubles)
        self._clips[request.clip or ""] += 1
        try:
            while True:
                try:
                    return tries.reply(await self._once(request, clip, tries))
                except TeacherError as error:
                    self._service.noticed(error, request)
                    if (taken := tries.failed(error)) is not None:
                        return taken
                    await asyncio.sleep(error.retry_after or tries.wait_s(error))
        finally:
            self._clips[request.clip or ""] -= 1

    async def _once(self, request: Request, clip: Path | None, tries: Tries) -> Reply:
        line = f"{request.key}-{tries.sample}"
        self._coming += 1
        try:
            earlier = await self._jobs.having(line)
        finally:
            self._coming -= 1
            self._restart()
        for job in earlier:
            results = await self._jobs.results(job)
            if results is not None and (response := results.response(line)) is not None:
                return self._service.read(response, request)
        job = await self._submitted(request, clip, tries, line)
        results = await self._jobs.results(job)
        response = results.response(line) if results is not None else None
        if response is None:
            raise _missing(line, results)
        return self._service.read(response, request)

    async def _submitted(self, request: Request, clip: Path | None, tries: Tries, line: str) -> str:
        """The job that the request goes into, with all that wait at the same time."""
        self._coming += 1
        try:
            part = await self._service.uploaded(request, clip) if clip is not None else None
            body = self._service.body(request, part, tries)
        finally:
            self._coming -= 1
            self._restart()
        job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[request.teacher.model]
        waiting[line] = _Line(body, job)
        if len(waiting) >= self._patience.lines:
            self._flush(request.teacher.model)
        self._restart()
        try:
            return await job
        finally:
            waiting.pop(line, None)  # cancelled while it waited: it need not be asked

    def _restart(self) -> None:
        """Wait anew for a quiet moment."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.create_task(self._when_quiet())

    async def _when_quiet(self) -> None:
        await asyncio.sleep(self._patience.quiet_s)
        if not self._coming:  # else whoever comes starts it again
            for model in list(self._waiting):
                self._flush(model)

    def _flush(self, model: str) -> None:
        lines = self._waiting.pop(model, {})
        if lines:
            task = asyncio.create_task(self._submit(model, lines))
            self._submitting.add(task)
            task.add_done_callback(self._submitting.discard)

    async def _submit(self, model: str, lines: dict[str, _Line]) -> None:
        lines = {line: asked for line, asked in lines.items() if not asked.job.done()}
        if not lines:  # all were cancelled
            return
        try:
            job = await self._jobs.submit(model, {line: asked.body for line, asked in lines.items()})
        except Exception as error:  # noqa: BLE001 - each who waits raises it
            for asked in lines.values():
                if not asked.job.done():
                    asked.job.set_exception(error)
        else:
            for asked in lines.values():
                if not asked.job.done():
                    asked.job.set_result(job)

    async def release(self, clip: str) -> None:
        if not self._clips[clip]:  # a job may still look at it
            del self._clips[clip]
            await self._service.uploads.release(clip)

    async def aclose(self) -> None:
        tasks = [*self._submitting, *([self._timer] if self._timer else [])]
        keep = self._jobs.open or bool(self._submitting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._jobs.aclose()
        await self._service.uploads.aclose(keep=keep)
        await self._service.aclose()


def _missing(line: str, results: Results | None) -> TeacherError:
    """Why a job has no answer to one of its lines, by the status that the service gives it."""
    said = results.error(line) if results is not None else "the service does not know the job"
    code = said.partition(":")[0]
    kind = _KINDS.get(code, "lost")
    return TeacherError("lost" if kind == "rejected" and "file" in said.lower() else kind, said)  # it is sent again
