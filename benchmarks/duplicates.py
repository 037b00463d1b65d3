"""How often near-duplicates are found, and how often other scenes are taken for them.

Scenes of the sandbox, two of each recording; a copy of each scene in each of `WAYS`, imported like any clip. A copy is
*found* where its group holds the original, at the bits within which a clip counts as the same (what leaks are refused
by) and as near (what is named). *Wrong* is a pair of scenes of different recordings that lie so near; scenes of one
recording share a road and a camera, so pairs of them are counted apart. All of it for two seeds: the bits were chosen
by the first and by the scenes of the sandbox's preset (whose pairs of different recordings are all compared), and the
second confirms them. Then the search alone on up to 20,000 drawn fingerprints.

Prints a table, writes `results/duplicates.json`.
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
from shared.duplicates import NEAR, SAME, distance, groups
from shared.fingerprint import BITS, WORDS, hashes_of, text_of
from shared.formats.common import read_clip
from shared.metrics import accuracy_interval
from shared.schema import Clip

RESULTS = Path(__file__).parent / "results" / "duplicates.json"
RECORDINGS, SCENES = 24, 2
SEEDS = {"chosen_on": 11, "confirmed_on": 12}
PRESET = ((11, "train", 90), (12, "public-test", 30), (13, "held-out", 60))  #: seed, split, recordings of four scenes
NEAREST = (1, 10, 100, 1000)  #: of the preset's pairs
SIZES = (1_000, 5_000, 20_000)  #: clips, of ten seconds, one in ten a copy

Pictures = list[np.ndarray]
#: how a copy is made → what happens to its pictures, encoder, its options, scale
WAYS: dict[str, tuple[Callable[[Pictures], Pictures], str, dict[str, str], float]] = {
    "coded anew": (lambda p: p, "libx264", {"crf": "34"}, 1),
    "mpeg4": (lambda p: p, "mpeg4", {"b": "300k"}, 1),
    "half the size": (lambda p: p, "libx264", {"crf": "28"}, 0.5),
    "ends cut off": (lambda p: p[7:-3], "libx264", {"crf": "28"}, 1),
    "brightened": (lambda p: [_brightened(picture) for picture in p], "libx264", {"crf": "28"}, 1),
    "darkened": (lambda p: [(picture * 0.8).astype(np.uint8) for picture in p], "libx264", {"crf": "28"}, 1),
    "cropped by 2%": (lambda p: [_cropped(picture, 0.02) for picture in p], "libx264", {"crf": "28"}, 1),
    "all but cropped": (lambda p: [_brightened(picture) for picture in p[4:-6]], "libx264", {"crf": "32"}, 0.6),
}


def _cropped(picture: np.ndarray, share: float) -> np.ndarray:
    """Without so much of it at each side."""
    top, left = (round(side * share) // 2 * 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top:-top, left:-left])


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


def original(scene: scenes.Scene, folder: Path) -> Clip:
    """The scene's clip."""
    name = f"{scene.recording}_{scene.number:02d}.mp4"
    return imported(list(render(scene)), folder / name, "libx264", {"crf": "23"}, 1, name)


def make(scene: scenes.Scene, folder: Path) -> dict[str, Clip]:
    """The scene's clip, as `original`, and its copies."""
    pictures, clips = list(render(scene)), {"original": original(scene, folder)}
    name = clips["original"].name
    path = folder / name
    for way, (change, encoder, options, scale) in WAYS.items():
        clips[way] = imported(change(pictures), path, encoder, options, scale, name)
    return clips


def rates(made: list[dict[str, Clip]]) -> dict[str, Any]:
    """Copies found by way, and scenes of one and of different recordings taken for copies."""
    originals = [clips["original"] for clips in made]
    found: dict[str, Any] = {"scenes": len(made), "found": {}}
    for way in WAYS:
        bits = [_bits(clips[way], clips["original"]) for clips in made]
        found["found"][way] = {"n": len(made), "bits_median": _median(bits), "bits_largest": max(bits)}
        for name, within in (("same", SAME), ("near", NEAR)):
            group_of = groups([*originals, *(clips[way] for clips in made)], within)
            hits = [group_of[clips[way].digest] == group_of[clips["original"].digest] for clips in made]
            found["found"][way][name] = _share(hits, originals)
    same, other = [], []
    for a, b in itertools.combinations(originals, 2):
        (same if a.recording == b.recording else other).append(_bits(a, b))
    for name, values in (("one_recording", same), ("different_recordings", other)):
        found[name] = {"pairs": len(values), "same": sum(value <= SAME for value in values)}
        found[name] |= {"near": sum(value <= NEAR for value in values), "bits_smallest": min(values)}
        found[name] |= {"bits_percent_1": round(float(np.percentile(values, 1)), 2), "bits_median": _median(values)}
    return found


def nearest(clips: Sequence[Clip]) -> dict[str, Any]:
    """How near scenes of different recordings come to each other, all pairs."""
    pairs = ((a, b) for a, b in itertools.combinations(clips, 2) if a.recording != b.recording)
    bits = np.sort([_bits(a, b) for a, b in pairs])
    return {
        "clips": len(clips), "pairs": len(bits), "same": int((bits <= SAME).sum()), "near": int((bits <= NEAR).sum()),
        "bits_of_nearest": {str(rank): float(bits[rank - 1]) for rank in NEAREST if rank <= len(bits)},
    }  # fmt: skip


def _bits(first: Clip, second: Clip) -> float:
    return round(distance(hashes_of(first.fingerprint), hashes_of(second.fingerprint)), 2)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 2)


def _share(hits: list[bool], clips: list[Clip]) -> dict[str, Any]:
    _, (low, high, _) = accuracy_interval(list(map(int, hits)), [clip.recording for clip in clips])
    return {"found": sum(hits), "ci95": [round(low, 4), round(high, 4)]}


def search(count: int) -> dict[str, Any]:
    """Time and memory of the search among `count` drawn fingerprints."""
    lot = np.random.default_rng(0)
    clips: list[Clip] = []
    hashes = np.empty((0, WORDS), np.uint64)
    for number in range(count):
        if number % 10 == 9:
            hashes = _flipped(hashes[2:], 0.05, lot)
        else:
            zero = np.zeros((1, WORDS), np.uint64)
            steps = np.concatenate([_flipped(zero, 0.5, lot), _flipped(zero.repeat(39, axis=0), 0.02, lot)])
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
    bits = lot.random((len(hashes), BITS + 1)) < share
    bits[:, 0] = False  # the first is none
    return hashes ^ np.packbits(bits, axis=1).view(">u8").astype(np.uint64)


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
        fingerprint=text_of(hashes),
    )


def main() -> None:
    found: dict[str, Any] = {"bits": BITS, "same": SAME, "near": NEAR}
    with tempfile.TemporaryDirectory(prefix="duplicates-") as folder, ThreadPoolExecutor(psutil.cpu_count()) as pool:
        for name, seed in SEEDS.items():
            drawn = [s for i in range(1, RECORDINGS + 1) for s in scenes.recording(seed, "duplicates", i, SCENES)]
            found[name] = {"seed": seed} | rates(list(pool.map(lambda scene: make(scene, Path(folder)), drawn)))
            show(f"seed {seed}, {name.replace('_', ' ')}", found[name])
        drawn = [
            s for seed, split, count in PRESET for i in range(count) for s in scenes.recording(seed, split, i + 1, 4)
        ]
        found["preset"] = nearest(list(pool.map(lambda scene: original(scene, Path(folder)), drawn)))
    print(f"the preset's scenes: {found['preset']}")
    searched = []
    for size in SIZES:
        row = search(size)
        searched.append(row)
        print(f"{size:6} clips: {row['cpu_seconds']:.1f} s, {row['groups_of_two']} of {row['copies']} copies found")
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, **found, "search": searched}, indent=1) + "\n", encoding="utf-8")


def show(title: str, found: dict[str, Any]) -> None:
    print(f"{title}\n{'copy':16} {'n':>3} {'same':>5} {'near':>5}   bits: median, largest")
    for way, row in found["found"].items():
        figures = (
            f"{row['same']['found']:5} {row['near']['found']:5}   {row['bits_median']:12.1f} {row['bits_largest']:8.1f}"
        )
        print(f"{way:16} {row['n']:3} {figures}")
    for name in ("different_recordings", "one_recording"):
        row = found[name]
        told = f"{row['same']} the same, {row['near']} near; the nearest is {row['bits_smallest']} bits off"
        print(f"{name}: of {row['pairs']} pairs {told}", flush=True)


if __name__ == "__main__":
    main()
