"""Engines behind one face: a checkpoint and a stream of questions in, log-probabilities of the letters out.

Loaded engines stay in this module for the life of the process, since loading costs far more than
many questions. A checkpoint of the same architecture takes over a loaded engine by having its weights put in
place of the other's.
"""

import gc
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from shared.budget import TEMPORAL_PATCH, VideoBudget
from shared.contracts import PredictRecipe
from shared.errors import InputError, RoadQAError
from shared.schema import Question
from shared.settings import settings
from shared.video import SampledClip
from shared.vlm.encode import Encoder
from workers.inference import memory
from workers.inference.room import ShortError

#: Tokens beside the visual ones: question, choices, system prompt; and a temporal patch's timestamp.
TEXT_TOKENS, TIMESTAMP_TOKENS = 2048, 16
TENSOR_END = 2048  #: bytes at each end of a tensor that tell its file from another
#: Fields of config.json that say nothing about the architecture.
COSMETIC = ("transformers_version", "_name_or_path", "use_cache", "torch_dtype")


class Asked(NamedTuple):
    """A question, the frames to answer it from, and a name for those frames (the key of caches)."""

    question: Question
    clip: SampledClip
    frames_id: str
    place: int = 0  #: tells it from others of its stream
    seed: int = 0  #: of its reasoning, where that is sampled


class Answer(NamedTuple):
    """`logprobs`: one for each choice as it was shown, normalised over the choices."""

    logprobs: tuple[float, ...]
    prompt_tokens: int
    reasoning: str | None = None  #: the words that came before it
    reasoning_tokens: int = 0


class Shown(NamedTuple):
    """What a model was shown of one question, and what it makes of it."""

    token_ids: list[int]
    clip: dict[str, Any]  #: as the engine's own processor made it: pixel_values_videos, video_grid_thw, timestamps
    logprobs: tuple[float, ...]  #: one for each choice, normalised over the choices


class Engine(ABC):
    """A loaded model."""

    @abstractmethod
    def stream(self, asked: Iterable[Asked | None], recipe: PredictRecipe) -> Iterator[tuple[Asked, Answer]]:
        """Answer questions as they come, in any order; looks a little ahead in `asked`.

        None stands for a wait: the next question is not there yet, and what is under way can go on meanwhile. Of the
        recipe it heeds `system_prompt` and how a reasoning is written.

        Raises:
            ParityError: the model was shown other tokens than the encoder's.
        """

    @abstractmethod
    def put_weights(self, checkpoint: "Checkpoint", encoder: Encoder) -> None:
        """Take over the weights of a checkpoint of the same `family`."""

    @abstractmethod
    def close(self) -> None:
        """Give all memory back."""

    def answer(self, asked: Sequence[Asked], recipe: PredictRecipe) -> list[Answer]:
        """Answer each question, in order."""
        placed = [item._replace(place=place) for place, item in enumerate(asked)]
        found = {item.place: answer for item, answer in self.stream(placed, recipe)}
        return [found[item.place] for item in placed]


class ParityError(RoadQAError):
    """An engine saw other tokens than the trainer would: its answers would not be this model's."""

    permanent = True


class Checkpoint(NamedTuple):
    """What of a model folder decides how it can be loaded."""

    folder: Path
    weights: str  #: names these very weight files
    family: str  #: checkpoints that share it can take over each other's engine
    quantization: str | None  #: compressed-tensors format, None for plain weights
    bytes: int  #: of the weight files


def read_checkpoint(folder: Path) -> Checkpoint:
    """Look at a model folder without loading it.

    Raises:
        InputError: the folder holds no config.json, or no safetensors; or one of them is damaged, or missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no model here (config.json and *.safetensors); train or pull it again")
    config = _json(folder / "config.json")
    quantization = config.get("quantization_config")
    _all_there(folder)
    found = _tensors(files)
    weights = _digest([_identity(path) for path in files])
    family = weights if quantization else _digest([_architecture(config), found, _processing(folder)])
    size = sum(path.stat().st_size for path in files)
    return Checkpoint(folder, weights, family, (quantization or {}).get("format"), size)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is damaged: no JSON ({error}); fetch the model again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is damaged: {type(found).__name__}, not an object; fetch the model again")
    return found


def _all_there(folder: Path) -> None:
    """Every file that the index of the weights names."""
    index = folder / "model.safetensors.index.json"
    named = set(_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    if missing := sorted(name for name in named if not (folder / name).is_file()):
        raise InputError(f"{folder / missing[0]}: is missing, though {index.name} names it; fetch the model again")


def _identity(path: Path) -> tuple[int, int, str]:
    """Tells a weights file from others, whichever path leads to it and however often it was linked anew.

    An inode number may come again, and a file be written over; so it is also the ends of every tensor.
    """
    about, ends = path.stat(), hashlib.sha256()
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()
        for name in sorted(header.keys() - {"__metadata__"}):
            start, stop = header[name]["data_offsets"]
            for place in (start, max(start, stop - TENSOR_END)):
                file.seek(begin + place)
                ends.update(file.read(min(TENSOR_END, stop - start)))
    return about.st_ino, about.st_size, ends.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _architecture(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _architecture(value) for name, value in config.items() if name not in COSMETIC}


def _tensors(files: Sequence[Path]) -> list[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of every tensor, by name; the files' headers are held against their lengths."""
    found: list[tuple[str, str, list[int]]] = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
                found += [(name, part.get_dtype(), part.get_shape()) for name, part in slices.items()]
        except SafetensorError as error:  # cut off, or no such file at all
            raise InputError(f"{path}: is damaged ({error}); fetch the model again") from error
    return sorted(found)


def _processing(folder: Path) -> list[str]:
    """Digests of the files that decide tokens and pixels; an engine keeps its own copy of what they say."""
    names = ("tokenizer.json", "vocab.json", "merges.txt", "processor_config.json", "preprocessor_config.json",
             "video_preprocessor_config.json")  # fmt: skip
    return [hashlib.sha256((folder / n).read_bytes()).hexdigest() if (folder / n).is_file() else "" for n in names]


def longest_prompt(video: VideoBudget, reasoning_tokens: int = 0) -> int:
    """Upper bound of a prompt's tokens under `video`, those that the model writes itself included."""
    patches = math.ceil(video.max_frames / TEMPORAL_PATCH)
    visual = min(video.tokens_per_clip, patches * video.tokens_per_patch) + patches * TIMESTAMP_TOKENS
    return visual + TEXT_TOKENS + reasoning_tokens


class _Held:
    """A loaded engine, the weights it holds, and the memory that loading it took."""

    def __init__(self, engine: Engine, weights: str, size: int) -> None:
        self.engine, self.weights, self.size = engine, weights, size


class Pool:
    """Loaded engines. vLLM tears down more than its own when an engine closes, so they all close together."""

    def __init__(self) -> None:
        self._engines: dict[tuple[str, str, int], _Held] = {}

    def engine(self, checkpoint: Checkpoint, encoder: Encoder, recipe: PredictRecipe) -> Engine:
        """The engine of `recipe`, holding `checkpoint`'s weights.

        Raises:
            InputError: that engine cannot run this checkpoint; names the remedy.
        """
        longest = longest_prompt(recipe.video, recipe.reasoning_tokens if recipe.reasoning else 0)
        key = (recipe.engine, checkpoint.family, longest)
        if key not in self._engines:
            if len(self._engines) >= settings().engines:
                self.close()
            open_engine = _opener(recipe.engine)
            before = memory.resident()  # with the library, which another engine needs too
            opened = self._opened(open_engine, checkpoint, encoder, longest)
            self._engines[key] = _Held(opened, checkpoint.weights, memory.resident() - before)
        held = self._engines[key]
        if held.weights != checkpoint.weights:
            del self._engines[key]  # until the new weights are whole
            held.engine.put_weights(checkpoint, encoder)
            held.weights = checkpoint.weights
            self._engines[key] = held
        return held.engine

    def beside(self, engine: Engine) -> int:
        """Bytes that the other engines took when they were loaded."""
        return sum(held.size for held in self._engines.values() if held.engine is not engine)

    def _opened(self, opener: Callable[..., Engine], checkpoint: Checkpoint, encoder: Encoder, longest: int) -> Engine:
        try:
            return opener(checkpoint, encoder, longest)
        except ShortError:
            if not self._engines:
                raise
        self.close()  # they may hold what is missing
        return opener(checkpoint, encoder, longest)

    def close(self) -> None:
        """Close every engine."""
        while self._engines:
            self._engines.popitem()[1].engine.close()
        gc.collect()


def _opener(name: str) -> Callable[[Checkpoint, Encoder, int], Engine]:
    """What loads an engine. The libraries are imported here: each costs seconds and a gigabyte."""
    if name == "vllm":
        from workers.inference.vllm_engine import VLLMEngine

        return VLLMEngine
    from workers.inference.transformers_engine import TransformersEngine

    return lambda checkpoint, encoder, longest: TransformersEngine(checkpoint, encoder)


POOL = Pool()
