"""A checkpoint that does not fit, or is damaged, is told before anything is loaded."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from vllm.platforms import current_platform

from shared.errors import InputError
from shared.machine import Memory
from shared.published import SIZES
from tests.unit.inference.conftest import recipe
from workers.inference import engines, room
from workers.inference.engines import Checkpoint, Pool, longest_prompt, read_checkpoint

GIB = 2**30


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def large(folder: Path, quantization: str | None = None) -> Checkpoint:
    """Qwen3-VL-8B, as far as its size goes."""
    (folder / "config.json").write_text(json.dumps(SIZES["8B"]))
    return Checkpoint(folder, "w", "f", quantization, 17_534_000_000)


def chosen(**more: Any) -> dict[str, Any]:
    return {"max_model_len": 32768, "kv_cache_memory_bytes": None, "tensor_parallel_size": 1,
            "gpu_memory_utilization": 0.9} | more  # fmt: skip


class Cards:
    """Stands in for torch.cuda: so many cards, each with this much free and in all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, free: float, total: float) -> None:
        monkeypatch.setattr(room.torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(room.torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(
            current_platform, "get_device_total_memory", lambda index=0: int(total * GIB), raising=False
        )
        monkeypatch.setattr(room.torch.cuda, "mem_get_info", lambda index=0: (int(free * GIB), int(total * GIB)))


def test_what_is_missing_is_said_with_its_parts_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "memory", lambda: Memory(14 * GIB, 16 * GIB))
    options = chosen(kv_cache_memory_bytes=8 * 32768 * room.kv_bytes(SIZES["8B"]["text_config"]))
    with pytest.raises(InputError) as told:
        room.vllm(large(tmp_path), options)
    assert re.search(
        r"needs 52\.3 GiB of main memory \(weights 16\.3 GiB, KV cache 36\.0 GiB\), 16\.0 GiB there:"
        r" 36\.3 GiB is missing;"
        r" set ROADQA_ENGINE_KV_CACHE_BYTES \(one full prompt takes 4\.5 GiB\), or quantise",
        str(told.value),
    )


def test_memory_that_others_hold_is_worth_another_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "memory", lambda: Memory(14 * GIB, 64 * GIB))
    with pytest.raises(room.ShortError, match=r"14\.0 GiB free: 6\.8 GiB is missing") as told:
        room.vllm(large(tmp_path), chosen())
    assert not told.value.permanent
    monkeypatch.setattr(room, "memory", lambda: Memory(21 * GIB, 64 * GIB))
    room.vllm(large(tmp_path), chosen())
    monkeypatch.setattr(room, "memory", lambda: None)
    room.vllm(large(tmp_path), chosen())


@pytest.mark.parametrize(
    ("cards", "total", "options", "fits"),
    [
        (1, 24, {}, True),  # 20.8 of 21.6
        (1, 24, {"gpu_memory_utilization": 0.45}, False),  # two engines
        (2, 16, {"tensor_parallel_size": 2}, True),
        (1, 16, {}, False),
        (1, 24, {"kv_cache_memory_bytes": 6 * GIB}, False),
        (1, 24, {"max_model_len": 65536}, False),
    ],
)
def test_each_gpu_must_hold_its_share(
    cards: int, total: float, options: dict[str, Any], fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cards(monkeypatch, cards, total, total)
    if fits:
        room.vllm(large(tmp_path), chosen(**options))
    else:
        with pytest.raises(InputError, match=r"of each GPU .* is missing; spread it over more GPUs"):
            room.vllm(large(tmp_path), chosen(**options))


def test_what_is_unpacked_takes_what_it_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cards(monkeypatch, 1, 15, 16)
    small = large(tmp_path, "pack-quantized")._replace(bytes=7 * GIB)
    with pytest.raises(InputError, match=r"weights 16\.3 GiB"):
        room.transformers(small)
    Cards(monkeypatch, 1, 23, 24)
    room.transformers(small)


def test_other_engines_are_closed_where_they_may_hold_what_is_missing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, closed = Pool(), []

    class Closing:
        def close(self) -> None:
            closed.append(1)

    def opened(*_: Any) -> Any:
        if not closed:
            raise room.ShortError("short")
        return Closing()

    monkeypatch.setattr(engines, "_opener", lambda name: opened)
    checkpoint = read_checkpoint(base)
    with pytest.raises(room.ShortError):
        pool.engine(checkpoint, None, recipe())  # type: ignore[arg-type]
    held = engines._Held(Closing(), "w", 0)  # type: ignore[arg-type]
    pool._engines["vllm", "another family", longest_prompt(recipe().video)] = held
    assert isinstance(pool.engine(checkpoint, None, recipe()), Closing)  # type: ignore[arg-type]
    assert closed == [1]


# --- damaged -----------------------------------------------------------------------------------------


def weights(model: Path) -> Path:
    (path,) = model.glob("*.safetensors")
    return path


def cut_off(model: Path) -> None:
    weights(model).write_bytes(weights(model).read_bytes()[:-100])


def no_weights(model: Path) -> None:
    weights(model).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def half_a_config(model: Path) -> None:
    (model / "config.json").write_bytes((model / "config.json").read_bytes()[:100])


def other_config(model: Path) -> None:
    (model / "config.json").write_text("[]")


def index_of_more(model: Path) -> None:
    index = {"weight_map": {"a": weights(model).name, "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_off, r"model\.safetensors: is damaged .*fetch the model again"),
        (no_weights, r"model\.safetensors: is damaged"),
        (half_a_config, r"config\.json: is damaged: no JSON"),
        (other_config, r"config\.json: is damaged: list, not an object"),
        (index_of_more, r"model-00002-of-00002\.safetensors: is missing"),
    ],
)
@pytest.mark.parametrize("quantized", [False, True])
def test_a_damaged_checkpoint_is_named(damage: Any, said: str, quantized: bool, model: Path) -> None:
    if quantized:
        config = json.loads((model / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
        (model / "config.json").write_text(json.dumps(config))
    read_checkpoint(model)
    damage(model)
    with pytest.raises(InputError, match=said):
        read_checkpoint(model)
