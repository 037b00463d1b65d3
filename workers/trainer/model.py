"""The model in one rank: loaded from safetensors, patched and adapted as the recipe says, saved like its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import AutoModelForImageTextToText, PreTrainedModel

from shared.contracts import TrainRecipe
from shared.errors import RoadQAError
from workers.trainer import modules

if TYPE_CHECKING:  # seconds to import, and only some recipes need them
    from peft import LoraConfig, PeftModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(folder: Path, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """Load the base, which `files.check` has accepted; "auto": in the type that its config tells."""
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    model.config.use_cache = False
    return model


def prepare(model: PreTrainedModel, recipe: TrainRecipe, cuda: bool) -> PreTrainedModel | PeftModel:
    """Freeze, patch and adapt."""
    patches_by_matmul(model)
    if cuda and recipe.liger:
        apply_liger(model)
    modules.freeze(model, recipe)
    if recipe.lora is None:
        return model
    from peft import get_peft_model

    return get_peft_model(model, lora_config(model, recipe))


def lora_config(model: PreTrainedModel, recipe: TrainRecipe) -> LoraConfig:
    """Adapters on the linear layers that the recipe means, and on nothing else."""
    from peft import LoraConfig

    lora = recipe.lora
    assert lora is not None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules.adapted_layers(model, recipe),
        task_type="CAUSAL_LM",
    )


def patches_by_matmul(model: PreTrainedModel) -> None:
    """Compute the patch embedding as a matrix product.

    Its kernel is as large as its stride, so the convolution is one; but libraries take several times as long over it.
    """
    convolution = model.model.visual.patch_embed.proj

    def forward(patches: torch.Tensor) -> torch.Tensor:
        return F.linear(patches.flatten(1), convolution.weight.flatten(1), convolution.bias)

    convolution.forward = forward


def apply_liger(model: PreTrainedModel) -> None:
    """Patch in Liger's kernels, and check that they took: a patch on the wrong class saves nothing, silently.

    Raises:
        RoadQAError: the model still runs its own code.
    """
    import liger_kernel.transformers

    patch = f"apply_liger_kernel_to_{model.config.model_type}"
    getattr(liger_kernel.transformers, patch)(model=model)
    text = model.model.language_model
    patched: dict[str, Any] = {
        "the loss": model.forward,
        "the last norm": text.norm.forward,
        "a layer's norm": text.layers[0].input_layernorm.forward,
    }
    for what, method in patched.items():
        if not method.__func__.__module__.startswith("liger_kernel"):
            raise RoadQAError(f"Liger did not patch {what} of this model; set `liger: false`, or use transformers 5.17")


def merged(base: Path, recipe: TrainRecipe, trained: PeftModel, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A fresh base on the CPU with the adapter's weights from `state` merged in, so it fits any ZeRO stage."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    fresh = load(base, torch.float32)
    adapted = get_peft_model(fresh, lora_config(fresh, recipe))
    adapter = get_peft_model_state_dict(trained, state_dict=state)
    result = set_peft_model_state_dict(adapted, adapter)
    if result.unexpected_keys:
        raise RoadQAError(f"adapter weights without a place: {result.unexpected_keys[:3]}")
    merged_model: PreTrainedModel = adapted.merge_and_unload()
    return merged_model


def save(model: PreTrainedModel, state: dict[str, torch.Tensor], dtype: torch.dtype, out: Path) -> None:
    """Write weights and config as `dtype`, the base's own type, whatever they were trained in.

    A weight that is tied to another (the small Qwen3-VLs' lm_head) is left out, as in the base: in `state` it is a
    copy, which transformers would not know for the same.
    """
    own = {name: tensor.to("cpu", dtype) for name, tensor in state.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(out, state_dict=own)
    config = model.config
    config.use_cache = True
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype  # save_pretrained writes the type the model was trained in
    config.save_pretrained(out)
