"""Which models can be trained, told from config.json; and that those which can go the whole way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared.errors import InputError
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import RECIPE
from tests.unit.trainer.families import write_moe
from tests.unit.vlm.examples import clip, question
from workers.trainer import files, model


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_5", "llava_onevision", "qwen3"])
def test_another_model_is_refused_by_name_before_torch_is_there(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "model.safetensors").touch()
    code = (
        "import sys; from pathlib import Path; from workers.trainer import files\n"
        "try: files.check(Path(sys.argv[1]))\n"
        "except Exception as error: print(error, 'torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert f"is a {kind}, which the trainer does not take; it takes qwen3_vl (Qwen3-VL)" in said
    assert said.strip().endswith("False")


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_vl", "quantization_config": {"quant_method": "compressed-tensors"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="its weights are quantised"):
        files.check(tmp_path)


def test_a_mixture_of_experts_is_encoded_learns_and_is_saved(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    files.check(write_moe(base))
    made = model.prepare(model.load(base, torch.float32), RECIPE, cuda=False)
    inputs = Encoder(base).encode(question(answer=1), clip(), "short", with_answer=True)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = made(**inputs).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in made.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    model.save(made, made.state_dict(), torch.bfloat16, out)
    assert files.same_tensors(base, out) == len(files.tensors(base))


def test_liger_patches_a_mixture_of_experts(tmp_path: Path) -> None:
    """In a process of its own: the patch stays in the library, and its kernels need CUDA."""
    code = "import sys, torch; from pathlib import Path; from workers.trainer import model; "
    code += "model.apply_liger(model.load(Path(sys.argv[1]), torch.float32)); print('patched')"
    found = subprocess.run(
        [sys.executable, "-c", code, str(write_moe(tmp_path))], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip().endswith("patched"), found.stderr[-2000:]
