"""A Qwen3-VL with every part of the real one, 1.5M parameters, and the processor that feeds it."""

from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

HIDDEN = 128
HEAD_DIM = 32
HEADS, KV_HEADS = 4, 2
LAYERS = 4
ROPE_THETA = 1_000_000.0
PIXELS = {"shortest_edge": 2 * 32 * 32, "longest_edge": 768 * 32 * 32 * 32}  #: volumes T·H·W: never resizes a clip


def config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Sizes are multiples of 128 inwards and 64 outwards, as 4-bit kernels want; head_dim 32 is vLLM's least."""
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": ROPE_THETA,
            "mrope_section": [8, 4, 4],
            "mrope_interleaved": True,
        },
        "bos_token_id": None,
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
        architectures=["Qwen3VLForConditionalGeneration"],
    )


def processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Needs torchvision (see `shared/vlm/torchvision_shim.py` for CPU builds of torch)."""
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16, temporal_patch_size=2, merge_size=2, size=PIXELS, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=PIXELS, cap_pixels_per_frame=False),
        chat_template=tokenizer.chat_template,
    )


def save(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a folder that AutoProcessor and AutoModelForImageTextToText load, weights in bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    copy = Qwen3VLForConditionalGeneration(model.config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config = GenerationConfig(
        eos_token_id=model.config.text_config.eos_token_id, pad_token_id=model.config.text_config.pad_token_id
    )
    copy.save_pretrained(out)
    processor(tokenizer).save_pretrained(out)
