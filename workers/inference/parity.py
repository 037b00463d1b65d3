"""What the engine shows the model, for `roadqa verify`: `python -m workers.inference.parity REQUEST.json`.

In bulk: the engine that predicts, in this process. Over HTTP: a server that `roadqa serve` started is sent the clips as
any client sends them, and tells what its own processor made of each (`/v1/chat/completions/render`).
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import torch

from shared import parity
from shared.chat import messages
from shared.contracts import PredictRecipe
from shared.direct import fetch
from shared.errors import RoadQAError
from shared.parity import Request, Seen
from shared.schema import Question, Rows
from shared.settings import settings
from shared.video import sample
from shared.vlm.encode import Encoder, encoder
from shared.vlm.seen import seen
from workers.inference.engines import POOL, Asked, Shown, read_checkpoint

TIMEOUT = 600  #: seconds for one question
BATCH = 16  #: questions whose frames are in memory at once


def see(request: Request) -> Iterator[Seen]:
    """What the model is shown of each question, in the rows' order.

    Raises:
        InputError: the model or a question cannot be used; a clip that cannot be decoded (MediaError).
        RoadQAError: the server refuses a question, or does not answer.
    """
    return bulk(request) if request.url is None else over_http(request, request.url)


def bulk(request: Request) -> Iterator[Seen]:
    """By an engine of this process, as predict holds it."""
    from workers.inference.vllm_engine import VLLMEngine

    asking, rows, encode = request.asking, Rows([request.data]), encoder(request.model)
    recipe = PredictRecipe(engine="vllm", video=asking.video, system_prompt=asking.system_prompt)
    engine = POOL.engine(read_checkpoint(request.model), encode, recipe)
    assert isinstance(engine, VLLMEngine)
    for start in range(0, len(rows.questions), BATCH):
        batch = rows.questions[start : start + BATCH]
        frames = {clip: sample(rows.clip_path(clip), asking.video) for clip in {question.clip for question in batch}}
        asked = [Asked(question, frames[question.clip], question.clip) for question in batch]
        for question, shown in zip(batch, engine.shown(asked, recipe), strict=True):
            yield seen(encode, question, shown.token_ids, shown.clip, shown.logprobs, engine.precision)
    POOL.close()


def over_http(request: Request, url: str) -> Iterator[Seen]:
    """By the server at `url`."""
    rows, encode = Rows([request.data]), encoder(request.model)
    for question in rows.questions:
        body = _body(question, rows.clip_path(question.clip).read_bytes(), request)
        shown = _shown(question, body, encode, url)
        yield seen(encode, question, shown.token_ids, shown.clip, shown.logprobs, None)


def _body(question: Question, clip: bytes, request: Request) -> dict[str, Any]:
    """The request of an OpenAI client."""
    return {"model": request.served_name, "messages": messages(question, clip, request.asking.system_prompt)}


def _shown(question: Question, body: dict[str, Any], encode: Encoder, url: str) -> Shown:
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import decode_mm_kwargs_item

    letters = encode.letter_ids(len(question.choices))
    asked = {"max_tokens": 1, "temperature": 0, "logprobs": True, "logprob_token_ids": letters,
             "return_token_ids": True, "return_tokens_as_token_ids": True}  # fmt: skip
    rendered = _post(question, f"{url}/v1/chat/completions/render", body)
    answer = _post(question, f"{url}/v1/chat/completions", body | asked)
    (made,) = rendered["features"]["kwargs_data"]["video"]
    (first,) = answer["choices"][0]["logprobs"]["content"]
    found = {entry["token"]: entry["logprob"] for entry in first["top_logprobs"]}
    logprobs = torch.log_softmax(torch.tensor([found[f"token_id:{token}"] for token in letters]), dim=-1)
    return Shown(answer["prompt_token_ids"], decode_mm_kwargs_item(made).get_data(), tuple(logprobs.tolist()))


def _post(question: Question, url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    if key := settings().serve_api_key.get_secret_value():
        headers["Authorization"] = f"Bearer {key}"
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        return json.loads(fetch(asked, TIMEOUT))
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:500]
        raise RoadQAError(f"question {question.id}: the server answers {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise RoadQAError(f"question {question.id}: the server does not answer: {error}") from error


if __name__ == "__main__":
    parity.main(see)
