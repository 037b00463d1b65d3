"""A random tiny Qwen3-VL and small drawn clips, made on the spot."""

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from shared.schema import Choice, Clip, Origin, Question, write_rows

_SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
_WORDS = "system user assistant Watch the traffic video and answer the question. Which colour is the box? seconds"
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_COLOURS = {"red": (200, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 210)}


def build_model(folder: Path, *, hidden: int = 128, intermediate: int = 256, layers: int = 2) -> Path:
    """Save a randomly initialised bfloat16 Qwen3-VL with its processor."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    token = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            **{"vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": intermediate},
            **{"num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
            **{
                "max_position_embeddings": 4096,
                "tie_word_embeddings": False,
                "rope_parameters": rope,
                "initializer_range": 0.06,
            },
        },
        vision_config={
            **{"depth": 2, "hidden_size": 96, "intermediate_size": 192, "num_heads": 3, "out_hidden_size": hidden},
            **{"deepstack_visual_indexes": [0], "num_position_embeddings": 64, "initializer_range": 0.06},
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=token("<|im_end|>"), pad_token_id=token("<|endoftext|>"))
    model.save_pretrained(folder)
    # vLLM 0.32 normalises videos with the image processor's mean and deviation too: keep them alike.
    images = Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    videos = Qwen3VLVideoProcessor()
    Qwen3VLProcessor(images, tokenizer, videos, chat_template=_CHAT).save_pretrained(folder)
    return folder


def _tokenizer() -> Qwen2TokenizerFast:
    bytes_pair = Tokenizer(models.BPE())
    bytes_pair.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_pair.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=_SPECIAL, show_progress=False
    )
    bytes_pair.train_from_iterator([_WORDS] * 3, trainer)
    return Qwen2TokenizerFast(tokenizer_object=bytes_pair, eos_token="<|im_end|>", pad_token="<|endoftext|>")  # noqa: S106


def draw_clip(folder: Path, colour: str, seconds: float, recording: str) -> Clip:
    """Encode a box of `colour` that moves over grey noise; 96×64 pixels, 10 frames a second."""
    frames, path = round(seconds * 10), folder / "drawing.mp4"
    noise = np.random.default_rng(frames).integers(90, 120, (frames, 64, 96, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.time_base = 96, 64, Fraction(1, 10)
        for index, frame in enumerate(noise):
            left = 4 + index % 60
            frame[20:44, left : left + 24] = _COLOURS[colour]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    path.rename(folder / digest)
    return Clip(
        **{"digest": digest, "name": f"{recording}-{colour}.mp4", "recording": recording, "size_bytes": len(data)},
        **{"seconds": seconds, "fps": 10.0, "width": 96, "height": 64, "codec": "mpeg4"},
    )


def build_rows(folder: Path, recordings: int = 3, per_clip: int = 2) -> Path:
    """A rows artifact: a clip of each colour for each recording; questions on blue are unanswered."""
    (folder / "clips").mkdir(parents=True)
    clips = [
        draw_clip(folder / "clips", colour, 1.0 + number + index / 2, f"recording-{number}")
        for number in range(recordings)
        for index, colour in enumerate(_COLOURS)
    ]
    choices = tuple(Choice(label=letter, text=colour) for letter, colour in zip("ABC", _COLOURS, strict=True))
    questions = [
        Question(
            id=f"{number}-{turn}",
            clip=clip.digest,
            text="Which colour is the box?",
            choices=choices,
            answer=None if number % 3 == 2 else number % 3,
            origin=Origin(answer="none" if number % 3 == 2 else "human"),
        )
        for number, clip in enumerate(clips)
        for turn in range(per_clip)
    ]
    write_rows(folder, questions, {clip.digest: clip for clip in clips})
    return folder
