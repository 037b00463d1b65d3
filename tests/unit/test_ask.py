"""`roadqa ask`: what is sent, what is made of an answer, and what is told where there is none."""

import json
import math
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from services.cli import ask
from services.cli.main import main
from services.sandbox import clips
from shared.errors import MediaError, RoadQAError, UsageError
from shared.settings import Settings

KEY = "a-key"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = clips.draw(tmp_path_factory.mktemp("drawn"), seed=3, recordings=1, clips_per_recording=1,
                       questions_per_clip=1, split="train", workers=1)  # fmt: skip
    return drawn.parent / json.loads(drawn.read_text())["data"][0]["video_path"]


class Stand(ThreadingHTTPServer):
    """Answers as it is told; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {"/v1/models": (200, {"data": [{"id": "ours"}]})}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Stand

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.path, self.headers.get("Authorization"), sent))
        status, told = self.server.answers.get(self.path, (404, {"error": {"message": "no such route"}}))
        data = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def answer(said: str, **logprobs: float) -> dict[str, Any]:
    told = {"content": [{"token": said, "top_logprobs": [{"token": k, "logprob": v} for k, v in logprobs.items()]}]}
    return {
        "model": "ours",
        "choices": [{"message": {"content": said}, "logprobs": told if logprobs else None}],
        "usage": {"prompt_tokens": 77},
    }


Run = Callable[..., Any]


@pytest.fixture
def run(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(ask, "settings", lambda: Settings(serve_api_key=SecretStr(KEY)))
    return lambda *words: CliRunner().invoke(main, ["ask", *map(str, words), "--url", stand.url])


def test_it_asks_as_in_training_and_prints_a_letter_with_its_confidence(clip: Path, stand: Stand, run: Run) -> None:
    stand.answers["/v1/chat/completions"] = 200, answer("B", A=math.log(0.1), B=math.log(0.3), x=-0.1)
    done = run(clip, "Is the light red?", "--choices", "A. yes", "B. no", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["letter"], found["text"], found["model"], found["prompt_tokens"]) == ("B", "no", "ours", 77)
    assert found["confidence"] == pytest.approx(0.75)
    assert found["probabilities"] == pytest.approx({"A": 0.25, "B": 0.75})
    (path, key, sent) = stand.asked[-1]
    assert (path, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert sent["structured_outputs"] == {"choice": ["A", "B"]}
    assert (sent["max_tokens"], sent["temperature"], sent["logprobs"], sent["top_logprobs"]) == (1, 0, True, 2)
    system, user = sent["messages"]
    assert system["role"] == "system"
    assert user["content"][0]["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert user["content"][1]["text"] == "Is the light red?\nA. yes\nB. no\nAnswer with the letter."


def test_for_people_every_choice_has_its_share(clip: Path, run: Run, stand: Stand) -> None:
    stand.answers["/v1/chat/completions"] = 200, answer("A", A=-0.1, B=-3.0)
    done = run(clip, "Red?", "yes", "no", "--system-prompt", "none")
    assert done.exit_code == 0
    assert [line.split()[::2] for line in done.output.splitlines()[:2]] == [["A", "yes"], ["B", "no"]]
    assert done.output.splitlines()[2].startswith("A: yes (ours, 77 tokens")
    assert [message["role"] for message in stand.asked[-1][2]["messages"]] == ["user"]


def test_without_log_probabilities_there_is_no_confidence(clip: Path, run: Run, stand: Stand) -> None:
    stand.answers["/v1/chat/completions"] = 200, answer("A")
    assert json.loads(run(clip, "Red?", "yes", "no", "--json").output)["confidence"] is None


@pytest.mark.parametrize(
    ("status", "told", "said", "code"),
    [
        (401, {"error": "Unauthorized"}, "another key than ROADQA_SERVE_API_KEY", 2),
        (400, {"error": {"message": "The clip is\ntoo long"}}, r"refuses (400): The clip is\ntoo long", 1),
        (500, b"oops", "refuses (500): oops", 1),
        (200, b"<html>", "answers no JSON", 1),
        (200, [], "not an object", 1),
        (200, {}, "not understood", 1),
        (200, answer("Yes"), "none of A, B", 1),
        (200, answer("C"), "none of A, B", 1),
        (302, {}, "refuses (302)", 1),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(
    status: int, told: Any, said: str, code: int, clip: Path, run: Run, stand: Stand
) -> None:
    stand.answers["/v1/chat/completions"] = status, told
    done = run(clip, "Red?", "yes", "no", "--model", "ours")
    assert done.exit_code == code
    assert done.output.startswith("roadqa: ")
    assert said in done.output
    assert done.output.count("\n") == 1
    assert all(path != "/elsewhere" for path, *_ in stand.asked), "the key and the clip stay here"


def test_which_of_several_models_must_be_said(clip: Path, run: Run, stand: Stand) -> None:
    stand.answers["/v1/models"] = 200, {"data": [{"id": "a"}, {"id": "b"}]}
    done = run(clip, "Red?", "yes", "no")
    assert done.exit_code == 2
    assert "serves a, b: name one with --model" in done.output


def test_no_server_and_no_key_are_told(clip: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "settings", Settings)
    stand.answers["/v1/models"] = 401, {}
    with pytest.raises(UsageError, match="asks for a key: set ROADQA_SERVE_API_KEY"):
        ask.Server(stand.url, 5).model()
    assert stand.asked[-1][1] is None
    stand.shutdown()
    stand.server_close()
    with pytest.raises(RoadQAError, match=r"does not answer .*roadqa serve MODEL"):
        ask.Server(stand.url, 5).model()
    with pytest.raises(UsageError, match="is no address"):
        ask.Server("file:///etc/passwd", 5)


@pytest.mark.parametrize("words", [("", ["a", "b"]), ("?", ["a"]), ("?", ["a", " "]), ("?", ["x"] * 27)])
def test_a_question_without_choices_is_refused(words: tuple[str, list[str]]) -> None:
    with pytest.raises(UsageError, match="2 to 26 choices"):
        ask.question(*words)


def test_what_is_no_clip_is_not_sent(tmp_path: Path, run: Run, stand: Stand) -> None:
    (tmp_path / "clip.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    with pytest.raises(MediaError):
        ask.body(ask.question("?", ["a", "b"]), tmp_path / "clip.mp4", "m", "none")
    done = run(tmp_path / "clip.mp4", "Red?", "yes", "no", "--model", "ours")
    assert done.exit_code == 1
    assert stand.asked == []
