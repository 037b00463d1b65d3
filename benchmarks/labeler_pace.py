"""Does the labeler keep its requests in flight, and do two workers keep to one limit?

The label verb as it is, the real google-genai client, a real Redis and object store, and the sandbox's teacher, which
takes two seconds to answer, in processes of their own. With 32 requests in flight that allows 16 calls a second. Then
two workers at once, under one limit that either alone would pass.

Figures are the teacher's own counts. `calls_per_s` is taken while the worker has work for all its places, so without
the last questions' end, `calls_per_s_whole` from the first answer to the last. Prints a table, writes
`results/labeler-pace.json`, and fails where a figure is short.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from services.local import stack
from services.sandbox.taught import ROOT, sandbox_teacher, write_scene_rows
from shared.context import LocalContext
from shared.contracts import LabelRecipe, TeacherRecipe
from shared.schema import Rows, write_rows
from shared.store import StoreScratch, store
from workers.labeler.label import label

RESULTS = Path(__file__).parent / "results" / "labeler-pace.json"
RECIPE = LabelRecipe(teacher=TeacherRecipe(model="sandbox-teacher"))
LATENCY_S, IN_FLIGHT = 2.0, 32
IDEAL = IN_FLIGHT / LATENCY_S
CLIP_BYTES = 1_000_000  #: so each clip goes to the file service, once
ALONE, TOGETHER = (22, 4), (6, 4)  #: recordings of a worker's part, and clips of each; four questions a clip
LIMIT = 600  #: requests a minute of two workers together; each alone would make 960
MINUTE = 60.0
FULL = (0.15, 0.85)  #: shares of all calls between which no place is empty
WARM = 10  #: seconds until both workers are under way
LOOK_S = 0.25


class Look(NamedTuple):
    """How many requests the teacher had answered at an instant."""

    when: float
    calls: int
    most_in_flight: int


def look(url: str) -> Look:
    with urllib.request.urlopen(f"{url}/health") as reply:
        served = json.load(reply)["served"]
    return Look(time.monotonic(), served.get("generateContent", 0), served.get("most in flight", 0))


def watch(url: str, going: Callable[[], bool]) -> list[Look]:
    """Look until nothing goes on."""
    looks = [look(url)]
    while going():
        time.sleep(LOOK_S)
        looks.append(look(url))
    return looks


def worker(folder: Path) -> None:
    """The label verb by its settings, as a worker runs it."""
    out = folder / "out"
    out.mkdir()
    started = time.process_time()
    ctx = LocalContext(folder / "scratch")
    ctx.scratch = StoreScratch(store(), f"pace/{folder.name}")  # where a worker's journal is
    facts = label({"data": [folder / "data"]}, RECIPE, out, ctx)
    (folder / "facts.json").write_text(json.dumps(facts | {"cpu_seconds": time.process_time() - started}))


@contextmanager
def started(folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.labeler_pace", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | env | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            yield process
        finally:
            process.terminate()


def draw(folder: Path, size: tuple[int, int], seed: int) -> None:
    """A part to label, its clips padded to a real clip's size by a box that players pass over."""
    write_scene_rows(folder / "data", *size, seed=seed)
    rows = Rows([folder / "data"])
    for clip in rows.clips:
        path = rows.clip_path(clip)
        rest = CLIP_BYTES - path.stat().st_size
        with path.open("ab") as file:
            file.write(rest.to_bytes(4, "big") + b"free" + os.urandom(rest - 8))
    write_rows(folder / "data", rows.questions, rows.clips)


def alone(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """One worker without a limit."""
    draw(folder, ALONE, seed=5)
    with sandbox_teacher(f"--latency={LATENCY_S}") as url, started(folder, env | teacher(url, 0)) as process:
        looks = watch(url, lambda: process.poll() is None)
    facts = json.loads((folder / "facts.json").read_text())
    calls = looks[-1].calls
    full = [at for at in looks if FULL[0] * calls <= at.calls <= FULL[1] * calls]
    first = next(at for at in looks if at.calls)
    last = next(at for at in looks if at.calls == calls)
    rate = (full[-1].calls - full[0].calls) / (full[-1].when - full[0].when)
    return {
        "ideal_calls_per_s": IDEAL,
        "calls_per_s": round(rate, 3),
        "ratio": round(rate / IDEAL, 4),
        "calls_per_s_whole": round((calls - first.calls) / (last.when - first.when), 3),
        "calls": calls,
        "seconds": round(last.when - first.when, 1),
        "in_flight": IN_FLIGHT,
        "most_in_flight": looks[-1].most_in_flight,
        "latency_s": LATENCY_S,
        "clip_bytes": CLIP_BYTES,
        "worker_cpu_ms_per_call": round(1000 * facts["cpu_seconds"] / calls, 1),
    }


def together(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """Two workers under one limit, over as much of a minute as both are under way."""
    parts = [folder / "one", folder / "two"]
    for number, part in enumerate(parts):
        draw(part, TOGETHER, seed=6 + number)
    with sandbox_teacher(f"--latency={LATENCY_S}") as url:
        env = env | teacher(url, LIMIT)
        with started(parts[0], env) as one, started(parts[1], env) as two:
            looks = watch(url, lambda: one.poll() is None and two.poll() is None)
    begun = next(at for at in looks if at.calls).when + WARM
    steady = [at for at in looks if at.when >= begun]
    rate = MINUTE * (steady[-1].calls - steady[0].calls) / (steady[-1].when - steady[0].when)
    most = max(later.calls - at.calls for at in looks for later in looks if 0 <= later.when - at.when <= MINUTE)
    return {
        "limit_per_minute": LIMIT,
        "calls_per_minute": round(rate, 1),
        "share_of_limit": round(rate / LIMIT, 4),
        "most_in_a_minute": most,
        "seconds": round(steady[-1].when - steady[0].when, 1),
        "most_in_flight": looks[-1].most_in_flight,
    }


def teacher(url: str, limit: int) -> dict[str, str]:
    """Settings of a worker."""
    return {
        "ROADQA_GEMINI_API_KEY": "sandbox",
        "ROADQA_GEMINI_BASE_URL": url,
        "ROADQA_TEACHER_IN_FLIGHT": str(IN_FLIGHT),
        "ROADQA_TEACHER_REQUESTS_PER_MINUTE": str(limit),
    }


def main() -> None:
    """Measure, write, judge."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "stack"
        env = stack.up(state, only=("redis", "store"))
        try:
            found = alone(Path(folder) / "alone", env) | {"two_workers": together(Path(folder) / "together", env)}
        finally:
            stack.down(state)
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine} | found, indent=1) + "\n", encoding="utf-8")
    two = found["two_workers"]
    share, most = two["share_of_limit"], two["most_in_a_minute"]
    print("what                            calls        of what is possible or allowed")
    print(f"one worker, {IN_FLIGHT} in flight     {found['calls_per_s']:6.2f} /s    {found['ratio']:6.1%} of {IDEAL:g}")
    print(f"  over all {found['calls']} calls        {found['calls_per_s_whole']:6.2f} /s")
    print(f"two workers, {two['seconds']:3.0f} s          {two['calls_per_minute']:6.1f} /min  {share:6.1%} of {LIMIT}")
    print(f"  most in a minute          {most:6}")
    short = [
        *(["one worker leaves places empty"] if found["ratio"] < 0.95 else []),
        *(["two workers pass their limit"] if max(share, most / LIMIT) > 1.05 else []),
        *(["two workers do not use their limit"] if share < 0.9 else []),
    ]
    if short:
        sys.exit("; ".join(short))


if __name__ == "__main__":
    worker(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
