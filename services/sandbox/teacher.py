"""A teacher that speaks Gemini's HTTP protocol on loopback, and knows what the sandbox's clips show.

`python -m services.sandbox.teacher --port 8765`

Served: `POST /v1beta/models/sandbox-{any}:generateContent`, `:countTokens` and `:batchGenerateContent`, resumable
uploads at `/upload/v1beta/files`, `GET` and `DELETE /v1beta/files/{id}`, `/v1beta/batches`, `GET /health`. And OpenAI's
`POST /v1/chat/completions`, with a `video_url`.
Source of the protocol: ai.google.dev/api (generateContent, files, batches), as google-genai 3.4 speaks it.
"""

import argparse
import asyncio
import base64
import binascii
import hashlib
import json
import re
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from services.sandbox import chat
from services.sandbox.batches import Batches
from services.sandbox.faults import FAULTS, MEANING, Faults, Refusal, google_error
from services.sandbox.mistakes import Rates
from services.sandbox.oracle import Asked, Options, Oracle, Said, Seen, check_model

REQUEST_BYTES = 20 * 2**20  #: Gemini's bound on one request
FILE_BYTES = 2 * 2**30
_ENDS = {"stop": "STOP", "cut": "MAX_TOKENS", "blocked": "SAFETY"}


@dataclass
class Upload:
    """A file on its way in, or there."""

    name: str
    mime_type: str
    size: int
    stuck: bool
    data: bytearray = field(default_factory=bytearray)
    complete: bool = False
    looks: int = 0


class TeacherServer:
    """The server's state: uploads, jobs, and what it was asked."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._oracle = Oracle(options)
        self._uploads: dict[str, Upload] = {}
        self._sent = 0
        self._batches = Batches(options, self._from_batch)
        self._in_flight = 0

    @property
    def served(self) -> Counter[str]:
        return self._oracle.served

    def app(self) -> web.Application:
        app = web.Application(client_max_size=FILE_BYTES, middlewares=[self._in_protocol])
        app.router.add_get("/health", self._health)
        app.router.add_post("/upload/{version:v1[a-z]*}/files", self._start_upload)
        app.router.add_post("/upload/{version:v1[a-z]*}/files/{id}", self._receive)
        app.router.add_get("/{version:v1[a-z]*}/files/{id}", self._file)
        app.router.add_delete("/{version:v1[a-z]*}/files/{id}", self._delete)
        app.router.add_post("/{version:v1[a-z]*}/models/{call}", self._call)
        app.router.add_get("/{version:v1[a-z]*}/batches", self._jobs)
        app.router.add_get("/{version:v1[a-z]*}/batches/{id}", self._job)
        app.router.add_post("/{version:v1[a-z]*}/batches/{id}:cancel", self._cancel_job)
        app.router.add_delete("/{version:v1[a-z]*}/batches/{id}", self._delete_job)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    @web.middleware
    async def _in_protocol(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if request.match_info.handler not in (self._health, self._receive):  # an upload's URL is its own warrant
                self._check_key(request)
            return await handler(request)
        except Refusal as refusal:
            self.served[f"error {refusal.code}"] += 1
            if request.match_info.handler == self._chat:
                return chat.error(refusal)
            return web.json_response(google_error(refusal), status=refusal.code)

    def _check_key(self, request: web.Request) -> None:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        key = request.headers.get("x-goog-api-key") or request.query.get("key") or bearer
        openai = request.match_info.handler == self._chat
        if not key and not (openai and self._options.api_key is None):
            raise Refusal(403, "Method doesn't allow unregistered callers. Please use API Key.")
        if self._options.api_key not in (None, key):
            # Some servers echo the key that they refuse: this one does, so that it shows where that ends up.
            raise Refusal(
                401 if openai else 400, f"API key not valid: {key}. Please pass a valid one.", "API_KEY_INVALID"
            )

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "served": dict(self.served), "files": len(self._uploads)})

    # Files

    async def _start_upload(self, request: web.Request) -> web.Response:
        if request.headers.get("X-Goog-Upload-Command") != "start":
            raise Refusal(400, "X-Goog-Upload-Command must be start.")
        self._sent += 1
        draw = hashlib.sha256(f"{self._options.seed}/upload/{self._sent}".encode()).digest()
        upload = Upload(
            name=secrets.token_hex(6),
            mime_type=request.headers.get("X-Goog-Upload-Header-Content-Type", ""),
            size=int(request.headers.get("X-Goog-Upload-Header-Content-Length", "0")),
            stuck=int.from_bytes(draw[:8], "big") / 2**64 < self._options.stuck,
        )
        self._uploads[upload.name] = upload
        where = request.url.origin() / request.path.strip("/") / upload.name
        headers = {"X-Goog-Upload-URL": str(where), "X-Goog-Upload-Status": "active"}
        return web.json_response({}, headers=headers)

    async def _receive(self, request: web.Request) -> web.Response:
        upload = self._find(request)
        if int(request.headers.get("X-Goog-Upload-Offset", "0")) != len(upload.data):
            raise Refusal(400, f"The next offset is {len(upload.data)}.")
        upload.data += await request.read()
        if "finalize" not in request.headers.get("X-Goog-Upload-Command", ""):
            return web.json_response({}, headers={"X-Goog-Upload-Status": "active"})
        if len(upload.data) != upload.size:
            raise Refusal(400, f"{len(upload.data)} bytes were sent, {upload.size} were announced.")
        upload.complete = True
        self.served["upload" if upload.mime_type.startswith("video/") else "upload of requests"] += 1
        body = {"file": self._described(upload, request)}
        return web.json_response(body, headers={"X-Goog-Upload-Status": "final"})

    async def _file(self, request: web.Request) -> web.Response:
        name, _, method = request.match_info["id"].partition(":")
        if method == "download":
            answers = self._batches.answers(name)
            if answers is None:
                raise Refusal(403, f"You do not have permission to access the File {name} or it may not exist.")
            return web.Response(body=answers, content_type="application/jsonl")
        upload = self._find(request)
        upload.looks += 1
        return web.json_response(self._described(upload, request))

    async def _delete(self, request: web.Request) -> web.Response:
        del self._uploads[self._find(request).name]
        self.served["delete"] += 1
        return web.json_response({})

    def _find(self, request: web.Request) -> Upload:
        return self._upload(request.match_info["id"])

    def _upload(self, name: str) -> Upload:
        if name not in self._uploads:
            raise Refusal(403, f"You do not have permission to access the File {name} or it may not exist.")
        return self._uploads[name]

    def _active(self, upload: Upload) -> bool:
        return upload.complete and not upload.stuck and upload.looks >= self._options.polls

    def _described(self, upload: Upload, request: web.Request) -> dict[str, Any]:
        return {
            "name": f"files/{upload.name}",
            "uri": str(request.url.origin() / "v1beta/files" / upload.name),
            "mimeType": upload.mime_type,
            "sizeBytes": str(upload.size),
            "sha256Hash": base64.b64encode(hashlib.sha256(upload.data).digest()).decode(),
            "state": "ACTIVE" if self._active(upload) else "PROCESSING",
        }

    # Models

    async def _call(self, request: web.Request) -> web.Response:
        model, _, method = request.match_info["call"].partition(":")
        check_model(model)
        raw, body = await _json(request)
        if method == "countTokens":
            asked = self._asked(_field(body, "generateContentRequest") or body)
            return web.json_response({"totalTokens": self._oracle.tokens(asked)})
        if method == "batchGenerateContent":
            batch = body.get("batch") or {}
            name = str(_field(_field(batch, "inputConfig") or {}, "fileName") or "").rpartition("/")[2]
            made = self._batches.create(model, batch, bytes(self._upload(name).data))
            self.served["batch"] += 1
            return web.json_response(made)
        if method != "generateContent":
            raise Refusal(404, f"models/{model} has no method {method!r}.")
        fault = await self._begin(raw)
        return web.json_response(_response(model, self._oracle.say(self._asked(body), fault)))

    async def _chat(self, request: web.Request) -> web.Response:
        raw, body = await _json(request)
        fault = await self._begin(raw)
        said = self._oracle.say(chat.asked(self._oracle, body), fault)
        return web.json_response(chat.completion(str(body["model"]), said))

    async def _begin(self, raw: bytes) -> Any:
        """Wait as a model takes time; the fault that this try of the request meets, if any."""
        self._in_flight += 1
        self.served["most in flight"] = max(self.served["most in flight"], self._in_flight)
        try:
            if self._options.latency_s:
                await asyncio.sleep(self._options.latency_s)
            fault = self._oracle.fault(hashlib.sha256(raw).hexdigest())
            if fault == "hang":
                await asyncio.sleep(self._options.hang_s)
        finally:
            self._in_flight -= 1
        self.served["generateContent"] += 1
        return fault

    def _from_batch(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        fault = self._oracle.fault(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())
        self.served["generateContent"] += 1
        return _response(model, self._oracle.say(self._asked(body), fault))

    def _asked(self, body: dict[str, Any]) -> Asked:
        parts = _parts(body)
        config = _field(body, "generationConfig") or {}
        schema: dict[str, Any] = _field(config, "responseJsonSchema") or _field(config, "responseSchema") or {}
        resolution = str(_field(config, "mediaResolution") or "").rpartition("_")[2].lower()
        return Asked(
            self._seen(parts),
            "\n".join(part["text"] for part in parts if "text" in part),
            schema,
            int(config.get("seed") or 0),
            _field(config, "maxOutputTokens"),
            next((meta.get("fps", 1.0) for part in parts if (meta := _field(part, "videoMetadata"))), 1.0),
            resolution or "default",
        )

    # Jobs

    async def _jobs(self, request: web.Request) -> web.Response:
        return web.json_response(self._batches.all())

    async def _job(self, request: web.Request) -> web.Response:
        return web.json_response(self._batches.look(request.match_info["id"]))

    async def _cancel_job(self, request: web.Request) -> web.Response:
        self._batches.cancel(request.match_info["id"])
        self.served["batch cancelled"] += 1
        return web.json_response({})

    async def _delete_job(self, request: web.Request) -> web.Response:
        self._batches.delete(request.match_info["id"])
        return web.json_response({})

    # Clips

    def _seen(self, parts: list[dict[str, Any]]) -> Seen | None:
        for part in parts:
            if (blob := _field(part, "inlineData")) is not None:
                return self._inline(blob)
            if (file := _field(part, "fileData")) is not None:
                return self._uploaded(file)
        return None

    def _inline(self, blob: dict[str, Any]) -> Seen:
        encoded = blob.get("data", "")
        key = hashlib.sha256(encoded.encode()).hexdigest()
        if (seen := self._oracle.known(key)) is not None:
            return seen
        try:  # the SDK writes the URL-safe alphabet
            data = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
        except binascii.Error as error:
            raise Refusal(400, f"inlineData.data is not base64: {error}") from error
        return self._oracle.remember(key, data)

    def _uploaded(self, file: dict[str, Any]) -> Seen:
        name = str(_field(file, "fileUri") or "").rpartition("/")[2]
        upload = self._upload(name)
        if not self._active(upload):
            raise Refusal(400, f"The File {name} is not in an ACTIVE state and usage is not allowed.")
        return self._oracle.known(name) or self._oracle.remember(name, bytes(upload.data))


async def _json(request: web.Request) -> tuple[bytes, dict[str, Any]]:
    raw = await request.read()
    if len(raw) > REQUEST_BYTES:
        raise Refusal(400, f"Request payload size exceeds the limit: {REQUEST_BYTES} bytes.")
    try:
        return raw, json.loads(raw)
    except ValueError as error:
        raise Refusal(400, f"Invalid JSON payload received. {error}") from error


def _response(model: str, said: Said) -> dict[str, Any]:
    """What was said, as Gemini writes it."""
    usage = {"promptTokenCount": said.tokens_in, "candidatesTokenCount": said.tokens_out,
             "totalTokenCount": said.tokens_in + said.tokens_out}  # fmt: skip
    about: dict[str, Any] = {"usageMetadata": usage, "modelVersion": f"{model}-sandbox"}
    if said.end == "refused":
        return about | {"promptFeedback": {"blockReason": "SAFETY"}}
    if said.end == "nothing":
        return about
    content = {"role": "model", "parts": [{"text": said.text}]} if said.text else {"role": "model"}
    return about | {"candidates": [{"content": content, "finishReason": _ENDS[said.end], "index": 0}]}


def _field(message: dict[str, Any], name: str) -> Any:
    """A field by its JSON name or its proto name, as protobuf's JSON accepts both; None where it is missing."""
    return message.get(name, message.get(re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)))


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    contents = body.get("contents") or []
    if not contents:
        raise Refusal(400, "contents is not specified")
    return [part for content in contents for part in content.get("parts", [])]


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.sandbox.teacher", description=__doc__.split("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {fault:9} {MEANING[fault]}" for fault in FAULTS),
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vote-error", type=float, default=Rates().vote_error)
    parser.add_argument("--common-share", type=float, default=Rates().common_share)
    parser.add_argument("--verify-error", type=float, default=Rates().verify_error)
    parser.add_argument("--see-through", type=float, default=Rates().see_through)
    parser.add_argument("--slips", type=float, default=Rates().slips, help="rewritten questions that change meaning")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", default="", help="shares, such as 429=0.05,500=0.02,malformed=0.02")
    parser.add_argument("--retry-delay", type=float, default=Faults().retry_delay_s, help="seconds a 429 asks for")
    parser.add_argument("--hang", type=float, default=Options().hang_s, help="seconds that a `hang` takes")
    parser.add_argument("--polls", type=int, default=1, help="looks at an upload before it is ACTIVE")
    parser.add_argument("--stuck", type=float, default=0.0, help="share of uploads that stay in PROCESSING")
    parser.add_argument("--answer-tokens", type=int, default=0, help="output tokens that each answer needs")
    parser.add_argument("--gullible", action="store_true", help="obey `SAY: …` in a question or a clip's title")
    parser.add_argument("--batch-looks", type=int, default=1, help="looks at a batch job before it has ended")
    parser.add_argument(
        "--batch-left-out", type=float, default=0.0, help="share of requests that their first job leaves out"
    )
    parser.add_argument("--batch-ends", default="", help="how the first jobs end, such as EXPIRED,FAILED")
    parser.add_argument("--batch-unheard", type=int, default=0, help="first jobs that are taken but answered by a 500")
    parser.add_argument("--api-key", help="accept this key only")
    return parser.parse_args(arguments)


async def serve(options: Options, host: str, port: int) -> None:
    """Serve until cancelled; say on stdout where, once connections are accepted."""
    runner = web.AppRunner(TeacherServer(options).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    address = runner.addresses[0]
    sys.stdout.write(f"listening on http://{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(arguments: list[str]) -> None:
    args = _arguments(arguments)
    options = Options(
        rates=Rates(args.vote_error, args.common_share, args.verify_error, args.see_through, args.slips),
        faults=Faults.parse(args.faults, args.retry_delay),
        seed=args.seed, latency_s=args.latency, hang_s=args.hang, api_key=args.api_key, polls=args.polls,
        stuck=args.stuck, answer_tokens=args.answer_tokens, gullible=args.gullible, batch_looks=args.batch_looks,
        batch_left_out=args.batch_left_out, batch_ends=tuple(filter(None, args.batch_ends.split(","))),
        batch_unheard=args.batch_unheard,
    )  # fmt: skip
    try:
        asyncio.run(serve(options, args.host, args.port))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
