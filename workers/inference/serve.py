"""Serve: a checkpoint out of the store, behind vLLM's own OpenAI-compatible server.

`python -m workers.inference.serve MODEL [--force] [vLLM's options]`; MODEL is a name or an artifact, as `roadqa models
pull` and the report tell it; --force serves one that its gate refused. What is said on the command line comes after
what is chosen here, and wins. It runs in this process, whose workspace holds the checkpoint until the server ends.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import verdicts
from shared.budget import VideoBudget
from shared.errors import InputError, RoadQAError, UsageError
from shared.settings import settings
from shared.store import Store, store

if TYPE_CHECKING:
    from workers.inference.engines import Checkpoint

# torch and vLLM are imported where they are needed: what is wrong should be told before that quarter of a minute.

FORCE = "--force"
HOST, PORT = "127.0.0.1", 8000
ANSWER_TOKENS = 1024  #: room for an answer with its reasons, beside the longest prompt
#: Reserved never to exist (RFC 6761). vLLM takes an empty list of domains for all of them.
NOWHERE = "nowhere.invalid"
#: Containers of one clip, for those who choose OpenCV by `--media-io-kwargs`: ffmpeg would take a script that names
#: other files, or a playlist, for a clip as well.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
#: Read by vLLM and its libraries.
ENVIRONMENT = {
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"format_whitelist;{CONTAINERS}",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_ARTIFACT = re.compile(r"[0-9a-f]{64}")


def environment() -> dict[str, str]:
    return {**ENVIRONMENT, "VLLM_MEDIA_LOADING_THREAD_COUNT": str(settings().decode_threads)}


def find(store: Store, model: str) -> str:
    """The artifact of a model's name, or of an artifact.

    Raises:
        UsageError: it is not in the store, or is no model; says what to do.
    """
    found = store.named("models", model)
    if found is None and _ARTIFACT.fullmatch(model) and store.exists(f"artifacts/{model}"):
        found = model
    if found is None:
        known = ", ".join(store.names("models")) or "none"
        raise UsageError(f"{model!r} is not in the store (there are: {known}); see `roadqa models pull`")
    if (kind := store.manifest(found).kind) != "model":
        raise UsageError(f"artifact {found[:12]} is {kind}, not a model")
    return found


def check_words(words: Sequence[str]) -> None:
    """Refuse what must not stand on a command line, which every list of processes shows.

    Raises:
        UsageError: the API key is there.
    """
    if any(word.replace("_", "-").partition("=")[0] == "--api-key" for word in words):
        raise UsageError(
            "--api-key would show the key to everyone on this machine: put it into ROADQA_SERVE_API_KEY, or into the "
            "file /run/secrets/roadqa_serve_api_key"
        )


def check_settings(gpus: int) -> None:
    """Refuse settings that this machine, with so many GPUs, could only ignore.

    Raises:
        UsageError: names the setting.
    """
    wanted = settings()
    if wanted.serve_media_path and not Path(wanted.serve_media_path).is_dir():
        raise UsageError(f"ROADQA_SERVE_MEDIA_PATH: {wanted.serve_media_path} is no folder here")
    if wanted.engine_gpus > max(gpus, 1):
        raise UsageError(f"ROADQA_ENGINE_GPUS is {wanted.engine_gpus}, but there are {gpus} GPUs here: set it to fit")
    if wanted.engine_kv_offload_bytes and not gpus:
        raise UsageError("ROADQA_ENGINE_KV_OFFLOAD_BYTES: a KV cache can be offloaded from a GPU only: unset it")
    if wanted.engine_kv_cache_bytes and "VLLM_CPU_KVCACHE_SPACE" in os.environ:
        raise UsageError("VLLM_CPU_KVCACHE_SPACE would override ROADQA_ENGINE_KV_CACHE_BYTES: unset one of them")


def video_budget(folder: Path) -> VideoBudget:
    """How much of a clip the model was trained to see, as its card tells; the defaults where it has none."""
    card = folder / "card.json"
    recipe = json.loads(card.read_text(encoding="utf-8")).get("recipe", {}) if card.is_file() else {}
    return VideoBudget.model_validate(recipe.get("video", {}))


def arguments(checkpoint: "Checkpoint", model: str) -> list[str]:
    """vLLM's options: what the settings say, the card's video budget, and no door open but the promised ones.

    Raises:
        InputError: vLLM has no kernel here for the checkpoint's format, or too little memory.
    """
    from workers.inference import room
    from workers.inference import vllm_engine as engine
    from workers.inference.engines import longest_prompt
    from workers.inference.media import io_options  # and with it vLLM has our loader

    if engine.current_platform.is_cpu() and checkpoint.quantization and not engine.has_kernel(checkpoint.quantization):
        raise InputError(f"{model}: vLLM has no kernel for {checkpoint.quantization} on this CPU; serve it on a GPU")
    video = video_budget(checkpoint.folder)
    chosen: dict[str, Any] = engine.options(checkpoint, longest_prompt(video) + ANSWER_TOKENS) | {
        "gpu_memory_utilization": engine.GPU_MEMORY,  # one engine, unlike in the worker
        "media_io_kwargs": io_options(video),
        "model": str(checkpoint.folder),
        "served_model_name": model,
        "host": HOST,
        "port": PORT,
        "mm_processor_cache_gb": settings().serve_media_cache_bytes / 2**30,
        "allowed_local_media_path": settings().serve_media_path,
        "allowed_media_domains": settings().serve_media_domains.replace(",", " ").split() or [NOWHERE],
        "middleware": "workers.inference.door.Door",
        "disable_access_log_for_endpoints": "/health,/metrics",
    }
    if (dtype := settings().serve_dtype) != "auto":
        chosen["dtype"] = dtype
        card = engine.current_platform
        if dtype == "bfloat16" and card.is_cuda() and not card.has_device_capability(80):
            raise UsageError("ROADQA_SERVE_DTYPE: this GPU does not compute in bfloat16: set it to float16")
    room.vllm(checkpoint, chosen)
    return [word for name, value in chosen.items() if value is not None for word in _words(name, value)]


def _words(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if isinstance(value, list):
        return [option, *value]
    return [option, json.dumps(value) if isinstance(value, dict) else str(value)]


def with_own_loader(words: Sequence[str]) -> list[str]:
    """The words, their `--media-io-kwargs` such that pictures that call themselves a clip stay refused.

    It takes the place of what is chosen here as a whole. Another loader than ours is for who names it to answer for.

    Raises:
        UsageError: it is not the JSON that vLLM asks for.
    """
    from workers.inference.media import LOADER, PICTURES

    found: list[str] = []
    left = iter(words)
    for word in left:
        option, given, value = word.partition("=")
        if option.replace("_", "-") != "--media-io-kwargs":
            found.append(word)
            continue
        value = value if given else next(left, "")
        try:
            kinds = json.loads(value)
            video = kinds.get("video", {})
            if video.get("video_backend", LOADER) == LOADER:
                kinds["video"] = video | PICTURES
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError(f'--media-io-kwargs: {value!r} is not like {{"video": {{"fps": 1}}}}') from error
        found += ["--media-io-kwargs", json.dumps(kinds)]
    return found


def serve(model: str, words: Sequence[str]) -> None:
    """Fetch the model and answer until asked to end.

    Raises:
        RoadQAError: it cannot be fetched, or not be served as the settings say; names them.
    """
    check_words(words)
    artifact = find(store(), model)
    if said := verdicts.check(store(), artifact, model, FORCE in words):
        print(said, file=sys.stderr, flush=True)
    words = [word for word in words if word != FORCE]
    from torch.cuda import device_count

    check_settings(device_count())
    with store().workspace() as space:
        print(f"fetching {model} ({artifact[:12]}) …", flush=True)
        store().get_artifact(artifact, space / "model")
        os.environ.update(environment())
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
        if key := settings().serve_api_key.get_secret_value():
            os.environ["VLLM_API_KEY"] = key
        from workers.inference.engines import read_checkpoint

        sys.argv = ["serve", *arguments(read_checkpoint(space / "model"), model), *with_own_loader(words)]
        os.environ.update(environment())  # the engine's module chose for itself when it was imported
        from vllm.entrypoints.launchers.api_server.entry import main as server

        server()


def main() -> None:
    """`python -m workers.inference.serve MODEL [--force] [vLLM's options]`"""
    try:
        if len(sys.argv) < 2 or not sys.argv[1] or sys.argv[1].startswith("-"):
            raise UsageError("which model? python -m workers.inference.serve MODEL [--force] [vLLM's options]")
        serve(sys.argv[1], sys.argv[2:])
    except RoadQAError as error:
        print(f"serve: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
