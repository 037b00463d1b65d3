"""Scenes as MP4 files with the truth in their metadata, and a whole data set of them in the RoadBuddy layout."""

import csv
import io
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from pydantic import ValidationError

from services.sandbox import draw as shapes
from services.sandbox import scene as scenes
from services.sandbox import words
from services.sandbox.questions import SceneQuestion, questions
from services.sandbox.render import render
from services.sandbox.scene import FPS, Scene
from services.sandbox.words import Language
from shared.errors import InputError
from shared.prompts import letter

#: One thread: slices would depend on the machine's cores, and the bytes with them.
_X264: Final = {"preset": "veryfast", "crf": "26", "g": "20", "threads": "1"}
Progress = Callable[[int, int], None]


def write_clip(scene: Scene, path: Path) -> None:
    """Render `scene` as H.264 in MP4 at `path`; the scene itself goes into the comment tag."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = scene.model_dump_json()
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=_X264)
        stream.width, stream.height, stream.pix_fmt = shapes.WIDTH, shapes.HEIGHT, "yuv420p"
        stream.thread_count = 1
        for pixels in render(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def scene_of(clip: Path | bytes) -> Scene:
    """The scene a sandbox clip was rendered from.

    Raises:
        InputError: not a video, or not one of the sandbox's.
    """
    name = clip.name if isinstance(clip, Path) else "clip"
    try:
        with av.open(io.BytesIO(clip) if isinstance(clip, bytes) else str(clip)) as container:
            comment = container.metadata.get("comment", "")
        return Scene.model_validate_json(comment)
    except (av.FFmpegError, ValidationError) as error:
        raise InputError(f"{name}: no sandbox scene in its metadata; the sandbox only knows clips it drew") from error


def draw(
    folder: Path,
    *,
    seed: int,
    recordings: int,
    clips_per_recording: int,
    questions_per_clip: int,
    split: str,
    languages: Sequence[Language] = words.LANGUAGES,
    vietnamese: float = 0.3,
    workers: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Draw a data set into `folder` and return its `questions.json`; `progress(done, total)` counts clips.

    Clips are `videos/<recording>_<nn>.mp4`. A split with "test" in its name keeps its answers out of
    `questions.json`, in `answers.csv`. Other splits of the same seed share no scene with it.
    """
    drawn = [
        scene
        for index in range(1, recordings + 1)
        for scene in scenes.recording(seed, split, index, clips_per_recording)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "videos").mkdir(exist_ok=True)
    asked = _choose(drawn, questions_per_clip, languages, vietnamese)
    path = _write_questions(folder, asked, split)
    for done, _ in enumerate(_written(drawn, folder, workers), 1):
        if progress is not None:
            progress(done, len(drawn))
    return path


def clip_name(scene: Scene) -> str:
    """The clip's path in its data set."""
    return f"videos/{scene.recording}_{scene.number:02d}.mp4"


def _write(job: tuple[Scene, Path]) -> None:
    scene, folder = job
    write_clip(scene, folder / clip_name(scene))


def _written(drawn: list[Scene], folder: Path, workers: int) -> Iterator[None]:
    jobs = [(scene, folder) for scene in drawn]
    if workers <= 1:
        yield from map(_write, jobs)
        return
    # spawn: the caller may have threads, which a fork would freeze.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write, jobs, chunksize=4)


def _choose(
    drawn: list[Scene], per_clip: int, languages: Sequence[Language], vietnamese: float
) -> list[tuple[Scene, SceneQuestion]]:
    """`per_clip` questions a clip, those whose category, kind, answer and letter have been asked the least so far."""
    asked: Counter[tuple[str, ...]] = Counter()
    chosen = []
    for scene in drawn:
        rng = np.random.default_rng(scenes.seed_of(scene.seed, "language"))
        left = {language: questions(scene, language) for language in languages}
        for _ in range(per_clip):
            language = _language(rng, languages, vietnamese)
            if not left[language]:
                break
            best = min(left[language], key=lambda question: _rarity(question, asked))
            left = {other: [q for q in rest if q.kind != best.kind] for other, rest in left.items()}
            asked.update(_tallies(best))
            chosen.append((scene, best))
    return chosen


def _tallies(question: SceneQuestion) -> list[tuple[str, ...]]:
    kind, place = question.kind, str(question.answer)
    return [(question.category,), (kind,), (kind, question.key), ("place", str(len(question.choices)), place)]


def _rarity(question: SceneQuestion, asked: Counter[tuple[str, ...]]) -> tuple[float, ...]:
    category, kind, key, place = (asked[tally] for tally in _tallies(question))
    share = key * len(words.POOLS[question.kind])  # answers of a kind should come equally often
    return (2 * share + kind + category, place)


def _language(rng: np.random.Generator, languages: Sequence[Language], vietnamese: float) -> Language:
    if "vi" not in languages or len(languages) == 1:
        return languages[0]
    others = [language for language in languages if language != "vi"]
    return "vi" if rng.random() < vietnamese else others[int(rng.integers(len(others)))]


def _write_questions(folder: Path, asked: list[tuple[Scene, SceneQuestion]], split: str) -> Path:
    hidden = "test" in split
    rows: list[dict[str, Any]] = []
    answers: list[tuple[str, str]] = []
    for number, (scene, question) in enumerate(asked, 1):
        choices = [f"{letter(i)}. {text}" for i, text in enumerate(question.choices)]
        row: dict[str, Any] = {"id": f"{split}_{number:05d}", "question": question.text, "choices": choices}
        if not hidden:
            row["answer"] = choices[question.answer]
        row |= {"video_path": clip_name(scene), "type": question.category, "language": question.language}
        rows.append(row)
        answers.append((row["id"], letter(question.answer)))
    if hidden:
        with (folder / "answers.csv").open("w", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerows([("id", "answer"), *answers])
    path = folder / "questions.json"
    text = json.dumps({"__count__": len(rows), "data": rows}, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path
