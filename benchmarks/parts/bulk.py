"""Ways to answer the same questions by vLLM, one after another in one process:

    python -m benchmarks.parts.bulk ROWS PARTS OTHER RECIPE

Reads the name of a way from each line of stdin, and writes a JSON line with what it took. All ways have one model, one
budget and one set of engine options, and begin with empty caches: the engine has OTHER's weights before.

- `verb` is the predict verb; `verb, by parts` the same on each part of a dataset in turn, as the worker does it.
- `bare` is what the engine can do: each clip decoded once, by the processes that the verb has, then one `generate` over
  the verb's own prompts in their best order; `bare, frames given` leaves the decoding out.
- `naive` is a plain script: questions in a random order, each decodes its clip, no prefix and media caches, one
  `generate`.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vllm import LLM

from scripts.environments import ROOT
from shared.context import LocalContext
from shared.contracts import PredictRecipe
from shared.schema import Prediction, Question, Rows, read_jsonl
from shared.video import SampledClip, sample
from shared.vlm.encode import encoder
from workers.inference import ahead, engines, vllm_engine
from workers.inference.predict import predict

BASE = ROOT / "services" / "sandbox" / "base"
COLD = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}

Found = dict[str, Any]


class Ways:
    """Two engines of the same model: the verb's own, which bare vLLM has too, and one without caches."""

    def __init__(self, rows: Path, parts: Sequence[Path], other: Path, recipe: PredictRecipe, work: Path) -> None:
        self._rows, self._parts, self._other, self._recipe, self._work = rows, parts, other, recipe, work
        self._data = Rows([rows])
        self._questions = ahead.by_clip(self._data.questions)
        checkpoint = engines.read_checkpoint(BASE)
        longest = engines.longest_prompt(recipe.video)
        self._plain = LLM(str(BASE), **vllm_engine.options(checkpoint, longest), **COLD)
        self._encoder = encoder(BASE)

    def _engine(self, checkpoint: Path = BASE) -> vllm_engine.VLLMEngine:
        engine = engines.POOL.engine(engines.read_checkpoint(checkpoint), encoder(checkpoint), self._recipe)
        assert isinstance(engine, vllm_engine.VLLMEngine)
        return engine

    def verb(self) -> Found:
        """The predict verb on all rows."""
        return self._predicted([self._rows])

    def verb_by_parts(self) -> Found:
        """The predict verb on one part after another."""
        return self._predicted(self._parts)

    def _predicted(self, parts: Sequence[Path]) -> Found:
        """`seconds` without loading: the engine has another model's weights before, as the worker's has."""
        self._engine(self._other)
        began, loading, found = time.monotonic(), 0.0, {}
        for part in parts:
            with tempfile.TemporaryDirectory(dir=self._work) as folder:
                out = Path(folder) / "out"
                out.mkdir()
                ctx = LocalContext(Path(folder) / "scratch")
                loading += predict({"model": [BASE], "data": [part]}, self._recipe, out, ctx)["load_seconds"]
                found |= {one.question: one.choice for one in read_jsonl(out / "predictions.jsonl", Prediction)}
        seconds = time.monotonic() - began
        return {"seconds": seconds - loading, "whole_seconds": seconds, "choices": found}

    def bare(self) -> Found:
        """One `generate`, after all clips are decoded."""
        engine = self._empty()
        began = time.monotonic()
        digests = list(dict.fromkeys(question.clip for question in self._questions))
        futures = [ahead.decoders().submit(self._data.clip_path(digest), self._recipe.video) for digest in digests]
        clips = {digest: future.result() for digest, future in zip(digests, futures, strict=True)}
        return self._generated(engine, engine._llm, self._questions, [clips[q.clip] for q in self._questions], began)

    def bare_frames_given(self) -> Found:
        """The same, the clips decoded beforehand."""
        engine = self._empty()
        clips = {digest: self._decode(digest) for digest in {question.clip for question in self._questions}}
        frames = [clips[question.clip] for question in self._questions]
        return self._generated(engine, engine._llm, self._questions, frames, time.monotonic())

    def naive(self) -> Found:
        """A plain script."""
        engine = self._engine()
        began = time.monotonic()
        questions = random.Random(0).sample(self._questions, len(self._questions))
        clips = [self._decode(question.clip) for question in questions]
        return self._generated(engine, self._plain, questions, clips, began)

    def _decode(self, digest: str) -> SampledClip:
        return sample(self._data.clip_path(digest), self._recipe.video)

    def _empty(self) -> vllm_engine.VLLMEngine:
        """The verb's engine, its caches empty."""
        self._engine(self._other)
        return self._engine()

    def _generated(
        self,
        engine: vllm_engine.VLLMEngine,
        llm: LLM,
        questions: Sequence[Question],
        clips: Sequence[SampledClip],
        began: float,
    ) -> Found:
        """Answers of `llm` to the prompts of `engine`."""
        asked = [
            vllm_engine.Request(engines.Asked(question, clip, question.clip), self._encoder, self._recipe)
            for question, clip in zip(questions, clips, strict=True)
        ]
        outputs = llm.generate(
            [one.prompt() for one in asked],
            [engine.params(one, self._recipe) for one in asked],
            use_tqdm=False,
        )
        seconds = time.monotonic() - began
        found = {
            question.id: self._choice(question, output) for question, output in zip(questions, outputs, strict=True)
        }
        return {"seconds": seconds, "choices": found}

    def _choice(self, question: Question, output: Any) -> int:
        logprobs, letters = output.outputs[0].logprobs[0], self._encoder.letter_ids(len(question.choices))
        return max(question.offered, key=lambda index: float(logprobs[letters[index]].logprob))


def main() -> None:
    """Serve until stdin ends. Libraries that print to stdout print to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    rows, parts, other = map(Path, sys.argv[1:4])
    recipe = PredictRecipe.model_validate_json(sys.argv[4])
    with tempfile.TemporaryDirectory(prefix="bulk-") as work:
        ways = Ways(rows, sorted(parts.iterdir()), other, recipe, Path(work))
        known: dict[str, Callable[[], Found]] = {
            "verb": ways.verb,
            "verb, by parts": ways.verb_by_parts,
            "bare": ways.bare,
            "bare, frames given": ways.bare_frames_given,
            "naive": ways.naive,
        }
        for line in sys.stdin:
            out.write(json.dumps(known[line.strip()]()) + "\n")


if __name__ == "__main__":
    main()
