"""A teacher that speaks Gemini's HTTP protocol on loopback, and knows what the sandbox's clips show.

`python -m services.sandbox.teacher --port 8765`

Served: `POST /v1beta/models/sandbox-{any}:generateContent` and `:countTokens`, resumable uploads at
`/upload/v1beta/files`, `GET` and `DELETE /v1beta/files/{id}`, `GET /health`.
Source of the protocol: ai.google.dev/api (generateContent, files), as google-genai 3.4 speaks it.
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
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from services.sandbox.clips import scene_of
from services.sandbox.mistakes import Case, Mistakes, Rates
from services.sandbox.questions import truth
from shared.errors import RoadQAError

REQUEST_BYTES = 20 * 2**20  #: Gemini's bound on one request
FILE_BYTES = 2 * 2**30
SCENES = 4096  #: clips whose scene is remembered
MODELS = "sandbox-"  #: what the names of the models here begin with: another's must not seem to answer
TOKENS_PER_FRAME = 258  #: Gemini's figure for a frame at medium resolution
_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_OTHER_MODELS = f": the sandbox has {MODELS}teacher only; for Gemini's set ROADQA_GEMINI_API_KEY, then `make down up`"
_BLOCK = re.compile(r"<question>\n(.*?)\n</question>\n<choices>\n(.*?)\n</choices>", re.DOTALL)
_VOTE = re.compile(r"^Vote \d+: choice (\d+) ", re.MULTILINE)


class Faults(NamedTuple):
    """Shares of generateContent calls that fail in each way."""

    limited: float = 0.0  #: 429, with a retryDelay
    server: float = 0.0  #: 500
    malformed: float = 0.0  #: 200, but the text is JSON cut short
    empty: float = 0.0  #: 200 without a candidate
    retry_delay_s: float = 0.2


@dataclass(frozen=True)
class Options:
    rates: Rates = field(default_factory=Rates)
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    latency_s: float = 0.0
    api_key: str | None = None  #: the only key accepted; None accepts any
    polls: int = 1  #: looks at an uploaded file before it is ACTIVE


class Refusal(Exception):  # noqa: N818 - an answer of the protocol, not a failure of the server
    """An error as Gemini words it."""

    def __init__(self, code: int, message: str, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "error": {
                "code": code,
                "message": message,
                "status": _STATUS.get(code, "INTERNAL"),
                "details": details or [],
            }
        }


@dataclass
class Upload:
    """A file on its way in, or there."""

    name: str
    mime_type: str
    size: int
    data: bytearray = field(default_factory=bytearray)
    complete: bool = False
    looks: int = 0


class Seen(NamedTuple):
    """What the teacher knows of a clip."""

    digest: str
    scene: Any
    seconds: float


class TeacherServer:
    """The server's state: uploads, remembered scenes, and how often each request was tried."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._mistakes = Mistakes(options.rates, options.seed)
        self._uploads: dict[str, Upload] = {}
        self._scenes: OrderedDict[str, Seen] = OrderedDict()
        self._tries: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=FILE_BYTES, middlewares=[self._in_protocol])
        app.router.add_get("/health", self._health)
        app.router.add_post("/upload/{version:v1[a-z]*}/files", self._start_upload)
        app.router.add_post("/upload/{version:v1[a-z]*}/files/{id}", self._receive)
        app.router.add_get("/{version:v1[a-z]*}/files/{id}", self._file)
        app.router.add_delete("/{version:v1[a-z]*}/files/{id}", self._delete)
        app.router.add_post("/{version:v1[a-z]*}/models/{call}", self._call)
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
            return web.json_response(refusal.body, status=refusal.code)

    def _check_key(self, request: web.Request) -> None:
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not key:
            raise Refusal(403, "Method doesn't allow unregistered callers. Please use API Key.")
        if self._options.api_key not in (None, key):
            reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            raise Refusal(400, "API key not valid. Please pass a valid API key.", [reason])

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "served": dict(self.served), "files": len(self._uploads)})

    # Files

    async def _start_upload(self, request: web.Request) -> web.Response:
        if request.headers.get("X-Goog-Upload-Command") != "start":
            raise Refusal(400, "X-Goog-Upload-Command must be start.")
        upload = Upload(
            name=secrets.token_hex(6),
            mime_type=request.headers.get("X-Goog-Upload-Header-Content-Type", ""),
            size=int(request.headers.get("X-Goog-Upload-Header-Content-Length", "0")),
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
        self.served["upload"] += 1
        body = {"file": self._described(upload, request)}
        return web.json_response(body, headers={"X-Goog-Upload-Status": "final"})

    async def _file(self, request: web.Request) -> web.Response:
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
        return upload.complete and upload.looks >= self._options.polls

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
        if not model.startswith(MODELS):
            raise Refusal(404, f"models/{model} is not found for API version v1beta{_OTHER_MODELS}")
        raw = await request.read()
        if len(raw) > REQUEST_BYTES:
            raise Refusal(400, f"Request payload size exceeds the limit: {REQUEST_BYTES} bytes.")
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise Refusal(400, f"Invalid JSON payload received. {error}") from error
        if method == "countTokens":
            return web.json_response({"totalTokens": self._tokens(_field(body, "generateContentRequest") or body)})
        if method != "generateContent":
            raise Refusal(404, f"models/{model} has no method {method!r}.")
        if self._options.latency_s:
            await asyncio.sleep(self._options.latency_s)
        return web.json_response(self._generate(model, body, hashlib.sha256(raw).hexdigest()))

    def _generate(self, model: str, body: dict[str, Any], request: str) -> dict[str, Any]:
        fault = self._fault(request)
        self.served["generateContent"] += 1
        clip, prompt = self._seen(_parts(body)), _prompt(_parts(body))
        if clip is None:
            raise Refusal(400, "This teacher answers questions on a video; the request holds none.")
        config = _field(body, "generationConfig") or {}
        answer = self._answer(clip, prompt, _schema(config), f"{config.get('seed', 0)}/{prompt}")
        text = json.dumps(answer, ensure_ascii=False)
        if fault == "empty":
            return {"usageMetadata": self._usage(body, ""), "modelVersion": model}
        if fault == "malformed":
            text = text[: len(text) // 2]
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
        return {"candidates": [candidate], "usageMetadata": self._usage(body, text), "modelVersion": f"{model}-sandbox"}

    def _fault(self, request: str) -> str | None:
        """Draw this try's fault; another try of the same request draws anew."""
        faults = self._options.faults
        self._tries[request] += 1
        draw = hashlib.sha256(f"{self._options.seed}/{request}/{self._tries[request]}".encode()).digest()
        share = int.from_bytes(draw[:8], "big") / 2**64
        for name, rate in faults._asdict().items():
            if name == "retry_delay_s":
                break
            if share < rate:
                return self._raised(name)
            share -= rate
        return None

    def _raised(self, fault: str) -> str:
        if fault == "limited":
            delay = f"{self._options.faults.retry_delay_s:g}s"
            info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
            raise Refusal(429, f"You exceeded your current quota. Please retry in {delay}.", [info])
        if fault == "server":
            raise Refusal(500, "An internal error has occurred. Please retry.")
        self.served[fault] += 1
        return fault

    def _answer(self, clip: Seen, prompt: str, schema: dict[str, Any], request: str) -> dict[str, Any]:
        case = _case(clip, prompt)
        wanted = schema.get("properties", {})
        if "verdict" in wanted:
            votes = [int(number) - 1 for number in _VOTE.findall(prompt)]
            verdict = self._mistakes.verify(case, votes, request)
            word = "consistent" if verdict.consistent else "inconsistent"
            doubts = [] if verdict.consistent else [f"The clip shows: {case.choices[verdict.answer]}."]
            return {"inconsistencies": doubts, "answer": verdict.answer + 1, "verdict": word}
        if "answer" in wanted:
            place = self._mistakes.vote(case, request)
            return {"reasoning": f"The clip shows: {case.choices[place]}.", "answer": place + 1}
        raise Refusal(400, "This teacher answers schemas with `answer`, or `answer` and `verdict`, only.")

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
        if key not in self._scenes:
            try:  # the SDK writes the URL-safe alphabet
                data = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
            except binascii.Error as error:
                raise Refusal(400, f"inlineData.data is not base64: {error}") from error
            self._remember(key, data)
        self._scenes.move_to_end(key)
        return self._scenes[key]

    def _uploaded(self, file: dict[str, Any]) -> Seen:
        name = str(_field(file, "fileUri") or "").rpartition("/")[2]
        upload = self._upload(name)
        if not self._active(upload):
            raise Refusal(400, f"The File {name} is not in an ACTIVE state and usage is not allowed.")
        if name not in self._scenes:
            self._remember(name, bytes(upload.data))
        return self._scenes[name]

    def _remember(self, key: str, data: bytes) -> None:
        try:
            scene = scene_of(data)
        except RoadQAError as error:
            raise Refusal(400, f"The video could not be processed: {error}") from error
        self._scenes[key] = Seen(hashlib.sha256(data).hexdigest(), scene, float(getattr(scene, "seconds", 5.0)))
        while len(self._scenes) > SCENES:
            self._scenes.popitem(last=False)

    # Tokens

    def _tokens(self, body: dict[str, Any]) -> int:
        parts = _parts(body)
        clip = self._seen(parts)
        fps = next((meta.get("fps", 1.0) for part in parts if (meta := _field(part, "videoMetadata"))), 1.0)
        if not 0 < fps <= 24:
            raise Refusal(400, f"video_metadata.fps must be in (0, 24], it is {fps}.")
        frames = 0 if clip is None else max(1, round(clip.seconds * fps))
        return frames * TOKENS_PER_FRAME + len(_prompt(parts)) // 4

    def _usage(self, body: dict[str, Any], text: str) -> dict[str, int]:
        asked, answered = self._tokens(body), len(text) // 4
        return {"promptTokenCount": asked, "candidatesTokenCount": answered, "totalTokenCount": asked + answered}


def _field(message: dict[str, Any], name: str) -> Any:
    """A field by its JSON name or its proto name, as protobuf's JSON accepts both; None where it is missing."""
    return message.get(name, message.get(re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)))


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    contents = body.get("contents") or []
    if not contents:
        raise Refusal(400, "contents is not specified")
    return [part for content in contents for part in content.get("parts", [])]


def _prompt(parts: list[dict[str, Any]]) -> str:
    return "\n".join(part["text"] for part in parts if "text" in part)


def _schema(config: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = _field(config, "responseJsonSchema") or _field(config, "responseSchema") or {}
    return schema


def _case(clip: Seen, prompt: str) -> Case:
    match = _BLOCK.search(prompt)
    if match is None:
        raise Refusal(400, "The prompt holds no <question> and <choices>.")
    choices = tuple(line.partition(". ")[2] for line in match[2].split("\n"))
    place = truth(clip.scene, match[1], choices)
    if place is None:
        raise Refusal(400, f"The scene does not tell: {match[1]} ({', '.join(choices)})")
    return Case(clip.digest, match[1], choices, place)


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.sandbox.teacher", description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vote-error", type=float, default=Rates().vote_error)
    parser.add_argument("--common-share", type=float, default=Rates().common_share)
    parser.add_argument("--verify-error", type=float, default=Rates().verify_error)
    parser.add_argument("--see-through", type=float, default=Rates().see_through)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", default="", help="such as 429=0.05,500=0.02,malformed=0.02,empty=0.01")
    parser.add_argument("--retry-delay", type=float, default=Faults().retry_delay_s, help="seconds a 429 asks for")
    parser.add_argument("--polls", type=int, default=1, help="looks at an upload before it is ACTIVE")
    parser.add_argument("--api-key", help="accept this key only")
    return parser.parse_args(arguments)


def parse_faults(text: str, retry_delay_s: float = 0.2) -> Faults:
    """Read `429=0.05,500=0.02,malformed=0.02,empty=0.01`.

    Raises:
        ValueError: an unknown fault, or a share that is no number.
    """
    fields = {"429": "limited", "500": "server", "malformed": "malformed", "empty": "empty"}
    rates = {}
    for item in filter(None, text.split(",")):
        name, _, share = item.partition("=")
        if name.strip() not in fields:
            raise ValueError(f"unknown fault {name!r}; choose from {', '.join(fields)}")
        rates[fields[name.strip()]] = float(share)
    return Faults(**rates, retry_delay_s=retry_delay_s)


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
        rates=Rates(args.vote_error, args.common_share, args.verify_error, args.see_through),
        faults=parse_faults(args.faults, args.retry_delay),
        seed=args.seed, latency_s=args.latency, api_key=args.api_key, polls=args.polls,
    )  # fmt: skip
    try:
        asyncio.run(serve(options, args.host, args.port))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
