"""What do bulk answers cost beside bare vLLM, a plain script, and without Redis and the store?

The sandbox's model on drawn clips with three questions each. The ways of `parts/bulk.py` and the whole local stack
(Redis, object store, conductor, inference worker) answer the same questions, in turns, each from empty caches.

- `ratio_vs_bare_vllm`: the predict verb's questions a second by those of one `generate` over the same prompts, with all
  clips decoded before it by the same processes; `ratio_vs_bare_vllm_frames_given`: by those of the `generate` alone.
- `ratio_vs_naive_order`: by those of a plain script: questions in a random order, each decodes its clip, no caches.
- `store_overhead_share`: by how much longer the run takes in the stack, from submitting it to its last result, than
  the verb on the same parts in local folders.

Ratios are of the same round; their median is told, and the lowest and highest. Prints a table and writes
`results/inference.json`.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts import sandbox
from scripts.environments import ENVIRONMENTS, ROOT
from services.cli import runs
from services.local import stack
from shared.budget import VideoBudget
from shared.contracts import PredictRecipe
from shared.formats.common import Imported
from shared.formats.parts import cut_parts
from shared.lease import board
from shared.pipeline import Pipeline, Plan, make_plan
from shared.run import Runs
from shared.schema import Prediction, Rows
from shared.settings import settings
from shared.store import Store, store

STATE = ROOT / ".state" / "inference-bench"
RESULTS = Path(__file__).parent / "results" / "inference.json"
BASE = ROOT / "services" / "sandbox" / "base"
RECORDINGS, CLIPS_PER_RECORDING, QUESTIONS = 60, 2, 3
ROUNDS = 3
LOOK_SECONDS = 0.25  #: between two looks at the store, which answers on the same cores
RECIPE = PredictRecipe(system_prompt="short", video=VideoBudget(tokens_per_patch=6, max_frames=8))
LOCAL = ("verb", "bare", "bare, frames given", "naive", "verb, by parts")
STACK = "stack"
PROCESSES = ("redis", "store", "conductor", "inference")

Run = dict[str, Any]


class Local:
    """The process of `parts/bulk.py`."""

    def __init__(self, rows: Path, parts: Path, other: Path) -> None:
        python = next(env.python for env in ENVIRONMENTS if env.name == "inference")
        words = ["-m", "benchmarks.parts.bulk", str(rows), str(parts), str(other), RECIPE.model_dump_json()]
        own = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}  # as the stack's processes have it
        self._process = subprocess.Popen(
            [str(python), *words], env=os.environ | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, way: str) -> Run:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(way + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{way}: the process of benchmarks.parts.bulk ended")
        found: Run = json.loads(line)
        return found

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Stack:
    """The local stack, with the parts and two models in its store: the base, and another to empty the caches by."""

    def __init__(self, held: Store, parts: Path, other: Path) -> None:
        self._store, self._asked = held, 0
        self._parts = tuple(held.put_artifact("rows", part) for part in sorted(parts.iterdir()))
        self._models = {"base": held.put_artifact("model", BASE), "other": held.put_artifact("model", other)}

    def _plan(self, model: str, parts: tuple[str, ...]) -> Plan:
        """A run that predicts anew, whatever was predicted before."""
        self._asked += 1
        pipeline = Pipeline.model_validate(
            {"name": "inference-bench", "data": {"test": "test"}, "models": {"model": model},
             "video": RECIPE.video.model_dump(), "system_prompt": RECIPE.system_prompt,
             "submission": {"data": "test", "model": "model", "engine": RECIPE.engine}}
        )  # fmt: skip
        plan = make_plan(pipeline, {"test": parts}, {"model": self._models[model]})
        (node,) = plan.nodes
        return plan.model_copy(update={"nodes": (node.model_copy(update={"replicate": self._asked}),)})

    def _answered(self, model: str, parts: tuple[str, ...]) -> Run:
        plan, known = self._plan(model, parts), Runs(self._store)
        began = time.monotonic()
        run = runs.submit(self._store, board(), plan)
        while not (state := known.state(run, plan)).complete:
            if state.stuck:
                sys.exit(f"the stack: {[dead.cause for node in state.nodes for dead in node.dead.values()]}")
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        (node,) = state.nodes
        lines = [
            line for one in node.artifacts for line in self._store.read_file(one, "predictions.jsonl").splitlines()
        ]
        found = [Prediction.model_validate_json(line) for line in lines]
        verb = sum(result.facts["seconds"] for result in node.results.values())
        return {"whole_seconds": seconds, "verb_seconds": verb, "choices": {one.question: one.choice for one in found}}

    def run(self) -> Run:
        """All parts, the worker's engine with another model's weights before."""
        self._answered("other", self._parts[:1])
        return self._answered("base", self._parts)


@contextlib.contextmanager
def lent() -> Iterator[Store]:
    """A stack of its own, which this process reads too."""
    try:
        os.environ |= stack.up(STATE, PROCESSES)
        settings.cache_clear()
        store.cache_clear()
        yield store()
    finally:
        stack.down(STATE)


def cut(rows: Path, folder: Path) -> Path:
    """The parts that an import would cut the rows into."""
    data = Rows([rows])
    folder.mkdir()
    cut_parts(Imported(data.questions, data.clips, {one: data.clip_path(one) for one in data.clips}), folder)
    return folder


def changed(folder: Path) -> Path:
    """The base as another model: its weights file says something else of itself, so it has a digest of its own."""
    folder.mkdir()
    for path in BASE.iterdir():
        (folder / path.name).symlink_to(path)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]) | {"__metadata__": {"format": "pt", "copy": "2"}}).encode()
    header += b" " * (-len(header) % 8)
    weights.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return folder


def taken(one: Run) -> float:
    """Seconds of a run, without loading where that is known."""
    return float(one["seconds"] if "seconds" in one else one["whole_seconds"])


def ratios(found: dict[str, list[Run]]) -> dict[str, Any]:
    """Each round's own, their median and extremes."""

    def of(way: str, key: str = "seconds") -> list[float]:
        return [one[key] for one in found[way]]

    def compared(name: str, slower: list[float], faster: list[float], less: float = 0.0) -> dict[str, Any]:
        each = [a / b - less for a, b in zip(slower, faster, strict=True)]
        return {name: statistics.median(each), f"{name}_range": [min(each), max(each)]}

    inside = [one["whole_seconds"] - one["verb_seconds"] for one in found[STACK]]
    return (
        compared("ratio_vs_bare_vllm", of("bare"), of("verb"))
        | compared("ratio_vs_bare_vllm_frames_given", of("bare, frames given"), of("verb"))
        | compared("ratio_vs_naive_order", of("naive"), of("verb"))
        | compared("store_overhead_share", of(STACK, "whole_seconds"), of("verb, by parts", "whole_seconds"), 1.0)
        | compared("outside_the_verb_share", inside, of(STACK, "verb_seconds"))
    )


def table(found: dict[str, list[Run]], questions: int) -> str:
    """A line for each way."""
    lines = [f"{'':20} questions/s  lowest-highest"]
    for way, own in found.items():
        rates = [questions / taken(one) for one in own]
        lines.append(f"{way:20} {statistics.median(rates):11.1f}  {min(rates):6.1f}-{max(rates):7.1f}")
    return "\n".join(lines)


def measure(rows: Path, folder: Path) -> dict[str, list[Run]]:
    """Every way, in turns; the first turn, which loads the engines, does not count."""
    parts, other = cut(rows, folder / "parts"), changed(folder / "other")
    local = Local(rows, parts, other)
    found: dict[str, list[Run]] = {way: [] for way in (*LOCAL, STACK)}
    with lent() as held:
        whole = Stack(held, parts, other)
        for turn in range(ROUNDS + 1):
            for way, own in found.items():
                one = whole.run() if way == STACK else local.run(way)
                own.append(one)
                print(f"round {turn}: {way} {taken(one):.2f} s", file=sys.stderr, flush=True)
    local.end()
    return {way: own[1:] for way, own in found.items()}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="inference-") as folder:
        print("drawing …", file=sys.stderr)
        rows = sandbox.drawn(Path(folder), "train", RECORDINGS, CLIPS_PER_RECORDING, QUESTIONS, seed=1)
        questions = Rows([rows]).questions
        found = measure(rows, Path(folder))
    choices = [one.pop("choices") for own in found.values() for one in own]
    agreeing = [sum(each[q.id] == choices[0][q.id] for q in questions) / len(questions) for each in choices]
    report = ratios(found) | {
        "questions": len(questions),
        "clips": len({question.clip for question in questions}),
        "rounds": ROUNDS,
        "least_agreement": min(agreeing),
        "questions_per_second": {
            way: statistics.median(len(questions) / taken(one) for one in own) for way, own in found.items()
        },
        "runs": found,
        "recipe": RECIPE.model_dump(mode="json"),
        "machine": {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total},
        "versions": {"redis": version("redis"), "av": version("av")},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(found, len(questions)))
    for name in (
        "ratio_vs_bare_vllm",
        "ratio_vs_bare_vllm_frames_given",
        "ratio_vs_naive_order",
        "store_overhead_share",
    ):
        low, high = report[f"{name}_range"]
        print(f"{name} {report[name]:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
