"""Qwen3-VL's sizes with random weights: how large, how many floating-point operations, how many bytes."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel, Qwen3VLConfig, Qwen3VLForConditionalGeneration

VOCABULARY = 151936


class Geometry(NamedTuple):
    """The published sizes that decide cost; `tied`: the embeddings are the lm_head too."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vision_depth: int
    vision_hidden: int
    vision_intermediate: int
    deepstack: tuple[int, ...]
    tied: bool
    kv_heads: int = 8
    head_dim: int = 128
    vision_heads: int = 16
    vocabulary: int = VOCABULARY


#: config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct.
GEOMETRIES = {
    "2B": Geometry(2048, 6144, 28, 16, 24, 1024, 4096, (5, 11, 17), tied=True),
    "4B": Geometry(2560, 9728, 36, 32, 24, 1024, 4096, (5, 11, 17), tied=True),
    "8B": Geometry(4096, 12288, 36, 32, 27, 1152, 4304, (8, 16, 24), tied=False),
    # Goes through the same code in seconds on a CPU.
    "tiny": Geometry(128, 256, 4, 4, 2, 64, 128, (0,), True, kv_heads=2, head_dim=32, vision_heads=2, vocabulary=1024),
}


def config(geometry: Geometry, base: Qwen3VLConfig) -> Qwen3VLConfig:
    """`geometry` with the special tokens of `base`, so that base's tokenizer and processor fit it."""
    third = geometry.head_dim // 2 // 8
    text = {
        "vocab_size": geometry.vocabulary,
        "hidden_size": geometry.hidden,
        "intermediate_size": geometry.intermediate,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": geometry.tied,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_section": [geometry.head_dim // 2 - 2 * (third * 5 // 2), third * 5 // 2, third * 5 // 2],
            "mrope_interleaved": True,
        },
        **{name: getattr(base.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    vision = {
        "depth": geometry.vision_depth,
        "hidden_size": geometry.vision_hidden,
        "intermediate_size": geometry.vision_intermediate,
        "num_heads": geometry.vision_heads,
        "out_hidden_size": geometry.hidden,
        "deepstack_visual_indexes": list(geometry.deepstack),
    }
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=geometry.tied,
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


def state_bytes(total: int, trained: int) -> dict[str, int]:
    """Bytes on one card under ZeRO-2 in a single process: bfloat16 weights, float32 master and two moments.

    The most that is held at once is weights + optimiser + the larger of gradients + activations and `optimiser_step`,
    where DeepSpeed has the gradients as they came, once more in one flat piece, and that in float32.
    """
    return {
        "weights": 2 * total,
        "optimiser": 12 * trained,
        "gradients": 2 * trained,
        "optimiser_step": (2 + 2 + 4) * trained,
    }
