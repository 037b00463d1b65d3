"""`roadqa serve`, for real: a model out of the store, vLLM's server, questions on a clip over HTTP."""

import base64
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import psutil
import pytest

from services.cli import serve
from services.cli.data import pull_model
from services.local.stack import ROOT, free_port
from services.sandbox import clips
from shared.errors import UsageError
from shared.prompts import LETTERS, render, system_text
from shared.schema import Choice, Origin, Question
from shared.store import Store
from tests.conftest import settings_of
from tests.waiting import wait_for

KEY = "a key that no list of processes shows"
READY_SECONDS = 300  #: two processes import a gigabyte of libraries, on a machine that may be busy
END_SECONDS = 60
MODEL = "sandbox-tiny"


def environment(servers: dict[str, str], folder: Path, **more: str) -> dict[str, str]:
    mine = {"ROADQA_S3_BUCKET": "serving", "ROADQA_CACHE_DIR": str(folder / "cli"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **servers, **mine, **more}


class Served(NamedTuple):
    """`roadqa serve` at work."""

    process: subprocess.Popen[str]
    url: str
    env: dict[str, str]
    log: Path

    def ask(self, path: str, body: dict[str, Any] | None = None, key: str | None = KEY) -> tuple[int, str]:
        """Status and text of an answer."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


def _hears_ctrl_c() -> None:
    """As from a terminal: in the background of a shell, all that the tests start ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def served(servers: dict[str, str], folder: Path) -> Iterator[Served]:
    Store(settings_of(servers, s3_bucket="serving", cache_dir=folder / "own")).prepare()
    port, log = free_port(0), folder / "log"
    env = environment(servers, folder, ROADQA_SERVE_API_KEY=KEY)
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "serve", MODEL, "--port", str(port)],
            env=env, stdout=out, stderr=out, text=True, preexec_fn=_hears_ctrl_c,
        )  # fmt: skip
    made = Served(process, f"http://127.0.0.1:{port}", env, log)
    try:
        wait_for(
            lambda: "Without this program" in log.read_text() or process.poll() is not None, MODEL, READY_SECONDS, 0.5
        )
        assert process.poll() is None, log.read_text()[-3000:]
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[tuple[Question, Path]]:
    """Drawn questions with their clips."""
    drawn = clips.draw(folder / "drawn", seed=7, recordings=1, clips_per_recording=2, questions_per_clip=2,
                       split="train", workers=1)  # fmt: skip
    return [
        (
            Question(
                id=row["id"],
                clip="c" * 64,
                text=row["question"],
                choices=tuple(Choice(label=text[0], text=text[3:]) for text in row["choices"]),
                origin=Origin(answer="none"),
            ),
            drawn.parent / row["video_path"],
        )
        for row in json.loads(drawn.read_text())["data"]
    ]


def data_url(data: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(data).decode()


def request(question: Question, url: str) -> dict[str, Any]:
    """As the model was trained to be asked, its answer held to the question's letters."""
    clip = {"type": "video_url", "video_url": {"url": url}}
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": system_text("short")},
            {"role": "user", "content": [clip, {"type": "text", "text": render(question)}]},
        ],
        "max_tokens": 1,
        "temperature": 0,
        "structured_outputs": {"choice": list(LETTERS[: len(question.choices)])},
    }


def test_a_question_on_a_clip_is_answered_with_one_of_its_letters(
    served: Served, rows: list[tuple[Question, Path]]
) -> None:
    for question, clip in rows:
        status, text = served.ask("/v1/chat/completions", request(question, data_url(clip.read_bytes())))
        assert status == 200, text
        answer = json.loads(text)
        assert answer["choices"][0]["message"]["content"] in LETTERS[: len(question.choices)]
        # at most 4 patches of 6 tokens, each patch with a timestamp, beside the question
        assert 20 < answer["usage"]["prompt_tokens"] < 250


def test_the_command_that_it_prints_works(served: Served, rows: list[tuple[Question, Path]], tmp_path: Path) -> None:
    (tmp_path / "CLIP.mp4").write_bytes(rows[0][1].read_bytes())
    command = served.log.read_text().split("Without this program:\n")[1].split("-d @-")[0] + "-d @-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=served.env, capture_output=True, text=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] in ("A", "B"), done.stdout


def ask(served: Served, question: Question, clip: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """By the command that the server prints."""
    (line,) = [line for line in served.log.read_text().splitlines() if line.startswith("roadqa ask")]
    words = [clip if word == "CLIP.mp4" else word for word in shlex.split(line)[1:]]
    asked, rest = words.index("Is the light red?"), words.index("--url")
    choices = [choice.text for choice in question.choices]
    command = [*words[:asked], question.text, "--choices", *choices, *words[rest:], "--json"]
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *map(str, command)],
        env=served.env | env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_roadqa_ask_says_what_the_server_answers(served: Served, rows: list[tuple[Question, Path]]) -> None:
    question, clip = rows[0]
    done = ask(served, question, clip)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    _, text = served.ask("/v1/chat/completions", request(question, data_url(clip.read_bytes())))
    assert found["letter"] == json.loads(text)["choices"][0]["message"]["content"]
    assert found["prompt_tokens"] == json.loads(text)["usage"]["prompt_tokens"], "asked as by hand, system prompt too"
    assert found["probabilities"].keys() == set(LETTERS[: len(question.choices)])
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert found["confidence"] == max(found["probabilities"].values())
    refused = ask(served, question, clip, ROADQA_SERVE_API_KEY="another")
    assert refused.returncode == 2
    assert "takes another key than ROADQA_SERVE_API_KEY" in refused.stderr


class Listener(ThreadingHTTPServer):
    """Counts who comes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self.came = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.came += 1
        return False


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_no_file_and_no_address_is_opened(
    served: Served, rows: list[tuple[Question, Path]], listener: Listener
) -> None:
    """A URL can name them, and so can a script for ffmpeg that calls itself a clip."""
    question, clip = rows[0]
    beside = os.path.relpath(clip, Path(psutil.Process(served.process.pid).children()[0].cwd()))
    address = f"http://127.0.0.1:{listener.server_port}/clip.mp4"
    for url, said in (
        (f"file://{clip}", "allowed-local-media-path"),
        (address, "allowed domains"),
        ("https://example.com/clip.mp4", "allowed domains"),
        (data_url(f"ffconcat version 1.0\nfile {clip.name}\n".encode()), "is an ffconcat script"),
        (data_url(f"ffconcat version 1.0\nfile '{beside}'\n".encode()), "is an ffconcat script"),
        (
            data_url(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n".encode()),
            "is a playlist",
        ),
        ("data:video/jpeg;base64,AAAA,AAAA", "num_frames"),
    ):
        status, text = served.ask("/v1/chat/completions", request(question, url))
        assert status >= 400, url
        assert said in text, (url, text)
    assert listener.came == 0


def test_only_who_has_the_key_is_answered_and_nothing_else_is_open(
    served: Served, rows: list[tuple[Question, Path]]
) -> None:
    body = request(rows[0][0], data_url(rows[0][1].read_bytes()))
    assert served.ask("/v1/chat/completions", body, key=None)[0] == 401
    assert served.ask("/v1/chat/completions", body, key="another")[0] == 401
    assert served.ask("/invocations", body)[0] == 404
    assert served.ask("/tokenize", {"model": MODEL, "prompt": "a"})[0] == 404
    assert served.ask("/health", key=None)[0] == 200
    shown = [" ".join(one.cmdline()) for one in [psutil.Process(served.process.pid), *tree(served)]]
    assert any("workers.inference.serve" in line for line in shown)
    assert not [line for line in shown if KEY in line]
    assert KEY not in served.log.read_text()


def test_metrics_tell_of_the_model(served: Served) -> None:
    status, text = served.ask("/metrics", key=None)
    assert status == 200
    assert "vllm:request_success_total{" in text
    assert f'model_name="{MODEL}"' in text


def test_a_port_that_is_taken_is_told_at_once(served: Served) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "serve", MODEL, "--port", served.url.rsplit(":", 1)[1]],
        env=served.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is taken: choose another with --port" in done.stderr


def tree(served: Served) -> list[psutil.Process]:
    return psutil.Process(served.process.pid).children(recursive=True)


def test_ctrl_c_ends_the_whole_tree(served: Served, folder: Path) -> None:
    """The last test of this module: it ends the server."""
    started = tree(served)
    assert len(started) >= 2, "the server and its engine"
    assert len(list((folder / "serve" / "work").iterdir())) == 1
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(END_SECONDS) == 0
    assert not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert "is no longer served" in served.log.read_text()
    assert list((folder / "serve" / "work").iterdir()) == [], "its workspace is taken away"


def test_without_the_inference_environment_it_says_what_else_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "PYTHON", tmp_path / "python")
    with pytest.raises(UsageError, match=r"make setup.*profile `serve`"):
        serve.serve("a" * 64, MODEL, free_port(0), (), print)


# --- what is told in one line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (("no-such-model",), {}, "'no-such-model' is not in the store"),
        ((MODEL, "--api-key", "k"), {}, "ROADQA_SERVE_API_KEY"),
        ((MODEL,), {"ROADQA_ENGINE_KV_OFFLOAD_BYTES": "1"}, "ROADQA_ENGINE_KV_OFFLOAD_BYTES"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    words: tuple[str, ...], env: dict[str, str], said: str, servers: dict[str, str], tmp_path: Path
) -> None:
    own = environment(servers, tmp_path, **env)
    store = Store(settings_of(servers, s3_bucket="serving", cache_dir=tmp_path / "own"))
    store.prepare()
    pull_model(store, MODEL, None, lambda *_: None)
    done = subprocess.run(
        [serve.PYTHON, "-m", "workers.inference.serve", *words], env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("serve: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
