"""Any server that speaks OpenAI's chat completions, such as vLLM: the clip first, JSON by schema.

Sources: the installed client (openai 3.54.0), vLLM's protocol (0.32: `video_url`). Which frames of a clip are looked at
is the server's choice (vLLM's `--media-io-kwargs`; by default it refuses requests that say); of frames, the recipe's.
"""

import asyncio
import base64
import contextlib
from collections import Counter
from collections.abc import Awaitable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletion

from shared.errors import MediaError, UsageError
from shared.teachers.answers import fail, read
from shared.teachers.frames import frames
from shared.teachers.media import mime_type
from shared.teachers.pace import Pace
from shared.teachers.teacher import Reply, Request, TeacherError, Usage
from shared.teachers.tries import Patience, Tries

CLIP_CEILING = 64 * 2**20  #: bytes of a clip that travels inside each request


class OpenAITeacher:
    """A `Teacher` behind `POST /chat/completions`."""

    def __init__(
        self, api_key: str, *, base_url: str, pace: Pace | None = None, patience: Patience = Patience()
    ) -> None:
        """`api_key` may be empty, where the server asks for none."""
        self._patience, self._pace, self._key = patience, pace or Pace(32), api_key
        # The pace bounds its connections; all are kept.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx2.AsyncClient(timeout=patience.timeout_s, limits=limits)
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none", base_url=base_url, max_retries=0, timeout=patience.timeout_s,
            http_client=self._http,
        )  # fmt: skip
        self._frames: dict[str, asyncio.Task[list[str]]] = {}
        self.troubles: Counter[str] = Counter()
        self.batched = False

    async def prepare(self, request: Request, clip: Path | None) -> None:
        if clip is not None and request.teacher.video == "frames":
            with contextlib.suppress(TeacherError):
                await self._pictures(request, clip)

    async def ask(self, request: Request, clip: Path | None) -> Reply:
        tries = Tries(self._patience, self.troubles)
        return await self._pace.persist(
            tries, lambda: self._pace.paced(request, lambda: self._once(request, clip, tries))
        )

    async def _once(self, request: Request, clip: Path | None, tries: Tries) -> Reply:
        teacher = request.teacher
        content = [*(await self._video(request, clip) if clip else []), {"type": "text", "text": request.prompt}]
        messages: Any = [{"role": "user", "content": content}]  # Any: the client's types know no `video_url`
        schema = {**request.schema, "additionalProperties": False}
        response = await self._call(
            self._client.chat.completions.create(
                model=teacher.model,
                messages=messages,
                temperature=teacher.temperature,
                seed=(request.seed + tries.sample) % 2**31,
                max_completion_tokens=teacher.max_output_tokens * tries.room,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": request.answer.__name__, "schema": schema, "strict": True},
                },
            )
        )
        return _read(response, request)

    async def _video(self, request: Request, clip: Path) -> list[dict[str, Any]]:
        if request.teacher.video == "clip":
            url = await asyncio.to_thread(_data_url, clip)
            return [{"type": "video_url", "video_url": {"url": url}}]
        urls = await self._pictures(request, clip)
        detail = {"low": "low", "high": "high"}.get(request.teacher.media_resolution, "auto")
        return [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url in urls]

    async def _pictures(self, request: Request, clip: Path) -> list[str]:
        """The clip's frames, taken once for all that is asked about it."""
        name = request.clip or str(clip)
        if name not in self._frames:
            self._frames[name] = asyncio.create_task(asyncio.to_thread(frames, clip, request.teacher))
        try:
            return await asyncio.shield(self._frames[name])
        except MediaError as error:
            raise TeacherError("rejected", str(error)) from None

    async def _call(self, answer: Awaitable[ChatCompletion]) -> ChatCompletion:
        """The answer, or what the client and its transport raise as `TeacherError` or `UsageError`, without the key.

        The error has no context: what the service echoes must not be in that either.
        """
        try:
            return await answer
        except openai.APIStatusError as error:
            failure: TeacherError | UsageError = _typed(error, self._redact(_said(error)))
        except openai.APITimeoutError as error:
            failure = TeacherError("timeout", self._redact(str(error)))
        except openai.APIConnectionError as error:
            failure = TeacherError("connection", self._redact(str(error.__cause__ or error)))
        except (openai.OpenAIError, ValueError) as error:  # not JSON, or not of the protocol
            failure = TeacherError("server", f"the answer is not of its protocol: {self._redact(str(error)):.200}")
        raise failure

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "(the key)") if self._key else text

    async def release(self, clip: str) -> None:
        self._frames.pop(clip, None)

    async def aclose(self) -> None:
        self._frames.clear()
        await self._client.close()
        await self._http.aclose()
        await self._pace.aclose()


def _data_url(clip: Path) -> str:
    if (size := clip.stat().st_size) > CLIP_CEILING:
        raise TeacherError(
            "rejected", f"the clip {clip.name} has {size} bytes, more than {CLIP_CEILING} in a request: video: frames"
        )
    data = clip.read_bytes()
    return f"data:{mime_type(data[:16])};base64,{base64.b64encode(data).decode()}"


def _read(response: ChatCompletion, request: Request) -> Reply:
    if not isinstance(response, ChatCompletion):  # the client hands on what is no JSON
        raise TeacherError("server", "the answer is not of its protocol")
    usage = _usage(response)
    if not response.choices:
        fail("empty", "no choice", usage)
    choice = response.choices[0]
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        fail("blocked", f"the answer was blocked: {choice.message.refusal or choice.finish_reason}", usage)
    model = response.model or request.teacher.model
    return read(choice.message.content or "", request, usage, model, cut=choice.finish_reason == "length")


def _usage(response: ChatCompletion) -> Usage:
    used = response.usage
    if used is None:
        return Usage(calls=1)
    cached = used.prompt_tokens_details.cached_tokens if used.prompt_tokens_details else 0
    return Usage(used.prompt_tokens, used.completion_tokens, 1, cached or 0)


def _said(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return f"{error.status_code}: {body.get('message') or error.message}"


def _typed(error: openai.APIStatusError, message: str) -> TeacherError | UsageError:
    code = error.status_code
    if code in (401, 403):
        return UsageError(f"the teacher refuses the key ({message}); set ROADQA_OPENAI_API_KEY to a valid one")
    if code == 404:
        return UsageError(
            f"the teacher knows no such model ({message}); correct teacher.model, or ROADQA_OPENAI_BASE_URL"
        )
    if code == 429:
        return TeacherError("rate limited", message, retry_after=retry_after(error.response.headers))
    if code in (408, 504):
        return TeacherError("timeout", message)
    return TeacherError("server" if code >= 500 else "rejected", message)


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds in `Retry-After`: a number, or a date, which is compared with the answer's own. None without one."""
    said = headers.get("retry-after", "")
    try:
        return float(said)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(said) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (ValueError, KeyError):
        return None
