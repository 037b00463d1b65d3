"""How fast frames come out of clips at 2 a second, beside OpenCV, decord and torchcodec.

Each reader gives the same frames of a clip at the same size (checked: same count, and a mean difference of at most
`BOUND` grey levels, for the filters differ), once alone and eight at once. The others may choose: every thread count
and way of seeking that they have is tried and the fastest counts, while this project's reader runs as the workers run
it: one clip in its own process, eight by a process for each core (`shared.decoders`), started before anything is timed;
their processor time counts. Readers take turns, so that a busy moment hits all of them, and the median of the rounds
counts; `spread` is the fastest and the slowest round. `ratio_vs_fastest` is the fastest other's time divided by ours: 1
or more is at least as fast. `cpu_ratio_vs_least` is the same of processor time, which other work on the machine
disturbs less.

The others live in an environment of their own (`.venvs/bench`, from requirements-decode.txt); what does not install or
load there is reported as absent. Clips: the sandbox's, one of them in seven more codings, and those of a folder
(`python -m benchmarks.decode --clips FOLDER`, or `ROADQA_BENCH_CLIPS`). Prints a table, writes `results/decode.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np
import psutil

from scripts.environments import ROOT, VENVS, index_options
from services.sandbox import scene as scenes
from services.sandbox.clips import write_clip
from services.sandbox.render import render
from shared.budget import VideoBudget, sample_times
from shared.container import MediaLimits, opened
from shared.errors import RoadQAError
from shared.timeline import read_timeline

RESULTS = Path(__file__).parent / "results" / "decode.json"
LOCK = Path(__file__).parent / "requirements-decode.txt"
READER = Path(__file__).parent / "parts" / "readers.py"
BENCH = VENVS / "bench"
BUDGET = VideoBudget(fps=2)
BOUND = 2.5  #: grey levels (0 to 255) by which the mean of all pixels may differ
ROUNDS = {"one_at_a_time": 7, "eight_at_once": 5}
AT_ONCE = {"one_at_a_time": 1, "eight_at_once": 8}
SHIFTS = (0, -1, -2, 1, 2)  #: frames; AVI with packed B-frames is counted otherwise by each library
SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".ts"}
PACKAGES = {"opencv": ("opencv-python-headless",), "decord": ("decord",), "torchcodec": ("torch", "torchcodec")}
#: name → encoder, container, encoder's options, pixels
CODINGS = {
    "hevc": ("libx265", "mp4", {"x265-params": "log-level=error"}, "yuv420p"),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "5"}, "yuv420p"),
    "av1": ("libsvtav1", "mp4", {"preset": "10"}, "yuv420p"),
    "mpeg4": ("mpeg4", "mp4", {"bf": "2"}, "yuv420p"),
    "mpeg4 in avi": ("mpeg4", "avi", {"bf": "2"}, "yuv420p"),
    "mpeg2": ("mpeg2video", "ts", {"bf": "2", "b": "2000k"}, "yuv420p"),
    "mjpeg": ("mjpeg", "mov", {}, "yuvj420p"),
}


class Way(NamedTuple):
    """How a library is told to read."""

    library: str
    threads: int  #: 0: as many as it likes
    option: str = ""


def ways(column: str) -> list[Way]:
    """What is tried in a column; the project's reader as its workers call it: alone, and in a pool of processes."""
    alone = column == "one_at_a_time"
    threads = (0, 1) if alone else (1,)
    seeks = ("exact", "approximate")
    return [
        Way("roadqa", 2 if alone else 1),
        *(Way(library, n) for library in ("opencv", "decord") for n in threads),
        *(Way("torchcodec", n, option) for n in threads for option in seeks),
    ]


class Subject(NamedTuple):
    """A clip, and which of its frames are wanted."""

    name: str
    path: Path
    codec: str
    source_frames: int
    instants: list[float]
    indices: list[int]  #: the frames on screen then, counted in order of display


def subject(name: str, path: Path) -> Subject:
    with opened(path, MediaLimits(), 1) as clip, clip.stream() as (container, stream):
        timeline = read_timeline(clip, container, stream)
        base = float(stream.time_base)
        times = sorted((packet.pts - timeline.start) * base for packet in timeline.packets)
        instants = sample_times(timeline.seconds, BUDGET)
        indices = [bisect_right(times, instant) - 1 for instant in instants]
        return Subject(name, path, clip.codec, len(times), instants, indices)


def subjects(folder: Path, given: Path | None) -> Iterator[Subject]:
    """The sandbox's clips, one of them coded otherwise, and what the given folder holds."""
    drawn = [scene for index in (1, 2, 3) for scene in scenes.recording(0, "benchmark", index, 1)]
    for number, scene in enumerate(drawn, 1):
        path = folder / f"{number}.mp4"
        write_clip(scene, path)
        yield subject(f"sandbox {number}", path)
    for name, (encoder, container, options, pixels) in CODINGS.items():
        path = folder / f"{name.replace(' ', '-')}.{container}"
        try:
            _encode(list(render(drawn[0])), path, encoder, options, pixels)
        except av.FFmpegError:
            print(f"skipped: this PyAV has no encoder {encoder}", file=sys.stderr)
            continue
        yield subject(f"sandbox as {name}", path)
    if given is not None:
        for path in sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES):
            try:
                yield subject(path.name, path)
            except RoadQAError as error:
                print(f"skipped: {error}", file=sys.stderr)


def _encode(pictures: list[np.ndarray], path: Path, encoder: str, options: dict[str, str], pixels: str) -> None:
    rate = Fraction(25 if encoder == "mpeg2video" else scenes.FPS)  # MPEG-2 knows eight rates only
    with av.open(str(path), "w") as out:
        track = out.add_stream(encoder, rate=rate, options=options)
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt = pixels
        for picture in pictures:
            out.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(track.encode(None))


# --- the others' environment ------------------------------------------------------------------------


def libraries() -> dict[str, str]:
    """Version of each other library, or why it is absent."""
    python = BENCH / "bin" / "python"
    if not python.is_file():
        venv.create(BENCH, with_pip=True)
    pins = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line and line[0] != "#")
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    found: dict[str, str] = {}
    for library, packages in PACKAGES.items():
        missing = [f"{name}=={pins[name]}" for name in ("numpy", *packages) if not _has(python, name, pins[name])]
        if missing:
            options = index_options(python) if "torch" in packages else []
            done = subprocess.run([*pip, *options, *missing], capture_output=True, text=True, check=False)
            if done.returncode:
                found[library] = f"absent: {_last(done.stderr)}"
                continue
        version = pins[packages[-1]]
        found[library] = version
    return found


def _has(python: Path, name: str, version: str) -> bool:
    ask = f"import importlib.metadata as m; print(m.version({name!r}).split('+')[0] == {version!r})"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False).stdout.strip() == "True"


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1][:200] if lines else "no reason given"


class Process:
    """A reader at work."""

    def __init__(self, library: str) -> None:
        python = sys.executable if library == "roadqa" else str(BENCH / "bin" / "python")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- `close` closes it
        self._child = subprocess.Popen(
            [python, str(READER), library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.trouble = None if self._answer() else self._why()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(job) + "\n")
        self._child.stdin.flush()
        return self._answer() or {"failed": self._why()}

    def _answer(self) -> dict[str, Any] | None:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line else None

    def _why(self) -> str:
        self._errors.seek(0)
        return _last(self._errors.read())

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
        self._errors.close()


@contextmanager
def readers(found: dict[str, str]) -> Iterator[dict[str, Process]]:
    """A process for each library that loads; those that do not are noted in `found`."""
    with ExitStack() as stack:
        running = {}
        for library in ("roadqa", *found):
            if found.get(library, "").startswith("absent"):
                continue
            process = Process(library)
            stack.callback(process.close)
            if process.trouble is None:
                running[library] = process
            else:
                found[library] = f"absent: {process.trouble}"
        yield running


# --- the figures ------------------------------------------------------------------------------------


def measure(clip: Subject, running: dict[str, Process], folder: Path) -> dict[str, Any]:
    """One clip in both columns."""
    frames = folder / "frames.npy"
    job = {"clip": str(clip.path), "budget": BUDGET.model_dump(), "at_once": 1, "threads": 1, "keep": str(frames)}
    answer = running["roadqa"].ask(job)
    if "failed" in answer:
        raise RuntimeError(f"{clip.name}: {answer['failed']}")
    reference = np.load(frames)
    size = [reference.shape[2], reference.shape[1]]
    found: dict[str, Any] = {"clip": clip.name, "codec": clip.codec, "source_frames": clip.source_frames}
    found |= {"frames": len(reference), "size": size}
    looked_at: dict[tuple[str, str], Look] = {}
    for column, rounds in ROUNDS.items():
        seconds: dict[Way, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(rounds):
            for way in ways(column):
                if way.library not in running:
                    continue
                asked = {**job, "size": size, "threads": way.threads, "option": way.option, "keep": None}
                if way[::2] not in looked_at:
                    looked_at[way[::2]] = _look(clip, running[way.library], {**asked, "keep": str(frames)}, reference)
                look = looked_at[way[::2]]
                if look.problem is None:
                    timing = running[way.library].ask(asked | _wanted(clip, look.shift) | {"at_once": AT_ONCE[column]})
                    seconds[way].append((timing["seconds"], timing["cpu"]))
        found[column] = _column(seconds)
    found["looked_at"] = {" ".join(filter(None, name)): look._asdict() for name, look in looked_at.items()}
    ratios = [found[column]["ratio_vs_fastest"] for column in ROUNDS]
    return found | {"ratio_vs_fastest": None if None in ratios else min(ratios)}


class Look(NamedTuple):
    """What a way of reading gives of a clip, beside the project's frames."""

    problem: str | None
    difference: float = 0.0  #: of the worst frame, in grey levels
    shift: int = 0  #: frames by which the library counts otherwise


def _look(clip: Subject, process: Process, job: dict[str, Any], reference: np.ndarray) -> Look:
    """Try to get the same pictures."""
    best = Look("no frames", float("inf"))
    for shift in SHIFTS:
        answer = process.ask(job | _wanted(clip, shift))
        if "failed" in answer:
            return Look(answer["failed"])
        frames = np.load(job["keep"])
        if frames.shape != reference.shape:
            return Look(f"gave frames of shape {frames.shape}, not {reference.shape}")
        worst = max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(reference, frames, strict=True))
        if worst < best.difference:
            best = Look(f"another picture: {worst:.1f} grey levels off", round(worst, 2), shift)
        if worst <= BOUND:
            return best._replace(problem=None)
    return best


def _wanted(clip: Subject, shift: int) -> dict[str, Any]:
    step = clip.instants[-1] / max(1, clip.indices[-1])
    return {
        "indices": [max(0, index + shift) for index in clip.indices],
        "instants": [max(0.0, instant + shift * step) for instant in clip.instants],
    }


def _column(seconds: dict[Way, list[tuple[float, float]]]) -> dict[str, Any]:
    best: dict[str, float] = {}
    cpu: dict[str, float] = {}
    how: dict[str, str] = {}
    spread: dict[str, tuple[float, float]] = {}
    for way, values in seconds.items():
        walls = [wall for wall, _ in values]
        if (wall := median(walls)) < best.get(way.library, float("inf")):
            best[way.library], cpu[way.library] = wall, median(own for _, own in values)
            spread[way.library] = round(min(walls), 5), round(max(walls), 5)
            how[way.library] = f"threads {way.threads or 'auto'}{', ' + way.option if way.option else ''}"
    others = {library: value for library, value in best.items() if library != "roadqa"}
    fastest = min(others, key=lambda library: others[library]) if others else None
    return {
        "seconds": {library: round(value, 5) for library, value in best.items()},
        "spread": spread,
        "cpu_seconds": {library: round(value, 5) for library, value in cpu.items()},
        "how": how,
        "fastest_other": fastest,
        "cpu_ratio_vs_least": round(min(cpu[library] for library in others) / cpu["roadqa"], 3) if others else None,
        "ratio_vs_fastest": round(others[fastest] / best["roadqa"], 3) if fastest else None,
    }


def overall(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """All clips together, each beside its own fastest other; and each library alone over the clips that it read."""
    found: dict[str, Any] = {}
    clips = [clip for clip in clips if clip["ratio_vs_fastest"] is not None]
    for column in ROUNDS:
        ours = sum(clip[column]["seconds"]["roadqa"] for clip in clips)
        theirs = sum(clip[column]["seconds"][clip[column]["fastest_other"]] for clip in clips)
        beside = {}
        for library in PACKAGES:
            both = [clip[column]["seconds"] for clip in clips if library in clip[column]["seconds"]]
            if both:
                ratio = sum(seconds[library] for seconds in both) / sum(seconds["roadqa"] for seconds in both)
                beside[library] = {"clips": len(both), "ratio": round(ratio, 3)}
        least = sum(min(s for name, s in clip[column]["cpu_seconds"].items() if name != "roadqa") for clip in clips)
        cpu = round(least / sum(clip[column]["cpu_seconds"]["roadqa"] for clip in clips), 3)
        found[column] = {"ratio_vs_fastest": round(theirs / ours, 3), "cpu_ratio_vs_least": cpu, "beside": beside}
    return found | {"ratio_vs_fastest": min(found[column]["ratio_vs_fastest"] for column in ROUNDS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("ROADQA_BENCH_CLIPS")
    parser.add_argument("--clips", type=Path, default=Path(given) if given else None, help="a folder of clips as well")
    asked = parser.parse_args()
    if asked.clips is not None and not asked.clips.is_dir():
        sys.exit(f"{asked.clips} is no folder; give one that holds clips")
    found = libraries()
    measured = []
    with tempfile.TemporaryDirectory(prefix="decode-") as work, readers(found) as running:
        for library, state in found.items():
            print(f"{library} {state}")
        if len(running) < 2:
            sys.exit("there is nothing to compare with: every other library is absent, for the reasons above")
        print(f"\n{'clip':28} {'column':14} {'ours':>8} {'fastest other':>24} {'ratio':>6}")
        for clip in subjects(Path(work), asked.clips):
            measured.append(measure(clip, running, Path(work)))
            for column in ROUNDS:
                row = measured[-1][column]
                if row["fastest_other"] is None:
                    print(f"{clip.name[:28]:28} {column:14} no other gives these frames")
                    continue
                other = f"{row['fastest_other']} {1e3 * row['seconds'][row['fastest_other']]:.1f} ms"
                ours = f"{1e3 * row['seconds']['roadqa']:.1f} ms"
                print(
                    f"{clip.name[:28]:28} {column:14} {ours:>8} {other:>24} {row['ratio_vs_fastest']:6.2f}", flush=True
                )
    summary = overall(measured)
    for column in ROUNDS:
        print(f"overall, {column}: {summary[column]['ratio_vs_fastest']:.2f} of the fastest for each clip")
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    versions = {**found, "av": av.__version__}
    result = {
        "machine": machine,
        "libraries": versions,
        "fps": BUDGET.fps,
        "bound": BOUND,
        "clips": measured,
        "overall": summary,
        "ratio_vs_fastest": summary["ratio_vs_fastest"],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
