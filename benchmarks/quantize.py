"""What quantising costs in the sandbox: every scheme against its parent, what calibration is worth, and at what price.

A model fine-tuned as the sandbox preset does it, on drawn scenes with their true answers; each scheme's checkpoint and
its parent answer the same held-out questions on the same engine. Then awq and gptq calibrated on clips, on single
frames, on text alone and on nothing, under three seeds. Last, time and memory of one quantisation, from start to saved
files, beside llm-compressor's examples' way of doing it (`parts/plain_quantizer.py`), in turns.

What is done stays in `.state/quantize-bench/`, and is not done again after an interruption. Prints tables and writes
`results/quantize.json`.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.parts import sandbox
from benchmarks.parts.verb import facts_of
from scripts.environments import ENVIRONMENTS, ROOT
from services.cli import words
from shared import machine, metrics
from shared.schema import Prediction, Rows, read_jsonl
from shared.schemes import SCHEMES
from workers.inference import evaluate, verdict

WORK = ROOT / ".state" / "quantize-bench"
RESULTS = Path(__file__).parent / "results" / "quantize.json"
BASE = ROOT / "services" / "sandbox" / "base"
TRAIN = {"split": "train", "recordings": 90, "clips_per_recording": 4, "questions_per_clip": 4, "seed": 1}
TEST = {"split": "held-out", "recordings": 60, "clips_per_recording": 2, "questions_per_clip": 4, "seed": 8}
ASKED = {"system_prompt": "short", "video": {"fps": 2, "tokens_per_patch": 6, "max_frames": 8}}
QUANTIZE = ASKED | {"calibration_rows": 64, "group_size": 32}
SHOWN = ("video", "frame", "text", "none")
SEEDS = (0, 1, 2)
ROUNDS = 2  #: of the comparison with the examples' way
SETTINGS = metrics.Settings()

Job = dict[str, Any]


class Checkpoint(NamedTuple):
    """A quantisation to be made and measured."""

    scheme: str
    calibration: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.scheme}-{self.calibration}-{self.seed}"

    @property
    def recipe(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "calibration": self.calibration, "seed": self.seed} | QUANTIZE

    @property
    def engine(self) -> str:
        """The engine that answers for it and for its parent here."""
        return "transformers" if self.scheme in machine.vllm_lacks().split(",") else "vllm"


def wanted() -> list[Checkpoint]:
    """Each scheme as it comes, then what calibration shows, under each seed; `none` has no rows to draw."""
    found = [Checkpoint(scheme, "video", 0) for scheme in SCHEMES]
    for scheme in (name for name, held in SCHEMES.items() if held.calibrated):
        found += [
            Checkpoint(scheme, shown, seed) for seed in SEEDS for shown in SHOWN if shown != "none" or seed == SEEDS[0]
        ]
    return list(dict.fromkeys(found))


# --- making them -----------------------------------------------------------------------------------


class Steps:
    """Tells which step is at work, what it took, and what is left."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()

    def tell(self, what: str) -> None:
        self._done += 1
        spent = time.monotonic() - self._began
        left = words.duration(round(spent / self._done * (self._total - self._done)))
        line = f"{self._done} of {self._total}: {what}; {words.duration(round(spent))}, {left} left"
        print(line, file=sys.stderr, flush=True)


class Used(NamedTuple):
    """What a process and its children took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int  #: resident memory of the largest of them


def run(worker: str, *command: object) -> Used:
    """Run a module in a worker's environment.

    Raises:
        SystemExit: it failed; it has told why.
    """
    python = next(env.python for env in ENVIRONMENTS if env.name == worker)
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    began = time.monotonic()
    process = subprocess.Popen([python, "-m", *map(str, command)], env=os.environ | own, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}; what is done stays in {WORK}")
    return Used(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def verb(worker: str, name: str, jobs: Sequence[Job]) -> None:
    """Do those of the jobs that are not done yet, in one process."""
    if left := [job for job in jobs if not facts_of(Path(job["out"])).is_file()]:
        path = WORK / f"{name}.jobs"
        path.write_text(json.dumps(left), encoding="utf-8")
        run(worker, "benchmarks.parts.verb", name, path)


def draw(folder: Path, wanted: Mapping[str, Any]) -> Path:
    """The rows of `wanted` scenes, drawn once."""
    rows = folder / "rows"
    if not (folder / "whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        sandbox.drawn(folder, **wanted)
        (folder / "whole").touch()
    return rows


def training() -> dict[str, Any]:
    """The recipe of the preset's fine-tuned B."""
    preset = yaml.safe_load((resources.files("services.cli.presets") / "sandbox.yaml").read_text(encoding="utf-8"))
    step = dict(preset["steps"]["fine-tuned B"])
    for name in ("stage", "model", "data", "validation"):
        step.pop(name, None)
    return step | ASKED


def made(checkpoints: Sequence[Checkpoint], steps: Steps) -> tuple[Path, Path]:
    """Train, quantise and predict whatever is missing; returns the rows of training and test."""
    train, test = draw(WORK / "train", TRAIN), draw(WORK / "test", TEST)
    steps.tell("scenes drawn")
    parent = WORK / "parent"
    verb("trainer", "train", [job(parent, {"model": [BASE], "data": [train]}, training())])
    steps.tell("parent trained")
    rows = {each: {} if each.calibration == "none" else {"data": [train]} for each in checkpoints}
    quantised = [job(WORK / each.name, {"model": [parent]} | rows[each], each.recipe) for each in checkpoints]
    verb("quantizer", "quantize", quantised)
    steps.tell(f"{len(checkpoints)} checkpoints quantised")
    asked = {(parent, each.engine) for each in checkpoints} | {(WORK / each.name, each.engine) for each in checkpoints}
    verb("inference", "predict", [
        job(answers(model.name, engine), {"model": [model], "data": [test]}, ASKED | {"engine": engine})
        for model, engine in sorted(asked)
    ])  # fmt: skip
    steps.tell(f"{len(asked)} times asked")
    return train, test


def answers(model: str, engine: str) -> Path:
    return WORK / f"answers-{model}-{engine}"


def job(out: Path, inputs: Mapping[str, Sequence[Path]], recipe: Mapping[str, Any]) -> Job:
    return {"inputs": {name: [str(path) for path in paths] for name, paths in inputs.items()}, "recipe": dict(recipe),
            "out": str(out)}  # fmt: skip


# --- measuring them --------------------------------------------------------------------------------


class Test(NamedTuple):
    """The held-out questions, and who answered them how."""

    scored: evaluate.Scored

    def answers(self, model: str, engine: str) -> dict[str, Prediction]:
        path = answers(model, engine) / "predictions.jsonl"
        return {found.question: found for found in read_jsonl(path, Prediction)}

    def right(self, each: Checkpoint) -> list[int]:
        return evaluate.outcomes(self.scored, self.answers(each.name, each.engine))

    def verdict(self, each: Checkpoint) -> dict[str, Any]:
        ours, theirs = self.answers(each.name, each.engine), self.answers("parent", each.engine)
        return verdict.judge(self.scored.questions, self.scored.recordings, ours, theirs, SETTINGS, None)


def of_schemes(test: Test) -> dict[str, Any]:
    """Each scheme beside its parent."""
    table = {}
    for scheme in SCHEMES:
        each = Checkpoint(scheme, "video", 0)
        found, size = test.verdict(each), verdict.sizes(WORK / each.name / "card.json")
        assert size is not None
        table[scheme] = {
            "size_ratio": size["ratio"],
            "accuracy": found["accuracy"]["is"],
            "ci95": found["accuracy"]["ci95"],
            "n": found["n"],
            "recordings": found["recordings"],
            "parent_accuracy": found["parent_accuracy"]["is"],
            "difference": found["difference"]["is"],
            "difference_ci95": found["difference"]["ci95"],
            "recovery": found["recovery"]["is"],
            "recovery_ci95": found["recovery"]["ci95"],
            "flips": found["flips"],
            "p": found["p"],
            "logprobs": found["logprobs"],
            "engine": each.engine,
            "seconds": json.loads(facts_of(WORK / each.name).read_text(encoding="utf-8"))["seconds"],
        }
    return table


def of_calibration(test: Test) -> list[dict[str, Any]]:
    """What calibration shows, each against clips: outcomes of all seeds together, recordings as units."""
    table = []
    for scheme in (name for name, held in SCHEMES.items() if held.calibrated):
        clips = [right for seed in SEEDS for right in test.right(Checkpoint(scheme, "video", seed))]
        recordings = test.scored.recordings * len(SEEDS)
        for shown in SHOWN:
            each = [Checkpoint(scheme, shown, seed if shown != "none" else SEEDS[0]) for seed in SEEDS]
            found = [test.verdict(one) for one in each]
            against = metrics.compare([right for one in each for right in test.right(one)], clips, recordings, SETTINGS)
            table.append({
                "scheme": scheme,
                "shows": shown,
                "seeds": len(set(each)),
                "n": found[0]["n"],
                "accuracy": [one["accuracy"]["is"] for one in found],
                "mean_accuracy": statistics.fmean(one["accuracy"]["is"] for one in found),
                "mean_flips": statistics.fmean(one["flips"]["flipped"] for one in found),
                "mean_logprob_difference": statistics.fmean(one["logprobs"]["mean"] for one in found),
                "difference_to_video": against.difference,
                "ci95": [against.interval.low, against.interval.high],
                "p": against.p,
            })  # fmt: skip
    return table


def beside_example(train: Path, steps: Steps) -> dict[str, Any]:
    """Time and memory of a quantisation, start to saved files, and of the examples' way; in turns."""
    runs: dict[str, dict[str, list[Used]]] = {}
    path = WORK / "beside-example.json"
    if path.is_file():
        runs = {
            scheme: {who: [Used(*one) for one in found] for who, found in each.items()}
            for scheme, each in json.loads(path.read_text(encoding="utf-8")).items()
        }
    out = WORK / "beside"
    for _ in range(ROUNDS):
        for scheme in ("awq", "gptq"):
            each = Checkpoint(scheme, "video", 0)
            own = runs.setdefault(scheme, {"verb": [], "example": []})
            if len(own["example"]) >= ROUNDS:
                continue
            jobs = WORK / "beside.jobs"
            facts_of(out).unlink(missing_ok=True)
            jobs.write_text(json.dumps([job(out, {"model": [WORK / "parent"], "data": [train]}, each.recipe)]))
            own["verb"].append(run("quantizer", "benchmarks.parts.verb", "quantize", jobs))
            shutil.rmtree(out)
            module, recipe = "benchmarks.parts.plain_quantizer", json.dumps(each.recipe)
            own["example"].append(run("quantizer", module, WORK / "parent", train, out, recipe))
            shutil.rmtree(out)
            path.write_text(json.dumps(runs), encoding="utf-8")
            steps.tell(f"{scheme} beside the examples' way")
    return {scheme: compared(own) for scheme, own in runs.items()}


def compared(own: Mapping[str, Sequence[Used]]) -> dict[str, Any]:
    """Medians over the rounds; a ratio below 1 is less than the examples' way takes."""
    median = {who: Used(*map(statistics.median, zip(*found, strict=True))) for who, found in own.items()}
    ratios = {
        f"{name}_ratio": getattr(median["verb"], field) / getattr(median["example"], field)
        for name, field in (("time", "seconds"), ("cpu", "cpu_seconds"), ("memory", "peak_bytes"))
    }
    return {**ratios, "rounds": len(own["verb"]), **{who: found._asdict() for who, found in median.items()}}


# --- telling ---------------------------------------------------------------------------------------


def show(report: Mapping[str, Any]) -> None:
    """The tables."""
    schemes = Table("scheme", "× smaller", "right", "95%", "recovery", "95%", "flips", "p", "engine", box=None)
    for name, row in report["schemes"].items():
        schemes.add_row(
            name, f"{row['size_ratio']:.2f}", words.percent(row["accuracy"]), words.interval(row["ci95"]),
            words.percent(row["recovery"]), words.interval(row["recovery_ci95"]),
            f"{row['flips']['flipped']}/{row['n']}", words.p_value(row["p"]), row["engine"],
        )  # fmt: skip
    shown = Table("scheme", "shows", "right, by seed", "log-p apart", "against video", "95%", "p", box=None)
    for row in report["calibration"]:
        shown.add_row(
            row["scheme"], row["shows"], ", ".join(map(words.percent, row["accuracy"])),
            f"{row['mean_logprob_difference']:.4f}", words.points(row["difference_to_video"]),
            words.points_interval(row["ci95"]), words.p_value(row["p"]),
        )  # fmt: skip
    beside = Table("against the examples' way", "time", "CPU time", "memory", box=None)
    for name, row in report["beside_example"].items():
        beside.add_row(name, *(f"{row[f'{what}_ratio']:.2f}" for what in ("time", "cpu", "memory")))
    Console().print(schemes, shown, beside, sep="\n\n")


def main() -> None:
    """`make bench NAME=quantize`"""
    WORK.mkdir(parents=True, exist_ok=True)
    checkpoints = wanted()
    steps = Steps(4 + 2 * ROUNDS)
    train, held_out = made(checkpoints, steps)
    test = Test(evaluate.answered(Rows([held_out])))
    example = beside_example(train, steps)
    engines = sorted({each.engine for each in checkpoints})
    parents = {
        engine: statistics.fmean(evaluate.outcomes(test.scored, test.answers("parent", engine))) for engine in engines
    }
    report = {
        "schemes": of_schemes(test),
        "calibration": of_calibration(test),
        "time_ratio_vs_example": max(row["time_ratio"] for row in example.values()),
        "memory_ratio_vs_example": max(row["memory_ratio"] for row in example.values()),
        "beside_example": example,
        "parent_accuracy": parents,
        "recipe": QUANTIZE,
        "machine": {
            "processor": platform.machine(),
            "avx512": machine.has_avx512(),
            "cores": psutil.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(report)


if __name__ == "__main__":
    main()
