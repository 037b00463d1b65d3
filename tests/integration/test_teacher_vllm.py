"""The OpenAI-compatible teacher against vLLM's own server, on a CPU, with random weights.

What such a model says is noise. That it fits the schema, and that clip and frames arrive, is not.
"""

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from services.local.stack import ROOT, free_port
from services.sandbox import scene as scenes
from services.sandbox.clips import write_clip
from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.teachers import Patience, Request
from tests.integration.teaching import ask, teacher_at
from tests.waiting import wait_for

INFERENCE = ROOT / ".venvs" / "inference" / "bin"
KEY = "a-key-of-the-test"
MODEL = "tiny"
READY_SECONDS, END_SECONDS = 300, 60
CLIP = TeacherRecipe(provider="openai", model=MODEL, max_output_tokens=512)
FRAMES = CLIP.model_copy(update={"video": "frames"})
PATIENT = Patience(timeout_s=120, tries=2, backoff_s=0.1)


class Vote(BaseModel):
    reasoning: str = Field(max_length=20)
    answer: int = Field(ge=1, le=4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(scenes.recording(5, "train", 1, 1)[0], path)
    return path


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("vllm"), free_port(0)
    env = os.environ | {
        "PYTHONPATH": str(ROOT), "PATH": f"{INFERENCE}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": KEY,
    }  # fmt: skip
    write = (
        "import sys; from pathlib import Path; from tests.unit.vlm.tiny import write_model as w; w(Path(sys.argv[1]))"
    )
    subprocess.run([INFERENCE / "python", "-c", write, folder / "model"], cwd=ROOT, env=env, check=True)
    command = [
        INFERENCE / "python", "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", folder / "model",
        "--served-model-name", MODEL, "--host", "127.0.0.1",
        "--port", str(port), "--max-model-len", "4096", "--max-num-seqs", "4", "--enforce-eager", "--dtype", "float32",
        "--kv-cache-memory-bytes", "256M", "--mm-processor-cache-gb", "0.1",
        # A seeded request whose prompt is read in pieces kills the CPU engine (`CPU Generator does not use offset`).
        "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
        except OSError:
            return False

    try:
        wait_for(answers, "vLLM", READY_SECONDS, every=0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(END_SECONDS)


def request(recipe: TeacherRecipe, seed: int = 0) -> Request:
    return Request(
        teacher=recipe, prompt_id="p", prompt="Which way does the car go? 1. left 2. right 3. on 4. back",
        answer=Vote, clip="c", seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("recipe", [CLIP, FRAMES], ids=["clip", "frames"])
def test_every_answer_fits_the_schema(url: str, clip: Path, recipe: TeacherRecipe) -> None:
    requests = [request(recipe, seed) for seed in range(6)]
    outcomes = ask(lambda: teacher_at(url, recipe, key=KEY, patience=PATIENT), clip, *requests)
    replies = [outcome.reply for outcome in outcomes]
    assert all(replies), [outcome.error for outcome in outcomes]
    votes = [Vote.model_validate(reply.data) for reply in replies if reply is not None]
    assert len({vote.reasoning for vote in votes}) > 1, "each seed is a sample of its own"
    for reply in replies:
        assert reply is not None
        assert reply.model == MODEL
        assert reply.usage.tokens_in > 300  # more than the words: the clip is there
        assert reply.usage.tokens_out > 0


def test_frames_a_second_decide_how_much_of_the_clip_is_seen(url: str, clip: Path) -> None:
    tokens = {}
    for fps in (1, 4):
        recipe = FRAMES.model_copy(update={"fps": fps})
        (outcome,) = ask(
            lambda recipe=recipe: teacher_at(url, recipe, key=KEY, patience=PATIENT), clip, request(recipe)
        )
        assert outcome.reply is not None, outcome.error
        tokens[fps] = outcome.reply.usage.tokens_in
    assert tokens[4] > 2 * tokens[1]


def test_an_answer_without_room_is_cut_off(url: str, clip: Path) -> None:
    recipe = CLIP.model_copy(update={"max_output_tokens": 2})  # 2, 4, 8: never enough for the field's name
    (outcome,) = ask(lambda: teacher_at(url, recipe, key=KEY, patience=Patience(tries=6)), clip, request(recipe))
    assert outcome.error is not None
    assert outcome.troubles == {"cut off": 3}


def test_a_refused_key_and_an_unknown_model_are_said_at_once(url: str, clip: Path) -> None:
    with pytest.raises(UsageError, match="ROADQA_OPENAI_API_KEY"):
        ask(lambda: teacher_at(url, CLIP, key="wrong", patience=PATIENT), clip, request(CLIP))
    other = CLIP.model_copy(update={"model": "another"})
    with pytest.raises(UsageError, match="no such model"):
        ask(lambda: teacher_at(url, other, key=KEY, patience=PATIENT), clip, request(other))


def test_a_clip_that_is_none_is_rejected(url: str, tmp_path: Path) -> None:
    broken = tmp_path / "clip"
    broken.write_bytes(b"not a video")
    for recipe in (CLIP, FRAMES):
        (outcome,) = ask(
            lambda recipe=recipe: teacher_at(url, recipe, key=KEY, patience=PATIENT), broken, request(recipe)
        )
        assert outcome.error is not None
        assert outcome.error.kind in ("rejected", "server"), outcome.error
