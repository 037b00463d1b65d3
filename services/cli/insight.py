"""What a dataset holds: counts of its questions and clips, and pictures of some clips."""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from services.cli.data import Progress
from shared import breakdown
from shared.budget import VideoBudget
from shared.errors import MediaError, NotInStoreError
from shared.formats.common import one_line
from shared.prompts import letter
from shared.schema import Clip, Frozen, Question
from shared.store import Store
from shared.video import sample

#: The contact sheet shows every second of six frames: neither a clip's first picture nor its last.
_SHEET = VideoBudget(fps=2, tokens_per_patch=24, max_frames=6)
_QUALITY = 72  # of the sheet's JPEGs
_UNKNOWN = "not known"  # of clips that were imported before it was asked

Counts = dict[str, int]


class Size(Frozen):
    """How large a dataset is. Read from its manifests alone."""

    artifact: str
    parts: int
    clips: int
    bytes: int


class Look(Frozen):
    """A dataset, counted."""

    dataset: str
    artifact: str
    questions: int
    answered: int
    clips: int
    recordings: int
    bytes: int  #: of the clips
    seconds: float  #: of the clips, together
    questions_by: dict[str, Counts]  #: split, category, language, choices, empty choices, origin, answer
    clips_by: dict[str, Counts]  #: codec, frame rate, evenness of frames, picture, rotation, sound
    duration: dict[str, float]  #: seconds: min, p25, median, p75, max; empty without clips


class Pictures(NamedTuple):
    """What a page shows of a clip."""

    frames: tuple[str, ...]  #: data: URIs of JPEGs, in order of time
    problem: str | None  #: why there is none


class Shot(NamedTuple):
    """A clip on the contact sheet."""

    clip: Clip
    frames: tuple[str, ...]
    problem: str | None


def size(store: Store, artifact: str) -> Size:
    """The size of a dataset by its manifests."""
    parts = store.manifest(artifact).parts
    clips = [file for part in parts for file in store.manifest(part).files if file.path.startswith("clips/")]
    return Size(artifact=artifact, parts=len(parts), clips=len(clips), bytes=sum(file.size for file in clips))


def look(dataset: str, artifact: str, parts: Iterable[tuple[Sequence[Question], Sequence[Clip]]]) -> Look:
    """Count a dataset, one part after another."""
    questions, clips = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    durations: list[float] = []
    recordings: set[str] = set()
    total = answered = taken = 0
    for some, own in parts:
        for question in some:
            total, answered = total + 1, answered + (question.answer is not None)
            for name, value in _of_question(question).items():
                questions[name][value] += 1
        for clip in own:
            durations.append(clip.seconds)
            recordings.add(clip.recording)
            taken += clip.size_bytes
            for name, value in _of_clip(clip).items():
                clips[name][value] += 1
    return Look(
        dataset=dataset, artifact=artifact, questions=total, answered=answered, clips=len(durations),
        recordings=len(recordings), bytes=taken, seconds=round(sum(durations), 3), questions_by=_sorted(questions),
        clips_by=_sorted(clips), duration=_quantiles(durations),
    )  # fmt: skip


def _of_question(question: Question) -> dict[str, str]:
    return {
        "split": "test" if question.origin.test_derived else "not of a test set",
        "category": question.category,
        "language": question.language,
        "choices": str(len(question.choices)),
        "empty choices": str(len(question.choices) - len(question.offered)),
        "origin": breakdown.origin(question.origin),
        "answer": "unknown" if question.answer is None else letter(question.answer),
    }


def _of_clip(clip: Clip) -> dict[str, str]:
    even = {None: _UNKNOWN, False: "at even intervals", True: "at uneven intervals"}
    turned = _UNKNOWN if clip.rotation is None else f"turned by {clip.rotation}°" if clip.rotation else "none"
    return {
        "codec": clip.codec,
        "frame rate": f"{clip.fps:.3g} fps",
        "frames": even[clip.variable],
        "picture": f"{clip.width}×{clip.height}",
        "rotation": turned,
        "sound": _UNKNOWN if clip.audio is None else clip.audio or "none",
    }


def _sorted(counted: dict[str, Counter[str]]) -> dict[str, Counts]:
    """By name where all are numbers or letters, else the most frequent first."""
    found = {}
    for name, counts in counted.items():
        in_order = name in ("answer", "choices", "empty choices")
        key = (lambda item: (len(item[0]), item[0])) if in_order else (lambda item: (-item[1], item[0]))
        found[name] = dict(sorted(counts.items(), key=key))
    return found


def _quantiles(durations: list[float]) -> dict[str, float]:
    if not durations:
        return {}
    found = np.quantile(durations, [0, 0.25, 0.5, 0.75, 1])
    return dict(zip(("min", "p25", "median", "p75", "max"), (round(float(value), 3) for value in found), strict=True))


# --- pictures --------------------------------------------------------------------------------------


def sheet(store: Store, clips: Sequence[Clip], most: int, progress: Progress) -> list[Shot]:
    """Frames of at most `most` clips, the same ones each time: one of each recording before a second."""
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, str, Clip]] = []
    for clip in sorted(clips, key=lambda clip: clip.digest):
        ranked.append((turns[clip.recording], clip.digest, clip))
        turns[clip.recording] += 1
    chosen = [clip for _, _, clip in sorted(ranked, key=lambda rank: rank[:2])[:most]]
    shots = []
    for number, clip in enumerate(sorted(chosen, key=lambda clip: clip.name), 1):
        shots.append(Shot(clip, *pictures(store, clip.digest)))
        progress("pictures", number, len(chosen))
    return shots


def pictures(store: Store, digest: str) -> Pictures:
    """Three frames of a clip in the store, or why there are none."""
    try:
        with store.workspace() as space:
            store.get_blob(digest, space / "clip")
            frames = sample(space / "clip", _SHEET).frames
    except MediaError as error:
        return Pictures((), one_line(str(error).rsplit("/", 1)[-1].removeprefix("clip: ")))
    except NotInStoreError:
        return Pictures((), "its bytes are not in the store")
    return Pictures(tuple(_jpeg(frame) for frame in frames[1::2]), None)


def _jpeg(frame: np.ndarray) -> str:
    """A `data:` URI of an [H, W, 3] uint8 RGB picture."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(out, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
