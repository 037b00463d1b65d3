"""Qwen3-VL's sizes with random weights: how large, how many floating-point operations."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from shared import published

#: What decides shapes: the published sizes, and one that goes through the same code in seconds on a CPU.
CONFIGS = published.SIZES | {
    "tiny": published.qwen3_vl(
        {
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024,
        },
        {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "deepstack_visual_indexes": [0]},
        tied=True,
    )
}  # fmt: skip


def config(size: str, base: Qwen3VLConfig) -> Qwen3VLConfig:
    """One of `CONFIGS` with the special tokens of `base`, so that base's tokenizer and processor fit it."""
    shapes = CONFIGS[size]
    half = shapes["text_config"]["head_dim"] // 2
    third = half // 8 * 5 // 2
    text = {
        **shapes["text_config"],
        "max_position_embeddings": 262144,
        "tie_word_embeddings": shapes["tie_word_embeddings"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_section": [half - 2 * third, third, third],
            "mrope_interleaved": True,
        },
        **{name: getattr(base.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen3VLConfig(
        text_config=text,
        vision_config=shapes["vision_config"],
        tie_word_embeddings=shapes["tie_word_embeddings"],
        **{name: getattr(base, name) for name in ids},
    )


def random_model(wanted: Qwen3VLConfig, device: str) -> PreTrainedModel:
    """Random weights in bfloat16, made where they are used."""
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration._from_config(wanted, dtype=torch.bfloat16)
    model.config.use_cache = False
    return model


class Flops(NamedTuple):
    """Floating-point operations of one row's forward: what the mathematics asks for, nothing computed twice."""

    linear: float  #: products with weights
    causal: float  #: the language model's attention, counted as the half of the square that is needed
    vision: float  #: the vision tower's attention, within each temporal patch

    def step(self, frozen: bool) -> float:
        """Forward and backward. Backward costs twice the forward: once for the inputs, once for the weights.

        `frozen` weights (LoRA; its adapters, under 1%, are left out) have no gradient of their own. Attention has no
        weights, and its backward goes to both factors of each product.
        """
        return (2 if frozen else 3) * self.linear + 3 * (self.causal + self.vision)


def flops(wanted: Qwen3VLConfig, tokens: int, temporal_patches: int, patches: int) -> Flops:
    """Two operations for each weight and token, attention's two products beside them.

    Norms, softmax and activations are left out. After Narayanan et al. 2021 (arXiv:2104.04473), appendix.

    Args:
        tokens: of the language model, visual ones included.
        temporal_patches: of the clip; two frames each.
        patches: 16×16-pixel patches of the whole clip, four to a visual token.
    """
    text, vision = wanted.text_config, wanted.vision_config
    heads, kv_heads = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    layer = text.hidden_size * (2 * heads + 2 * kv_heads + 3 * text.intermediate_size)
    linear = tokens * (text.num_hidden_layers * layer + text.hidden_size * text.vocab_size)

    pixels = 3 * vision.temporal_patch_size * vision.patch_size**2
    block = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    linear += patches * (vision.depth * block + pixels * vision.hidden_size)
    merged = vision.hidden_size * vision.spatial_merge_size**2
    mergers = 1 + len(vision.deepstack_visual_indexes)
    linear += patches // vision.spatial_merge_size**2 * mergers * merged * (merged + vision.out_hidden_size)

    return Flops(
        linear=2.0 * linear,
        causal=2.0 * tokens**2 * heads * text.num_hidden_layers,
        vision=4.0 * patches * (patches // temporal_patches) * vision.hidden_size * vision.depth,
    )
