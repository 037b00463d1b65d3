"""Batch jobs at Gemini, and what scratch keeps of them so that no job is paid for twice.

Keys in scratch:
    batch/asked/<line>/<job>   this line is in this job; put before the job is submitted
    batch/jobs/<job>           the service's name for it; put once it is submitted
    batch/results/<job>        its state, and every answer (JSON lines); put before any of them is used

A *line* is one request of a job. A process that was killed between submitting and noting the service's name finds the
job by its display name, which is the job's id here.
Source: ai.google.dev/gemini-api/docs/batch-api (input file, one `{"key", "request"}` a line), as the SDK speaks it.
"""

import asyncio
import contextlib
import json
import logging
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.genai import errors, types

from shared.context import Scratch
from shared.errors import UsageError
from shared.teachers.gemini_service import GeminiService
from shared.teachers.teacher import TeacherError
from shared.teachers.tries import Patience

log = logging.getLogger(__name__)

ASKED, JOBS, RESULTS = "batch/asked/", "batch/jobs/", "batch/results/"
#: The SDK's own list of states lacks the last, which it hands on under the service's name (`BATCH_STATE_…`).
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"}
_AT_ONCE = 16  #: notes written at once


@dataclass(frozen=True)
class BatchPatience(Patience):
    """How long batch jobs are waited for. `tries` bounds the jobs that one request goes into."""

    backoff_s: float = 30.0
    longest_wait_s: float = 1800.0  #: also for a service that has too much in its queue already (429)
    quiet_s: float = 5.0  #: without another request, until those that came go into a job
    lines: int = 1000  #: requests of a job, at most
    look_s: float = 30.0  #: between looks at a job
    longest_s: float = 50 * 3600.0  #: for a job; the service gives up its own after 48 hours
    silent: int = 120  #: looks in a row that the service may leave unanswered


class Results:
    """What a job that has ended gave."""

    def __init__(self, data: bytes) -> None:
        head, *lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        self.state: str = head["state"]
        self._lines: dict[str, dict[str, Any]] = {line["key"]: line for line in lines if "key" in line}

    def response(self, line: str) -> types.GenerateContentResponse | None:
        """None where the job has none: it failed, was left out, or the job did not get that far."""
        found = self._lines.get(line, {}).get("response")
        if not found:
            return None
        # The SDK's own reader, which passes over fields that it does not know.
        return types.GenerateContentResponse._from_response(response=found, kwargs={})

    def error(self, line: str) -> str:
        """What the service says about a line without a response."""
        error = self._lines.get(line, {}).get("error")
        return f"{error.get('code')}: {error.get('message')}" if error else f"the job ended as {self.state}"


class Jobs:
    """Submits jobs and collects them, each once."""

    def __init__(self, service: GeminiService, scratch: Scratch, patience: BatchPatience) -> None:
        self._service, self._scratch, self._patience = service, scratch, patience
        self._collecting: dict[str, asyncio.Task[Results | None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @property
    def open(self) -> bool:
        """Whether a job is being waited for."""
        return any(not task.done() for task in self._collecting.values())

    async def having(self, line: str) -> list[str]:
        """Jobs that the line was put into, by this process or one before."""
        prefix = f"{ASKED}{line}/"
        async with self._slots:
            return await asyncio.to_thread(lambda: [key.removeprefix(prefix) for key in self._scratch.keys(prefix)])

    async def submit(self, model: str, lines: Mapping[str, dict[str, Any]]) -> str:
        """Put the requests into a new job; its id.

        Raises:
            TeacherError: the service did not take it, or did not say so.
            UsageError: the key is refused, or the model unknown.
        """
        job = f"roadqa-{uuid.uuid4().hex}"
        await asyncio.gather(*(self._put(f"{ASKED}{line}/{job}", b"-") for line in lines))
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            for line, body in lines.items():
                file.write(json.dumps({"key": line, "request": body}, ensure_ascii=False).encode() + b"\n")
            file.flush()
            sent = await self._service.uploads.send(Path(file.name), "application/jsonl")
        config = types.CreateBatchJobConfig(display_name=job)
        made = await self._service.call(
            self._service.client.batches.create(model=model, src=sent.name or "", config=config)
        )
        await self._put(f"{JOBS}{job}", (made.name or "").encode())
        log.info("batch job %s (%s): %d requests", made.name, job, len(lines))
        return job

    async def results(self, job: str) -> Results | None:
        """What the job gave, once it has ended; None where it was never submitted.

        Raises:
            TeacherError: the service was silent for too long; the job goes on, and can be collected later.
        """
        task = self._collecting.get(job)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._collecting[job] = asyncio.create_task(self._collect(job))
        return await asyncio.shield(task)  # one who is cancelled does not end it for the others

    async def _collect(self, job: str) -> Results | None:
        data = await self._get(f"{RESULTS}{job}")
        if data is None:
            name = ((await self._get(f"{JOBS}{job}")) or b"").decode() or await self._find(job)
            if name is None:
                return None
            data = await self._ended(name)
            await self._put(f"{RESULTS}{job}", data)
            with contextlib.suppress(TeacherError, UsageError):
                await self._service.call(self._service.client.batches.delete(name=name))
        return Results(data)

    async def _find(self, job: str) -> str | None:
        async def look() -> str | None:
            async for made in await self._service.client.batches.list():
                if made.display_name == job:
                    return made.name
            return None

        return await self._service.call(look())

    async def _ended(self, name: str) -> bytes:
        """The job's state and answers, as `RESULTS` keeps them."""
        made, silent, loop = None, 0, asyncio.get_running_loop()
        started = loop.time()
        while True:
            try:
                made, silent = await self._look(name), 0
            except TeacherError:
                silent += 1
                if silent > self._patience.silent:
                    raise
            else:
                if made is None or _state(made) in ENDED:
                    break
            if loop.time() - started > self._patience.longest_s:
                with contextlib.suppress(TeacherError, UsageError):
                    await self._service.call(self._service.client.batches.cancel(name=name))
                break
            await asyncio.sleep(self._patience.look_s)
        state = _state(made) if made else "gone from the service"
        log.info("batch job %s: %s", name, state)
        answers = b""
        if made and made.dest and made.dest.file_name:
            answers = await self._service.call(self._service.client.files.download(file=made.dest.file_name))
        return json.dumps({"job": name, "state": state}).encode() + b"\n" + answers

    async def _look(self, name: str) -> types.BatchJob | None:
        """None where the service does not know the job any more."""

        async def look() -> types.BatchJob | None:
            try:
                return await self._service.client.batches.get(name=name)
            except errors.ClientError as error:
                if error.code != 404:
                    raise
            return None

        return await self._service.call(look())

    async def _get(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._scratch.get, key)

    async def _put(self, key: str, data: bytes) -> None:
        async with self._slots:
            await asyncio.to_thread(self._scratch.put, key, data)

    async def aclose(self) -> None:
        for task in self._collecting.values():
            task.cancel()
        await asyncio.gather(*self._collecting.values(), return_exceptions=True)


def _state(job: types.BatchJob) -> str:
    return str(job.state.value).rpartition("_STATE_")[2] if job.state else "of no state"
