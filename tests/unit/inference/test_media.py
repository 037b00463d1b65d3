"""Clips that reach the served model: the same frames as in training, whoever sends them."""

import base64
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import ValidationError
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MediaConnector

from shared.budget import VideoBudget
from shared.decoders import Decoders
from shared.schema import Rows
from shared.video import sample
from tests.unit.inference.conftest import VIDEO
from workers.inference.media import io_options, told


def data_url(data: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(data).decode()


def loaded(url: str, video: VideoBudget = VIDEO) -> tuple[np.ndarray, dict[str, object]]:
    """As the server loads what a client's `video_url` holds, for Qwen3-VL."""
    connector = MediaConnector(io_options(video))
    frames, about = connector.fetch_video(url, video_processor="Qwen3VLVideoProcessor")
    return frames, about


def a_clip(rows: Path) -> Path:
    found = Rows([rows])
    return found.clip_path(found.questions[0].clip)


@pytest.mark.parametrize("video", [VIDEO, VideoBudget(fps=5, tokens_per_patch=40)])
def test_a_clip_is_seen_as_in_training(rows: Path, video: VideoBudget) -> None:
    frames, about = loaded(data_url(a_clip(rows).read_bytes()), video)
    due = sample(a_clip(rows), video)
    assert np.array_equal(frames, due.frames)
    assert about == told(due)
    assert about["frames_indices"] == list(due.indices)
    assert about["do_sample_frames"] is False


def test_other_options_do_not_bring_vllms_own_loader_back(rows: Path) -> None:
    """As with `--media-io-kwargs '{"video": {"fps": 5}}'`, which takes the place of all that was chosen."""
    connector = MediaConnector({"video": {"fps": 5}})
    url = data_url(a_clip(rows).read_bytes())
    frames, _ = connector.fetch_video(url, video_processor="Qwen3VLVideoProcessor")
    assert np.array_equal(frames, sample(a_clip(rows), VideoBudget(fps=5)).frames)
    with pytest.raises(ValidationError, match="tokens"):
        MediaConnector({"video": {"tokens": 5}}).fetch_video(url, video_processor="Qwen3VLVideoProcessor")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"ffconcat version 1.0\nfile clip.mp4\n", "the clip is an ffconcat script"),
        (b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1/\n", "the clip is a playlist"),
        (b"", "the clip has 0 bytes"),
    ],
)
def test_what_is_no_clip_is_refused_without_telling_where_it_lay(data: bytes, why: str) -> None:
    with pytest.raises(VLLMValidationError, match=why) as refused:
        loaded(data_url(data))
    assert tempfile.gettempdir() not in str(refused.value)


def test_pictures_that_call_themselves_a_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="num_frames"):
        loaded("data:video/jpeg;base64,AAAA,AAAA")


def test_a_decoder_that_crashes_does_not_take_the_server_down(rows: Path) -> None:
    others = decoding()
    before, _ = loaded(data_url(a_clip(rows).read_bytes()))
    (process,) = decoding() - others
    process.send_signal(signal.SIGSEGV)
    process.wait(60)
    after, _ = loaded(data_url(a_clip(rows).read_bytes()))
    assert np.array_equal(before, after)


def decoding() -> set[psutil.Process]:
    return {one for one in psutil.Process().children() if "shared.decoders" in one.cmdline()}


@pytest.fixture(autouse=True)
def _own_decoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Decoders(1) as made:
        monkeypatch.setattr("workers.inference.media.decoders", lambda: made)
        yield
