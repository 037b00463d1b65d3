"""The first engine: vLLM in this process, offline; on a CPU and on CUDA from the same code."""

import gc
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch

from shared.contracts import PredictRecipe
from shared.errors import InputError
from shared.machine import has_avx512
from shared.settings import settings
from shared.vlm.encode import VIDEO_KWARGS, Encoder
from workers.inference import room
from workers.inference.engines import Answer, Asked, Checkpoint, Engine, ParityError, Shown

# Read by vLLM when it is imported.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # on a CPU it warns about threads at every request
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(settings().engine_processes))

from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

from workers.inference.media import told

#: compressed-tensors formats that vLLM can run on a CPU, with the operator each needs (None: torch's own); int4's needs
#: AVX-512.
CPU_KERNELS = {"pack-quantized": "cpu_gemm_wna16", "int-quantized": "onednn_scaled_mm", "float-quantized": None}
GPU_MEMORY = 0.9  #: share of a GPU's memory for all engines together
AHEAD = 2  #: questions in the engine for each that it works on, so that it never waits for the next
_END = object()
CPU_FULL_PROMPTS = 8  #: prompts of full length for which the KV cache of a CPU engine has room


class VLLMEngine(Engine):
    """Questions go in as they come and as others are done. Of an answer one token is asked for.

    Raises:
        InputError: there is no kernel for the checkpoint's format here, or it is too large for the memory.
        ShortError: memory that would do is not free.
    """

    def __init__(self, checkpoint: Checkpoint, encoder: Encoder, longest: int) -> None:
        if current_platform.is_cpu() and checkpoint.quantization and not has_kernel(checkpoint.quantization):
            raise InputError(
                f"{checkpoint.folder}: vLLM has no kernel for {checkpoint.quantization} on this CPU; predict with "
                "`engine: transformers`, say so in ROADQA_VLLM_LACKS for `engine: auto`, or use a GPU"
            )
        check_normalisation(encoder)
        self._encoder = encoder
        chosen = options(checkpoint, longest)
        room.vllm(checkpoint, chosen)
        self._llm = LLM(str(checkpoint.folder), **chosen)

    def put_weights(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        self._encoder = encoder
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.folder)})
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()  # the scheduler's book of it, beside the worker's own

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def stream(self, asked: Iterable[Asked | None], recipe: PredictRecipe) -> Iterator[tuple[Asked, Answer]]:
        feed, under_way = iter(asked), dict[str, Request]()
        try:
            while True:
                room = AHEAD * settings().engine_requests - len(under_way)
                taken, more = take(feed, room, wait=not under_way)
                self._put([Request(item, self._encoder, recipe) for item in taken], under_way, recipe)
                if not under_way and not more:
                    return
                again: list[Request] = []
                for output in self._llm.llm_engine.step():
                    request = under_way.pop(output.request_id)
                    request.check(output)
                    if recipe.reasoning and request.words is None:
                        again.append(request.reasoned(self._words(output)))
                    else:
                        yield request.item, self._answer(request, output)
                self._put(again, under_way, recipe)
        finally:  # whoever reads has enough, or something failed: the engine is kept, and must be empty
            self._llm.llm_engine.abort_request([request.id for request in under_way.values()], internal=True)

    def shown(self, asked: Sequence[Asked], recipe: PredictRecipe) -> list[Shown]:
        """What the model is shown, whatever the encoder says to it: unlike `answer`, this judges nothing."""
        requests = [Request(item, self._encoder, recipe) for item in asked]
        prompts = [request.prompt() for request in requests]
        rendered = self._llm.renderer.render_cmpl(prompts, skip_mm_cache=True)
        outputs = self._llm.generate(prompts, [self.params(one, recipe) for one in requests], use_tqdm=False)
        return [
            Shown(output.prompt_token_ids, inputs["mm_kwargs"]["video"][0].get_data(), answer.logprobs)
            for output, inputs, answer in zip(outputs, rendered, map(self._answer, requests, outputs), strict=True)
        ]

    @property
    def precision(self) -> str:
        """Type of its arithmetic, as torch calls it."""
        return str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def _put(self, requests: Sequence["Request"], under_way: "dict[str, Request]", recipe: PredictRecipe) -> None:
        """Hand requests to the engine; `under_way` knows each by the id that its output will bear."""
        if not requests:
            return
        prompts = [request.prompt() for request in requests]
        ids = self._llm.enqueue(prompts, [self.params(one, recipe) for one in requests], use_tqdm=False)
        for request, request.id in zip(requests, ids, strict=True):
            under_way[request.id.split("-")[0]] = request

    def params(self, request: "Request", recipe: PredictRecipe) -> SamplingParams:
        """One token, with all letters' log-probabilities; or a reasoning, which ends at any special token."""
        if recipe.reasoning and request.words is None:
            return SamplingParams(
                temperature=recipe.temperature,
                seed=request.item.seed,
                max_tokens=recipe.reasoning_tokens,
                stop_token_ids=self._encoder.special_ids,
                detokenize=False,
            )
        letters = self._encoder.letter_ids(len(request.item.question.choices))
        return SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=letters, detokenize=False)

    def _words(self, output: Any) -> list[int]:
        special = set(self._encoder.special_ids)
        return list(takewhile(lambda token: token not in special, output.outputs[0].token_ids))

    def _answer(self, request: "Request", output: Any) -> Answer:
        found = output.outputs[0].logprobs[0]
        letters = self._encoder.letter_ids(len(request.item.question.choices))
        logprobs = torch.log_softmax(torch.tensor([found[token].logprob for token in letters]), dim=-1)
        words = request.words
        text = None if words is None else self._encoder.tokenizer.decode(words)
        return Answer(tuple(logprobs.tolist()), len(request.due), text, len(words or ()))


class Request:
    """What the engine is at work on: a question's letter, or the reasoning before it."""

    def __init__(self, item: Asked, encoder: Encoder, recipe: PredictRecipe, words: list[int] | None = None) -> None:
        self.item, self.words, self.id = item, words, ""
        self._encoder, self._recipe = encoder, recipe
        asked = item.question, recipe.system_prompt, recipe.reasoning
        self._short = encoder.short_ids(*asked)
        self.due = encoder.expanded(self._short, item.clip)  #: the prompt that the model must see
        self._written = [] if words is None else encoder.letter_turn(words)

    def reasoned(self, words: list[int]) -> "Request":
        """The one for the letter, after these words."""
        return Request(self.item, self._encoder, self._recipe, words)

    def prompt(self) -> dict[str, Any]:
        """What vLLM is given; it puts the clip's tokens in place of the one that stands for it."""
        return {
            "prompt_token_ids": self._short + self._written,
            "multi_modal_data": {"video": [(self.item.clip.frames, told(self.item.clip))]},
            "multi_modal_uuids": {"video": [self.item.frames_id]},
        }

    def check(self, output: Any) -> None:
        """Compare what the model saw with what it must see.

        Raises:
            ParityError: they differ.
        """
        if output.prompt_token_ids != self.due + self._written:
            raise ParityError(
                f"question {self.item.question.id}: the engine saw {len(output.prompt_token_ids)} tokens, "
                f"the encoder says {len(self.due)}; check the installed vLLM and transformers against the lock file"
            )


def take(feed: Iterator[Asked | None], room: int, *, wait: bool) -> tuple[list[Asked], bool]:
    """Up to `room` questions that are there now, with `wait` one at least if any is left; and whether more may come."""
    taken: list[Asked] = []
    while len(taken) < room:
        item = next(feed, _END)
        if item is _END:
            return taken, False
        if isinstance(item, Asked):
            taken.append(item)
        elif taken or not wait:
            break
    return taken, True


def has_kernel(quantization: str) -> bool:
    """Whether this CPU's build of vLLM can run a compressed-tensors format."""
    current_platform.import_kernels()  # vLLM itself does so with the first engine only
    if quantization not in CPU_KERNELS:
        return False
    operator = CPU_KERNELS[quantization]
    return operator is None or hasattr(torch.ops._C, operator)


def check_normalisation(encoder: Encoder) -> None:
    """vLLM normalises on the device, a clip's pixels with what the processor says of images.

    Raises:
        InputError: the processor treats clips otherwise.
    """
    image, video = encoder.processor.image_processor, encoder.processor.video_processor
    names = ("image_mean", "image_std", "rescale_factor", "do_normalize", "do_rescale")
    if any(getattr(image, name) != getattr(video, name) for name in names):
        raise InputError("the processor normalises images and clips differently; predict with `engine: transformers`")


def options(checkpoint: Checkpoint, longest: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: what the settings say, and what the video contract asks."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    longest = min(longest, config["text_config"]["max_position_embeddings"])
    chosen: dict[str, Any] = {
        "max_model_len": longest,
        "max_num_seqs": settings().engine_requests,
        "limit_mm_per_prompt": {"image": 0, "video": 1},
        "mm_processor_kwargs": VIDEO_KWARGS,
        "tensor_parallel_size": settings().engine_gpus,
        "kv_cache_memory_bytes": settings().engine_kv_cache_bytes or None,
        "gpu_memory_utilization": GPU_MEMORY / settings().engines,
        "seed": 0,
    }
    if settings().engine_kv_offload_bytes:
        chosen["kv_offloading_size"] = settings().engine_kv_offload_bytes / 2**30
    if current_platform.is_cpu():
        # Without a compiler pass, and with the cache's size given, there is nothing to warm up.
        chosen |= {"enforce_eager": True, "kv_cache_memory_bytes": settings().engine_kv_cache_bytes
                   or CPU_FULL_PROMPTS * longest * room.kv_bytes(config["text_config"])}  # fmt: skip
        if checkpoint.quantization is None and not has_avx512():
            chosen["dtype"] = "float32"
    return chosen
