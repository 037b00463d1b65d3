"""A tiny Qwen3-VL with random weights, its tokenizer trained on the spot: real classes, no download."""

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from shared.prompts import LETTERS, system_text

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
#: Qwen3-VL-Instruct's template, without its tools.
TEMPLATE = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}{%- else %}{%- for content in message.content %}
{%- if content.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif content.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'text' in content %}{{- content.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's split and special tokens, about 600 entries."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    prompts = [system_text("short") or "", system_text("expert") or ""]
    words = [*prompts, *prompts, *prompts, "user", "assistant", "system", "seconds", *LETTERS]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")  # noqa: S106


def config(tokens: PreTrainedTokenizerFast, tied: bool = False) -> Qwen3VLConfig:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    text = {
        "vocab_size": len(tokens), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096,
        "rope_parameters": rope, "tie_word_embeddings": tied, "initializer_range": 0.06,
        "bos_token_id": None, "eos_token_id": tokens.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokens.convert_tokens_to_ids("<|endoftext|>"),
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 128,
        "deepstack_visual_indexes": [0], "num_position_embeddings": 256, "initializer_range": 0.06,
    }  # fmt: skip
    ids = {
        f"{name}_id": tokens.convert_tokens_to_ids(f"<|{word}|>")
        for name, word in (
            ("image_token", "image_pad"), ("video_token", "video_pad"), ("vision_start_token", "vision_start"),
            ("vision_end_token", "vision_end"),
        )
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)


def write_model(folder: Path, seed: int = 0, tied: bool = False) -> Path:
    """Write the model folder; `seed` decides the weights only. `tied`: the embeddings are the lm_head (2B, 4B)."""
    tokens = tokenizer()
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config(tokens, tied)).to(torch.bfloat16)
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    image = Qwen2VLImageProcessor(patch_size=16, image_mean=half, image_std=half)
    video = Qwen3VLVideoProcessor()
    processor = Qwen3VLProcessor(image_processor=image, tokenizer=tokens, video_processor=video, chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({"made from": "random weights", "seed": seed}))
    return folder
