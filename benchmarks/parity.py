"""Does the served model see what the trainer shows it, and is it noticed where it does not?

The sandbox's base and drawn questions that it has not seen, compared as `roadqa verify` compares them: the trainer's
environment against vLLM in bulk and against `roadqa serve` over HTTP. Then faults are planted on the engine's side, one
at a time: another cap of visual tokens, other frames a second, another system prompt. Each is to be caught both ways.
Prints a table and writes `results/parity.json`.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from services.cli import data, serve, verify
from services.cli.verify import Environments
from services.local import stack
from shared.machine import has_avx512
from shared.parity import BOUNDS, Comparison, Contract, Seen, compare
from shared.settings import settings
from shared.store import store

RESULTS = Path(__file__).parent / "results" / "parity.json"
MODEL = data.SANDBOX_MODEL
ROWS = data.SandboxData(split="held-out", recordings=12, clips_per_recording=2, questions_per_clip=4, seed=3)
FAULTS: dict[str, dict[str, Any]] = {
    "cap": {"tokens_per_patch": 4},  # of 6
    "fps": {"fps": 1},  # of 2
    "prompt": {"system_prompt": "none"},  # of short
}


def compared() -> dict[str, dict[str, Comparison]]:
    """Way → what was compared: without a fault ("none") and with each planted one."""
    artifact = data.pull_model(store(), MODEL, None, quiet)[1]
    dataset = data.import_sandbox(store(), ROWS, quiet).artifact
    trained = verify.as_trained(store(), artifact)
    asked = {"none": trained} | {name: verify.changed_asking(trained, fault) for name, fault in FAULTS.items()}
    with store().workspace() as space:
        store().get_artifact(artifact, space / "model")
        verify.lay_rows(store(), store().manifest(dataset).parts, 0, space / "rows")
        sides = Environments(space / "model", space / "rows", artifact, MODEL, trained)
        trainer = sides.trainer(trained)
        tell(f"trainer: {len(trainer)} questions")
        bulk = {name: _told(name, "bulk", sides.bulk(asking)) for name, asking in asked.items()}
        http = _over_http(space, artifact, trained, asked, bulk["none"])
    return {way: {name: compare(trainer, seen) for name, seen in found.items()}
            for way, found in (("bulk", bulk), ("http", http))}  # fmt: skip


def _over_http(
    space: Path, artifact: str, trained: Contract, asked: dict[str, Contract], bulk: list[Seen]
) -> dict[str, list[Seen]]:
    """What each arrives as at a server: one for all that leaves its clips alone, one for each other."""
    found: dict[str, list[Seen]] = {}
    with (space / "log").open("wb") as log, serve.served(artifact, MODEL, serve.free_port(), verify.SERVER, log) as url:
        one = Environments(space / "model", space / "rows", artifact, MODEL, trained, url)
        for name, asking in asked.items():
            if asking.video == trained.video:
                found[name] = _told(name, "http", one.http(asking))
    others = Environments(space / "model", space / "rows", artifact, MODEL, trained)
    for name in asked.keys() - found.keys():
        found[name] = _told(name, "http", others.http(asked[name]))
    return {name: verify.in_the_same_arithmetic(found[name], bulk) for name in asked}


def _told(fault: str, way: str, seen: list[Seen]) -> list[Seen]:
    tell(f"{way}, fault {fault}: {len(seen)} questions")
    return seen


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def quiet(what: str, done: int, total: int) -> None:
    """No progress: it is a matter of seconds."""


def summary(found: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    """The figures, and everything they come from but the single differences."""
    clean = [ways["none"] for ways in found.values()]
    planted = {fault: {way: not ways[fault].equal for way, ways in found.items()} for fault in FAULTS}
    return {
        "questions": clean[0].questions,
        "equal_token_ids": min(one.equal_token_ids for one in clean),
        "max_logprob_difference": max(one.max_logprob_difference or 0.0 for one in clean),
        "planted_faults_caught": sum(caught for ways in planted.values() for caught in ways.values()),
        "planted_faults": sum(len(ways) for ways in planted.values()),
        "equal": all(one.equal for one in clean),
        "caught": planted,
        "ways": {way: {name: one.model_dump(mode="json", exclude={"differences"}) for name, one in ways.items()}
                 for way, ways in found.items()},
        "faults": FAULTS,
        "bounds": BOUNDS,
        "machine": {"cores": psutil.cpu_count(), "avx512": has_avx512()},
        "python": sys.version.split()[0],
        "av": version("av"),
    }  # fmt: skip


def table(found: dict[str, dict[str, Comparison]]) -> str:
    lines = [f"{'':14} token ids  grids  timestamps  pixels   log-probabilities  equal"]
    for way, ways in found.items():
        for name, one in ways.items():
            apart = "–" if one.max_logprob_difference is None else f"{one.max_logprob_difference:.2g} of {one.bound:g}"
            lines.append(
                f"{way:4} {name:9} {one.equal_token_ids:9}  {one.equal_grids:5}  {one.equal_timestamps:10}  "
                f"{one.equal_pixels:6}  {apart:>18}  {'yes' if one.equal else 'no'}"
            )
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        state = Path(folder)
        try:
            os.environ.update(stack.up(state, only=("redis", "store")))
            os.environ["ROADQA_CACHE_DIR"] = str(state / "cli")
            settings.cache_clear()
            store.cache_clear()
            found = compared()
        finally:
            stack.down(state)
    report = summary(found)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    if not report["equal"] or report["planted_faults_caught"] < report["planted_faults"]:
        sys.exit("they differ where they should not, or a planted fault was not caught")


if __name__ == "__main__":
    with stack.one_line_errors():
        main()
