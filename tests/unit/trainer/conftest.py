"""A tiny random Qwen3-VL, and rows whose clips are one colour each."""

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

from shared.budget import VideoBudget
from shared.contracts import TrainRecipe
from shared.schema import Choice, Clip, Origin, Question, write_rows
from tests.unit.vlm.tiny import write_model

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
WIDTH, HEIGHT, FPS, SECONDS = 96, 64, 10, 2
RECIPE = TrainRecipe(
    epochs=4,
    learning_rate=1e-3,
    warmup_share=0.1,
    global_batch=4,
    precision="float32",
    system_prompt="short",
    video=VideoBudget(tokens_per_patch=6, max_frames=4),
    seed=7,
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve human-labelled rows, and one without an answer."""
    folder = tmp_path_factory.mktemp("labelled")
    return write_part(folder, [*(Origin(answer="human"),) * 12, Origin(answer="none")], first=0)


@pytest.fixture(scope="session")
def validating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five human-labelled rows on recordings of their own."""
    return write_part(tmp_path_factory.mktemp("validating"), [Origin(answer="human")] * 5, first=200)


@pytest.fixture(scope="session")
def test_derived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows that a teacher labelled on test clips, one of them augmented."""
    taught = Origin(answer="teacher", test_derived=True, teacher="t")
    augmented = taught.model_copy(update={"parent": "q100", "rule": "synonym"})
    return write_part(tmp_path_factory.mktemp("test-derived"), [taught, taught, taught, augmented], first=100)


def write_part(folder: Path, origins: list[Origin], first: int) -> Path:
    """A rows artifact with a clip for each row; two clips make a recording."""
    (folder / "clips").mkdir()
    clips: dict[str, Clip] = {}
    questions = []
    for number, origin in enumerate(origins, first):
        colour = number % len(COLOURS)
        clip = _clip(folder, number, list(COLOURS.values())[colour])
        clips[clip.digest] = clip
        choices = tuple(Choice(label=letter, text=text) for letter, text in zip("ABCD", COLOURS, strict=True))
        answer = None if origin.answer == "none" else colour
        questions.append(
            Question(
                id=f"q{number}", clip=clip.digest, text="Which colour?", choices=choices, answer=answer, origin=origin
            )
        )
    write_rows(folder, questions, clips)
    return folder


def _clip(folder: Path, number: int, colour: tuple[int, int, int]) -> Clip:
    path = folder / "new.mp4"
    random = np.random.default_rng(number)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(FPS * SECONDS):
            noise = random.integers(0, 30, (HEIGHT, WIDTH, 3))
            frame = np.clip(np.array(colour) + noise - 15, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    path.rename(folder / "clips" / digest)
    return Clip(
        digest=digest, name=f"{number}.mp4", recording=f"r{number // 2}", size_bytes=size, seconds=SECONDS, fps=FPS,
        width=WIDTH, height=HEIGHT, codec="h264",
    )  # fmt: skip
