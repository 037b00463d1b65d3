"""Serving: what vLLM is told, what is refused by its name, and which paths are open. The server itself: integration."""

import asyncio
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY
from vllm.utils.argparse_utils import FlexibleArgumentParser

from shared.budget import VideoBudget
from shared.errors import InputError, UsageError
from shared.settings import Settings
from shared.vlm.encode import VIDEO_KWARGS
from workers.inference import room, serve
from workers.inference.door import Door
from workers.inference.engines import read_checkpoint


def understood(folder: Path, *words: str) -> Namespace:
    """vLLM's own reading of the options, with some of the user's after them."""
    parser = make_arg_parser(FlexibleArgumentParser())
    parsed = parser.parse_args([*serve.arguments(read_checkpoint(folder), "our-model"), *words])
    validate_parsed_serve_args(parsed)
    return parsed


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def test_nothing_is_open_but_what_is_promised(base: Path) -> None:
    told = understood(base)
    assert told.host == "127.0.0.1"
    assert told.allowed_local_media_path == ""
    assert told.allowed_media_domains == ["nowhere.invalid"]
    assert told.trust_remote_code is told.trust_request_mm_kwargs is False
    assert told.middleware == ["workers.inference.door.Door"]
    assert told.limit_mm_per_prompt == {"image": 0, "video": 1}
    assert told.api_key is None, "every list of processes would show it"
    assert told.served_model_name == ["our-model"]
    assert serve.ENVIRONMENT["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert {name for name in serve.ENVIRONMENT if name.startswith("VLLM_")} <= envs.environment_variables.keys()


def test_the_models_card_decides_how_much_of_a_clip_it_sees(model: Path) -> None:
    assert told_of_clips(model) == VideoBudget()
    (model / "card.json").write_text(json.dumps({"recipe": {"video": {"fps": 4, "max_frames": 8}}}))
    assert told_of_clips(model) == VideoBudget(fps=4, max_frames=8)


def told_of_clips(model: Path) -> VideoBudget:
    """The budget that our loader of clips is given, whichever way vLLM finds it."""
    told = understood(model)
    options = dict(told.media_io_kwargs["video"])
    assert options.pop("video_backend") == VIDEO_LOADER_REGISTRY.get_backend_for_video_processor(
        "Qwen3VLVideoProcessor"
    )
    assert options.pop("num_frames") == 0
    assert told.mm_processor_kwargs == VIDEO_KWARGS, "frames are final"
    return VideoBudget.model_validate(options)


def test_settings_reach_the_engine(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Settings(engine_requests=7, engine_kv_cache_bytes=123_000_000)
    monkeypatch.setattr("workers.inference.vllm_engine.settings", lambda: mine)
    told = understood(base)
    assert told.max_num_seqs == 7
    assert told.kv_cache_memory_bytes == 123_000_000


def seed() -> dict[str, str]:
    """The settings of the reference recipe's server."""
    lines = (Path(__file__).parents[3] / "compose" / "serve.seed.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_reference_recipes_settings_reach_the_server(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name.removeprefix("ROADQA_").lower(): value for name, value in seed().items() if "MEMORY" not in name}
    mine = Settings.model_validate(named | {"engine_kv_offload_bytes": 0})  # not on a CPU
    for module in ("serve", "vllm_engine"):
        monkeypatch.setattr(f"workers.inference.{module}.settings", lambda: mine)
    monkeypatch.setattr(room, "memory", lambda: None)
    told = understood(base)
    assert told.dtype == "bfloat16"
    assert told.kv_cache_memory_bytes == 32 * 2**30
    assert told.mm_processor_cache_gb == 8
    assert told.allowed_local_media_path == ""
    assert told.allowed_media_domains == ["nowhere.invalid"]
    assert serve.environment()["VLLM_MEDIA_LOADING_THREAD_COUNT"] == "8"
    assert "VLLM_MEDIA_LOADING_THREAD_COUNT" in envs.environment_variables


def test_the_reference_recipes_settings_are_those_of_kubernetes() -> None:
    overlay = (Path(__file__).parents[3] / "k8s" / "overlays" / "serve" / "kustomization.yaml").read_text()
    given = dict(re.findall(r"name: (ROADQA_\w+), value: \"?(\w+)", overlay))
    assert given.items() <= seed().items()
    assert len(given) == 5


def test_a_type_that_the_gpu_does_not_compute_in_is_refused_by_the_settings_name(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "settings", lambda: Settings(serve_dtype="bfloat16"))
    assert understood(base).dtype == "bfloat16"
    old = SimpleNamespace(is_cpu=lambda: False, is_cuda=lambda: True, has_device_capability=lambda needed: needed <= 75)
    monkeypatch.setattr("workers.inference.vllm_engine.current_platform", old)
    with pytest.raises(UsageError, match="ROADQA_SERVE_DTYPE"):
        serve.arguments(read_checkpoint(base), "our-model")


def test_doors_are_opened_by_name_only(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Settings(serve_media_path=str(tmp_path), serve_media_domains="clips.example.com, b.example.com")
    monkeypatch.setattr(serve, "settings", lambda: mine)
    told = understood(base)
    assert told.allowed_local_media_path == str(tmp_path)
    assert told.allowed_media_domains == ["clips.example.com", "b.example.com"]
    assert serve.environment()["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0", "not even then"


def test_what_the_user_says_wins(base: Path) -> None:
    told = understood(base, "--port", "8123", "--host", "0.0.0.0", "--allowed-media-domains", "clips.example.com")
    assert (told.port, told.host, told.allowed_media_domains) == (8123, "0.0.0.0", ["clips.example.com"])


def test_an_option_that_vllm_does_not_know_is_refused_by_its_name(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        understood(base, "--swap-space", "4")
    assert "--swap-space" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--api-key", "k"), ("--api-key=k",), ("--api_key", "k"), ("--port", "1", "--api-key", "k")]
)
def test_a_key_on_the_command_line_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="ROADQA_SERVE_API_KEY"):
        serve.check_words(words)
    serve.check_words(("--port", "1", "--api-keyring", "x"))


@pytest.mark.parametrize(
    ("changed", "gpus", "said"),
    [
        ({"engine_kv_offload_bytes": 1}, 0, "ROADQA_ENGINE_KV_OFFLOAD_BYTES"),
        ({"engine_gpus": 2}, 0, "ROADQA_ENGINE_GPUS is 2, but there are 0 GPUs"),
        ({"engine_gpus": 4}, 2, "ROADQA_ENGINE_GPUS is 4, but there are 2 GPUs"),
        ({"engine_kv_cache_bytes": 1}, 0, "VLLM_CPU_KVCACHE_SPACE"),
        ({"serve_media_path": "/no/such/folder"}, 0, "ROADQA_SERVE_MEDIA_PATH"),
    ],
)
def test_a_setting_that_could_only_be_ignored_is_refused_by_its_name(
    changed: dict[str, Any], gpus: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    monkeypatch.setattr(serve, "settings", lambda: Settings(**changed))
    with pytest.raises(UsageError, match=said):
        serve.check_settings(gpus)


def test_settings_that_fit_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr(serve, "settings", lambda: Settings(engine_kv_offload_bytes=1, engine_gpus=2))
    serve.check_settings(2)
    monkeypatch.setattr(serve, "settings", lambda: Settings(engine_kv_cache_bytes=1))
    serve.check_settings(0)


def test_a_format_without_a_kernel_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no kernel for nvfp4-pack-quantized"):
        serve.arguments(read_checkpoint(model), "our-model")


# --- the door ----------------------------------------------------------------------------------------


def asked(kind: str, path: str = "") -> tuple[bool, list[dict[str, Any]]]:
    """Whether the server behind the door heard of it, and what came back."""
    heard, answered = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(scope)

    async def send(message: Any) -> None:
        answered.append(message)

    asyncio.run(Door(app)({"type": kind, "path": path}, None, send))  # type: ignore[arg-type]
    return bool(heard), answered


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/health", "/metrics"])
def test_the_door_lets_in(path: str) -> None:
    assert asked("http", path) == (True, [])


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/tokenize",
        "/scale_elastic_ep",
        "/inference/v1/generate",
        "/docs",
        "/",
        "/v1",
        "/health/../invocations",
        "//v1/models",
        "/V1/models",
    ],
)
def test_the_door_is_shut(path: str) -> None:
    heard, answered = asked("http", path)
    assert not heard
    assert answered[0]["status"] == 404
    heard, answered = asked("websocket", path)
    assert not heard
    assert answered[0]["type"] == "websocket.close"


def test_the_door_does_not_keep_the_server_from_starting() -> None:
    assert asked("lifespan")[0]


@pytest.mark.parametrize(
    "words", [["--media-io-kwargs", '{"video": {"fps": 1}}'], ['--media_io_kwargs={"video": {"fps": 1}}']]
)
def test_pictures_stay_refused_where_other_frames_are_asked_for(words: list[str]) -> None:
    kept = serve.with_own_loader(["--port", "1", *words, "--seed", "2"])
    assert kept[:3] == ["--port", "1", "--media-io-kwargs"]
    assert json.loads(kept[3]) == {"video": {"fps": 1, "num_frames": 0}}
    assert kept[4:] == ["--seed", "2"]


def test_another_loader_is_left_to_who_names_it() -> None:
    words = ["--media-io-kwargs", '{"video": {"video_backend": "opencv"}}']
    assert serve.with_own_loader(words) == words


@pytest.mark.parametrize("value", ["fps", "[1]", '{"video": 1}'])
def test_options_of_media_that_are_none_are_told(value: str) -> None:
    with pytest.raises(UsageError, match="--media-io-kwargs"):
        serve.with_own_loader(["--media-io-kwargs", value])
