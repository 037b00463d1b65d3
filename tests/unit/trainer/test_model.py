"""Which models are accepted, what an adapter becomes, and that a save keeps every tensor's name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from shared.contracts import LoraRecipe, Module
from shared.errors import InputError, RoadQAError
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import RECIPE
from tests.unit.vlm.examples import clip, question
from tests.unit.vlm.tiny import write_model
from workers.trainer import files, model

LORA = RECIPE.model_copy(update={"lora": LoraRecipe(rank=4, alpha=8, dropout=0.0)})


def test_a_pickled_model_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"would run code")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        files.check(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safetensors"):
        files.check(tmp_path)


def test_a_damaged_config_is_named(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: is no JSON"):
        files.check(tmp_path / "model")


def test_a_renamed_tensor_is_noticed(base: Path, tmp_path: Path) -> None:
    weights = load_file(base / "model.safetensors")
    weights["model.renamed"] = weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RoadQAError, match="2 of 64 tensors changed"):
        files.same_tensors(base, tmp_path)


def test_a_save_keeps_names_shapes_types_and_values(base: Path, tmp_path: Path) -> None:
    loaded = model.load(base, torch.float32)
    model.save(loaded, loaded.state_dict(), torch.bfloat16, tmp_path)
    assert files.same_tensors(base, tmp_path) == 64
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tied_lm_head_stays_tied_however_it_was_gathered(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base = write_model(tmp_path / "base", tied=True)
    loaded = model.load(base, torch.float32)
    gathered = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}  # as ZeRO does: no shared memory
    assert "lm_head.weight" in gathered
    model.save(loaded, gathered, torch.bfloat16, tmp_path / "trained")
    assert files.same_tensors(base, tmp_path / "trained") == 63
    again = model.load(tmp_path / "trained", torch.float32)
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight

    adapted = model.prepare(loaded, LORA, cuda=False)
    whole = model.merged(base, LORA, adapted, adapted.state_dict())
    model.save(whole, whole.state_dict(), torch.bfloat16, tmp_path / "merged")
    assert files.same_tensors(base, tmp_path / "merged") == 63


def test_an_adapter_is_merged_into_weights_that_answer_alike(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapted = model.prepare(model.load(base, torch.float32), LORA, cuda=False).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    assert {"visual", "language_model"} <= {
        part for name in get_peft_model_state_dict(adapted) for part in name.split(".")
    }
    whole = model.merged(base, LORA, adapted, adapted.state_dict()).eval()
    inputs = Encoder(base).encode(question(), clip(), "short")
    with torch.no_grad():
        wanted, got = adapted(**inputs).logits, whole(**inputs).logits
        plain = model.load(base, torch.float32).eval()(**inputs).logits
    assert torch.allclose(wanted, got, atol=1e-4)
    assert not torch.allclose(plain, got, atol=1e-2)
    model.save(whole, whole.state_dict(), torch.bfloat16, tmp_path)
    assert files.same_tensors(base, tmp_path) == 64


def test_patches_embedded_by_matmul_are_the_convolutions(base: Path) -> None:
    loaded = model.load(base, torch.float32)
    pixels = Encoder(base).encode(question(), clip(), "short")["pixel_values_videos"]
    embed = loaded.model.visual.patch_embed
    convolved = embed(pixels)
    (wanted,) = torch.autograd.grad(convolved.square().sum(), [embed.proj.weight])
    model.patches_by_matmul(loaded)
    multiplied = embed(pixels)
    (got,) = torch.autograd.grad(multiplied.square().sum(), [embed.proj.weight])
    assert torch.allclose(convolved, multiplied, rtol=1e-4, atol=1e-5)
    assert torch.allclose(wanted, got, rtol=1e-3, atol=1e-3)


def test_a_frozen_vision_tower_does_not_move(base: Path) -> None:
    recipe = RECIPE.model_copy(update={"modules": {"vision": Module(train=False), "projector": Module(train=False)}})
    prepared = model.prepare(model.load(base, torch.float32), recipe, cuda=False)
    assert {name.split(".")[1] for name, p in prepared.named_parameters() if not p.requires_grad} == {"visual"}


def test_a_liger_patch_that_took_nothing_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import liger_kernel.transformers

    monkeypatch.setattr(liger_kernel.transformers, "apply_liger_kernel_to_qwen3_vl", lambda model: None)
    with pytest.raises(RoadQAError, match="Liger did not patch the loss"):
        model.apply_liger(model.load(base, torch.float32))


def test_liger_patches_this_model(base: Path) -> None:
    """In a process of its own: the patch stays in the library, and its kernels need CUDA."""
    code = "import sys, torch; from pathlib import Path; from workers.trainer import model; "
    code += "model.apply_liger(model.load(Path(sys.argv[1]), torch.float32))"
    done = subprocess.run([sys.executable, "-c", code, str(base)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
