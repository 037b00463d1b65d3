"""Tiny models with random weights of the other kinds that can be trained."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.unit.vlm import tiny


def write_moe(folder: Path) -> Path:
    """A tiny Qwen3-VL-MoE: four experts in each of two layers."""
    tiny.write_model(folder)  # its tokenizer and processor serve this one too
    (folder / "model.safetensors").unlink()
    body = tiny.config(tiny.tokenizer()).to_dict()
    text, vision = ({k: v for k, v in body[part].items() if k not in ("dtype", "architectures")}
                    for part in ("text_config", "vision_config"))  # fmt: skip
    text |= {
        "model_type": "qwen3_vl_moe_text", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip
    ids = {name: body[name] for name in body if name.endswith("_token_id") and body[name] is not None}
    vision["model_type"] = "qwen3_vl_moe"
    config = AutoConfig.for_model("qwen3_vl_moe", text_config=text, vision_config=vision, **ids)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
