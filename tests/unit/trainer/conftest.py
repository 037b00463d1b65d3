"""A tiny random Qwen3-VL, and rows whose clips are one colour each."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from shared.budget import VideoBudget
from shared.context import LocalContext
from shared.contracts import EarlyStop, TrainRecipe
from shared.schema import Choice, Clip, Origin, Question, write_rows
from shared.settings import settings
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
JUDGED = RECIPE.model_copy(update={"early_stop": EarlyStop(patience=None)})  #: validated to the end


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(_no_ambient_settings: None, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoded clips go where the tests' other files go."""
    monkeypatch.setenv("ROADQA_CACHE_DIR", str(cache_dir))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set runtime settings for one test: `runtime(micro_batch=1)` for ROADQA_TRAINER_MICRO_BATCH."""

    def put(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"ROADQA_TRAINER_{name.upper()}", str(value))
        settings.cache_clear()

    return put


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve human-labelled rows, and one without an answer."""
    folder = tmp_path_factory.mktemp("labelled")
    return write_part(folder, [*(Origin(answer="human"),) * 12, Origin(answer="none")], first=0)


class Undisturbed(NamedTuple):
    """A training that nothing befell: two processes, ZeRO-2."""

    out: Path
    facts: dict[str, Any]
    ctx: LocalContext

    @property
    def training(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "card.json").read_text())["training"]
        return found


@pytest.fixture(scope="session")
def undisturbed(
    base: Path, labelled: Path, validating: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    from workers.trainer.train import train  # no torch for who needs no training

    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "out").mkdir()
    ctx = LocalContext(folder / "scratch")
    inputs = {"model": [base], "data": [labelled], "validation": [validating]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROADQA_CACHE_DIR", str(cache_dir))
        settings.cache_clear()
        facts = train(inputs, JUDGED, folder / "out", ctx)
    settings.cache_clear()
    return Undisturbed(folder / "out", facts, ctx)


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


def write_part(folder: Path, origins: list[Origin], first: int, seconds: tuple[int, ...] = (SECONDS,)) -> Path:
    """A rows artifact with a clip for each row, as long as `seconds` say in turn; two clips make a recording."""
    (folder / "clips").mkdir(parents=True)
    clips: dict[str, Clip] = {}
    questions = []
    for number, origin in enumerate(origins, first):
        colour = number % len(COLOURS)
        clip = _clip(folder, number, list(COLOURS.values())[colour], seconds[number % len(seconds)])
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


def _clip(folder: Path, number: int, colour: tuple[int, int, int], seconds: int) -> Clip:
    path = folder / "new.mp4"
    random = np.random.default_rng(number)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(FPS * seconds):
            noise = random.integers(0, 30, (HEIGHT, WIDTH, 3))
            frame = np.clip(np.array(colour) + noise - 15, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    path.rename(folder / "clips" / digest)
    return Clip(
        digest=digest, name=f"{number}.mp4", recording=f"r{number // 2}", size_bytes=size, seconds=seconds, fps=FPS,
        width=WIDTH, height=HEIGHT, codec="h264",
    )  # fmt: skip
