"""Engines behind one face: a checkpoint and a batch of questions in, log-probabilities of the letters out.

Loaded engines stay in this module for the life of the process, since loading costs far more than a
batch. A checkpoint of the same architecture takes over a loaded engine by having its weights put in
place of the other's.
"""

import gc
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from safetensors import safe_open

from shared.budget import TEMPORAL_PATCH, VideoBudget
from shared.contracts import PredictRecipe
from shared.errors import InputError, RoadQAError
from shared.prompts import SystemPrompt
from shared.schema import Question
from shared.settings import settings
from shared.video import SampledClip
from shared.vlm.encode import Encoder

#: Tokens beside the visual ones: question, choices, system prompt; and a temporal patch's timestamp.
TEXT_TOKENS, TIMESTAMP_TOKENS = 2048, 16
#: Fields of config.json that say nothing about the architecture.
COSMETIC = ("transformers_version", "_name_or_path", "use_cache", "torch_dtype")


class Asked(NamedTuple):
    """A question, the frames to answer it from, and a name for those frames (the key of caches)."""

    question: Question
    clip: SampledClip
    frames_id: str


class Answer(NamedTuple):
    """`logprobs`: one for each choice, normalised over the choices."""

    logprobs: tuple[float, ...]
    prompt_tokens: int


class Shown(NamedTuple):
    """What a model was shown of one question, and what it makes of it."""

    token_ids: list[int]
    clip: dict[str, Any]  #: as the engine's own processor made it: pixel_values_videos, video_grid_thw, timestamps
    logprobs: tuple[float, ...]  #: one for each choice, normalised over the choices


class Engine(Protocol):
    """A loaded model."""

    def answer(self, asked: Sequence[Asked], system_prompt: SystemPrompt) -> list[Answer]:
        """Answer each question, in order.

        Raises:
            ParityError: the model was shown other tokens than the encoder's.
        """
        ...

    def put_weights(self, checkpoint: "Checkpoint", encoder: Encoder) -> None:
        """Take over the weights of a checkpoint of the same `family`."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


class ParityError(RoadQAError):
    """An engine saw other tokens than the trainer would: its answers would not be this model's."""

    permanent = True


class Checkpoint(NamedTuple):
    """What of a model folder decides how it can be loaded."""

    folder: Path
    weights: str  #: names these very weight files
    family: str  #: checkpoints that share it can take over each other's engine
    quantization: str | None  #: compressed-tensors format, None for plain weights


class Loaded(NamedTuple):
    """An engine that stands ready for one checkpoint."""

    engine: Engine
    seconds: float  #: spent on loading it, 0 where it was ready


def read_checkpoint(folder: Path) -> Checkpoint:
    """Look at a model folder without loading it.

    Raises:
        InputError: the folder holds no config.json, or no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no model here (config.json and *.safetensors); train or pull it again")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantization = config.get("quantization_config")
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    weights = _digest(stats)
    family = weights if quantization else _digest([_architecture(config), _tensors(files), _processing(folder)])
    return Checkpoint(folder, weights, family, (quantization or {}).get("format"))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _architecture(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _architecture(value) for name, value in config.items() if name not in COSMETIC}


def _tensors(files: Sequence[Path]) -> list[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of every tensor, by name."""
    found: list[tuple[str, str, list[int]]] = []
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
            found += [(name, part.get_dtype(), part.get_shape()) for name, part in slices.items()]
    return sorted(found)


def _processing(folder: Path) -> list[str]:
    """Digests of the files that decide tokens and pixels; an engine keeps its own copy of what they say."""
    names = ("tokenizer.json", "vocab.json", "merges.txt", "processor_config.json", "preprocessor_config.json",
             "video_preprocessor_config.json")  # fmt: skip
    return [hashlib.sha256((folder / n).read_bytes()).hexdigest() if (folder / n).is_file() else "" for n in names]


def longest_prompt(video: VideoBudget) -> int:
    """Upper bound of a prompt's tokens under `video`."""
    patches = math.ceil(video.max_frames / TEMPORAL_PATCH)
    return min(video.tokens_per_clip, patches * video.tokens_per_patch) + patches * TIMESTAMP_TOKENS + TEXT_TOKENS


class Pool:
    """Loaded engines. vLLM tears down more than its own when an engine closes, so they all close together."""

    def __init__(self) -> None:
        self._engines: dict[tuple[str, str, int], tuple[Engine, str]] = {}  # with the weights each one holds

    def engine(self, checkpoint: Checkpoint, encoder: Encoder, recipe: PredictRecipe) -> Engine:
        """The engine of `recipe`, holding `checkpoint`'s weights.

        Raises:
            InputError: that engine cannot run this checkpoint; names the remedy.
        """
        longest = longest_prompt(recipe.video)
        key = (recipe.engine, checkpoint.family, longest)
        if key not in self._engines:
            if len(self._engines) >= settings().engines:
                self.close()
            self._engines[key] = (_open(recipe.engine, checkpoint, encoder, longest), checkpoint.weights)
        engine, weights = self._engines[key]
        if weights != checkpoint.weights:
            del self._engines[key]  # until the new weights are whole
            engine.put_weights(checkpoint, encoder)
        self._engines[key] = (engine, checkpoint.weights)
        return engine

    def close(self) -> None:
        """Close every engine."""
        while self._engines:
            self._engines.popitem()[1][0].close()
        gc.collect()


def _open(name: str, checkpoint: Checkpoint, encoder: Encoder, longest: int) -> Engine:
    """Load an engine. The libraries are imported here: each costs seconds and a gigabyte."""
    if name == "vllm":
        from workers.inference.vllm_engine import VLLMEngine

        return VLLMEngine(checkpoint, encoder, longest)
    from workers.inference.transformers_engine import TransformersEngine

    return TransformersEngine(checkpoint, encoder)


POOL = Pool()
