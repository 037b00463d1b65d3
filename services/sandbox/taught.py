"""A sandbox teacher in a process of its own, and rows of sandbox scenes to ask it about."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from services.sandbox import scene as scenes
from services.sandbox.questions import questions
from services.sandbox.scene import Scene
from shared.errors import RoadQAError
from shared.schema import Choice, Clip, Origin, Question, write_rows

ROOT = Path(__file__).parents[2]


@contextmanager
def sandbox_teacher(*options: str, log: int | None = None) -> Iterator[str]:
    """The base URL of a running sandbox teacher; it ends with the block.

    Args:
        options: those of its command line.
        log: where its stderr goes, as `subprocess` takes it; by default where this process' own goes.
    """
    command = [sys.executable, "-m", "services.sandbox.teacher", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        try:
            said = server.stdout.readline() if server.stdout is not None else ""
            match = re.search(r"http://\S+", said)
            if match is None:
                raise RoadQAError(f"the sandbox teacher did not start: {said.strip() or 'it said nothing'}")
            yield match[0]
        finally:
            server.terminate()


def write_short_clip(scene: Scene, path: Path) -> None:
    """Two small grey frames with the scene in the metadata: all that the sandbox teacher reads of a clip."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = scene.model_dump_json()
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(2):
            grey = np.full((32, 32, 3), 128, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


def write_scene_rows(folder: Path, recordings: int, clips: int, per_clip: int = 4, seed: int = 5) -> dict[str, int]:
    """A rows artifact of unanswered questions on drawn scenes; returns the truth by question id."""
    (folder / "clips").mkdir(parents=True)
    asked: list[Question] = []
    known: dict[str, Clip] = {}
    truth: dict[str, int] = {}
    for number in range(recordings):
        for scene in scenes.recording(seed, "train", number + 1, clips):
            clip = _keep_clip(scene, folder / "clips")
            known[clip.digest] = clip
            for item in questions(scene, "vi" if number % 3 == 2 else "en")[:per_clip]:
                name = f"q{len(asked):05d}"
                choices = tuple(Choice(label="", text=text) for text in item.choices)
                asked.append(
                    Question(
                        id=name, clip=clip.digest, text=item.text, choices=choices, category=item.category,
                        language=item.language, origin=Origin(answer="none", test_derived=number % 2 == 0),
                    )
                )  # fmt: skip
                truth[name] = item.answer
    write_rows(folder, asked, known)
    return truth


def _keep_clip(scene: Scene, folder: Path) -> Clip:
    draft = folder / "draft"
    write_short_clip(scene, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    draft.rename(folder / digest)
    return Clip(
        digest=digest, name=f"{scene.recording}_{scene.number:02d}.mp4", recording=scene.recording,
        size_bytes=(folder / digest).stat().st_size, seconds=0.2, fps=10, width=32, height=32, codec="h264",
    )  # fmt: skip
