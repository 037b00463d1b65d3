"""Gemini's service through google-genai: requests by schema, clips, and errors of a named kind.

Sources: the installed SDK (3.4.0) and ai.google.dev/gemini-api/docs (video understanding, files,
structured output). The SDK retries nothing here: it ignores the `retryDelay` of a 429.
"""

import asyncio
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from google import genai
from google.genai import errors, types

from shared.errors import UsageError
from shared.teachers.answers import fail, read
from shared.teachers.media import mime_type
from shared.teachers.teacher import Reply, Request, TeacherError, Usage
from shared.teachers.tries import Patience, Tries
from shared.teachers.uploads import Uploads

T = TypeVar("T")
HOST = "https://generativelanguage.googleapis.com"
#: Bytes up to which a clip travels inside each request. Two dozen ask about a clip: a larger one is cheaper sent once,
#: and building requests of a megabyte takes the worker as long as all else (8 of 19 ms).
INLINE = 256 * 2**10
UNBOUNDED = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
INLINE_CEILING = 14 * 2**20  #: bytes; base64 adds a third, and a whole request must stay under 20 MB
_BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"}
_RESOLUTIONS = {"low": "MEDIA_RESOLUTION_LOW", "medium": "MEDIA_RESOLUTION_MEDIUM", "high": "MEDIA_RESOLUTION_HIGH"}


class GeminiService:
    """The Gemini API, or any server that speaks its protocol."""

    def __init__(self, api_key: str, base_url: str | None, patience: Patience, inline_limit: int) -> None:
        """`inline_limit`: bytes up to which a clip travels inside each request; a larger one is uploaded once."""
        self._inline_limit = min(inline_limit, INLINE_CEILING)
        self._key, self._host = api_key, urlsplit(base_url or HOST).netloc
        # A client of our own, so that the transport, hence its errors, do not depend on what else is installed.
        # The pace bounds its connections; all are kept, where httpx2's own limit closes a third of them each time.
        self._http = httpx2.AsyncClient(
            follow_redirects=True, event_hooks={"request": [self._keep_key]}, limits=UNBOUNDED
        )
        # v1beta is the version whose files, schemas and video metadata are documented; the SDK's own default is v1.
        options = types.HttpOptions(
            base_url=base_url,
            api_version="v1beta",
            timeout=round(patience.timeout_s * 1000),
            httpx_async_client=self._http,
        )
        self.client = genai.Client(api_key=api_key, http_options=options).aio
        self.uploads = Uploads(self.client, self.call, patience)

    async def _keep_key(self, request: httpx2.Request) -> None:
        """A redirect to another host does not get the key: the transport drops `Authorization` only."""
        if request.url.netloc.decode() != self._host:
            request.headers.pop("x-goog-api-key", None)

    def inlines(self, clip: Path) -> bool:
        """Whether the clip travels inside each request."""
        return clip.stat().st_size <= self._inline_limit

    async def inline(self, request: Request, clip: Path) -> types.Part:
        data = await asyncio.to_thread(clip.read_bytes)
        blob = types.Blob(data=data, mime_type=mime_type(data[:16]))
        return types.Part(inline_data=blob, video_metadata=types.VideoMetadata(fps=request.teacher.fps))

    async def uploaded(self, request: Request, clip: Path) -> types.Part:
        """The clip as a file at the service, sent there once.

        Raises:
            TeacherError: it could not be sent, or did not become usable.
        """
        file = await self.uploads.get(request.clip or str(clip), clip)
        data = types.FileData(file_uri=file.uri, mime_type=file.mime_type)
        return types.Part(file_data=data, video_metadata=types.VideoMetadata(fps=request.teacher.fps))

    async def generate(self, request: Request, part: types.Part | None, tries: Tries) -> Reply:
        """Ask once.

        Raises:
            TeacherError: no usable answer.
            UsageError: the key is refused, or the model unknown.
        """
        config = types.GenerateContentConfig.model_validate(_generation(request, tries).model_dump(exclude_none=True))
        response = await self.call(
            self.client.models.generate_content(
                model=request.teacher.model, contents=_contents(request, part), config=config
            )
        )
        return self.read(response, request)

    def body(self, request: Request, part: types.Part | None, tries: Tries) -> dict[str, Any]:
        """The request as the REST protocol writes it, for a batch job's file."""
        dump: dict[str, Any] = {"by_alias": True, "exclude_none": True, "mode": "json"}
        contents, config = _contents(request, part), _generation(request, tries)
        return {"contents": [contents.model_dump(**dump)], "generationConfig": config.model_dump(**dump)}

    def read(self, response: types.GenerateContentResponse, request: Request) -> Reply:
        """The validated answer in a response.

        Raises:
            TeacherError: blocked, empty, malformed, …, with what it cost.
        """
        usage = _usage(response)
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason is not None:
            fail("blocked", f"the prompt was blocked: {feedback.block_reason.name}", usage)
        if not response.candidates:
            fail("empty", "no candidate", usage)
        candidate = response.candidates[0]
        reason = candidate.finish_reason.name if candidate.finish_reason else "none"
        if reason in _BLOCKED:
            fail("blocked", f"the answer was blocked: {reason}", usage)
        parts = (candidate.content.parts if candidate.content else None) or []
        text = "".join(part.text for part in parts if part.text and not part.thought)
        model = response.model_version or request.teacher.model
        return read(text, request, usage, model, cut=reason == "MAX_TOKENS")

    def noticed(self, error: TeacherError, request: Request) -> None:
        """A file that the service does not know any more is sent again with the next try."""
        if request.clip and "file" in error.message.lower():
            self.uploads.forget(request.clip)

    async def call(self, answer: Awaitable[T]) -> T:
        """The answer, or what the SDK and its transport raise as `TeacherError` or `UsageError`, without the key.

        The error has no context: what the service echoes must not be in that either.
        """
        try:
            return await answer
        except errors.APIError as error:
            failure: TeacherError | UsageError = typed(error, self.redact)
        except httpx2.TimeoutException as error:
            failure = TeacherError("timeout", self.redact(str(error) or type(error).__name__))
        except httpx2.TransportError as error:
            failure = TeacherError("connection", self.redact(str(error) or type(error).__name__))
        except (errors.UnknownApiResponseError, KeyError) as error:  # not JSON; an upload without its URL
            failure = TeacherError("server", f"the answer is not of its protocol: {self.redact(str(error)):.200}")
        raise failure

    def redact(self, text: str) -> str:
        return text.replace(self._key, "(the key)")

    async def aclose(self) -> None:
        await self.client.aclose()
        await self._http.aclose()


def _contents(request: Request, part: types.Part | None) -> types.Content:
    """The clip first: the service then discounts the prefix that requests share."""
    parts = [] if part is None else [part]
    return types.Content(role="user", parts=[*parts, types.Part(text=request.prompt)])


def _generation(request: Request, tries: Tries) -> types.GenerationConfig:
    teacher = request.teacher
    resolution = _RESOLUTIONS.get(teacher.media_resolution)
    return types.GenerationConfig(
        temperature=teacher.temperature,
        seed=(request.seed + tries.sample) % 2**31,
        max_output_tokens=teacher.max_output_tokens * tries.room,
        media_resolution=types.MediaResolution(resolution) if resolution else None,
        response_mime_type="application/json",
        response_json_schema=request.schema,
        thinking_config=types.GenerationConfigThinkingConfig(thinking_budget=teacher.thinking_budget),
    )


def _usage(response: types.GenerateContentResponse) -> Usage:
    meta = response.usage_metadata
    if meta is None:
        return Usage(calls=1)
    out = (meta.candidates_token_count or 0) + (meta.thoughts_token_count or 0)
    return Usage(meta.prompt_token_count or 0, out, 1, meta.cached_content_token_count or 0)


def typed(error: errors.APIError, redact: Any = str) -> TeacherError | UsageError:
    """An error of the service by its kind."""
    message = redact(f"{error.code} {error.status}: {error.message}")
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
