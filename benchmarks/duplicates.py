"""How often near-duplicates are found, and how often other scenes are taken for them.

Scenes of the sandbox, two of each recording; a copy of each scene in each of `WAYS`, imported like any clip. A copy is
*found* where its group holds the original. *False* is a pair of scenes of different recordings in one group; scenes of
one recording share a road and a camera, so pairs of them are counted apart. Then the search alone on up to 20,000 drawn
fingerprints. Prints a table, writes `results/duplicates.json`.
"""

import itertools
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

from services.sandbox import scene as scenes
from services.sandbox.render import render
from shared.duplicates import NEAR, distance, groups
from shared.fingerprint import HEX, hashes_of
from shared.formats.common import read_clip
from shared.metrics import accuracy_interval
from shared.schema import Clip

RESULTS = Path(__file__).parent / "results" / "duplicates.json"
RECORDINGS, SCENES = 40, 2
SIZES = (1_000, 5_000, 20_000)  #: clips, of ten seconds, one in ten a copy

Pictures = list[np.ndarray]
#: how a copy is made → what happens to its pictures, encoder, its options, scale
WAYS: dict[str, tuple[Callable[[Pictures], Pictures], str, dict[str, str], float]] = {
    "coded anew": (lambda p: p, "libx264", {"crf": "34"}, 1),
    "mpeg4": (lambda p: p, "mpeg4", {"b": "300k"}, 1),
    "half the size": (lambda p: p, "libx264", {"crf": "28"}, 0.5),
    "ends cut off": (lambda p: p[7:-3], "libx264", {"crf": "28"}, 1),
    "brightened": (lambda p: [_brightened(picture) for picture in p], "libx264", {"crf": "28"}, 1),
    "all of it": (lambda p: [_brightened(picture) for picture in p[4:-6]], "libx264", {"crf": "32"}, 0.6),
}


def _brightened(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture * 1.15 + 15, 0, 255).astype(np.uint8)


def imported(pictures: Pictures, path: Path, encoder: str, options: dict[str, str], scale: float, name: str) -> Clip:
    """The pictures as a clip."""
    height, width = (int(side * scale) // 2 * 2 for side in pictures[0].shape[:2])
    with av.open(str(path), "w") as out:
        track = out.add_stream(encoder, rate=Fraction(scenes.FPS), options=options)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            out.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(width, height)))
        out.mux(track.encode(None))
    clip = read_clip(path, name)
    path.unlink()
    return clip


def make(scene: scenes.Scene, folder: Path) -> dict[str, Clip]:
    """The scene's clip, as `original`, and its copies."""
    pictures = list(render(scene))
    name = f"{scene.recording}_{scene.number:02d}.mp4"
    path = folder / name
    clips = {"original": imported(pictures, path, "libx264", {"crf": "23"}, 1, name)}
    for way, (change, encoder, options, scale) in WAYS.items():
        clips[way] = imported(change(pictures), path, encoder, options, scale, name)
    return clips


def rates(made: list[dict[str, Clip]]) -> dict[str, Any]:
    """Copies found by way, and scenes of one and of different recordings taken for copies."""
    originals = [clips["original"] for clips in made]
    found: dict[str, Any] = {"near": NEAR, "scenes": len(made), "found": {}}
    for way in WAYS:
        group_of = groups([*originals, *(clips[way] for clips in made)])
        hits = [group_of[clips[way].digest] == group_of[clips["original"].digest] for clips in made]
        bits = [_bits(clips[way], clips["original"]) for clips in made]
        found["found"][way] = _share(hits, originals) | {"bits_median": _median(bits), "bits_largest": max(bits)}
    same, other = [], []
    for a, b in itertools.combinations(originals, 2):
        (same if a.recording == b.recording else other).append(_bits(a, b))
    for name, values in (("one_recording", same), ("different_recordings", other)):
        taken = sum(value <= NEAR for value in values)
        found[name] = {"pairs": len(values), "taken_for_copies": taken, "bits_smallest": min(values)}
        found[name] |= {"bits_percent_1": round(float(np.percentile(values, 1)), 2), "bits_median": _median(values)}
    found["by_threshold"] = [
        {
            "bits": bits,
            "found": round(float(np.mean([_bits(c[way], c["original"]) <= bits for c in made for way in WAYS])), 4),
            "different_recordings_taken": sum(value <= bits for value in other),
        }
        for bits in (2, 4, 6, 8, 10, 12, 14)
    ]
    return found


def _bits(first: Clip, second: Clip) -> float:
    return round(distance(hashes_of(first.fingerprint), hashes_of(second.fingerprint)), 2)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 2)


def _share(hits: list[bool], clips: list[Clip]) -> dict[str, Any]:
    _, (low, high, _) = accuracy_interval(list(map(int, hits)), [clip.recording for clip in clips])
    return {"n": len(hits), "found": sum(hits), "ci95": [round(low, 4), round(high, 4)]}


def search(count: int) -> dict[str, Any]:
    """Time and memory of the search among `count` drawn fingerprints."""
    lot = np.random.default_rng(0)
    clips: list[Clip] = []
    hashes = np.empty(0, np.uint64)
    for number in range(count):
        if number % 10 == 9:
            hashes = _flipped(hashes[2:], 0.05, lot)
        else:
            steps = np.concatenate([lot.integers(0, 1 << 63, 1, dtype=np.uint64), _flipped(np.zeros(39), 0.02, lot)])
            hashes = np.bitwise_xor.accumulate(steps)
        clips.append(_clip(number, hashes))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = groups(clips)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "clips": count,
        "cpu_seconds": round(seconds, 2),
        "peak_mb": peak // 1024,
        "peak_mb_before": before // 1024,
        "groups_of_two": count - len(set(found.values())),
        "copies": count // 10,
    }


def _flipped(hashes: np.ndarray, share: float, lot: np.random.Generator) -> np.ndarray:
    bits = lot.random((len(hashes), 63)) < share
    flips: np.ndarray = (bits.astype(np.uint64) << np.arange(63, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return hashes.astype(np.uint64) ^ flips


def _clip(number: int, hashes: np.ndarray) -> Clip:
    return Clip(
        digest=f"{number:064x}",
        name=f"{number}.mp4",
        recording=str(number),
        size_bytes=1,
        seconds=len(hashes) / 4,
        fps=10,
        width=64,
        height=64,
        codec="h264",
        fingerprint="".join(f"{int(value):0{HEX}x}" for value in hashes),
    )


def main() -> None:
    drawn = [s for i in range(1, RECORDINGS + 1) for s in scenes.recording(11, "duplicates", i, SCENES)]
    with tempfile.TemporaryDirectory(prefix="duplicates-") as folder, ThreadPoolExecutor(psutil.cpu_count()) as pool:
        found = rates(list(pool.map(lambda scene: make(scene, Path(folder)), drawn)))
    print(f"{'copy':16} {'found':>10}  95% interval    bits: median, largest")
    for way, row in found["found"].items():
        low, high = row["ci95"]
        figures = f"[{low:.3f}, {high:.3f}]  {row['bits_median']:5.1f} {row['bits_largest']:5.1f}"
        print(f"{way:16} {row['found']:4} of {row['n']:3}  {figures}")
    for name in ("different_recordings", "one_recording"):
        row = found[name]
        print(f"{name}: {row['taken_for_copies']} of {row['pairs']} pairs taken for copies", end="")
        print(f"; the nearest is {row['bits_smallest']} bits off")
    searched = []
    for size in SIZES:
        row = search(size)
        searched.append(row)
        print(f"{size:6} clips: {row['cpu_seconds']:.1f} s, {row['groups_of_two']} of {row['copies']} copies found")
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, **found, "search": searched}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
