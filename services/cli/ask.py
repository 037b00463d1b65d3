"""`roadqa ask`: one question on one clip, put to a server of OpenAI's protocol, its answer held to the choices."""

import json
import math
import mimetypes
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from shared.chat import messages
from shared.direct import fetch
from shared.errors import InputError, RoadQAError, UsageError
from shared.formats.choices import parse_choices
from shared.formats.common import one_line, tidy
from shared.prompts import LETTERS, SystemPrompt, letter
from shared.schema import Choice, Origin, Question
from shared.settings import settings
from shared.video import probe

#: What vLLM gives of each token, unless it is told otherwise (`--max-logprobs`).
MOST_LOGPROBS = 20


class Reply(NamedTuple):
    """A model's answer."""

    letter: str
    text: str
    confidence: float | None  #: probability among the choices; None where the server gives no log-probabilities
    probabilities: dict[str, float]  #: of each letter, as far as the server gives them
    model: str
    prompt_tokens: int
    seconds: float  #: from request to answer


def question(text: str, choices: Sequence[str]) -> Question:
    """The question as it was typed; letters before the choices (`A. yes`) are understood.

    Raises:
        UsageError: it has no text, or less than two choices with one.
    """
    if not tidy(text) or not 2 <= len(choices) <= len(LETTERS) or not all(tidy(choice) for choice in choices):
        raise UsageError(
            "a question and 2 to 26 choices, none of them empty: roadqa ask CLIP QUESTION --choices yes no"
        )
    parsed = tuple(Choice(label=letter(i), text=one.text) for i, one in enumerate(parse_choices(choices)))
    return Question(id="asked", clip="0" * 64, text=tidy(text), choices=parsed, origin=Origin(answer="none"))


def body(asked: Question, clip: Path, model: str, system_prompt: SystemPrompt) -> dict[str, Any]:
    """The request, worded as in training: one token, which must be one of the letters.

    Raises:
        MediaError: the clip is no video, or damaged.
    """
    probe(clip)
    media_type = mimetypes.guess_type(clip.name)[0] or "video/mp4"
    letters = list(LETTERS[: len(asked.choices)])
    return {
        "model": model,
        "messages": messages(asked, clip.read_bytes(), system_prompt, media_type),
        "max_tokens": 1,
        "temperature": 0,
        "structured_outputs": {"choice": letters},
        "logprobs": True,
        "top_logprobs": min(len(letters), MOST_LOGPROBS),
    }


class Server:
    """A server of OpenAI's protocol, and the key that it asks for."""

    def __init__(self, url: str, timeout: float) -> None:
        base = url.rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise UsageError(f"--url: {url!r} is no address: http://host:8000")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._timeout, self._key = timeout, settings().serve_api_key.get_secret_value()

    def model(self) -> str:
        """The one model that is served.

        Raises:
            UsageError: there are several, or none.
        """
        names = [str(one["id"]) for one in self._call("models").get("data", [])]
        if len(names) != 1:
            raise UsageError(f"{self._base} serves {', '.join(names) or 'nothing'}: name one with --model")
        return names[0]

    def ask(self, asked: Question, clip: Path, model: str, system_prompt: SystemPrompt) -> Reply:
        """Raises RoadQAError where it does not answer with one of the letters."""
        sent = body(asked, clip, model, system_prompt)
        began = time.monotonic()
        return reply(asked, self._call("chat/completions", sent), time.monotonic() - began)

    def _call(self, path: str, sent: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if sent is None else json.dumps(sent).encode()
        request = urllib.request.Request(f"{self._base}/{path}", data, headers)
        try:
            found = json.loads(fetch(request, self._timeout))
        except urllib.error.HTTPError as error:
            raise _refused(self._base, error, bool(self._key)) from error
        except ValueError as error:
            raise RoadQAError(
                f"{self._base}/{path}: answers no JSON; is this a server of OpenAI's protocol?"
            ) from error
        except OSError as error:
            why = one_line(str(getattr(error, "reason", error)))
            raise RoadQAError(f"{self._base}: does not answer ({why}); start one with `roadqa serve MODEL`") from error
        if not isinstance(found, dict):
            raise RoadQAError(f"{self._base}/{path}: answers {type(found).__name__}, not an object")
        return found


def _refused(base: str, error: urllib.error.HTTPError, key: bool) -> RoadQAError:
    if error.code in (401, 403):
        what = "takes another key than" if key else "asks for a key: set"
        return UsageError(f"{base} {what} ROADQA_SERVE_API_KEY")
    said = error.read(4000).decode("utf-8", "replace")
    with suppress(ValueError, KeyError, AttributeError):  # what is not in the protocol's form is told as it came
        found = json.loads(said)
        said = str(found["error"]["message"] if isinstance(found.get("error"), dict) else found.get("message", said))
    kind = InputError if error.code in (400, 413, 422) else RoadQAError
    return kind(f"{base} refuses ({error.code}): {one_line(said[:500])}")


def reply(asked: Question, found: Mapping[str, Any], seconds: float) -> Reply:
    """What a server's answer says.

    Raises:
        RoadQAError: it is none of the letters, or no answer at all.
    """
    letters = LETTERS[: len(asked.choices)]
    try:
        (choice,) = found["choices"]
        said = str(choice["message"]["content"]).strip()
        tokens = (choice.get("logprobs") or {}).get("content") or []
        model, prompt_tokens = str(found["model"]), int(found["usage"]["prompt_tokens"])
        told = [
            (str(one["token"]).strip(), float(one["logprob"])) for one in (tokens[0]["top_logprobs"] if tokens else [])
        ]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise RoadQAError(f"the server's answer is not understood ({type(error).__name__}: {error})") from error
    if len(said) != 1 or said not in letters:
        raise RoadQAError(
            f"the model answers {one_line(said[:80])!r}, none of {', '.join(letters)}: the server does not hold it to"
            " `structured_outputs`; serve it by `roadqa serve`, or another recent vLLM"
        )
    shares = _shares({name: value for name, value in told if len(name) == 1 and name in letters})
    text = asked.choices[letters.index(said)].text
    return Reply(said, text, shares.get(said), shares, model, prompt_tokens, seconds)


def _shares(logprobs: Mapping[str, float]) -> dict[str, float]:
    """Probabilities over the letters alone."""
    if not logprobs:
        return {}
    most = max(logprobs.values())
    weights = {name: math.exp(value - most) for name, value in sorted(logprobs.items())}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}
