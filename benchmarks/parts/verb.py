"""Verbs by hand, in the interpreter of their worker: `python -m benchmarks.parts.verb predict JOBS.json`.

A job that is done is not done again: its facts lie beside its output.
"""

import importlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.parts.telling import Telling
from services.cli import words
from shared.contracts import STAGES

MODULES = {
    "train": "workers.trainer.train",
    "quantize": "workers.quantizer.quantize",
    "predict": "workers.inference.predict",
}


def facts_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def run(verb: str, job: dict[str, Any]) -> None:
    """One job: `inputs` by name, `recipe`, `out`."""
    out = Path(job["out"])
    if facts_of(out).is_file():
        return
    draft, scratch = out.with_name(f".{out.name}"), out.with_name(f".{out.name}.scratch")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    inputs = {name: [Path(path) for path in paths] for name, paths in job["inputs"].items()}
    recipe = STAGES[verb].recipe.model_validate(job["recipe"])
    began = time.monotonic()
    facts = getattr(importlib.import_module(MODULES[verb]), verb)(inputs, recipe, draft, Telling(scratch, out.name))
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)
    shutil.rmtree(scratch, ignore_errors=True)
    facts_of(out).write_text(json.dumps(facts | {"verb_seconds": time.monotonic() - began}), encoding="utf-8")


def main() -> None:
    """Every job of the file, in order."""
    verb, path = sys.argv[1:]
    jobs, began = json.loads(Path(path).read_text(encoding="utf-8")), time.monotonic()
    for number, job in enumerate(jobs, 1):
        run(verb, job)
        spent = time.monotonic() - began
        left = words.duration(round(spent / number * (len(jobs) - number)))
        name = Path(job["out"]).name
        print(f"{verb} {number} of {len(jobs)}: {name}; {words.duration(round(spent))}, {left} left", file=sys.stderr)


if __name__ == "__main__":
    main()
