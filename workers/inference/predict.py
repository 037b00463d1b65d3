"""Predict: every question of a rows artifact answered by a checkpoint, decoding beside the engine."""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from shared import child
from shared.context import Context
from shared.contracts import PredictRecipe
from shared.errors import InputError, Stopped
from shared.schema import Prediction, Question, Rows, write_jsonl
from shared.settings import settings
from shared.vlm.encode import encoder
from workers.inference import memory
from workers.inference.ahead import Ahead, Put
from workers.inference.engines import POOL, Answer, Asked, read_checkpoint
from workers.inference.together import prediction
from workers.inference.unseen import Unseen, unseen

KEPT = "answers/"  #: scratch: finished batches, as predictions.jsonl

Answers = list[tuple[Put, Answer]]  #: to one question


class Cost(NamedTuple):
    """What answering took."""

    load_seconds: float = 0.0  #: until the engine had the checkpoint
    memory_bytes: int | None = None  #: at most, without the other engines that are loaded


def predict(inputs: dict[str, list[Path]], recipe: PredictRecipe, out: Path, ctx: Context) -> dict[str, Any]:
    """Answer the questions of `data` with the checkpoint `model`; writes predictions.jsonl, in their order.

    Raises:
        InputError: the checkpoint or the rows cannot be used; MediaError: too many clips cannot be decoded.
        ParityError: the engine was shown other tokens than the trainer would show.
        Stopped: finished batches are in scratch, and are not answered again.
    """
    rows, began = Rows(inputs["data"]), time.monotonic()
    questions = unique(rows)
    found = kept(ctx)
    left = [question for question in questions.values() if question.id not in found]
    cost = Cost()
    if left:
        cost = answer(left, rows, inputs["model"], recipe, ctx, found, len(questions))
    write_jsonl(out / "predictions.jsonl", (found[question.id] for question in rows.questions))
    seconds = time.monotonic() - began
    tokens = [found[name].prompt_tokens for name in questions if found[name].unseen is None]
    lost = lost_clips(rows, found).found
    reasoning = reasoning_facts([found[name] for name in questions], recipe.reasoning_tokens)
    return {
        "n": len(rows.questions),
        "resumed": len(questions) - len(left),
        "engine": recipe.engine,
        "seconds": seconds,
        "load_seconds": cost.load_seconds,
        "questions_per_second": len(left) / max(seconds - cost.load_seconds, 1e-9),
        "memory_bytes": None if cost.memory_bytes is None else {"max": cost.memory_bytes},
        "prompt_tokens": spread(tokens),
        "reasoning": reasoning if recipe.reasoning else None,
        "unseen": sum(question.clip in lost for question in questions.values()),
        "unseen_clips": lost,
    }


def spread(counts: Sequence[int]) -> dict[str, float] | None:
    return {"min": min(counts), "mean": fmean(counts), "max": max(counts)} if counts else None


def reasoning_facts(predictions: Iterable[Prediction], limit: int) -> dict[str, Any]:
    """How long the reasonings are, in tokens, and how many were cut at the limit."""
    counts = [ballot.reasoning_tokens for prediction in predictions for ballot in prediction.ballots]
    return {"tokens": spread(counts), "n": len(counts), "cut": sum(count >= limit for count in counts)}


def unique(rows: Rows) -> dict[str, Question]:
    """The questions by id.

    Raises:
        InputError: one id stands for two questions, a question's clip is not listed, or no choice has a text.
    """
    questions: dict[str, Question] = {}
    for question in rows.questions:
        if questions.setdefault(question.id, question) != question:
            raise InputError(f"question {question.id}: two different rows share this id; import the data again")
        if question.clip not in rows.clips:
            raise InputError(f"question {question.id}: clip {question.clip[:12]} is not in clips.jsonl; import again")
        if not question.offered:
            raise InputError(f"question {question.id}: none of its choices has a text; fill them in, or take it out")
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
) -> Cost:
    """Answer `questions` into `found` and scratch, batch by batch."""
    (model,) = models
    began = time.monotonic()
    memory.start_peak()
    lost = lost_clips(rows, found)
    with closing(Ahead(questions, rows, recipe.video, recipe, ctx, lost)) as ahead:
        engine = POOL.engine(read_checkpoint(model), encoder(model), recipe)
        loaded = mark = time.monotonic()
        for batch in batched(answered(engine.stream(ahead, recipe), ahead), settings().engine_batch):
            seconds, mark = time.monotonic() - mark, time.monotonic()
            keep(ctx, found, [prediction(answers, recipe, seconds / len(batch)) for answers in batch])
            ctx.progress(len(found), total, "questions", per_second=len(batch) / seconds)
    if left := [question for question in questions if question.clip in lost.found]:
        keep(ctx, found, [unseen(question, lost.found[question.clip]) for question in left])
    if len(found) < total:
        raise Stopped(f"stopped after {len(found)} of {total} questions; they are kept")
    return Cost(loaded - began, memory.peak() - POOL.beside(engine))


def lost_clips(rows: Rows, found: Mapping[str, Prediction]) -> Unseen:
    """The clips of the shard, and those of them that are known not to decode."""
    clips = {question.id: question.clip for question in rows.questions}
    known = {clips[name]: each.unseen for name, each in found.items() if each.unseen is not None}
    return Unseen(len(set(clips.values())), known)


def answered(stream: Iterator[tuple[Asked, Answer]], ahead: Ahead) -> Iterator[Answers]:
    """All answers to one question, for each question once they are there."""
    wanted = Counter(put.question.id for put in ahead.puts)
    found: dict[str, dict[int, tuple[Put, Answer]]] = defaultdict(dict)
    for item, reply in stream:
        put = ahead.puts[item.place]
        own = found[put.question.id]
        own[item.place] = put, reply
        if len(own) == wanted[put.question.id]:
            del found[put.question.id]
            yield [own[place] for place in sorted(own)]


def batched(answers: Iterator[Answers], size: int) -> Iterator[list[Answers]]:
    """Lists of `size`, the last one shorter."""
    while batch := list(islice(answers, size)):
        yield batch


def keep(ctx: Context, found: dict[str, Prediction], batch: Sequence[Prediction]) -> None:
    """Put a finished batch into scratch, and into `found`."""
    found.update({prediction.question: prediction for prediction in batch})
    data = "\n".join(prediction.model_dump_json() for prediction in batch).encode()
    ctx.scratch.put(KEPT + hashlib.sha256(data).hexdigest(), data)


if __name__ == "__main__":
    child.main(predict, PredictRecipe)
