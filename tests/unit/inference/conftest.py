"""Two tiny checkpoints that differ in their weights only, and a rows artifact of drawn clips."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from shared.budget import VideoBudget
from shared.contracts import PredictRecipe
from shared.schema import Clip, Question, write_rows
from tests.unit.vlm.examples import question
from tests.unit.vlm.tiny import write_model
from workers.inference.engines import POOL

VIDEO = VideoBudget(fps=2, tokens_per_patch=6, max_frames=8)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), seed=0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session", autouse=True)
def _engines_closed_at_the_end() -> Iterator[None]:
    yield
    POOL.close()


def recipe(engine: str = "vllm", **asking: object) -> PredictRecipe:
    return PredictRecipe.model_validate({"engine": engine, "system_prompt": "short", "video": VIDEO} | asking)


def draw_clip(path: Path, seed: int, frames: int = 30) -> None:
    """A bright box wandering over a dark road, 384×256 at 10 frames a second."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 384, 256, "yuv420p"
        for number in range(frames):
            picture = np.full((256, 384, 3), 40 + 30 * seed, np.uint8)
            left = (number * 10 + seed * 60) % 320
            picture[100:160, left : left + 60] = (200, 60 * seed, 50)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with four questions each, of two to eight choices; the clips' questions interleaved."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "clips").mkdir()
    clips: dict[str, Clip] = {}
    for seed in range(3):
        draw_clip(folder / "new", seed)
        digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
        size = (folder / "new").stat().st_size
        (folder / "new").rename(folder / "clips" / digest)
        clips[digest] = Clip(
            digest=digest, name=f"{seed}.mp4", recording=str(seed), size_bytes=size, seconds=3.0, fps=10.0,
            width=384, height=256, codec="h264",
        )  # fmt: skip
    questions: list[Question] = []
    for number in range(4):
        for digest in clips:
            texts = tuple(f"red {place}" for place in range(2 * number + 2))
            asked = question(texts, name=f"q{len(questions)}")
            questions.append(asked.model_copy(update={"clip": digest}))
    write_rows(folder, questions, clips)
    return folder
