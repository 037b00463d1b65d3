"""Gemini through google-genai: the clip first, JSON by schema, and tries that obey the service.

Sources: the installed SDK (3.4.0) and ai.google.dev/gemini-api/docs (video understanding, files,
structured output). The SDK retries nothing here: it ignores the `retryDelay` of a 429.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from google import genai
from google.genai import errors, types
from pydantic import ValidationError

from shared.errors import UsageError
from shared.teachers.pace import Pace, backoff
from shared.teachers.teacher import Reply, Request, TeacherError, Usage

INLINE_CEILING = 14 * 2**20  #: bytes; base64 adds a third, and a whole request must stay under 20 MB
SAMPLES = 3  #: answers asked for where one was empty or malformed: a fresh sample may be well formed
_BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}


@dataclass(frozen=True)
class Patience:
    """How long a teacher is waited for."""

    timeout_s: float = 180.0  #: for one HTTP request
    tries: int = 6
    backoff_s: float = 1.0  #: bound of the first wait; it doubles
    longest_wait_s: float = 120.0  #: a service that asks for more is taken as out of quota
    poll_s: float = 1.0  #: between looks at an uploaded clip
    polls: int = 300


class GeminiTeacher:
    """A `Teacher` on the Gemini API, or on any server that speaks its protocol."""

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str | None = None,
        pace: Pace | None = None,
        patience: Patience = Patience(),
        inline_limit: int = 4 * 2**20,
    ) -> None:
        """`inline_limit`: bytes up to which a clip travels inside each request; a larger one is uploaded once."""
        self._patience, self._pace = patience, pace or Pace(32)
        self._inline_limit = min(inline_limit, INLINE_CEILING)
        # A client of our own, so that the transport, hence its errors, do not depend on what else is installed.
        self._http = httpx2.AsyncClient(follow_redirects=True)
        # v1beta is the version whose files, schemas and video metadata are documented; the SDK's own default is v1.
        options = types.HttpOptions(
            base_url=base_url,
            api_version="v1beta",
            timeout=round(patience.timeout_s * 1000),
            httpx_async_client=self._http,
        )
        self._client = genai.Client(api_key=api_key, http_options=options).aio
        self._uploads: dict[str, types.File] = {}
        self._uploading: dict[str, asyncio.Lock] = {}

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        usage, attempt, samples = Usage(), 0, 0
        while True:
            try:
                async with self._pace.slot():
                    reply = await self._once(request, clip, samples)
                return reply._replace(usage=usage.plus(reply.usage))
            except TeacherError as error:
                if "file" in error.message.lower():  # it may have expired there: upload it again
                    self._uploads.pop(request.clip or "", None)
                usage, attempt = usage.plus(error.usage), attempt + 1
                samples += error.kind in ("empty", "malformed")
                error.usage = usage
                if not self._again(error, attempt, samples):
                    raise
                await self._wait(error, attempt)

    def _again(self, error: TeacherError, attempt: int, samples: int) -> bool:
        if (error.retry_after or 0) > self._patience.longest_wait_s:
            return False
        if error.transient:
            return attempt < self._patience.tries
        return error.kind in ("empty", "malformed") and samples < SAMPLES and attempt < self._patience.tries

    async def _wait(self, error: TeacherError, attempt: int) -> None:
        if error.retry_after is not None:
            self._pace.hold(error.retry_after)
        elif error.transient:
            await asyncio.sleep(backoff(attempt - 1, self._patience.backoff_s, self._patience.longest_wait_s))

    async def _once(self, request: Request, clip: Path | None, sample: int) -> Reply:
        parts = [] if clip is None else [await self._video(request, clip)]
        config = types.GenerateContentConfig(
            temperature=request.teacher.temperature,
            seed=(request.seed + sample) % 2**31,
            response_mime_type="application/json",
            response_json_schema=request.schema,
            thinking_config=types.ThinkingConfig(thinking_budget=request.teacher.thinking_budget),
        )
        contents = types.Content(role="user", parts=[*parts, types.Part(text=request.prompt)])
        with _typed_errors():
            response = await self._client.models.generate_content(
                model=request.teacher.model, contents=contents, config=config
            )
        return _read(response, request)

    async def _video(self, request: Request, clip: Path) -> types.Part:
        metadata = types.VideoMetadata(fps=request.teacher.fps)
        if clip.stat().st_size <= self._inline_limit:
            data = await asyncio.to_thread(clip.read_bytes)
            blob = types.Blob(data=data, mime_type=mime_type(data[:16]))
            return types.Part(inline_data=blob, video_metadata=metadata)
        file = await self._uploaded(request.clip or str(clip), clip)
        uri = types.FileData(file_uri=file.uri, mime_type=file.mime_type)
        return types.Part(file_data=uri, video_metadata=metadata)

    async def _uploaded(self, digest: str, clip: Path) -> types.File:
        async with self._uploading.setdefault(digest, asyncio.Lock()):
            if digest not in self._uploads:
                self._uploads[digest] = await self._upload(clip)
            return self._uploads[digest]

    async def _upload(self, clip: Path) -> types.File:
        with clip.open("rb") as head:
            config = types.UploadFileConfig(mime_type=mime_type(head.read(16)))
        with _typed_errors():
            file = await self._client.files.upload(file=str(clip), config=config)
            for _ in range(self._patience.polls):
                if file.state == types.FileState.ACTIVE:
                    return file
                if file.state == types.FileState.FAILED:
                    raise TeacherError("rejected", f"the service could not process the clip {clip.name}")
                await asyncio.sleep(self._patience.poll_s)
                file = await self._client.files.get(name=file.name or "")
        raise TeacherError("timeout", f"the clip {clip.name} was uploaded but did not become active")

    async def release(self, clip: str) -> None:
        self._uploading.pop(clip, None)
        file = self._uploads.pop(clip, None)
        # What cannot be deleted expires by itself after 48 hours.
        with contextlib.suppress(TeacherError, UsageError), _typed_errors():
            if file is not None:
                await self._client.files.delete(name=file.name or "")

    async def aclose(self) -> None:
        for clip in list(self._uploads):
            await self.release(clip)
        await self._client.aclose()
        await self._http.aclose()


def mime_type(head: bytes) -> str:
    """The media type of a clip by its first bytes, as Gemini names it (stored clips have no file extension)."""
    if head[:4] == b"RIFF":
        return "video/avi"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm"
    if head[:4] == b"\x00\x00\x01\xba":
        return "video/mpeg"
    return "video/quicktime" if head[4:10] == b"ftypqt" else "video/mp4"


def _read(response: types.GenerateContentResponse, request: Request) -> Reply:
    """The validated answer in a response.

    Raises:
        TeacherError: blocked, empty or malformed, with what it cost.
    """
    usage = _usage(response)
    try:
        text = _text(response)
        data = request.answer.model_validate_json(text).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        failure = TeacherError("malformed", f"{first['loc']}: {first['msg']}: {text[:200]!r}")
        failure.usage = usage
        raise failure from error
    except TeacherError as error:
        error.usage = usage
        raise
    return Reply(data, usage, response.model_version or request.teacher.model)


def _text(response: types.GenerateContentResponse) -> str:
    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason is not None:
        raise TeacherError("blocked", f"the prompt was blocked: {feedback.block_reason.name}")
    if not response.candidates:
        raise TeacherError("empty", "no candidate")
    candidate = response.candidates[0]
    reason = candidate.finish_reason.name if candidate.finish_reason else "none"
    if reason in _BLOCKED:
        raise TeacherError("blocked", f"the answer was blocked: {reason}")
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if not text.strip():
        raise TeacherError("empty", f"no text (finish reason {reason})")
    return text


def _usage(response: types.GenerateContentResponse) -> Usage:
    meta = response.usage_metadata
    if meta is None:
        return Usage(calls=1)
    out = (meta.candidates_token_count or 0) + (meta.thoughts_token_count or 0)
    return Usage(meta.prompt_token_count or 0, out, 1, meta.cached_content_token_count or 0)


@contextlib.contextmanager
def _typed_errors() -> Iterator[None]:
    """Turn what the SDK and its transport raise into `TeacherError` or `UsageError`."""
    try:
        yield
    except errors.APIError as error:
        raise _from_api(error) from error
    except httpx2.TimeoutException as error:
        raise TeacherError("timeout", str(error) or type(error).__name__) from error
    except httpx2.TransportError as error:
        raise TeacherError("connection", str(error) or type(error).__name__) from error
    except (errors.UnknownApiResponseError, KeyError) as error:  # not JSON; an upload without its URL
        raise TeacherError("server", f"the service's answer is not of its protocol: {error!s:.200}") from error


def _from_api(error: errors.APIError) -> TeacherError | UsageError:
    message = f"{error.code} {error.status}: {error.message}"
    if error.code in (403, 404) and "file" in message.lower():
        return TeacherError("server", message)
    if error.code in (401, 403) or "API_KEY_INVALID" in str(error.details):
        return UsageError(f"the teacher refuses the key ({message}); set ROADQA_GEMINI_API_KEY to a valid one")
    if error.code == 404:
        return UsageError(f"the teacher knows no such model ({message}); correct teacher.model in the recipe")
    if error.code == 429:
        return TeacherError("rate limited", message, retry_after=retry_delay(error.details))
    if error.code in (408, 504):
        return TeacherError("timeout", message)
    return TeacherError("server" if error.code >= 500 else "rejected", message)


def retry_delay(details: Any) -> float | None:
    """Seconds in a 429's `google.rpc.RetryInfo` (`error.details[].retryDelay`, such as `"53s"`); None without one."""
    body = details.get("error", details) if isinstance(details, dict) else {}
    for detail in body.get("details") or []:
        match = (
            re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", ""))) if isinstance(detail, dict) else None
        )
        if match is not None:
            return float(match[1])
    return None
