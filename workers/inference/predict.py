"""Predict: every question of a rows artifact answered by a checkpoint, decoding beside the engine."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from shared import child
from shared.budget import VideoBudget, frame_size, sample_times
from shared.context import Context
from shared.contracts import PredictRecipe
from shared.decoders import Decoders
from shared.errors import InputError, MediaError, Stopped
from shared.schema import Clip, Prediction, Question, Rows, write_jsonl
from shared.settings import settings
from shared.video import SampledClip
from shared.vlm.encode import encoder
from workers.inference.engines import POOL, Answer, Asked, read_checkpoint

KEPT = "answers/"  #: scratch: finished batches, as predictions.jsonl
BATCH_BYTES = 1 << 30  #: of decoded frames in one batch; two batches are in memory at once

Frames = dict[str, Future[SampledClip]]  #: by clip digest


def predict(inputs: dict[str, list[Path]], recipe: PredictRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Answer the questions of `data` with the checkpoint `model`; writes predictions.jsonl, in their order.

    Raises:
        InputError: the checkpoint or the rows cannot be used; a clip that cannot be decoded (MediaError).
        ParityError: the engine was shown other tokens than the trainer would show.
        Stopped: finished batches are in scratch, and are not answered again.
    """
    rows, began = Rows(inputs["data"]), time.monotonic()
    questions = unique(rows)
    found = kept(ctx)
    left = [question for question in questions.values() if question.id not in found]
    load_seconds = 0.0
    if left:
        load_seconds = answer(left, rows, inputs["model"], recipe, ctx, found, len(questions))
    write_jsonl(out / "predictions.jsonl", (found[question.id] for question in rows.questions))
    seconds = time.monotonic() - began
    tokens = [found[name].prompt_tokens for name in questions]
    return {
        "n": len(rows.questions),
        "resumed": len(questions) - len(left),
        "engine": recipe.engine,
        "seconds": seconds,
        "load_seconds": load_seconds,
        "questions_per_second": len(left) / max(seconds - load_seconds, 1e-9),
        "prompt_tokens": {"min": min(tokens), "mean": fmean(tokens), "max": max(tokens)} if tokens else None,
    }


def unique(rows: Rows) -> dict[str, Question]:
    """The questions by id.

    Raises:
        InputError: one id stands for two questions, or a question's clip is not listed.
    """
    questions: dict[str, Question] = {}
    for question in rows.questions:
        if questions.setdefault(question.id, question) != question:
            raise InputError(f"question {question.id}: two different rows share this id; import the data again")
        if question.clip not in rows.clips:
            raise InputError(f"question {question.id}: clip {question.clip[:12]} is not in clips.jsonl; import again")
    return questions


def kept(ctx: Context) -> dict[str, Prediction]:
    """Predictions that an earlier attempt finished, by question id."""
    found: dict[str, Prediction] = {}
    for key in ctx.scratch.keys(KEPT):
        for line in (ctx.scratch.get(key) or b"").splitlines():
            prediction = Prediction.model_validate_json(line)
            found[prediction.question] = prediction
    return found


def answer(
    questions: Sequence[Question],
    rows: Rows,
    models: Sequence[Path],
    recipe: PredictRecipe,
    ctx: Context,
    found: dict[str, Prediction],
    total: int,
) -> float:
    """Answer `questions` batch by batch into `found` and scratch; returns the seconds that loading took."""
    (model,) = models
    began = time.monotonic()
    batches = cut(questions, rows.clips, recipe.video)
    with Decoders(settings().decode_threads) as decoders:
        ahead = decode(decoders, batches[0], rows, recipe.video)
        engine = POOL.engine(read_checkpoint(model), encoder(model), recipe)
        loaded = mark = time.monotonic()
        for number, batch in enumerate(batches):
            if ctx.stopping:
                decoders.shutdown(cancel_futures=True)
                raise Stopped(f"stopped after {len(found)} of {total} questions; they are kept")
            frames = ahead
            if number + 1 < len(batches):
                ahead = decode(decoders, batches[number + 1], rows, recipe.video)
            answers = engine.answer(list(asked(batch, frames, recipe.video)), recipe.system_prompt)
            seconds, mark = time.monotonic() - mark, time.monotonic()
            keep(ctx, found, [predicted(q, a, seconds / len(batch)) for q, a in zip(batch, answers, strict=True)])
            ctx.progress(len(found), total, "questions", per_second=len(batch) / seconds)
    return loaded - began


def cut(questions: Sequence[Question], clips: dict[str, Clip], video: VideoBudget) -> list[list[Question]]:
    """Batches of bounded size, questions on one clip side by side so that it is decoded once."""
    order = {digest: place for place, digest in enumerate(dict.fromkeys(q.clip for q in questions))}
    batches: list[list[Question]] = []
    room = 0
    for digest, group in groupby(sorted(questions, key=lambda q: order[q.clip]), key=lambda q: q.clip):
        cost = frame_bytes(clips[digest], video)
        for place, question in enumerate(group):
            cost = cost if place == 0 else 0
            if not batches or len(batches[-1]) >= settings().engine_batch or cost > room:
                batches.append([])
                room = BATCH_BYTES
            batches[-1].append(question)
            room -= cost
    return batches


def frame_bytes(clip: Clip, video: VideoBudget) -> int:
    """Bytes of the clip's sampled frames."""
    frames = len(sample_times(clip.seconds, video))
    width, height = frame_size(clip.width, clip.height, frames, video)
    return frames * width * height * 3


def decode(decoders: Decoders, batch: Sequence[Question], rows: Rows, video: VideoBudget) -> Frames:
    """Start decoding the clips of a batch."""
    digests = dict.fromkeys(question.clip for question in batch)
    return {digest: decoders.submit(rows.clip_path(digest), video) for digest in digests}


def asked(batch: Sequence[Question], frames: Frames, video: VideoBudget) -> Iterator[Asked]:
    """The batch with its frames, as soon as they are decoded.

    Raises:
        MediaError: a clip cannot be decoded; names the question.
    """
    budget = hashlib.sha256(video.model_dump_json().encode()).hexdigest()[:16]
    for question in batch:
        try:
            yield Asked(question, frames[question.clip].result(), f"{question.clip}-{budget}")
        except MediaError as error:
            raise MediaError(f"question {question.id}: {error}") from error


def predicted(question: Question, found: Answer, seconds: float) -> Prediction:
    """The most probable choice that was shown, the first of equals."""
    best = max(question.offered, key=found.logprobs.__getitem__)
    return Prediction(
        question=question.id,
        choice=best,
        logprobs=found.logprobs,
        prompt_tokens=found.prompt_tokens,
        seconds=seconds,
    )


def keep(ctx: Context, found: dict[str, Prediction], batch: Sequence[Prediction]) -> None:
    """Put a finished batch into scratch, and into `found`."""
    found.update({prediction.question: prediction for prediction in batch})
    data = "\n".join(prediction.model_dump_json() for prediction in batch).encode()
    ctx.scratch.put(KEPT + hashlib.sha256(data).hexdigest(), data)


if __name__ == "__main__":
    child.main(predict, PredictRecipe)
