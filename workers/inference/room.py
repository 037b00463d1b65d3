"""Whether a checkpoint fits the memory, told before it is loaded: a process that is killed for memory tells nothing."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from shared.errors import InputError, RoadQAError
from shared.footprint import VALUE, model
from shared.machine import Memory, has_avx512, memory
from shared.settings import settings

if TYPE_CHECKING:
    from workers.inference.engines import Checkpoint

_GIB = 2**30


class Need(NamedTuple):
    """Bytes that an engine takes at once; activations come on top, and are not known."""

    weights: int
    cache: int  #: of keys and values

    @property
    def all(self) -> int:
        return self.weights + self.cache


class ShortError(RoadQAError):
    """There is not enough memory now; others may give some back."""


def vllm(checkpoint: "Checkpoint", chosen: Mapping[str, Any]) -> None:
    """Check that vLLM, with these options, has room for a checkpoint.

    Raises:
        InputError: it will never fit here; says how much is missing.
        ShortError: it does not fit now.
    """
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    one = int(chosen["max_model_len"]) * kv_bytes(config["text_config"])
    cache = chosen["kv_cache_memory_bytes"] or one
    weights = checkpoint.bytes * (2 if chosen.get("dtype") == "float32" else 1)
    gpus = torch.cuda.device_count()
    if not gpus:
        kept = f"set ROADQA_ENGINE_KV_CACHE_BYTES (one full prompt takes {_gib(one)})"
        check(checkpoint, Need(weights, cache), memory(), "main memory", kept)
        return
    from vllm.platforms import current_platform as cards  # asks the driver: torch would hold memory for asking

    spread = int(chosen["tensor_parallel_size"])
    share = float(chosen["gpu_memory_utilization"])
    least = int(share * min(cards.get_device_total_memory(index) for index in range(min(spread, gpus))))
    each = Memory(least, least)  # what is free now, vLLM looks at itself
    more = "spread it over more GPUs (ROADQA_ENGINE_GPUS), keep one engine (ROADQA_ENGINES=1)"
    check(checkpoint, Need(weights // spread, cache // spread), each, f"each GPU ({share:.0%} of it)", more)
    if spill := settings().engine_kv_offload_bytes:
        check(checkpoint, Need(0, spill), memory(), "main memory", "lower ROADQA_ENGINE_KV_OFFLOAD_BYTES")


def transformers(checkpoint: "Checkpoint") -> None:
    """Check that plain transformers has room for a checkpoint, which it unpacks.

    Raises:
        InputError, ShortError: as `vllm`.
    """
    weights = checkpoint.bytes
    if checkpoint.quantization:
        config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        weights = VALUE["bfloat16"] * model(config).total
    if torch.cuda.is_available():
        check(checkpoint, Need(weights, 0), Memory(*torch.cuda.mem_get_info()), "the GPU", "use a larger one")
    else:
        weights *= 1 if has_avx512() else 2  # computed in float32
        check(checkpoint, Need(weights, 0), memory(), "main memory", "use a machine with more")


def check(checkpoint: "Checkpoint", need: Need, room: Memory | None, where: str, remedy: str) -> None:
    """Compare what is needed with what there is.

    Raises:
        InputError, ShortError: as `vllm`.
    """
    if room is None or need.all <= min(room):
        return
    parts = [f"weights {_gib(need.weights)}"] * bool(need.weights) + [f"KV cache {_gib(need.cache)}"] * bool(need.cache)
    never = need.all > room.total
    there = f"{_gib(room.total)} there" if never else f"{_gib(room.free)} free"
    missing = _gib(need.all - (room.total if never else room.free))
    raise (InputError if never else ShortError)(
        f"{checkpoint.folder}: too large for the memory: it needs {_gib(need.all)} of {where} ({', '.join(parts)}), "
        f"{there}: {missing} is missing; {remedy}, or quantise the model"
    )


def kv_bytes(text: Mapping[str, Any]) -> int:
    """Bytes of keys and values of one token, two bytes a number."""
    heads = text.get("num_key_value_heads") or text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return int(2 * 2 * text["num_hidden_layers"] * heads * size)


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"
