"""The sandbox's teacher as an OpenAI-compatible server: `POST /v1/chat/completions` with a `video_url`.

Source of the protocol: OpenAI's chat completions, and vLLM's `video_url`, as openai 3.54 and vLLM 0.32 speak them.
"""

import base64
import binascii
import hashlib
import json
from typing import Any

from aiohttp import web

from services.sandbox.faults import Refusal
from services.sandbox.oracle import Asked, Oracle, Said, Seen, check_model

CLIP_FPS = 2.0  #: of what the server looks at, as vLLM does by default: no request says
_ENDS = {"stop": "stop", "cut": "length", "blocked": "content_filter", "refused": "content_filter"}


def error(refusal: Refusal) -> web.Response:
    """An error as OpenAI's servers word it."""
    headers = {} if refusal.retry_delay_s is None else {"Retry-After": f"{refusal.retry_delay_s:g}"}
    body = {"error": {"message": refusal.message, "type": refusal.reason or "error", "code": refusal.code}}
    return web.json_response(body, status=refusal.code, headers=headers)


def asked(oracle: Oracle, body: dict[str, Any]) -> Asked:
    """The request in a body. Raises `Refusal` where it has another form."""
    check_model(str(body.get("model", "")))
    parts: list[dict[str, Any]] = []
    for message in body.get("messages") or []:
        content = message.get("content") or []
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    video = next((part["video_url"]["url"] for part in parts if part.get("type") == "video_url"), None)
    prompt = "\n".join(part["text"] for part in parts if part.get("type") == "text")
    form = (body.get("response_format") or {}).get("json_schema") or {}
    if "media_io_kwargs" in body or "mm_processor_kwargs" in body:
        raise Refusal(400, "Per-request media_io_kwargs are disabled by default.")
    room = body.get("max_completion_tokens") or body.get("max_tokens")
    clip = _seen(oracle, video) if video else None
    return Asked(clip, prompt, form.get("schema") or {}, int(body.get("seed") or 0), room, CLIP_FPS)


def _seen(oracle: Oracle, url: str) -> Seen:
    head, _, encoded = url.partition(";base64,")
    if not head.startswith("data:video/"):
        raise Refusal(400, "video_url: only data URLs of videos are taken here.")
    key = hashlib.sha256(encoded.encode()).hexdigest()
    try:
        return oracle.known(key) or oracle.remember(key, base64.b64decode(encoded, validate=True))
    except binascii.Error as error:
        raise Refusal(400, f"video_url: not base64: {error}") from error


def completion(model: str, said: Said) -> dict[str, Any]:
    """What was said, as a chat completion."""
    message = {"role": "assistant", "content": said.text or None}
    choice = {"index": 0, "message": message, "finish_reason": _ENDS.get(said.end, "stop"), "logprobs": None}
    identity = hashlib.sha256(json.dumps([model, *said]).encode()).hexdigest()[:24]
    usage = {"prompt_tokens": said.tokens_in, "completion_tokens": said.tokens_out,
             "total_tokens": said.tokens_in + said.tokens_out}  # fmt: skip
    return {
        "id": f"chatcmpl-{identity}", "object": "chat.completion", "created": 0, "model": f"{model}-sandbox",
        "choices": [] if said.end == "nothing" else [choice], "usage": usage,
    }  # fmt: skip
