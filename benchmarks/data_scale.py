"""Do import, split and mix keep to their memory, and does their time grow with the rows and no faster?

The command line as it is, each step in a process of its own, a real object store. A recording is one small video of
random fields, and its clips are that with bytes of their own behind it, so that each is another file to hash, probe and
upload; five questions on each. A step's peak is its process's own. The slope is that of log(seconds) over
log(questions) between the two largest sizes: 1 is linear, and a step's fixed start makes it less.

Prints a table and writes `results/data-scale.json`.
"""

import argparse
import csv
import json
import math
import os
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from services.local import stack
from services.sandbox.taught import ROOT
from shared.settings import settings
from shared.store import store

RESULTS = Path(__file__).parent / "results" / "data-scale.json"
SIZES = (1_000, 10_000, 100_000)  #: questions
PER_CLIP, PER_RECORDING = 5, 10  #: questions on a clip, clips of a recording
CATEGORIES = ("signs", "lights", "counting", "right of way")


class Cost(NamedTuple):
    seconds: float
    peak_mb: float


def write_data(folder: Path, questions: int) -> Path:
    """A CSV file and its clips; returns the file."""
    (folder / "clips").mkdir(parents=True)
    video = b""
    file = folder / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["id", "video", "question", "choice_a", "choice_b", "choice_c", "answer", "category"])
        for number in range(questions // PER_CLIP):
            if number % PER_RECORDING == 0:
                video = fields(folder / "video.mp4", number)
            name = f"cam{number // PER_RECORDING}_{number % PER_RECORDING:03d}.mp4"
            own = str(number).encode().rjust(16)
            box = (8 + len(own)).to_bytes(4, "big") + b"free" + own  # ISO 14496-12: bytes that no player looks at
            (folder / "clips" / name).write_bytes(video + box)
            for place in range(PER_CLIP):
                row = number * PER_CLIP + place
                rows.writerow([f"q{row}", name, f"What is seen in place {place}?", "a car", "a lorry", f"nothing {row}",
                               "ABC"[row % 3], CATEGORIES[row % len(CATEGORIES)]])  # fmt: skip
    return file


def fields(path: Path, seed: int) -> bytes:
    """A video of two equal frames that looks like no other's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(2):
            picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def measured(*command: object) -> Cost:
    """Run a module's command to its end.

    Raises:
        SystemExit: it failed; its output is on the terminal.
    """
    began = time.monotonic()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-m", *map(str, command)], os.environ)
    _, status, used = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: failed")
    return Cost(time.monotonic() - began, used.ru_maxrss / 1024)


def mix(name: str, folder: Path) -> None:
    """What the trainer does with a data set before it trains: fetch its rows and choose among them."""
    from workers.trainer.plan import plan

    at = store()
    artifact = at.named("datasets", name)
    parts = at.manifest(artifact or "").parts
    folders = []
    for number, part in enumerate(parts):
        folders.append(folder / f"{number:05d}")
        folders[-1].mkdir()
        at.get_artifact(part, folders[-1])
    print(f"{len(plan(folders).questions)} rows to train on")


def rows_of(folder: Path, questions: int) -> dict[str, Any]:
    """Every step's cost at one size."""
    print(f"drawing {questions:,} questions …", file=sys.stderr)
    file = write_data(folder, questions)
    name = f"scale-{questions}"
    steps = {
        "import": measured("services.cli.main", "import", "csv", file, "--videos", folder / "clips", "--name", name),
        "split": measured("services.cli.main", "datasets", "split", name, "--into", "train=0.8", "--into", "test=0.2"),
        "mix": measured("benchmarks.data_scale", "--mix", f"{name}-train"),
    }
    for step, cost in steps.items():
        print(f"{questions:,} {step}: {cost.seconds:.1f} s, {cost.peak_mb:.0f} MB", file=sys.stderr)
    return {
        "questions": questions,
        "seconds": sum(cost.seconds for cost in steps.values()),
        "peak_mb": max(cost.peak_mb for cost in steps.values()),
        "steps": {step: cost._asdict() for step, cost in steps.items()},
    }


def slope(rows: list[dict[str, Any]], step: str) -> float:
    small, large = rows[-2], rows[-1]
    grown = math.log(large["steps"][step]["seconds"] / small["steps"][step]["seconds"])
    return grown / math.log(large["questions"] / small["questions"])


def main() -> None:
    """`make bench NAME=data-scale`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mix", metavar="DATASET", help="be the last step, in a process of its own")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.mix:
            mix(given.mix, Path(name))
            return
        state = Path(name) / "state"
        os.environ |= stack.up(state, only=("redis", "store")) | {"PYTHONPATH": str(ROOT)}
        settings.cache_clear()
        try:
            rows = [rows_of(Path(name) / str(size), size) for size in sorted(given.sizes)]
        finally:
            stack.down(state)
    slopes = {step: slope(rows, step) for step in rows[0]["steps"]} if len(rows) > 1 else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "slopes": slopes}, indent=1) + "\n", encoding="utf-8")
    table = Table("questions", "step", "seconds", "peak MB", "slope", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        for step, cost in row["steps"].items():
            last = f"{slopes[step]:.2f}" if slopes and row is rows[-1] else ""
            table.add_row(f"{row['questions']:,}", step, f"{cost['seconds']:.1f}", f"{cost['peak_mb']:.0f}", last)
    Console().print(table)


if __name__ == "__main__":
    main()
