"""What can go wrong, made to go wrong: real ranks, real limits."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from shared.context import LocalContext
from shared.errors import MediaError
from shared.schema import Origin
from tests.unit.trainer.conftest import RECIPE, Undisturbed, write_part
from workers.trainer import skipped, troubles
from workers.trainer.train import train
from workers.trainer.troubles import DiskFullError, DivergedError, MemoryShortError

ONE_PROCESS = {"processes": 1, "checkpoint_seconds": 0.001}


@contextmanager
def limited(what: int, size: int) -> Iterator[None]:
    """A limit of the kernel's on what this process starts."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


class Squeezed(LocalContext):
    """After the third step the ranks get no more address space than they hold."""

    done = False

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        super().progress(done, total, unit, **facts)
        if done >= 3 and not self.done:
            self.done = True
            for process in psutil.Process().children(recursive=True):
                if "workers.trainer.rank" in process.cmdline():
                    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms, -1))


def test_out_of_memory_goes_on_with_half_the_rows_at_once_and_the_same_global_batch(
    undisturbed: Undisturbed,
    base: Path,
    labelled: Path,
    tmp_path: Path,
    runtime: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "16384")  # what a step frees goes back, so that the next asks anew
    runtime(**ONE_PROCESS, auto_batch=True)
    out = tmp_path / "out"
    out.mkdir()
    ctx = Squeezed(tmp_path / "scratch")
    facts = train({"model": [base], "data": [labelled]}, RECIPE, out, ctx)
    assert ctx.done
    assert (facts["micro_batch"], facts["steps"]) == (2, 12)
    assert facts["resumed_from_step"] >= 1
    losses = json.loads((out / "card.json").read_text())["training"]["losses"]
    assert losses == pytest.approx(undisturbed.training["losses"], abs=1e-3)


def test_what_to_lower_is_said_by_name() -> None:
    said = troubles.advice(RECIPE, 8)
    for name in (
        "ROADQA_TRAINER_MICRO_BATCH (it is 8",
        "ROADQA_TRAINER_AUTO_BATCH",
        "video.tokens_per_patch (6)",
        "lora",
    ):
        assert name in said
    assert "MICRO_BATCH" not in troubles.advice(RECIPE, 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "host's memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory"),
            "host's memory",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB"), "GPU's memory"),
    ],
)
def test_short_memory_is_known_however_it_is_put(error: Exception, words: str) -> None:
    found = troubles.told_apart(error)
    assert isinstance(found, MemoryShortError)
    assert words in str(found)
    assert troubles.told_apart(ValueError("x")).__class__ is ValueError


def test_a_kill_for_memory_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    monkeypatch.setattr(troubles, "_KILLS", (tmp_path / "missing", events))
    assert troubles.oom_kills() == 2


def test_a_loss_that_is_no_number_stops_at_the_last_good_checkpoint(
    base: Path, labelled: Path, tmp_path: Path, runtime: Callable[..., None]
) -> None:
    runtime(**ONE_PROCESS)
    out = tmp_path / "out"
    out.mkdir()
    absurd = RECIPE.model_copy(update={"learning_rate": 1e30, "warmup_share": 0.0})
    ctx = LocalContext(tmp_path / "scratch")
    with pytest.raises(
        DivergedError, match=r"is (nan|inf) at step \d+, at a learning rate of .*lower `learning_rate`"
    ) as e:
        train({"model": [base], "data": [labelled]}, absurd, out, ctx)
    assert e.value.permanent
    (kept,) = ctx.scratch.folders()
    assert f"at step {int(kept[5:13]) + 1}," in str(e.value)
    assert not list(out.iterdir())


def test_a_checkpoint_that_does_not_fit_names_its_path_and_its_bytes(
    base: Path, labelled: Path, tmp_path: Path, runtime: Callable[..., None]
) -> None:
    runtime(**ONE_PROCESS)
    out = tmp_path / "out"
    out.mkdir()
    with limited(resource.RLIMIT_FSIZE, 500_000), pytest.raises(DiskFullError) as error:
        train({"model": [base], "data": [labelled]}, RECIPE, out, LocalContext(tmp_path / "scratch"))
    assert f"{tmp_path}/train-" in str(error.value)
    assert "a checkpoint of about 1" in str(error.value)


def test_room_is_asked_for_ahead(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    troubles.need_room(tmp_path, 1000, "the trained model")
    with pytest.raises(DiskFullError, match=rf"{tmp_path}: the trained model needs [\d,]+ bytes, [\d,]+ are free"):
        troubles.need_room(tmp_path, free * 2, "the trained model")


def test_zero3_takes_rows_of_unlike_clips_and_leaves_out_a_damaged_one(
    base: Path, tmp_path: Path, runtime: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank gathers each layer's weights in turn: one that had no clip, or other layers, would wait for ever."""
    monkeypatch.setattr(skipped, "LIMIT", 0.1)
    monkeypatch.setenv("ROADQA_CACHE_DIR", str(tmp_path / "cache"))
    runtime(micro_batch=1)  # each rank has a clip of its own length
    rows = write_part(tmp_path / "rows", [Origin(answer="human")] * 12, first=0, seconds=(1, 2))
    damaged = sorted((rows / "clips").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:300])
    out = tmp_path / "out"
    out.mkdir()
    recipe = RECIPE.model_copy(update={"zero": "zero3", "epochs": 2})
    facts = train({"model": [base], "data": [rows]}, recipe, out, LocalContext(tmp_path / "scratch"))
    assert (facts["steps"], facts["processes"], facts["tensors"]) == (6, 2, 64)
    assert facts["visual_tokens"]["a_clip_at_least"] < facts["visual_tokens"]["a_clip_at_most"]
    assert list(facts["skipped_clips"]) == [damaged.name]
    card = json.loads((out / "card.json").read_text())["training"]
    assert damaged.name in card["skipped_clips"][damaged.name]
    assert card["pace"]["padding"] == 0


def test_data_that_cannot_be_decoded_names_its_clips(
    base: Path, labelled: Path, tmp_path: Path, runtime: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROADQA_CACHE_DIR", str(tmp_path / "cache"))  # elsewhere the clips are kept, decoded
    runtime(**ONE_PROCESS)
    broken = tmp_path / "rows"
    shutil.copytree(labelled, broken)
    for clip in (broken / "clips").iterdir():
        os.truncate(clip, 300)
    with pytest.raises(MediaError, match=r"of 12 clips cannot be decoded, more than 1%: .*clips/"):
        train({"model": [base], "data": [broken]}, RECIPE, tmp_path, LocalContext(tmp_path / "scratch"))
