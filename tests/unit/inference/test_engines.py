"""The two engines: the same tokens, the same log-probabilities, weights that can be exchanged."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vllm.model_executor.kernels import linear
from vllm.platforms import PlatformEnum, current_platform

from shared import machine
from shared.errors import InputError
from shared.prompts import LETTERS
from shared.schemes import SCHEMES
from shared.vlm.encode import Encoder, encoder
from tests.unit.inference.conftest import recipe
from tests.unit.vlm.examples import clip, question
from workers.inference.engines import POOL, Answer, Asked, Engine, ParityError, read_checkpoint
from workers.inference.vllm_engine import has_kernel, take

ASKED = [
    Asked(question(tuple(f"car {j}" for j in range(2 + i % 7)), name=f"q{i}"), clip(i, 2 + 2 * (i % 4)), f"f{i}")
    for i in range(14)
]
#: Engines round 16-bit activations at different places; in 32 bits they agree to 1e-4.
BF16 = 0.04


def engine_of(folder: Path, name: str = "vllm") -> Engine:
    return POOL.engine(read_checkpoint(folder), encoder(folder), recipe(name))


def answers(folder: Path, name: str = "vllm") -> list[Answer]:
    return engine_of(folder, name).answer(ASKED, recipe())


def distance(first: list[Answer], second: list[Answer]) -> float:
    return max(
        float(np.abs(np.subtract(one.logprobs, two.logprobs)).max()) for one, two in zip(first, second, strict=True)
    )


def test_vllm_and_transformers_agree(base: Path) -> None:
    first, second = answers(base), answers(base, "transformers")
    assert distance(first, second) < BF16
    assert [one.prompt_tokens for one in first] == [two.prompt_tokens for two in second]


def test_logprobs_are_normalised_over_the_questions_own_letters(base: Path) -> None:
    for asked, answer in zip(ASKED, answers(base), strict=True):
        assert len(answer.logprobs) == len(asked.question.choices)
        assert math.isclose(sum(map(math.exp, answer.logprobs)), 1, abs_tol=1e-5)


@pytest.mark.parametrize("choices", [2, 8, 26])
def test_any_number_of_choices_is_answered_even_if_their_texts_repeat(base: Path, choices: int) -> None:
    asked = Asked(question(("yes",) * choices), clip(3), "f3")
    for name in ("vllm", "transformers"):
        (answer,) = engine_of(base, name).answer([asked], recipe())
        assert len(answer.logprobs) == choices
        assert len(set(answer.logprobs)) > 1


def test_weights_put_in_place_are_a_fresh_load(base: Path, other: Path) -> None:
    before, changed, after = answers(base), answers(other), answers(base)
    assert after == before
    assert distance(before, changed) > 0.1
    POOL.close()
    assert answers(other) == changed


def test_answers_do_not_hang_on_the_batch(base: Path) -> None:
    alone = [engine_of(base).answer([asked], recipe())[0] for asked in ASKED[:4]]
    assert distance(alone, answers(base)[:4]) < BF16


def test_the_same_frames_at_other_instants_are_another_prompt(base: Path) -> None:
    shown = clip(5)
    later = shown._replace(indices=tuple(index + 20 for index in shown.indices), seconds=9.0)
    first, second = engine_of(base).answer(
        [Asked(question(), shown, "early"), Asked(question(), later, "late")], recipe()
    )
    assert first.logprobs != second.logprobs


def test_a_stream_that_is_left_leaves_the_engine_empty(base: Path) -> None:
    engine = engine_of(base)
    before = engine.answer(ASKED, recipe())
    stream = engine.stream(ASKED, recipe())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not engine._llm.llm_engine.has_unfinished_requests()  # type: ignore[attr-defined]
    assert engine.answer(ASKED, recipe()) == before


def test_a_reasoning_stands_before_the_answer_and_decides_it(base: Path) -> None:
    """At temperature 0 both engines write the same words and give the letters the same probabilities after them."""
    asking = {"reasoning": True, "reasoning_tokens": 12}
    first, second = (engine_of(base, name).answer(ASKED, recipe(name, **asking)) for name in ("vllm", "transformers"))
    same = [one.reasoning == two.reasoning for one, two in zip(first, second, strict=True)]
    assert sum(same) > len(ASKED) * 0.7  # in 16 bits a near tie may fall either way
    alike = [pair for pair, equal in zip(zip(first, second, strict=True), same, strict=True) if equal]
    assert distance([one for one, _ in alike], [two for _, two in alike]) < BF16
    assert all(one.reasoning and 0 < one.reasoning_tokens <= 12 for one in first)
    assert distance(first, answers(base)) > BF16


@pytest.mark.parametrize("name", ["vllm", "transformers"])
def test_a_seed_decides_a_sampled_reasoning_whatever_stands_beside_it(base: Path, name: str) -> None:
    how = recipe(name, reasoning=True, reasoning_tokens=8, temperature=1.0)
    seeded = [item._replace(seed=seed) for item in ASKED[:2] for seed in (1, 2)]
    engine = engine_of(base, name)
    together = [answer.reasoning for answer in engine.answer(seeded, how)]
    assert together[0] != together[1]
    assert [engine.answer([item], how)[0].reasoning for item in seeded] == together


def test_an_engine_that_sees_other_tokens_is_caught(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = engine_of(base)
    monkeypatch.setattr(Encoder, "expanded", lambda *_: [1, 2, 3])
    with pytest.raises(ParityError, match="the encoder says 3"):
        loaded.answer(ASKED[:1], recipe())


def with_config(folder: Path, source: Path, name: str, **changes: object) -> Path:
    """A copy by links of the model in `source` with fields of the file `name` changed."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    values = json.loads((folder / name).read_text())
    (folder / name).unlink()
    (folder / name).write_text(json.dumps(values | changes))
    return folder


def test_a_format_without_a_cpu_kernel_is_refused_with_the_remedy(base: Path, tmp_path: Path) -> None:
    quantization = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    fp4 = with_config(tmp_path / "fp4", base, "config.json", quantization_config=quantization)
    with pytest.raises(InputError, match="engine: transformers"):
        engine_of(fp4)


def test_the_kernels_of_this_cpu_are_known_before_any_engine_is_loaded() -> None:
    code = "from workers.inference.vllm_engine import CPU_KERNELS, has_kernel; print(*filter(has_kernel, CPU_KERNELS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    int4 = ["pack-quantized"] if "avx512f" in Path("/proc/cpuinfo").read_text() else []
    assert done.stdout.split() == [*int4, "int-quantized", "float-quantized"]


def test_a_processor_that_vllm_would_read_wrongly_is_refused(base: Path, tmp_path: Path) -> None:
    values = json.loads((base / "processor_config.json").read_text())
    image = values["image_processor"] | {"image_mean": [0.4, 0.4, 0.4]}
    odd = with_config(tmp_path / "odd", base, "processor_config.json", image_processor=image)
    with pytest.raises(InputError, match="normalises"):
        engine_of(odd)


def test_checkpoints_share_an_engine_only_if_nothing_but_weights_differs(
    base: Path, other: Path, tmp_path: Path
) -> None:
    renamed = with_config(tmp_path / "renamed", base, "config.json", transformers_version="9")
    wider = with_config(tmp_path / "wider", base, "config.json", tie_word_embeddings=True)
    first = read_checkpoint(base)
    assert read_checkpoint(other).family == read_checkpoint(renamed).family == first.family
    assert read_checkpoint(wider).family != first.family
    assert read_checkpoint(other).weights != first.weights


def linked(folder: Path, source: Path) -> Path:
    """A model as a worker has it for each task: links that were just made."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).hardlink_to(path.resolve())
    os.utime(folder / "model.safetensors")
    return folder


def test_a_model_that_was_linked_anew_is_the_one_that_is_loaded(base: Path, tmp_path: Path) -> None:
    """A worker links its inputs into a new folder for each shard."""
    first, second = linked(tmp_path / "first", base), linked(tmp_path / "second", base)
    engine = engine_of(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine), "put_weights", lambda *_: pytest.fail("loaded again"))
        assert engine_of(second) is engine
    assert encoder(first) is encoder(second)


def test_weights_written_over_are_others_even_in_the_same_file(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    before = read_checkpoint(copy)
    tensors = load_file(copy / "model.safetensors")
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name].view(-1)[-1] += 1
    save_file(tensors, tmp_path / "new", metadata={"format": "pt"})
    (copy / "model.safetensors").write_bytes((tmp_path / "new").read_bytes())
    after = read_checkpoint(copy)
    assert (after.family, after.folder) == (before.family, before.folder)
    assert after.weights != before.weights


def test_what_is_not_there_yet_is_waited_for_only_where_nothing_is_under_way() -> None:
    first, second = ASKED[:2]
    assert take(iter([None, first, None, second]), 5, wait=False) == ([], True)
    assert take(iter([None, first, None, second]), 5, wait=True) == ([first], True)
    assert take(iter([first, second]), 1, wait=False) == ([first], True)
    assert take(iter([first, second]), 5, wait=False) == ([first, second], False)
    assert take(iter([None]), 5, wait=True) == ([], False)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model here"):
        read_checkpoint(tmp_path)


def test_every_letter_has_a_token(base: Path) -> None:
    assert len(set(encoder(base).letter_ids(len(LETTERS)))) == 26


def test_the_table_of_what_a_cpu_lacks_is_what_vllm_itself_has() -> None:
    """`ROADQA_VLLM_LACKS` is set by it, and refuses before any work."""
    current_platform.import_kernels()
    fp4 = [linear._POSSIBLE_NVFP4_KERNELS, linear._POSSIBLE_MXFP4_KERNELS]
    assert not any(kernels.get(PlatformEnum.CPU) for kernels in fp4)
    assert linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CPU]
    has_int4 = hasattr(torch.ops._C, "cpu_gemm_wna16")
    assert has_int4 == machine.has_avx512()
    lacking = set(machine.vllm_lacks().split(","))
    assert {name for name, scheme in SCHEMES.items() if not has_kernel(scheme.format)} == lacking
