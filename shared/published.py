"""The sizes of published checkpoints, so that a plan needs none of them on disk.

Source: config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct; a test compares the sums with the parameters that the model
pages give. The -Thinking checkpoints have the same.
"""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]  #: the fields of a config.json that decide shapes


def qwen3_vl(text: Config, vision: Config, tied: bool) -> dict[str, Any]:
    """A config of the family's own: `text` and `vision` over what all published sizes share.

    Args:
        tied: the embeddings are the lm_head too.
    """
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128} | dict(text),
        "vision_config": {
            "num_heads": 16,
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 2304,
            "out_hidden_size": text["hidden_size"],
        }
        | dict(vision),
    }


def _text(hidden: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


_SMALL = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
SIZES: dict[str, dict[str, Any]] = {
    "2B": qwen3_vl(_text(2048, 6144, 28, 16), _SMALL, tied=True),
    "4B": qwen3_vl(_text(2560, 9728, 36, 32), _SMALL, tied=True),
    "8B": qwen3_vl(_text(4096, 12288, 36, 32), _LARGE, tied=False),
}
_NAMES = {f"Qwen3-VL-{size}-{kind}": config for size, config in SIZES.items() for kind in ("Instruct", "Thinking")}


def find(source: str) -> Config | None:
    """The config of a published checkpoint, by its Hugging Face id or the last part of it; None where none is known."""
    return _NAMES.get(source.rsplit("/", 1)[-1])
